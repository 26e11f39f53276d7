/* SPDX-License-Identifier: Apache-2.0
 * quantize.fp16 and quantize.bf16: where the casts are, which weights become float16 (to the nearest: half
 * precision has 11 bits), what is counted of the activations, what stays in float and why. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/quant/half_ranges.h"
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
    g_expect_skipped(&done, "wide", "beyond 65504");
    g_expect_skipped(&done, "back", "beyond 65504");
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

/* The counts against the definition, element by element: largest float16 65504, smallest normal 2^-14, zero at
 * 2^-25. */
static void test_counts(void **state)
{
    (void)state;
    const float x[] = {0, -0.0f, 1, -65504, 65505, 1e30f, INFINITY, -INFINITY, NAN, 6.103515625e-05f, 6.1e-05f,
                       -1e-6f, 3.0e-8f,
                       2.98023223876953125e-08f, 1e-30f, 1e-45f};
    struct half_seen s = {0};
    half_seen_add(&s, x, sizeof x / sizeof x[0]);
    assert_int_equal(s.count, 13);
    assert_int_equal(s.nonzero, 11);
    assert_int_equal(s.overflow, 2);
    assert_int_equal(s.underflow, 6);
    assert_int_equal(s.vanished, 3);
    assert_true(s.largest == 1e30f);
    float many[5000];
    for (int i = 0; i < 5000; i++)
        many[i] = i % 5 == 0 ? 1e5f : i % 5 == 1 ? 1e-7f : 1;
    s = (struct half_seen){0};
    half_seen_add(&s, many, 5000);
    assert_true(s.count == 5000 && s.overflow == 1000 && s.underflow == 1000 && s.vanished == 0);
}

/* Shares stand in the report; a layer most of whose numbers are below the normal range stays in float, or not, by
 * the limit. */
static void test_underflow(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct model *m = g_new(13);
        float small = 1e-6f;
        uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 8));
        uint32_t a = G_OP(m, "Gemm", "a", x, g_random(m, "wa", SHAPE(8, 8), 1, 1));
        uint32_t tiny = G_OP(m, "Mul", "tiny", a, g_const(m, "small", SHAPE_SCALAR, &small));
        uint32_t back = G_OP(m, "Div", "back", tiny, g_const(m, "small2", SHAPE_SCALAR, &small));
        g_output(m, G_OP(m, "Gemm", "y", back, g_random(m, "wy", SHAPE(8, 2), 2, 1)));
        struct tensor t = {0};
        g_fill(&t, SHAPE(16, 8), 6, 1);
        struct g_done done = g_apply(m, i ? "quantize.fp16 max_underflow=1" : "quantize.fp16", &t);
        json_t *row = json_object_get(g_row(&done, "a"), "after");
        assert_true(json_number_value(json_object_get(row, "activations_to")) > 1);
        g_near(json_number_value(json_object_get(row, "overflow_share")), 0, 0);
        assert_non_null(json_object_get(row, "underflow_share"));
        if (i == 0)
            g_expect_skipped(&done, "tiny", "that are not zero are below 6.1e-05");
        g_done(&done);
        tensor_fini(&t);
        model_free(m);
    }
}

/* By operator, and by a share of overflow that is allowed. */
static void test_keep_ops(void **state)
{
    (void)state;
    struct model *m = chain(0.3), *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 8), 4, 1);
    struct g_done done = g_apply(m, "quantize.fp16 keep_ops=[\"Rel*\",\"Softmax\"]", NULL);
    g_expect_skipped(&done, "r", "keep_ops");
    assert_int_equal(dtype_at(m, "a", 1), DTYPE_FLOAT16);
    no_chains(m);
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* Casts of the model that have nothing left to do go; a value both sides read is cast once. */
static void test_own_casts(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 8)), a = G_OP(m, "MatMul", "a", x, g_random(m, "wa", SHAPE(8, 8), 1, 0.3));
    uint32_t down = g_node(m, "Cast", "down", &a, 1), up;
    node_set_int(m, g_maker(m, down), "to", DTYPE_FLOAT16);
    up = g_node(m, "Cast", "up", &down, 1);
    node_set_int(m, g_maker(m, up), "to", DTYPE_FLOAT);
    uint32_t b = G_OP(m, "MatMul", "b", up, g_random(m, "wb", SHAPE(8, 8), 2, 0.3));
    g_output(m, b);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 8), 4, 1);
    struct g_done done = g_apply(m, "quantize.fp16", NULL);
    assert_int_equal(g_count(m, "Cast"), 2); /* behind x, in front of the output */
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* A weight that float and half nodes read stays once in the file. */
static void test_weight_of_both_sides(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(8, 8)), w = g_random(m, "w", SHAPE(8, 8), 1, 0.3);
    uint32_t a = G_OP(m, "MatMul", "a", x, w), b = G_OP(m, "MatMul", "kept", a, w);
    g_output(m, b);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(8, 8), 4, 1);
    struct g_done done = g_apply(m, "quantize.fp16 exclude=[\"kept\"]", NULL);
    assert_int_equal(model_main(m)->n_initializers, 1);
    assert_int_equal(m->values[model_main(m)->initializers[0]].weight->tensor.dtype, DTYPE_FLOAT);
    g_expect_skipped(&done, "a", "must stay in float for kept");
    assert_true(g_error(was, m, &t, 0) < 1e-2);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* storage: the bytes of the weights halve, everything computes as before. */
static void test_storage(void **state)
{
    (void)state;
    const struct {
        const char *words;
        enum dtype dtype;
        double unit; /* half a unit in the last place */
    } cases[] = {{"quantize.fp16 storage=true", DTYPE_FLOAT16, 1.0 / 2048}, {"quantize.bf16", DTYPE_BFLOAT16,
        1.0 / 256}};
    for (size_t i = 0; i < 2; i++) {
        struct model *m = g_new(12);
        uint32_t x = g_input(m, "x", SHAPE(4, 16)), w = g_random(m, "w", SHAPE(16, 16), 1, 0.3);
        g_output(m, G_OP(m, "Gemm", "y", x, w, g_random(m, "b", SHAPE(16), 2, 0.1)));
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, 16), 4, 1);
        struct g_done done = g_apply(m, cases[i].words, NULL);
        g_expect_warning(&done, "raised from 12 to 13", i == 1);
        const struct node *cast = g_source(m, g_made(m, "y"), 1);
        assert_true(node_is(cast, "Cast") && node_attr_int(cast, "to", 0) == DTYPE_FLOAT);
        const struct tensor *half = value_const(m, cast->input[0]), *full = value_const(was, w);
        assert_int_equal(half->dtype, cases[i].dtype);
        assert_string_equal(m->values[cast->input[0]].name, "w");
        for (int k = 0; k < 256; k++) {
            double v = (double)tensor_f32(full)[k];
            g_near(dtype_get(cases[i].dtype, half->data, k), v, fabs(v) * cases[i].unit + 1e-7);
        }
        assert_int_equal(dtype_at(m, "y", 2), DTYPE_FLOAT); /* 16 numbers: a Cast is larger */
        assert_true(g_error(was, m, &t, 0) < 16 * cases[i].unit);
        g_done(&done);
        done = g_apply(m, cases[i].words, NULL);
        assert_int_equal(done.rc, -1);
        assert_non_null(strstr(done.err.msg, "in 16 bits already"));
        json_decref(done.layers);
        json_decref(done.warnings);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* bfloat16 activations, for runtimes that have them. */
static void test_bf16_everywhere(void **state)
{
    (void)state;
    struct model *m = chain(1e6), *was = model_clone(m, NULL); /* its range is that of float32 */
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, 8), 4, 1);
    struct g_done done = g_apply(m, "quantize.bf16 storage=false", NULL);
    assert_int_equal(g_count(m, "Cast"), 2);
    assert_int_equal(dtype_at(m, "b", 1), DTYPE_BFLOAT16);
    no_chains(m);
    assert_true(g_error(was, m, &t, 0) < 0.05);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* Bodies of If: their nodes are half, what passes the border is float, whatever the outer value is. */
static void test_nested(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 16)), w = g_random(m, "w", SHAPE(16, 16), 1, 0.3), y = model_add_value(m,
        0, "y", false);
    uint32_t first = G_OP(m, "MatMul", "first", x, w), sum = g_node(m, "ReduceSum", "sum", &x, 1);
    node_set_int(m, g_maker(m, sum), "keepdims", 0);
    uint32_t cond = G_OP(m, "Greater", "cond", sum, g_const(m, "zero", SHAPE_SCALAR, &(float){0}));
    uint32_t branch = model_add_node(m, 0, "If", NULL, "if", &cond, 1, &y, 1);
    struct attr *attr = model_alloc(m, 2, sizeof *attr);
    for (int i = 0; i < 2; i++) {
        uint32_t g = model_add_graph(m, 0, branch), *ids = model_alloc(m, 1, sizeof *ids);
        uint32_t out = model_add_value(m, g, i ? "else_y" : "then_y", false);
        assert_int_not_equal(model_add_node(m, g, "MatMul", NULL, i ? "else_mm" : "then_mm",
                                            (uint32_t[]){first, i ? w : g_random(m, "v", SHAPE(16, 16), 2, 0.3)}, 2,
                                                &out, 1),
                             NODE_NONE);
        g_declare(m, &m->graphs[g].outputs, &m->graphs[g].n_outputs, out, type_tensor(DTYPE_FLOAT, &SHAPE_UNKNOWN));
        ids[0] = g;
        attr[i] = (struct attr){.name = i ? "else_branch" : "then_branch", .type = ATTR_GRAPH, .has_type = true,
                                .count = 1,
                                .graphs = ids};
    }
    m->nodes[branch].attr = attr;
    m->nodes[branch].n_attr = 2;
    g_output(m, y);
    struct model *was = model_clone(m, NULL);
    struct g_done done = g_apply(m, "quantize.fp16", NULL);
    for (int i = 0; i < 2; i++) {
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, 16), 3, i ? 1 : -1);
        assert_true(g_error(was, m, &t, 0) < 1e-2);
        tensor_fini(&t);
    }
    for (int i = 0; i < model_main(m)->n_initializers; i++) {
        const struct tensor *t = &m->values[model_main(m)->initializers[i]].weight->tensor;
        assert_true(tensor_count(t) < 256 || t->dtype == DTYPE_FLOAT16);
    }
    g_done(&done);
    model_free(was);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boundaries), cmocka_unit_test(test_weights_that_do_not_fit),
        cmocka_unit_test(test_activations_that_do_not_fit), cmocka_unit_test(test_left_in_float),
        cmocka_unit_test(test_counts), cmocka_unit_test(test_underflow), cmocka_unit_test(test_keep_ops),
        cmocka_unit_test(test_own_casts), cmocka_unit_test(test_weight_of_both_sides), cmocka_unit_test(test_storage),
        cmocka_unit_test(test_bf16_everywhere), cmocka_unit_test(test_nested)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
