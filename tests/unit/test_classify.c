/* SPDX-License-Identifier: Apache-2.0
 * Metrics on small sets worked out by hand; the macro averages as scikit-learn defines them with zero_division=0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "core/stats/classify.h"

static void near(double got, double want, double tolerance)
{
    assert_true(fabs(got - want) <= tolerance);
}

static struct tensor view(enum dtype dtype, struct shape shape, const void *data)
{
    struct tensor t;
    tensor_view(&t, dtype, &shape, (void *)(uintptr_t)data, NULL);
    return t;
}

/* labels 0 0 1 2 2, predictions 0 1 1 2 0 */
static const float scores[5][4] = {{9, 1, 0, 0}, {0, 5, 1, 0}, {1, 2, 0, 0}, {0, 0, 3, 0}, {4, 0, 2, 0}};
static const int64_t labels[5] = {0, 0, 1, 2, 2};

static void test_classes(void **state)
{
    (void)state;
    struct task_metrics *m = task_metrics_new();
    struct task_metrics_result r;
    struct tensor a = view(DTYPE_FLOAT, SHAPE(2, 4), scores), b = view(DTYPE_FLOAT, SHAPE(3, 4), scores[2]);
    struct tensor la = view(DTYPE_INT64, SHAPE(2), labels), lb = view(DTYPE_INT64, SHAPE(3), labels + 2);
    assert_int_equal(task_metrics_add(m, &a, &la, 0, NULL), 0);
    assert_int_equal(task_metrics_add(m, &b, &lb, 2, NULL), 0);
    task_metrics_result(m, &r);
    assert_true(r.classes);
    assert_int_equal(r.samples, 5);
    near(r.top1, 3.0 / 5, 1e-12);
    near(r.top5, 1, 0);
    /* precision: 1/2, 1/2, 1; recall: 1/2, 1, 1/2; class 3 occurs nowhere and is left out */
    near(r.precision, (0.5 + 0.5 + 1) / 3, 1e-12);
    near(r.recall, (0.5 + 1 + 0.5) / 3, 1e-12);
    near(r.f1, (0.5 + 2.0 / 3 + 2.0 / 3) / 3, 1e-12);
    assert_int_equal(r.confusion[0 * 4 + 0], 1);
    assert_int_equal(r.confusion[0 * 4 + 1], 1);
    assert_int_equal(r.confusion[2 * 4 + 0], 1);
    json_t *json = task_metrics_json(m, true);
    near(json_real_value(json_object_get(json, "top1")), 0.6, 1e-12);
    assert_int_equal(json_array_size(json_object_get(json, "confusion")), 4);
    json_decref(json);
    task_metrics_free(m);
}

static void test_top5_and_ties(void **state)
{
    (void)state;
    struct task_metrics *m = task_metrics_new();
    struct task_metrics_result r;
    const float flat[2][7] = {{1, 1, 1, 1, 1, 1, 1}, {7, 6, 5, 4, 3, 2, 1}};
    const int64_t l[2] = {4, 5}; /* the fifth of equals is in; the sixth largest is out */
    struct tensor s = view(DTYPE_FLOAT, SHAPE(2, 7), flat), y = view(DTYPE_INT64, SHAPE(2), l);
    assert_int_equal(task_metrics_add(m, &s, &y, 0, NULL), 0);
    task_metrics_result(m, &r);
    near(r.top5, 0.5, 0);
    near(r.top1, 0, 0);
    assert_int_equal(classify_argmax(flat[0], 7), 0);
    const float odd[3] = {NAN, -1, 2};
    assert_int_equal(classify_argmax(odd, 3), 2);
    task_metrics_free(m);
}

static void test_bad_labels(void **state)
{
    (void)state;
    struct task_metrics *m = task_metrics_new();
    struct err err = {0};
    const int64_t l[2] = {1, 4};
    struct tensor s = view(DTYPE_FLOAT, SHAPE(2, 4), scores), y = view(DTYPE_INT64, SHAPE(2), l);
    assert_int_equal(task_metrics_add(m, &s, &y, 30, &err), -1);
    assert_int_equal(err.code, ERR_DATASET);
    assert_string_equal(err.msg, "sample 31: label 4 is out of range, the model has 4 classes (0 to 3)");
    task_metrics_free(m);
}

static void test_binary_score(void **state)
{
    (void)state;
    struct task_metrics *m = task_metrics_new();
    struct task_metrics_result r;
    const float p[4] = {0.9f, 0.2f, 0.6f, 0.4f};
    const int64_t l[4] = {1, 0, 0, 0};
    struct tensor s = view(DTYPE_FLOAT, SHAPE(4, 1), p), y = view(DTYPE_INT64, SHAPE(4), l);
    assert_int_equal(task_metrics_add(m, &s, &y, 0, NULL), 0);
    task_metrics_result(m, &r);
    assert_int_equal(r.n_classes, 2);
    near(r.top1, 0.75, 0);
    task_metrics_free(m);
}

static void test_targets(void **state)
{
    (void)state;
    struct task_metrics *m = task_metrics_new();
    struct task_metrics_result r;
    const float got[4] = {1, 2, 3, 4}, want[4] = {1, 2, 5, 4};
    struct tensor s = view(DTYPE_FLOAT, SHAPE(2, 2), got), y = view(DTYPE_FLOAT, SHAPE(2, 2), want);
    assert_int_equal(task_metrics_add(m, &s, &y, 0, NULL), 0);
    task_metrics_result(m, &r);
    assert_false(r.classes);
    assert_int_equal(r.samples, 2);
    near(r.mse, 1, 1e-12);
    near(r.psnr_db, 10 * log10(16.0), 1e-9);
    struct err err = {0};
    const int64_t l[2] = {0, 1};
    struct tensor classes = view(DTYPE_INT64, SHAPE(2), l);
    assert_int_equal(task_metrics_add(m, &s, &classes, 2, &err), -1);
    task_metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_classes), cmocka_unit_test(test_top5_and_ties),
                                       cmocka_unit_test(test_bad_labels), cmocka_unit_test(test_binary_score),
                                       cmocka_unit_test(test_targets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
