/* SPDX-License-Identifier: Apache-2.0
 * quantize.static: where the pairs of QuantizeLinear / DequantizeLinear are put, and their scales, zero points and
 * codes against the formulas of affine quantization; values by the engine, before and after. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <float.h>

#include "core/passes/weights.h"
#include "tests/unit/graphs.h"

/* The pair in front of an input: the weight or activation as the DequantizeLinear reads it. */
struct pair {
    const struct tensor *codes; /* of a constant; NULL: an activation */
    const struct tensor *scale, *zero;
    uint32_t codes_id, scale_id, zero_id, from; /* from: what the QuantizeLinear reads */
};

static struct pair pair_at(const struct model *m, const struct node *n, int slot)
{
    const struct node *d = g_source(m, n, slot);
    assert_true(node_is(d, "DequantizeLinear"));
    struct pair p = {.codes_id = d->input[0], .scale_id = d->input[1], .zero_id = VALUE_NONE, .from = VALUE_NONE};
    p.codes = value_const(m, d->input[0]);
    p.scale = value_const(m, d->input[1]);
    if (d->n_input > 2) {
        p.zero_id = d->input[2];
        p.zero = value_const(m, d->input[2]);
    }
    if (!p.codes) {
        const struct node *q = &m->nodes[g_maker(m, d->input[0])];
        assert_true(node_is(q, "QuantizeLinear"));
        assert_int_equal(q->input[1], d->input[1]);
        assert_int_equal(q->input[2], d->input[2]);
        p.from = q->input[0];
    }
    return p;
}

static bool is_quantized(const struct model *m, const struct node *n, int slot)
{
    uint32_t p = m->values[n->input[slot]].producer;
    return p != NODE_NONE && node_is(&m->nodes[p], "DequantizeLinear");
}

/* Of a value of the float model over the samples. */
static void range_of(const struct model *m, const char *name, const struct tensor *x, double *lo, double *hi)
{
    struct model *copy = model_clone(m, NULL);
    struct tensor y = {0};
    assert_non_null(copy);
    model_main(copy)->n_outputs = 0;
    g_output(copy, g_value(copy, name));
    g_run(copy, x, 0, &y);
    *lo = *hi = 0;
    for (int64_t i = 0; i < tensor_count(&y); i++) {
        *lo = fmin(*lo, (double)tensor_f32(&y)[i]);
        *hi = fmax(*hi, (double)tensor_f32(&y)[i]);
    }
    tensor_fini(&y);
    model_free(copy);
}

/* scale = (hi - lo) / 255, zero point = round(-lo / scale). */
static void expect_uint8(const struct model *m, const struct node *n, int slot, double lo, double hi)
{
    struct pair p = pair_at(m, n, slot);
    assert_int_equal(p.zero->dtype, DTYPE_UINT8);
    g_near(tensor_f32(p.scale)[0], (hi - lo) / 255, 1e-6 * (hi - lo));
    g_near(*(unsigned char *)p.zero->data, -lo / ((hi - lo) / 255), 0.5 + 1e-3);
}

/* x[N,2,6,6] -> Conv c1 -> Relu r -> MaxPool p -> Conv c2 -> Flatten f -> Gemm fc [-> Softmax s] */
static struct model *network(int64_t opset, bool softmax)
{
    struct model *m = g_new(opset);
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2, 6, 6));
    uint32_t c1 =
        G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(4, 2, 3, 3), 1, 0.3), g_random(m, "b1", SHAPE(4), 2, 0.2));
    uint32_t p = G_OP(m, "MaxPool", "p", G_OP(m, "Relu", "r", c1));
    node_set_ints(m, g_maker(m, p), "kernel_shape", (int64_t[]){2, 2}, 2);
    node_set_ints(m, g_maker(m, p), "strides", (int64_t[]){2, 2}, 2);
    uint32_t c2 = G_OP(m, "Conv", "c2", p, g_random(m, "w2", SHAPE(6, 4, 1, 1), 3, 0.5));
    uint32_t y = G_OP(m, "Gemm", "fc", G_OP(m, "Flatten", "f", c2), g_random(m, "w3", SHAPE(24, 5), 4, 0.3),
                      g_random(m, "b3", SHAPE(5), 5, 0.5));
    if (softmax)
        y = G_OP(m, "Softmax", "s", y);
    g_output(m, y);
    return m;
}

static void test_whole_network(void **state)
{
    (void)state;
    struct model *m = network(13, true), *was = model_clone(m, NULL);
    struct tensor x = {0};
    double lo, hi;
    g_fill(&x, SHAPE(8, 2, 6, 6), 9, 1);
    struct g_done done = g_apply(m, "quantize.static isa=vnni calibrator=minmax", &x);
    const struct node *c1 = g_made(m, "r"), *c2 = g_made(m, "c2"), *fc = g_made(m, "fc");
    assert_string_equal(c1->name, "c1"); /* the Relu is absorbed: its value is the convolution's now */
    assert_int_equal(g_count(m, "Relu"), 0);
    range_of(was, "x", &x, &lo, &hi);
    expect_uint8(m, c1, 0, lo, hi);
    range_of(was, "r", &x, &lo, &hi);
    g_near(lo, 0, 0);
    expect_uint8(m, g_made(m, "p"), 0, 0, hi);
    /* MaxPool and Flatten re-use the scale and zero point they read */
    struct pair before = pair_at(m, g_made(m, "p"), 0), after = pair_at(m, c2, 0);
    assert_int_equal(before.scale_id, after.scale_id);
    assert_int_equal(before.zero_id, after.zero_id);
    assert_int_equal(pair_at(m, g_made(m, "f"), 0).scale_id, pair_at(m, fc, 0).scale_id);
    /* weights: max|w| / 127 of each output channel; codes to the nearest; bias: s_x s_w, no zero point */
    struct pair w = pair_at(m, c1, 1), b = pair_at(m, c1, 2);
    const struct tensor *w1 = value_const(was, g_value(was, "w1")), *b1 = value_const(was, g_value(was, "b1"));
    double sx = (double)tensor_f32(pair_at(m, c1, 0).scale)[0];
    assert_int_equal(w.codes->dtype, DTYPE_INT8);
    assert_int_equal(b.codes->dtype, DTYPE_INT32);
    assert_null(b.zero);
    assert_null(w.zero); /* int8 is symmetric, and integer convolutions do without; Gemm's kernel wants one */
    assert_int_equal(((int8_t *)pair_at(m, fc, 1).zero->data)[4], 0);
    for (int o = 0; o < 4; o++) {
        double largest = 0, s = (double)tensor_f32(w.scale)[o];
        for (int k = 0; k < 18; k++)
            largest = fmax(largest, fabs((double)tensor_f32(w1)[o * 18 + k]));
        g_near(s, largest / 127, 1e-6 * largest);
        for (int k = 0; k < 18; k++)
            /* the nearest code or the second nearest: errors of a kernel are made to cancel */
            g_near(((int8_t *)w.codes->data)[o * 18 + k], (double)tensor_f32(w1)[o * 18 + k] / s, 1.001);
        g_near(tensor_f32(b.scale)[o], sx * s, 1e-6 * sx * s);
        g_near(((int32_t *)b.codes->data)[o], (double)tensor_f32(b1)[o] / (sx * s), 0.51);
    }
    assert_int_equal(node_attr_int(g_source(m, c1, 1), "axis", 1), 0);
    assert_int_equal(node_attr_int(g_source(m, fc, 1), "axis", 1), 1); /* transB = 0: columns */
    /* the scores stay in float, and the report says why */
    assert_string_equal(g_made(m, "s")->op_type, "Softmax");
    assert_false(is_quantized(m, g_made(m, "s"), 0));
    const char *why = json_string_value(json_object_get(json_object_get(g_row(&done, "fc"), "after"), "output"));
    assert_non_null(why);
    assert_non_null(strstr(why, "float32"));
    assert_true(g_error(was, m, &x, 0) < 0.05);
    g_done(&done);
    tensor_fini(&x);
    model_free(was);
    model_free(m);
}

/* Who may go: Relu and Clip whose lowest output is the lowest code. */
static void test_absorbed(void **state)
{
    (void)state;
    const struct {
        const char *op, *step;
        float low;
        bool gone;
    } cases[] = {
        {"Relu", "quantize.static", 0, true},
        {"Relu", "quantize.static activations=int8", 0, true}, /* its zero point is -128, the lowest code */
        {"Relu", "quantize.static symmetric=true", 0, false},
        {"Relu", "quantize.static activations=int8 symmetric=true", 0, false},
        {"Clip", "quantize.static", 0, true},
        {"Clip", "quantize.static", -1, false},
        {"LeakyRelu", "quantize.static", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = g_new(13);
        uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 4));
        uint32_t a = G_OP(m, "Gemm", "a", x, g_random(m, "wa", SHAPE(4, 8), 1, 1)), r;
        float low = cases[i].low, high = 6;
        if (!strcmp(cases[i].op, "Clip"))
            r = G_OP(m, "Clip", "r", a, g_const(m, "low", SHAPE_SCALAR, &low), g_const(m, "high", SHAPE_SCALAR, &high));
        else
            r = g_node(m, cases[i].op, "r", &a, 1);
        g_output(m, G_OP(m, "Gemm", "y", r, g_random(m, "wy", SHAPE(8, 3), 2, 1)));
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(16, 4), 3, 3);
        struct g_done done = g_apply(m, cases[i].step, &t);
        assert_int_equal(g_count(m, cases[i].op), cases[i].gone ? 0 : 1);
        if (!strcmp(cases[i].op, "Clip") && cases[i].gone) /* saturation clips at 6 too */
            g_near(tensor_f32(pair_at(m, g_made(m, "y"), 0).scale)[0], 6.0 / 255, 1e-6);
        assert_true(is_quantized(m, g_made(m, "y"), 0));
        assert_true(g_error(was, m, &t, 0) < 0.05);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* A tiny weight with a large bias: |b| / (s_x s_w) must fit into int32, so the weight's scale grows (and the weight,
 * which the bias drowns, loses its digits). */
static void test_scale_guard(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 3));
    const float w[6] = {1e-8f, 0.5f, -1e-8f, 0.25f, 0, -0.5f}, b[2] = {1e5f, 0.5f};
    g_output(m, G_OP(m, "Gemm", "y", x, g_const(m, "w", SHAPE(3, 2), w), g_const(m, "b", SHAPE(2), b)));
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(8, 3), 4, 1);
    struct g_done done = g_apply(m, "quantize.static isa=vnni calibrator=minmax", &t);
    struct pair wp = pair_at(m, g_made(m, "y"), 1), bp = pair_at(m, g_made(m, "y"), 2);
    double sx = (double)tensor_f32(pair_at(m, g_made(m, "y"), 0).scale)[0];
    assert_true((double)tensor_f32(wp.scale)[0] >= 1e5 / (sx * 2147483647.0));
    g_near(tensor_f32(wp.scale)[1], 0.5 / 127, 1e-8); /* the other channel is as always */
    for (int o = 0; o < 2; o++) {
        int32_t code = ((int32_t *)bp.codes->data)[o];
        assert_true(code < INT32_MAX);
        double step = (double)tensor_f32(bp.scale)[o];
        g_near((double)code * step, (double)b[o], 0.51 * step + 1e-7 * (double)b[o]);
    }
    assert_true(g_error(was, m, &t, 0) < 1e-5);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* Two products read one weight and one bias with inputs of different scales: one int8 tensor, two int32 ones. */
static void test_shared(void **state)
{
    (void)state;
    for (int in_constant = 0; in_constant < 2; in_constant++) {
        struct model *m = g_new(13);
        float three = 3;
        uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 4)), w, b;
        if (in_constant) { /* the weight is the tensor of a Constant node */
            uint32_t made = g_random(m, "w0", SHAPE(4, 4), 1, 1);
            struct weight *held = model_new_weight(m);
            assert_non_null(held);
            tensor_ref(&held->tensor, value_const(m, made));
            model_remove_value(m, made);
            w = g_node(m, "Constant", "w", NULL, 0);
            struct node *n = &m->nodes[g_maker(m, w)];
            n->attr = model_alloc(m, 1, sizeof *n->attr);
            n->n_attr = 1;
            struct weight **list = model_alloc(m, 1, sizeof *list);
            list[0] = held;
            n->attr[0] = (struct attr){.name = "value", .type = ATTR_TENSOR, .has_type = true, .count = 1};
            n->attr[0].tensors = list;
        } else {
            w = g_random(m, "w", SHAPE(4, 4), 1, 1);
        }
        b = g_random(m, "b", SHAPE(4), 2, 1);
        uint32_t big = G_OP(m, "Mul", "big", x, g_const(m, "three", SHAPE_SCALAR, &three));
        uint32_t p = G_OP(m, "Gemm", "p", x, w, b), q = G_OP(m, "Gemm", "q", big, w, b);
        g_output(m, p);
        g_output(m, q);
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(16, 4), 5, 1);
        struct g_done done = g_apply(m, "quantize.static", &t);
        struct pair wp = pair_at(m, g_made(m, "p"), 1), wq = pair_at(m, g_made(m, "q"), 1);
        struct pair bp = pair_at(m, g_made(m, "p"), 2), bq = pair_at(m, g_made(m, "q"), 2);
        assert_int_equal(wp.codes_id, wq.codes_id);
        assert_int_equal(wp.codes->dtype, DTYPE_INT8);
        assert_int_not_equal(bp.codes_id, bq.codes_id);
        const float *bias = tensor_f32(value_const(was, g_value(was, "b")));
        for (int k = 0; k < 4; k++) {
            g_near(tensor_f32(bq.scale)[k], 3 * tensor_f32(bp.scale)[k], 1e-5);
            double sp = (double)tensor_f32(bp.scale)[k], sq = (double)tensor_f32(bq.scale)[k];
            g_near(((int32_t *)bp.codes->data)[k], (double)bias[k] / sp, 0.51);
            g_near(((int32_t *)bq.codes->data)[k], (double)bias[k] / sq, 0.51);
        }
        assert_true(g_error(was, m, &t, 0) < 0.02 && g_error(was, m, &t, 1) < 0.02);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* Channels of zeros and of 1e-30: scales are normal numbers, zeros stay zeros, nothing becomes infinite. */
static void test_extreme_channels(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2));
    const float w[8] = {0, 1e-30f, 1, 0, 0, -1e-30f, 0.5f, 0}, b[4] = {0, 0, 0, 2};
    g_output(m, G_OP(m, "Gemm", "y", x, g_const(m, "w", SHAPE(2, 4), w), g_const(m, "b", SHAPE(4), b)));
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(8, 2), 6, 1);
    struct g_done done = g_apply(m, "quantize.static", &t);
    struct pair wp = pair_at(m, g_made(m, "y"), 1), bp = pair_at(m, g_made(m, "y"), 2);
    for (int o = 0; o < 4; o++)
        assert_true(tensor_f32(wp.scale)[o] >= FLT_MIN && tensor_f32(bp.scale)[o] >= FLT_MIN);
    assert_int_equal(((int8_t *)wp.codes->data)[0], 0);
    assert_int_equal(((int8_t *)wp.codes->data)[1], 127);
    assert_int_equal(((int8_t *)wp.codes->data)[5], -127);
    g_near((double)((int32_t *)bp.codes->data)[3] * (double)tensor_f32(bp.scale)[3], 2, 1e-6);
    assert_true(g_error(was, m, &t, 0) < 0.02);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* Scales per channel need opset 13, one scale 10: raised by the least, and said so. Old files list initializers among
 * the inputs: from IR 4 on that would make defaults of them. */
static void test_opset(void **state)
{
    (void)state;
    const struct {
        int64_t opset, ir, opset_after, ir_after;
        const char *step;
    } cases[] = {
        {9, 3, 13, 7, "quantize.static"},  {9, 3, 10, 5, "quantize.static per_channel=false"},
        {9, 8, 13, 8, "quantize.static"},  {11, 6, 11, 6, "quantize.static per_channel=false"},
        {13, 7, 13, 7, "quantize.static"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = network(cases[i].opset, true);
        m->ir_version = cases[i].ir;
        if (cases[i].opset == 9) {
            const char *const names[] = {"w1", "b1", "w2", "w3", "b3"};
            for (size_t k = 0; k < 5; k++)
                g_list(m, g_value(m, names[k]), value_const(m, g_value(m, names[k]))->shape);
        }
        struct model *was = network(13, true);
        struct tensor t = {0};
        g_fill(&t, SHAPE(8, 2, 6, 6), 7, 1);
        struct g_done done = g_apply(m, cases[i].step, &t);
        assert_int_equal(model_opset(m, ""), cases[i].opset_after);
        assert_int_equal(m->ir_version, cases[i].ir_after);
        char sentence[64];
        snprintf(sentence, sizeof sentence, "raised from %d to %d", (int)cases[i].opset, (int)cases[i].opset_after);
        g_expect_warning(&done, sentence, cases[i].opset != cases[i].opset_after);
        for (int k = 0; k < model_main(m)->n_inputs; k++)
            assert_true(model_main(m)->inputs[k].value == g_value(m, "x") || m->ir_version < 4);
        bool per_channel = !strstr(cases[i].step, "false");
        struct pair w = pair_at(m, g_made(m, "r"), 1);
        assert_int_equal(tensor_count(w.scale), per_channel ? 4 : 1);
        for (int k = 0; k < model_main(m)->n_nodes && !per_channel; k++) /* DequantizeLinear has no axis before 13 */
            assert_null(node_attr(&m->nodes[model_main(m)->nodes[k]], "axis"));
        assert_true(g_error(was, m, &t, 0) < 0.05);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* Residual sum: all three of its values are quantized. What cannot be quantized says why. */
static void test_operators_and_reasons(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 4));
    uint32_t a = G_OP(m, "Gemm", "a", x, g_random(m, "wa", SHAPE(4, 4), 1, 1));
    uint32_t b = G_OP(m, "Gemm", "b", a, g_random(m, "wb", SHAPE(4, 4), 2, 1));
    uint32_t sum = G_OP(m, "Add", "sum", a, b);
    uint32_t c = G_OP(m, "Gemm", "c", sum, g_random(m, "wc", SHAPE(4, 4), 3, 1));
    uint32_t d = G_OP(m, "MatMul", "d", c, G_OP(m, "Transpose", "turned", c)); /* two activations */
    uint32_t e = G_OP(m, "MatMul", "e", d, G_OP(m, "Gemm", "left_out", sum, g_random(m, "wl", SHAPE(4, 4), 4, 1)));
    g_output(m, e);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 4), 8, 1);
    struct g_done done = g_apply(m, "quantize.static exclude=[\"left_*\"]", &t);
    const struct node *add = g_made(m, "sum");
    assert_true(is_quantized(m, add, 0) && is_quantized(m, add, 1) && is_quantized(m, g_made(m, "c"), 0));
    g_expect_skipped(&done, "d", "not a constant");
    g_expect_skipped(&done, "left_out", "not selected");
    assert_int_equal(value_const(m, g_made(m, "left_out")->input[1])->dtype, DTYPE_FLOAT);
    assert_true(g_error(was, m, &t, 0) < 0.1);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_network),         cmocka_unit_test(test_absorbed),
        cmocka_unit_test(test_scale_guard),           cmocka_unit_test(test_shared),
        cmocka_unit_test(test_extreme_channels),      cmocka_unit_test(test_opset),
        cmocka_unit_test(test_operators_and_reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
