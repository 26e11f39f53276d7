/* SPDX-License-Identifier: Apache-2.0
 * Faults that only a program can make, each with its sentence. (Those a file can have: test_onnx_read.c.) */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
/* clang-format on */

#include "core/model/validate.h"

/* y = Relu(x); valid. */
static struct model *valid_model(void)
{
    struct model *m = model_new();
    assert_non_null(m);
    uint32_t x = model_add_value(m, 0, "x", false), y = model_add_value(m, 0, "y", false);
    model_add_node(m, 0, "Relu", NULL, "relu", &x, 1, &y, 1);
    struct graph *g = model_main(m);
    g->inputs = model_alloc(m, 1, sizeof *g->inputs);
    g->outputs = model_alloc(m, 2, sizeof *g->outputs);
    g->inputs[0] = (struct value_info){.value = x, .has_type = true, .type = type_tensor(DTYPE_FLOAT, &SHAPE(4))};
    g->outputs[0] = (struct value_info){.value = y};
    g->n_inputs = g->n_outputs = 1;
    m->ir_version = 8;
    m->has_ir_version = true;
    model_set_opset(m, "", 13);
    return m;
}

static void no_ir(struct model *m)
{
    m->has_ir_version = false;
}
static void new_ir(struct model *m)
{
    m->ir_version = 15;
}
static void no_opset(struct model *m)
{
    m->n_opsets = 0;
}
static void opset_zero(struct model *m)
{
    m->opsets[0].version = 0;
}
static void no_input_type(struct model *m)
{
    model_main(m)->inputs[0].has_type = false;
}

static void two_writers(struct model *m)
{
    uint32_t x = model_find_value(m, 0, "x"), y = model_find_value(m, 0, "y");
    model_add_node(m, 0, "Neg", NULL, "neg", &x, 1, &y, 1);
}

static void same_name(struct model *m)
{
    model_add_value(m, 0, "y", false);
}

static void writes_input(struct model *m)
{
    uint32_t x = model_find_value(m, 0, "x"), y = model_find_value(m, 0, "y");
    model_add_node(m, 0, "Neg", NULL, "neg", &y, 1, &x, 1);
}

static void reads_removed(struct model *m)
{
    model_remove_value(m, model_find_value(m, 0, "x"));
}

/* A value of a nested graph is not visible outside. */
static void out_of_scope(struct model *m)
{
    uint32_t inner_graph = model_add_graph(m, 0, 0), inner = model_add_value(m, inner_graph, "inner", false);
    uint32_t x = model_find_value(m, 0, "x");
    model_add_node(m, inner_graph, "Neg", NULL, "neg", &x, 1, &inner, 1);
    node_set_input(m, 0, 0, inner);
}

static void output_twice(struct model *m)
{
    struct graph *g = model_main(m);
    g->outputs[g->n_outputs++] = g->outputs[0];
}

static void huge_shape(struct model *m)
{
    model_main(m)->inputs[0].type.shape = SHAPE(INT64_MAX, 2);
}

static void recursive_functions(struct model *m)
{
    static const char *const names[] = {"F", "G"};
    m->functions = model_alloc(m, 2, sizeof *m->functions);
    m->n_functions = 2;
    for (int i = 0; i < 2; i++) {
        uint32_t body = model_add_graph(m, GRAPH_NONE, NODE_NONE), out = model_add_value(m, body, "o", false);
        m->functions[i] = (struct function){.name = names[i], .domain = "d", .body = body};
        model_add_node(m, body, names[1 - i], "d", NULL, NULL, 0, &out, 1);
    }
}

static const struct {
    void (*spoil)(struct model *m);
    const char *expected;
} rows[] = {
    {NULL, ""},
    {no_ir, "the model says no ir_version (field 1 of ModelProto); ONNX files need one from 1 to 14"},
    {new_ir, "the model has ir_version 15; the newest known is 14: export it for an older release of ONNX"},
    {no_opset, "the model imports no version of the standard operators (opset_import with an empty domain)"},
    {opset_zero, "opset_import of domain '' has version 0; versions start at 1"},
    {no_input_type, "graph input 'x' has no type"},
    {two_writers, "node 'relu' (Relu) writes 'y', which is defined elsewhere too"},
    {same_name, "the name 'y' is defined twice; names must be unique"},
    {writes_input, "node 'neg' (Neg) writes 'x', which is defined elsewhere too"},
    {reads_removed, "node 'relu' (Relu) reads '' (input 0), which no node, graph input or initializer defines"},
    {out_of_scope, "node 'relu' (Relu) reads 'inner' (input 0), which no node, graph input or initializer defines"},
    {output_twice, "graph output 'y' is listed twice"},
    {huge_shape, "graph input 'x' has shape [9223372036854775807,2]: more elements than 64 bits can count"},
    {recursive_functions, "function 'F' calls itself, directly or through others"},
};

static void test_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = {0};
        struct model *m = valid_model();
        if (rows[i].spoil)
            rows[i].spoil(m);
        assert_int_equal(model_validate(m, &err), *rows[i].expected ? -1 : 0);
        assert_string_equal(err.msg, rows[i].expected);
        assert_int_equal(err.code, *rows[i].expected ? ERR_MODEL : ERR_NONE);
        model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests_name("validate", tests, NULL, NULL);
}
