/* SPDX-License-Identifier: Apache-2.0
 * prune.channels on small networks: the counts are those of formulas, what is zero goes without a trace, targets are
 * met from below or said to be missed, and what was left alone has its reason. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "core/prune/isomorphic.h"
#include "tests/unit/graphs.h"

enum { IN = 3, WIDE = 20, LAST = 32, CLASSES = 10, SIDE = 6 };

/* x -> c1 -> relu -> (+ c2) -> c3 -> relu -> pool -> fc: c1 and c2 are one group through the sum, c3 is another, fc is
 * the output. */
static struct model *network(void)
{
    struct model *m = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, IN, SIDE, SIDE));
    uint32_t h = G_OP(m, "Relu", "r1", g_conv(m, "c1", x, WIDE, IN, 3, 1));
    h = G_OP(m, "Add", "sum", h, g_conv(m, "c2", h, WIDE, WIDE, 1, 3));
    h = G_OP(m, "Relu", "r3", g_conv(m, "c3", h, LAST, WIDE, 1, 5));
    h = G_OP(m, "Flatten", "flat", G_OP(m, "GlobalAveragePool", "pool", h));
    h = G_OP(m, "Gemm", "fc", h, g_random(m, "fc.w", SHAPE(LAST, CLASSES), 7, 0.3),
             g_random(m, "fc.b", SHAPE(CLASSES), 8, 0.3));
    g_output(m, h);
    return m;
}

/* Multiply-accumulates of the network by its layers' formula. */
static double macs_of(int64_t a, int64_t b)
{
    return (double)((SIDE - 2) * (SIDE - 2) * (a * IN * 9 + a * a + a * b) + b * CLASSES);
}

static void expect_widths(const struct model *m, int64_t a, int64_t b)
{
    static const struct {
        const char *weight;
        int axis;
        int last;
    } rows[] = {{"c1.w", 0, 0}, {"c1.b", 0, 0}, {"c2.w", 0, 0}, {"c2.w", 1, 0}, {"c2.b", 0, 0},
                {"c3.w", 1, 0}, {"c3.w", 0, 1}, {"c3.b", 0, 1}, {"fc.w", 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(g_size(m, rows[i].weight, rows[i].axis), rows[i].last ? b : a);
    assert_int_equal(g_size(m, "fc.w", 1), CLASSES);
    assert_int_equal(g_size(m, "c1.w", 1), IN);
}

static const json_t *after_of(const struct g_done *d, const char *node, const char *key)
{
    return json_object_get(json_object_get(g_row(d, node), "after"), key);
}

static void widths_follow_the_ratio(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int64_t a, b;
    } rows[] = {
        {"ratio=0.3", 14, 22},
        {"ratio=0.5", 10, 16},
        {"ratio=0", 20, 32},
        {"ratio=0.9", 2, 3},
        {"ratio=0.99", 1, 1},
        {"ratio=0.9 min_keep=5", 5, 5},
        {"ratio=0.5 max_ratio=0.5", 10, 16},
        {"ratio=0.45 round_to=8", 16, 24}, /* 11 and 17.6 */
        {"ratio=0.6 round_to=auto", 8, 12},
        {"ratio=0.5 include=c3", 20, 16},
        {"ratio=0.5 include=c2", 10, 32}, /* a node that makes channels of the group */
        {"ratio=0.5 exclude=c*", 20, 32},
        {"ratio=0.5 exclude=[\"c3\"]", 10, 32},
        {"ratios='{\"c1\": 0.25}'", 15, 32},
        {"ratio=0.5 ratios='{\"c*\": 0.9, \"c3\": 0}'", 2, 32},
        {"ratio=0.5 steps=3", 10, 16},
        {"ratio=0.5 steps=4 schedule=cubic", 10, 16},
        {"ratio=0.75 steps=2 schedule=constant", 5, 8},
        {"ratio=0.5 criterion=random", 10, 16},
        {"ratio=0.5 criterion=fpgm recover=none", 10, 16},
    };
    struct tensor x = {0};
    g_fill(&x, SHAPE(2, IN, SIDE, SIDE), 9, 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = network();
        char words[200];
        struct tensor y = {0};
        snprintf(words, sizeof words, "prune.channels %s", rows[i].words);
        struct g_done d = g_apply(m, words, NULL);
        if (d.rc)
            fail_msg("%s: %s", words, d.err.msg);
        if (g_size(m, "c1.w", 0) != rows[i].a || g_size(m, "c3.w", 0) != rows[i].b)
            print_error("%s\n", words);
        expect_widths(m, rows[i].a, rows[i].b);
        if (rows[i].a < WIDE)
            assert_int_equal(json_integer_value(after_of(&d, "c1", "channels")), rows[i].a);
        g_expect_skipped(&d, "fc", "output");
        g_run(m, &x, 0, &y);
        assert_int_equal(y.shape.dim[1], CLASSES);
        tensor_fini(&y);
        g_done(&d);
        model_free(m);
    }
    tensor_fini(&x);
}

static void other_scopes_take_as_many_in_all(void **state)
{
    (void)state;
    static const char *const words[] = {"prune.channels ratio=0.5 scope=global",
                                        "prune.channels ratio=0.5 "
                                        "scope=isomorphic",
                                        "prune.channels ratio=0.5 scope=global steps=5 normalizer=max reduction=sum"};
    for (int i = 0; i < 3; i++) {
        struct model *m = network();
        struct g_done d = g_apply(m, words[i], NULL);
        if (d.rc)
            fail_msg("%s", d.err.msg);
        const int64_t a = g_size(m, "c1.w", 0), b = g_size(m, "c3.w", 0);
        assert_int_equal(a + b, i == 1 ? WIDE / 2 + LAST / 2 : (WIDE + LAST) / 2);
        expect_widths(m, a, b);
        g_done(&d);
        model_free(m);
    }
}

static void zero(struct model *m, const char *weight, int every)
{
    struct tensor t = {0};
    const uint32_t v = g_value(m, weight);
    assert_int_equal(tensor_copy(&t, value_const(m, v), NULL), 0);
    const int64_t rows = t.shape.dim[0], row = tensor_count(&t) / rows;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < row && i % 10 < every; k++)
            tensor_f32(&t)[i * row + k] = 0;
    assert_int_equal(value_set_weight(m, v, &t), 0);
    tensor_fini(&t);
}

/* Three filters of ten are zero: pruning three of ten by their norm changes nothing. */
static void zero_filters_go_without_a_trace(void **state)
{
    (void)state;
    static const char *const words[] = {"prune.channels ratio=0.3", "prune.channels ratio=0.3 criterion=l1",
                                        "prune.channels ratio=0.3 scope=isomorphic reduction=sum",
                                        "prune.channels ratio=0.3 steps=3 schedule=cubic"};
    struct tensor x = {0};
    g_fill(&x, SHAPE(4, IN, SIDE, SIDE), 10, 1);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct model *m = network(), *was;
        static const char *const weights[] = {"c1.w", "c1.b", "c2.w", "c2.b", "c3.w", "c3.b"};
        for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
            zero(m, weights[k], 3);
        was = model_clone(m, NULL);
        struct g_done d = g_apply(m, words[i], NULL);
        if (d.rc)
            fail_msg("%s", d.err.msg);
        assert_int_equal(g_size(m, "c1.w", 0), 14);
        assert_int_equal(g_size(m, "c3.w", 0), 22);
        assert_true(g_error(was, m, &x, 0) < 1e-5);
        g_done(&d);
        model_free(was);
        model_free(m);
    }
    tensor_fini(&x);
}

static json_t *target_row(const struct g_done *d)
{
    json_t *row;
    size_t i;
    json_array_foreach(d->layers, i, row) if (strncmp(json_string_value(json_object_get(row, "node")), "target ", 7) ==
                                              0) return json_object_get(row, "after");
    return NULL;
}

static void targets_are_met_from_below(void **state)
{
    (void)state;
    static const char *const more[] = {"", "scope=global", "steps=3", "scope=isomorphic"};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
        for (int wanted = 20; wanted <= 80; wanted += 20) {
            struct model *m = network();
            char words[200];
            snprintf(words, sizeof words, "prune.channels target=macs:0.%d %s", wanted, more[i]);
            struct g_done d = g_apply(m, words, NULL);
            if (d.rc)
                fail_msg("%s: %s", words, d.err.msg);
            const int64_t a = g_size(m, "c1.w", 0), b = g_size(m, "c3.w", 0);
            const double left = macs_of(a, b) / macs_of(WIDE, LAST), limit = wanted / 100.0;
            const json_t *row = target_row(&d);
            expect_widths(m, a, b);
            assert_true(left <= limit && left > limit - 0.02);
            g_near(json_real_value(json_object_get(row, "got")), left, 1e-9);
            assert_true(json_is_true(json_object_get(row, "met")));
            g_done(&d);
            model_free(m);
        }
}

static void a_missed_target_is_said(void **state)
{
    (void)state;
    struct model *m = network();
    struct g_done d = g_apply(m, "prune.channels target=params:0.05 max_ratio=0.5", NULL);
    assert_int_equal(d.rc, 0);
    expect_widths(m, WIDE / 2, LAST / 2);
    const json_t *row = target_row(&d);
    assert_true(json_is_false(json_object_get(row, "met")));
    assert_string_equal(json_string_value(json_object_get(row, "stopped_by")), "c1");
    assert_string_equal(json_string_value(after_of(&d, "c1", "limit")), "kept at max_ratio 0.5");
    g_expect_warning(&d, "cannot reach params:0.05", true);
    g_done(&d);
    model_free(m);
}

static void what_is_left_alone_has_its_reason(void **state)
{
    (void)state;
    struct model *m = network();
    struct g_done d = g_apply(m, "prune.channels ratio=0.04 exclude=c1", NULL);
    g_expect_skipped(&d, "c1", "not selected by include and exclude");
    assert_int_equal(json_integer_value(after_of(&d, "c3", "channels")), 30); /* floor of 30.72 */
    g_done(&d);
    model_free(m);
    m = network();
    d = g_apply(m, "prune.channels ratio=0.95 ratios='{\"nowhere\": 0.5}'", NULL);
    assert_int_equal(d.rc, 0);
    assert_string_equal(json_string_value(after_of(&d, "c3", "limit")) ? "limit" : "none", "none");
    g_expect_warning(&d, "'nowhere' of ratios matches no group", true);
    g_expect_warning(&d, "the ratio would leave", false); /* floor(20 * 0.05) is 1 */
    g_done(&d);
    model_free(m);
    m = network();
    d = g_apply(m, "prune.channels ratio=0.96 min_keep=2", NULL);
    assert_int_equal(d.rc, 0);
    g_expect_warning(&d, "the ratio would leave 1 groups empty; they keep min_keep (2)", true);
    assert_string_equal(json_string_value(after_of(&d, "c1", "limit")), "kept at min_keep 2");
    g_done(&d);
    model_free(m);
    m = g_new(17); /* nothing to take: one layer, its output is the model's */
    g_output(m, g_conv(m, "only", g_input(m, "x", SHAPE(1, IN, SIDE, SIDE)), 8, IN, 1, 1));
    d = g_apply(m, "prune.channels target=macs:0.5", NULL);
    assert_int_equal(d.rc, 0);
    g_expect_skipped(&d, "only", "output");
    g_expect_warning(&d, "found no channels that can be removed", true);
    assert_true(json_is_false(json_object_get(target_row(&d), "met")));
    g_done(&d);
    model_free(m);
}

static int faults_of(const char *words, const char *pointer)
{
    struct faults faults = {0};
    struct err err = {0};
    json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(words, &err));
    struct recipe *r = recipe_parse(json, "/recipe", &faults, &err);
    int n = 0;
    for (int i = 0; i < faults.count; i++)
        n += strcmp(faults.at[i].pointer, pointer) == 0;
    if (n == 0)
        for (int i = 0; i < faults.count; i++)
            print_error("%s: %s: %s\n", words, faults.at[i].pointer, faults.at[i].detail);
    recipe_free(r);
    faults_fini(&faults);
    json_decref(json);
    return n;
}

static void wrong_parameters_are_named(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"prune.channels", "/recipe/steps/0"},
        {"prune.channels ratio=0.5 target=macs:0.5", "/recipe/steps/0"},
        {"prune.channels ratio=1", "/recipe/steps/0/ratio"},
        {"prune.channels target=macs", "/recipe/steps/0/target"},
        {"prune.channels target=macs:0", "/recipe/steps/0/target"},
        {"prune.channels target=macs:1.5", "/recipe/steps/0/target"},
        {"prune.channels target=macs:nan", "/recipe/steps/0/target"},
        {"prune.channels target=flops:0.5", "/recipe/steps/0/target"},
        {"prune.channels target=macs:0.5x", "/recipe/steps/0/target"},
        {"prune.channels ratio=0.5 schedule=cubic", "/recipe/steps/0/schedule"},
        {"prune.channels ratio=0.5 max_ratio=0.4", "/recipe/steps/0/max_ratio"},
        {"prune.channels ratio=0.5 round_to=7.5", "/recipe/steps/0/round_to"},
        {"prune.channels ratio=0.5 round_to=eight", "/recipe/steps/0/round_to"},
        {"prune.channels ratio=0.5 steps=0", "/recipe/steps/0/steps"},
        {"prune.channels ratio=0.5 ratios='{\"a/b~c\": 1}'", "/recipe/steps/0/ratios/a~1b~0c"},
        {"prune.channels ratio=0.5 ratios='{\"a\": \"x\"}'", "/recipe/steps/0/ratios/a"},
        {"prune.heads", "/recipe/steps/0"},
        {"prune.heads ratio=0.5 keep=3", "/recipe/steps/0"},
        {"prune.heads keep=0", "/recipe/steps/0/keep"},
        {"prune.heads ratio=0.5 round_to=8", "/recipe/steps/0/round_to"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(faults_of(rows[i][0], rows[i][1]), 1);
}

static unsigned needs_of(const char *words)
{
    struct err err = {0};
    json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(words, &err));
    struct recipe *r = recipe_parse(json, "", NULL, &err);
    if (!r)
        fail_msg("%s", err.msg);
    const unsigned needs = recipe_needs(r);
    recipe_free(r);
    json_decref(json);
    return needs;
}

static void needs_follow_the_parameters(void **state)
{
    (void)state;
    assert_int_equal(needs_of("prune.channels ratio=0.5"), NEEDS_NOTHING);
    assert_int_equal(needs_of("prune.channels target=macs:0.5 criterion=fpgm"), NEEDS_NOTHING);
    assert_int_equal(needs_of("prune.channels ratio=0.5 criterion=taylor"), NEEDS_DATA | NEEDS_RUN);
    assert_int_equal(needs_of("prune.channels ratio=0.5 recover=bn_stats"), NEEDS_DATA | NEEDS_RUN);
    assert_int_equal(needs_of("prune.channels target=latency:0.5"), NEEDS_RUN);
    assert_int_equal(needs_of("prune.heads ratio=0.5 recover=least_squares"), NEEDS_DATA | NEEDS_RUN);
}

static void a_latency_target_is_measured(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    uint32_t h = g_input(m, "x", SHAPE(1, IN, 32, 32));
    h = G_OP(m, "Relu", "r1", g_conv(m, "c1", h, 64, IN, 3, 1));
    h = G_OP(m, "Relu", "r2", g_conv(m, "c2", h, 64, 64, 1, 3));
    h = G_OP(m, "Relu", "r3", g_conv(m, "c3", h, 64, 64, 1, 5));
    g_output(m, g_conv(m, "c4", h, CLASSES, 64, 1, 7));
    struct g_done d = g_apply(m, "prune.channels target=latency:0.7", NULL);
    if (d.rc)
        fail_msg("%s", d.err.msg);
    const json_t *row = target_row(&d);
    assert_true(g_size(m, "c2.w", 0) < 64);
    assert_true(json_real_value(json_object_get(row, "ms_before")) > 0);
    assert_true(json_real_value(json_object_get(row, "got")) < 1);
    assert_int_equal(json_array_size(json_object_get(json_object_get(row, "table"), "layers")), 4);
    g_expect_warning(&d, "measured on this machine", true);
    g_done(&d);
    model_free(m);
}

/* An operator nobody knows freezes what it touches; the rest is pruned, and not recovered, because the model cannot
 * run. */
static void unknown_operators_only_freeze(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    struct tensor x = {0};
    uint32_t h = g_input(m, "x", SHAPE(DIM_UNKNOWN, IN, SIDE, SIDE));
    h = G_OP(m, "Relu", "r1", g_conv(m, "c1", h, 16, IN, 1, 1));
    h = G_OP(m, "Frobnicate", "f", g_conv(m, "c2", h, 12, 16, 1, 3));
    g_output(m, h);
    g_fill(&x, SHAPE(4, IN, SIDE, SIDE), 2, 1);
    struct g_done d = g_apply(m, "prune.channels ratio=0.5", &x);
    if (d.rc)
        fail_msg("%s", d.err.msg);
    assert_int_equal(g_size(m, "c1.w", 0), 8);
    assert_int_equal(g_size(m, "c2.w", 0), 12);
    g_expect_skipped(&d, "c2", "Frobnicate");
    g_expect_warning(&d, "nothing was recovered, because the model cannot be run: Frobnicate", true);
    g_done(&d);
    tensor_fini(&x);
    model_free(m);
}

/* With samples: curves of both groups, the target met, losses predicted, in one step and in several. */
static void sensitivities_set_the_ratios(void **state)
{
    (void)state;
    static const char *const words[] = {"prune.channels target=macs:0.5 allocation=sensitivity recover=none",
                                        "prune.channels target=macs:0.5 allocation=sensitivity recover=none steps=3",
                                        "prune.channels ratio=0.5 allocation=sensitivity recover=none"};
    struct tensor x = {0};
    g_fill(&x, SHAPE(24, IN, SIDE, SIDE), 3, 1);
    for (int i = 0; i < 3; i++) {
        struct model *m = network();
        struct g_done d = g_apply(m, words[i], &x);
        if (d.rc)
            fail_msg("%s", d.err.msg);
        const int64_t a = g_size(m, "c1.w", 0), b = g_size(m, "c3.w", 0);
        const double left = i < 2 ? macs_of(a, b) / macs_of(WIDE, LAST) : (double)(a + b) / (WIDE + LAST);
        expect_widths(m, a, b);
        assert_true(left <= 0.5 && left > 0.47);
        assert_true(json_is_real(after_of(&d, "c1", "predicted_loss")) ||
                    json_is_real(after_of(&d, "c3", "predicted_loss")));
        g_done(&d);
        model_free(m);
    }
    tensor_fini(&x);
    assert_int_equal(
        faults_of("prune.channels ratio=0.5 allocation=sensitivity scope=global", "/recipe/steps/0/allocation"), 1);
    assert_int_equal(needs_of("prune.channels ratio=0.5 allocation=sensitivity"), NEEDS_DATA | NEEDS_RUN);
}

static void equal_structures_are_one_set(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    struct err err = {0};
    uint32_t h = g_input(m, "x", SHAPE(1, IN, SIDE, SIDE));
    h = G_OP(m, "Relu", "r1", g_conv(m, "c1", h, 8, IN, 1, 1));
    h = G_OP(m, "Relu", "r2", g_conv(m, "c2", h, 12, 8, 1, 3));     /* as c1, but for the width */
    h = G_OP(m, "Sigmoid", "s3", g_conv(m, "c3", h, 12, 12, 1, 5)); /* another activation */
    h = G_OP(m, "Relu", "r4", g_conv(m, "c4", h, 6, 12, 1, 7));
    g_output(m, g_conv(m, "c5", h, 4, 6, 1, 9));
    assert_int_equal(groups_prepare(m, NULL, &err), 0);
    struct groups *g = groups_find(m, GROUPS_INNER, &err);
    assert_non_null(g);
    int set[8], by_node[6] = {0};
    assert_in_range(g->n, 4, 5);
    assert_int_equal(isomorphic_sets(g, m, set, &err), 0);
    for (int i = 0; i < g->n; i++)
        if (g->at[i].n > 0)
            by_node[g->at[i].name[1] - '0'] = set[i] + 1;
    assert_true(by_node[1] > 0 && by_node[1] == by_node[2] && by_node[1] == by_node[4]);
    assert_true(by_node[3] > 0 && by_node[3] != by_node[1]);
    groups_free(g);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_follow_the_ratio),         cmocka_unit_test(other_scopes_take_as_many_in_all),
        cmocka_unit_test(zero_filters_go_without_a_trace), cmocka_unit_test(targets_are_met_from_below),
        cmocka_unit_test(a_missed_target_is_said),         cmocka_unit_test(what_is_left_alone_has_its_reason),
        cmocka_unit_test(wrong_parameters_are_named),      cmocka_unit_test(needs_follow_the_parameters),
        cmocka_unit_test(unknown_operators_only_freeze),   cmocka_unit_test(sensitivities_set_the_ratios),
        cmocka_unit_test(a_latency_target_is_measured),    cmocka_unit_test(equal_structures_are_one_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
