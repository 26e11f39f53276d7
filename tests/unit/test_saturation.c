/* SPDX-License-Identifier: Apache-2.0
 * The pair guard, proven on stored weights: x86 without VNNI multiplies uint8 activations by int8 weights with
 * vpmaddubsw, which adds two neighbouring products in int16 and saturates. Here that instruction is simulated over
 * the weights as quantized, in the order runtimes sum: channels-last im2col (kernel positions outermost, input channels
 * innermost) for a convolution, rows for a matrix; with the activations that make each pair's sum largest, and with real
 * ones, seen and unseen by the calibration. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

/* The largest and smallest sum of a pair over all uint8 activations do not fit into int16. */
static bool pair_saturates(int w1, int w2)
{
    int high = 255 * ((w1 > 0 ? w1 : 0) + (w2 > 0 ? w2 : 0)), low = 255 * ((w1 < 0 ? w1 : 0) + (w2 < 0 ? w2 : 0));
    return high > INT16_MAX || low < INT16_MIN;
}

/* Conv [O,C,H,W]: k runs over H, W, then C fastest. */
static int64_t conv_at(int64_t o, int64_t k, const int64_t *dim)
{
    int64_t c = k % dim[1], position = k / dim[1];
    return (o * dim[1] + c) * dim[2] * dim[3] + position;
}
static int64_t rows_at(int64_t o, int64_t k, const int64_t *dim) /* [N,K]: Gemm with transB */
{
    return o * dim[1] + k;
}
static int64_t columns_at(int64_t o, int64_t k, const int64_t *dim) /* [K,N] */
{
    return k * dim[1] + o;
}

struct kind {
    const char *op;
    struct shape w;
    bool trans_b;
};

static int64_t depth_of(const struct kind *k) /* channels of the input */
{
    return !strcmp(k->op, "Conv") ? k->w.dim[1] : k->w.dim[k->trans_b ? 1 : 0];
}

/* Normal numbers, those of channel c times 2 / (2 + c): some channels reach far, most do not. */
static void make_input(struct tensor *t, const struct kind *k, int64_t samples, uint64_t seed)
{
    const bool conv = !strcmp(k->op, "Conv");
    const int64_t channels = depth_of(k);
    g_fill(t, conv ? SHAPE(samples, channels, 6, 6) : SHAPE(samples, channels), seed, 1);
    for (int64_t i = 0; i < tensor_count(t); i++)
        tensor_f32(t)[i] *= 2 / (2 + (float)(i / (conv ? 36 : 1) % channels));
}

static struct model *one_product(const struct kind *k, bool all_equal, uint64_t seed)
{
    struct model *m = g_new(13);
    const bool conv = !strcmp(k->op, "Conv");
    const int64_t n = DIM_SYMBOL(model_symbol(m, "N")), channels = depth_of(k);
    float v[4096];
    struct rng rng;
    rng_init(&rng, seed, 2);
    assert_in_range(shape_count(&k->w), 1, 4096);
    for (int64_t i = 0; i < shape_count(&k->w); i++) /* of one sign and one size: every pair would overflow */
        v[i] = all_equal ? 0.7f : (float)(fabs(rng_normal(&rng)) * (i % 3 ? 1 : -1));
    uint32_t x = g_input(m, "x", conv ? SHAPE(n, channels, 6, 6) : SHAPE(n, channels)), w = g_const(m, "w", k->w, v);
    uint32_t y = G_OP(m, k->op, "y", x, w);
    if (k->trans_b)
        node_set_int(m, g_maker(m, y), "transB", 1);
    g_output(m, y);
    return m;
}

static const struct tensor *codes_of(const struct model *m, const struct kind *k)
{
    for (uint32_t i = 0; i < m->n_values; i++)
        if (m->values[i].weight && m->values[i].weight->tensor.dtype == DTYPE_INT8 &&
            tensor_count(&m->values[i].weight->tensor) == shape_count(&k->w))
            return &m->values[i].weight->tensor;
    return NULL;
}

/* Where element k of output channel o's sum stands in the codes as stored. */
static int64_t place(const struct kind *k, const struct tensor *codes, int64_t o, int64_t at)
{
    const int64_t *dim = codes->shape.dim;
    if (!strcmp(k->op, "Conv"))
        return conv_at(o, at, dim);
    return k->trans_b && dim[0] == k->w.dim[0] ? rows_at(o, at, dim) : columns_at(o, at, dim);
}

static int64_t outputs_of(const struct kind *k)
{
    return k->w.dim[!strcmp(k->op, "Conv") || k->trans_b ? 0 : 1];
}

/* Pairs that can saturate for some activations. */
static int64_t count_possible(const struct kind *k, const struct tensor *codes)
{
    const int8_t *w = codes->data;
    const int64_t channels = outputs_of(k), count = tensor_count(codes) / channels;
    int64_t found = 0;
    for (int64_t o = 0; o < channels; o++)
        for (int64_t at = 0; at + 1 < count; at += 2)
            found += pair_saturates(w[place(k, codes, o, at)], w[place(k, codes, o, at + 1)]);
    return found;
}

/* The largest absolute sum a whole channel can reach with activation codes 0 to 255. */
static int64_t largest_sum(const struct kind *k, const struct tensor *codes)
{
    const int8_t *w = codes->data;
    const int64_t channels = outputs_of(k), count = tensor_count(codes) / channels;
    int64_t most = 0;
    for (int64_t o = 0; o < channels; o++) {
        int64_t up = 0, down = 0;
        for (int64_t at = 0; at < count; at++) {
            const int64_t c = w[place(k, codes, o, at)];
            up += c > 0 ? 255 * c : 0;
            down += c < 0 ? -255 * c : 0;
        }
        most = up > most ? up : most;
        most = down > most ? down : most;
    }
    return most;
}

/* The instruction itself, over all outputs of one sample after the other: sums of pairs that do saturate. */
static int64_t count_real(const struct model *m, const struct kind *k, const struct tensor *codes,
                          const struct tensor *x)
{
    const struct node *q = g_made(m, "y");
    for (uint32_t id = 0; id < m->n_nodes; id++)
        if (m->nodes[id].op_type && node_is(&m->nodes[id], "QuantizeLinear") &&
            m->nodes[id].input[0] == g_value(m, "x"))
            q = &m->nodes[id];
    assert_true(node_is(q, "QuantizeLinear"));
    const struct tensor *zero = value_const(m, q->input[2]);
    const double scale = (double)tensor_f32(value_const(m, q->input[1]))[0];
    const bool is_signed = zero->dtype == DTYPE_INT8; /* x86 runtimes add 128 */
    const double z = dtype_get(zero->dtype, zero->data, 0) + (is_signed ? 128 : 0);
    const bool conv = !strcmp(k->op, "Conv");
    const int64_t channels = outputs_of(k), count = tensor_count(codes) / channels, depth = depth_of(k);
    const int64_t side = conv ? 6 - k->w.dim[2] + 1 : 1, places = side * side, samples = x->shape.dim[0];
    int64_t found = 0;
    for (int64_t i = 0; i < samples * places * channels; i++) {
        const int64_t o = i % channels, p = i / channels % places, n = i / channels / places;
        int32_t sum = 0;
        for (int64_t at = 0; at < count; at++) {
            const int64_t c = at % depth, kx = conv ? at / depth % k->w.dim[3] : 0,
                          ky = conv ? at / depth / k->w.dim[3] : 0;
            const int64_t from = conv ? ((n * depth + c) * 6 + p / side + ky) * 6 + p % side + kx : n * depth + c;
            const double code = nearbyint((double)tensor_f32(x)[from] / scale) + z;
            sum += (int32_t)(code < 0     ? 0
                             : code > 255 ? 255
                                          : code) *
                   ((const int8_t *)codes->data)[place(k, codes, o, at)];
            if (at % 2 == 0 && at + 1 < count)
                continue;
            found += sum > INT16_MAX || sum < INT16_MIN;
            sum = 0;
        }
    }
    return found;
}

struct counts {
    int64_t possible, calibration, unseen, guarded;
    double error;
};

static struct counts simulate(const struct kind *k, const char *step, bool all_equal, uint64_t seed)
{
    struct model *m = one_product(k, all_equal, seed), *was = model_clone(m, NULL);
    struct tensor x = {0}, y = {0};
    struct counts c = {0};
    make_input(&x, k, 32, seed + 10);
    make_input(&y, k, 64, seed + 1000);
    const bool is_static = strstr(step, "static") != NULL;
    struct g_done done = g_apply(m, step, is_static ? &x : NULL);
    if (done.rc)
        fail_msg("%s: %s", step, done.err.msg);
    c.error = g_error(was, m, &x, 0);
    const struct tensor *codes = codes_of(m, k);
    assert_non_null(codes);
    c.possible = count_possible(k, codes);
    if (is_static) {
        json_t *after = json_object_get(g_row(&done, "y"), "after");
        c.guarded = json_integer_value(json_object_get(after, "pair_guarded_channels"));
        c.calibration = count_real(m, k, codes, &x);
        c.unseen = count_real(m, k, codes, &y);
        const bool said = json_integer_value(json_object_get(after, "pair_sum")) > INT16_MAX;
        assert_int_equal(said, c.possible > 0); /* the report knows */
        assert_int_equal(json_integer_value(json_object_get(after, "int32_sum")), largest_sum(k, codes));
        g_near(json_real_value(json_object_get(after, "int32_sum_share")), (double)largest_sum(k, codes) / 0x1p31,
               1e-12);
    }
    g_done(&done);
    tensor_fini(&x);
    tensor_fini(&y);
    model_free(was);
    model_free(m);
    return c;
}

static const struct kind kinds[] = {
    {"Conv", {4, {8, 4, 3, 3}}, false}, {"Conv", {4, {8, 3, 3, 3}}, false}, /* odd */
    {"Conv", {4, {9, 1, 3, 3}}, false}, {"Conv", {4, {11, 17, 1, 1}}, false}, {"Gemm", {2, {64, 24}}, false},
    {"Gemm", {2, {24, 64}}, true},      {"MatMul", {2, {63, 24}}, false},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void test_portable_never_saturates(void **state)
{
    (void)state;
    static const char *const steps[] = {"quantize.static",
                                        "quantize.static per_channel=false",
                                        "quantize.static activations=int8",
                                        "quantize.static symmetric=true",
                                        "quantize.dynamic",
                                        "quantize.dynamic per_channel=false"};
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
        for (size_t i = 0; i < KINDS; i++)
            for (uint64_t seed = 0; seed < 3; seed++) {
                char step[128];
                if (!strcmp(kinds[i].op, "Conv") && strstr(steps[s], "dynamic"))
                    continue; /* stays in float */
                snprintf(step, sizeof step, "%s isa=portable", steps[s]);
                struct counts c = simulate(&kinds[i], step, seed == 0, seed);
                if (c.possible || c.calibration || c.unseen)
                    fail_msg("%s of %s, seed %d: %d pairs can saturate", step, kinds[i].op, (int)seed, (int)c.possible);
                assert_true(c.error < 0.1);
                snprintf(step, sizeof step, "%s isa=vnni", steps[s]);
                c = simulate(&kinds[i], step, seed == 0, seed);
                if (seed == 0) /* 255 * (127 + 127) */
                    assert_true(c.possible > 0);
                assert_true(c.error < 0.1);
            }
}

/* avx2: nothing saturates on the samples, nor on others alike; and fewer channels pay for it than with portable. */
static void test_avx2_saturates_on_no_sample(void **state)
{
    (void)state;
    int64_t portable = 0, avx2 = 0, full = 0, possible = 0;
    for (size_t i = 0; i < KINDS; i++)
        for (uint64_t seed = 0; seed < 6; seed++) {
            struct counts c = simulate(&kinds[i], "quantize.static isa=avx2", seed == 0, seed);
            assert_int_equal(c.calibration, 0);
            assert_int_equal(c.unseen, 0);
            assert_true(c.error < 0.1);
            avx2 += c.guarded;
            possible += c.possible;
            portable += simulate(&kinds[i], "quantize.static isa=portable", seed == 0, seed).guarded;
            full += simulate(&kinds[i], "quantize.static isa=vnni", seed == 0, seed).calibration;
        }
    assert_true(full > 0);                /* these samples do saturate full weights */
    assert_true(avx2 < portable * 3 / 4); /* and many channels can keep them nevertheless */
    assert_true(possible > 0);
}

/* Arm: signed activations by default, full weights, never -128: two signed products fit into 16 bits. */
static void test_arm(void **state)
{
    (void)state;
    for (size_t i = 0; i < KINDS; i++)
        for (int given = 0; given < 2; given++) {
            struct model *m = one_product(&kinds[i], false, 3);
            struct tensor x = {0};
            make_input(&x, &kinds[i], 8, 4);
            struct g_done done =
                g_apply(m, given ? "quantize.static isa=arm activations=uint8" : "quantize.static isa=arm", &x);
            const struct tensor *codes = codes_of(m, &kinds[i]);
            int most = 0;
            assert_non_null(codes);
            for (int64_t k = 0; k < tensor_count(codes); k++) {
                const int code = ((const int8_t *)codes->data)[k];
                assert_true(code >= -127);
                most = abs(code) > most ? abs(code) : most;
            }
            assert_int_equal(most, 127);
            for (uint32_t id = 0; id < m->n_nodes; id++)
                if (m->nodes[id].op_type && node_is(&m->nodes[id], "QuantizeLinear"))
                    assert_int_equal(value_const(m, m->nodes[id].input[2])->dtype, given ? DTYPE_UINT8 : DTYPE_INT8);
            g_done(&done);
            tensor_fini(&x);
            model_free(m);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_portable_never_saturates),
                                       cmocka_unit_test(test_avx2_saturates_on_no_sample), cmocka_unit_test(test_arm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
