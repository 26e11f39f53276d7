/* SPDX-License-Identifier: Apache-2.0
 * raise_opset.h: each conversion keeps what the node computes (run by the engine at the old and the new opset, whose
 * operators are rows of their own), and what cannot be converted is refused with a sentence. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/passes/raise_opset.h"
#include "tests/unit/graphs.h"

/* One node `op` on x [2,3,4,4] (and up to two more inputs). Attributes as text:
 * "axes=1,2 to=1 value=f0.5 scales=[1,2 mode=s:nearest". */
struct change {
    int64_t from, to;
    const char *op, *attrs;
    const char *after;   /* op type afterwards; NULL: the same */
    const char *gone;    /* an attribute that must be gone */
    int inputs_after;    /* of that node; 0: not looked at */
    const char *floats;  /* second input: floats "1,1,2,2"; "w": a [3,4,4] weight; "b": [4] */
    const char *refused; /* part of the sentence, NULL: converted */
};

static void set_attrs(struct model *m, uint32_t node, const char *text)
{
    char copy[128], *save = NULL;
    snprintf(copy, sizeof copy, "%s", text ? text : "");
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        char *v = strchr(word, '=');
        assert_non_null(v);
        *v++ = '\0';
        const char *name = model_strdup(m, word);
        if (*v == 'f') {
            node_set_float(m, node, name, strtof(v + 1, NULL));
        } else if (*v == 's') {
            node_set_string(m, node, name, model_strdup(m, v + 2));
        } else if (*v == '[') { /* floats */
            float f[8] = {0};
            int n = 0;
            for (char *at = v + 1; *at && n < 8; at += *at == ',')
                f[n++] = strtof(at, &at);
            node_set_float(m, node, name, 0);
            struct attr *a = &m->nodes[node].attr[m->nodes[node].n_attr - 1];
            a->type = ATTR_FLOATS;
            a->count = n;
            a->floats = model_alloc(m, (size_t)n, sizeof *a->floats);
            memcpy(a->floats, f, (size_t)n * sizeof *f);
        } else if (strchr(v, ',')) {
            int64_t i[8];
            int n = 0;
            for (char *at = v; *at && n < 8; at += *at == ',')
                i[n++] = strtoll(at, &at, 10);
            node_set_ints(m, node, name, i, n);
        } else {
            node_set_int(m, node, name, strtoll(v, NULL, 10));
        }
    }
}

static struct model *build(const struct change *c)
{
    struct model *m = g_new(c->from);
    m->ir_version = 3;
    uint32_t in[5] = {g_input(m, "x", SHAPE(2, 3, 4, 4))};
    int n = 1;
    if (c->floats && !strcmp(c->floats, "w")) {
        in[n++] = g_random(m, "w", SHAPE(3, 4, 4), 1, 1);
    } else if (c->floats && !strcmp(c->floats, "stats")) {
        float ones[3] = {1, 2, 3};
        for (; n < 5; n++)
            in[n] = g_const(m, "stat", SHAPE(3), ones);
    } else if (c->floats) {
        float f[8];
        int k = 0;
        for (char *at = (char *)(uintptr_t)c->floats; *at && k < 8; at += *at == ',')
            f[k++] = strtof(at, &at);
        in[n++] = g_const(m, "floats", SHAPE(k), f);
    }
    uint32_t y = g_node(m, c->op, "node", in, n);
    set_attrs(m, g_maker(m, y), c->attrs);
    g_output(m, y);
    return m;
}

static void test_conversions(void **state)
{
    (void)state;
    const struct change changes[] = {
        {6, 7, "Add", "broadcast=1", NULL, "broadcast", 2, "1,2,3,4", NULL},
        {6, 7, "Mul", "broadcast=1", NULL, "broadcast", 2, "w", NULL},
        {6, 7, "Sub", "broadcast=1 axis=1", NULL, NULL, 0, "1,2,3", "axis of its own"},
        {6, 7, "PRelu", "", NULL, NULL, 0, "1,2,3", "slope"},
        {5, 6, "Relu", "consumed_inputs=0,0", NULL, "consumed_inputs", 1, NULL, NULL},
        {5, 6, "Cast", "to=s:FLOAT", NULL, NULL, 0, NULL, "text"},
        {4, 5, "Reshape", "shape=2,48", NULL, "shape", 2, NULL, NULL},
        {3, 4, "Concat", "", NULL, NULL, 0, NULL, "default"},
        {6, 7, "BatchNormalization", "is_test=1", NULL, "is_test", 5, "stats", NULL},
        {6, 7, "BatchNormalization", "", NULL, NULL, 0, "stats", "training mode"},
        {8, 9, "BatchNormalization", "spatial=1", NULL, "spatial", 5, "stats", NULL},
        {8, 9, "BatchNormalization", "spatial=0", NULL, NULL, 0, "stats", "per element"},
        {6, 7, "Dropout", "is_test=1 ratio=f0.5", NULL, "is_test", 1, NULL, NULL},
        {8, 9, "Upsample", "scales=[1,1,2,2 mode=s:nearest", NULL, "scales", 2, NULL, NULL},
        {9, 10, "Upsample", "mode=s:nearest", "Resize", NULL, 2, "1,1,2,2", NULL},
        {9, 11, "Upsample", "mode=s:linear", "Resize", NULL, 3, "1,1,2,2", NULL},
        {10, 11, "Resize", "mode=s:nearest", NULL, NULL, 3, "1,1,1.5,2", NULL},
        {9, 10, "Slice", "starts=1,0 ends=3,2 axes=1,2", NULL, "starts", 4, NULL, NULL},
        {9, 10, "Slice", "starts=0,1 ends=2,3", NULL, "ends", 3, NULL, NULL},
        {10, 11, "Clip", "min=f-0.5 max=f0.5", NULL, "min", 3, NULL, NULL},
        {10, 11, "Clip", "max=f0.5", NULL, "max", 3, NULL, NULL},
        {10, 11, "Clip", "min=f0.1", NULL, "min", 2, NULL, NULL},
        {10, 11, "Pad", "pads=0,0,1,1,0,0,1,2 value=f3", NULL, "value", 3, NULL, NULL},
        {10, 11, "Pad", "pads=0,0,1,1,0,0,1,1 mode=s:reflect", NULL, "pads", 2, NULL, NULL},
        {11, 12, "Dropout", "ratio=f0.5", NULL, "ratio", 2, NULL, NULL},
        {12, 13, "Softmax", "", NULL, NULL, 1, NULL, NULL}, /* axis 1 of rank 4: rows of 3 * 4 * 4 */
        {12, 13, "Softmax", "axis=2", NULL, NULL, 1, NULL, NULL},
        {12, 13, "Softmax", "axis=3", NULL, NULL, 1, NULL, NULL},
        {12, 13, "Softmax", "axis=-1", NULL, NULL, 1, NULL, NULL},
        {12, 13, "LogSoftmax", "", NULL, NULL, 1, NULL, NULL},
        {12, 13, "Hardmax", "", NULL, NULL, 1, NULL, NULL},
        {12, 13, "ReduceSum", "axes=2,3 keepdims=0", NULL, "axes", 2, NULL, NULL},
        {12, 13, "Unsqueeze", "axes=0,3", NULL, "axes", 2, NULL, NULL},
        {13, 14, "BatchNormalization", "", NULL, NULL, 5, "stats", NULL},
        {17, 18, "ReduceMean", "axes=2,3 keepdims=0", NULL, "axes", 2, NULL, NULL},
        {17, 18, "ReduceMax", "axes=0,2", NULL, "axes", 2, NULL, NULL},
        {17, 18, "ReduceMin", "", NULL, NULL, 1, NULL, NULL},
        {13, 18, "ReduceProd", "axes=1,3", NULL, "axes", 2, NULL, NULL},
        {13, 18, "ReduceL1", "axes=1,2 keepdims=0", NULL, "axes", 2, NULL, NULL},
        {11, 18, "ReduceL2", "axes=2,3", NULL, "axes", 2, NULL, NULL},
        {17, 21, "ReduceLogSumExp", "axes=1,2", NULL, "axes", 2, NULL, NULL},
        {12, 21, "ReduceSumSquare", "axes=0,1 keepdims=0", NULL, "axes", 2, NULL, NULL},
        {17, 18, "Split", "axis=1", NULL, NULL, 1, NULL, NULL},
        {18, 19, "AveragePool", "kernel_shape=2,2 strides=2,2", NULL, NULL, 1, NULL, NULL},
        {18, 19, "AveragePool", "kernel_shape=3,3 strides=2,2 ceil_mode=1", NULL, NULL, 1, NULL, NULL},
        {11, 21, "AveragePool", "kernel_shape=3,3 pads=1,1,1,1 count_include_pad=1", NULL, NULL, 1, NULL, NULL},
        {18, 19, "AveragePool", "kernel_shape=3,3 strides=2,2 ceil_mode=1 count_include_pad=1", NULL, NULL, 0, NULL,
         "ceil_mode"},
        {19, 20, "DFT", "axis=1", NULL, NULL, 0, NULL, "its axis is an attribute"},
        {20, 21, "GroupNormalization", "num_groups=1", NULL, NULL, 0, "1,2,3", "one a group"},
        {12, 21, "Softmax", "axis=2", NULL, NULL, 1, NULL, NULL},
        {1, 13, "Relu", "", NULL, NULL, 1, NULL, NULL},
        {7, 13, "Softmax", "", NULL, NULL, 1, NULL, NULL},
        {8, 13, "Scan", "", NULL, NULL, 0, NULL, "differ before opset 9"},
        {6, 13, "LSTM", "", NULL, NULL, 0, NULL, "differ before opset 7"},
    };
    struct tensor x = {0};
    g_fill(&x, SHAPE(2, 3, 4, 4), 3, 1);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const struct change *c = &changes[i];
        struct model *m = build(c), *was = model_clone(m, NULL);
        struct err err = {0};
        uint32_t node = g_maker(m, g_value(m, "node"));
        int rc = raise_opset(m, c->to, &err);
        if (c->refused) {
            assert_int_equal(rc, -1);
            assert_int_equal(err.code, ERR_MODEL);
            if (!strstr(err.msg, c->refused) || !strstr(err.msg, "'node'") || !strstr(err.msg, c->op))
                fail_msg("%s %d: '%s' should say '%s'", c->op, (int)c->from, err.msg, c->refused);
        } else {
            if (rc)
                fail_msg("%s %d -> %d: %s", c->op, (int)c->from, (int)c->to, err.msg);
            assert_int_equal(model_opset(m, ""), c->to);
            assert_string_equal(m->nodes[node].op_type, c->after ? c->after : c->op);
            if (c->gone)
                assert_null(node_attr(&m->nodes[node], c->gone));
            if (c->inputs_after)
                assert_int_equal(m->nodes[node].n_input, c->inputs_after);
            assert_string_equal(m->values[model_main(m)->outputs[0].value].name, "node");
            double error = g_error(was, m, &x, 0);
            if (error > (strstr(c->op, "oftmax") ? 1e-6 : 0))
                fail_msg("%s %s, opset %d -> %d: error %g", c->op, c->attrs, (int)c->from, (int)c->to, error);
        }
        model_free(was);
        model_free(m);
    }
    tensor_fini(&x);
}

static void attr_says(const struct node *n, const char *name, const char *want)
{
    const struct attr *a = node_attr(n, name);
    if (!want) {
        assert_null(a);
        return;
    }
    assert_non_null(a);
    assert_int_equal(a->type, ATTR_STRING);
    assert_string_equal(a->strings[0].data, want);
}

/* Rows that name what was the default, or the same by another name. What ONNX Runtime makes of them is told by
 * tests/e2e/test_raise_opset_ort.py. */
static void test_named(void **state)
{
    (void)state;
    static const struct {
        int64_t from, to;
        const char *op, *attrs, *name, *want; /* want NULL: absent */
    } cases[] = {
        {15, 16, "RoiAlign", "", "coordinate_transformation_mode", "output_half_pixel"},
        {10, 21, "RoiAlign", "mode=s:max", "coordinate_transformation_mode", "output_half_pixel"},
        {16, 21, "RoiAlign", "", "coordinate_transformation_mode", NULL},
        {19, 20, "GridSample", "mode=s:bilinear", "mode", "linear"},
        {16, 21, "GridSample", "mode=s:bicubic", "mode", "cubic"},
        {16, 21, "GridSample", "mode=s:nearest", "mode", "nearest"},
        {16, 20, "GridSample", "", "mode", NULL}, /* the default was bilinear, and is linear */
        {16, 19, "GridSample", "mode=s:bilinear", "mode", "bilinear"},
        {20, 21, "GridSample", "mode=s:linear", "mode", "linear"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = g_new(cases[i].from);
        struct err err = {0};
        const uint32_t x = g_input(m, "x", SHAPE(1, 2, 4, 4));
        const bool roi = !strcmp(cases[i].op, "RoiAlign");
        const uint32_t at = g_random(m, "at", roi ? SHAPE(2, 4) : SHAPE(1, 3, 3, 2), 1, 0.5);
        const uint32_t y = roi ? G_OP(m, "RoiAlign", "node", x, at, g_ints(m, "batch", 2, (int64_t[]){0, 0}))
                               : G_OP(m, "GridSample", "node", x, at);
        set_attrs(m, g_maker(m, y), cases[i].attrs);
        g_output(m, y);
        if (raise_opset(m, cases[i].to, &err))
            fail_msg("%s: %s", cases[i].op, err.msg);
        assert_int_equal(model_opset(m, ""), cases[i].to);
        attr_says(g_made(m, "node"), cases[i].name, cases[i].want);
        model_free(m);
    }
}

/* Split in equal parts must say so from opset 18 on; where sizes are given it must not. BatchNormalization with the
 * outputs of training is refused. */
static void test_several_outputs(void **state)
{
    (void)state;
    for (int sized = 0; sized < 2; sized++) {
        struct model *m = g_new(17);
        struct err err = {0};
        struct tensor data = {0};
        uint32_t in[2] = {g_input(m, "x", SHAPE(2, 6, 2)),
                          sized ? g_ints(m, "parts", 3, (int64_t[]){1, 4, 1}) : VALUE_NONE};
        uint32_t y[3];
        for (int i = 0; i < 3; i++)
            y[i] = model_add_value(m, 0, (const char *[]){"a", "b", "c"}[i], false);
        assert_int_not_equal(model_add_node(m, 0, "Split", NULL, "node", in, sized ? 2 : 1, y, 3), NODE_NONE);
        node_set_int(m, g_maker(m, y[0]), "axis", 1);
        for (int i = 0; i < 3; i++)
            g_output(m, y[i]);
        struct model *was = model_clone(m, NULL);
        assert_int_equal(raise_opset(m, 21, &err), 0);
        assert_int_equal(node_attr_int(g_made(m, "a"), "num_outputs", -1), sized ? -1 : 3);
        g_fill(&data, SHAPE(2, 6, 2), 3, 1);
        for (int i = 0; i < 3; i++)
            g_near(g_error(was, m, &data, i), 0, 0);
        tensor_fini(&data);
        model_free(was);
        model_free(m);
    }
    const float ones[3] = {1, 2, 3};
    struct model *m = g_new(13);
    struct err err = {0};
    uint32_t in[5] = {g_input(m, "x", SHAPE(2, 3, 4, 4))}, y[3];
    for (int i = 1; i < 5; i++)
        in[i] = g_const(m, "stat", SHAPE(3), ones);
    for (int i = 0; i < 3; i++)
        y[i] = model_add_value(m, 0, (const char *[]){"a", "mean", "var"}[i], false);
    assert_int_not_equal(model_add_node(m, 0, "BatchNormalization", NULL, "node", in, 5, y, 3), NODE_NONE);
    g_output(m, y[0]);
    g_output(m, y[1]);
    assert_int_equal(raise_opset(m, 14, &err), -1);
    assert_non_null(strstr(err.msg, "outputs of training"));
    model_free(m);
}

/* The IR version follows; listed initializers leave the inputs, where they would turn into defaults; newer models and
 * a refused trial stay as they are. */
static void test_versions(void **state)
{
    (void)state;
    const int64_t ir_of[RAISE_OPSET_MAX + 1] = {[10] = 5, [11] = 6, [12] = 7, [13] = 7, [14] = 7, [15] = 8, [16] = 8,
                                                [17] = 8, [18] = 8, [19] = 9, [20] = 9, [21] = 10};
    for (int64_t to = 10; to <= RAISE_OPSET_MAX; to++) {
        const struct change add = {7, to, "Add", "", NULL, NULL, 2, "1,2,3,4", NULL};
        struct model *m = build(&add);
        struct err err = {0};
        g_list(m, g_value(m, "floats"), SHAPE(4));
        assert_int_equal(raise_opset(m, to, &err), 0);
        assert_int_equal(m->ir_version, ir_of[to]);
        assert_int_equal(model_main(m)->n_inputs, 1);
        model_free(m);
    }
    struct model *m = g_new(17);
    struct err err = {0};
    assert_int_equal(raise_opset(m, 13, &err), 0);
    assert_int_equal(model_opset(m, ""), 17);
    model_free(m);

    const struct change scan = {8, 13, "Scan", "", NULL, NULL, 0, NULL, NULL};
    struct warnings *w = warnings_new();
    m = build(&scan);
    assert_int_equal(raise_opset_for(m, 13, "this", w, &err), -1);
    assert_int_equal(model_opset(m, ""), 8);
    assert_int_equal(m->ir_version, 3);
    json_t *j = warnings_json(w);
    assert_int_equal(json_array_size(j), 0);
    json_decref(j);
    warnings_free(w);
    model_free(m);

    m = g_new(9);
    m->n_opsets = 0;
    err = (struct err){0};
    assert_int_equal(raise_opset(m, 13, &err), -1);
    assert_non_null(strstr(err.msg, "imports no opset"));
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conversions), cmocka_unit_test(test_named),
                                       cmocka_unit_test(test_several_outputs), cmocka_unit_test(test_versions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
