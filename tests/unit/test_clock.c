/* SPDX-License-Identifier: Apache-2.0
 * Times in and out; the expected milliseconds are those of GNU date and of RFC 3339's own examples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/clock.h"

static const struct {
    const char *text;
    int64_t ms;
} good[] = {
    {"1970-01-01T00:00:00Z", 0},
    {"1970-01-01", 0},
    {"1985-04-12T23:20:50.52Z", INT64_C(482196050520)},
    {"1996-12-19T16:39:57-08:00", INT64_C(851042397000)},
    {"1990-12-31T23:59:60Z", INT64_C(662688000000)},
    {"1937-01-01T12:00:27.87+00:20", -1},
    {"2026-11-23T07:30:00Z", INT64_C(1795419000000)},
    {"2026-11-23t07:30:00z", INT64_C(1795419000000)},
    {"2026-11-23 07:30:00Z", INT64_C(1795419000000)},
    {"2026-11-23T09:30:00+02:00", INT64_C(1795419000000)},
    {"2026-11-23T09:30:00 02:00", INT64_C(1795419000000)},
    {"2026-11-23T07:30:00.1239999Z", INT64_C(1795419000123)},
    {"2024-02-29", INT64_C(1709164800000)},
    {"9999-12-31T23:59:59.999Z", INT64_C(253402300799999)},
};
static const char *const bad[] = {
    "", "x", "2026", "2026-11", "2026-11-", "2026-13-01", "2026-00-01", "2026-02-30", "2023-02-29", "2026-11-31",
    "2026-11-23T", "2026-11-23T07:30", "2026-11-23T07:30:00", "2026-11-23T24:00:00Z", "2026-11-23T07:60:00Z",
    "2026-11-23T07:30:61Z", "2026-11-23T07:30:00.Z", "2026-11-23T07:30:00Zx", "2026-11-23T07:30:00+2:00",
    "2026-11-23T07:30:00+24:00", "-2026-11-23", "20261123", "+2026-11-23", "2026-11-23T07:30:00Z ", " 2026-11-23",
    "1969-12-31",
};

static void times_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        int64_t ms = -1;
        bool ok = clock_parse(good[i].text, &ms);
        if (good[i].ms < 0)
            assert_false(ok); /* before 1970 */
        else if (!ok || ms != good[i].ms)
            fail_msg("%s: %d, %lld", good[i].text, ok, (long long)ms);
    }
}

static void other_texts_are_none(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t ms;
        if (clock_parse(bad[i], &ms))
            fail_msg("'%s' was read as %lld", bad[i], (long long)ms);
    }
}

static void there_and_back(void **state)
{
    (void)state;
    for (int64_t ms = 1; ms < INT64_C(253402300800000); ms = ms * 3 + 17) {
        char text[CLOCK_RFC3339];
        int64_t again;
        clock_rfc3339(ms, text);
        assert_true(clock_parse(text, &again));
        assert_int_equal(again, ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(times_are_read), cmocka_unit_test(other_texts_are_none),
                                       cmocka_unit_test(there_and_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
