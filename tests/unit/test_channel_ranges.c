/* SPDX-License-Identifier: Apache-2.0
 * Ranges of channels, and what they say of the codes that reach a layer. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "core/quant/isa_arithmetic.h"

static void observe(struct channel_ranges *r, uint32_t value, struct shape shape, const float *v)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        tensor_f32(&t)[i] = v[i];
    assert_int_equal(channel_ranges_observe(r, value, &t, NULL), 0);
    tensor_fini(&t);
}

static void test_ranges(void **state)
{
    (void)state;
    struct channel_ranges *r = channel_ranges_new(4);
    struct channel_extent e;
    channel_ranges_want(r, 0, 1);
    channel_ranges_want(r, 1, -1);
    channel_ranges_want(r, 2, 1);
    channel_ranges_want(r, 2, -1); /* two axes: none */
    channel_ranges_want(r, 99, 1); /* no such value */
    observe(r, 0, SHAPE(2, 2, 2), (float[]){1, -2, 3, 4, 5, NAN, -7, INFINITY});
    observe(r, 1, SHAPE(2, 3), (float[]){1, 2, 3, -4, 5, -6});
    observe(r, 2, SHAPE(1, 2), (float[]){1, 2});
    observe(r, 3, SHAPE(1, 2), (float[]){1, 2});
    assert_true(channel_ranges_get(r, 0, 1, &e));
    assert_int_equal(e.channels, 2);
    assert_true(e.min[0] == -2 && e.max[0] == 5 && e.min[1] == -7 && e.max[1] == 4);
    assert_true(channel_ranges_get(r, 1, -1, &e));
    assert_true(e.channels == 3 && e.min[0] == -4 && e.max[0] == 1 && e.min[2] == -6 && e.max[2] == 3);
    assert_false(channel_ranges_get(r, 1, 1, &e));
    assert_false(channel_ranges_get(r, 2, -1, &e));
    assert_false(channel_ranges_get(r, 3, 1, &e));
    observe(r, 1, SHAPE(1, 4), (float[]){1, 2, 3, 4}); /* another number of channels: none */
    assert_false(channel_ranges_get(r, 1, -1, &e));
    channel_ranges_free(r);
}

/* Room: half of the channel's width, at least an eighth of the widest. Groups read their own channels. */
static void test_reach(void **state)
{
    (void)state;
    const float min[4] = {0, 0, -8, 0}, max[4] = {16, 1, -4, 0};
    const struct channel_extent seen = {min, max, 4};
    struct code_reach reach;
    struct sum_order order;
    assert_int_equal(code_reach_make(&reach, &seen, 0.1, 10, 0, NULL), 0);
    assert_int_equal(reach.channel[0], 250); /* (16 + 8) / 0.1 + 10 */
    assert_int_equal(reach.channel[1], 40);  /* (1 + 2) / 0.1 + 10 */
    assert_int_equal(reach.channel[2], 10);  /* below zero: padding still has the zero point */
    assert_int_equal(reach.channel[3], 30);
    /* two groups of two input channels each, three outputs a group */
    assert_int_equal(sum_order_make(&order, &SHAPE(6, 2, 1, 3), 0, NULL), 0);
    assert_int_equal(order.inner, 2);
    const int64_t want[6] = {0, 3, 1, 4, 2, 5}; /* positions outermost, channels innermost */
    for (int k = 0; k < 6; k++) {
        assert_int_equal(order.offset[k], want[k]);
        assert_int_equal(reach_at(&reach, &order, 2, k), k % 2 ? 40 : 250);
        assert_int_equal(reach_at(&reach, &order, 3, k), k % 2 ? 30 : 10);
    }
    assert_int_equal(reach_at(&(struct code_reach){0}, &order, 0, 0), 255);
    sum_order_fini(&order);
    code_reach_fini(&reach);
    assert_int_equal(code_reach_make(&reach, &seen, 0.1, -118, -128, NULL), 0); /* signed codes: as unsigned ones */
    assert_int_equal(reach.channel[1], 40);
    code_reach_fini(&reach);
}

/* What is added in 32 bits is exact everywhere, as long as it fits into 32 bits. */
static void test_wide_sums(void **state)
{
    (void)state;
    static const struct {
        int64_t sum;
        const char *said;
    } cases[] = {
        {(int64_t)1 << 30, "every CPU"}, {INT32_MAX, "every CPU"}, {(int64_t)INT32_MAX + 1, "no CPU for certain"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct pair_proof proof = {.adds_in_32 = true, .channels = 1, .accumulator = cases[i].sum};
        json_t *facts = json_object();
        pair_proof_report(facts, &proof, ISA_PORTABLE);
        assert_int_equal(json_integer_value(json_object_get(facts, "int32_sum")), cases[i].sum);
        assert_true(json_real_value(json_object_get(facts, "int32_sum_share")) == (double)cases[i].sum / 2147483648.0);
        assert_true(
            strncmp(json_string_value(json_object_get(facts, "exact_on")), cases[i].said, strlen(cases[i].said)) == 0);
        json_decref(facts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranges), cmocka_unit_test(test_reach),
                                       cmocka_unit_test(test_wide_sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
