/* SPDX-License-Identifier: Apache-2.0
 * graph.optimize: each pass on the smallest graph that needs it; the nodes that must be left, the same values by the
 * engine, names of outputs and notes kept. (BatchNormalization: test_fold_bn.c.) */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

static uint32_t with_perm(struct model *m, uint32_t y, int64_t a, int64_t b, int64_t c, int64_t d)
{
    node_set_ints(m, g_maker(m, y), "perm", (int64_t[]){a, b, c, d}, 4);
    return y;
}

/* Each build makes one output from x and returns it. */
static uint32_t noops(struct model *m, uint32_t x)
{
    uint32_t a = G_OP(m, "Relu", "a", x), i = G_OP(m, "Identity", "i", a), d = G_OP(m, "Dropout", "d", i);
    uint32_t c = G_OP(m, "Cast", "c", d);
    node_set_int(m, g_maker(m, c), "to", DTYPE_FLOAT);
    return G_OP(m, "Identity", "y", with_perm(m, G_OP(m, "Transpose", "t", c), 0, 1, 2, 3));
}

static uint32_t constants(struct model *m, uint32_t x)
{
    uint32_t w = G_OP(m, "Add", "w", g_random(m, "w1", SHAPE(4, 4), 1, 1), g_random(m, "w2", SHAPE(4, 4), 2, 1));
    return G_OP(m, "Mul", "y", x, G_OP(m, "Sqrt", "s", G_OP(m, "Abs", "absolute", w)));
}

static uint32_t two_transposes(struct model *m, uint32_t x)
{
    uint32_t t = with_perm(m, G_OP(m, "Transpose", "t", x), 0, 2, 3, 1), r = G_OP(m, "Sigmoid", "r", t);
    return G_OP(m, "Relu", "y", with_perm(m, G_OP(m, "Transpose", "u", r), 0, 3, 1, 2));
}

static uint32_t one_transpose(struct model *m, uint32_t x) /* what does not cancel becomes one */
{
    uint32_t t = with_perm(m, G_OP(m, "Transpose", "t", x), 0, 2, 3, 1);
    return G_OP(m, "Relu", "y", with_perm(m, G_OP(m, "Transpose", "u", t), 0, 1, 3, 2));
}

static uint32_t reshapes(struct model *m, uint32_t x)
{
    uint32_t f = G_OP(m, "Flatten", "f", x);
    uint32_t r = G_OP(m, "Reshape", "r", f, g_ints(m, "shape", 3, (int64_t[]){2, 12, 4}));
    return G_OP(m, "Reshape", "y", r, g_ints(m, "shape2", 2, (int64_t[]){2, 48}));
}

static uint32_t computed_shape(struct model *m, uint32_t x)
{
    int64_t one = 1, rest = -1;
    uint32_t head = G_OP(m, "Gather", "head", G_OP(m, "Shape", "shape", x), g_ints(m, "one", 1, &one));
    uint32_t target = G_OP(m, "Concat", "target", head, g_ints(m, "rest", 1, &rest));
    node_set_int(m, g_maker(m, target), "axis", 0);
    return G_OP(m, "Reshape", "y", x, target);
}

static uint32_t conv_bias(struct model *m, uint32_t x)
{
    uint32_t c = G_OP(m, "Conv", "c", x, g_random(m, "w", SHAPE(5, 3, 1, 1), 1, 1), g_random(m, "b", SHAPE(5), 2, 1));
    uint32_t more = G_OP(m, "Add", "more", c, g_random(m, "plus", SHAPE(1, 5, 1, 1), 3, 1));
    float minus = 0.25f;
    return G_OP(m, "Sub", "y", more, g_const(m, "minus", SHAPE_SCALAR, &minus));
}

static uint32_t matmul_bias(struct model *m, uint32_t x)
{
    uint32_t f = G_OP(m, "Flatten", "f", x), p = G_OP(m, "MatMul", "p", f, g_random(m, "w", SHAPE(48, 5), 1, 1));
    return G_OP(m, "Add", "y", g_random(m, "b", SHAPE(5), 2, 1), p); /* the constant on the left */
}

static uint32_t equal_nodes(struct model *m, uint32_t x)
{
    uint32_t a = G_OP(m, "Mul", "a", x, g_random(m, "w1", SHAPE(4), 1, 1));
    uint32_t b = G_OP(m, "Mul", "b", x, g_random(m, "w2", SHAPE(4), 1, 1)); /* the same numbers */
    return G_OP(m, "Add", "y", G_OP(m, "Tanh", "ta", a), G_OP(m, "Tanh", "tb", b));
}

static uint32_t dead(struct model *m, uint32_t x)
{
    G_OP(m, "Sigmoid", "nobody", G_OP(m, "Exp", "reads", x));
    return G_OP(m, "Relu", "y", x);
}

static uint32_t slices(struct model *m, uint32_t x)
{
    int64_t zero = 0, end = INT64_MAX, pads[8] = {0};
    uint32_t s = G_OP(m, "Slice", "s", x, g_ints(m, "from", 1, &zero), g_ints(m, "to", 1, &end));
    return G_OP(m, "Relu", "y", G_OP(m, "Pad", "p", s, g_ints(m, "pads", 8, pads)));
}

static uint32_t must_stay(struct model *m, uint32_t x) /* looks removable, is not */
{
    int64_t one = 1, end = INT64_MAX;
    uint32_t s = G_OP(m, "Slice", "s", x, g_ints(m, "from", 1, &one), g_ints(m, "to", 1, &end));
    uint32_t c = G_OP(m, "Cast", "c", s), back;
    node_set_int(m, g_maker(m, c), "to", DTYPE_INT32);
    back = G_OP(m, "Cast", "back", c); /* rounds towards zero in between */
    node_set_int(m, g_maker(m, back), "to", DTYPE_FLOAT);
    uint32_t t = with_perm(m, G_OP(m, "Transpose", "t", back), 0, 2, 3, 1);
    return G_OP(m, "Softmax", "y", t);
}

static void test_passes(void **state)
{
    (void)state;
    const struct {
        uint32_t (*build)(struct model *, uint32_t);
        const char *left; /* op types in order */
        const char *pass; /* whose row must be in the report; NULL: none changed anything */
    } cases[] = {
        {noops, "Relu", "remove_noops"},
        {constants, "Mul", "fold_constants"},
        {two_transposes, "Sigmoid Relu", "transposes"},
        {one_transpose, NULL, "transposes"},
        {reshapes, "Reshape", "reshapes"},
        {computed_shape, "Reshape", NULL},
        {conv_bias, "Conv", "add_bias"},
        {matmul_bias, "Flatten Gemm", "add_bias"},
        {equal_nodes, "Mul Tanh Add", "merge_common"},
        {dead, "Relu", "dead_code"},
        {slices, "Relu", "remove_noops"},
        {must_stay, "Slice Cast Cast Transpose Softmax", NULL},
    };
    struct tensor x = {0};
    g_fill(&x, SHAPE(2, 3, 4, 4), 3, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = g_new(13);
        g_output(m, cases[i].build(m, g_input(m, "x", SHAPE(2, 3, 4, 4))));
        struct model *was = model_clone(m, NULL);
        struct g_done done = g_apply(m, "graph.optimize", NULL);
        char left[256] = "";
        for (int k = 0; k < model_main(m)->n_nodes; k++)
            snprintf(left + strlen(left), sizeof left - strlen(left), "%s%s", k ? " " : "",
                     m->nodes[model_main(m)->nodes[k]].op_type);
        if (cases[i].left)
            assert_string_equal(left, cases[i].left);
        else
            assert_int_equal(g_count(m, "Transpose"), 1);
        if (cases[i].pass)
            assert_non_null(g_row(&done, cases[i].pass));
        assert_string_equal(m->values[model_main(m)->outputs[0].value].name, "y");
        assert_true(g_error(was, m, &x, 0) < 1e-6);
        /* a second run finds nothing: the fixed point was reached */
        int nodes = model_main(m)->n_nodes;
        struct g_done again = g_apply(m, "graph.optimize", NULL);
        assert_int_equal(model_main(m)->n_nodes, nodes);
        assert_int_equal(json_array_size(again.layers), 1); /* the totals */
        g_done(&again);
        g_done(&done);
        model_free(was);
        model_free(m);
    }
    tensor_fini(&x);
}

/* Every output keeps its name and its numbers: a value that is an output twice over, an output that others read, an
 * output next to its equal, an input as output. */
static void test_output_names(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 4)), r = G_OP(m, "Relu", "r", x);
    g_output(m, r);
    g_output(m, G_OP(m, "Identity", "r2", r));
    g_output(m, G_OP(m, "Relu", "same", x));
    g_output(m, G_OP(m, "Identity", "x2", x));
    g_output(m, G_OP(m, "Identity", "c", g_random(m, "w", SHAPE(4), 1, 1)));
    g_output(m, G_OP(m, "Tanh", "t", r));
    static const char *const names[] = {"r", "r2", "same", "x2", "c", "t"};
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(2, 4), 5, 1);
    struct g_done done = g_apply(m, "graph.optimize", NULL);
    assert_int_equal(model_main(m)->n_outputs, 6);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(m->values[model_main(m)->outputs[i].value].name, names[i]);
        assert_true(g_error(was, m, &t, i) == 0);
    }
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* A mask on a weight moves with it into what takes its place; weights with different notes are not merged. */
static void test_notes(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 4)), w = g_random(m, "w", SHAPE(4, 4), 1, 1),
             v = g_random(m, "v", SHAPE(4, 4), 1, 1);
    struct tensor mask = {0};
    assert_int_equal(tensor_alloc(&mask, DTYPE_BOOL, &SHAPE(4, 4), NULL), 0);
    memset(mask.data, 1, mask.bytes);
    value_set_note(m, w, "mask", NULL, &mask);
    tensor_fini(&mask);
    uint32_t p = G_OP(m, "Add", "p", G_OP(m, "MatMul", "mm", x, w), g_random(m, "b", SHAPE(4), 2, 1));
    uint32_t q = G_OP(m, "MatMul", "q", p, G_OP(m, "Identity", "same", v));
    g_output(m, q);
    struct g_done done = g_apply(m, "graph.optimize", NULL);
    const struct node *gemm = g_made(m, "p");
    assert_string_equal(gemm->op_type, "Gemm");
    assert_non_null(value_note(m, gemm->input[1], "mask"));
    assert_int_not_equal(gemm->input[1], g_made(m, "q")->input[1]);
    assert_null(value_note(m, g_made(m, "q")->input[1], "mask"));
    g_done(&done);
    model_free(m);
}

/* A long chain of everything at once ends, in a few rounds, with the one node that does something. */
static void test_fixed_point(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t v = g_input(m, "x", SHAPE(2, 3, 4, 4));
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%d", i);
        v = i % 4 == 0   ? with_perm(m, G_OP(m, "Transpose", name, v), 0, 2, 3, 1)
            : i % 4 == 1 ? G_OP(m, "Relu", name, v)
            : i % 4 == 2 ? with_perm(m, G_OP(m, "Transpose", name, v), 0, 3, 1, 2)
                         : G_OP(m, "Identity", name, v);
    }
    g_output(m, v);
    struct model *was = model_clone(m, NULL);
    struct tensor x = {0};
    g_fill(&x, SHAPE(2, 3, 4, 4), 3, 1);
    struct g_done done = g_apply(m, "graph.optimize", NULL);
    assert_int_equal(g_count(m, "Transpose") + g_count(m, "Identity"), 0);
    assert_true(model_main(m)->n_nodes <= 50);
    assert_true(g_error(was, m, &x, 0) == 0);
    g_done(&done);
    tensor_fini(&x);
    model_free(was);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_passes), cmocka_unit_test(test_output_names),
                                       cmocka_unit_test(test_notes), cmocka_unit_test(test_fixed_point)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
