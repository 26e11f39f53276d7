/* SPDX-License-Identifier: Apache-2.0
 * quantize.dynamic: the nodes it writes, their codes and scales against the formulas, what it leaves alone and why. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

enum { K = 32, N = 20 }; /* large enough for codes to be smaller than floats */

/* The node that makes a value, also in a domain of its own. */
static const struct node *maker(const struct model *m, const char *value)
{
    return &m->nodes[g_maker(m, g_value(m, value))];
}

/* x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x scale * weight scale) [-> Add bias]. */
static void check_product(const struct model *m, const struct model *was, bool trans_b, float alpha, float beta,
                          bool bias, bool per_channel, bool u8)
{
    const struct node *last = g_made(m, "y"), *mul = bias ? g_source(m, last, 0) : last;
    const struct tensor *w = value_const(was, g_value(was, "w"));
    if (bias) {
        assert_true(node_is(last, "Add"));
        const float *b = tensor_f32(value_const(was, g_value(was, "b"))),
                    *now = tensor_f32(value_const(m, last->input[1]));
        for (int k = 0; k < N; k++)
            g_near((double)now[k], (double)beta * (double)b[k], 1e-6);
    }
    assert_true(node_is(mul, "Mul"));
    const struct node *cast = g_source(m, mul, 0), *scale = g_source(m, mul, 1);
    assert_true(node_is(cast, "Cast") && node_attr_int(cast, "to", 0) == DTYPE_FLOAT);
    const struct node *product = g_source(m, cast, 0), *dyn = g_source(m, product, 0);
    assert_string_equal(product->op_type, "MatMulInteger");
    assert_string_equal(dyn->op_type, "DynamicQuantizeLinear");
    assert_int_equal(dyn->input[0], g_value(m, "x"));
    assert_int_equal(product->n_input, u8 ? 4 : 3); /* int8 weights with zero point 0 need none */
    assert_int_equal(product->input[2], dyn->output[2]);
    assert_true(node_is(scale, "Mul") && scale->input[0] == dyn->output[1]);
    const struct tensor *codes = value_const(m, product->input[1]), *ws = value_const(m, scale->input[1]);
    assert_int_equal(codes->dtype, u8 ? DTYPE_UINT8 : DTYPE_INT8);
    assert_true(codes->shape.dim[0] == K && codes->shape.dim[1] == N); /* always [K,N] */
    assert_string_equal(m->values[product->input[1]].name, "w");
    assert_int_equal(tensor_count(ws), per_channel ? N : 1);
    assert_int_equal(ws->shape.rank, per_channel ? 1 : 0);
    double all = 0, largest[N] = {0};
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            double v = (double)alpha * (double)tensor_f32(w)[trans_b ? n * K + k : k * N + n];
            largest[n] = fmax(largest[n], fabs(v));
            all = fmax(all, fabs(v));
        }
    for (int n = 0; n < N; n++) {
        double s = (double)tensor_f32(ws)[per_channel ? n : 0];
        g_near(s, (per_channel ? largest[n] : all) / 127, 1e-6 * all);
        for (int k = 0; k < K; k++) {
            double code = u8 ? ((uint8_t *)codes->data)[k * N + n] - 128 : ((int8_t *)codes->data)[k * N + n];
            g_near(code, (double)alpha * (double)tensor_f32(w)[trans_b ? n * K + k : k * N + n] / s,
                   1.001); /* nearest or second nearest */
        }
    }
}

static void test_products(void **state)
{
    (void)state;
    const struct {
        const char *op;
        bool trans_b, bias;
        float alpha, beta;
    } cases[] = {
        {"MatMul", false, false, 1, 1}, {"Gemm", false, true, 1, 1},      {"Gemm", true, true, 1, 1},
        {"Gemm", true, true, 0.5f, 3},  {"Gemm", false, false, 0.25f, 1}, {"Gemm", true, true, -2, -1},
    };
    static const char *const words[] = {"quantize.dynamic isa=vnni", "quantize.dynamic isa=vnni per_channel=false",
                                        "quantize.dynamic weights=uint8"};
    for (size_t i = 0; i < 3 * sizeof cases / sizeof cases[0]; i++) {
        size_t k = i / 3;
        struct model *m = g_new(13);
        uint32_t in[3] = {g_input(m, "x", SHAPE(4, K)),
                          g_random(m, "w", cases[k].trans_b ? SHAPE(N, K) : SHAPE(K, N), 1, 1), VALUE_NONE};
        if (cases[k].bias)
            in[2] = g_random(m, "b", SHAPE(N), 2, 1);
        uint32_t y = g_node(m, cases[k].op, "y", in, cases[k].bias ? 3 : 2);
        if (cases[k].trans_b)
            node_set_int(m, g_maker(m, y), "transB", 1);
        if (cases[k].alpha != 1)
            node_set_float(m, g_maker(m, y), "alpha", cases[k].alpha);
        if (cases[k].beta != 1)
            node_set_float(m, g_maker(m, y), "beta", cases[k].beta);
        g_output(m, y);
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, K), 3, 1);
        struct g_done done = g_apply(m, words[i % 3], NULL);
        check_product(m, was, cases[k].trans_b, cases[k].alpha, cases[k].beta, cases[k].bias, i % 3 != 1, i % 3 == 2);
        g_expect_warning(&done, "opset", false);
        g_near(g_error(was, m, &t, 0), 0, 0.03);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* A bias that is no constant is multiplied by beta while running. */
static void test_computed_bias(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(N, K)), w = g_random(m, "w", SHAPE(K, N), 1, 1);
    uint32_t c = G_OP(m, "MatMul", "c", x, g_random(m, "w2", SHAPE(K, N), 2, 1));
    uint32_t y = G_OP(m, "Gemm", "y", x, w, c);
    node_set_float(m, g_maker(m, y), "beta", 0.5f);
    g_output(m, y);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(N, K), 3, 1);
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    assert_int_equal(g_count(m, "MatMulInteger"), 2);
    g_near(g_error(was, m, &t, 0), 0, 0.03);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* A weight that is stored in 16 bits behind a Cast, as quantize.fp16 storage=true leaves it: the Cast goes. */
static void test_widened_weight(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, K)), w = g_random(m, "w", SHAPE(K, N), 1, 1);
    struct tensor half = {0};
    assert_int_equal(tensor_convert(&half, value_const(m, w), DTYPE_FLOAT16, NULL), 0);
    assert_int_equal(value_set_weight(m, w, &half), 0);
    tensor_fini(&half);
    uint32_t wide = g_node(m, "Cast", "wide", &w, 1);
    node_set_int(m, g_maker(m, wide), "to", DTYPE_FLOAT);
    g_output(m, G_OP(m, "MatMul", "y", x, wide));
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(4, K), 3, 1);
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    assert_int_equal(g_count(m, "MatMulInteger"), 1);
    assert_int_equal(g_count(m, "Cast"), 1); /* of the sums */
    assert_int_equal(model_main(m)->n_initializers, 2);
    g_near(g_error(was, m, &t, 0), 0, 0.03);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

/* A stack of constant matrices: a scale for each column of each, or one for all; never [N] alone. */
static void test_batched_weight(void **state)
{
    (void)state;
    for (int per_channel = 0; per_channel < 2; per_channel++) {
        struct model *m = g_new(13);
        uint32_t x = g_input(m, "x", SHAPE(3, 4, K));
        g_output(m, G_OP(m, "MatMul", "y", x, g_random(m, "w", SHAPE(3, K, N), 1, 1)));
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(3, 4, K), 3, 1);
        struct g_done done =
            g_apply(m, per_channel ? "quantize.dynamic" : "quantize.dynamic per_channel=false", NULL);
        const struct node *scale = g_source(m, g_made(m, "y"), 1);
        const struct shape *s = &value_const(m, scale->input[1])->shape;
        assert_true(per_channel ? shape_equal(s, &SHAPE(3, 1, N)) : s->rank == 0);
        g_near(g_error(was, m, &t, 0), 0, 0.03);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* One DynamicQuantizeLinear serves all products that read x; nodes that share a weight share its codes. */
static void test_shared(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, K)), w1 = g_random(m, "w1", SHAPE(K, N), 1, 1);
    uint32_t a = G_OP(m, "MatMul", "a", x, w1), b = G_OP(m, "MatMul", "b", x, g_random(m, "w2", SHAPE(K, N), 2, 1));
    uint32_t c = G_OP(m, "Relu", "c", x), d = G_OP(m, "MatMul", "d", c, w1);
    g_output(m, G_OP(m, "Add", "y", G_OP(m, "Add", "s", a, b), d));
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    assert_int_equal(g_count(m, "DynamicQuantizeLinear"), 2);
    assert_int_equal(g_count(m, "MatMulInteger"), 3);
    const struct node *p = g_source(m, g_source(m, g_made(m, "a"), 0), 0),
                      *q = g_source(m, g_source(m, g_made(m, "d"), 0), 0);
    assert_int_equal(p->input[1], q->input[1]);
    g_done(&done);
    model_free(m);
}

/* The floats of a weight that something else reads would stay in the file: all its readers stay in float. */
static void test_weight_needed_in_float(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, K)), w = g_random(m, "w", SHAPE(K, N), 1, 1);
    uint32_t a = G_OP(m, "MatMul", "a", x, w), z = g_node(m, "ReduceMax", "z", &w, 1);
    node_set_int(m, g_maker(m, z), "keepdims", 0);
    uint32_t v = g_random(m, "v", SHAPE(K, N), 2, 1), b = G_OP(m, "MatMul", "b", x, v);
    uint32_t c = G_OP(m, "MatMul", "skip_c", x, v);
    uint32_t tiny = G_OP(m, "MatMul", "tiny", a, g_random(m, "u", SHAPE(N, 4), 3, 1));
    g_output(m, a);
    g_output(m, z);
    g_output(m, b);
    g_output(m, c);
    g_output(m, tiny);
    g_output(m, w); /* the model gives its weight back */
    struct g_done done = g_apply(m, "quantize.dynamic exclude=[\"skip_*\"]", NULL);
    g_expect_skipped(&done, "a", "must stay in float for an output of the model");
    g_expect_skipped(&done, "b", "must stay in float for skip_c");
    g_expect_skipped(&done, "skip_c", "not selected");
    g_expect_skipped(&done, "tiny", "takes 320 bytes");
    assert_int_equal(g_count(m, "MatMulInteger"), 0);
    assert_int_equal(model_opset(m, ""), 13);
    g_done(&done);
    model_free(m);
}

/* Conv stays in float unless asked for; then its weights are uint8 around 128 (no runtime has ConvInteger with int8),
 * the bias stands behind as [C,1,..], and a warning says that it is slow. */
static void test_conv(void **state)
{
    (void)state;
    for (int rank = 3; rank <= 5; rank++) {
        const struct shape xs[] = {SHAPE(2, 8, 9), SHAPE(2, 8, 9, 9), SHAPE(2, 8, 5, 5, 5)};
        const struct shape ws[] = {SHAPE(12, 8, 3), SHAPE(6, 8, 3, 3), SHAPE(4, 8, 3, 3, 3)};
        const struct shape bs[] = {SHAPE(12, 1), SHAPE(6, 1, 1), SHAPE(4, 1, 1, 1)};
        const int at = rank - 3;
        const int64_t channels = ws[at].dim[0], each = shape_count(&ws[at]) / channels;
        int64_t ones[6] = {1, 1, 1, 1, 1, 1};
        struct model *m = g_new(11);
        uint32_t x = g_input(m, "x", xs[at]);
        uint32_t y = G_OP(m, "Conv", "y", x, g_random(m, "w", ws[at], 1, 1), g_random(m, "b", SHAPE(channels), 2, 1));
        node_set_ints(m, g_maker(m, y), "pads", ones, 2 * (rank - 2));
        g_output(m, y);
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, xs[at], 3, 1);
        struct g_done done = g_apply(m, "quantize.dynamic", NULL);
        g_expect_skipped(&done, "y", "conv=true");
        g_expect_warning(&done, "slower", false);
        assert_string_equal(g_made(m, "y")->op_type, "Conv");
        g_done(&done);
        done = g_apply(m, "quantize.dynamic conv=true", NULL);
        g_expect_warning(&done, "slower than float", true);
        const struct node *add = g_made(m, "y"), *product = g_source(m, g_source(m, g_source(m, add, 0), 0), 0);
        assert_string_equal(product->op_type, "ConvInteger");
        assert_int_equal(node_attr(product, "pads")->count, 2 * (rank - 2));
        const struct tensor *codes = value_const(m, product->input[1]), *zero = value_const(m, product->input[3]);
        const struct tensor *scale = value_const(m, g_source(m, g_source(m, add, 0), 1)->input[1]);
        assert_int_equal(codes->dtype, DTYPE_UINT8);
        assert_int_equal(zero->dtype, DTYPE_UINT8);
        assert_int_equal(*(unsigned char *)zero->data, 128);
        assert_true(shape_equal(&scale->shape, &bs[at]));
        assert_true(shape_equal(&value_const(m, add->input[1])->shape, &bs[at]));
        const float *w = tensor_f32(value_const(was, g_value(was, "w")));
        for (int64_t k = 0; k < channels * each; k++)
            g_near(((unsigned char *)codes->data)[k], 128 + (double)w[k] / (double)tensor_f32(scale)[k / each], 1.001);
        g_near(g_error(was, m, &t, 0), 0, 0.03);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* x [T, batch, I] -> LSTM, GRU or RNN; y [T, D, batch, H]. */
static struct model *recurrent(const char *op, int gates, int directions)
{
    enum { IN = 24, HIDDEN = 8 };
    struct model *m = g_new(13);
    uint32_t in[3] = {g_input(m, "x", SHAPE(5, 3, IN)), g_random(m, "w", SHAPE(directions, gates * HIDDEN, IN), 1, 0.3),
                      g_random(m, "r", SHAPE(directions, gates * HIDDEN, HIDDEN), 2, 0.3)};
    uint32_t y = g_node(m, op, "y", in, 3);
    node_set_int(m, g_maker(m, y), "hidden_size", HIDDEN);
    if (directions == 2)
        node_set_string(m, g_maker(m, y), "direction", "bidirectional");
    g_output(m, y);
    return m;
}

static void test_lstm(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        const int directions = i % 2 + 1;
        const bool per_channel = i & 2, u8 = i & 4;
        char words[100];
        snprintf(words, sizeof words, "quantize.dynamic isa=vnni per_channel=%s weights=%s", per_channel ? "true" :
                 "false",
                 u8 ? "uint8" : "int8");
        struct model *m = recurrent("LSTM", 4, directions), *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(5, 3, 24), 3, 1);
        struct g_done done = g_apply(m, words, NULL);
        const struct node *n = maker(m, "y");
        assert_string_equal(n->op_type, "DynamicQuantizeLSTM");
        assert_string_equal(n->domain, "com.microsoft");
        assert_int_equal(model_opset(m, "com.microsoft"), 1);
        assert_int_equal(n->n_input, 12);
        const struct tensor *codes = value_const(m, n->input[1]), *scale = value_const(m, n->input[8]),
                            *zero = value_const(m, n->input[9]), *w = value_const(was, g_value(was, "w"));
        assert_true(shape_equal(&codes->shape, &SHAPE(directions, 24, 32))); /* turned */
        assert_true(shape_equal(&scale->shape, per_channel ? &SHAPE(directions, 32) : &SHAPE(directions)));
        assert_true(shape_equal(&zero->shape, &scale->shape) && zero->dtype == codes->dtype);
        assert_true(shape_equal(&value_const(m, n->input[2])->shape, &SHAPE(directions, 8, 32)));
        assert_int_not_equal(n->input[9], n->input[11]); /* each its own */
        for (int d = 0; d < directions; d++)
            for (int k = 0; k < 24; k++)
                for (int j = 0; j < 32; j++) {
                    const int at = (d * 24 + k) * 32 + j, s = per_channel ? d * 32 + j : d;
                    double code = u8 ? ((uint8_t *)codes->data)[at] - ((uint8_t *)zero->data)[s]
                                     : ((int8_t *)codes->data)[at] - ((int8_t *)zero->data)[s];
                    g_near(code, (double)tensor_f32(w)[(d * 32 + j) * 24 + k] / (double)tensor_f32(scale)[s], 1.001);
                }
        assert_true(g_error(was, m, &t, 0) < 0.05);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* No dynamic operator: int8 weights behind DequantizeLinear, and the report says that it is no faster. */
static void test_stored(void **state)
{
    (void)state;
    const struct {
        const char *op;
        int gates;
        bool batch_first;
    } cases[] = {{"GRU", 3, false}, {"RNN", 1, false}, {"LSTM", 4, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = recurrent(cases[i].op, cases[i].gates, 2);
        if (cases[i].batch_first) {
            model_set_opset(m, "", 14);
            node_set_int(m, g_maker(m, g_value(m, "y")), "layout", 1);
        }
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(5, 3, 24), 3, 1);
        struct g_done done = g_apply(m, "quantize.dynamic", NULL);
        const struct node *n = maker(m, "y");
        assert_string_equal(n->op_type, cases[i].op);
        const struct node *dq = g_source(m, n, 1);
        assert_true(node_is(dq, "DequantizeLinear") && value_const(m, dq->input[0])->dtype == DTYPE_INT8);
        assert_true(node_is(g_source(m, n, 2), "DequantizeLinear"));
        assert_true(strstr(json_string_value(json_object_get(json_object_get(g_row(&done, "y"), "after"), "note")),
                           "same speed") != NULL);
        g_near(g_error(was, m, &t, 0), 0, 0.05);
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* Embeddings: a scale for each row where rows are gathered, else one. */
static void test_tables(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        const int axis = i == 2 ? 1 : 0;
        struct model *m = g_new(13);
        int64_t rows[] = {0, 3, 29, -1};
        uint32_t in[2] = {g_random(m, "w", SHAPE(30, 16), 1, 1), g_ints(m, "i", 4, rows)};
        uint32_t x = g_input(m, "x", SHAPE(4));
        if (axis == 1)
            rows[2] = 15;
        in[1] = g_ints(m, "i2", 4, rows);
        uint32_t zero = G_OP(m, "Mul", "zero", x, g_const(m, "none", SHAPE_SCALAR, &(float){0}));
        uint32_t cast = g_node(m, "Cast", "cast", &zero, 1);
        node_set_int(m, g_maker(m, cast), "to", DTYPE_INT64);
        in[1] = G_OP(m, "Add", "index", cast, in[1]);
        uint32_t y = g_node(m, "Gather", "y", in, 2);
        if (axis)
            node_set_int(m, g_maker(m, y), "axis", axis);
        g_output(m, y);
        struct model *was = model_clone(m, NULL);
        struct tensor t = {0};
        g_fill(&t, SHAPE(4), 3, 1);
        struct g_done done = g_apply(m, i == 1 ? "quantize.dynamic per_channel=false" : "quantize.dynamic", NULL);
        assert_string_equal(g_made(m, "y")->op_type, i == 0 ? "Mul" : "DequantizeLinear");
        assert_int_equal(g_count(m, "Gather"), i == 0 ? 2 : 1);
        g_near(g_error(was, m, &t, 0), 0, 0.01); /* half a step of 127 of the table's largest */
        g_done(&done);
        tensor_fini(&t);
        model_free(was);
        model_free(m);
    }
}

/* Products in the bodies of an If are rewritten where they stand, a weight they share is stored once. */
static void test_nested(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, K)), w = g_random(m, "w", SHAPE(K, N), 1, 1), y = model_add_value(m, 0,
        "y", false);
    uint32_t sum = g_node(m, "ReduceSum", "sum", &x, 1);
    node_set_int(m, g_maker(m, sum), "keepdims", 0);
    uint32_t cond = G_OP(m, "Greater", "cond", sum, g_const(m, "zero", SHAPE_SCALAR, &(float){0}));
    uint32_t branch = model_add_node(m, 0, "If", NULL, "if", &cond, 1, &y, 1);
    struct attr *attr = model_alloc(m, 2, sizeof *attr);
    for (int i = 0; i < 2; i++) {
        uint32_t g = model_add_graph(m, 0, branch), *ids = model_alloc(m, 1, sizeof *ids);
        uint32_t out = model_add_value(m, g, i ? "else_y" : "then_y", false), own = out;
        if (i) {
            own = model_add_value(m, g, "else_t", false);
            assert_int_not_equal(model_add_node(m, g, "Neg", NULL, "else_neg", &own, 1, &out, 1), NODE_NONE);
        }
        assert_int_not_equal(model_add_node(m, g, "MatMul", NULL, i ? "else_mm" : "then_mm", (uint32_t[]){x, w}, 2,
                                            &own, 1),
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
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    for (int i = 0; i < 2; i++) {
        struct tensor t = {0};
        g_fill(&t, SHAPE(4, K), 3, i ? 1 : -1);
        g_near(g_error(was, m, &t, 0), 0, 0.03);
        tensor_fini(&t);
    }
    int products = 0;
    uint32_t codes = VALUE_NONE;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        if (m->nodes[id].op_type && node_is(&m->nodes[id], "MatMulInteger")) {
            assert_true(products++ == 0 || codes == m->nodes[id].input[1]);
            codes = m->nodes[id].input[1];
            assert_int_not_equal(m->nodes[id].graph, 0);
            const uint32_t q = m->values[m->nodes[id].input[0]].producer; /* made where it is needed */
            assert_int_equal(m->nodes[q].graph, m->nodes[id].graph);
        }
    assert_int_equal(products, 2);
    g_done(&done);
    model_free(was);
    model_free(m);
}

/* DynamicQuantizeLinear came with opset 11, and is asked for only where something is written; what has no integer
 * form is named. */
static void test_opset_and_reasons(void **state)
{
    (void)state;
    for (int wanted = 0; wanted < 2; wanted++) {
        struct model *m = g_new(9);
        m->ir_version = 4;
        float none[4] = {0};
        uint32_t x = g_input(m, "x", SHAPE(2, K));
        uint32_t a = G_OP(m, "MatMul", "a", x, g_random(m, "w", SHAPE(K, K), 1, 1));
        uint32_t b = G_OP(m, "MatMul", "b", g_random(m, "left", SHAPE(2, 2), 2, 1), a);
        uint32_t c = G_OP(m, "MatMul", "c", b, g_random(m, "not_me", SHAPE(K, 4), 3, 1));
        uint32_t d = G_OP(m, "Gemm", "d", c, g_const(m, "flat", SHAPE(4, 1), none), g_const(m, "bias", SHAPE(1), none));
        g_output(m, d);
        struct g_done done =
            g_apply(m, wanted ? "quantize.dynamic exclude=[\"c\"]" : "quantize.dynamic exclude=[\"a\",\"c\"]", NULL);
        assert_int_equal(model_opset(m, ""), wanted ? 11 : 9);
        assert_int_equal(m->ir_version, wanted ? 6 : 4); /* the IR version that came with opset 11 */
        g_expect_warning(&done, "raised from 9 to 11", wanted);
        g_expect_skipped(&done, "b", "on the left");
        g_expect_skipped(&done, "c", "not selected");
        g_expect_skipped(&done, "d", "takes 16 bytes");
        assert_int_equal(g_count(m, "MatMulInteger"), wanted);
        g_done(&done);
        model_free(m);
    }
}

/* NaN is refused with the place; zero channels, channels of 1e-30 and a quantized model are no trouble or are named. */
static void test_hostile(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, K)), w = g_random(m, "w", SHAPE(K, N), 1, 1);
    float *v = tensor_f32(value_const(m, w));
    for (int k = 0; k < K; k++) {
        v[k * N] = 0;
        v[k * N + 1] = 1e-30f * (float)k;
        v[k * N + 2] = 1e30f * (float)k;
    }
    g_output(m, G_OP(m, "MatMul", "y", x, w));
    struct model *was = model_clone(m, NULL), *broken = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, SHAPE(2, K), 3, 1);
    struct g_done done = g_apply(m, "quantize.dynamic", NULL);
    g_near(g_error(was, m, &t, 0), 0, 0.03);
    g_done(&done);
    done = g_apply(m, "quantize.dynamic", NULL);
    assert_int_equal(done.rc, -1);
    assert_non_null(strstr(done.err.msg, "quantized already"));
    json_decref(done.layers);
    json_decref(done.warnings);
    struct tensor bad = {0};
    assert_int_equal(tensor_copy(&bad, value_const(broken, w), NULL), 0);
    tensor_f32(&bad)[7] = NAN;
    assert_int_equal(value_set_weight(broken, w, &bad), 0);
    done = g_apply(broken, "quantize.dynamic", NULL);
    assert_int_equal(done.rc, -1);
    if (!strstr(done.err.msg, "node 'y'"))
        fail_msg("%s", done.err.msg);
    assert_non_null(strstr(done.err.msg, "NaN"));
    json_decref(done.layers);
    json_decref(done.warnings);
    tensor_fini(&bad);
    tensor_fini(&t);
    model_free(broken);
    model_free(was);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products), cmocka_unit_test(test_computed_bias), cmocka_unit_test(test_widened_weight),
        cmocka_unit_test(test_batched_weight),
        cmocka_unit_test(test_shared), cmocka_unit_test(test_weight_needed_in_float), cmocka_unit_test(test_conv),
        cmocka_unit_test(test_lstm), cmocka_unit_test(test_stored), cmocka_unit_test(test_tables),
        cmocka_unit_test(test_nested), cmocka_unit_test(test_opset_and_reasons), cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
