/* SPDX-License-Identifier: Apache-2.0
 * Facts of a small model built here, and of a shared one against what its authors published. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
/* clang-format on */

#include "core/model/inspect.h"
#include "core/model/onnx_read.h"

static struct model *small_model(void)
{
    struct model *m = model_new();
    struct tensor w, shape;
    assert_int_equal(tensor_alloc(&w, DTYPE_FLOAT, &SHAPE(2, 3), NULL), 0);
    tensor_f32(&w)[1] = 2;
    tensor_f32(&w)[2] = -0.0f;
    assert_int_equal(tensor_alloc(&shape, DTYPE_INT64, &SHAPE(2), NULL), 0);
    uint32_t x = model_add_value(m, 0, "x\xff", false), y = model_add_value(m, 0, "y", false);
    uint32_t v = model_add_weight(m, 0, "w", &w), s = model_add_weight(m, 0, "s", &shape),
             z = model_add_value(m, 0, "z", false);
    model_add_node(m, 0, "MatMul", NULL, "mm", (uint32_t[]){x, v}, 2, &y, 1);
    model_add_node(m, 0, "Reshape", NULL, "rs", (uint32_t[]){y, s}, 2, &z, 1);
    struct graph *g = model_main(m);
    struct shape symbolic = {2, {DIM_SYMBOL(model_symbol(m, "N")), 2}};
    g->inputs = model_alloc(m, 1, sizeof *g->inputs);
    g->outputs = model_alloc(m, 1, sizeof *g->outputs);
    g->inputs[0] = (struct value_info){.value = x, .has_type = true, .type = type_tensor(DTYPE_FLOAT, &symbolic)};
    g->outputs[0] = (struct value_info){.value = z};
    g->n_inputs = g->n_outputs = 1;
    model_set_opset(m, "", 13);
    tensor_fini(&w);
    tensor_fini(&shape);
    return m;
}

static void assert_json(json_t *got, const char *expected)
{
    json_error_t error;
    json_t *want = json_loads(expected, JSON_DECODE_ANY, &error);
    assert_non_null(want);
    if (!json_equal(got, want)) {
        char *text = json_dumps(got, JSON_ENCODE_ANY);
        printf("got %s\nwant %s\n", text, expected);
        free(text);
    }
    assert_true(json_equal(got, want));
    json_decref(want);
}

static void test_facts(void **state)
{
    (void)state;
    struct model *m = small_model();
    json_t *facts = model_inspect(m);
    assert_json(
        facts,
        "{\"ir_version\":0,\"opset\":13,\"opsets\":[{\"domain\":\"ai.onnx\",\"version\":13}],\"metadata\":{},"
        "\"inputs\":[{\"name\":\"x\\ufffd\",\"dtype\":\"float32\",\"shape\":[\"N\",2]}],\"outputs\":[{\"name\":\"z\"}],"
        "\"nodes\":2,\"ops\":{\"MatMul\":1,\"Reshape\":1},\"subgraphs\":0,\"functions\":[],\"params\":6,"
        "\"weight_bytes\":40,\"dtypes\":{\"float32\":6},\"external_files\":[]}");
    json_decref(facts);
    assert_int_equal(model_params(m), 6);
    assert_int_equal(model_nonzero(m), 1); /* -0 is zero */
    model_free(m);
}

static void test_metadata_is_bounded(void **state)
{
    (void)state;
    struct model *m = small_model();
    char *text = model_alloc(m, INSPECT_TEXT + 2, 1);
    memset(text, 'x', INSPECT_TEXT + 1);
    m->metadata.at = model_alloc(m, INSPECT_ENTRIES + 1, sizeof *m->metadata.at);
    m->metadata.count = INSPECT_ENTRIES + 1;
    for (int i = 0; i <= INSPECT_ENTRIES; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        m->metadata.at[i] = (struct entry){.key = model_strdup(m, key), .value = i ? "v" : text};
    }
    json_t *facts = model_inspect(m), *metadata = json_object_get(facts, "metadata");
    assert_int_equal(json_object_size(metadata), INSPECT_ENTRIES);
    assert_json(json_object_get(metadata, "k0"), "\"(more than 4096 bytes)\"");
    assert_json(json_object_get(metadata, "k1"), "\"v\"");
    json_decref(facts);
    model_free(m);
}

#define MATMUL_ROW \
    "{\"node\":\"mm\",\"op_type\":\"MatMul\",\"params\":6,\"bytes\":24,\"weights\":[{\"name\":\"w\"," \
    "\"shape\":[2,3],\"dtype\":\"float32\",\"params\":6,\"bytes\":24," \
    "\"nonzero\":1}]}"

/* Histograms have a test of their own; which weights have one is looked at here. */
static int drop_histograms(json_t *layers)
{
    size_t i, k;
    json_t *row, *weight;
    int dropped = 0;
    json_array_foreach (layers, i, row)
        json_array_foreach (json_object_get(row, "weights"), k, weight)
            dropped += json_object_del(weight, "histogram") == 0;
    return dropped;
}

static bool list_all(void *arg, uint32_t node, json_t *row)
{
    (void)row;
    *(uint32_t *)arg = node;
    return true;
}

static void test_layers(void **state)
{
    (void)state;
    struct model *m = small_model();
    uint32_t last = NODE_NONE;
    json_t *layers = model_layers(m, 10);
    assert_int_equal(drop_histograms(layers), 1);
    assert_json(layers, "[" MATMUL_ROW "]"); /* a shape is no parameter: Reshape is no layer */
    json_decref(layers);
    layers = model_layers_with(m, 10, list_all, &last);
    drop_histograms(layers);
    assert_json(layers, "[" MATMUL_ROW
                        ",{\"node\":\"rs\",\"op_type\":\"Reshape\",\"params\":0,\"bytes\":0,\"weights\":[]}]");
    assert_int_equal(last, 1);
    json_decref(layers);
    layers = model_layers_with(m, 1, list_all, &last);
    drop_histograms(layers);
    assert_json(layers, "[" MATMUL_ROW "]");
    json_decref(layers);
    model_free(m);
}

/* A quantized weight belongs to the product behind its DequantizeLinear; scale and zero point are no parameters. */
static void test_quantized_layer(void **state)
{
    (void)state;
    struct model *m = model_new();
    struct tensor w, scale, zero;
    assert_int_equal(tensor_alloc(&w, DTYPE_UINT8, &SHAPE(2, 3), NULL), 0);
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &SHAPE(3), NULL), 0);
    assert_int_equal(tensor_alloc(&zero, DTYPE_UINT8, &SHAPE(3), NULL), 0);
    uint32_t x = model_add_value(m, 0, "x", false), f = model_add_value(m, 0, "f", false),
             y = model_add_value(m, 0, "y", false);
    uint32_t q[] = {model_add_weight(m, 0, "w", &w), model_add_weight(m, 0, "s", &scale),
                    model_add_weight(m, 0, "z", &zero)};
    model_add_node(m, 0, "DequantizeLinear", NULL, "dq", q, 3, &f, 1);
    model_add_node(m, 0, "MatMul", NULL, "mm", (uint32_t[]){x, f}, 2, &y, 1);
    json_t *layers = model_layers(m, 10);
    assert_int_equal(json_array_size(layers), 1);
    assert_json(json_object_get(json_array_get(layers, 0), "node"), "\"mm\"");
    assert_json(json_object_get(json_array_get(layers, 0), "params"), "6");
    assert_json(json_object_get(json_array_get(layers, 0), "bytes"), "6");
    assert_int_equal(model_params(m), 6);
    json_decref(layers);
    tensor_fini(&w);
    tensor_fini(&scale);
    tensor_fini(&zero);
    model_free(m);
}

static void test_drawing(void **state)
{
    (void)state;
    struct model *m = small_model();
    m->values[model_main(m)->inputs[0].value].type = model_main(m)->inputs[0].type;
    json_t *graph = model_graph_json(m, 10);
    assert_json(graph,
                "{\"nodes\":[{\"id\":2,\"name\":\"x\\ufffd\",\"op_type\":\"Input\"},"
                "{\"id\":0,\"name\":\"mm\",\"op_type\":\"MatMul\",\"params\":6},"
                "{\"id\":1,\"name\":\"rs\",\"op_type\":\"Reshape\"},{\"id\":3,\"name\":\"z\",\"op_type\":\"Output\"}],"
                "\"edges\":[{\"from\":2,\"to\":0,\"value\":\"x\\ufffd\",\"dtype\":\"float32\",\"shape\":[\"N\",2]},"
                "{\"from\":0,\"to\":1,\"value\":\"y\"},{\"from\":1,\"to\":3,\"value\":\"z\"}],\"truncated\":false}");
    json_decref(graph);
    graph = model_graph_json(m, 1); /* no edge goes to a node that is not drawn */
    assert_json(json_object_get(graph, "truncated"), "true");
    assert_int_equal(json_array_size(json_object_get(graph, "nodes")), 3);
    assert_int_equal(json_array_size(json_object_get(graph, "edges")), 1);
    json_decref(graph);
    model_free(m);
}

/* mnist-8 as the ONNX model zoo describes it: 12 nodes, 5,994 floats, Input3 [1,1,28,28]. */
static void test_mnist(void **state)
{
    (void)state;
    char path[1024];
    struct err err = {0};
    const char *shared = getenv("PARED_SHARED");
    snprintf(path, sizeof path, "%s/models/mnist-8.onnx", shared ? shared : "../shared");
    if (access(path, R_OK)) {
        printf("skipped: no shared data\n");
        skip();
    }
    struct model *m = onnx_read_file(path, &(struct onnx_read_opts){.keep_unaligned = true}, &err);
    assert_non_null(m);
    json_t *facts = model_inspect(m);
    assert_json(json_object_get(facts, "inputs"),
                "[{\"name\":\"Input3\",\"dtype\":\"float32\",\"shape\":[1,1,28,28]}]");
    assert_json(json_object_get(facts, "nodes"), "12");
    assert_json(json_object_get(facts, "params"), "5994");
    assert_json(json_object_get(facts, "opset"), "8");
    json_decref(facts);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),           cmocka_unit_test(test_metadata_is_bounded),
        cmocka_unit_test(test_layers),          cmocka_unit_test(test_quantized_layer),
        cmocka_unit_test(test_drawing),         cmocka_unit_test(test_mnist),
    };
    return cmocka_run_group_tests_name("inspect", tests, NULL, NULL);
}
