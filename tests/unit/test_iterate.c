/* SPDX-License-Identifier: Apache-2.0
 * iterate, with nested steps made up here: what is kept, when it ends, how it goes back. The classifier is exact at
 * first, and each feature that is taken away costs what the test counts itself. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/data/split.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

enum { CLASSES = 20, SAMPLES = 380 };

/* Feature i is class i: scores are x w, w the unit matrix times 1 + i. */
static struct model *classifier(void)
{
    float w[CLASSES * CLASSES] = {0};
    struct model *m = g_new(17);
    for (int i = 0; i < CLASSES; i++)
        w[i * CLASSES + i] = (float)(1 + i);
    g_output(m, G_OP(m, "MatMul", "y", g_input(m, "x", SHAPE(DIM_UNKNOWN, CLASSES)),
                     g_const(m, "w", SHAPE(CLASSES, CLASSES), w)));
    return m;
}

static struct dataset *samples(const struct model *m)
{
    static float x[SAMPLES * CLASSES];
    static int64_t y[SAMPLES];
    memset(x, 0, sizeof x);
    for (int i = 0; i < SAMPLES; i++) {
        y[i] = 1 + i % (CLASSES - 1); /* class 0 is what zeros look like */
        x[i * CLASSES + y[i]] = 1;
    }
    return samples_open(x, SAMPLES, CLASSES, y, m);
}

/* A nested step that takes the lowest classes away, as many as the ramp says: each costs 1/19 of the samples. */
struct script {
    double ramps[64];
    int runs, nan_at; /* nan_at: that run (from 1) fails as a training does */
    bool restarts;    /* every call starts from what it is given, and the test looks whether weights came back */
};
static struct script script;

static int gone_of(const struct model *m)
{
    const float *w = tensor_f32(value_const(m, g_value(m, "w")));
    int n = 0;
    for (int i = 0; i < CLASSES; i++)
        n += w[i * CLASSES + i] == 0;
    return n;
}

static int take_away(struct step_ctx *c, int i, double ramp, struct err *err)
{
    struct tensor t = {0};
    const uint32_t v = g_value(c->model, "w");
    assert_int_equal(i, 0);
    assert_true(script.runs < 64);
    script.ramps[script.runs++] = ramp;
    assert_int_equal(tensor_copy(&t, value_const(c->model, v), NULL), 0);
    for (int k = 0; k < (int)lround(ramp * CLASSES); k++)
        tensor_f32(&t)[k * CLASSES + k] = 0;
    assert_int_equal(value_set_weight(c->model, v, &t), 0);
    tensor_fini(&t);
    if (script.nan_at == script.runs)
        return err_set(err, ERR_NON_FINITE, "the loss is not finite at batch 3");
    return 0;
}

struct result {
    int gone, met;
    int64_t kept;
    const char *stopped;
    json_t *details, *targets, *warnings;
};

static struct result iterate(const char *words, bool held_out)
{
    struct err err = {0};
    struct faults faults = {0};
    json_t *step = recipe_step_from_words(words, &err), *json;
    if (!step)
        fail_msg("%s: %s", words, err.msg);
    json_object_set_new(step, "steps", json_pack("[{s:s}]", "method", "graph.optimize"));
    json = json_pack("{s:[o]}", "steps", step);
    struct recipe *recipe = recipe_parse(json, "", &faults, &err);
    if (!recipe)
        fail_msg("%s: %s", words, err.msg);
    struct model *source = classifier(), *m = model_clone(source, &err);
    struct dataset *data = samples(m), *val = held_out ? NULL : samples(m);
    struct step_ctx c = {.model = m,
                         .source = source,
                         .params = recipe->steps[0].params,
                         .data = data,
                         .val_data = val,
                         .warnings = warnings_new(),
                         .targets = json_array(),
                         .details = json_object(),
                         .n_steps = 1,
                         .run_step = take_away,
                         .ramp = 1};
    if (recipe->steps[0].method->run(&c, &err))
        fail_msg("%s: %s", words, err.msg);
    if (model_validate(m, &err))
        fail_msg("%s", err.msg);
    struct result r = {.gone = gone_of(m), .details = c.details, .targets = c.targets, .met = 1};
    size_t i;
    json_t *t;
    json_array_foreach(c.targets, i, t) r.met &= json_is_true(json_object_get(t, "met"));
    r.kept = json_integer_value(json_object_get(c.details, "kept_round"));
    r.stopped = json_string_value(json_object_get(c.details, "stopped"));
    r.warnings = warnings_json(c.warnings);
    warnings_free(c.warnings);
    dataset_close(data);
    dataset_close(val);
    model_free(m);
    model_free(source);
    recipe_free(recipe);
    faults_fini(&faults);
    json_decref(json);
    return r;
}

static void result_fini(struct result *r)
{
    json_decref(r->details);
    json_decref(r->targets);
    json_decref(r->warnings);
}

/* Class 0 has no samples, so `gone` classes lose gone - 1 of 19. */
static double drop_of(int gone)
{
    return gone > 0 ? (gone - 1) / 19.0 : 0;
}

static void the_smallest_within_the_drop_is_kept(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int gone, runs; /* -1: not checked */
        int64_t kept;
        const char *stopped;
    } rows[] = {
        /* a tenth each round; 5 of 20 gone cost 4/19 = 0.21 */
        {"iterate until='{\"max_accuracy_drop\": 0.22}' rounds=10 on_break=stop", 4, 3, 2, "not good enough"},
        {"iterate until='{\"max_accuracy_drop\": 0.22}' rounds=10 on_break=go_on", 4, 10, 2, "rounds are over"},
        /* 4 held, 6 broke; 5 held; 5.5 is 6 (to even) or 5 */
        {"iterate until='{\"max_accuracy_drop\": 0.22}' rounds=10", 5, -1, -1, NULL},
        {"iterate until='{\"max_accuracy_drop\": 0.22}' rounds=4", 5, 4, 1, "rounds are over"},
        {"iterate until='{\"max_accuracy_drop\": 1}' rounds=5", 20, 5, 5, "rounds are over"},
        {"iterate until='{\"max_accuracy_drop\": 1}' rounds=5 to=0.5", 10, 5, 5, "rounds are over"},
        /* nothing holds: what came in stays */
        {"iterate until='{\"max_accuracy_drop\": 0}' rounds=3 from=0.5 on_break=stop", 0, 1, 0, "not good enough"},
        /* joint wishes: 12 of 20 left of the diagonal are 0.6 */
        {"iterate until='{\"max_nonzero_ratio\": 0.6, \"max_accuracy_drop\": 0.5}' rounds=10", 8, 4, 4, "all wishes"},
        {"iterate until='{\"max_nonzero_ratio\": 0.6}' rounds=10", 8, 4, 4, "all wishes"},
        {"iterate until='{\"max_nonzero_ratio\": 1}' rounds=10", 0, 0, 0, "before the first round"},
        /* both cannot be: the drop is what counts */
        {"iterate until='{\"max_nonzero_ratio\": 0.1, \"max_accuracy_drop\": 0.22}' rounds=10 on_break=stop", 4, 3, 2,
         "not good enough"},
        {"iterate until='{\"min_accuracy\": 0.8}' rounds=10 on_break=stop", 4, 3, 2, "not good enough"},
        {"iterate until='{\"min_top1_agreement\": 0.8}' rounds=10 on_break=stop", 4, 3, 2, "not good enough"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int held_out = 0; held_out < 2; held_out++) {
            script = (struct script){0};
            struct result r = iterate(rows[i].words, held_out);
            if (r.gone != rows[i].gone && !held_out)
                fail_msg("%s: %d gone, expected %d", rows[i].words, r.gone, rows[i].gone);
            if (!held_out && rows[i].runs >= 0) {
                assert_int_equal(script.runs, rows[i].runs);
                assert_int_equal(r.kept, rows[i].kept);
            }
            if (rows[i].stopped && !held_out && !strstr(r.stopped, rows[i].stopped))
                fail_msg("%s: stopped as '%s'", rows[i].words, r.stopped);
            if (held_out) /* a tenth of 380, two of each class: near */
                assert_in_range(r.gone, rows[i].gone - (rows[i].gone > 1 ? 2 : rows[i].gone), rows[i].gone + 2);
            result_fini(&r);
        }
}

static void ramps_rise(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        double ramps[5];
    } rows[] = {
        {"iterate until='{\"max_accuracy_drop\": 1}' rounds=5", {0.2, 0.4, 0.6, 0.8, 1}},
        {"iterate until='{\"max_accuracy_drop\": 1}' rounds=5 from=0.5", {0.5, 0.625, 0.75, 0.875, 1}},
        {"iterate until='{\"max_accuracy_drop\": 1}' rounds=5 from=0.3 to=0.3", {0.3, 0.3, 0.3, 0.3, 0.3}},
        /* 10 of 20 break, so half way to there, and so on */
        {"iterate until='{\"max_accuracy_drop\": 0.3}' rounds=5 from=0.5", {0.5, 0.25, 0.375, 0.3125, 0.34375}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        script = (struct script){0};
        struct result r = iterate(rows[i].words, false);
        assert_int_equal(script.runs, 5);
        for (int k = 0; k < 5; k++)
            g_near(script.ramps[k], rows[i].ramps[k], 1e-9);
        result_fini(&r);
    }
}

static void rounds_are_told(void **state)
{
    (void)state;
    script = (struct script){0};
    struct result r = iterate("iterate until='{\"max_accuracy_drop\": 0.22, \"max_nonzero_ratio\": 0.3}' rounds=4 "
                              "on_break=go_on",
                              false);
    const json_t *rounds = json_object_get(r.details, "rounds"), *row;
    size_t i;
    assert_int_equal(json_array_size(rounds), 5);
    json_array_foreach(rounds, i, row)
    {
        const int gone = (int)lround(0.25 * (double)i * CLASSES);
        assert_int_equal(json_integer_value(json_object_get(row, "round")), i);
        g_near(json_number_value(json_object_get(json_object_get(row, "metrics"), "top1")), 1 - drop_of(gone), 1e-9);
        g_near(json_number_value(json_object_get(json_object_get(row, "ratio"), "nonzero")), 1 - gone / 20.0, 1e-9);
        assert_int_equal(json_is_true(json_object_get(row, "good")), drop_of(gone) <= 0.22);
        assert_int_equal(json_is_true(json_object_get(row, "kept")), i == 1); /* of those that are good the smallest */
        assert_int_equal(json_array_size(json_object_get(row, "wishes")), 2);
    }
    assert_int_equal(r.met, 0);
    assert_int_equal(json_array_size(r.targets), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.targets, 0), "target")),
                        "iterate max_accuracy_drop");
    assert_non_null(strstr(json_string_value(json_array_get(r.warnings, 0)), "max_nonzero_ratio 0.3 was not reached"));
    result_fini(&r);
}

/* A round of numbers that are not finite is one that broke; others end the step. */
static void a_failed_round_is_not_the_end(void **state)
{
    (void)state;
    script = (struct script){.nan_at = 2};
    struct result r = iterate("iterate until='{\"max_accuracy_drop\": 0.5}' rounds=4", false);
    const json_t *second = json_array_get(json_object_get(r.details, "rounds"), 2);
    assert_non_null(strstr(json_string_value(json_object_get(second, "failed")), "not finite"));
    assert_int_equal(script.runs, 4);
    g_near(script.ramps[2], 0.375, 1e-9);
    assert_int_equal(r.gone, (int)lround(0.4375 * CLASSES));
    result_fini(&r);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *words, *pointer, *part;
    } rows[] = {
        {"iterate until='{}'", "/steps/0/until", "at least one wish"},
        {"iterate until='{\"max_byte_ratio\": 0.1}'", "/steps/0/until/max_byte_ratio",
         "did you mean 'max_bytes_ratio'"},
        {"iterate until='{\"max_latency_ratio\": 0.5}'", "/steps/0/until/max_latency_ratio", "finished model only"},
        {"iterate until='{\"max_macs_ratio\": \"x\"}'", "/steps/0/until/max_macs_ratio", "must be a number"},
        {"iterate until='{\"max_accuracy_drop\": 7}'", "/steps/0/until/max_accuracy_drop", "between -1 and 1"},
        {"iterate rounds=3", "/steps/0/until", "is required"},
        {"iterate until='{\"max_bytes_ratio\": 0.1}' from=0.8 to=0.5", "/steps/0/from", "above 'to'"},
        {"iterate until='{\"max_bytes_ratio\": 0.1}' rounds=0", "/steps/0/rounds", "1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        struct faults faults = {0};
        json_t *step = recipe_step_from_words(rows[i].words, &err), *json;
        bool found = false;
        json_object_set_new(step, "steps", json_pack("[{s:s}]", "method", "graph.optimize"));
        json = json_pack("{s:[o]}", "steps", step);
        assert_null(recipe_parse(json, "", &faults, &err));
        for (int k = 0; k < faults.count; k++)
            found =
                found || (!strcmp(faults.at[k].pointer, rows[i].pointer) && strstr(faults.at[k].detail, rows[i].part));
        if (!found)
            fail_msg("%s: %s: %s", rows[i].words, faults.at[0].pointer, faults.at[0].detail);
        faults_fini(&faults);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_within_the_drop_is_kept),
        cmocka_unit_test(ramps_rise),
        cmocka_unit_test(rounds_are_told),
        cmocka_unit_test(a_failed_round_is_not_the_end),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
