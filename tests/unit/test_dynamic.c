/* SPDX-License-Identifier: Apache-2.0
 * quantize.dynamic: the nodes it writes, their codes and scales against the formulas, what it leaves alone and why. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

/* x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x scale * weight scale) [-> Add bias]. */
static void check_product(const struct model *m, const struct model *was, bool trans_b, float alpha, float beta,
                          bool bias, bool per_channel)
{
    const struct node *last = g_made(m, "y"), *mul = bias ? g_source(m, last, 0) : last;
    const struct tensor *w = value_const(was, g_value(was, "w"));
    if (bias) {
        assert_true(node_is(last, "Add"));
        const float *b = tensor_f32(value_const(was, g_value(was, "b"))),
                    *now = tensor_f32(value_const(m, last->input[1]));
        for (int k = 0; k < 6; k++)
            g_near((double)now[k], (double)beta * (double)b[k], 1e-6);
    }
    assert_true(node_is(mul, "Mul"));
    const struct node *cast = g_source(m, mul, 0), *scale = g_source(m, mul, 1);
    assert_true(node_is(cast, "Cast") && node_attr_int(cast, "to", 0) == DTYPE_FLOAT);
    const struct node *product = g_source(m, cast, 0), *dyn = g_source(m, product, 0);
    assert_string_equal(product->op_type, "MatMulInteger");
    assert_string_equal(dyn->op_type, "DynamicQuantizeLinear");
    assert_int_equal(dyn->input[0], g_value(m, "x"));
    assert_int_equal(product->n_input, 3); /* int8 weights with zero point 0 need none */
    assert_int_equal(product->input[2], dyn->output[2]);
    assert_true(node_is(scale, "Mul") && scale->input[0] == dyn->output[1]);
    const struct tensor *codes = value_const(m, product->input[1]), *ws = value_const(m, scale->input[1]);
    assert_int_equal(codes->dtype, DTYPE_INT8);
    assert_true(codes->shape.dim[0] == 8 && codes->shape.dim[1] == 6); /* always [K,N] */
    assert_int_equal(tensor_count(ws), per_channel ? 6 : 1);
    double all = 0, largest[6] = {0};
    for (int n = 0; n < 6; n++)
        for (int k = 0; k < 8; k++) {
            double v = (double)alpha * (double)tensor_f32(w)[trans_b ? n * 8 + k : k * 6 + n];
            largest[n] = fmax(largest[n], fabs(v));
            all = fmax(all, fabs(v));
        }
    for (int n = 0; n < 6; n++) {
        double s = (double)tensor_f32(ws)[per_channel ? n : 0];
        g_near(s, (per_channel ? largest[n] : all) / 127, 1e-6 * all);
        for (int k = 0; k < 8; k++)
            g_near(((int8_t *)codes->data)[k * 6 + n],
                   (double)alpha * (double)tensor_f32(w)[trans_b ? n * 8 + k : k * 6 + n] / s, 0.501);
    }
}

static void test_products(void **state)
{
    (void)state;
    const struct {
        const char *op;
        bool trans_b, bias;
        float alpha, beta;
    } cases[] = {
        {"MatMul", false, false, 1, 1}, {"Gemm", false, true, 1, 1},      {"Gemm", true, true, 1, 1},
        {"Gemm", true, true, 0.5f, 3},  {"Gemm", false, false, 0.25f, 1},
    };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        size_t k = i / 2;
        struct model *m = g_new(13);
        bool per_channel = i % 2 == 0;
        uint32_t in[3] = {g_input(m, "x", SHAPE(4, 8)),
                          g_random(m, "w", cases[k].trans_b ? SHAPE(6, 8) : SHAPE(8, 6), 1, 1), VALUE_NONE};
        if (cases[k].bias)
            in[2] = g_random(m, "b", SHAPE(6), 2, 1);
        uint32_t y = g_node(m, cases[k].op, "y", in, cases[k].bias ? 3 : 2);
        if (cases[k].trans_b)
            node_set_int(m, g_maker(m, y), "transB", 1);
        if (cases[k].alpha != 1)
            node_set_float(m, g_maker(m, y), "alpha", cases[k].alpha);
        if (cases[k].beta != 1)
            node_set_float(m, g_maker(m, y), "beta", cases[k].beta);
        g_output(m, y);
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, 8), 3, 1);
        struct g_done done =
            g_apply(m, per_channel ? "quantize.dynamic isa=vnni" : "quantize.dynamic isa=vnni per_channel=false", NULL);
        check_product(m, was, cases[k].trans_b, cases[k].alpha, cases[k].beta, cases[k].bias, per_channel);
        g_expect_warning(&done, "opset", false);
        assert_true(g_error(was, m, &t, 0) < 0.03);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* One DynamicQuantizeLinear serves all products that read x. */
static void test_input_quantized_once(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 8)), w1 = g_random(m, "w1", SHAPE(8, 3), 1, 1);
    uint32_t a = G_OP(m, "MatMul", "a", x, w1), b = G_OP(m, "MatMul", "b", x, g_random(m, "w2", SHAPE(8, 3), 2, 1));
    g_output(m, G_OP(m, "Add", "y", a, b));
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    assert_int_equal(g_count(m, "DynamicQuantizeLinear"), 1);
    assert_int_equal(g_count(m, "MatMulInteger"), 2);
    g_done(&done);
    model_free(m);
}

/* Conv stays in float unless asked for; then its weights are uint8 around 128 (no runtime has ConvInteger with int8),
 * the bias stands behind as [C,1,1], and a warning says that it is slow. */
static void test_conv(void **state)
{
    (void)state;
    struct model *m = g_new(11);
    uint32_t x = g_input(m, "x", SHAPE(2, 3, 5, 5));
    uint32_t y = G_OP(m, "Conv", "y", x, g_random(m, "w", SHAPE(4, 3, 3, 3), 1, 1), g_random(m, "b", SHAPE(4), 2, 1));
    node_set_ints(m, g_maker(m, y), "pads", (int64_t[]){1, 1, 1, 1}, 4);
    node_set_ints(m, g_maker(m, y), "strides", (int64_t[]){2, 2}, 2);
    g_output(m, y);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(2, 3, 5, 5), 3, 1);
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    g_expect_skipped(&done, "y", "conv=true");
    g_expect_warning(&done, "slower", false);
    assert_string_equal(g_made(m, "y")->op_type, "Conv");
    g_done(&done);
    done = g_apply(m, "quantize.dynamic conv=true", NULL);
    g_expect_warning(&done, "slower than float", true);
    const struct node *add = g_made(m, "y"), *product = g_source(m, g_source(m, g_source(m, add, 0), 0), 0);
    assert_string_equal(product->op_type, "ConvInteger");
    assert_int_equal(node_attr(product, "pads")->count, 4);
    assert_int_equal(node_attr(product, "strides")->ints[0], 2);
    const struct tensor *codes = value_const(m, product->input[1]), *zero = value_const(m, product->input[3]);
    const struct tensor *ws = value_const(m, g_source(m, g_source(m, add, 0), 1)->input[1]);
    assert_int_equal(codes->dtype, DTYPE_UINT8);
    assert_int_equal(zero->dtype, DTYPE_UINT8);
    assert_int_equal(*(unsigned char *)zero->data, 128);
    assert_true(shape_equal(&ws->shape, &SHAPE(4, 1, 1)));
    assert_true(shape_equal(&value_const(m, add->input[1])->shape, &SHAPE(4, 1, 1)));
    const float *w = tensor_f32(value_const(was, g_value(was, "w")));
    for (int k = 0; k < 4 * 27; k++)
        g_near(((unsigned char *)codes->data)[k], 128 + (double)w[k] / (double)tensor_f32(ws)[k / 27], 0.501);
    assert_true(g_error(was, m, &t, 0) < 0.03);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* DynamicQuantizeLinear came with opset 11; what has no integer form is named. */
static void test_opset_and_reasons(void **state)
{
    (void)state;
    struct model *m = g_new(9);
    m->ir_version = 4;
    float none[4] = {0};
    uint32_t x = g_input(m, "x", SHAPE(2, 8));
    uint32_t a = G_OP(m, "MatMul", "a", x, g_random(m, "w", SHAPE(8, 8), 1, 1));
    uint32_t b = G_OP(m, "MatMul", "b", g_random(m, "left", SHAPE(2, 2), 2, 1), a);
    uint32_t c = G_OP(m, "MatMul", "c", b, g_random(m, "not_me", SHAPE(8, 4), 3, 1));
    uint32_t d = G_OP(m, "Gemm", "d", c, g_const(m, "flat", SHAPE(4, 1), none), g_const(m, "zero", SHAPE(1), none));
    node_set_float(m, g_maker(m, d), "alpha", -1);
    g_output(m, d);
    struct g_done done = g_apply(m, "quantize.dynamic exclude=[\"c\"]", NULL);
    assert_int_equal(model_opset(m, ""), 11);
    assert_int_equal(m->ir_version, 6); /* the IR version that came with opset 11 */
    g_expect_warning(&done, "raised from 9 to 11", true);
    g_expect_skipped(&done, "b", "on the left");
    g_expect_skipped(&done, "c", "not selected");
    g_expect_skipped(&done, "d", "not positive");
    assert_int_equal(g_count(m, "MatMulInteger"), 1);
    g_done(&done);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_input_quantized_once),
                                       cmocka_unit_test(test_conv), cmocka_unit_test(test_opset_and_reasons)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
