/* SPDX-License-Identifier: Apache-2.0
 * core/report and core/recipe/target: the report's form, targets judged from it, its text. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/recipe/target.h"
#include "core/report/report.h"
#include "core/report/report_svg.h"

static const char sha[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static json_t *sample_report(void)
{
    struct facts before, after;
    facts_init(&before);
    facts_init(&after);
    before.bytes = 1000, before.zstd_bytes = 900, before.params = 250, before.nonzero = 250, before.macs = 5000;
    after.bytes = 260, after.zstd_bytes = 200, after.params = 250, after.nonzero = 125, after.macs = 5000;
    before.metrics = json_pack("{s:i, s:f}", "samples", 100, "top1", 0.99);
    after.metrics = json_pack("{s:i, s:f}", "samples", 100, "top1", 0.98);
    json_t *fidelity = json_pack("{s:i, s:s, s:[{s:s, s:f, s:f, s:f}, {s:s, s:f}]}", "samples", 100, "source",
                                 "dataset", "outputs", "name", "a\033[2J", "max_abs", 0.5, "sqnr_db", 31.0,
                                 "top1_agreement", 0.97, "name", "b", "max_abs", 0.0);
    struct report_parts parts = {.seed = 7,
                                 .recipe = json_pack("{s:[]}", "steps"),
                                 .source_name = "m\xff.onnx",
                                 .source_sha256 = sha,
                                 .artifact_name = "model.onnx",
                                 .artifact_sha256 = sha,
                                 .before = &before,
                                 .after = &after,
                                 .fidelity = fidelity,
                                 .threads = 2};
    json_t *report = report_json(&parts);
    facts_fini(&before);
    facts_fini(&after);
    return report;
}

static void keys_come_in_the_documented_order(void **state)
{
    (void)state;
    static const char *const keys[] = {"pared", "seed",     "recipe",  "source", "artifact",    "before",  "after",
                                       "ratio", "fidelity", "targets", "steps",  "environment", "warnings"};
    json_t *report = sample_report();
    size_t i = 0;
    const char *key;
    json_t *v;
    assert_non_null(report);
    json_object_foreach (report, key, v)
        assert_string_equal(key, keys[i++]);
    assert_int_equal(i, sizeof keys / sizeof keys[0]);
    assert_string_equal(json_string_value(json_object_get(json_object_get(report, "source"), "sha256")), sha);
    assert_int_equal(report_targets_met(report), -1);
    json_t *metrics = report_metrics_json(report);
    assert_null(json_object_get(metrics, "steps"));
    assert_non_null(json_object_get(metrics, "ratio"));
    json_decref(metrics);
    json_decref(report);
}

static void a_step_shows_the_steps_it_holds(void **state)
{
    (void)state;
    json_t *inner = report_step_json(&(struct report_step){
        .method = "prune.weights", .parameters = json_object(), .seconds = 1, .peak_rss_bytes = -1, .runs = 12});
    json_t *outer = report_step_json(&(struct report_step){.method = "train.finetune",
                                                           .parameters = json_object(),
                                                           .seconds = 2,
                                                           .peak_rss_bytes = 5,
                                                           .details = json_pack("{s:i}", "epochs", 3),
                                                           .steps = json_pack("[o]", inner)});
    assert_int_equal(json_integer_value(json_object_get(json_object_get(outer, "details"), "epochs")), 3);
    const json_t *held = json_array_get(json_object_get(outer, "steps"), 0);
    assert_int_equal(json_integer_value(json_object_get(held, "runs")), 12);
    assert_null(json_object_get(held, "details"));
    assert_null(json_object_get(held, "peak_rss_bytes"));
    assert_null(json_object_get(outer, "runs"));
    json_decref(outer);
}

static void containers_are_judged_by_their_bytes(void **state)
{
    (void)state;
    json_t *report = json_pack("{s:{s:i}}", "before", "bytes", 1000), *judged;
    const struct target *t = target_find("max_container_ratio");
    assert_non_null(t);
    judged = target_judge(t, 0.5, report); /* no container was made */
    assert_null(json_object_get(judged, "got"));
    assert_false(json_is_true(json_object_get(judged, "met")));
    json_decref(judged);
    json_object_set_new(report, "artifacts", json_pack("{s:{s:i}, s:{s:i}}", "model.pared", "bytes", 25, "x.txt", "bytes", 1));
    judged = target_judge(t, 0.025, report);
    assert_float_equal(json_real_value(json_object_get(judged, "got")), 0.025, 1e-12);
    assert_true(json_is_true(json_object_get(judged, "met")));
    json_decref(judged);
    json_decref(report);
}

static void targets_are_judged_from_the_figures(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double wanted;
        int met; /* -1: not measured */
    } rows[] = {
        {"max_accuracy_drop", 0.01, 1}, /* 0.99 - 0.98 is a little more than 0.01 in binary */
        {"max_accuracy_drop", 0.009, 0}, {"min_accuracy", 0.98, 1},       {"min_accuracy", 0.985, 0},
        {"max_bytes_ratio", 0.26, 1},    {"max_bytes_ratio", 0.25, 0},    {"max_zstd_bytes_ratio", 0.3, 1},
        {"max_params_ratio", 0.9, 0},    {"max_nonzero_ratio", 0.5, 1},   {"max_macs_ratio", 1, 1},
        {"max_latency_ratio", 10, -1},   {"min_sqnr_db", 30, 1},          {"min_sqnr_db", 32, 0},
        {"min_top1_agreement", 0.97, 1}, {"min_top1_agreement", 0.98, 0},
    };
    json_t *report = sample_report();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct target *t = target_find(rows[i].name);
        assert_non_null(t);
        json_t *judged = target_judge(t, rows[i].wanted, report);
        assert_int_equal(json_is_true(json_object_get(judged, "met")), rows[i].met == 1);
        assert_int_equal(json_object_get(judged, "got") != NULL, rows[i].met >= 0);
        assert_string_equal(json_string_value(json_object_get(judged, "target")), rows[i].name);
        json_array_append_new(json_object_get(report, "targets"), judged);
    }
    assert_int_equal(report_targets_met(report), 0);
    json_decref(report);
}

static void every_target_row_is_whole(void **state)
{
    (void)state;
    json_t *empty = json_object();
    int n = 0;
    for (const struct target *t = target_all(); t->name; t++, n++) {
        assert_true(t->min < t->max);
        assert_non_null(t->doc);
        assert_ptr_equal(target_find(t->name), t);
        json_t *judged = target_judge(t, 0.5, empty); /* nothing was measured: never met */
        assert_true(json_is_false(json_object_get(judged, "met")));
        assert_null(json_object_get(judged, "got"));
        json_decref(judged);
    }
    json_t *catalogue = target_catalogue();
    assert_int_equal(json_array_size(catalogue), n);
    for (int i = 0; i < n; i++) {
        const json_t *row = json_array_get(catalogue, (size_t)i);
        const struct target *t = target_find(json_string_value(json_object_get(row, "name")));
        assert_non_null(t);
        assert_string_equal(json_string_value(json_object_get(row, "doc")), t->doc);
        assert_true(json_real_value(json_object_get(row, "min")) == t->min);
        assert_true(json_real_value(json_object_get(row, "max")) == t->max);
        assert_int_equal(json_array_size(json_object_get(row, "needs")), t->needs_labels);
    }
    json_decref(catalogue);
    json_decref(empty);
}

static void text_shows_figures_and_no_control_characters(void **state)
{
    (void)state;
    json_t *report = sample_report();
    json_array_append_new(json_object_get(report, "targets"),
                          target_judge(target_find("max_bytes_ratio"), 0.25, report));
    char *text = report_text(report);
    assert_non_null(text);
    assert_non_null(strstr(text, "0.260x"));
    assert_non_null(strstr(text, "99.00 %"));
    assert_non_null(strstr(text, "max_bytes_ratio: wanted 0.25, got 0.26: missed"));
    assert_null(strstr(text, "latency"));
    assert_null(strchr(text, '\033'));
    free(text);
    json_decref(report);
}

static void page_shows_strangers_text_as_text(void **state)
{
    (void)state;
    json_t *report = sample_report();
    static const char hostile[] = "</td><script>alert(1)</script><img src=x onerror='a' b=\"c\">&\x01";
    json_t *source = json_object_get(report, "source");
    json_object_set_new(source, "name", json_string(hostile));
    json_array_append_new(json_object_get(report, "warnings"), json_string(hostile));
    json_t *step = json_pack("{s:s, s:{s:s}, s:f, s:[{s:s, s:s, s:{s:s}, s:s}, {s:s, s:f, s:{s:[{s:f,s:f},{s:f,s:f}]}}]}", "method", hostile,
                             "parameters", hostile, hostile, "seconds", 0.5, "layers", "node", hostile, "op_type", hostile,
                             "before", hostile, hostile, "skipped", hostile, "node", hostile, "sqnr_db", 20.0, "after",
                             "curve", "ratio", 0.1, "kl", 0.5, "ratio", 0.5, "kl", 1.5);
    assert_non_null(step);
    json_array_append_new(json_object_get(report, "steps"), step);
    char *page = report_html(report);
    assert_non_null(page);
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "<img"));
    assert_null(strchr(page, 1));
    assert_non_null(strstr(page, "&lt;/td&gt;&lt;script&gt;alert(1)"));
    assert_non_null(strstr(page, "onerror=&#39;a&#39; b=&quot;c&quot;&gt;&amp;"));
    assert_non_null(strstr(page, "<polyline"));
    assert_non_null(strstr(page, "default-src 'none'"));
    assert_null(strstr(page, "http://"));
    assert_null(strstr(page, "https://"));
    free(page);
    json_decref(report);
}

/* Values that differ in their last digits alone are a flat line: the lines behind it end too. */
static void curves_that_differ_by_rounding(void **state)
{
    (void)state;
    for (int ulps = 0; ulps < 4; ulps++) {
        double y = 0.7;
        for (int i = 0; i < ulps; i++)
            y = nextafter(y, 1);
        json_t *rows = json_pack("[{s:i,s:f},{s:i,s:f}]", "x", 1, "y", 0.7, "x", 2, "y", y);
        const struct svg_series series = {.name = "loss", .kind = "a", .rows = rows, .x = "x", .y = "y"};
        struct buf b = {0};
        assert_true(svg_plot(&b, &(struct svg_plot){.title = "t", .across = "x", .series = &series, .n_series = 1}));
        assert_in_range(b.len, 100, 8000);
        buf_fini(&b);
        json_decref(rows);
    }
}

static void matrix_is_in_the_report_and_not_in_the_list(void **state)
{
    (void)state;
    json_t *report = sample_report(), *after = json_object_get(report, "after");
    json_object_set_new(json_object_get(after, "metrics"), "confusion", json_pack("[[i,i],[i,i]]", 9, 1, 0, 10));
    json_t *metrics = report_metrics_json(report), *own = json_object_get(json_object_get(metrics, "after"), "metrics");
    assert_null(json_object_get(own, "confusion"));
    assert_non_null(json_object_get(own, "top1"));
    assert_non_null(json_object_get(json_object_get(after, "metrics"), "confusion"));
    char *page = report_html(report);
    assert_non_null(strstr(page, "<td class=\"right\">10</td>"));
    assert_non_null(strstr(page, "<td class=\"wrong\">1</td>"));
    free(page);
    json_decref(metrics);
    json_decref(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_come_in_the_documented_order),
        cmocka_unit_test(a_step_shows_the_steps_it_holds),
        cmocka_unit_test(containers_are_judged_by_their_bytes),
        cmocka_unit_test(targets_are_judged_from_the_figures),
        cmocka_unit_test(every_target_row_is_whole),
        cmocka_unit_test(text_shows_figures_and_no_control_characters),
        cmocka_unit_test(page_shows_strangers_text_as_text),
        cmocka_unit_test(curves_that_differ_by_rounding),
        cmocka_unit_test(matrix_is_in_the_report_and_not_in_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
