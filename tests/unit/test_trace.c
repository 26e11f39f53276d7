/* SPDX-License-Identifier: Apache-2.0
 * Examples of www.w3.org/TR/trace-context 3.2 and their damaged forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/trace.h"

#define ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static const struct {
    const char *text;
    bool valid;
} cases[] = {
    {"00-" ID "-" SPAN "-01", true},
    {"00-" ID "-" SPAN "-00", true},
    {"00-" ID "-" SPAN "-ff", true},
    {"cc-" ID "-" SPAN "-01", true},
    {"cc-" ID "-" SPAN "-01-what-the-future-holds", true},
    {"00-" ID "-" SPAN "-01-what-the-future-holds", false},
    {"cc-" ID "-" SPAN "-01.what-the-future-holds", false},
    {"ff-" ID "-" SPAN "-01", false},
    {"0-" ID "-" SPAN "-01", false},
    {"00-00000000000000000000000000000000-" SPAN "-01", false},
    {"00-" ID "-0000000000000000-01", false},
    {"00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01", false},
    {"00-" ID "-" SPAN "-0", false},
    {"00-" ID "-" SPAN "-", false},
    {"00-" ID "-" SPAN, false},
    {"00_" ID "-" SPAN "-01", false},
    {"00-" ID "_" SPAN "-01", false},
    {"00-" ID "-" SPAN "_01", false},
    {"00-" ID "-" SPAN "-0g", false},
    {"00-" ID "-" SPAN "-01 ", false},
    {" 00-" ID "-" SPAN "-01", false},
    {"00-.bf92f3577b34da6a3ce929d0e0e4736-" SPAN "-01", false},
    {"", false},
    {"00", false},
    {NULL, false},
};

static void test_valid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (trace_valid(cases[i].text) != cases[i].valid)
            fail_msg("%s", cases[i].text);
}

static void test_continued(void **state)
{
    struct trace trace;
    (void)state;
    trace_begin(&trace, "00-" ID "-" SPAN "-01");
    assert_string_equal(trace.id, ID);
    assert_true(trace_valid(trace.parent));
    assert_int_equal(strncmp(trace.parent, "00-" ID "-", 36), 0);
    assert_int_not_equal(strncmp(trace.parent + 36, SPAN, 16), 0);
    assert_string_equal(trace.parent + 53, "01");
    trace_begin(&trace, "cc-" ID "-" SPAN "-01-more");
    assert_string_equal(trace.id, ID);
    assert_int_equal(strncmp(trace.parent, "00-", 3), 0);
}

static void test_new(void **state)
{
    struct trace a, b;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].valid)
            continue;
        trace_begin(&a, cases[i].text);
        trace_begin(&b, cases[i].text);
        assert_true(trace_valid(a.parent));
        assert_int_equal(strncmp(a.parent + 3, a.id, 32), 0);
        assert_string_not_equal(a.id, b.id);
        assert_string_equal(a.parent + 53, "00");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_valid), cmocka_unit_test(test_continued),
                                       cmocka_unit_test(test_new)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
