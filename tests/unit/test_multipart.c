/* SPDX-License-Identifier: Apache-2.0
 * Every body is fed whole and in pieces of every size from 1 to 40 bytes: what comes out must not depend on the pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/multipart_text.h"

/* What came out, as text; NULL when refused. */
static char *parse(const char *type, const char *body, size_t len, size_t piece, struct err *err)
{
    struct buf out = {0};
    int rc = multipart_text(type, body, len, piece, &out, err);
    char *text = buf_take(&out);
    if (rc == 0)
        return text;
    free(text);
    return NULL;
}

static const char type[] = "multipart/form-data; boundary=XY";
#define HEAD(name) "Content-Disposition: form-data; name=\"" name "\"\r\n\r\n"

static const struct {
    const char *body, *wanted;
} good[] = {
    {"--XY\r\n" HEAD("a") "hello\r\n--XY--\r\n", "<a|>hello;"},
    {"--XY\r\n" HEAD("a") "hello\r\n--XY--", "<a|>hello;"},
    {"--XY\r\n" HEAD("a") "\r\n--XY--\r\n", "<a|>;"},
    {"--XY\r\n" HEAD("a") "\r\n\r\n--XY--\r\n", "<a|>\r\n;"},
    {"preamble\r\n--XY\r\n" HEAD("a") "1\r\n--XY\r\n" HEAD("b") "2\r\n--XY--epilogue", "<a|>1;<b|>2;"},
    {"--XY\r\n" HEAD("a") "\r\n--X\r\n--XZ\r\r\n-\r\n--XY--", "<a|>\r\n--X\r\n--XZ\r\r\n-;"},
    {"--XY  \r\nContent-Type: x/y\r\nCONTENT-DISPOSITION: form-data; filename=\"m \\\"1\\\".onnx\"; "
     "name=a\r\n\r\nz\r\n--XY--",
     "<a|m \"1\".onnx>z;"},
    {"--XY\r\nContent-Disposition: form-data; name=\"q%22q\"; filename=\"C:\\x\"\r\n\r\nz\r\n--XY--", "<q\"q|C:\\x>z;"},
    {"--XY--\r\n", ""},
    {"--XY\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: binary\r\n\r\nz\r\n--XY--",
     "<a|>z;"},
};

static void test_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        for (size_t piece = 1; piece <= 40; piece++) {
            struct err err = {0};
            char *out = parse(type, good[i].body, strlen(good[i].body), piece, &err);
            if (!out)
                fail_msg("body %zu in pieces of %zu: %s", i, piece, err.msg);
            assert_string_equal(out, good[i].wanted);
            free(out);
        }
    }
}

/* RFC 2046: an empty body part may end its header block with the delimiter's own line end. */
static void test_empty_part(void **state)
{
    (void)state;
    static const char body[] = "--XY\r\n" HEAD("a") "--XY--";
    for (size_t piece = 1; piece <= 40; piece++) {
        struct err err = {0};
        char *out = parse(type, body, sizeof body - 1, piece, &err);
        assert_non_null(out);
        assert_string_equal(out, "<a|>;");
        free(out);
    }
}

static const struct {
    const char *type, *body, *sentence;
} bad[] = {
    {"multipart/form-data", "", "boundary"},
    {"multipart/form-data; boundary=", "", "boundary"},
    {"multipart/form-data; boundary=\"unclosed", "", "boundary"},
    {"multipart/form-data; boundary=01234567890123456789012345678901234567890123456789012345678901234567890", "",
     "boundary"},
    {type, "", "closing boundary"},
    {type, "hello", "closing boundary"},
    {type, "--XY\r\n" HEAD("a") "hello", "closing boundary"},
    {type, "--XY\r\n" HEAD("a") "hello\r\n--XY", "closing boundary"},
    {type, "--XYZ\r\n", "neither a new line"},
    {type, "--XY\r\nContent-Type: a/b\r\n\r\nz\r\n--XY--", "part 1 needs"},
    {type, "--XY\r\n\r\nz\r\n--XY--", "part 1 needs"},
    {type, "--XY\r\nContent-Disposition: attachment; name=a\r\n\r\nz\r\n--XY--", "part 1 needs"},
    {type, "--XY\r\nContent-Disposition: form-data; name=\"a\r\n\r\nz\r\n--XY--", "part 1 needs"},
    {type, "--XY\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\nz\r\n--XY--",
     "Content-Transfer-Encoding"},
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (size_t piece = 1; piece <= 40; piece += 3) {
            struct err err = {0};
            assert_null(parse(bad[i].type, bad[i].body, strlen(bad[i].body), piece, &err));
            assert_int_equal(err.code, ERR_BAD_REQUEST);
            if (!strstr(err.msg, bad[i].sentence))
                fail_msg("body %zu: '%s' does not speak of '%s'", i, err.msg, bad[i].sentence);
        }
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct buf body = {0};
    struct err err = {0};
    buf_puts(&body, "--XY\r\nContent-Disposition: form-data; name=a\r\nX-Long: ");
    for (int i = 0; i < 1000; i++)
        buf_puts(&body, "0123456789");
    assert_null(parse(type, body.data, body.len, 1000, &err));
    assert_non_null(strstr(err.msg, "8192"));
    buf_fini(&body);
    err = (struct err){0};
    for (int i = 0; i <= MULTIPART_PARTS; i++)
        buf_puts(&body, "--XY\r\n" HEAD("a") "\r\n");
    assert_null(parse(type, body.data, body.len, 4096, &err));
    assert_non_null(strstr(err.msg, "1000 parts"));
    buf_fini(&body);
    err = (struct err){0};
    buf_puts(&body, "--XY\r\nContent-Disposition: form-data; name=\"");
    for (int i = 0; i < MULTIPART_NAME; i++)
        buf_puts(&body, "n");
    buf_puts(&body, "\"\r\n\r\nz\r\n--XY--");
    assert_null(parse(type, body.data, body.len, 4096, &err));
    assert_int_equal(err.code, ERR_BAD_REQUEST);
    buf_fini(&body);
}

static int refuse_data(void *arg, const char *bytes, size_t len, struct err *err)
{
    (void)arg;
    (void)bytes;
    (void)len;
    return err_set(err, ERR_DISK_FULL, "full");
}

static void test_sink_fails(void **state)
{
    (void)state;
    struct buf out = {0};
    struct err err = {0};
    struct multipart_sink sink = {multipart_text_begin, refuse_data, multipart_text_end, &out};
    struct multipart *m = multipart_new(type, &sink, &err);
    static const char body[] = "--XY\r\n" HEAD("a") "hello\r\n--XY--";
    assert_int_equal(multipart_feed(m, body, sizeof body - 1, &err), -1);
    assert_int_equal(err.code, ERR_DISK_FULL);
    multipart_free(m);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),   cmocka_unit_test(test_empty_part), cmocka_unit_test(test_bad),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_sink_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
