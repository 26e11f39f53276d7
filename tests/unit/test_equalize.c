/* SPDX-License-Identifier: Apache-2.0
 * quantize.equalize: the float function stays (the engine, before and after), and ranges come out as the formulas of
 * cross-layer equalization say: r1 = r2 = sqrt(r1 r2) for a pair, the third root for a depthwise triple. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "core/quant/equalize.h"
#include "core/quant/grid.h"
#include "tests/unit/graphs.h"

/* Largest |w| over all elements whose index along `axis` is k. */
static double range_of(const struct tensor *t, int axis, int64_t k)
{
    int64_t inner = 1;
    double top = 0;
    for (int i = axis + 1; i < t->shape.rank; i++)
        inner *= t->shape.dim[i];
    for (int64_t e = 0; e < tensor_count(t); e++)
        if (e / inner % t->shape.dim[axis] == k)
            top = fmax(top, fabs((double)tensor_f32(t)[e]));
    return top;
}

static const struct tensor *weight(const struct model *m, const char *name)
{
    return value_const(m, g_value(m, name));
}

static void expect_same(struct model *m, const char *words, struct shape shape, bool changes)
{
    struct model *before = model_clone(m, NULL);
    struct tensor x = {0};
    g_fill(&x, shape, 11, 1);
    struct g_done done = g_apply(m, words, NULL);
    assert_int_equal(done.rc, 0);
    g_expect_warning(&done, "found no two layers", !changes);
    g_near(g_error(before, m, &x, 0), 0, 1e-5);
    g_done(&done);
    tensor_fini(&x);
    model_free(before);
}

/* Two convolutions with an operator between them. */
static struct model *pair_of(const char *between, uint64_t seed)
{
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(2, 3, 6, 6));
    const uint32_t w1 = g_random(m, "w1", SHAPE(4, 3, 3, 3), seed, 1), b1 = g_random(m, "b1", SHAPE(4), seed + 1, 1);
    const uint32_t w2 = g_random(m, "w2", SHAPE(5, 4, 1, 1), seed + 2, 1);
    for (int k = 0; k < 27; k++) /* channel 1 much larger, channel 2 much smaller */
        tensor_f32(&m->values[w1].weight->tensor)[27 + k] *= 50,
            tensor_f32(&m->values[w1].weight->tensor)[54 + k] *= 0.01f;
    const uint32_t c1 = G_OP(m, "Conv", "c1", x, w1, b1);
    uint32_t mid = c1;
    if (!strcmp(between, "PRelu"))
        mid = G_OP(m, "PRelu", "mid", c1, g_random(m, "slope", SHAPE(4, 1, 1), 9, 1));
    else if (!strcmp(between, "Add"))
        mid = G_OP(m, "Add", "mid", c1, g_random(m, "shift", SHAPE(1, 4, 1, 1), 9, 1));
    else if (!strcmp(between, "Mul")) /* a gate, as of squeeze and excite */
        mid = G_OP(m, "Mul", "mid", c1, G_OP(m, "Sigmoid", "gate", G_OP(m, "Conv", "cg", x, g_random(m, "wg",
                SHAPE(4, 3, 3, 3), 8, 1))));
    else
        mid = G_OP(m, between, "mid", c1);
    g_output(m, G_OP(m, "Conv", "c2", mid, w2));
    return m;
}

static void test_pairs(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        bool through;
    } cases[] = {{"Relu", true}, {"LeakyRelu", true}, {"PRelu", true}, {"Identity", true}, {"Add", true}, {"Mul", true},
                 {"GlobalAveragePool", true}, {"Sigmoid", false}, {"HardSigmoid", false}, {"Tanh", false},
                     {"Softplus", false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = pair_of(cases[i].op, 20 + i);
        expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), cases[i].through);
        for (int64_t k = 0; k < 4 && cases[i].through; k++)
            g_near(range_of(weight(m, "w1"), 0, k) / range_of(weight(m, "w2"), 1, k), 1, 1e-3);
        model_free(m);
    }
}

static void test_geometric_mean(void **state)
{
    (void)state;
    struct model *m = pair_of("Relu", 3), *was = model_clone(m, NULL);
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), true);
    for (int64_t k = 0; k < 4; k++) {
        const double r1 = range_of(weight(was, "w1"), 0, k), r2 = range_of(weight(was, "w2"), 1, k);
        g_near(range_of(weight(m, "w1"), 0, k), sqrt(r1 * r2), 1e-3 * sqrt(r1 * r2));
    }
    model_free(m);
    model_free(was);
}

/* 1x1, depthwise 3x3, 1x1. */
static void test_depthwise_triple(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(1, 3, 6, 6));
    const uint32_t w1 = g_random(m, "w1", SHAPE(4, 3, 1, 1), 1, 3), w2 = g_random(m, "w2", SHAPE(4, 1, 3, 3), 2, 0.1),
                   w3 = g_random(m, "w3", SHAPE(2, 4, 1, 1), 3, 1);
    const uint32_t a = G_OP(m, "Relu", "a", G_OP(m, "Conv", "c1", x, w1));
    const uint32_t d = G_OP(m, "Conv", "c2", a, w2);
    node_set_int(m, g_maker(m, d), "group", 4);
    node_set_ints(m, g_maker(m, d), "pads", (int64_t[]){1, 1, 1, 1}, 4);
    g_output(m, G_OP(m, "Conv", "c3", G_OP(m, "Relu", "b", d), w3));
    struct model *was = model_clone(m, NULL);
    expect_same(m, "quantize.equalize sweeps=100", SHAPE(1, 3, 6, 6), true);
    for (int64_t k = 0; k < 4; k++) {
        const double mean = cbrt(range_of(weight(was, "w1"), 0, k) * range_of(weight(was, "w2"), 0, k) *
                                 range_of(weight(was, "w3"), 1, k));
        g_near(range_of(weight(m, "w1"), 0, k), mean, 2e-3 * mean);
        g_near(range_of(weight(m, "w2"), 0, k), mean, 2e-3 * mean);
        g_near(range_of(weight(m, "w3"), 1, k), mean, 2e-3 * mean);
    }
    model_free(m);
    model_free(was);
}

/* Grouped convolutions on both sides, ConvTranspose between. */
static void test_groups(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(1, 4, 5, 5));
    const uint32_t c1 = G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(6, 2, 3, 3), 1, 1), g_random(m, "b1",
            SHAPE(6), 4, 1));
    node_set_int(m, g_maker(m, c1), "group", 2);
    const uint32_t t = G_OP(m, "ConvTranspose", "t", G_OP(m, "Relu", "r1", c1), g_random(m, "wt", SHAPE(6, 4, 2, 2),
            2, 9),
                            g_random(m, "bt", SHAPE(12), 5, 1));
    node_set_int(m, g_maker(m, t), "group", 3);
    const uint32_t c3 = G_OP(m, "Conv", "c3", G_OP(m, "LeakyRelu", "r2", t), g_random(m, "w3", SHAPE(4, 3, 1, 1), 3,
            0.01));
    node_set_int(m, g_maker(m, c3), "group", 4);
    g_output(m, c3);
    expect_same(m, "quantize.equalize", SHAPE(1, 4, 5, 5), true);
    model_free(m);
}

/* Residual sums, a Concat, MaxPool, Flatten in front of a Gemm, a Transpose, Pad with zeros. */
static void test_structures(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(1, 2, 8, 8));
    const uint32_t a = G_OP(m, "Relu", "a", G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(4, 2, 1, 1), 1, 5)));
    const uint32_t b = G_OP(m, "Relu", "b", G_OP(m, "Conv", "c2", a, g_random(m, "w2", SHAPE(4, 4, 1, 1), 2, 1)));
    const uint32_t sum = G_OP(m, "Relu", "sum", G_OP(m, "Add", "add", a, b));
    const uint32_t c = G_OP(m, "Conv", "c3", sum, g_random(m, "w3", SHAPE(3, 4, 1, 1), 3, 0.1));
    const uint32_t join = G_OP(m, "Concat", "join", sum, c);
    node_set_int(m, g_maker(m, join), "axis", 1);
    const uint32_t pads = g_ints(m, "pads", 8, (int64_t[]){0, 0, 1, 1, 0, 0, 1, 1});
    const uint32_t pool = G_OP(m, "MaxPool", "pool", G_OP(m, "Pad", "pad", join, pads));
    node_set_ints(m, g_maker(m, pool), "kernel_shape", (int64_t[]){2, 2}, 2);
    node_set_ints(m, g_maker(m, pool), "strides", (int64_t[]){2, 2}, 2);
    const uint32_t flat = G_OP(m, "Flatten", "flat", pool);
    const uint32_t g1 = G_OP(m, "Gemm", "g1", flat, g_random(m, "wg", SHAPE(175, 6), 5, 1), g_random(m, "bg",
            SHAPE(1), 6, 1));
    g_output(m, G_OP(m, "MatMul", "g2", G_OP(m, "Relu", "rg", g1), g_random(m, "wm", SHAPE(6, 3), 7, 20)));
    expect_same(m, "quantize.equalize", SHAPE(1, 2, 8, 8), true);
    model_free(m);
}

/* What must not be touched: model outputs, shared weights, padding with other numbers, a value two readers disagree
 * on, weights on a grid. The function stays in all cases. */
static void test_refusals(void **state)
{
    (void)state;
    struct model *m = pair_of("Relu", 5);
    g_output(m, g_value(m, "mid"));
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), false);
    model_free(m);

    m = pair_of("Relu", 6);
    g_output(m, G_OP(m, "Sigmoid", "other", g_value(m, "c1")));
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), false);
    model_free(m);

    m = pair_of("Relu", 7); /* its weight serves a second product */
    g_output(m, G_OP(m, "Conv", "again", g_value(m, "mid"), g_value(m, "w2")));
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), false);
    model_free(m);

    m = pair_of("Relu", 8);
    struct tensor scale = {0};
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &SHAPE(4), NULL), 0);
    grid_note_set(m, g_value(m, "w1"), DTYPE_INT8, 0, &scale);
    tensor_fini(&scale);
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), false);
    model_free(m);
}

/* Zero channels, and channels of 1e-30, leave finite numbers and the function. */
static void test_dead_channels(void **state)
{
    (void)state;
    struct model *m = pair_of("Relu", 30);
    float *w1 = tensor_f32(&m->values[g_value(m, "w1")].weight->tensor), *w2 = tensor_f32(&m->values[g_value(m,
            "w2")].weight->tensor);
    for (int k = 0; k < 27; k++)
        w1[k] = 0, w1[81 + k] *= 1e-30f;
    for (int k = 0; k < 5; k++)
        w2[4 * k + 1] = 0;
    expect_same(m, "quantize.equalize", SHAPE(2, 3, 6, 6), true);
    for (int64_t i = 0; i < tensor_count(weight(m, "w1")); i++)
        assert_true(isfinite(tensor_f32(weight(m, "w1"))[i]));
    g_near(range_of(weight(m, "w1"), 0, 0), 0, 0);
    model_free(m);
}

/* Relu6: kept without data, per-channel caps, Relu where the samples do not reach it. */
static void test_clip(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        double size; /* of the input: 0: no data */
        bool changes;
    } cases[] = {{"quantize.equalize clip=keep", 1, false}, {"quantize.equalize", 0, false},
                 {"quantize.equalize clip=caps", 0, true},
                 {"quantize.equalize", 100, false}, {"quantize.equalize", 1e-3, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = g_new(13);
        const uint32_t x = g_input(m, "x", SHAPE(1, 3, 4, 4));
        const float zero = 0, six = 6;
        const uint32_t c1 = G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(4, 3, 1, 1), 1, 2));
        const uint32_t y = G_OP(m, "Clip", "y", c1, g_const(m, "zero", SHAPE_SCALAR, &zero), g_const(m, "six",
                SHAPE_SCALAR, &six));
        g_output(m, G_OP(m, "Conv", "c2", y, g_random(m, "w2", SHAPE(2, 4, 1, 1), 2, 0.1)));
        struct model *before = model_clone(m, NULL);
        struct tensor data = {0};
        g_fill(&data, SHAPE(1, 3, 4, 4), 2, cases[i].size > 0 ? cases[i].size : 3);
        struct g_done done = g_apply(m, cases[i].words, cases[i].size > 0 ? &data : NULL);
        assert_int_equal(done.rc, 0);
        g_near(g_error(before, m, &data, 0), 0, 1e-5);
        g_expect_warning(&done, "found no two layers", !cases[i].changes);
        g_expect_warning(&done, "becomes Relu", i == 4);
        assert_int_equal(g_count(m, "Clip"), cases[i].changes ? 0 : 1);
        assert_int_equal(g_count(m, "Min"), i == 2);
        g_done(&done);
        tensor_fini(&data);
        model_free(before);
        model_free(m);
    }
}

/* ---- high biases ---- */
/* c1 -> Relu -> `between` -> reader(s); channels 0 and 2 of c1 lie far above zero, 1 and 3 around it. */
enum reader_kind { READ_CONV, READ_GROUPED, READ_PADDED, READ_SAME, READ_TRANSPOSED, READ_GEMM, READ_GEMM_B,
                   READ_MATMUL, READ_OUTPUT, READ_TWO };
static const float high_bias[4] = {60, 0.2f, 40, -0.3f};

static struct model *high_of(const char *between, enum reader_kind kind, double bias_scale)
{
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(2, 3, 4, 4));
    float b[4];
    for (int k = 0; k < 4; k++)
        b[k] = (float)(bias_scale * (double)high_bias[k]);
    const uint32_t c1 = G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(4, 3, 1, 1), 3, 1),
                             g_const(m, "b1", SHAPE(4), b));
    uint32_t mid = G_OP(m, "Relu", "relu", c1), y;
    if (!strcmp(between, "MaxPool") || !strcmp(between, "AveragePool")) {
        mid = G_OP(m, between, "mid", mid);
        node_set_ints(m, g_maker(m, mid), "kernel_shape", (int64_t[]){2, 2}, 2);
        node_set_ints(m, g_maker(m, mid), "pads", (int64_t[]){1, 1, 0, 0}, 4);
    } else if (strcmp(between, "") != 0) {
        mid = G_OP(m, between, "mid", mid);
    }
    const int64_t flat = !strcmp(between, "") || kind < READ_GEMM ? 64 : 4;
    if (kind >= READ_GEMM && kind <= READ_MATMUL)
        mid = G_OP(m, "Flatten", "flat", mid);
    switch (kind) {
    case READ_GEMM:
        y = G_OP(m, "Gemm", "c2", mid, g_random(m, "w2", SHAPE(flat, 5), 4, 1), g_random(m, "b2", SHAPE(1), 5, 1));
        node_set_float(m, g_maker(m, y), "alpha", 0.5f);
        node_set_float(m, g_maker(m, y), "beta", 2);
        break;
    case READ_GEMM_B:
        y = G_OP(m, "Gemm", "c2", mid, g_random(m, "w2", SHAPE(5, flat), 4, 1));
        node_set_int(m, g_maker(m, y), "transB", 1);
        break;
    case READ_MATMUL:
        y = G_OP(m, "Add", "sum", G_OP(m, "MatMul", "c2", mid, g_random(m, "w2", SHAPE(flat, 5), 4, 1)),
                 g_random(m, "b2", SHAPE(1, 5), 5, 1));
        break;
    case READ_TRANSPOSED:
        y = G_OP(m, "ConvTranspose", "c2", mid, g_random(m, "w2", SHAPE(4, 5, 2, 2), 4, 1));
        break;
    default:
        y = G_OP(m, "Conv", "c2", mid, g_random(m, "w2", SHAPE(6, kind == READ_GROUPED ? 2 : 4, 2, 2), 4, 1),
                 g_random(m, "b2", SHAPE(6), 5, 1));
    }
    if (kind == READ_GROUPED)
        node_set_int(m, g_maker(m, y), "group", 2);
    if (kind == READ_PADDED)
        node_set_ints(m, g_maker(m, y), "pads", (int64_t[]){0, 1, 0, 0}, 4);
    if (kind == READ_SAME)
        node_set_string(m, g_maker(m, y), "auto_pad", "SAME_UPPER");
    g_output(m, y);
    if (kind == READ_OUTPUT)
        g_output(m, mid);
    if (kind == READ_TWO)
        g_output(m, G_OP(m, "Conv", "c3", mid, g_random(m, "w3", SHAPE(2, 4, 1, 1), 6, 1)));
    return m;
}

/* c of a channel, from the model's own pre-activations: max(0, min(least, mean - 3 deviations)). */
static double expected_c(const struct model *was, const struct tensor *x, int64_t channel)
{
    struct model *m = model_clone(was, NULL);
    struct tensor y = {0};
    double least = INFINITY, sum = 0, square = 0;
    const int which = model_main(m)->n_outputs;
    g_output(m, g_value(m, "c1"));
    g_run(m, x, which, &y);
    for (int64_t n = 0; n < 2; n++)
        for (int64_t k = 0; k < 16; k++) {
            const double v = (double)tensor_f32(&y)[(n * 4 + channel) * 16 + k];
            least = fmin(least, v);
            sum += v / 32;
        }
    for (int64_t n = 0; n < 2; n++)
        for (int64_t k = 0; k < 16; k++)
            square += pow((double)tensor_f32(&y)[(n * 4 + channel) * 16 + k] - sum, 2) / 32;
    tensor_fini(&y);
    model_free(m);
    return fmax(0, fmin(least, sum - 3 * sqrt(square)));
}

static void test_absorb(void **state)
{
    (void)state;
    static const struct {
        const char *between;
        enum reader_kind kind;
        const char *refused; /* NULL: absorbed */
    } cases[] = {
        {"", READ_CONV, NULL}, {"", READ_GROUPED, NULL}, {"MaxPool", READ_CONV, NULL}, {"AveragePool", READ_CONV, NULL},
        {"Identity", READ_CONV, NULL}, {"", READ_GEMM, NULL}, {"GlobalAveragePool", READ_GEMM, NULL},
        {"GlobalMaxPool", READ_GEMM_B, NULL}, {"", READ_GEMM_B, NULL}, {"", READ_MATMUL, NULL}, {"", READ_TWO, NULL},
        {"", READ_PADDED, "padded convolution"}, {"", READ_SAME, "padded convolution"},
        {"", READ_TRANSPOSED, "same taps"}, {"", READ_OUTPUT, "output of the model"},
        {"Sigmoid", READ_CONV, "not shifted"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = high_of(cases[i].between, cases[i].kind, 1), *was = model_clone(m, NULL);
        struct tensor x = {0};
        g_fill(&x, SHAPE(2, 3, 4, 4), 12, 1);
        struct g_done done = g_apply(m, "quantize.equalize", &x);
        assert_int_equal(done.rc, 0);
        if (g_error(was, m, &x, 0) > 1e-5)
            fail_msg("case %zu: error %g", i, g_error(was, m, &x, 0));
        json_t *row, *found = NULL, *skipped = NULL;
        size_t k;
        json_array_foreach(done.layers, k, row)
        {
            json_t *after = json_object_get(row, "after");
            found = json_object_get(after, "absorbed_channels") ? after : found;
            const char *why = json_string_value(json_object_get(row, "skipped"));
            skipped = why && cases[i].refused && strstr(why, cases[i].refused) ? row : skipped;
        }
        if (!found != !!cases[i].refused || !skipped != !cases[i].refused)
            fail_msg("case %zu: %s", i, json_dumps(done.layers, 0));
        if (found) {
            assert_int_equal(json_integer_value(json_object_get(found, "absorbed_channels")), 2);
            assert_int_equal(json_array_size(json_object_get(found, "absorbed_into")),
                             cases[i].kind == READ_TWO ? 2 : 1);
        }
        g_done(&done);
        tensor_fini(&x);
        model_free(was);
        model_free(m);
    }
}

/* The numbers, with equalization kept away by a weight on a grid: b1 -= c, b2 += W2 c. */
static void test_absorb_formula(void **state)
{
    (void)state;
    struct model *m = high_of("", READ_CONV, 1);
    struct tensor scale = {0}, x = {0};
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &SHAPE(6), NULL), 0);
    grid_note_set(m, g_value(m, "w2"), DTYPE_INT8, 0, &scale);
    tensor_fini(&scale);
    struct model *was = model_clone(m, NULL);
    g_fill(&x, SHAPE(2, 3, 4, 4), 12, 1);
    struct g_done done = g_apply(m, "quantize.equalize", &x);
    double c[4];
    for (int64_t k = 0; k < 4; k++) {
        c[k] = expected_c(was, &x, k);
        g_near((double)tensor_f32(weight(m, "b1"))[k], (double)high_bias[k] - c[k], 1e-4);
    }
    assert_true(c[0] > 50 && c[1] == 0 && c[2] > 30 && c[3] == 0);
    for (int64_t o = 0; o < 6; o++) {
        double want = (double)tensor_f32(weight(was, "b2"))[o];
        for (int64_t e = 0; e < 16; e++)
            want += c[e / 4] * (double)tensor_f32(weight(was, "w2"))[o * 16 + e];
        g_near((double)tensor_f32(weight(m, "b2"))[o], want, 1e-3);
    }
    g_near(g_error(was, m, &x, 0), 0, 1e-5);
    g_expect_warning(&done, "found no two layers", false);
    g_done(&done);
    tensor_fini(&x);
    model_free(was);
    model_free(m);
}

/* Nothing without data, or switched off, or where no channel lies high; the report says so. */
static void test_absorb_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        bool data;
        double bias;
    } cases[] = {{"quantize.equalize", false, 1},
                 {"quantize.equalize absorb=false", true, 1},
                 {"quantize.equalize", true, 0.01}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = high_of("", READ_CONV, cases[i].bias), *was = model_clone(m, NULL);
        struct tensor x = {0};
        g_fill(&x, SHAPE(2, 3, 4, 4), 12, 1);
        struct g_done done = g_apply(m, cases[i].words, cases[i].data ? &x : NULL);
        assert_int_equal(done.rc, 0);
        g_near(g_error(was, m, &x, 0), 0, 1e-5);
        char *all = json_dumps(done.layers, 0);
        assert_null(strstr(all, "absorbed_channels"));
        assert_int_equal(strstr(all, "needs data") != NULL, i == 0);
        assert_int_equal(strstr(all, "no channel stays") != NULL, i == 2);
        free(all);
        g_done(&done);
        tensor_fini(&x);
        model_free(was);
        model_free(m);
    }
}

static void test_quantized_is_refused(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(1, 3));
    const float one = 1;
    const uint32_t q = G_OP(m, "QuantizeLinear", "q", x, g_const(m, "s", SHAPE_SCALAR, &one));
    g_output(m, G_OP(m, "DequantizeLinear", "d", q, g_value(m, "s")));
    struct g_done done = g_apply(m, "quantize.equalize", NULL);
    assert_int_equal(done.rc, -1);
    assert_int_equal(done.err.code, ERR_MODEL);
    json_decref(done.layers);
    json_decref(done.warnings);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),          cmocka_unit_test(test_geometric_mean),
            cmocka_unit_test(test_depthwise_triple),
        cmocka_unit_test(test_groups),         cmocka_unit_test(test_structures),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_dead_channels),  cmocka_unit_test(test_clip),           cmocka_unit_test(test_absorb),
        cmocka_unit_test(test_absorb_formula), cmocka_unit_test(test_absorb_nothing),
                      cmocka_unit_test(test_quantized_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
