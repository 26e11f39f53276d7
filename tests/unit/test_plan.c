/* SPDX-License-Identifier: Apache-2.0
 * Plans over small graphs built by hand: what runs, what is folded, what is refused and with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/engine.h"
#include "core/engine/plan.h"

/* ---- building ---- */
static struct model *new_model(int64_t opset)
{
    struct model *m = model_new();
    assert_non_null(m);
    model_set_opset(m, "", opset);
    return m;
}

static void declare(struct model *m, struct value_info **list, int *n, uint32_t v, enum dtype dtype,
                    const struct shape *s)
{
    struct value_info *grown = model_alloc(m, (size_t)*n + 1, sizeof *grown);
    if (*n)
        memcpy(grown, *list, (size_t)*n * sizeof *grown);
    grown[*n] = (struct value_info){.value = v, .has_type = s != NULL};
    if (s)
        grown[*n].type =
            (struct type){.kind = TYPE_TENSOR, .dtype = dtype, .has_dtype = true, .has_shape = true, .shape = *s};
    *list = grown;
    ++*n;
}

static uint32_t input(struct model *m, const char *name, enum dtype dtype, struct shape s)
{
    uint32_t v = model_add_value(m, 0, name, false);
    declare(m, &m->graphs[0].inputs, &m->graphs[0].n_inputs, v, dtype, &s);
    return v;
}

static void output(struct model *m, uint32_t v)
{
    declare(m, &m->graphs[0].outputs, &m->graphs[0].n_outputs, v, DTYPE_NONE, NULL);
}

static uint32_t weight(struct model *m, const char *name, enum dtype dtype, struct shape s, const void *data)
{
    struct tensor t;
    assert_int_equal(tensor_alloc(&t, dtype, &s, NULL), 0);
    memcpy(t.data, data, t.bytes);
    uint32_t v = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return v;
}

static uint32_t op(struct model *m, const char *type, const char *out, uint32_t a, uint32_t b)
{
    uint32_t v = model_add_value(m, 0, out, false), in[2] = {a, b};
    assert_int_not_equal(model_add_node(m, 0, type, NULL, out, in, (a != VALUE_NONE) + (b != VALUE_NONE), &v, 1),
                         ID_NONE);
    return v;
}

static struct plan *plan_of(const struct model *m, const struct plan_opts *opts)
{
    struct err err = {0};
    struct plan *plan = plan_new(m, opts, &err);
    if (!plan)
        fail_msg("%s", err.msg);
    return plan;
}

static struct tensor view(enum dtype dtype, struct shape shape, const void *data)
{
    struct tensor t;
    tensor_view(&t, dtype, &shape, (void *)(uintptr_t)data, NULL);
    return t;
}

static void refuses(struct plan *plan, struct tensor in, const char *message)
{
    struct err err = {0};
    struct tensor out[4];
    assert_int_equal(plan_run(plan, &in, out, NULL, &err), -1);
    assert_string_equal(err.msg, message);
    assert_int_equal(out[0].dtype, DTYPE_NONE);
}

/* y = relu(x W + b) over a symbolic batch */
static const float w_data[6] = {1, 2, 3, -1, -2, -3}, b_data[3] = {0.5f, 0, -0.5f};

static struct model *dense(void)
{
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2));
    uint32_t w = weight(m, "w", DTYPE_FLOAT, SHAPE(2, 3), w_data), b = weight(m, "b", DTYPE_FLOAT, SHAPE(3), b_data);
    output(m, op(m, "Relu", "y", op(m, "Add", "s", op(m, "MatMul", "p", x, w), b), VALUE_NONE));
    return m;
}

/* ---- tests ---- */
static void test_runs_and_follows_the_batch(void **state)
{
    (void)state;
    struct model *m = dense();
    struct plan *plan = plan_of(m, NULL);
    const float x[6] = {1, 0, 0, 1, 2, 1};
    const float want[9] = {1.5f, 2, 2.5f, 0, 0, 0, 1.5f, 2, 2.5f};
    assert_int_equal(plan_n_inputs(plan), 1);
    for (int64_t n = 3; n >= 0; n--) {
        struct tensor in = view(DTYPE_FLOAT, SHAPE(n, 2), x), out;
        struct err err = {0};
        assert_int_equal(plan_run(plan, &in, &out, NULL, &err), 0);
        assert_int_equal(out.shape.dim[0], n);
        assert_memory_equal(out.data, want, (size_t)n * 3 * sizeof(float));
        assert_int_equal(plan_macs(plan, NODE_NONE), n * 6);
        tensor_fini(&out);
    }
    plan_free(plan);
    model_free(m);
}

static void test_feeds_are_checked(void **state)
{
    (void)state;
    struct model *m = dense();
    struct plan *plan = plan_of(m, NULL);
    const float x[16] = {0};
    refuses(plan, view(DTYPE_DOUBLE, SHAPE(1, 2), x), "input 'x' is float32, got double");
    refuses(plan, view(DTYPE_FLOAT, SHAPE(1, 3), x), "input 'x' is [?,2], got [1,3]");
    refuses(plan, view(DTYPE_FLOAT, SHAPE(2), x), "input 'x' is [?,2], got [2]");
    refuses(plan, (struct tensor){0}, "input 'x' was not given");
    plan_free(plan);
    model_free(m);
}

struct seen {
    char names[200];
    const struct model *m;
    int stop_after;
};

static int watch(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct seen *s = arg;
    assert_non_null(t->data);
    strcat(s->names, s->m->values[value].name);
    strcat(s->names, " ");
    return --s->stop_after == 0 ? err_set(err, ERR_CANCELED, "enough") : 0;
}

static void test_observer(void **state)
{
    (void)state;
    struct model *m = dense();
    struct plan *plan = plan_of(m, NULL);
    const float x[2] = {1, 2};
    struct tensor in = view(DTYPE_FLOAT, SHAPE(1, 2), x), out;
    struct seen seen = {.m = m};
    struct plan_run_opts opts = {.observe = watch, .observe_arg = &seen};
    assert_int_equal(plan_run(plan, &in, &out, &opts, NULL), 0);
    assert_string_equal(seen.names, "x p s y ");
    tensor_fini(&out);
    struct err err = {0};
    seen = (struct seen){.m = m, .stop_after = 2};
    assert_int_equal(plan_run(plan, &in, &out, &opts, &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    plan_free(plan);
    model_free(m);
}

/* Reshape(x, Concat(Gather(Shape(x), 0), -1)): the shape chain is gone, the type is known. */
static void test_shape_chain_is_folded(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 3, 4));
    const int64_t zero[1] = {0}, rest[1] = {-1};
    uint32_t s = op(m, "Shape", "s", x, VALUE_NONE);
    uint32_t g = op(m, "Gather", "g", s, weight(m, "zero", DTYPE_INT64, SHAPE(1), zero));
    uint32_t c = op(m, "Concat", "c", g, weight(m, "rest", DTYPE_INT64, SHAPE(1), rest));
    node_set_int(m, m->values[c].producer, "axis", 0);
    output(m, op(m, "Reshape", "y", op(m, "Relu", "r", x, VALUE_NONE), c));
    struct plan *plan = plan_of(m, NULL);
    struct shape in_shape = SHAPE(2, 3, 4);
    const struct type *types;
    assert_int_equal(plan_infer(plan, NULL, &types, NULL), 0);
    assert_int_equal(plan_infer(plan, &in_shape, &types, NULL), 0);
    uint32_t y = plan_output(plan, 0);
    assert_int_equal(types[y].shape.rank, 2);
    assert_int_equal(types[y].shape.dim[0], 2);
    assert_int_equal(types[y].shape.dim[1], 12);
    float data[24] = {0};
    struct tensor in = view(DTYPE_FLOAT, in_shape, data), out;
    struct seen seen = {.m = m};
    struct plan_run_opts opts = {.observe = watch, .observe_arg = &seen};
    assert_int_equal(plan_run(plan, &in, &out, &opts, NULL), 0);
    assert_string_equal(seen.names, "x r y ");
    tensor_fini(&out);
    plan_free(plan);
    model_free(m);
}

static void test_missing_operators_are_listed(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(1));
    uint32_t a = op(m, "Frobnicate", "a", x, VALUE_NONE);
    output(m, op(m, "Zap", "b", op(m, "Frobnicate", "c", a, VALUE_NONE), VALUE_NONE));
    struct err err = {0};
    assert_null(plan_new(m, NULL, &err));
    assert_int_equal(err.code, ERR_OPERATOR);
    assert_string_equal(err.msg, "cannot run this model: 2 operators are missing: Frobnicate (ai.onnx, opset 13) x2, "
                                 "Zap (ai.onnx, opset 13) x1");
    struct missing_ops list;
    char text[20];
    assert_int_equal(engine_missing_ops(m, &list, &err), 0);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.at[0].type, "Frobnicate");
    assert_int_equal(list.at[0].count, 2);
    assert_string_equal(list.at[1].domain, "ai.onnx");
    assert_string_equal(missing_op_text(&list.at[1], text, sizeof text), "Zap (ai.onnx, opset"); /* cut, terminated */
    assert_string_equal(missing_ops_text(&list, text, sizeof text), "Frobnicate (ai.onnx");
    missing_ops_fini(&list);
    model_free(m);
}

/* What the engine makes for itself is not for files: refused there, and listed as missing. */
static void test_internal_operators_are_refused(void **state)
{
    (void)state;
    for (const struct op_class *const *row = op_all(); *row; row++) {
        if (!(*row)->internal)
            continue;
        assert_string_equal((*row)->domain, OP_DOMAIN_ENGINE);
        struct model *m = new_model(13);
        uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(1)), y = model_add_value(m, 0, "y", true);
        assert_int_not_equal(model_add_node(m, 0, (*row)->type, OP_DOMAIN_ENGINE, "n", &x, 1, &y, 1), NODE_NONE);
        output(m, y);
        struct err err = {0};
        struct missing_ops list;
        assert_null(plan_new(m, &(struct plan_opts){.optimize = true}, &err));
        assert_int_equal(err.code, ERR_OPERATOR);
        assert_int_equal(engine_missing_ops(m, &list, NULL), 0);
        assert_int_equal(list.count, 1);
        assert_string_equal(list.at[0].domain, OP_DOMAIN_ENGINE);
        missing_ops_fini(&list);
        struct tensor out = {0};
        err = (struct err){0};
        assert_int_equal(engine_eval_node(m, 0, &out, &err), -1);
        assert_int_equal(err.code, ERR_OPERATOR);
        model_free(m);
    }
}

static void test_opset_beyond_ours(void **state)
{
    (void)state;
    struct model *m = dense();
    model_set_opset(m, "", 99);
    struct err err = {0};
    assert_null(plan_new(m, NULL, &err));
    assert_int_equal(err.code, ERR_OPERATOR);
    assert_non_null(strstr(err.msg, "Relu (ai.onnx, opset 99) x1"));
    char newest[60];
    snprintf(newest, sizeof newest, "the newest opset known here is %d", OP_OPSET_NEWEST);
    assert_non_null(strstr(err.msg, newest));
    model_free(m);
}

static void test_memory_limit_names_the_node(void **state)
{
    (void)state;
    struct model *m = dense();
    struct plan *plan = plan_of(m, &(struct plan_opts){.max_memory_bytes = 4096});
    static const float x[2000];
    struct err err = {0};
    struct tensor in = view(DTYPE_FLOAT, SHAPE(1000, 2), x), out;
    assert_int_equal(plan_run(plan, &in, &out, NULL, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
    assert_string_equal(err.msg,
                        "node 'p' (MatMul): output 'p' would be float32[1000,3], over the limit of 4096 bytes");
    struct tensor small = view(DTYPE_FLOAT, SHAPE(10, 2), x);
    assert_int_equal(plan_run(plan, &small, &out, NULL, NULL), 0);
    tensor_fini(&out);
    plan_free(plan);
    model_free(m);
}

static void test_slab_is_reused(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t v = input(m, "x", DTYPE_FLOAT, SHAPE(1024));
    char name[20];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "v%d", i);
        v = op(m, "Softmax", name, v, VALUE_NONE);
    }
    output(m, v);
    struct plan *plan = plan_of(m, NULL);
    const struct type *types;
    struct shape s = SHAPE(1024);
    assert_int_equal(plan_infer(plan, &s, &types, NULL), 0);
    assert_int_equal(plan_slab_bytes(plan), 2 * 4096);
    assert_int_equal(plan_slab_lower_bound(plan), 2 * 4096);
    plan_free(plan);
    model_free(m);
}

/* Shapes known only from data: NonZero, then an operator on its result; both in a second run with other data too. */
static void test_shapes_that_depend_on_data(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(4));
    output(m, op(m, "Transpose", "t", op(m, "NonZero", "n", x, VALUE_NONE), VALUE_NONE));
    struct plan *plan = plan_of(m, NULL);
    const float data[3][4] = {{1, 0, 0, 2}, {0, 0, 0, 0}, {1, 1, 1, 1}};
    const int64_t want[3] = {2, 0, 4};
    for (int i = 0; i < 3; i++) {
        struct tensor in = view(DTYPE_FLOAT, SHAPE(4), data[i]), out;
        struct err err = {0};
        assert_int_equal(plan_run(plan, &in, &out, NULL, &err), 0);
        assert_int_equal(out.shape.dim[0], want[i]);
        assert_int_equal(out.shape.dim[1], 1);
        tensor_fini(&out);
    }
    plan_free(plan);
    model_free(m);
}

/* Outputs that are inputs, weights, or the same value twice are the caller's own. */
static void test_odd_outputs(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(2)), w = weight(m, "w", DTYPE_FLOAT, SHAPE(3), w_data);
    uint32_t y = op(m, "Neg", "y", x, VALUE_NONE);
    output(m, x);
    output(m, w);
    output(m, y);
    output(m, y);
    struct plan *plan = plan_of(m, NULL);
    const float data[2] = {1, 2};
    struct tensor in = view(DTYPE_FLOAT, SHAPE(2), data), out[4];
    assert_int_equal(plan_run(plan, &in, out, NULL, NULL), 0);
    plan_free(plan);
    model_free(m);
    assert_memory_equal(out[0].data, data, sizeof data);
    assert_memory_equal(out[1].data, w_data, 12);
    for (int i = 2; i < 4; i++) {
        assert_float_equal(tensor_f32(&out[i])[0], -1, 0);
        assert_float_equal(tensor_f32(&out[i])[1], -2, 0);
    }
    for (int i = 0; i < 4; i++)
        tensor_fini(&out[i]);
}

static void test_errors_name_the_node(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(2, 5));
    output(m, op(m, "MatMul", "product", x, weight(m, "w", DTYPE_FLOAT, SHAPE(2, 3), w_data)));
    struct plan *plan = plan_of(m, NULL);
    const float data[10] = {0};
    struct tensor in = view(DTYPE_FLOAT, SHAPE(2, 5), data), out;
    struct err err = {0};
    assert_int_equal(plan_run(plan, &in, &out, NULL, &err), -1);
    assert_int_equal(strncmp(err.msg, "node 'product' (MatMul): ", 25), 0);
    plan_free(plan);
    model_free(m);
}

static void test_eval_node(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    uint32_t a = weight(m, "a", DTYPE_FLOAT, SHAPE(3), w_data), b = weight(m, "b", DTYPE_FLOAT, SHAPE(3), b_data);
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(3)), sum = op(m, "Add", "sum", a, b),
             open = op(m, "Add", "open", a, x);
    output(m, sum);
    struct tensor out = {0};
    struct err err = {0};
    assert_int_equal(engine_eval_node(m, m->values[sum].producer, &out, &err), 0);
    assert_float_equal(tensor_f32(&out)[2], 2.5, 0);
    tensor_fini(&out);
    assert_int_equal(engine_eval_node(m, m->values[open].producer, &out, &err), -1);
    assert_string_equal(err.msg, "node 'open' (Add): input 'x' is not constant");
    model_free(m);
}

/* f(a, b) = Relu(a + b) called twice, the second time on its own result. */
static void test_functions_are_inlined(void **state)
{
    (void)state;
    struct model *m = new_model(13);
    model_set_opset(m, "local", 1);
    uint32_t g = model_add_graph(m, GRAPH_NONE, NODE_NONE);
    uint32_t a = model_add_value(m, g, "a", false), b = model_add_value(m, g, "b", false);
    uint32_t s = model_add_value(m, g, "s", false), r = model_add_value(m, g, "r", false), in[2] = {a, b};
    model_add_node(m, g, "Add", NULL, NULL, in, 2, &s, 1);
    model_add_node(m, g, "Relu", NULL, NULL, &s, 1, &r, 1);
    declare(m, &m->graphs[g].inputs, &m->graphs[g].n_inputs, a, DTYPE_NONE, NULL);
    declare(m, &m->graphs[g].inputs, &m->graphs[g].n_inputs, b, DTYPE_NONE, NULL);
    declare(m, &m->graphs[g].outputs, &m->graphs[g].n_outputs, r, DTYPE_NONE, NULL);
    struct opset opsets[1] = {{.domain = "", .version = 13, .has_version = true}};
    struct function f = {.name = "AddRelu",
                         .domain = "local",
                         .n_inputs = 2,
                         .n_outputs = 1,
                         .body = g,
                         .opsets = opsets,
                         .n_opsets = 1};
    m->functions = &f;
    m->n_functions = 1;
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(3)), w = weight(m, "w", DTYPE_FLOAT, SHAPE(3), b_data);
    uint32_t y = op(m, "AddRelu", "y", x, w), z = op(m, "AddRelu", "z", y, w);
    m->nodes[m->values[y].producer].domain = m->nodes[m->values[z].producer].domain = "local";
    output(m, z);
    struct plan *plan = plan_of(m, NULL);
    const float data[3] = {1, -2, 1};
    struct tensor t = view(DTYPE_FLOAT, SHAPE(3), data), out;
    assert_int_equal(plan_run(plan, &t, &out, NULL, NULL), 0);
    assert_float_equal(tensor_f32(&out)[0], 2, 0);
    assert_float_equal(tensor_f32(&out)[1], 0, 0);
    assert_float_equal(tensor_f32(&out)[2], 0, 0);
    tensor_fini(&out);
    plan_free(plan);
    m->n_functions = 0;
    model_free(m);
}

/* A Loop whose body hands its condition on would never end. */
static void test_endless_loop_is_stopped(void **state)
{
    (void)state;
    struct model *m = new_model(16);
    struct err err = {0};
    uint32_t x = input(m, "x", DTYPE_FLOAT, SHAPE(1)), y = model_add_value(m, 0, "y", false);
    uint32_t loop = model_add_node(m, 0, "Loop", NULL, "loop", (uint32_t[]){VALUE_NONE, VALUE_NONE, x}, 3, &y, 1);
    uint32_t body = model_add_graph(m, 0, loop);
    uint32_t i = model_add_value(m, body, "i", false), go = model_add_value(m, body, "go", false);
    uint32_t v = model_add_value(m, body, "v", false), w = model_add_value(m, body, "w", false);
    model_add_node(m, body, "Neg", NULL, NULL, &v, 1, &w, 1);
    struct graph *g = &m->graphs[body];
    declare(m, &g->inputs, &g->n_inputs, i, DTYPE_NONE, NULL);
    declare(m, &g->inputs, &g->n_inputs, go, DTYPE_NONE, NULL);
    declare(m, &g->inputs, &g->n_inputs, v, DTYPE_NONE, NULL);
    declare(m, &g->outputs, &g->n_outputs, go, DTYPE_NONE, NULL);
    declare(m, &g->outputs, &g->n_outputs, w, DTYPE_NONE, NULL);
    struct attr *attr = model_alloc(m, 1, sizeof *attr);
    *attr = (struct attr){.name = "body", .type = ATTR_GRAPH, .count = 1, .graphs = model_alloc(m, 1, sizeof body)};
    attr->graphs[0] = body;
    m->nodes[loop].attr = attr;
    m->nodes[loop].n_attr = 1;
    output(m, y);
    struct plan *plan = plan_new(m, NULL, &err);
    if (!plan)
        fail_msg("%s", err.msg);
    struct tensor in = {0}, out = {0};
    assert_int_equal(tensor_alloc(&in, DTYPE_FLOAT, &SHAPE(1), NULL), 0);
    *(float *)in.data = 1;
    assert_int_equal(plan_run(plan, &in, &out, NULL, &err), -1);
    assert_string_equal(err.msg, "node 'loop' (Loop): the loop has not ended after 1000000 rounds; more are not run");
    tensor_fini(&in);
    plan_free(plan);
    model_free(m);
}

static void test_threads_change_nothing(void **state)
{
    (void)state;
    struct model *m = dense();
    float x[1000];
    for (int i = 0; i < 1000; i++)
        x[i] = sinf((float)i);
    struct tensor in = view(DTYPE_FLOAT, SHAPE(500, 2), x), out[3];
    for (int i = 0; i < 3; i++) {
        struct pool *pool = pool_new(i + 1);
        struct plan *plan = plan_of(m, &(struct plan_opts){.pool = pool});
        assert_int_equal(plan_run(plan, &in, &out[i], NULL, NULL), 0);
        plan_free(plan);
        pool_free(pool);
    }
    assert_true(tensor_equal(&out[0], &out[1]) && tensor_equal(&out[0], &out[2]));
    for (int i = 0; i < 3; i++)
        tensor_fini(&out[i]);
    model_free(m);
}

int main(void)
{
    engine_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs_and_follows_the_batch),
                                       cmocka_unit_test(test_feeds_are_checked),
                                       cmocka_unit_test(test_observer),
                                       cmocka_unit_test(test_shape_chain_is_folded),
                                       cmocka_unit_test(test_missing_operators_are_listed),
        cmocka_unit_test(test_internal_operators_are_refused),
                                       cmocka_unit_test(test_opset_beyond_ours),
                                       cmocka_unit_test(test_memory_limit_names_the_node),
                                       cmocka_unit_test(test_slab_is_reused),
                                       cmocka_unit_test(test_shapes_that_depend_on_data),
                                       cmocka_unit_test(test_odd_outputs),
                                       cmocka_unit_test(test_errors_name_the_node),
                                       cmocka_unit_test(test_eval_node),
                                       cmocka_unit_test(test_functions_are_inlined),
                                       cmocka_unit_test(test_threads_change_nothing),
                                       cmocka_unit_test(test_endless_loop_is_stopped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
