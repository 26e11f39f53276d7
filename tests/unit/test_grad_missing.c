/* SPDX-License-Identifier: Apache-2.0
 * Which operators stand in the way of training: those on the way between weights and outputs, and no others. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/engine/grad.h"
#include "tests/unit/graphs.h"

enum { K = 6 };

static uint32_t product(struct model *m, const char *name, uint32_t x, uint64_t seed)
{
    char w[32];
    snprintf(w, sizeof w, "%s.w", name);
    return G_OP(m, "MatMul", name, x, g_random(m, w, SHAPE(K, K), seed, 0.3));
}

static void expect(struct model *m, const char *want)
{
    struct err err = {0};
    struct missing_ops list;
    char text[400];
    if (engine_missing_gradients(m, &list, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(missing_ops_text(&list, text, sizeof text), want);
    missing_ops_fini(&list);
    model_free(m);
}

static uint32_t input(struct model *m)
{
    return g_input(m, "x", SHAPE(DIM_UNKNOWN, K));
}

static void nothing_is_missing(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    g_output(m, product(m, "b", G_OP(m, "Relu", "r", product(m, "a", input(m), 1)), 2));
    expect(m, "");
}

/* Hardmax has no backward: between two products it is in the way of the first. */
static void between_weights_and_output(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    uint32_t h = G_OP(m, "Trilu", "t", G_OP(m, "Hardmax", "s", product(m, "a", input(m), 1)));
    g_output(m, product(m, "b", G_OP(m, "Hardmax", "s2", h), 2));
    expect(m, "Hardmax (ai.onnx, opset 17) x2");
}

/* Before the first weight and behind what gives no floats nothing is to be passed. */
static void off_the_way(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    g_output(m, product(m, "a", G_OP(m, "Hardmax", "s", input(m)), 1));
    expect(m, "");
    m = g_new(17);
    uint32_t h = product(m, "a", input(m), 1);
    G_OP(m, "Hardmax", "unused", h);
    g_output(m, h);
    g_output(m, G_OP(m, "Shape", "shape", h));
    expect(m, "");
}

/* A loss takes one output: the other one may be what it likes. */
static void one_output_is_enough(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    uint32_t h = product(m, "a", input(m), 1);
    g_output(m, G_OP(m, "Hardmax", "rounded", h));
    g_output(m, h);
    expect(m, "");
}

/* An If whose branch reads what a weight made. */
static void nested_graphs_are_in_the_way(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    uint32_t h = product(m, "a", input(m), 1), y = model_add_value(m, 0, "y", false);
    struct tensor yes = {0};
    assert_int_equal(tensor_alloc(&yes, DTYPE_BOOL, &SHAPE_SCALAR, NULL), 0);
    const uint32_t b = g_input(m, "b", SHAPE(K));
    uint32_t cond = model_add_value(m, 0, "cond", false);
    const uint32_t size = G_OP(m, "ReduceSum", "sum", b), zero = g_const(m, "zero", SHAPE(1), (float[]){0});
    const uint32_t in[] = {size, zero};
    model_add_node(m, 0, "Greater", NULL, "greater", in, 2, &cond, 1);
    node_set_int(m, g_maker(m, size), "keepdims", 0);
    const uint32_t holder = model_add_node(m, 0, "If", NULL, "if", &cond, 1, &y, 1);
    struct attr *branches = model_alloc(m, 2, sizeof *branches);
    for (int i = 0; i < 2; i++) {
        const uint32_t g = model_add_graph(m, 0, holder);
        const uint32_t out = model_add_value(m, g, i ? "no" : "yes", true);
        uint32_t *ids = model_alloc(m, 1, sizeof *ids);
        struct value_info *outputs = model_alloc(m, 1, sizeof *outputs);
        model_add_node(m, g, i ? "Neg" : "Identity", NULL, i ? "n" : "i", &h, 1, &out, 1);
        outputs[0] =
            (struct value_info){.value = out, .has_type = true, .type = type_tensor(DTYPE_FLOAT, &SHAPE_UNKNOWN)};
        m->graphs[g].outputs = outputs;
        m->graphs[g].n_outputs = 1;
        m->graphs[g].name = i ? "else" : "then";
        ids[0] = g;
        branches[i] = (struct attr){
            .name = i ? "else_branch" : "then_branch", .type = ATTR_GRAPH, .has_type = true, .count = 1, .graphs = ids};
    }
    m->nodes[holder].attr = branches;
    m->nodes[holder].n_attr = 2;
    g_output(m, y);
    tensor_fini(&yes);
    expect(m, "If (ai.onnx, opset 17) x1");
}

/* What cannot run is another question's answer. */
static void an_unknown_operator_is_not_counted(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    g_output(m, G_OP(m, "Frobnicate", "f", product(m, "a", input(m), 1)));
    expect(m, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_missing),
        cmocka_unit_test(between_weights_and_output),
        cmocka_unit_test(off_the_way),
        cmocka_unit_test(one_output_is_enough),
        cmocka_unit_test(nested_graphs_are_in_the_way),
        cmocka_unit_test(an_unknown_operator_is_not_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
