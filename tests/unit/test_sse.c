/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/sse.h"

static const struct {
    int64_t id;
    const char *type, *data, *text;
} events[] = {
    {1, "state", "{\"a\":1}", "id: 1\nevent: state\ndata: {\"a\":1}\n\n"},
    {INT64_C(9007199254740993), "log", "x", "id: 9007199254740993\nevent: log\ndata: x\n\n"},
    {0, "end", "{}", "event: end\ndata: {}\n\n"},
    {2, "log", "", "id: 2\nevent: log\ndata: \n\n"},
    {2, "log", "a\nb", "id: 2\nevent: log\ndata: a\ndata: b\n\n"},
    {2, "log", "a\r\nb\rc", "id: 2\nevent: log\ndata: a\ndata: b\ndata: c\n\n"},
    {2, "log", "a\n\nid: 7\n", "id: 2\nevent: log\ndata: a\ndata: \ndata: id: 7\ndata: \n\n"},
};

static void test_events(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        struct buf out = {0};
        sse_event(&out, events[i].id, events[i].type, events[i].data);
        assert_string_equal(out.data, events[i].text);
        buf_fini(&out);
    }
}

static void test_others(void **state)
{
    (void)state;
    struct buf out = {0};
    sse_retry(&out, 2000);
    sse_comment(&out, "ping");
    assert_string_equal(out.data, "retry: 2000\n\n: ping\n\n");
    buf_fini(&out);
}

static void test_ids(void **state)
{
    static const char *const wrong[] = {"", " ", "-1", "+1", "1 ", " 1", "1.5", "0x1", "x", "1234567890123456789"};
    int64_t id = -1;
    (void)state;
    assert_true(sse_parse_id("0", &id) && id == 0);
    assert_true(sse_parse_id("17", &id) && id == 17);
    assert_true(sse_parse_id("123456789012345678", &id) && id == INT64_C(123456789012345678));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (sse_parse_id(wrong[i], &id))
            fail_msg("'%s' was taken", wrong[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_events), cmocka_unit_test(test_others),
                                       cmocka_unit_test(test_ids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
