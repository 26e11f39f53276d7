/* SPDX-License-Identifier: Apache-2.0
 * The examples of RFC 9110, sections 13 and 14, and what hostile clients send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/range.h"

static const struct {
    const char *value;
    uint64_t size;
    enum range_kind kind;
    uint64_t first, len;
} cases[] = {
    {NULL, 10000, RANGE_WHOLE, 0, 0},
    {"bytes=0-499", 10000, RANGE_PART, 0, 500},
    {"bytes=500-999", 10000, RANGE_PART, 500, 500},
    {"bytes=-500", 10000, RANGE_PART, 9500, 500},
    {"bytes=9500-", 10000, RANGE_PART, 9500, 500},
    {"bytes=0-", 10000, RANGE_PART, 0, 10000},
    {"bytes=0-0", 10000, RANGE_PART, 0, 1},
    {"bytes=9999-9999", 10000, RANGE_PART, 9999, 1},
    {"bytes=9999-20000", 10000, RANGE_PART, 9999, 1},
    {"Bytes= 0-499", 10000, RANGE_PART, 0, 500},
    {"bytes=-20000", 10000, RANGE_PART, 0, 10000},
    {"bytes=10000-", 10000, RANGE_BEYOND, 0, 0},
    {"bytes=-0", 10000, RANGE_BEYOND, 0, 0},
    {"bytes=0-", 0, RANGE_BEYOND, 0, 0},
    {"bytes=-5", 0, RANGE_BEYOND, 0, 0},
    {"bytes=5-4", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=0-1,3-4", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=a-b", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=-", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=0-499x", 10000, RANGE_WHOLE, 0, 0},
    {"items=0-5", 10000, RANGE_WHOLE, 0, 0},
    {"bytes=0-99999999999999999999999", 10000, RANGE_PART, 0, 10000},
    {"bytes=18446744073709551615-", 10000, RANGE_BEYOND, 0, 0},
    {"bytes=0-18446744073709551615", 10000, RANGE_PART, 0, 10000},
    {"bytes=99999999999999999999999-", 10000, RANGE_BEYOND, 0, 0},
    {"bytes=-99999999999999999999999", 10000, RANGE_PART, 0, 10000},
    {"bytes=99999999999999999999999-88888888888888888888888888", 10000, RANGE_BEYOND, 0, 0},
};

static void test_range(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t first = 0, len = 0;
        enum range_kind kind = range_parse(cases[i].value, cases[i].size, &first, &len);
        if (kind != cases[i].kind)
            fail_msg("'%s' of %llu: kind %d", cases[i].value, (unsigned long long)cases[i].size, (int)kind);
        if (kind != RANGE_PART)
            continue;
        assert_int_equal(first, cases[i].first);
        assert_int_equal(len, cases[i].len);
    }
}

static void test_etag(void **state)
{
    (void)state;
    static const struct {
        const char *header, *etag;
        bool weak, found;
    } tags[] = {
        {NULL, "\"a\"", true, false},
        {"\"a\"", "\"a\"", false, true},
        {"\"a\", \"b\"", "\"b\"", false, true},
        {"\"a\",\"b\"", "\"c\"", true, false},
        {"*", "\"a\"", false, true},
        {"W/\"a\"", "\"a\"", true, true},
        {"W/\"a\"", "\"a\"", false, false},
        {"\"a\"", "W/\"a\"", true, true},
        {"W/\"v1\"", "W/\"v1\"", true, true},
        {"a", "\"a\"", true, false},
        {"\"a", "\"a\"", true, false},
        {"", "\"a\"", true, false},
        {"\"ab\"", "\"a\"", true, false},
        {", ,\"x,y\"", "\"x,y\"", false, true},
    };
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        assert_int_equal(etag_listed(tags[i].header, tags[i].etag, tags[i].weak), tags[i].found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_range), cmocka_unit_test(test_etag)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
