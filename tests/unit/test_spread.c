/* SPDX-License-Identifier: Apache-2.0
 * How values are spread: bins and moments by hand, unaligned windows, sampling, what has no spread. */
/* clang-format off */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
/* clang-format on */

#include "core/model/spread.h"

static double number(const json_t *spread, const char *key)
{
    return json_number_value(json_object_get(spread, key));
}

static json_int_t bin(const json_t *spread, size_t i)
{
    return json_integer_value(json_array_get(json_object_get(spread, "counts"), i));
}

static void test_bins_and_moments(void **state)
{
    (void)state;
    struct tensor t;
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(6), NULL), 0);
    memcpy(tensor_f32(&t), (float[]){-1, 0, 0, 1, NAN, INFINITY}, 6 * sizeof(float));
    json_t *spread = tensor_spread_json(&t);
    assert_non_null(spread);
    assert_true(number(spread, "low") == -1 && number(spread, "high") == 1 && number(spread, "mean") == 0);
    assert_true(fabs(number(spread, "deviation") - sqrt(0.5)) < 1e-12);
    assert_int_equal(json_array_size(json_object_get(spread, "counts")), SPREAD_BINS);
    assert_int_equal(bin(spread, 0), 1);
    assert_int_equal(bin(spread, SPREAD_BINS / 2), 2);
    assert_int_equal(bin(spread, SPREAD_BINS - 1), 1);
    assert_null(json_object_get(spread, "sampled"));
    json_decref(spread);
    tensor_fini(&t);
}

static void test_unaligned_window(void **state)
{
    (void)state;
    static _Alignas(16) unsigned char bytes[64];
    struct tensor t, window;
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT16, &SHAPE(4), NULL), 0);
    memcpy(bytes + 1, (uint16_t[]){0x3c00, 0xbc00, 0x4000, 0x0000}, 8); /* 1, -1, 2, 0 */
    window = t;
    window.data = bytes + 1;
    json_t *spread = tensor_spread_json(&window);
    assert_true(number(spread, "low") == -1 && number(spread, "high") == 2 && number(spread, "mean") == 0.5);
    json_decref(spread);
    tensor_fini(&t);
}

static void test_equal_values_are_one_bin(void **state)
{
    (void)state;
    struct tensor t;
    assert_int_equal(tensor_alloc(&t, DTYPE_INT8, &SHAPE(5), NULL), 0);
    memset(t.data, 3, 5);
    json_t *spread = tensor_spread_json(&t);
    assert_int_equal(json_array_size(json_object_get(spread, "counts")), 1);
    assert_int_equal(bin(spread, 0), 5);
    assert_true(number(spread, "low") == 3 && number(spread, "high") == 3);
    json_decref(spread);
    tensor_fini(&t);
}

static void test_large_tensors_are_sampled(void **state)
{
    (void)state;
    struct tensor t;
    int64_t n = 5 * SPREAD_SAMPLES / 2, sum = 0;
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(n), NULL), 0);
    for (int64_t i = 0; i < n; i++)
        tensor_f32(&t)[i] = (float)i;
    json_t *spread = tensor_spread_json(&t);
    json_int_t sampled = json_integer_value(json_object_get(spread, "sampled"));
    assert_true(sampled > SPREAD_SAMPLES / 2 && sampled <= SPREAD_SAMPLES);
    for (size_t i = 0; i < SPREAD_BINS; i++)
        sum += bin(spread, i);
    assert_int_equal(sum, sampled);
    assert_true(fabs(number(spread, "mean") / ((double)n / 2) - 1) < 0.01);
    json_decref(spread);
    tensor_fini(&t);
}

static void test_nothing_to_spread(void **state)
{
    (void)state;
    struct tensor t;
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(2), NULL), 0);
    tensor_f32(&t)[0] = tensor_f32(&t)[1] = NAN;
    assert_null(tensor_spread_json(&t));
    struct tensor none = t;
    none.data = NULL;
    assert_null(tensor_spread_json(&none));
    tensor_f32(&t)[0] = 3e38f, tensor_f32(&t)[1] = -3e38f; /* far apart, and still drawn */
    json_t *spread = tensor_spread_json(&t);
    assert_int_equal(bin(spread, 0), 1);
    json_decref(spread);
    tensor_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bins_and_moments),          cmocka_unit_test(test_unaligned_window),
        cmocka_unit_test(test_equal_values_are_one_bin),  cmocka_unit_test(test_large_tensors_are_sampled),
        cmocka_unit_test(test_nothing_to_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
