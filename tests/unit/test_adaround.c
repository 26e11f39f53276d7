/* SPDX-License-Identifier: Apache-2.0
 * quantize.adaround: weights lie on the grid the note names, within the limits of codes and pairs; the outputs on
 * inputs that were not
 * used are nearer to the float model's than with nearest codes; quantize.static takes the codes as they are; pruned
 * weights
 * stay zero; threads do not change a bit; what cannot be done is said. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/quant/grid.h"
#include "core/quant/wide_weight.h"
#include "tests/unit/graphs.h"

enum { SAMPLES = 64 };
static const char *const products[] = {"a", "d", "p", "g", "u"};

/* Conv -> Relu, depthwise -> Clip, grouped, then Gemm (transB) and MatMul. */
static struct model *network(void)
{
    struct model *m = g_new(13);
    const float low = 0, high = 1.5f;
    uint32_t x = g_input(m, "x", SHAPE(-1, 3, 8, 8));
    uint32_t a =
        G_OP(m, "Conv", "a", x, g_random(m, "wa", SHAPE(12, 3, 3, 3), 1, 0.3), g_random(m, "ba", SHAPE(12), 2, 0.3));
    uint32_t r = G_OP(m, "Relu", "r", a);
    uint32_t d = G_OP(m, "Conv", "d", r, g_random(m, "wd", SHAPE(12, 1, 3, 3), 3, 0.4));
    node_set_int(m, g_maker(m, d), "group", 12);
    uint32_t c =
        G_OP(m, "Clip", "c", d, g_const(m, "low", SHAPE_SCALAR, &low), g_const(m, "high", SHAPE_SCALAR, &high));
    uint32_t p = G_OP(m, "Conv", "p", c, g_random(m, "wp", SHAPE(10, 6, 1, 1), 4, 0.4));
    node_set_int(m, g_maker(m, p), "group", 2);
    uint32_t f = G_OP(m, "Flatten", "f", p);
    uint32_t g =
        G_OP(m, "Gemm", "g", f, g_random(m, "wg", SHAPE(16, 160), 5, 0.1), g_random(m, "bg", SHAPE(16), 6, 0.2));
    node_set_int(m, g_maker(m, g), "transB", 1);
    uint32_t s = G_OP(m, "Relu", "s", g);
    uint32_t u = G_OP(m, "MatMul", "u", s, g_random(m, "wu", SHAPE(16, 5), 7, 0.3));
    g_output(m, u);
    return m;
}

/* Smooth pictures with a little noise: inputs of real layers are alike, too. */
static void pictures(struct tensor *x, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed, 2);
    g_fill(x, SHAPE(SAMPLES, 3, 8, 8), seed, 0.2);
    for (int n = 0; n < SAMPLES; n++)
        for (int c = 0; c < 3; c++) {
            const double a = rng_normal(&r), b = rng_normal(&r), d = 0.4 + rng_normal(&r);
            for (int i = 0; i < 64; i++)
                tensor_f32(x)[(n * 3 + c) * 64 + i] += (float)(d + a * sin(i / 8 * 0.5) + b * cos(i % 8 * 0.4));
        }
}

static json_t *apply(struct model *m, const char *words, const struct tensor *x, struct pool *pool)
{
    g_pool = pool;
    g_seed = 3;
    struct g_done done = g_apply(m, words, x);
    json_t *rows = json_incref(done.layers);
    g_pool = NULL;
    g_seed = 0;
    g_done(&done);
    return rows;
}

/* The weights rounded as quantize.static does by itself. */
static void round_plainly(struct model *m, enum dtype dtype)
{
    for (int i = 0; i < 5; i++) {
        const struct node *n = g_made(m, products[i]);
        const struct tensor *w = value_const(m, n->input[1]);
        const int axis = node_is(n, "MatMul") ? 1 : 0;
        const struct qweight_opts o = {.dtype = dtype, .per_channel = true, .axis = axis, .adds_in_32 = i == 1};
        struct qweight q;
        struct tensor t = {0};
        assert_int_equal(
            dtype == DTYPE_INT4 ? wide_weight_make(&q, w, &o, true, false, NULL) : qweight_make(&q, w, &o, NULL), 0);
        assert_int_equal(tensor_copy(&t, w, NULL), 0);
        const int64_t inner = shape_product(&w->shape, axis + 1, w->shape.rank);
        for (int64_t k = 0; k < tensor_count(w); k++)
            tensor_f32(&t)[k] = (float)(dtype_get(dtype, q.codes.data, k) *
                                        (double)tensor_f32(&q.scale)[k / inner % w->shape.dim[axis]]);
        assert_int_equal(value_set_weight(m, n->input[1], &t), 0);
        tensor_fini(&t);
        qweight_fini(&q);
    }
}

/* Every weight is scale * code; neighbours in the order of summation (kernel positions outermost) of one sign stay
 * within 128. */
static void expect_grid(const struct model *m, enum dtype want, bool pairs)
{
    for (int i = 0; i < 5; i++) {
        const struct node *n = g_made(m, products[i]);
        const struct tensor *w = value_const(m, n->input[1]), *scale;
        enum dtype dtype;
        int axis;
        int codes[160];
        if (!grid_note_get(m, n->input[1], &dtype, &axis, &scale))
            fail_msg("'%s' has no grid", products[i]);
        assert_int_equal(dtype, want);
        assert_int_equal(axis, node_is(n, "MatMul") ? 1 : 0);
        const int64_t outs = w->shape.dim[axis], k = tensor_count(w) / outs;
        const int64_t channels = w->shape.rank == 4 ? w->shape.dim[1] : k, taps = k / channels;
        for (int64_t o = 0; o < outs; o++) {
            for (int64_t j = 0; j < k; j++) {
                const double v = (double)tensor_f32(w)[axis ? j * outs + o : o * k + j] / (double)tensor_f32(scale)[o];
                g_near(v, nearbyint(v), 1e-4);
                assert_true(fabs(v) < (want == DTYPE_INT4 ? 7.5 : 127.5));
                codes[j % taps * channels + j / taps] = (int)nearbyint(v);
            }
            for (int64_t j = 0; pairs && i != 1 && j + 1 < k; j += 2)
                if ((codes[j] > 0) == (codes[j + 1] > 0))
                    assert_true(abs(codes[j] + codes[j + 1]) <= 128);
        }
    }
}

static void test_gain(void **state)
{
    (void)state;
    const struct {
        const char *words;
        enum dtype dtype;
        bool pairs;
        double most;
    } cases[] = {
        {"quantize.adaround weights=int4", DTYPE_INT4, false, 0.4},
        {"quantize.adaround weights=int4 algorithm=adaround iterations=600 rows=1024", DTYPE_INT4, false, 0.4},
        {"quantize.adaround", DTYPE_INT8, true, 0.5},
        {"quantize.adaround isa=vnni", DTYPE_INT8, false, 0.5},
        {"quantize.adaround algorithm=adaround iterations=600 rows=1024", DTYPE_INT8, true, 0.5},
    };
    struct tensor x = {0}, other = {0};
    struct pool *pool = pool_new(2);
    pictures(&x, 1);
    pictures(&other, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *was = network(), *plain = network(), *m = network(), *again = network();
        json_t *rows = apply(m, cases[i].words, &x, NULL), *rows_again = apply(again, cases[i].words, &x, pool);
        expect_grid(m, cases[i].dtype, cases[i].pairs);
        round_plainly(plain, cases[i].dtype);
        const double before = g_squares(was, plain, &other), after = g_squares(was, m, &other);
        if (getenv("V"))
            print_message("%s: %.3f\n", cases[i].words, after / before);
        if (!(after <= cases[i].most * before))
            fail_msg("%s: error %.3f of that of nearest codes", cases[i].words, after / before);
        assert_true(json_equal(rows, rows_again));
        for (int j = 0; j < 5; j++)
            assert_true(tensor_equal(value_const(m, g_made(m, products[j])->input[1]),
                                     value_const(again, g_made(again, products[j])->input[1])));
        json_decref(rows);
        json_decref(rows_again);
        model_free(was);
        model_free(plain);
        model_free(m);
        model_free(again);
    }
    tensor_fini(&x);
    tensor_fini(&other);
    pool_free(pool);
}

/* The initializer behind a product's DequantizeLinear, decoded. */
static void expect_codes(const struct model *m, const struct model *grid)
{
    for (int i = 0; i < 5; i++) {
        const uint32_t id = model_find_node(m, products[i]);
        assert_int_not_equal(id, NODE_NONE);
        const struct node *d = g_source(m, &m->nodes[id], 1);
        const struct tensor *codes = value_const(m, d->input[0]), *scale = value_const(m, d->input[1]);
        const struct tensor *w = value_const(grid, g_made(grid, products[i])->input[1]);
        const int axis = i == 4 ? 1 : 0;
        const int64_t inner = shape_product(&w->shape, axis + 1, w->shape.rank);
        assert_string_equal(d->op_type, "DequantizeLinear");
        for (int64_t k = 0; k < tensor_count(w); k++) {
            const float v =
                (float)dtype_get(codes->dtype, codes->data, k) * tensor_f32(scale)[k / inner % w->shape.dim[axis]];
            assert_true(v == tensor_f32(w)[k]);
        }
    }
}

static void test_taken_by_static(void **state)
{
    (void)state;
    const char *const types[] = {"int8", "int4"};
    struct tensor x = {0};
    pictures(&x, 1);
    for (int i = 0; i < 2; i++) {
        char words[100];
        struct model *m = network(), *grid = network();
        snprintf(words, sizeof words, "quantize.adaround weights=%s", types[i]);
        json_decref(apply(m, words, &x, NULL));
        json_decref(apply(grid, words, &x, NULL));
        snprintf(words, sizeof words, "quantize.static weights=%s", types[i]);
        json_decref(apply(m, words, &x, NULL));
        expect_codes(m, grid);
        model_free(m);
        model_free(grid);
    }
    tensor_fini(&x);
}

static void test_zeros_stay(void **state)
{
    (void)state;
    const char *const words[] = {"quantize.adaround weights=int4",
                                 "quantize.adaround weights=int4 algorithm=adaround iterations=50"};
    struct tensor x = {0};
    pictures(&x, 1);
    for (int way = 0; way < 2; way++) {
        struct model *m = network();
        for (int i = 0; i < 5; i++) {
            struct tensor t = {0};
            const uint32_t w = g_made(m, products[i])->input[1];
            assert_int_equal(tensor_copy(&t, value_const(m, w), NULL), 0);
            for (int64_t k = 0; k < tensor_count(&t); k += 2)
                tensor_f32(&t)[k] = 0;
            memset(t.data, 0, 9 * sizeof(float)); /* a whole channel of the depthwise layer */
            assert_int_equal(value_set_weight(m, w, &t), 0);
            tensor_fini(&t);
        }
        json_decref(apply(m, words[way], &x, NULL));
        for (int i = 0; i < 5; i++) {
            const struct tensor *w = value_const(m, g_made(m, products[i])->input[1]);
            for (int64_t k = 0; k < tensor_count(w); k += 2)
                assert_true(tensor_f32(w)[k] == 0);
        }
        model_free(m);
    }
    tensor_fini(&x);
}

static void test_left_alone(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct model *m = g_new(13);
    uint32_t in = g_input(m, "x", SHAPE(-1, 6)), w = g_random(m, "w", SHAPE(6, 6), 1, 1);
    uint32_t a = G_OP(m, "MatMul", "a", in, w), b = G_OP(m, "MatMul", "b", a, w);
    uint32_t c = G_OP(m, "MatMul", "c", b, g_random(m, "wc", SHAPE(6, 6), 2, 1));
    float exact[36] = {0};
    for (int i = 0; i < 36; i++)
        exact[i] = (float)(i % 5 == 0 ? 127 : i - 18);
    uint32_t d = G_OP(m, "MatMul", "d", c, g_const(m, "wd", SHAPE(6, 6), exact));
    float bad[36] = {0};
    bad[7] = NAN;
    uint32_t e = G_OP(m, "MatMul", "e", in, g_const(m, "we", SHAPE(6, 6), bad));
    g_output(m, d);
    g_output(m, e);
    g_fill(&x, SHAPE(4, 6), 1, 1);
    struct g_done done = g_apply(m, "quantize.adaround exclude=c isa=vnni", &x);
    g_expect_skipped(&done, "a", "read by other nodes too");
    g_expect_skipped(&done, "b", "read by other nodes too");
    g_expect_skipped(&done, "c", "not selected");
    g_expect_skipped(&done, "e", "not finite");
    g_expect_warning(&done, "fewer input vectors than they have inputs", true);
    g_done(&done);
    struct g_done without = g_apply(m, "quantize.adaround", NULL);
    assert_int_equal(without.rc, -1);
    assert_non_null(strstr(without.err.msg, "needs a dataset"));
    without.rc = 0;
    g_done(&without);
    model_free(m);
    tensor_fini(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gain), cmocka_unit_test(test_taken_by_static),
                                       cmocka_unit_test(test_zeros_stay), cmocka_unit_test(test_left_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
