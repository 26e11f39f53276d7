/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "core/stats/ranges.h"

static void observe(struct ranges *r, uint32_t v, enum dtype dtype, int64_t n, void *data)
{
    struct tensor t;
    struct shape s = SHAPE(n);
    tensor_view(&t, dtype, &s, data, NULL);
    assert_int_equal(ranges_observe(r, v, &t, NULL), 0);
}

static void test_batches(void **state)
{
    (void)state;
    struct ranges *r = ranges_new(3);
    float a[] = {1, -2, 3}, b[] = {NAN, 0.5f, INFINITY, -INFINITY, 7};
    observe(r, 1, DTYPE_FLOAT, 3, a);
    assert_null(ranges_get(r, 0));
    const struct range *x = ranges_get(r, 1);
    assert_float_equal(x->min, -2, 0);
    assert_float_equal(x->max, 3, 0);
    observe(r, 1, DTYPE_FLOAT, 5, b);
    assert_float_equal(x->min, -2, 0);
    assert_float_equal(x->max, 7, 0);
    assert_int_equal(x->nan, 1);
    assert_int_equal(x->inf, 2);
    assert_int_equal(x->count, 8);
    assert_int_equal(x->batches, 2);
    observe(r, 99, DTYPE_FLOAT, 3, a); /* no such value: ignored */
    assert_null(ranges_get(r, 99));
    ranges_free(r);
}

static void test_dtypes(void **state)
{
    (void)state;
    struct ranges *r = ranges_new(3);
    uint16_t half[] = {0x3c00, 0xc000, 0x7c00}; /* 1, -2, infinity */
    int64_t ints[] = {5};
    observe(r, 0, DTYPE_FLOAT16, 3, half);
    observe(r, 1, DTYPE_INT64, 1, ints);
    assert_float_equal(ranges_get(r, 0)->min, -2, 0);
    assert_float_equal(ranges_get(r, 0)->max, 1, 0);
    assert_int_equal(ranges_get(r, 0)->inf, 1);
    assert_null(ranges_get(r, 1));
    ranges_free(r);
}

static void test_nothing_finite(void **state)
{
    (void)state;
    struct range r = RANGE_EMPTY;
    float x[] = {NAN, INFINITY};
    range_add(&r, x, 2);
    assert_true(r.min > r.max);
    range_add(&r, x, 0);
    assert_int_equal(r.count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_batches), cmocka_unit_test(test_dtypes),
                                       cmocka_unit_test(test_nothing_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
