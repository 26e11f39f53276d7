/* SPDX-License-Identifier: Apache-2.0
 * Fidelity against the formulas, worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/stats/fidelity.h"

static void near(double got, double want, double tolerance)
{
    assert_true(fabs(got - want) <= tolerance);
}

static struct tensor view(enum dtype dtype, struct shape shape, void *data)
{
    struct tensor t;
    tensor_view(&t, dtype, &shape, data, NULL);
    return t;
}

static struct fidelity_result one(struct tensor a, struct tensor b)
{
    static char name[] = "y";
    struct fidelity *f = fidelity_new((const char *const[]){name}, 1);
    struct fidelity_result r;
    struct err err = {0};
    assert_int_equal(fidelity_add(f, 0, &a, &b, &err), 0);
    fidelity_result(f, 0, &r);
    fidelity_free(f);
    r.name = NULL;
    return r;
}

static void test_formulas(void **state)
{
    (void)state;
    float a[] = {3, 4, 0, 1}, b[] = {3, 4.5f, 0, 2};
    struct fidelity_result r = one(view(DTYPE_FLOAT, SHAPE(2, 2), a), view(DTYPE_FLOAT, SHAPE(2, 2), b));
    near(r.max_abs, 1, 1e-12);
    near(r.sqnr_db, 10 * log10(26 / 1.25), 1e-9);
    near(r.cosine, (9 + 18 + 2) / (sqrt(26) * sqrt(9 + 20.25 + 4)), 1e-9);
    near(r.top1_agreement, 1, 0);
    near(r.largest, 4, 0);
    assert_int_equal(r.elements, 4);
}

static void test_equal(void **state)
{
    (void)state;
    float a[] = {1, NAN, INFINITY, -2};
    struct fidelity_result r = one(view(DTYPE_FLOAT, SHAPE(1, 4), a), view(DTYPE_FLOAT, SHAPE(1, 4), a));
    near(r.max_abs, 0, 0);
    assert_true(isinf(r.sqnr_db) && r.sqnr_db > 0);
    near(r.cosine, 1, 0);
    assert_int_equal(r.nonfinite, 0);
    assert_int_equal(r.nonfinite_b, 2);
}

static void test_not_finite(void **state)
{
    (void)state;
    float a[] = {1, 2, 3}, b[] = {1, NAN, INFINITY};
    struct fidelity_result r = one(view(DTYPE_FLOAT, SHAPE(1, 3), a), view(DTYPE_FLOAT, SHAPE(1, 3), b));
    assert_true(isinf(r.max_abs));
    assert_int_equal(r.nonfinite, 2);
}

static void test_top1_ties_go_to_the_lowest_index(void **state)
{
    (void)state;
    float a[] = {1, 2, 2, 5, 5, 0}, b[] = {0, 2, 2, 4, 5, 0};
    struct fidelity_result r = one(view(DTYPE_FLOAT, SHAPE(2, 3, 1, 1), a), view(DTYPE_FLOAT, SHAPE(2, 3, 1, 1), b));
    near(r.top1_agreement, 0.5, 0);
    r = one(view(DTYPE_FLOAT, SHAPE(1, 2, 3), a), view(DTYPE_FLOAT, SHAPE(1, 2, 3), b)); /* two wide axes: no classes */
    assert_true(isnan(r.top1_agreement));
}

static void test_other_dtypes(void **state)
{
    (void)state;
    uint8_t a[] = {0, 200}, b[] = {0, 190};
    float f[] = {0, 190};
    near(one(view(DTYPE_UINT8, SHAPE(2), a), view(DTYPE_UINT8, SHAPE(2), b)).max_abs, 10, 0);
    near(one(view(DTYPE_UINT8, SHAPE(2), a), view(DTYPE_FLOAT, SHAPE(2), f)).max_abs, 10, 0);
    struct dtype_string s[] = {{"a", 1}}, t[] = {{"b", 1}};
    near(one(view(DTYPE_STRING, SHAPE(1), s), view(DTYPE_STRING, SHAPE(1), t)).max_abs, 1, 0);
    near(one(view(DTYPE_STRING, SHAPE(1), s), view(DTYPE_STRING, SHAPE(1), s)).max_abs, 0, 0);
}

static void test_rows_that_pair_up(void **state)
{
    (void)state;
    float a[] = {1, 2, 3, 4}, b[] = {1, 2};
    struct fidelity_result r = one(view(DTYPE_FLOAT, SHAPE(2, 2), a), view(DTYPE_FLOAT, SHAPE(1, 2), b));
    assert_true(r.partial);
    assert_int_equal(r.elements, 2);
    struct fidelity *f = fidelity_new((const char *const[]){"y"}, 1);
    struct tensor x = view(DTYPE_FLOAT, SHAPE(2, 2), a), y = view(DTYPE_FLOAT, SHAPE(3, 1), a);
    struct err err = {0};
    assert_int_equal(fidelity_add(f, 0, &x, &y, &err), -1);
    assert_int_equal(err.code, ERR_SHAPE);
    assert_string_equal(err.msg, "output 'y' is float32[2,2] in one model and float32[3,1] in the other");
    fidelity_free(f);
}

static void test_batches_add_up(void **state)
{
    (void)state;
    float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1.5f, 2, 2, 4, 6, 6};
    struct fidelity_result whole = one(view(DTYPE_FLOAT, SHAPE(3, 2), a), view(DTYPE_FLOAT, SHAPE(3, 2), b)), parts;
    struct fidelity *f = fidelity_new((const char *const[]){"y"}, 1);
    for (int i = 0; i < 3; i++) {
        struct tensor x = view(DTYPE_FLOAT, SHAPE(1, 2), a + 2 * i), y = view(DTYPE_FLOAT, SHAPE(1, 2), b + 2 * i);
        assert_int_equal(fidelity_add(f, 0, &x, &y, NULL), 0);
        fidelity_count_samples(f, 1);
    }
    fidelity_result(f, 0, &parts);
    near(parts.sqnr_db, whole.sqnr_db, 0);
    near(parts.cosine, whole.cosine, 0);
    near(parts.top1_agreement, whole.top1_agreement, 0);
    json_t *json = fidelity_json(f, "dataset");
    assert_int_equal(json_integer_value(json_object_get(json, "samples")), 3);
    json_t *out = json_array_get(json_object_get(json, "outputs"), 0);
    near(json_real_value(json_object_get(out, "max_abs")), 1, 0);
    assert_string_equal(json_string_value(json_object_get(out, "name")), "y");
    json_decref(json);
    fidelity_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),      cmocka_unit_test(test_equal),
        cmocka_unit_test(test_not_finite),    cmocka_unit_test(test_top1_ties_go_to_the_lowest_index),
        cmocka_unit_test(test_other_dtypes),  cmocka_unit_test(test_rows_that_pair_up),
        cmocka_unit_test(test_batches_add_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
