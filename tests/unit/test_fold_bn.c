/* SPDX-License-Identifier: Apache-2.0
 * Folding BatchNormalization: weights and biases against the formula in double, for each kind of product, shared
 * weights, and the cases that must be left alone. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/raise_opset.h"
#include "core/step/method.h"

extern const struct method method_graph_optimize;

static uint32_t weight(struct model *m, const char *name, struct shape shape, float start, float step)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        tensor_f32(&t)[i] = start + step * (float)i;
    uint32_t v = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return v;
}

static uint32_t graph_input(struct model *m, const char *name, struct shape shape)
{
    struct graph *g = model_main(m);
    uint32_t v = model_add_value(m, 0, name, false);
    struct value_info *in = model_alloc(m, (size_t)g->n_inputs + 1, sizeof *in);
    if (g->n_inputs)
        memcpy(in, g->inputs, (size_t)g->n_inputs * sizeof *in);
    in[g->n_inputs] = (struct value_info){
        .value = v,
        .has_type = true,
        .type = {.kind = TYPE_TENSOR, .dtype = DTYPE_FLOAT, .has_dtype = true, .has_shape = true, .shape = shape}};
    m->values[v].type = in[g->n_inputs].type;
    g->inputs = in;
    g->n_inputs++;
    return v;
}

static void graph_output(struct model *m, uint32_t v)
{
    struct graph *g = model_main(m);
    struct value_info *out = model_alloc(m, (size_t)g->n_outputs + 1, sizeof *out);
    if (g->n_outputs)
        memcpy(out, g->outputs, (size_t)g->n_outputs * sizeof *out);
    out[g->n_outputs++] = (struct value_info){.value = v};
    g->outputs = out;
}

static struct model *new_model(int64_t opset)
{
    struct model *m = model_new();
    assert_non_null(m);
    m->ir_version = 8;
    m->has_ir_version = true;
    model_set_opset(m, "", opset);
    return m;
}

/* product(x, w [, b]) -> BatchNormalization -> output */
static uint32_t add_bn(struct model *m, uint32_t x, int64_t channels, const char *out_name)
{
    uint32_t in[5] = {x, weight(m, "gamma", SHAPE(channels), 0.5f, 0.25f), weight(m, "beta", SHAPE(channels), -1, 0.5f),
                      weight(m, "mean", SHAPE(channels), 0.1f, 0.2f), weight(m, "var", SHAPE(channels), 0.3f, 0.4f)};
    uint32_t y = model_add_value(m, 0, out_name, false);
    uint32_t n = model_add_node(m, 0, "BatchNormalization", NULL, "bn", in, 5, &y, 1);
    node_set_float(m, n, "epsilon", 0.01f);
    return y;
}

static void optimize(struct model *m, struct layer_report *rows)
{
    struct err err = {0};
    char none = 0;
    struct step_ctx c = {.model = m, .ramp = 1, .params = &none, .layers = rows};
    int rc = method_graph_optimize.run(&c, &err);
    if (rc)
        fail_msg("%s", err.msg);
}

struct kind {
    const char *op;
    struct shape x, w;
    int64_t channels;
    int64_t group;
    bool bias, trans_b;
};

static int64_t channel(const struct kind *k, int64_t i)
{
    int64_t inner = k->w.rank > 2 ? shape_product(&k->w, 2, k->w.rank) : 1;
    if (!strcmp(k->op, "Conv"))
        return i / (inner * k->w.dim[1]);
    if (!strcmp(k->op, "ConvTranspose")) {
        int64_t group = i / (inner * k->w.dim[1] * (k->w.dim[0] / k->group));
        return group * k->w.dim[1] + i / inner % k->w.dim[1];
    }
    return k->trans_b ? i / k->w.dim[1] : i % k->w.dim[1];
}

static void check_kind(const struct kind *k)
{
    struct model *m = new_model(13);
    uint32_t in[3] = {graph_input(m, "x", k->x), weight(m, "w", k->w, -0.7f, 0.05f), VALUE_NONE};
    if (k->bias)
        in[2] = weight(m, "b", SHAPE(k->channels), 0.2f, -0.1f);
    uint32_t y = model_add_value(m, 0, "y", false);
    uint32_t n = model_add_node(m, 0, k->op, NULL, "product", in, k->bias ? 3 : 2, &y, 1);
    if (k->group > 1)
        node_set_int(m, n, "group", k->group);
    if (k->trans_b)
        node_set_int(m, n, "transB", 1);
    graph_output(m, add_bn(m, y, k->channels, "out"));
    optimize(m, NULL);

    assert_int_equal(model_main(m)->n_nodes, 1);
    const struct node *p = &m->nodes[model_main(m)->nodes[0]];
    assert_string_equal(m->values[p->output[0]].name, "out");
    assert_int_equal(p->n_input, 3);
    const struct tensor *w = value_const(m, p->input[1]), *b = value_const(m, p->input[2]);
    assert_non_null(w);
    assert_non_null(b);
    for (int64_t i = 0; i < tensor_count(w); i++) {
        double c = (double)channel(k, i), s = (0.5 + 0.25 * c) / sqrt((double)(0.3f + 0.4f * (float)c) + (double)0.01f);
        assert_float_equal(tensor_f32(w)[i], (float)(s * (double)(-0.7f + 0.05f * (float)i)), 1e-6f);
    }
    for (int64_t c = 0; c < k->channels; c++) {
        double s = (0.5 + 0.25 * (double)c) / sqrt((double)(0.3f + 0.4f * (float)c) + (double)0.01f);
        double old = k->bias ? (double)(0.2f - 0.1f * (float)c) : 0;
        double want = s * (old - (double)(0.1f + 0.2f * (float)c)) + (-1 + 0.5 * (double)c);
        assert_float_equal(tensor_f32(b)[c], (float)want, 1e-6f);
    }
    model_free(m);
}

static void test_formula(void **state)
{
    (void)state;
    const struct kind kinds[] = {
        {"Conv", SHAPE(1, 2, 5, 5), SHAPE(3, 2, 2, 2), 3, 1, false, false},
        {"Conv", SHAPE(1, 4, 5, 5), SHAPE(4, 1, 3, 3), 4, 4, true, false},
        {"Conv", SHAPE(1, 2, 9), SHAPE(3, 2, 3), 3, 1, true, false},
        {"ConvTranspose", SHAPE(1, 4, 3, 3), SHAPE(4, 3, 2, 2), 6, 2, true, false},
        {"Gemm", SHAPE(2, 4), SHAPE(4, 3), 3, 1, true, false},
        {"Gemm", SHAPE(2, 4), SHAPE(3, 4), 3, 1, false, true},
        {"MatMul", SHAPE(2, 4), SHAPE(4, 3), 3, 1, false, false},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        check_kind(&kinds[i]);
}

/* Two convolutions share a weight; only one has a BatchNormalization: the other keeps the old bytes. */
static void test_shared_weight(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = graph_input(m, "x", SHAPE(1, 2, 5, 5)), w = weight(m, "w", SHAPE(3, 2, 1, 1), 1, 1);
    uint32_t y = model_add_value(m, 0, "y", false), z = model_add_value(m, 0, "z", false), in[2] = {x, w};
    model_add_node(m, 0, "Conv", NULL, "c1", in, 2, &y, 1);
    uint32_t c2 = model_add_node(m, 0, "Conv", NULL, "c2", in, 2, &z, 1);
    node_set_ints(m, c2, "pads", (int64_t[]){1, 1, 1, 1}, 4); /* not the same computation */
    graph_output(m, add_bn(m, y, 3, "out"));
    graph_output(m, z);
    optimize(m, NULL);
    assert_int_equal(model_main(m)->n_nodes, 2);
    for (int i = 0; i < 2; i++) {
        const struct node *n = &m->nodes[model_main(m)->nodes[i]];
        float first = tensor_f32(value_const(m, n->input[1]))[0];
        if (!strcmp(n->name, "c2"))
            assert_true(first == 1.0f);
        else
            assert_true(fabsf(first - 1.0f) > 0.01f);
    }
    model_free(m);
}

static const char *skipped_reason(const struct layer_report *rows, const char *node)
{
    json_t *all = layer_report_json(rows), *row;
    const char *found = NULL;
    size_t i;
    json_array_foreach(all, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "node"));
        if (name && !strcmp(name, node) && json_object_get(row, "skipped"))
            found = json_string_value(json_object_get(row, "skipped"));
    }
    json_decref(all);
    return found;
}

static void test_left_alone(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    struct layer_report *rows = layer_report_new();
    uint32_t x = graph_input(m, "x", SHAPE(1, 2, 5, 5)), in[2] = {x, weight(m, "w", SHAPE(3, 2, 1, 1), 1, 1)};
    uint32_t y = model_add_value(m, 0, "y", false);
    model_add_node(m, 0, "Conv", NULL, "c1", in, 2, &y, 1);
    graph_output(m, add_bn(m, y, 3, "out"));
    graph_output(m, y); /* the product's own output is wanted too */
    optimize(m, rows);
    assert_int_equal(model_main(m)->n_nodes, 2);
    assert_string_equal(skipped_reason(rows, "bn"), "the product's output is read elsewhere too");
    layer_report_free(rows);
    model_free(m);
}

/* x -> Identity -> out: the name of an output stays even if its node goes, and an input cannot become an output. */
static void test_output_names(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = graph_input(m, "x", SHAPE(2, 3)), r = model_add_value(m, 0, "r", false),
             out = model_add_value(m, 0, "out", false);
    model_add_node(m, 0, "Relu", NULL, "relu", &x, 1, &r, 1);
    model_add_node(m, 0, "Identity", NULL, "id", &r, 1, &out, 1);
    uint32_t copy = model_add_value(m, 0, "copy", false);
    model_add_node(m, 0, "Identity", NULL, "id2", &x, 1, &copy, 1);
    graph_output(m, out);
    graph_output(m, copy);
    optimize(m, NULL);
    assert_int_equal(model_main(m)->n_nodes, 2);
    assert_string_equal(m->values[model_main(m)->outputs[0].value].name, "out");
    assert_true(node_is(&m->nodes[m->values[out].producer], "Relu"));
    assert_true(node_is(&m->nodes[m->values[copy].producer], "Identity"));
    model_free(m);
}

/* Raising the opset: attributes become inputs; what cannot be said at the new opset is refused. */
static void test_raise(void **state)
{
    (void)state;
    struct model *m = new_model(9);
    struct err err = {0};
    uint32_t x = graph_input(m, "x", SHAPE(2, 3, 4, 5)), s = model_add_value(m, 0, "s", false),
             c = model_add_value(m, 0, "c", false);
    uint32_t slice = model_add_node(m, 0, "Slice", NULL, "slice", &x, 1, &s, 1);
    node_set_ints(m, slice, "starts", (int64_t[]){1}, 1);
    node_set_ints(m, slice, "ends", (int64_t[]){3}, 1);
    uint32_t clip = model_add_node(m, 0, "Clip", NULL, "clip", &s, 1, &c, 1);
    node_set_float(m, clip, "max", 6);
    uint32_t y = model_add_value(m, 0, "y", false);
    model_add_node(m, 0, "Softmax", NULL, "softmax", &c, 1, &y, 1); /* axis 1 of rank 4: rows of 3*4*5 */
    graph_output(m, y);
    assert_int_equal(raise_opset(m, 13, &err), 0);
    assert_int_equal(model_opset(m, ""), 13);
    assert_int_equal(m->nodes[slice].n_input, 3);
    assert_null(node_attr(&m->nodes[slice], "starts"));
    assert_int_equal(m->nodes[clip].n_input, 3);
    assert_int_equal(m->nodes[clip].input[1], VALUE_NONE);
    assert_true(tensor_f32(value_const(m, m->nodes[clip].input[2]))[0] == 6.0f);
    assert_true(node_is(&m->nodes[m->values[y].producer], "Reshape"));
    model_free(m);

    m = new_model(8);
    x = graph_input(m, "x", SHAPE(2, 3));
    y = model_add_value(m, 0, "y", false);
    model_add_node(m, 0, "Scan", NULL, "scan", &x, 1, &y, 1);
    graph_output(m, y);
    assert_int_equal(raise_opset(m, 13, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.msg, "scan"));
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),      cmocka_unit_test(test_shared_weight), cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_output_names), cmocka_unit_test(test_raise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
