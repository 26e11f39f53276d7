/* SPDX-License-Identifier: Apache-2.0
 * quantize.auto: a network with one layer that 8 bits ruin; easy networks; budgets; cancelling; regression. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

enum { WIDE = 16, CLASSES = 5, SAMPLES = 400 };

/* Three layers. Channel 0 of the first one's output is a constant that nobody uses. Made large, it takes all the codes
 * of the second one's input. */
static struct model *network(float constant)
{
    struct model *m = g_new(13);
    const int64_t n = DIM_SYMBOL(model_symbol(m, "N"));
    float bias[WIDE] = {constant}, v[WIDE * WIDE];
    struct rng rng;
    rng_init(&rng, 5, 5);
    uint32_t x = g_input(m, "x", SHAPE(n, WIDE)), b = g_const(m, "b", SHAPE(WIDE), bias);
    uint32_t w1 = g_random(m, "w1", SHAPE(WIDE, WIDE), 1, 0.5), w3 = g_random(m, "w3", SHAPE(WIDE, CLASSES), 3, 1);
    for (int i = 0; i < WIDE * WIDE; i++)
        v[i] = i < WIDE ? 0 : (float)(0.5 * rng_normal(&rng));
    uint32_t w2 = g_const(m, "w2", SHAPE(WIDE, WIDE), v);
    uint32_t h1 = G_OP(m, "Relu", "h1", G_OP(m, "Gemm", "first", x, w1, b));
    uint32_t h2 = G_OP(m, "Relu", "h2", G_OP(m, "Gemm", "second", h1, w2));
    g_output(m, G_OP(m, "Gemm", "third", h2, w3));
    return m;
}

static json_t *ranked(const struct g_done *done, const char *node, const char *key)
{
    json_t *row;
    size_t i;
    json_array_foreach(done->layers, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "node"));
        json_t *after = json_object_get(row, "after");
        if (name && !strcmp(name, node) && json_object_get(after, "rank"))
            return json_object_get(after, key);
    }
    fail_msg("no rank for %s", node);
    return NULL;
}

static int trials(const struct g_done *done, double *last_drop)
{
    json_t *row;
    size_t i;
    int n = 0;
    json_array_foreach(done->layers, i, row)
    {
        json_t *drop = json_object_get(json_object_get(row, "after"), "drop");
        n += drop != NULL;
        if (drop)
            *last_drop = json_number_value(drop);
    }
    return n;
}

static void test_finds_the_fragile_layer(void **state)
{
    (void)state;
    static const struct {
        const char *step, *decision;
    } cases[] = {{"quantize.auto max_drop=0.05", "float32"},
                 {"quantize.auto max_drop=0.05 fallback=int16", "int16"},
                 {"quantize.auto max_drop=0.05 sensitivity=one_at_a_time per_channel=false", "float32"},
                 {"quantize.auto max_drop=0.05 activations=int8 isa=vnni", "float32"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = network(4000), *was = model_clone(m, NULL);
        struct tensor x = {0};
        double drop = 1;
        g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
        struct g_done done = g_apply(m, cases[i].step, &x);
        if (done.rc)
            fail_msg("%s: %s", cases[i].step, done.err.msg);
        assert_int_equal(json_integer_value(ranked(&done, "second", "rank")), 1);
        assert_string_equal(json_string_value(ranked(&done, "second", "decision")), cases[i].decision);
        assert_string_equal(json_string_value(ranked(&done, "first", "decision")), "int8");
        assert_string_equal(json_string_value(ranked(&done, "third", "decision")), "int8");
        assert_true(trials(&done, &drop) == 2 && drop <= 0.05); /* none, then the one */
        assert_true(g_error(was, m, &x, 0) < 0.15);
        g_done(&done);
        tensor_fini(&x);
        model_free(was);
        model_free(m);
    }
}

/* Gradients see the weights only, so the order may differ; the search still has to find a set that passes. */
static void test_fisher(void **state)
{
    (void)state;
    struct model *m = network(4000), *was = model_clone(m, NULL);
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
    struct g_done done = g_apply(m, "quantize.auto max_drop=0.05 sensitivity=fisher", &x);
    if (done.rc)
        fail_msg("%s", done.err.msg);
    assert_string_equal(json_string_value(ranked(&done, "first", "measured")), "Fisher");
    assert_true(json_real_value(ranked(&done, "first", "sensitivity")) > 0);
    assert_string_equal(json_string_value(ranked(&done, "second", "decision")), "float32");
    assert_string_equal(json_string_value(ranked(&done, "first", "decision")), "int8"); /* put back */
    assert_true(g_error(was, m, &x, 0) < 0.15);
    g_done(&done);
    tensor_fini(&x);
    model_free(was);
    model_free(m);
}

static void test_easy_networks_are_quantized_whole(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct tensor x = {0};
    double drop = 1;
    g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
    struct g_done done = g_apply(m, "quantize.auto max_drop=0.05", &x);
    if (done.rc)
        fail_msg("%s", done.err.msg);
    assert_int_equal(trials(&done, &drop), 1);
    assert_true(drop <= 0.05);
    for (int i = 0; i < 3; i++)
        assert_string_equal(
            json_string_value(ranked(&done, (const char *[]){"first", "second", "third"}[i], "decision")), "int8");
    g_done(&done);
    tensor_fini(&x);
    model_free(m);
}

/* One evaluation: the whole network, unranked, with the warning that it does not pass. */
static void test_budgets(void **state)
{
    (void)state;
    static const char *const steps[] = {"quantize.auto max_drop=0 evaluations=1 sensitivity=one_at_a_time",
                                        "quantize.auto max_drop=0 budget_s=0.000001 sensitivity=one_at_a_time"};
    for (int i = 0; i < 2; i++) {
        struct model *m = network(4000);
        struct tensor x = {0};
        double drop = 0;
        g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
        struct g_done done = g_apply(m, steps[i], &x);
        if (done.rc)
            fail_msg("%s", done.err.msg);
        assert_int_equal(trials(&done, &drop), 1); /* the best so far is always there */
        assert_true(drop > 0.05);
        g_expect_warning(&done, "at the end of its budget", true);
        g_expect_warning(&done, "no set of layers within max_drop", true);
        g_done(&done);
        tensor_fini(&x);
        model_free(m);
    }
}

/* An output that is no row of scores is judged by its noise. */
static void test_regression(void **state)
{
    (void)state;
    struct model *m = network(4000);
    struct tensor x = {0};
    double drop = 1;
    model_main(m)->n_outputs = 0;
    const int64_t axes[1] = {1};
    uint32_t mean = G_OP(m, "ReduceSum", "sum", g_value(m, "third"), g_ints(m, "axes", 1, axes));
    g_output(m, mean);
    g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
    struct g_done done = g_apply(m, "quantize.auto max_drop=0.01", &x);
    if (done.rc)
        fail_msg("%s", done.err.msg);
    assert_string_equal(json_string_value(ranked(&done, "second", "decision")), "float32");
    trials(&done, &drop);
    assert_true(drop <= 0.01);
    g_done(&done);
    tensor_fini(&x);
    model_free(m);
}

static int calls_left;
static int stop_after(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err)
{
    (void)c;
    (void)stage;
    (void)done;
    (void)total;
    return calls_left-- > 0 ? 0 : err_set(err, ERR_CANCELED, "canceled");
}

static void test_cancel_and_bad_data(void **state)
{
    (void)state;
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, WIDE), 9, 1);
    for (int calls = 0; calls < 60; calls += 7) {
        struct model *m = network(4000);
        calls_left = calls;
        g_progress = stop_after;
        struct g_done done = g_apply(m, "quantize.auto max_drop=0 budget_s=100", &x);
        g_progress = NULL;
        assert_true(done.rc == 0 || done.err.code == ERR_CANCELED);
        if (calls < 10)
            assert_int_equal(done.rc, -1);
        json_decref(done.layers);
        json_decref(done.warnings);
        model_free(m);
    }
    struct model *m = network(0);
    struct tensor one = {0};
    g_fill(&one, SHAPE(1, WIDE), 9, 1);
    struct g_done done = g_apply(m, "quantize.auto", &one);
    assert_int_equal(done.rc, -1);
    assert_non_null(strstr(done.err.msg, "validation set"));
    json_decref(done.layers);
    json_decref(done.warnings);
    done = g_apply(m, "quantize.auto", NULL);
    assert_int_equal(done.rc, -1);
    json_decref(done.layers);
    json_decref(done.warnings);
    tensor_fini(&one);
    tensor_fini(&x);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_fragile_layer),
        cmocka_unit_test(test_fisher),
        cmocka_unit_test(test_easy_networks_are_quantized_whole),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_regression),
        cmocka_unit_test(test_cancel_and_bad_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
