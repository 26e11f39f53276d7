/* SPDX-License-Identifier: Apache-2.0
 * The IR by itself: names, edits, uses, order, clones, notes. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
/* clang-format on */

#include "core/model/model.h"
#include "core/model/validate.h"

/* x -> Conv(x, w) -> a -> Relu -> y, and an If whose branch reads `a`. */
struct sample {
    struct model *m;
    uint32_t x, w, a, y, z, conv, relu, branch, condition, inner;
};

static struct sample sample_new(void)
{
    struct sample s = {.m = model_new()};
    struct tensor t;
    assert_non_null(s.m);
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(2, 3), NULL), 0);
    tensor_f32(&t)[0] = 5;
    s.x = model_add_value(s.m, 0, "x", false);
    s.w = model_add_weight(s.m, 0, "w", &t);
    tensor_fini(&t);
    s.a = model_add_value(s.m, 0, "a", false);
    s.y = model_add_value(s.m, 0, "y", false);
    s.z = model_add_value(s.m, 0, "z", false);
    s.conv = model_add_node(s.m, 0, "Conv", NULL, "conv", (uint32_t[]){s.x, s.w}, 2, &s.a, 1);
    s.relu = model_add_node(s.m, 0, "Relu", NULL, NULL, &s.a, 1, &s.y, 1);
    s.condition = model_add_node(s.m, 0, "If", NULL, "if", &s.y, 1, &s.z, 1);
    s.branch = model_add_graph(s.m, 0, s.condition);
    uint32_t out = model_add_value(s.m, s.branch, "out", false);
    s.inner = model_add_node(s.m, s.branch, "Neg", NULL, "neg", &s.a, 1, &out, 1);
    return s;
}

static void test_names(void **state)
{
    (void)state;
    struct sample s = sample_new();
    char label[64], name[32];
    assert_int_equal(model_find_value(s.m, 0, "a"), s.a);
    assert_int_equal(model_find_value(s.m, s.branch, "a"), s.a);
    assert_int_equal(model_find_value(s.m, 0, "out"), VALUE_NONE);
    uint32_t again = model_add_value(s.m, 0, "a", true);
    assert_string_equal(s.m->values[again].name, "a_1");
    assert_int_equal(model_rename_value(s.m, again, "renamed"), 0);
    assert_int_equal(model_find_value(s.m, 0, "a_1"), VALUE_NONE);
    assert_int_equal(model_find_value(s.m, 0, "renamed"), again);
    model_remove_value(s.m, again);
    assert_int_equal(model_find_value(s.m, 0, "renamed"), VALUE_NONE);
    for (int i = 0; i < 1000; i++) { /* the index grows */
        snprintf(name, sizeof name, "many%d", i);
        model_add_value(s.m, 0, name, false);
    }
    assert_string_equal(s.m->values[model_find_value(s.m, 0, "many777")].name, "many777");
    assert_string_equal(node_label(s.m, s.relu, label, sizeof label), "Relu -> y");
    assert_string_equal(node_label(s.m, s.conv, label, sizeof label), "conv");
    assert_int_equal(model_find_node(s.m, "neg"), s.inner);
    model_free(s.m);
}

static void test_uses(void **state)
{
    (void)state;
    struct sample s = sample_new();
    struct uses uses;
    assert_int_equal(uses_build(&uses, s.m, NULL), 0);
    assert_int_equal(uses_count(&uses, s.a), 2); /* relu, and neg in the branch */
    assert_int_equal(uses.all[uses.first[s.a]].node, s.relu);
    assert_int_equal(uses.all[uses.first[s.a] + 1].node, s.inner);
    assert_int_equal(uses_count(&uses, s.w), 1);
    assert_int_equal(uses.all[uses.first[s.w]].slot, 1);
    assert_int_equal(uses_count(&uses, s.z), 0);
    uses_fini(&uses);
    model_replace_uses(s.m, s.a, s.x, false);
    assert_int_equal(s.m->nodes[s.inner].input[0], s.x);
    model_free(s.m);
}

static void test_order(void **state)
{
    (void)state;
    struct sample s = sample_new();
    struct err err = {0};
    uint32_t order[3];
    model_move_node(s.m, s.conv, s.condition, true); /* relu, if, conv: wrong, also because of the branch */
    assert_int_equal(s.m->graphs[0].nodes[2], s.conv);
    assert_int_equal(model_toposort(s.m, 0, order, &err), 0);
    assert_int_equal(order[0], s.conv);
    assert_int_equal(order[1], s.relu);
    assert_int_equal(order[2], s.condition);
    model_move_node(s.m, s.conv, s.relu, false);
    assert_int_equal(s.m->graphs[0].nodes[0], s.conv);
    assert_int_equal(node_set_input(s.m, s.conv, 0, s.y), 0);
    assert_int_equal(model_toposort(s.m, 0, order, &err), -1);
    assert_string_equal(err.msg, "node 'Relu -> y' (Relu) is part of a cycle: its inputs depend on its own outputs");
    /* a cycle only through the nested graph: conv reads what If writes, whose branch reads conv's output */
    assert_int_equal(node_set_input(s.m, s.conv, 0, s.z), 0);
    assert_int_equal(node_set_input(s.m, s.condition, 0, s.x), 0);
    assert_int_equal(model_check_cycles(s.m, NULL), -1);
    model_free(s.m);
}

static void test_attrs(void **state)
{
    (void)state;
    struct sample s = sample_new();
    node_set_int(s.m, s.conv, "group", 2);
    node_set_ints(s.m, s.conv, "pads", (int64_t[]){1, 2}, 2);
    node_set_float(s.m, s.conv, "alpha", 0.5f);
    node_set_string(s.m, s.conv, "auto_pad", "SAME_UPPER");
    node_set_int(s.m, s.conv, "group", 3);
    const struct node *n = &s.m->nodes[s.conv];
    assert_int_equal(n->n_attr, 4);
    assert_int_equal(node_attr_int(n, "group", 0), 3);
    assert_int_equal(node_attr(n, "pads")->ints[1], 2);
    assert_float_equal(node_attr_float(n, "alpha", 0), 0.5f, 0);
    assert_string_equal(node_attr(n, "auto_pad")->strings[0].data, "SAME_UPPER");
    node_remove_attr(s.m, s.conv, "pads");
    assert_null(node_attr(n, "pads"));
    assert_int_equal(node_attr_int(n, "absent", 7), 7);
    assert_int_equal(node_set_input(s.m, s.relu, 3, s.w), 0);
    assert_int_equal(s.m->nodes[s.relu].n_input, 4);
    assert_int_equal(s.m->nodes[s.relu].input[2], VALUE_NONE);
    model_free(s.m);
}

/* A clone shares bytes until one side writes, and outlives its original. */
static void test_clone(void **state)
{
    (void)state;
    struct sample s = sample_new();
    struct err err = {0};
    struct tensor mask;
    node_set_int(s.m, s.conv, "group", 2);
    assert_int_equal(tensor_alloc(&mask, DTYPE_UINT8, &SHAPE(6), NULL), 0);
    value_set_note(s.m, s.w, "mask", NULL, &mask);
    tensor_fini(&mask);
    int batch = model_symbol(s.m, "batch");
    struct model *c = model_clone(s.m, &err);
    assert_non_null(c);
    struct weight *mine = c->values[s.w].weight, *theirs = s.m->values[s.w].weight;
    assert_ptr_equal(mine->tensor.data, theirs->tensor.data);
    assert_int_equal(tensor_writable(&mine->tensor, &err), 0);
    tensor_f32(&mine->tensor)[0] = 9;
    assert_float_equal(tensor_f32(&theirs->tensor)[0], 5, 0);
    node_set_int(c, s.conv, "group", 4);
    assert_int_equal(node_attr_int(&s.m->nodes[s.conv], "group", 0), 2);
    c->nodes[s.conv].input[0] = s.y;
    assert_int_equal(s.m->nodes[s.conv].input[0], s.x);
    assert_int_equal(model_symbol(c, "batch"), batch);
    model_free(s.m);
    assert_int_equal(model_symbol(c, "time"), batch + 1);
    assert_int_equal(value_note(c, s.w, "mask")->tensor.bytes, 6);
    assert_int_equal(model_find_value(c, 0, "a"), s.a);
    assert_string_equal(c->nodes[s.conv].op_type, "Conv");
    value_move_notes(c, s.w, s.a);
    assert_null(value_note(c, s.w, "mask"));
    assert_non_null(value_note(c, s.a, "mask"));
    model_free(c);
}

static void test_weights(void **state)
{
    (void)state;
    struct sample s = sample_new();
    struct tensor t;
    assert_int_equal(tensor_alloc(&t, DTYPE_INT8, &SHAPE(4), NULL), 0);
    assert_int_equal(value_set_weight(s.m, s.w, &t), 0);
    tensor_fini(&t);
    assert_int_equal(value_const(s.m, s.w)->dtype, DTYPE_INT8);
    assert_int_equal(s.m->values[s.w].type.shape.dim[0], 4);
    assert_int_equal(s.m->graphs[0].n_initializers, 1);
    model_remove_value(s.m, s.w);
    assert_int_equal(s.m->graphs[0].n_initializers, 0);
    model_free(s.m);
}

/* Removing If removes what its branch holds. */
static void test_remove(void **state)
{
    (void)state;
    struct sample s = sample_new();
    struct attr *attr = model_alloc(s.m, 1, sizeof *attr);
    attr->name = "then_branch";
    attr->type = ATTR_GRAPH;
    attr->count = 1;
    attr->graphs = model_alloc(s.m, 1, sizeof(uint32_t));
    attr->graphs[0] = s.branch;
    s.m->nodes[s.condition].attr = attr;
    s.m->nodes[s.condition].n_attr = 1;
    model_remove_node(s.m, s.condition);
    assert_null(s.m->nodes[s.condition].op_type);
    assert_null(s.m->nodes[s.inner].op_type);
    assert_int_equal(s.m->values[s.z].producer, NODE_NONE);
    assert_int_equal(s.m->graphs[0].n_nodes, 2);
    model_free(s.m);
}

static void test_header(void **state)
{
    (void)state;
    struct model *m = model_new();
    assert_int_equal(model_opset(m, ""), 0);
    model_set_opset(m, "", 11);
    model_set_opset(m, "com.microsoft", 1);
    model_set_opset(m, "ai.onnx", 13);
    assert_int_equal(m->n_opsets, 2);
    assert_int_equal(model_opset(m, NULL), 13);
    assert_int_equal(model_opset(m, "com.microsoft"), 1);
    model_set_metadata(m, "k", "1");
    model_set_metadata(m, "k", "2");
    assert_int_equal(m->metadata.count, 1);
    assert_string_equal(m->metadata.at[0].value, "2");
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),  cmocka_unit_test(test_uses),   cmocka_unit_test(test_order),
        cmocka_unit_test(test_attrs),  cmocka_unit_test(test_clone),  cmocka_unit_test(test_weights),
        cmocka_unit_test(test_remove), cmocka_unit_test(test_header),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
