/* SPDX-License-Identifier: Apache-2.0
 * The log: what is written for which level and format, ids of the scope, hostile text. Lines are read back through a
 * pipe in place of stderr; JSON lines by jansson. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/log.h"
#include "core/base/utf8.h"

static int ends[2], kept;
static char text[20000];

static void catch_stderr(void)
{
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    kept = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
}

/* What was logged since the call before, without the time at its start. */
static const char *said(void)
{
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    return n > 25 && text[0] != '{' ? text + 25 : text;
}

static void let_go(void)
{
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
    log_set_format(LOG_TEXT);
    log_set_level(LOG_INFO);
    log_enter(NULL);
}

static int setup(void **state)
{
    (void)state;
    catch_stderr();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    let_go();
    return 0;
}

static void levels(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    log_info("not this");
    log_debug("nor this");
    assert_string_equal(said(), "");
    log_error("this %d", 1);
    assert_string_equal(said(), "error this 1\n");
    assert_true(log_on(LOG_WARN) && !log_on(LOG_INFO));
}

static void scopes(void **state)
{
    (void)state;
    const struct log_scope outer = {.job_id = "job_1", .owner = "team a"}, inner = {.request_id = "req_2"};
    const struct log_scope *before = log_enter(&outer);
    assert_null(before);
    log_info("one");
    assert_string_equal(said(), "info one job=job_1 owner=\"team a\"\n");
    before = log_enter(&inner);
    log_info("two");
    assert_string_equal(said(), "info two request=req_2\n");
    log_enter(before);
    log_info("three");
    assert_string_equal(said(), "info three job=job_1 owner=\"team a\"\n");
}

static void hostile_text(void **state)
{
    (void)state;
    static const struct {
        const char *given, *written;
    } cases[] = {
        {"a\nb", "a\\nb"},
        {"a\r\tb", "a\\r\\tb"},
        {"\x1b[31mred", "\\x1b[31mred"},
        {"back\\slash", "back\\\\slash"},
        {"\x7f", "\\x7f"},
        {"caf\xc3\xa9 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xf0\x9f\x98\x80"},
        {"\xc3", "\\xc3"},
        {"\xc2\x9b" "31m", "\\xc2\\x9b31m"}, /* CSI as one C1 control */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* half a surrogate pair */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char want[100];
        log_info("%s", cases[i].given);
        snprintf(want, sizeof want, "info %s\n", cases[i].written);
        assert_string_equal(said(), want);
    }
}

static json_t *line_of(const char *message, const struct log_field *fields, int count)
{
    log_fields(LOG_INFO, message, fields, count);
    said();
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    json_error_t fault;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &fault);
    if (!json)
        fail_msg("%s: %s", fault.text, text);
    return json;
}

/* Random bytes, also as long as can be: every line is one JSON object that gives back the text's UTF-8 part. */
static void json_is_always_whole(void **state)
{
    (void)state;
    log_set_format(LOG_JSON);
    const struct log_scope scope = {"req_1", "job_1", "4bf92f3577b34da6a3ce929d0e0e4736", "o\"w\\ner\x01"};
    log_enter(&scope);
    srand(7);
    static char bytes[9000];
    for (int round = 0; round < 400; round++) {
        size_t len = round < 200 ? (size_t)round : (size_t)rand() % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (char)(round % 3 == 0 ? 1 + rand() % 31 : round % 3 == 1 ? 1 + rand() % 255 : '"');
        bytes[len < sizeof bytes ? len : sizeof bytes - 1] = 0;
        struct log_field fields[9];
        for (int i = 0; i < 9; i++)
            fields[i] = (struct log_field){.key = "abcdefghi" + i, .kind = LOG_FIELD_TEXT, .text = bytes};
        json_t *json = line_of(bytes, fields, 9);
        assert_string_equal(json_string_value(json_object_get(json, "level")), "info");
        if (round % 3 == 0 && len > 0 && len < 80)
            assert_string_equal(json_string_value(json_object_get(json, "message")), bytes);
        if (len < 80)
            assert_string_equal(json_string_value(json_object_get(json, "owner")), "o\"w\\ner\x01");
        json_decref(json);
    }
}

static void fields(void **state)
{
    (void)state;
    const struct log_field row[] = {{.key = "method", .kind = LOG_FIELD_TEXT, .text = "GET"},
                                    {.key = "route_id", .kind = LOG_FIELD_TEXT, .text = NULL},
                                    {.key = "status", .kind = LOG_FIELD_INT, .number = 200},
                                    {.key = "ms", .kind = LOG_FIELD_MS, .ms = 1.23456}};
    log_fields(LOG_INFO, "request", row, 4);
    assert_string_equal(said(), "info request method=GET status=200 ms=1.235\n");
    log_set_format(LOG_JSON);
    json_t *json = line_of("request", row, 4);
    assert_int_equal(json_integer_value(json_object_get(json, "status")), 200);
    assert_true(json_real_value(json_object_get(json, "ms")) == 1.235);
    assert_null(json_object_get(json, "route_id"));
    assert_int_equal(strlen(json_string_value(json_object_get(json, "time"))), 24);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels, setup, teardown),
        cmocka_unit_test_setup_teardown(scopes, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_text, setup, teardown),
        cmocka_unit_test_setup_teardown(json_is_always_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(fields, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
