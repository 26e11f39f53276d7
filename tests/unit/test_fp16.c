/* SPDX-License-Identifier: Apache-2.0
 * quantize.fp16: where the casts are, which weights become float16 (to the nearest: half precision has 11 bits), what
 * stays in float and why. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

static enum dtype dtype_at(const struct model *m, const char *node, int slot)
{
    const struct node *n = g_made(m, node);
    if (node_is(n, "Cast")) /* of a model's output */
        n = g_source(m, n, 0);
    const struct tensor *t = value_const(m, n->input[slot]);
    assert_non_null(t);
    return t->dtype;
}

/* No cast reads a cast, and none is doubled. */
static void no_chains(const struct model *m)
{
    for (int i = 0; i < model_main(m)->n_nodes; i++) {
        const struct node *n = &m->nodes[model_main(m)->nodes[i]];
        uint32_t p = node_is(n, "Cast") ? m->values[n->input[0]].producer : NODE_NONE;
        assert_false(p != NODE_NONE && node_is(&m->nodes[p], "Cast"));
        for (int k = 0; k < i && node_is(n, "Cast"); k++) {
            const struct node *o = &m->nodes[model_main(m)->nodes[k]];
            assert_false(node_is(o, "Cast") && o->input[0] == n->input[0]);
        }
    }
}

/* x -> Gemm a -> Relu r -> Gemm b -> y; r is read twice. */
static struct model *chain(double scale_b)
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 8));
    uint32_t a = G_OP(m, "Gemm", "a", x, g_random(m, "wa", SHAPE(8, 8), 1, 0.3), g_random(m, "ba", SHAPE(8), 2, 0.1));
    uint32_t r = G_OP(m, "Relu", "r", a), b = G_OP(m, "Gemm", "b", r, g_random(m, "wb", SHAPE(8, 8), 3, scale_b));
    g_output(m, G_OP(m, "Add", "y", b, r));
    return m;
}

static void test_boundaries(void **state)
{
    (void)state;
    struct model *m = chain(0.3), *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 8), 4, 1);
    struct g_done done = g_apply(m, "quantize.fp16", NULL);
    assert_int_equal(g_count(m, "Cast"), 2); /* behind x, in front of y */
    assert_true(node_is(g_made(m, "y"), "Cast") && node_attr_int(g_made(m, "y"), "to", 0) == DTYPE_FLOAT);
    const struct node *in = g_source(m, g_made(m, "a"), 0);
    assert_true(node_is(in, "Cast") && in->input[0] == g_value(m, "x"));
    assert_int_equal(node_attr_int(in, "to", 0), DTYPE_FLOAT16);
    assert_true(dtype_at(m, "a", 1) == DTYPE_FLOAT16 && dtype_at(m, "a", 2) == DTYPE_FLOAT16);
    assert_int_equal(dtype_at(m, "b", 1), DTYPE_FLOAT16);
    assert_int_equal(model_main(m)->inputs[0].type.dtype, DTYPE_FLOAT);
    const struct tensor *w = value_const(was, g_value(was, "wa")), *half = value_const(m, g_made(m, "a")->input[1]);
    for (int i = 0; i < 64; i++) { /* half a unit in the last of 11 bits */
        double v = (double)tensor_f32(w)[i];
        g_near(dtype_get(DTYPE_FLOAT16, half->data, i), v, fabs(v) / 2048 + 1e-7);
    }
    no_chains(m);
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);

    m = chain(0.3);
    done = g_apply(m, "quantize.fp16 keep_io=false", NULL);
    assert_int_equal(g_count(m, "Cast"), 0);
    assert_int_equal(model_main(m)->inputs[0].type.dtype, DTYPE_FLOAT16);
    g_done(&done);
    model_free(m);
}

/* A weight beyond 65504, or one all of whose numbers are below the smallest normal half, stays float32. */
static void test_weights_that_do_not_fit(void **state)
{
    (void)state;
    const struct {
        double scale;
        const char *why;
    } cases[] = {{1e6, "larger than 65504"}, {1e-7, "below 6.1e-05"}};
    for (size_t i = 0; i < 2; i++) {
        struct model *m = chain(cases[i].scale), *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, 8), 5, 1);
        struct g_done done = g_apply(m, "quantize.fp16", NULL);
        g_expect_skipped(&done, "b", cases[i].why);
        assert_int_equal(dtype_at(m, "b", 1), DTYPE_FLOAT);
        assert_int_equal(dtype_at(m, "a", 1), DTYPE_FLOAT16);
        no_chains(m);
        if (i == 1) /* 1e6 itself overflows where the sum is half: data would have said so */
            assert_true(g_error(was, m, &t, 0) < 1e-2);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* With data, nodes whose numbers come near the largest half stay in float: the result is finite. */
static void test_activations_that_do_not_fit(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    float big = 60000;
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 8));
    uint32_t a = G_OP(m, "Gemm", "a", x, g_random(m, "wa", SHAPE(8, 8), 1, 1));
    uint32_t wide = G_OP(m, "Mul", "wide", a, g_const(m, "big", SHAPE_SCALAR, &big));
    uint32_t back = G_OP(m, "Div", "back", wide, g_const(m, "big2", SHAPE_SCALAR, &big));
    g_output(m, G_OP(m, "Gemm", "y", back, g_random(m, "wy", SHAPE(8, 2), 2, 1)));
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(16, 8), 6, 1);
    struct g_done done = g_apply(m, "quantize.fp16", &t);
    g_expect_skipped(&done, "wide", "near 65504");
    g_expect_skipped(&done, "back", "near 65504");
    assert_int_equal(dtype_at(m, "y", 1), DTYPE_FLOAT16);
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    no_chains(m);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* Operators without a half form, or of another domain, or left out by name: float, with the reason; movers follow. */
static void test_left_in_float(void **state)
{
    (void)state;
    struct model *m = g_new(11); /* CumSum takes halves from 14 on */
    int64_t one = 1;
    uint32_t x = g_input(m, "x", SHAPE(4, 8)), axis = g_ints(m, "axis", 1, &one);
    uint32_t a = G_OP(m, "MatMul", "a", x, g_random(m, "wa", SHAPE(8, 8), 1, 0.3));
    uint32_t sum = G_OP(m, "CumSum", "sum", a, axis), turned = G_OP(m, "Transpose", "turned", sum);
    uint32_t b = G_OP(m, "MatMul", "b", g_random(m, "wb", SHAPE(8, 8), 2, 0.3), turned);
    uint32_t c = G_OP(m, "MatMul", "c", g_random(m, "wc", SHAPE(8, 8), 3, 0.3), b);
    g_output(m, c);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 8), 7, 1);
    struct g_done done = g_apply(m, "quantize.fp16 exclude=[\"c\"]", NULL);
    g_expect_skipped(&done, "sum", "no float16 form");
    g_expect_skipped(&done, "c", "not selected");
    assert_string_equal(g_source(m, g_made(m, "turned"), 0)->op_type, "CumSum"); /* moves floats: no cast between */
    assert_int_equal(dtype_at(m, "c", 0), DTYPE_FLOAT);
    assert_int_equal(dtype_at(m, "b", 0), DTYPE_FLOAT16);
    no_chains(m);
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boundaries), cmocka_unit_test(test_weights_that_do_not_fit),
        cmocka_unit_test(test_activations_that_do_not_fit), cmocka_unit_test(test_left_in_float)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
