/* SPDX-License-Identifier: Apache-2.0
 * What the audit log holds, line by line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/file.h"
#include "server/audit.h"
#include "server/http.h"

static struct http_record record_of(const char *method, int status, const char *path)
{
    return (struct http_record){.method = method,
                                .sent_method = method,
                                .route = "/v1/jobs/{id}",
                                .request_id = "req_1",
                                .status = status,
                                .path = path,
                                .owner = "alice",
                                .key_id = "key_x",
                                .client = "10.0.0.1",
                                .error = status >= 400 ? ERR_FORBIDDEN : ERR_NONE};
}

static json_t *lines_of(const char *path)
{
    struct err err = {0};
    char *text = file_read(path, 1 << 20, NULL, &err);
    json_t *lines = json_array();
    assert_non_null(text);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        assert_non_null(object); /* whatever was in the path: one object a line */
        json_array_append_new(lines, object);
    }
    free(text);
    return lines;
}

static const char *text_of(const json_t *lines, size_t i, const char *key)
{
    return json_string_value(json_object_get(json_array_get(lines, i), key));
}

static void changes_and_refusals(void **state)
{
    static const struct {
        const char *method;
        int status;
        const char *outcome; /* NULL: no line */
    } rows[] = {{"GET", 200, NULL},       {"HEAD", 200, NULL},        {"GET", 404, NULL},        {"OPTIONS", 204, NULL},
                {"POST", 202, "done"},    {"DELETE", 204, "done"},    {"PATCH", 409, "failed"},  {"PUT", 500, "failed"},
                {"GET", 401, "refused"},  {"GET", 403, "refused"},    {"HEAD", 429, "refused"},  {"POST", 403, "refused"}};
    struct err err = {0};
    struct audit *audit;
    char path[500], *dir = file_temp_dir("audit", &err);
    (void)state;
    snprintf(path, sizeof path, "%s/log", dir);
    assert_int_equal(audit_open(&audit, path, &err), 0);
    size_t n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_record r = record_of(rows[i].method, rows[i].status, "/v1/jobs/\"\n{\xff");
        audit_write(audit, &r);
    }
    json_t *lines = lines_of(path);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!rows[i].outcome)
            continue;
        assert_string_equal(text_of(lines, n, "method"), rows[i].method);
        assert_string_equal(text_of(lines, n, "outcome"), rows[i].outcome);
        assert_string_equal(text_of(lines, n, "path"), "/v1/jobs/\"\n{\xef\xbf\xbd");
        assert_string_equal(text_of(lines, n, "client"), "10.0.0.1");
        n++;
    }
    assert_int_equal(json_array_size(lines), n);
    json_decref(lines);
    /* rotation: what was moved away keeps its lines */
    char moved[520];
    snprintf(moved, sizeof moved, "%s.1", path);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(audit_reopen(audit, &err), 0);
    struct http_record r = record_of("POST", 202, "/v1/jobs");
    audit_write(audit, &r);
    lines = lines_of(path);
    assert_int_equal(json_array_size(lines), 1);
    json_decref(lines);
    lines = lines_of(moved);
    assert_int_equal(json_array_size(lines), n);
    json_decref(lines);
    audit_close(audit);
    file_remove_tree(dir, &err);
    free(dir);
}

static void none_and_refused_files(void **state)
{
    struct err err = {0};
    struct audit *audit;
    struct http_record r = record_of("POST", 202, "/v1/jobs");
    char path[500], *dir = file_temp_dir("audit", &err);
    (void)state;
    assert_int_equal(audit_open(&audit, "", &err), 0);
    assert_null(audit);
    audit_write(audit, &r);
    assert_int_equal(audit_reopen(audit, &err), 0);
    audit_close(audit);
    assert_int_equal(audit_open(&audit, "/nonexistent/audit", &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    err = (struct err){0};
    snprintf(path, sizeof path, "%s/link", dir); /* a link could lead anywhere */
    assert_int_equal(symlink("/tmp/elsewhere", path), 0);
    assert_int_equal(audit_open(&audit, path, &err), -1);
    file_remove_tree(dir, &err);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changes_and_refusals), cmocka_unit_test(none_and_refused_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
