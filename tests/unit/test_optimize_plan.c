/* SPDX-License-Identifier: Apache-2.0
 * The engine's rewriting: a rewritten plan gives what a plain one gives; what only scales and shifts channels is inside
 * the products; the caller's model stays as it is; and whose bytes a value uses: views, results in place, outputs. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/engine/optimize.h"
#include "tests/unit/graphs.h"

static void run_with(const struct model *m, bool optimize, const struct tensor *x, struct tensor *out)
{
    struct err err = {0};
    struct plan *plan = plan_new(m, &(struct plan_opts){.optimize = optimize}, &err);
    if (!plan || plan_run(plan, x, out, NULL, &err))
        fail_msg("the model does not run: %s", err.msg);
    plan_free(plan);
}

/* Both ways, twice in the same plan; difference relative to the largest number. */
static void same_results(const struct model *m, struct shape shape, double tolerance)
{
    struct tensor x = {0}, plain[8] = {0}, fast[8] = {0}, again[8] = {0};
    struct err err = {0};
    g_fill(&x, shape, 3, 1);
    run_with(m, false, &x, plain);
    struct plan *plan = plan_new(m, &(struct plan_opts){.optimize = true}, &err);
    assert_non_null(plan);
    assert_int_equal(plan_run(plan, &x, fast, NULL, &err), 0);
    assert_int_equal(plan_run(plan, &x, again, NULL, &err), 0);
    for (int o = 0; o < plan_n_outputs(plan); o++) {
        double largest = 1e-30;
        assert_true(shape_equal(&plain[o].shape, &fast[o].shape));
        assert_true(tensor_equal(&fast[o], &again[o]));
        for (int64_t i = 0; i < tensor_count(&plain[o]); i++)
            largest = fmax(largest, fabs((double)tensor_f32(&plain[o])[i]));
        for (int64_t i = 0; i < tensor_count(&plain[o]); i++)
            g_near((double)tensor_f32(&fast[o])[i], (double)tensor_f32(&plain[o])[i], tolerance * largest);
        tensor_fini(&plain[o]);
        tensor_fini(&fast[o]);
        tensor_fini(&again[o]);
    }
    plan_free(plan);
    tensor_fini(&x);
}

static int count_op(const struct model *m, const char *type)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        n += !strcmp(m->nodes[model_main(m)->nodes[i]].op_type, type);
    return n;
}

/* Nodes of a type in the rewritten copy. */
static int left(const struct model *m, const char *type)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){.optimize = true}, NULL);
    assert_non_null(plan);
    const int n = count_op(plan_model(plan), type);
    plan_free(plan);
    return n;
}

/* ---- multiply-adds per channel ---- */
static const float some[16] = {0.5f, 1.5f, -2, 3, 0.25f, 1, 2, -1, 0.1f, 0.9f, 1.1f, 7, 3, 2, 1, 4};
static const float zero[1] = {0}, infinite[1] = {INFINITY};
static const float positive[16] = {0.5f, 1.5f, 2, 3, 0.25f, 1, 2, 1, 0.1f, 0.9f, 1.1f, 7, 3, 2, 1, 4};

static uint32_t norm(struct model *m, const char *name, uint32_t x, int channels)
{
    char n[4][40];
    const char *const parts[] = {"g", "b", "m", "v"};
    for (int i = 0; i < 4; i++)
        snprintf(n[i], sizeof n[i], "%s_%s", name, parts[i]);
    return G_OP(m, "BatchNormalization", name, x, g_const(m, n[0], SHAPE(channels), some),
                g_const(m, n[1], SHAPE(channels), some + 3), g_const(m, n[2], SHAPE(channels), some + 5),
                g_const(m, n[3], SHAPE(channels), positive));
}

static void test_norm_after_products(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 4, 6, 6));
    uint32_t y = norm(m, "n1", G_OP(m, "Conv", "c", x, g_random(m, "w", SHAPE(6, 2, 3, 3), 1, 1)), 6);
    node_set_int(m, g_maker(m, g_value(m, "c")), "group", 2);
    y = G_OP(m, "ConvTranspose", "t", y, g_random(m, "w2", SHAPE(6, 2, 2, 2), 2, 1), g_const(m, "tb", SHAPE(4), some));
    y = norm(m, "n2", y, 4);
    node_set_int(m, g_maker(m, g_value(m, "t")), "group", 2);
    y = G_OP(m, "Flatten", "f", y);
    y = G_OP(m, "Gemm", "ge", y, g_random(m, "w3", SHAPE(5, 100), 3, 0.1), g_const(m, "gb", SHAPE(1), some));
    y = norm(m, "n3", y, 5);
    node_set_int(m, g_maker(m, g_value(m, "ge")), "transB", 1);
    node_set_float(m, g_maker(m, g_value(m, "ge")), "beta", 0.5f);
    y = G_OP(m, "MatMul", "mm", y, g_random(m, "w4", SHAPE(5, 3), 4, 1));
    y = norm(m, "n4", G_OP(m, "Add", "a", g_const(m, "ab", SHAPE(3), some), y), 3);
    g_output(m, y);
    assert_int_equal(left(m, "BatchNormalization"), 0);
    assert_int_equal(left(m, "Add"), 0);
    assert_int_equal(g_count(m, "BatchNormalization"), 4); /* the caller's model is as it was */
    same_results(m, SHAPE(2, 4, 6, 6), 2e-6);
    model_free(m);
}

static void test_arithmetic_after_products(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(1, 3, 5, 5)), w = g_random(m, "w", SHAPE(4, 3, 1, 1), 1, 1);
    uint32_t y = G_OP(m, "Conv", "c", x, w, g_const(m, "cb", SHAPE(4), some));
    y = G_OP(m, "Mul", "mul", g_const(m, "m1", SHAPE(4, 1, 1), some), y);
    y = G_OP(m, "Sub", "sub", y, g_const(m, "s1", SHAPE(1, 4, 1, 1), some));
    y = G_OP(m, "Div", "div", y, g_const(m, "d1", SHAPE_SCALAR, some));
    y = G_OP(m, "Add", "add", y, g_const(m, "a1", SHAPE(1), some));
    uint32_t z = G_OP(m, "Conv", "c2", x, w); /* the weight has another reader, which keeps the old one */
    g_output(m, y);
    g_output(m, z);
    for (int i = 0; i < 4; i++)
        assert_int_equal(left(m, ((const char *[]){"Mul", "Sub", "Div", "Add"})[i]), 0);
    same_results(m, SHAPE(1, 3, 5, 5), 2e-6);
    model_free(m);
}

/* What must not go in: other readers, constants along another axis, per-element, 1 / 0, training. */
static void test_what_stays_outside(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        int rank;
        int64_t dim[4];
        bool first, read_twice;
        const float *data;
    } rows[] = {{"Mul", 1, {4}, false, false, some},           {"Mul", 4, {1, 1, 4, 4}, false, false, some},
                {"Mul", 3, {4, 1, 1}, false, true, some},      {"Div", 3, {4, 1, 1}, true, false, some},
                {"Sub", 3, {4, 1, 1}, true, false, some},      {"Mul", 4, {2, 4, 1, 1}, false, false, some},
                {"Div", 1, {1}, false, false, zero},              {"Mul", 1, {1}, false, false, infinite}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = g_new(13);
        struct shape s = {.rank = rows[i].rank};
        memcpy(s.dim, rows[i].dim, sizeof rows[i].dim);
        uint32_t x = g_input(m, "x", SHAPE(1, 3, 4, 4)), k = g_const(m, "k", s, rows[i].data);
        uint32_t c = G_OP(m, "Conv", "c", x, g_random(m, "w", SHAPE(4, 3, 1, 1), 1, 1));
        g_output(m, rows[i].first ? G_OP(m, rows[i].op, "y", k, c) : G_OP(m, rows[i].op, "y", c, k));
        if (rows[i].read_twice)
            g_output(m, c);
        struct plan *plan = plan_new(m, &(struct plan_opts){.optimize = true}, NULL);
        assert_non_null(plan);
        if (count_op(plan_model(plan), rows[i].op) != 1)
            fail_msg("row %d: %s was folded", (int)i, rows[i].op);
        plan_free(plan);
        model_free(m);
    }
}

/* Shape arithmetic of a model with static inputs is gone, and so is what nobody reads. */
static void test_constants_and_dead_nodes(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 3, 4));
    uint32_t shape = G_OP(m, "Shape", "s", x);
    uint32_t part = G_OP(m, "Gather", "g", shape, g_ints(m, "i", 1, (int64_t[]){0}));
    uint32_t to = G_OP(m, "Concat", "to", part, g_ints(m, "rest", 1, (int64_t[]){-1}));
    node_set_int(m, g_maker(m, to), "axis", 0);
    uint32_t y = G_OP(m, "Reshape", "y", x, to);
    G_OP(m, "Neg", "nobody", y);
    g_output(m, G_OP(m, "Softmax", "z", y));
    struct plan *plan = plan_new(m, &(struct plan_opts){.optimize = true}, NULL);
    assert_non_null(plan);
    const struct model *own = plan_model(plan);
    assert_int_equal(model_main(own)->n_nodes, 2);
    assert_int_equal(count_op(own, "Reshape"), 1);
    plan_free(plan);
    same_results(m, SHAPE(2, 3, 4), 0);
    model_free(m);
}

/* ---- whose bytes ---- */
static uint32_t home(const struct plan *plan, const char *name)
{
    return plan->home[g_value(plan->m, name)];
}

static struct plan *placed(const struct model *m, struct shape shape)
{
    const struct type *types;
    struct err err = {0};
    struct plan *plan = plan_new(m, NULL, &err);
    if (!plan || plan_infer(plan, &shape, &types, &err))
        fail_msg("%s", err.msg);
    return plan;
}

static void test_views_and_results_in_place(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 6));
    uint32_t s = G_OP(m, "Softmax", "s", x);                                            /* new bytes */
    uint32_t v = G_OP(m, "Reshape", "v", s, g_ints(m, "to", 2, (int64_t[]){3, 4}));     /* a view of s */
    uint32_t n = G_OP(m, "Neg", "n", s);                                                /* s is read later, by way of v */
    uint32_t a = G_OP(m, "Relu", "a", v);                                               /* now s dies: in place */
    uint32_t w = G_OP(m, "Reshape", "w", a, g_ints(m, "back", 2, (int64_t[]){2, 6}));
    uint32_t b = G_OP(m, "Add", "b", n, w); /* both die: one of them */
    uint32_t d = G_OP(m, "Mul", "d", b, b); /* an operand read twice is not overwritten */
    uint32_t ix = G_OP(m, "Identity", "ix", x);
    uint32_t e = G_OP(m, "Neg", "e", ix);   /* the caller's bytes are not overwritten */
    uint32_t row = G_OP(m, "Softmax", "row", G_OP(m, "ReduceMax", "mx", e)); /* smaller */
    uint32_t wide = G_OP(m, "Add", "wide", row, d);
    g_output(m, G_OP(m, "Softmax", "end", wide));
    struct plan *plan = placed(m, SHAPE(2, 6));
    assert_int_equal(home(plan, "s"), s);
    assert_int_equal(home(plan, "v"), s);
    assert_int_equal(home(plan, "n"), n);
    assert_int_equal(home(plan, "a"), s);
    assert_int_equal(home(plan, "w"), s);
    assert_true(home(plan, "b") == n || home(plan, "b") == s);
    assert_int_equal(home(plan, "d"), d);
    assert_int_equal(home(plan, "ix"), x);
    assert_int_equal(home(plan, "e"), e);
    assert_int_equal(home(plan, "wide"), d);
    plan_free(plan);
    same_results(m, SHAPE(2, 6), 1e-6);
    model_free(m);
}

static void test_outputs_are_their_own(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 6)), flat = g_ints(m, "to", 1, (int64_t[]){12});
    uint32_t s = G_OP(m, "Softmax", "s", x);
    g_output(m, s);
    g_output(m, G_OP(m, "Reshape", "v", s, flat));                    /* a view of another output */
    g_output(m, G_OP(m, "Reshape", "xv", x, flat));                   /* a view of an input */
    g_output(m, G_OP(m, "Relu", "r", s));                             /* s lives on as an output */
    g_output(m, G_OP(m, "Neg", "end", G_OP(m, "Softmax", "t", s)));   /* in place, in the output's bytes */
    struct tensor in = {0}, out[8] = {0}, first[8] = {0};
    struct err err = {0};
    g_fill(&in, SHAPE(2, 6), 1, 1);
    struct plan *plan = plan_new(m, NULL, &err);
    assert_int_equal(plan_run(plan, &in, first, NULL, &err), 0);
    assert_int_equal(plan->home[g_value(m, "end")], g_value(m, "t"));
    assert_int_equal(plan_slab_bytes(plan), 0); /* all of it in outputs */
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(first[i].data, first[k].data);
    assert_memory_equal(first[2].data, in.data, in.bytes);
    assert_ptr_not_equal(first[2].data, in.data);
    for (int i = 0; i < 5; i++) /* the caller may write into what it got */
        memset(first[i].data, 0x55, first[i].bytes);
    assert_int_equal(plan_run(plan, &in, out, NULL, &err), 0);
    assert_memory_equal(out[0].data, out[1].data, out[0].bytes);
    for (int i = 0; i < 12; i++)
        assert_true(tensor_f32(&out[0])[i] >= 0 && tensor_f32(&out[0])[i] <= 1 && tensor_f32(&out[4])[i] <= 0);
    for (int i = 0; i < 5; i++) {
        tensor_fini(&first[i]);
        tensor_fini(&out[i]);
    }
    tensor_fini(&in);
    plan_free(plan);
    model_free(m);
}

/* Rows that may work in place give the same when they do: over an operand that dies, and over one that is kept. */
static void test_in_place_rows(void **state)
{
    (void)state;
    static const char *const unary[] = {"Abs",       "Exp", "Relu",      "Sigmoid", "Tanh", "Floor",   "Erf", "Softplus",
                                        "HardSwish", "Elu", "LeakyRelu", "Clip",    "Sign", "Dropout", "Mish"};
    static const char *const binary[] = {"Add", "Sub", "Mul", "Div", "PRelu", "Max", "Sum", "Mean", "Min"};
    const size_t n_unary = sizeof unary / sizeof unary[0], n = n_unary + sizeof binary / sizeof binary[0];
    for (size_t i = 0; i < n * 3; i++) {
        struct model *m = g_new(18);
        const char *type = i % n < n_unary ? unary[i % n] : binary[i % n - n_unary];
        const size_t way = i / n; /* the other operand: of one row, of the same shape, the first of the two */
        uint32_t x = g_input(m, "x", SHAPE(3, 700)), a = G_OP(m, "Softmax", "a", x);
        uint32_t b = way == 1 ? G_OP(m, "Softmax", "b", G_OP(m, "Sin", "c", x)) : g_random(m, "k", SHAPE(700), 1, 1);
        if (i % n < n_unary)
            g_output(m, G_OP(m, "Softmax", "y", G_OP(m, type, "r", a)));
        else if (way == 2 && strcmp(type, "PRelu"))
            g_output(m, G_OP(m, "Softmax", "y", G_OP(m, type, "r", b, a)));
        else
            g_output(m, G_OP(m, "Softmax", "y", G_OP(m, type, "r", a, b)));
        struct plan *plan = placed(m, SHAPE(3, 700));
        struct tensor in = {0}, with = {0}, without = {0};
        g_fill(&in, SHAPE(3, 700), i, 2);
        assert_true(home(plan, "r") != g_value(m, "r") || (i % n >= n_unary && way == 2)); /* it does work in place */
        assert_int_equal(plan_run(plan, &in, &with, NULL, NULL), 0);
        plan_free(plan);
        g_output(m, g_value(m, "a")); /* an output is not overwritten */
        struct tensor out[2] = {0};
        run_with(m, false, &in, out);
        without = out[0];
        if (!tensor_equal(&with, &without))
            fail_msg("%s differs in place (way %d)", type, (int)way);
        tensor_fini(&with);
        tensor_fini(&without);
        tensor_fini(&out[1]);
        tensor_fini(&in);
        model_free(m);
    }
}

/* ---- limits of a run ---- */
static int stop_third(void *arg, struct err *err)
{
    return ++*(int *)arg == 3 ? err_set(err, ERR_CANCELED, "stopped") : 0;
}

static void test_a_run_can_be_stopped(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t y = g_input(m, "x", SHAPE(4));
    char name[20];
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "v%d", i);
        y = G_OP(m, "Softmax", name, y);
    }
    g_output(m, y);
    struct tensor in = {0}, out = {0};
    struct err err = {0};
    int calls = 0;
    g_fill(&in, SHAPE(4), 1, 1);
    struct plan *plan = plan_new(m, NULL, &err);
    struct plan_run_opts opts = {.cancel = stop_third, .cancel_arg = &calls};
    assert_int_equal(plan_run(plan, &in, &out, &opts, &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    assert_int_equal(calls, 3);
    err = (struct err){0};
    assert_int_equal(plan_run(plan, &in, &out, &(struct plan_run_opts){.max_seconds = 1e-9}, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    err = (struct err){0};
    struct plan_run_opts enough = {.max_seconds = 100};
    assert_int_equal(plan_run(plan, &in, &out, &enough, &err), 0); /* as good as new */
    tensor_fini(&out);
    tensor_fini(&in);
    plan_free(plan);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_after_products),        cmocka_unit_test(test_arithmetic_after_products),
        cmocka_unit_test(test_what_stays_outside),         cmocka_unit_test(test_constants_and_dead_nodes),
        cmocka_unit_test(test_views_and_results_in_place), cmocka_unit_test(test_outputs_are_their_own),
        cmocka_unit_test(test_in_place_rows),              cmocka_unit_test(test_a_run_can_be_stopped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
