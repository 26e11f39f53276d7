/* SPDX-License-Identifier: Apache-2.0
 * The operator that simulates quantization: forward equals QuantizeLinear and DequantizeLinear, for every layout of
 * scales and type; gradients equal the paper's formulas written out in loops; the thread count changes nothing; NaN
 * passes; wrong shapes and codes are answered by a sentence. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/graphs.h"

#include "core/engine/grad.h"

/* ---- a model of one FakeQuantize, and of the pair it stands for ---- */
struct form {
    const char *name;
    struct shape shape, scale;
    int axis, block;
    enum dtype codes;
    int low, high;
    bool zero;
};
static const struct form forms[] = {
    {"tensor", {4, {3, 5, 7, 9}}, {0}, 1, 0, DTYPE_UINT8, 0, 255, true},
    {"tensor of many pieces", {2, {300, 333}}, {0}, 1, 0, DTYPE_INT8, -128, 127, true},
    {"one scale in a vector", {2, {4, 9}}, {1, {1}}, 0, 0, DTYPE_INT8, -128, 127, false},
    {"axis 0", {4, {6, 4, 3, 3}}, {1, {6}}, 0, 0, DTYPE_INT8, -128, 127, false},
    {"axis 1", {4, {4, 6, 3, 3}}, {1, {6}}, 1, 0, DTYPE_INT4, -8, 7, false},
    {"last axis", {2, {31, 130}}, {1, {130}}, 1, 0, DTYPE_INT8, -128, 127, true},
    {"last axis from the end", {3, {2, 5, 11}}, {1, {11}}, -1, 0, DTYPE_UINT4, 0, 15, true},
    {"blocks of the last axis", {2, {6, 20}}, {2, {6, 3}}, 1, 8, DTYPE_INT4, -8, 7, false},
    {"blocks of the first axis", {2, {20, 6}}, {2, {3, 6}}, 0, 8, DTYPE_UINT4, 0, 15, true},
    {"blocks in the middle", {3, {2, 9, 5}}, {3, {2, 3, 5}}, 1, 4, DTYPE_UINT8, 0, 255, true},
    {"16 bits", {2, {7, 33}}, {0}, 1, 0, DTYPE_UINT16, 0, 65535, true},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

static int64_t block_count(const struct form *f)
{
    return f->block ? (f->shape.dim[f->axis] + f->block - 1) / f->block : 0;
}

/* Where the scale of element i is. */
static int64_t scale_of(const struct form *f, int64_t i)
{
    int64_t index[SHAPE_MAX_RANK], rest = i, at = 0;
    if (f->scale.rank == 0 || shape_count(&f->scale) == 1)
        return 0;
    for (int d = f->shape.rank - 1; d >= 0; d--) {
        index[d] = rest % f->shape.dim[d];
        rest /= f->shape.dim[d];
    }
    const int axis = f->axis < 0 ? f->axis + f->shape.rank : f->axis;
    if (!f->block)
        return index[axis];
    for (int d = 0; d < f->shape.rank; d++)
        at = at * (d == axis ? block_count(f) : f->shape.dim[d]) + (d == axis ? index[d] / f->block : index[d]);
    return at;
}

struct case_ {
    struct model *m;
    uint32_t x, y, ratio;
    float *scale, *by; /* scale and ratio */
    int *zero;
    struct tensor in;
};

static void case_make(struct case_ *c, const struct form *f, bool fake, bool lsq, uint64_t seed)
{
    struct rng rng;
    struct tensor zero = {0}, scale = {0}, ratio = {0};
    const int64_t n = shape_count(&f->shape), scales = shape_count(&f->scale);
    rng_init(&rng, seed, 0);
    *c = (struct case_){.m = g_new(25)};
    c->scale = calloc((size_t)scales, sizeof(float));
    c->by = calloc((size_t)scales, sizeof(float));
    c->zero = calloc((size_t)scales, sizeof(int));
    assert_int_equal(tensor_alloc(&c->in, DTYPE_FLOAT, &f->shape, NULL), 0);
    assert_int_equal(tensor_alloc(&zero, f->codes, &f->scale, NULL), 0);
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &f->scale, NULL), 0);
    assert_int_equal(tensor_alloc(&ratio, DTYPE_FLOAT, &f->scale, NULL), 0);
    for (int64_t i = 0; i < scales; i++) {
        c->scale[i] = (float)(0.5 + rng_uniform(&rng)) * 3.0f / (float)(f->high - f->low);
        c->by[i] = (float)(0.8 + 0.4 * rng_uniform(&rng));
        c->zero[i] = f->zero ? f->low + (int)rng_below(&rng, (uint64_t)(f->high - f->low)) : 0;
        dtype_set(f->codes, zero.data, i, c->zero[i]);
        tensor_f32(&scale)[i] = fake ? c->scale[i] : c->scale[i] * c->by[i];
        tensor_f32(&ratio)[i] = c->by[i];
    }
    for (int64_t i = 0; i < n; i++) /* a third lies outside, some on ties */
        tensor_f32(&c->in)[i] = rng_below(&rng, 8) ? (float)(rng_normal(&rng) * 1.5)
                                                   : ((float)rng_below(&rng, 40) - 20.5f) *
                                                         (c->scale[scale_of(f, i)] * c->by[scale_of(f, i)]);
    c->x = g_input(c->m, "x", f->shape);
    const uint32_t s = model_add_weight(c->m, 0, "s", &scale), z = model_add_weight(c->m, 0, "z", &zero);
    c->ratio = fake ? model_add_weight(c->m, 0, "r", &ratio) : VALUE_NONE;
    if (fake) {
        const uint32_t in[4] = {c->x, s, z, c->ratio};
        c->y = model_add_value(c->m, 0, "y", false);
        const uint32_t node = model_add_node(c->m, 0, "FakeQuantize", OP_DOMAIN_ENGINE, "y", in, 4, &c->y, 1);
        node_set_int(c->m, node, "low", f->low);
        node_set_int(c->m, node, "high", f->high);
        node_set_int(c->m, node, "axis", f->axis);
        node_set_int(c->m, node, "block_size", f->block);
        node_set_int(c->m, node, "lsq", lsq);
        value_set_note(c->m, c->y, "training", "test", NULL);
    } else {
        const uint32_t q = G_OP(c->m, "QuantizeLinear", "q", c->x, s, z);
        c->y = G_OP(c->m, "DequantizeLinear", "y", q, s, z);
        for (uint32_t k = 0; k < 2; k++) {
            node_set_int(c->m, k, "axis", f->axis);
            if (f->block)
                node_set_int(c->m, k, "block_size", f->block);
        }
    }
    g_output(c->m, c->y);
    tensor_fini(&zero);
    tensor_fini(&scale);
    tensor_fini(&ratio);
}

static void case_free(struct case_ *c)
{
    model_free(c->m);
    tensor_fini(&c->in);
    free(c->scale);
    free(c->by);
    free(c->zero);
}

static void run(const struct model *m, const struct tensor *in, struct tensor *out, struct pool *pool)
{
    struct err err = {0};
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = pool}, &err);
    if (!plan || plan_run(plan, in, out, NULL, &err))
        fail_msg("%s", err.msg);
    plan_free(plan);
}

static void test_forward_is_the_pair(void **state)
{
    (void)state;
    for (int i = 0; i < N_FORMS; i++) {
        struct case_ fake, pair;
        struct tensor a = {0}, b = {0};
        case_make(&fake, &forms[i], true, true, 7 + (uint64_t)i);
        case_make(&pair, &forms[i], false, true, 7 + (uint64_t)i);
        run(fake.m, &fake.in, &a, NULL);
        run(pair.m, &pair.in, &b, NULL);
        if (!tensor_equal(&a, &b))
            fail_msg("%s: differs from QuantizeLinear and DequantizeLinear", forms[i].name);
        tensor_fini(&a);
        tensor_fini(&b);
        case_free(&fake);
        case_free(&pair);
    }
}

/* ---- gradients against the formulas ---- */
static void naive(const struct form *f, const struct case_ *c, const float *dy, bool lsq, double *dx, double *dratio)
{
    const int64_t n = shape_count(&f->shape), scales = shape_count(&f->scale);
    for (int64_t k = 0; k < scales; k++)
        dratio[k] = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = scale_of(f, i);
        const double s = (double)(c->scale[k] * c->by[k]), v = (double)(tensor_f32(&c->in)[i] / (float)s);
        const double code = nearbyint(v) + c->zero[k];
        const bool inside = code >= f->low && code <= f->high;
        const double end = (code < f->low ? f->low : f->high) - c->zero[k];
        dx[i] = inside ? (double)dy[i] : 0;
        dratio[k] += (double)dy[i] * (inside ? nearbyint(v) - v : end);
    }
    for (int64_t k = 0; k < scales; k++) {
        const double most = fmax(abs(f->low - c->zero[k]), abs(f->high - c->zero[k]));
        const double g = 1 / sqrt((double)(n / scales) * most);
        dratio[k] *= lsq ? g / (double)c->scale[k] : (double)c->scale[k];
    }
}

static void gradients(const struct form *f, bool lsq, struct pool *pool, float *dx_bits, float *dr_bits)
{
    struct case_ c;
    struct err err = {0};
    const int64_t n = shape_count(&f->shape), scales = shape_count(&f->scale);
    case_make(&c, f, true, lsq, 99);
    double *dx = calloc((size_t)n, sizeof *dx), *dr = calloc((size_t)scales, sizeof *dr), size = 0;
    struct grad *g =
        grad_new(c.m,
                 &(struct grad_opts){
                     .params = &c.ratio, .n_params = 1, .inputs = &c.x, .n_inputs = 1, .checkpoints = 1, .pool = pool},
                 &err);
    if (!g || grad_forward(g, &c.in, &err))
        fail_msg("%s: %s", f->name, err.msg);
    struct rng rng;
    rng_init(&rng, 5, 0);
    float *seed = tensor_f32(grad_seed(g, 0));
    for (int64_t i = 0; i < n; i++)
        seed[i] = (float)rng_normal(&rng);
    naive(f, &c, seed, lsq, dx, dr);
    assert_int_equal(grad_backward(g, &err), 0);
    const float *got = tensor_f32(grad_input_gradient(g, 0)), *ratio = tensor_f32(grad_param_gradient(g, 0));
    for (int64_t i = 0; i < n; i++)
        if ((double)got[i] != dx[i])
            fail_msg("%s: dx[%lld] is %g, expected %g", f->name, (long long)i, (double)got[i], dx[i]);
    for (int64_t k = 0; k < scales; k++)
        size = fmax(size, fabs(dr[k]));
    for (int64_t k = 0; k < scales; k++)
        g_near((double)ratio[k], dr[k], 2e-5 * size);
    memcpy(dx_bits, got, (size_t)n * sizeof *got);
    memcpy(dr_bits, ratio, (size_t)scales * sizeof *ratio);
    grad_free(g);
    case_free(&c);
    free(dx);
    free(dr);
}

static void test_gradients_are_the_formulas(void **state)
{
    (void)state;
    struct pool *pool = pool_new(3);
    for (int i = 0; i < N_FORMS; i++) {
        const size_t n = (size_t)shape_count(&forms[i].shape), scales = (size_t)shape_count(&forms[i].scale);
        float *dx[2], *dr[2];
        for (int k = 0; k < 2; k++) {
            dx[k] = calloc(n, sizeof(float));
            dr[k] = calloc(scales, sizeof(float));
            gradients(&forms[i], true, k ? pool : NULL, dx[k], dr[k]);
        }
        assert_memory_equal(dx[0], dx[1], n * sizeof(float));
        assert_memory_equal(dr[0], dr[1], scales * sizeof(float));
        gradients(&forms[i], false, NULL, dx[0], dr[0]);
        for (int k = 0; k < 2; k++) {
            free(dx[k]);
            free(dr[k]);
        }
    }
    pool_free(pool);
}

static void test_nan_passes(void **state)
{
    (void)state;
    struct case_ c;
    struct tensor y = {0};
    case_make(&c, &forms[0], true, true, 1);
    tensor_f32(&c.in)[3] = NAN;
    tensor_f32(&c.in)[4] = INFINITY;
    run(c.m, &c.in, &y, NULL);
    assert_true(isnan(tensor_f32(&y)[3]));
    g_near((double)tensor_f32(&y)[4], (double)(255 - c.zero[0]) * (double)(c.scale[0] * c.by[0]), 1e-5);
    tensor_fini(&y);
    case_free(&c);
}

static void test_only_training_may_hold_it(void **state)
{
    (void)state;
    struct case_ c;
    struct err err = {0};
    case_make(&c, &forms[0], true, true, 1);
    c.m->values[c.y].notes = NULL;
    assert_null(plan_new(c.m, NULL, &err));
    assert_int_equal(err.code, ERR_OPERATOR);
    case_free(&c);
}

static void test_wrong_inputs(void **state)
{
    (void)state;
    static const struct {
        int low, high;
        struct shape scale;
        const char *says;
    } wrong[] = {
        {5, 5, {0}, "codes from 5 to 5"},
        {-2000000, 127, {0}, "codes from -2000000"},
        {0, 255, {1, {4}}, "a vector with one value for each index"},
        {0, 255, {2, {3, 5}}, "a scalar, or a vector"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct form f = forms[0];
        struct case_ c;
        struct err err = {0};
        f.low = 0;
        case_make(&c, &f, true, true, 1);
        struct tensor s = {0}, y = {0};
        assert_int_equal(tensor_alloc(&s, DTYPE_FLOAT, &wrong[i].scale, NULL), 0);
        assert_int_equal(value_set_weight(c.m, c.m->nodes[0].input[1], &s), 0);
        c.m->nodes[0].n_input = 2;
        node_set_int(c.m, 0, "low", wrong[i].low);
        node_set_int(c.m, 0, "high", wrong[i].high);
        struct plan *plan = plan_new(c.m, NULL, &err);
        const int rc = plan ? plan_run(plan, &c.in, &y, NULL, &err) : -1;
        assert_int_equal(rc, -1);
        if (!strstr(err.msg, wrong[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, wrong[i].says);
        plan_free(plan);
        tensor_fini(&s);
        case_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_is_the_pair),
        cmocka_unit_test(test_gradients_are_the_formulas),
        cmocka_unit_test(test_nan_passes),
        cmocka_unit_test(test_wrong_inputs),
        cmocka_unit_test(test_only_training_may_hold_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
