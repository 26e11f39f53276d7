/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/guard.h"

/* ---- header lines: "Name: value" with the colon where the parser of the HTTP library cut it */
static const struct {
    const char *name[4], *value[4], *version;
    const char *sentence; /* NULL: fine */
} requests[] = {
    {{"Host"}, {"localhost"}, "HTTP/1.1", NULL},
    {{"Host", "Content-Length"}, {"x", "5"}, "HTTP/1.1", NULL},
    {{"Host", "transfer-encoding"}, {"x", "Chunked"}, "HTTP/1.1", NULL},
    {{NULL}, {NULL}, "HTTP/1.0", NULL},
    {{NULL}, {NULL}, "HTTP/1.1", "needs a Host"},
    {{"Host", "HOST"}, {"a", "a"}, "HTTP/1.1", "Host is given 2 times"},
    {{"Host", "Content-Length", "content-length"}, {"x", "5", "6"}, "HTTP/1.1", "Content-Length is given 2 times"},
    {{"Host", "Content-Length", "Content-Length"}, {"x", "5", "5"}, "HTTP/1.1", "Content-Length is given 2 times"},
    {{"Host", "Content-Length", "Transfer-Encoding"}, {"x", "5", "chunked"}, "HTTP/1.1", "exclude each other"},
    {{"Host", "Content-Length "}, {"x", "5"}, "HTTP/1.1", "header name"},
    {{"Host", "Content\tLength"}, {"x", "5"}, "HTTP/1.1", "header name"},
    {{"Host", ""}, {"x", "5"}, "HTTP/1.1", "header name"},
    {{"Host", "X-\xc3\xa9"}, {"x", "5"}, "HTTP/1.1", "header name"},
    {{"Host", "Transfer-Encoding"}, {"x", "xchunked"}, "HTTP/1.1", "`chunked`"},
    {{"Host", "Transfer-Encoding"}, {"x", "gzip, chunked"}, "HTTP/1.1", "`chunked`"},
    {{"Host", "Transfer-Encoding", "Transfer-Encoding"}, {"x", "chunked", "chunked"}, "HTTP/1.1", "`chunked`"},
    {{"Host", "Content-Length"}, {"x", "-1"}, "HTTP/1.1", "decimal"},
    {{"Host", "Content-Length"}, {"x", "+5"}, "HTTP/1.1", "decimal"},
    {{"Host", "Content-Length"}, {"x", "5, 5"}, "HTTP/1.1", "decimal"},
    {{"Host", "Content-Length"}, {"x", ""}, "HTTP/1.1", "decimal"},
    {{"Host", "X"}, {"x", "a\x01b"}, "HTTP/1.1", "control"},
    {{"Host", "X-HTTP-Method-Override"}, {"x", "DELETE"}, "HTTP/1.1", "override"},
    {{"Host", "x-http-method"}, {"x", "DELETE"}, "HTTP/1.1", "override"},
    {{"Host", "X-Method-Override"}, {"x", "DELETE"}, "HTTP/1.1", "override"},
    {{"Host", "X-HTTP-Method-Overrides"}, {"x", "DELETE"}, "HTTP/1.1", NULL},
};

static void test_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        struct guard guard = {0};
        struct err err = {0};
        for (int k = 0; k < 4 && requests[i].name[k]; k++)
            guard_header(&guard, requests[i].name[k], strlen(requests[i].name[k]), requests[i].value[k],
                         strlen(requests[i].value[k]));
        int rc = guard_verdict(&guard, requests[i].version, &err);
        if (!requests[i].sentence) {
            assert_int_equal(rc, 0);
            continue;
        }
        assert_int_equal(rc, -1);
        assert_int_equal(err.code, ERR_BAD_REQUEST);
        if (!strstr(err.msg, requests[i].sentence))
            fail_msg("request %zu: '%s' does not speak of '%s'", i, err.msg, requests[i].sentence);
    }
}

static const struct {
    const char *raw;
    enum err_code code;
    const char *segments; /* joined by '|' */
    const char *query;    /* name=value joined by '&', decoded */
} targets[] = {
    {"/", ERR_NONE, "", ""},
    {"/v1/models", ERR_NONE, "v1|models", ""},
    {"/v1/models/", ERR_NONE, "v1|models|", ""},
    {"//", ERR_NONE, "|", ""},
    {"/v1/recipes/caf%C3%A9", ERR_NONE, "v1|recipes|caf\xc3\xa9", ""},
    {"/a%20b+c", ERR_NONE, "a b+c", ""},
    {"/v1/jobs?state=queued&limit=5", ERR_NONE, "v1|jobs", "state=queued&limit=5"},
    {"/v1/jobs?name=a%26b+c&flag&=x", ERR_NONE, "v1|jobs", "name=a&b c&flag=&=x"},
    {"/v1/jobs?a=1#frag", ERR_NONE, "v1|jobs", "a=1"},
    {"http://localhost:8080/healthz?x=1", ERR_NONE, "healthz", "x=1"},
    {"http://localhost", ERR_NONE, "", ""},
    {"/a%00b", ERR_NOT_FOUND, NULL, NULL},
    {"/a%2Fb", ERR_NOT_FOUND, NULL, NULL},
    {"/a%2fb", ERR_NOT_FOUND, NULL, NULL},
    {"/a%5Cb", ERR_NOT_FOUND, NULL, NULL},
    {"/v1/../healthz", ERR_NOT_FOUND, NULL, NULL},
    {"/v1/%2e%2E/healthz", ERR_NOT_FOUND, NULL, NULL},
    {"/v1/./healthz", ERR_NOT_FOUND, NULL, NULL},
    {"/%ff", ERR_NOT_FOUND, NULL, NULL},
    {"/%c0%af", ERR_NOT_FOUND, NULL, NULL},
    {"/%ed%a0%80", ERR_NOT_FOUND, NULL, NULL},
    {"/a%0d%0ab", ERR_NOT_FOUND, NULL, NULL},
    {"/1/2/3/4/5/6/7/8/9", ERR_NOT_FOUND, NULL, NULL},
    {"/a%2", ERR_BAD_REQUEST, NULL, NULL},
    {"/a%", ERR_BAD_REQUEST, NULL, NULL},
    {"/a%zz", ERR_BAD_REQUEST, NULL, NULL},
    {"/a?x=%00", ERR_BAD_REQUEST, NULL, NULL},
    {"/a?x=%f", ERR_BAD_REQUEST, NULL, NULL},
    {"/a?x=%ff", ERR_BAD_REQUEST, NULL, NULL},
    {"v1/models", ERR_BAD_REQUEST, NULL, NULL},
    {"*", ERR_BAD_REQUEST, NULL, NULL},
    {"", ERR_BAD_REQUEST, NULL, NULL},
};

/* One line or one byte more than is taken. */
static void test_sizes(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        struct guard lines = {0}, letters = {0};
        struct err err = {0};
        guard_header(&lines, "Host", 4, "x", 1);
        for (size_t i = 1; i < GUARD_HEADER_COUNT + more; i++)
            guard_header(&lines, "X", 1, "", 0);
        assert_int_equal(guard_verdict(&lines, "HTTP/1.1", &err), more ? -1 : 0);
        assert_int_equal(err.code, more ? ERR_HEADERS : ERR_NONE);
        err = (struct err){0};
        size_t room = GUARD_HEADER_BYTES - 9 - 5 + more; /* "Host: x" and "X: " with their line ends */
        char *text = malloc(room);
        assert_non_null(text);
        memset(text, 'y', room);
        guard_header(&letters, "Host", 4, "x", 1);
        guard_header(&letters, "X", 1, text, room);
        assert_int_equal(guard_verdict(&letters, "HTTP/1.1", &err), more ? -1 : 0);
        assert_int_equal(err.code, more ? ERR_HEADERS : ERR_NONE);
        free(text);
    }
}

static void test_targets(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        struct arena *arena = arena_new();
        struct route_path path;
        struct query query;
        struct err err = {0};
        const char *raw, *authority;
        int rc = guard_target(arena, targets[i].raw, &path, &query, &raw, &authority, &err);
        if (err.code != targets[i].code)
            fail_msg("target '%s': code %d (%s)", targets[i].raw, (int)err.code, err.msg);
        assert_int_equal(rc, err.code ? -1 : 0);
        if (rc == 0) {
            char text[400] = "";
            for (int k = 0; k < path.count; k++) {
                strcat(text, k ? "|" : "");
                strcat(text, path.segment[k]);
            }
            assert_string_equal(text, targets[i].segments);
            text[0] = 0;
            for (int k = 0; k < query.count; k++) {
                strcat(text, k ? "&" : "");
                strcat(text, query.at[k].name);
                strcat(text, "=");
                strcat(text, query.at[k].value);
            }
            assert_string_equal(text, targets[i].query);
        }
        arena_free(arena);
    }
}

static void test_host(void **state)
{
    (void)state;
    static const char *const listed[] = {"pared.example.com", NULL};
    const struct guard_names loopback = {true, NULL, NULL}, named = {true, listed, NULL}, open = {false, NULL, NULL},
                             closed = {false, listed, NULL};
    static const char *const good[] = {"localhost",   "LOCALHOST:8080", "127.0.0.1",
                                       "127.0.0.1:1", "[::1]",          "[::1]:65535"};
    static const char *const evil[] = {
        "evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "localhost:80:80", "localhost:x", "", ":80",
        "[::1",     "127.0.0.2",          "localhost:123456",   "user@localhost"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(guard_host(&loopback, good[i], NULL), 0);
    for (size_t i = 0; i < sizeof evil / sizeof evil[0]; i++) {
        struct err err = {0};
        assert_int_equal(guard_host(&loopback, evil[i], &err), -1);
        assert_int_equal(err.code, ERR_FORBIDDEN);
    }
    assert_int_equal(guard_host(&named, "pared.example.com:443", NULL), 0);
    assert_int_equal(guard_host(&loopback, "pared.example.com", NULL), -1);
    assert_int_equal(guard_host(&open, "anything.example.com", NULL), 0);
    assert_int_equal(guard_host(&closed, "anything.example.com", NULL), -1);
    assert_int_equal(guard_host(&closed, "pared.example.com", NULL), 0);
    assert_int_equal(guard_host(&closed, "127.0.0.1:8080", NULL), 0);
    assert_int_equal(guard_host(&closed, "10.1.2.3:8080", NULL), 0);
    assert_int_equal(guard_host(&closed, "[fd00::7]", NULL), 0);
    assert_int_equal(guard_host(&closed, "[fd00::x]", NULL), -1);
    assert_int_equal(guard_host(&closed, "10.1.2.3.example.com", NULL), -1);
    assert_int_equal(guard_host(&loopback, "10.1.2.3:8080", NULL), -1);
}

static void test_origin(void **state)
{
    (void)state;
    static const char *const origins[] = {"https://ci.example.com", NULL};
    const struct guard_names names = {true, NULL, origins};
    static const struct {
        const char *method, *origin, *site;
        int rc;
    } cases[] = {
        {"POST", NULL, NULL, 0},
        {"POST", "http://localhost:8080", "same-origin", 0},
        {"POST", "http://localhost:8081", NULL, -1},
        {"POST", "http://evil.com", NULL, -1},
        {"POST", "null", NULL, -1},
        {"PUT", "http://evil.com", NULL, -1},
        {"DELETE", "http://evil.com", NULL, -1},
        {"GET", "http://evil.com", NULL, 0},
        {"POST", "https://ci.example.com", "cross-site", 0},
        {"POST", NULL, "cross-site", -1},
        {"POST", NULL, "same-site", -1},
        {"POST", NULL, "none", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(guard_origin(&names, cases[i].method, "localhost:8080", cases[i].origin, cases[i].site, NULL),
                         cases[i].rc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_origin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
