/* SPDX-License-Identifier: Apache-2.0
 * analyse.sensitivity: curves against a model whose channels were zeroed by hand and figures computed here, allocation against a
 * search of all choices, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/prune/score.h"
#include "core/prune/sensitivity.h"
#include "tests/unit/graphs.h"

enum { IN = 6, WIDE = 8, CLASSES = 4, SAMPLES = 40 };

/* x -> first [6, 8] -> relu -> second [8, 8] -> relu -> third [8, 4]. The first `dead` channels of first are zero, and
 * not read either: criteria look at both. */
static struct model *network(int dead)
{
    struct model *m = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, IN));
    uint32_t w = g_random(m, "w1", SHAPE(IN, WIDE), 1, 0.6);
    for (int i = 0; i < IN; i++)
        for (int k = 0; k < dead; k++)
            tensor_f32(&m->values[w].weight->tensor)[i * WIDE + k] = 0;
    x = G_OP(m, "Relu", "r1", G_OP(m, "MatMul", "first", x, w));
    w = g_random(m, "w2", SHAPE(WIDE, WIDE), 2, 0.6);
    memset(tensor_f32(&m->values[w].weight->tensor), 0, (size_t)dead * WIDE * sizeof(float));
    x = G_OP(m, "Relu", "r2", G_OP(m, "MatMul", "second", x, w));
    g_output(m, G_OP(m, "MatMul", "scores", x, g_random(m, "w3", SHAPE(WIDE, CLASSES), 3, 0.8)));
    return m;
}

static json_t *curve_of(const struct g_done *d, const char *node)
{
    json_t *curve = json_object_get(json_object_get(g_row(d, node), "after"), "curve");
    if (!curve)
        fail_msg("no curve of '%s'", node);
    return curve;
}
static double figure(json_t *curve, size_t at, const char *key)
{
    json_t *v = json_object_get(json_array_get(curve, at), key);
    return v ? json_number_value(v) : NAN;
}

/* KL of the scores of b from a's, by the book. */
static double divergence(const struct model *a, const struct model *b, const struct tensor *x)
{
    struct tensor p = {0}, q = {0};
    double all = 0;
    g_run(a, x, 0, &p);
    g_run(b, x, 0, &q);
    for (int r = 0; r < SAMPLES; r++) {
        const float *u = tensor_f32(&p) + r * CLASSES, *v = tensor_f32(&q) + r * CLASSES;
        double su = 0, sv = 0;
        for (int i = 0; i < CLASSES; i++) {
            su += exp((double)u[i]);
            sv += exp((double)v[i]);
        }
        for (int i = 0; i < CLASSES; i++)
            all += exp((double)u[i]) / su * (((double)u[i] - log(su)) - ((double)v[i] - log(sv)));
    }
    tensor_fini(&p);
    tensor_fini(&q);
    return all / SAMPLES;
}

static void test_curves(void **state)
{
    (void)state;
    struct model *m = network(4), *before = model_clone(m, NULL);
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, IN), 5, 1);
    struct g_done d = g_apply(m, "analyse.sensitivity ratios=[0.25,0.5,0.75] criterion=l1", &x);
    if (d.rc)
        fail_msg("%s", d.err.msg);
    json_t *first = curve_of(&d, "first"), *second = curve_of(&d, "second");
    assert_int_equal(json_array_size(first), 3);
    for (size_t k = 0; k < 3; k++)
        assert_int_equal(figure(first, k, "kept"), 8 - 2 * ((int)k + 1));
    g_near(figure(first, 0, "kl"), 0, 0);
    g_near(figure(first, 1, "noise"), 0, 0);
    g_near(figure(first, 1, "disagreement"), 0, 0);
    assert_true(figure(first, 2, "kl") > 1e-4);
    assert_true(isnan(figure(first, 2, "top1"))); /* no labels */

    /* second at 0.5 by hand: a half of its channels counts as zero where it is read. Which half is the criterion's business: of all 70,
     * the curve's must be one */
    struct model *cut = model_clone(before, NULL);
    const float *w3 = tensor_f32(&before->values[g_value(before, "w3")].weight->tensor);
    struct tensor zeroed = {0};
    assert_int_equal(tensor_copy(&zeroed, &before->values[g_value(before, "w3")].weight->tensor, NULL), 0);
    double nearest = 1e9;
    for (int mask = 0; mask < 256; mask++) {
        if (__builtin_popcount((unsigned)mask) != 4)
            continue;
        for (int k = 0; k < WIDE; k++)
            for (int i = 0; i < CLASSES; i++)
                tensor_f32(&zeroed)[k * CLASSES + i] = mask >> k & 1 ? 0 : w3[k * CLASSES + i];
        assert_int_equal(value_set_weight(cut, g_value(cut, "w3"), &zeroed), 0);
        const double off = fabs(divergence(before, cut, &x) - figure(second, 1, "kl"));
        nearest = off < nearest ? off : nearest;
    }
    g_near(nearest, 0, 1e-6);
    assert_true(figure(second, 0, "kl") < figure(second, 2, "kl"));

    g_expect_skipped(&d, "scores", "output");
    /* the model is as it was */
    assert_int_equal(m->n_nodes, before->n_nodes);
    assert_int_equal(m->n_values, before->n_values);
    g_near(g_error(before, m, &x, 0), 0, 0);
    tensor_fini(&zeroed);
    tensor_fini(&x);
    g_done(&d);
    model_free(cut);
    model_free(before);
    model_free(m);
}

/* ---- allocation ---- */
struct fixture {
    struct model *m;
    struct groups *g;
    struct sensitivity s;
    struct sensitivity_point point[2][4];
    int64_t order[2][WIDE];
};

/* Two groups of 8 with losses at 2, 4, 6 and 7 atoms gone. */
static void make(struct fixture *f, const double *loss0, const double *loss1)
{
    static const int gone[4] = {2, 4, 6, 7};
    struct err err = {0};
    *f = (struct fixture){.m = network(0)};
    struct warnings *w = warnings_new();
    assert_int_equal(groups_prepare(f->m, w, &err), 0);
    warnings_free(w);
    f->g = groups_find(f->m, GROUPS_INNER, &err);
    assert_non_null(f->g);
    f->s = (struct sensitivity){.n = f->g->n, .groups = f->g, .at = calloc((size_t)f->g->n, sizeof *f->s.at)};
    int seen = 0;
    for (int i = 0; i < f->g->n; i++) {
        if (f->g->at[i].n == 0) {
            f->s.at[i].skipped = "frozen";
            continue;
        }
        assert_int_equal(f->g->at[i].n, WIDE);
        assert_true(seen < 2);
        for (int k = 0; k < WIDE; k++)
            f->order[seen][k] = k;
        for (int k = 0; k < 4; k++)
            f->point[seen][k] = (struct sensitivity_point){
                .ratio = gone[k] / 8.0, .kept = 8 - gone[k], .measured = true, .loss = (seen ? loss1 : loss0)[k]};
        f->s.at[i] = (struct sensitivity_curve){.at = f->point[seen], .n = 4, .order = f->order[seen]};
        seen++;
    }
    assert_int_equal(seen, 2);
}
static void drop(struct fixture *f)
{
    free(f->s.at);
    groups_free(f->g);
    model_free(f->m);
}

static const double flat[4] = {0.01, 0.02, 0.05, 0.1}, steep[4] = {0.2, 0.6, 1.5, 3}, odd[4] = {0.3, 0.1, 0.9, 0.8};

/* Parameters left with so many atoms gone of each, by arithmetic: 6 x a + a x b + b x 4. */
static double params_left(int gone0, int gone1)
{
    const int a = WIDE - gone0, b = WIDE - gone1;
    return (double)(IN * a + a * b + b * CLASSES);
}

static void test_allocation_against_all_choices(void **state)
{
    (void)state;
    static const double *const curves[][2] = {{flat, steep},  {steep, flat}, {flat, flat},
                                              {steep, steep}, {odd, flat},   {steep, odd}};
    for (size_t c = 0; c < sizeof curves / sizeof *curves; c++)
        for (int step = 1; step < 20; step++) {
            struct fixture f;
            struct err err = {0};
            double ratio[8], best = 1e9;
            make(&f, curves[c][0], curves[c][1]);
            const struct sensitivity_target target = {.figure = SENSITIVITY_PARAMS, .kept = step / 20.0};
            struct sensitivity_plan plan;
            assert_int_equal(sensitivity_allocate(&f.s, &target, ratio, &plan, &err), 0);
            const double whole = params_left(0, 0), wanted = target.kept * whole;
            int group[2], n = 0;
            for (int i = 0; i < f.g->n; i++)
                if (f.s.at[i].n)
                    group[n++] = i;
                else
                    g_near(ratio[i], 0, 0);
            for (int a = 0; a < WIDE; a++)
                for (int b = 0; b < WIDE; b++)
                    if (params_left(a, b) <= wanted + 1e-9)
                        best = fmin(best, (a ? sensitivity_loss_at(&f.s, group[0], a / 8.0) : 0) +
                                              (b ? sensitivity_loss_at(&f.s, group[1], b / 8.0) : 0));
            const int got0 = (int)lround(ratio[group[0]] * 8), got1 = (int)lround(ratio[group[1]] * 8);
            g_near(plan.kept, params_left(got0, got1) / whole, 1e-9);
            assert_int_equal(plan.met, best < 1e9);
            assert_int_equal(plan.met, plan.kept <= target.kept + 1e-9);
            /* whole channels and hulls leave a gap of at most a step of the dearer curve */
            if (plan.met && plan.predicted > best * 1.5 + 0.3)
                fail_msg("curves %zu, %g: loses %g, the best choice %g", c, target.kept, plan.predicted, best);
            if (!plan.met)
                assert_true(got0 == 7 && got1 == 7);
            drop(&f);
        }
}

static void test_flat_curve_gives_most(void **state)
{
    (void)state;
    struct fixture f;
    struct err err = {0};
    double ratio[8], most[8] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    bool none[8] = {false};
    struct sensitivity_plan plan;
    make(&f, flat, steep);
    struct sensitivity_target target = {.figure = SENSITIVITY_CHANNELS, .kept = 0.6};
    assert_int_equal(sensitivity_allocate(&f.s, &target, ratio, &plan, &err), 0);
    assert_true(ratio[0] >= 0.8 && ratio[1] <= 0.1);
    assert_true(plan.met && plan.kept <= 0.6);
    target.most = most; /* then the other must give */
    assert_int_equal(sensitivity_allocate(&f.s, &target, ratio, &plan, &err), 0);
    g_near(ratio[0], 0.5, 1e-9);
    assert_true(plan.met && ratio[1] >= 0.25);
    target.selected = none;
    assert_int_equal(sensitivity_allocate(&f.s, &target, ratio, &plan, &err), 0);
    assert_false(plan.met && plan.kept > 0.6);
    g_near(ratio[0] + ratio[1], 0, 0);
    target = (struct sensitivity_target){.figure = SENSITIVITY_MACS, .kept = 0.5, .min_keep = 6};
    assert_int_equal(sensitivity_allocate(&f.s, &target, ratio, &plan, &err), 0);
    assert_false(plan.met);
    g_near(ratio[0], 0.25, 1e-9);
    g_near(sensitivity_loss_at(&f.s, 0, 0.375), 0.015, 1e-12); /* half way between 2 and 4 of 8 */
    drop(&f);
}

/* The step's ratios go verbatim to prune.channels: names are escaped, floor(n (1 - ratio)) is what was chosen. */
static void test_plan_in_the_report(void **state)
{
    (void)state;
    struct model *m = network(4);
    m->nodes[g_maker(m, g_value(m, "first"))].name = model_strdup(m, "a[0]*/first");
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, IN), 5, 1);
    struct g_done d = g_apply(m, "analyse.sensitivity target=params:0.6", &x);
    if (d.rc)
        fail_msg("%s", d.err.msg);
    json_t *plan = json_object_get(g_row(&d, "all groups"), "after"), *ratios = json_object_get(plan, "ratios");
    assert_true(json_is_true(json_object_get(plan, "met")));
    assert_true(json_number_value(json_object_get(plan, "left")) <= 0.6);
    assert_int_equal(json_object_size(ratios), 2);
    const double first = json_number_value(json_object_get(ratios, "a\\[0\\]\\*/first"));
    assert_true(first >= 0.5); /* half of it is free */
    g_near(json_number_value(json_object_get(json_object_get(g_row(&d, "a[0]*/first"), "after"), "recommended")), first,
           0);
    assert_true(first > json_number_value(json_object_get(ratios, "second")));
    assert_int_equal(json_array_size(d.warnings), 0);
    g_done(&d);
    d = g_apply(m, "analyse.sensitivity target=params:0.05 ratios=[0.3] include=[\"sec*\"]", &x);
    g_expect_warning(&d, "cannot be met", true);
    g_expect_skipped(&d, "a[0]*/first", "not selected");
    assert_int_equal(json_array_size(curve_of(&d, "second")), 1);
    g_done(&d);
    d = g_apply(m, "analyse.sensitivity budget_s=1e-9", &x);
    g_expect_warning(&d, "10 points were not measured", true);
    assert_true(isnan(figure(curve_of(&d, "second"), 2, "kl")));
    g_done(&d);
    tensor_fini(&x);
    model_free(m);
}

static void test_refused(void **state)
{
    (void)state;
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, IN), 5, 1);
    g_refused(network(0), "analyse.sensitivity", NULL, "needs a dataset");
    struct model *m = network(0);
    tensor_f32(&m->values[g_value(m, "w2")].weight->tensor)[3] = NAN;
    g_refused(m, "analyse.sensitivity", &x, "NaN");
    m = g_new(17);
    g_output(m, G_OP(m, "MatMul", "y", g_input(m, "x", SHAPE(DIM_UNKNOWN, IN)), g_random(m, "w", SHAPE(IN, 3), 1, 1)));
    g_refused(m, "analyse.sensitivity", &x, "no channels that could be removed");
    m = network(0);
    tensor_f32(&m->values[g_value(m, "w1")].weight->tensor)[3] = 3e38f;
    tensor_f32(&m->values[g_value(m, "w2")].weight->tensor)[WIDE * 3 + 2] = 3e38f;
    g_refused(m, "analyse.sensitivity", &x, "not all finite");
    tensor_fini(&x);
}

static void test_bad_parameters(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"analyse.sensitivity ratios=[0.5,0.3]", "0.3 follows 0.5"},
        {"analyse.sensitivity ratios=[]", "ratios has 0 numbers"},
        {"analyse.sensitivity ratios=[0.5,1]", "'ratios' must be between 0 (excluded) and 1 (excluded), found 1"},
        {"analyse.sensitivity ratios=[0]", "'ratios' must be between"},
        {"analyse.sensitivity ratios=[\"a\"]", "'ratios' must be a list of numbers"},
        {"analyse.sensitivity ratios=half", "'ratios' must be a list of numbers"},
        {"analyse.sensitivity target=latency:0.5", "target 'latency:0.5'"},
        {"analyse.sensitivity target=macs:0", "between 0 and 1"},
        {"analyse.sensitivity samples=0", "samples"},
        {"analyse.sensitivity criterion=l3", "l2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = {0};
        struct faults faults = {0};
        json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(rows[i][0], &err));
        struct recipe *r = recipe_parse(json, "", &faults, &err);
        bool found = false;
        for (int k = 0; k < faults.count; k++)
            found = found || strstr(faults.at[k].detail, rows[i][1]);
        if (r || !found)
            fail_msg("%s: '%s' is not among %d faults: %s", rows[i][0], rows[i][1], faults.count,
                     faults.count ? faults.at[0].detail : "");
        recipe_free(r);
        faults_fini(&faults);
        json_decref(json);
    }
    /* one number is a list of one */
    struct err err = {0};
    struct faults faults = {0};
    json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words("analyse.sensitivity ratios=0.5", &err));
    struct recipe *r = recipe_parse(json, "", &faults, &err);
    assert_non_null(r);
    recipe_free(r);
    faults_fini(&faults);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curves),
        cmocka_unit_test(test_allocation_against_all_choices),
        cmocka_unit_test(test_flat_curve_gives_most),
        cmocka_unit_test(test_plan_in_the_report),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
