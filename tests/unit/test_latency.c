/* SPDX-License-Identifier: Apache-2.0
 * Timing and made-up inputs on a model of one node: numbers of runs, order of percentiles, seeds, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/stats/generate.h"
#include "core/stats/latency.h"

/* y = relu(x), x: dtype [N, 3, 8, 8] */
static struct model *relu(enum dtype dtype)
{
    struct model *m = model_new();
    model_set_opset(m, "", 13);
    struct value_info *io = model_alloc(m, 2, sizeof *io);
    uint32_t x = model_add_value(m, 0, "x", false), y = model_add_value(m, 0, "y", false);
    io[0] = (struct value_info){.value = x,
                                .has_type = true,
                                .type = {.kind = TYPE_TENSOR,
                                         .dtype = dtype,
                                         .has_dtype = true,
                                         .has_shape = true,
                                         .shape = SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 3, 8, 8)}};
    io[1] = (struct value_info){.value = y};
    m->graphs[0].inputs = &io[0];
    m->graphs[0].outputs = &io[1];
    m->graphs[0].n_inputs = m->graphs[0].n_outputs = 1;
    model_add_node(m, 0, "Relu", NULL, "r", &x, 1, &y, 1);
    return m;
}

static int stop(void *arg, int64_t done, int64_t total, struct err *err)
{
    int *left = arg;
    assert_true(done >= 1 && done <= total);
    return --*left == 0 ? err_set(err, ERR_CANCELED, "enough") : 0;
}

static void test_runs_and_percentiles(void **state)
{
    (void)state;
    struct model *m = relu(DTYPE_FLOAT);
    struct plan *p[2] = {plan_new(m, NULL, NULL), plan_new(m, NULL, NULL)};
    struct latency l[2];
    struct latency_opts o = {.min_runs = 25, .max_runs = 25, .batch = 4, .threads = 1};
    assert_int_equal(latency_measure(p, 2, &o, l, NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(l[i].runs, 25);
        assert_int_equal(l[i].batch, 4);
        assert_true(0 < l[i].min_ms && l[i].min_ms <= l[i].p50_ms && l[i].p50_ms <= l[i].p90_ms &&
                    l[i].p90_ms <= l[i].p99_ms);
    }
    o = (struct latency_opts){.budget_s = 0.05};
    assert_int_equal(latency_measure(p, 1, &o, l, NULL), 0);
    assert_true(l[0].runs >= 10);
    json_t *json = latency_json(&l[0]);
    assert_int_equal(json_integer_value(json_object_get(json, "runs")), l[0].runs);
    assert_int_equal(json_integer_value(json_object_get(json, "batch")), 1);
    json_decref(json);
    int left = 3;
    struct err err = {0};
    o = (struct latency_opts){.progress = stop, .progress_arg = &left};
    assert_int_equal(latency_measure(p, 2, &o, l, &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    plan_free(p[0]);
    plan_free(p[1]);
    model_free(m);
}

static void test_generated_values(void **state)
{
    (void)state;
    struct model *m = relu(DTYPE_FLOAT);
    struct plan *plan = plan_new(m, NULL, NULL);
    struct tensor a, b, c;
    struct generate_opts o = {.batch = 100, .seed = 3};
    assert_int_equal(generate_inputs(plan, &o, &a, NULL), 0);
    assert_int_equal(generate_inputs(plan, &o, &b, NULL), 0);
    o.stream = 1;
    assert_int_equal(generate_inputs(plan, &o, &c, NULL), 0);
    assert_int_equal(a.shape.dim[0], 100);
    assert_true(tensor_equal(&a, &b));
    assert_false(tensor_equal(&a, &c));
    double sum = 0, squares = 0, n = (double)tensor_count(&a);
    for (int64_t i = 0; i < tensor_count(&a); i++) {
        sum += (double)tensor_f32(&a)[i];
        squares += (double)tensor_f32(&a)[i] * (double)tensor_f32(&a)[i];
    }
    assert_true(fabs(sum / n) < 0.03 && fabs(squares / n - 1) < 0.05); /* N(0, 1), 19,200 values */
    tensor_fini(&a);
    tensor_fini(&b);
    tensor_fini(&c);
    plan_free(plan);
    model_free(m);
}

static void test_generated_dtypes(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype;
        double min, max;
    } rows[] = {
        {DTYPE_INT64, 0, 9}, {DTYPE_UINT8, 0, 255}, {DTYPE_BOOL, 0, 1}, {DTYPE_INT8, 0, 9}, {DTYPE_UINT4, 0, 7}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tensor t;
        struct shape s = SHAPE(10, 10, 11);
        double lo = INFINITY, hi = -INFINITY;
        assert_int_equal(generate_tensor(&t, rows[i].dtype, &s, 1, 0, NULL), 0);
        for (int64_t k = 0; k < tensor_count(&t); k++) {
            lo = fmin(lo, dtype_get(t.dtype, t.data, k));
            hi = fmax(hi, dtype_get(t.dtype, t.data, k));
        }
        assert_true(lo >= rows[i].min && hi <= rows[i].max && hi > lo);
        tensor_fini(&t);
    }
    struct err err = {0};
    struct tensor t;
    assert_int_equal(generate_tensor(&t, DTYPE_COMPLEX64, &SHAPE(2), 1, 0, &err), -1);
    assert_int_equal(err.code, ERR_OPERATOR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs_and_percentiles),
                                       cmocka_unit_test(test_generated_values),
                                       cmocka_unit_test(test_generated_dtypes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
