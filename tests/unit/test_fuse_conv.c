/* SPDX-License-Identifier: Apache-2.0
 * The layout pass: for small graphs, the rewritten plan gives what the plain plan gives, with the nodes it should
 * have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/engine/engine.h"
#include "tests/unit/graphs.h"

/* Nodes of any domain by type, in the model a plan runs. */
static int count(const struct model *m, const char *type)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        n += strcmp(m->nodes[model_main(m)->nodes[i]].op_type, type) == 0;
    return n;
}

static uint32_t conv_group(struct model *m, const char *name, uint32_t x, int64_t c_in, int64_t c_out, int64_t k,
                           int64_t pad, int64_t stride, int64_t group)
{
    char text[64];
    const double scale = 1 / sqrt((double)(c_in / group * k * k));
    snprintf(text, sizeof text, "%s_w", name);
    const uint32_t w = g_random(m, text, SHAPE(c_out, c_in / group, k, k), (uint64_t)(x + 1), scale);
    snprintf(text, sizeof text, "%s_b", name);
    const uint32_t b = g_random(m, text, SHAPE(c_out), (uint64_t)(x + 2), 0.5);
    const uint32_t y = G_OP(m, "Conv", name, x, w, b);
    node_set_ints(m, g_maker(m, y), "pads", (const int64_t[]){pad, pad, pad, pad}, 4);
    node_set_ints(m, g_maker(m, y), "strides", (const int64_t[]){stride, stride}, 2);
    node_set_int(m, g_maker(m, y), "group", group);
    return y;
}

static uint32_t conv(struct model *m, const char *name, uint32_t x, int64_t c_in, int64_t c_out, int64_t k, int64_t pad)
{
    return conv_group(m, name, x, c_in, c_out, k, pad, 1, 1);
}

static uint32_t input(struct model *m, int64_t channels)
{
    return g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), channels, 9, 10));
}

/* ---- the graphs; each returns its output ---- */
static uint32_t conv_relu(struct model *m)
{
    return G_OP(m, "Relu", "y", conv(m, "c", input(m, 3), 3, 12, 3, 1));
}

static uint32_t residual(struct model *m)
{
    const uint32_t a = G_OP(m, "Relu", "a", conv(m, "c1", input(m, 8), 8, 16, 3, 1));
    const uint32_t b = G_OP(m, "Relu", "b", conv(m, "c2", a, 16, 16, 3, 1));
    const uint32_t s = G_OP(m, "Add", "s", conv(m, "c3", b, 16, 16, 3, 1), a);
    return G_OP(m, "Relu", "y", s);
}

/* Both sides of the sum are convolutions. */
static uint32_t two_branches(struct model *m)
{
    const uint32_t x = input(m, 8), a = conv(m, "c1", x, 8, 16, 1, 0), b = conv(m, "c2", x, 8, 16, 3, 1);
    return G_OP(m, "Relu", "y", G_OP(m, "Add", "s", a, b));
}

/* A value inside the chain is read elsewhere too: nothing may be taken in behind it. */
static uint32_t read_twice(struct model *m)
{
    const uint32_t c = conv(m, "c", input(m, 8), 8, 16, 3, 1), r = G_OP(m, "Relu", "r", c);
    return G_OP(m, "Mul", "y", r, G_OP(m, "Sigmoid", "s", c));
}

/* The convolution's own result is an output of the graph. */
static uint32_t inner_output(struct model *m)
{
    const uint32_t c = conv(m, "c", input(m, 8), 8, 16, 3, 1);
    g_output(m, c);
    return G_OP(m, "Relu", "y", c);
}

static uint32_t activations(struct model *m)
{
    const uint32_t a = G_OP(m, "LeakyRelu", "a", conv(m, "c1", input(m, 8), 8, 11, 3, 1));
    const uint32_t b = G_OP(m, "Sigmoid", "b", conv(m, "c2", a, 11, 16, 1, 0));
    const uint32_t low = g_const(m, "low", SHAPE_SCALAR, &(float){-0.5f});
    const uint32_t high = g_const(m, "high", SHAPE_SCALAR, &(float){0.7f});
    const uint32_t c = G_OP(m, "Clip", "d", conv(m, "c3", b, 16, 8, 3, 1), low, high);
    return G_OP(m, "HardSwish", "y", conv(m, "c4", c, 8, 9, 1, 0));
}

static uint32_t pools(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 3), 3, 13, 3, 1), p = G_OP(m, "MaxPool", "p", a);
    node_set_ints(m, g_maker(m, p), "kernel_shape", (const int64_t[]){3, 3}, 2);
    node_set_ints(m, g_maker(m, p), "strides", (const int64_t[]){2, 2}, 2);
    node_set_ints(m, g_maker(m, p), "pads", (const int64_t[]){1, 1, 1, 1}, 4);
    const uint32_t q = G_OP(m, "AveragePool", "q", p);
    node_set_ints(m, g_maker(m, q), "kernel_shape", (const int64_t[]){2, 3}, 2);
    node_set_ints(m, g_maker(m, q), "pads", (const int64_t[]){1, 0, 0, 1}, 4);
    node_set_int(m, g_maker(m, q), "ceil_mode", 1);
    node_set_int(m, g_maker(m, q), "count_include_pad", 1);
    const uint32_t r = G_OP(m, "AveragePool", "r", q);
    node_set_ints(m, g_maker(m, r), "kernel_shape", (const int64_t[]){3, 3}, 2);
    node_set_ints(m, g_maker(m, r), "pads", (const int64_t[]){1, 1, 1, 1}, 4);
    const uint32_t c = conv(m, "c2", r, 13, 16, 1, 0), g = G_OP(m, "GlobalAveragePool", "g", c);
    return G_OP(m, "Flatten", "y", g);
}

/* Squeeze and excite, with a mean instead of the pool. */
static uint32_t excite(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 8), 8, 20, 3, 1);
    const uint32_t axes = g_ints(m, "axes", 2, (const int64_t[]){2, 3}), s = G_OP(m, "ReduceMean", "s", a, axes);
    const uint32_t t = G_OP(m, "Relu", "t", conv(m, "c2", s, 20, 4, 1, 0));
    const uint32_t u = G_OP(m, "HardSigmoid", "u", conv(m, "c3", t, 4, 20, 1, 0));
    return conv(m, "y", G_OP(m, "Mul", "v", u, a), 20, 8, 1, 0);
}

static uint32_t constants(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 8), 8, 11, 3, 1);
    const uint32_t b = G_OP(m, "Mul", "b", a, g_random(m, "k1", SHAPE(1, 11, 1, 1), 5, 1));
    const uint32_t c = G_OP(m, "Add", "e", g_random(m, "k2", SHAPE(11, 1, 1), 6, 1), b);
    const uint32_t d = G_OP(m, "PRelu", "d", c, g_random(m, "k3", SHAPE(11, 1, 1), 7, 1));
    const uint32_t e = G_OP(m, "Div", "f", d, g_const(m, "k4", SHAPE(1, 1, 1), &(float){3}));
    const uint32_t f = G_OP(m, "Sub", "g", g_const(m, "k5", SHAPE_SCALAR, &(float){1}), e);
    return conv(m, "y", f, 11, 8, 1, 0);
}

/* A constant that is neither one number nor one a channel leaves the node plain. */
static uint32_t other_constant(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 8), 8, 8, 3, 1);
    return G_OP(m, "Mul", "y", a, g_random(m, "k", SHAPE(9, 10), 5, 1));
}

static uint32_t batchnorm(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 8), 8, 13, 3, 1), r = G_OP(m, "Relu", "r", a);
    float variance[13];
    for (int i = 0; i < 13; i++)
        variance[i] = 0.5f + 0.1f * (float)i;
    const uint32_t n = G_OP(m, "BatchNormalization", "n", r, g_random(m, "g", SHAPE(13), 5, 1),
                            g_random(m, "h", SHAPE(13), 6, 1), g_random(m, "i", SHAPE(13), 7, 1),
                            g_const(m, "j", SHAPE(13), variance));
    return conv(m, "y", G_OP(m, "Relu", "s", n), 13, 8, 1, 0);
}

static uint32_t concatenation(struct model *m)
{
    const uint32_t x = input(m, 8), a = conv(m, "c1", x, 8, 16, 1, 0), b = conv(m, "c2", x, 8, 5, 3, 1);
    const uint32_t c = G_OP(m, "Concat", "k", a, b);
    node_set_int(m, g_maker(m, c), "axis", -3);
    return conv(m, "y", c, 21, 8, 1, 0);
}

/* 5 channels first: blocks would not line up. */
static uint32_t odd_concatenation(struct model *m)
{
    const uint32_t x = input(m, 8), a = conv(m, "c1", x, 8, 5, 1, 0), b = conv(m, "c2", x, 8, 16, 3, 1);
    const uint32_t c = G_OP(m, "Concat", "k", a, b);
    node_set_int(m, g_maker(m, c), "axis", 1);
    return conv(m, "y", c, 21, 8, 1, 0);
}

static uint32_t depthwise(struct model *m)
{
    const uint32_t a = G_OP(m, "Relu", "a", conv(m, "c1", input(m, 3), 3, 20, 3, 1));
    const uint32_t b = G_OP(m, "Relu", "b", conv_group(m, "c2", a, 20, 20, 3, 1, 2, 20));
    return conv(m, "y", b, 20, 10, 1, 0);
}

/* Groups of 4 channels: two are done as one. */
static uint32_t merged_groups(struct model *m)
{
    return conv_group(m, "y", conv(m, "c1", input(m, 8), 8, 16, 1, 0), 16, 24, 3, 1, 1, 4);
}

/* Groups of 3 channels: nothing fits. */
static uint32_t odd_groups(struct model *m)
{
    return conv_group(m, "y", input(m, 9), 9, 9, 3, 1, 1, 3);
}

static uint32_t channels_last(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 9, 10, 3));
    const uint32_t t = G_OP(m, "Transpose", "t", x);
    node_set_ints(m, g_maker(m, t), "perm", (const int64_t[]){0, 3, 1, 2}, 4);
    const uint32_t c = conv(m, "c2", G_OP(m, "Relu", "r", conv(m, "c1", t, 3, 16, 3, 1)), 16, 9, 3, 1);
    const uint32_t y = G_OP(m, "Transpose", "y", c);
    node_set_ints(m, g_maker(m, y), "perm", (const int64_t[]){0, 2, 3, 1}, 4);
    return y;
}

/* 12 channels are no first layer: the conversion itself reads channels last. */
static uint32_t channels_last_wide(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 9, 10, 12));
    const uint32_t t = G_OP(m, "Transpose", "t", x);
    node_set_ints(m, g_maker(m, t), "perm", (const int64_t[]){0, 3, 1, 2}, 4);
    return conv(m, "y", t, 12, 16, 3, 1);
}

static uint32_t padded(struct model *m)
{
    const uint32_t x = conv(m, "c1", input(m, 8), 8, 16, 1, 0);
    const uint32_t pads = g_ints(m, "pads", 8, (const int64_t[]){0, 0, 1, 2, 0, 0, 2, 0});
    return conv(m, "y", G_OP(m, "Pad", "p", x, pads), 16, 8, 3, 1);
}

static uint32_t one_axis(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 9, 30));
    const uint32_t c = G_OP(m, "Conv", "c", x, g_random(m, "w", SHAPE(16, 9, 5), 3, 0.2));
    node_set_ints(m, g_maker(m, c), "pads", (const int64_t[]){3, 1}, 2);
    node_set_ints(m, g_maker(m, c), "strides", (const int64_t[]){2}, 1);
    const uint32_t d = G_OP(m, "Conv", "d", G_OP(m, "Relu", "r", c), g_random(m, "v", SHAPE(12, 16, 3), 4, 0.2));
    node_set_string(m, g_maker(m, d), "auto_pad", "SAME_UPPER");
    return G_OP(m, "GlobalMaxPool", "y", d);
}

/* Nobody wants a blocked form of what only a plain operator reads. */
static uint32_t plain_reader(struct model *m)
{
    const uint32_t a = conv(m, "c1", input(m, 8), 8, 16, 3, 1);
    return conv(m, "y", G_OP(m, "Log", "l", G_OP(m, "Exp", "e", a)), 16, 8, 1, 0);
}

static const struct row {
    const char *name;
    uint32_t (*build)(struct model *m);
    struct shape x; /* dim 0 is tried as 1 and as 3 */
    int blocked, to, from, plain; /* ConvBlocked, ToBlocked, FromBlocked, all other nodes */
} table[] = {
    {"conv relu", conv_relu, {4, {1, 3, 9, 10}}, 1, 0, 1, 0},
    {"residual", residual, {4, {1, 8, 9, 10}}, 3, 1, 1, 0},
    {"two branches", two_branches, {4, {1, 8, 9, 10}}, 2, 1, 1, 0},
    {"read twice", read_twice, {4, {1, 8, 9, 10}}, 1, 1, 1, 3},
    {"inner output", inner_output, {4, {1, 8, 9, 10}}, 1, 1, 2, 1},
    {"activations", activations, {4, {1, 8, 9, 10}}, 4, 1, 1, 0},
    {"pools", pools, {4, {1, 3, 9, 10}}, 2, 0, 1, 5},
    {"excite", excite, {4, {1, 8, 9, 10}}, 4, 1, 1, 2},
    {"constants", constants, {4, {1, 8, 9, 10}}, 2, 1, 1, -1},
    {"other constant", other_constant, {4, {1, 8, 9, 10}}, 1, 1, 1, 1},
    {"batchnorm", batchnorm, {4, {1, 8, 9, 10}}, 3, 1, 1, 0},
    {"concatenation", concatenation, {4, {1, 8, 9, 10}}, 3, 1, 1, 1},
    {"odd concatenation", odd_concatenation, {4, {1, 8, 9, 10}}, 3, 2, 3, 1},
    {"depthwise", depthwise, {4, {1, 3, 9, 10}}, 3, 0, 1, 0},
    {"merged groups", merged_groups, {4, {1, 8, 9, 10}}, 2, 1, 1, 0},
    {"odd groups", odd_groups, {4, {1, 9, 9, 10}}, 0, 0, 0, 1},
    {"channels last", channels_last, {4, {1, 9, 10, 3}}, 2, 0, 1, 0},
    {"channels last, wide", channels_last_wide, {4, {1, 9, 10, 12}}, 1, 1, 1, 0},
    {"padded", padded, {4, {1, 8, 9, 10}}, 2, 1, 1, 0},
    {"one axis", one_axis, {3, {1, 9, 30}}, 2, 1, 1, 1},
    {"plain reader", plain_reader, {4, {1, 8, 9, 10}}, 2, 2, 2, 2},
};

static void run(struct plan *plan, const struct tensor *x, struct tensor *y)
{
    struct err err = {0};
    if (plan_run(plan, x, y, NULL, &err))
        fail_msg("%s", err.msg);
}

static void check_nodes(const struct row *r, const struct model *m)
{
    const int blocked = count(m, "ConvBlocked"), to = count(m, "ToBlocked"), from = count(m, "FromBlocked");
    const int plain = model_main(m)->n_nodes - blocked - to - from;
    if (blocked != r->blocked || to != r->to || from != r->from || (r->plain >= 0 && plain != r->plain))
        fail_msg("%s: %d ConvBlocked, %d ToBlocked, %d FromBlocked, %d others; expected %d, %d, %d, %d", r->name,
                 blocked, to, from, plain, r->blocked, r->to, r->from, r->plain);
}

static void check_row(const struct row *r)
{
    struct err err = {0};
    struct model *m = g_new(18);
    g_output(m, r->build(m));
    struct pool *pool = pool_new(2);
    struct plan *plain = plan_new(m, &(struct plan_opts){.pool = pool}, &err);
    struct plan *fast = plain ? plan_new(m, &(struct plan_opts){.pool = pool, .optimize = true}, &err) : NULL;
    if (!fast)
        fail_msg("%s: %s", r->name, err.msg);
    check_nodes(r, plan_model(fast));
    for (int64_t batch = 1; batch <= 3; batch += 2) {
        struct tensor x = {0}, want[2] = {0}, got[2] = {0};
        struct shape shape = r->x;
        shape.dim[0] = batch;
        g_fill(&x, shape, 11, 1);
        run(plain, &x, want);
        run(fast, &x, got);
        for (int k = 0; k < plan_n_outputs(plain); k++) {
            assert_true(shape_equal(&want[k].shape, &got[k].shape));
            double worst = 0, largest = 1e-30;
            for (int64_t i = 0; i < tensor_count(&want[k]); i++) {
                worst = fmax(worst, fabs((double)tensor_f32(&want[k])[i] - (double)tensor_f32(&got[k])[i]));
                largest = fmax(largest, fabs((double)tensor_f32(&want[k])[i]));
            }
            if (!(worst / largest < 1e-5))
                fail_msg("%s, batch %d, output %d: error %g", r->name, (int)batch, k, worst / largest);
            tensor_fini(&want[k]);
            tensor_fini(&got[k]);
        }
        tensor_fini(&x);
    }
    plan_free(fast);
    plan_free(plain);
    pool_free(pool);
    model_free(m);
}

static void same_results(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        check_row(&table[i]);
}

/* The work counted is that of the model, whatever algorithm runs. */
static void same_cost(void **state)
{
    struct err err = {0};
    struct model *m = g_new(18);
    const struct shape x = SHAPE(2, 8, 9, 10);
    const struct type *types;
    (void)state;
    g_output(m, residual(m));
    struct plan *plain = plan_new(m, &(struct plan_opts){0}, &err);
    struct plan *fast = plan_new(m, &(struct plan_opts){.optimize = true}, &err);
    assert_non_null(plain);
    assert_non_null(fast);
    assert_int_equal(plan_infer(plain, &x, &types, &err), 0);
    assert_int_equal(plan_infer(fast, &x, &types, &err), 0);
    assert_true(plan_macs(plain, NODE_NONE) > 0);
    assert_int_equal(plan_macs(plain, NODE_NONE), plan_macs(fast, NODE_NONE));
    plan_free(plain);
    plan_free(fast);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_results), cmocka_unit_test(same_cost)};
    return cmocka_run_group_tests_name("fuse_conv", tests, NULL, NULL);
}
