/* SPDX-License-Identifier: Apache-2.0
 * core/base/utf8.c against RFC 3629: what is a character, and what the bytes that are none become. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/utf8.h"

static const struct {
    const char *in, *json, *mended;
} cases[] = {
    {"plain", "plain", "plain"},
    {"", "", ""},
    {"caf\xc3\xa9", "caf\xc3\xa9", "caf\xc3\xa9"},
    {"a\xff z", "a\xef\xbf\xbd z", "a? z"},
    {"cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd", "cut ??"},
    {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd", "??"},
    {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
    {"x\xed\xa0\x80y", "x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdy", "x???y"},
    {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "????"},
};

static void test_mending(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char copy[64];
        json_t *text = utf8_json(cases[i].in);
        assert_non_null(text);
        assert_string_equal(json_string_value(text), cases[i].json);
        json_decref(text);
        snprintf(copy, sizeof copy, "%s", cases[i].in);
        utf8_mend(copy);
        assert_string_equal(copy, cases[i].mended);
        assert_true(utf8_valid(copy, strlen(copy)));
        assert_int_equal(utf8_valid(cases[i].in, strlen(cases[i].in)), strcmp(cases[i].in, cases[i].json) == 0);
    }
    assert_true(json_is_null(utf8_json(NULL)));
    assert_true(utf8_valid("a\0b", 3)); /* NUL is a character */
}

/* Every code point as RFC 3629 writes it is one character, all of it; surrogates are none. */
static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x110000; c++) {
        char text[4];
        size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
        text[0] = (char)(lead[len] | c >> 6 * (len - 1));
        for (size_t k = 1; k < len; k++)
            text[k] = (char)(0x80 | (c >> 6 * (len - 1 - k) & 0x3f));
        bool is_character = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
        if (utf8_character(text, len) != (is_character ? len : 0) || utf8_character(text, len - 1) != 0)
            fail_msg("U+%04X", (unsigned)c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mending), cmocka_unit_test(test_every_code_point)};
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
