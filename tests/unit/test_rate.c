/* SPDX-License-Identifier: Apache-2.0
 * The token bucket with a clock of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/rate.h"

static int take_all(struct rate *rate, int64_t per_s, double now)
{
    struct rate_view view;
    int n = 0;
    while (rate_take(rate, per_s, now, &view))
        n++;
    return n;
}

static void a_full_bucket_then_an_even_rate(void **state)
{
    struct rate rate = {0};
    struct rate_view view;
    (void)state;
    assert_true(rate_take(&rate, 3, 1000, &view));
    assert_int_equal(view.quota, 30);
    assert_int_equal(view.left, 29);
    assert_int_equal(view.reset_s, 1); /* a third of a second, rounded up */
    assert_int_equal(view.retry_s, 0);
    assert_int_equal(take_all(&rate, 3, 1000), 29);
    assert_false(rate_take(&rate, 3, 1000, &view));
    assert_int_equal(view.left, 0);
    assert_int_equal(view.retry_s, 1);
    assert_int_equal(view.reset_s, 10);
    assert_int_equal(take_all(&rate, 3, 1002), 6);
    /* refusals cost nothing: over 100 s exactly the rate goes through, however often is asked */
    int n = 0;
    for (int i = 1; i <= 10000; i++)
        n += rate_take(&rate, 3, 1002 + i * 0.01, &view);
    assert_in_range(n, 299, 300);
    assert_int_equal(take_all(&rate, 3, 5000), 30); /* never more than full */
}

static void no_limit_and_odd_clocks(void **state)
{
    struct rate rate = {0};
    struct rate_view view;
    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(rate_take(&rate, 0, 5, &view));
    assert_int_equal(view.quota, 0);
    assert_int_equal(take_all(&rate, 1, 100), 10);
    assert_false(rate_take(&rate, 1, 50, &view)); /* back: nothing is given, nothing is lost */
    assert_int_equal(take_all(&rate, 1, 51), 1);
    assert_true(rate_take(&rate, 1000, 51.001, &view)); /* another limit: the new quota counts */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_full_bucket_then_an_even_rate),
                                       cmocka_unit_test(no_limit_and_odd_clocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
