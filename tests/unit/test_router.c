/* SPDX-License-Identifier: Apache-2.0
 * The lookups, on a small table; and the true table: every row is found by its own path, and is well-formed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/routes.h"
#include "server/guard.h"

static int nothing(struct req *req, struct res *res, struct err *err)
{
    (void)req;
    (void)res;
    (void)err;
    return 0;
}

static const struct route rows[] = {
    {"GET", "/", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"GET", "/v1/jobs", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"POST", "/v1/jobs", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"GET", "/v1/jobs/{id}", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"DELETE", "/v1/jobs/{id}", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"POST", "/v1/jobs/all", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {"GET", "/v1/jobs/{id}/artifacts/{name}", nothing, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", ""},
    {0},
};

static const struct {
    const char *method, *path;
    int row; /* -1: none */
    const char *allow, *first, *second;
} cases[] = {
    {"GET", "/", 0, "GET, HEAD, OPTIONS", NULL, NULL},
    {"HEAD", "/", 0, "GET, HEAD, OPTIONS", NULL, NULL},
    {"POST", "/", -1, "GET, HEAD, OPTIONS", NULL, NULL},
    {"GET", "/v1/jobs", 1, "GET, HEAD, POST, OPTIONS", NULL, NULL},
    {"POST", "/v1/jobs", 2, "GET, HEAD, POST, OPTIONS", NULL, NULL},
    {"PATCH", "/v1/jobs", -1, "GET, HEAD, POST, OPTIONS", NULL, NULL},
    {"get", "/v1/jobs", -1, "GET, HEAD, POST, OPTIONS", NULL, NULL},
    {"GET", "/v1/jobs/", -1, "", NULL, NULL},
    {"GET", "/v1", -1, "", NULL, NULL},
    {"GET", "/v1/jobs/job_1", 3, "GET, HEAD, DELETE, OPTIONS", "job_1", NULL},
    {"DELETE", "/v1/jobs/job_1", 4, "GET, HEAD, DELETE, OPTIONS", "job_1", NULL},
    {"POST", "/v1/jobs/all", 5, "POST, OPTIONS", NULL, NULL},
    {"GET", "/v1/jobs/all", -1, "POST, OPTIONS", NULL, NULL},
    {"GET", "/v1/jobs/j/artifacts/a.b", 6, "GET, HEAD, OPTIONS", "j", "a.b"},
    {"GET", "/v1/jobs//artifacts/a.b", -1, "", NULL, NULL},
    {"OPTIONS", "/v1/jobs", -1, "GET, HEAD, POST, OPTIONS", NULL, NULL},
};

static const struct route *look(const struct router *router, const char *method, const char *text,
                                const char *param[ROUTE_PARAMS], char allow[ROUTE_ALLOW], struct arena *arena)
{
    struct route_path path;
    struct query query;
    const char *raw, *authority;
    struct err err = {0};
    assert_int_equal(guard_target(arena, text, &path, &query, &raw, &authority, &err), 0);
    return router_find(router, method, &path, param, allow);
}

static void test_find(void **state)
{
    (void)state;
    struct router *router = router_new(rows);
    assert_non_null(router);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arena *arena = arena_new();
        const char *param[ROUTE_PARAMS] = {0};
        char allow[ROUTE_ALLOW];
        const struct route *row = look(router, cases[i].method, cases[i].path, param, allow, arena);
        if (row != (cases[i].row < 0 ? NULL : &rows[cases[i].row]))
            fail_msg("%s %s: wrong row", cases[i].method, cases[i].path);
        assert_string_equal(allow, cases[i].allow);
        if (cases[i].first)
            assert_string_equal(param[0], cases[i].first);
        if (cases[i].second)
            assert_string_equal(param[1], cases[i].second);
        arena_free(arena);
    }
    router_free(router);
}

static void test_table(void **state)
{
    (void)state;
    struct router *router = router_new(api_routes());
    assert_non_null(router);
    for (const struct route *row = api_routes(); row->method; row++) {
        struct arena *arena = arena_new();
        const char *param[ROUTE_PARAMS];
        char allow[ROUTE_ALLOW];
        if (look(router, row->method, row->path, param, allow, arena) != row)
            fail_msg("%s %s is hidden by another row", row->method, row->path);
        assert_non_null(strstr(allow, "OPTIONS"));
        assert_non_null(row->handler);
        assert_true(row->summary[0] != 0);
        if (row->body == BODY_UPLOAD)
            assert_int_equal(row->lane, LANE_SLOW); /* it waits for a child */
        if (row->lane == LANE_INLINE)
            assert_int_equal(row->body, BODY_NONE); /* nothing that could block */
        bool signed_link = strncmp(row->path, "/v1/links/", 10) == 0;
        if (strncmp(row->path, "/v1/", 4) == 0)
            assert_true(row->auth != AUTH_OPEN || signed_link);
        if (row->auth == AUTH_MODELS_READ)
            assert_true(strcmp(row->method, "GET") == 0 || strcmp(row->method, "HEAD") == 0);
        arena_free(arena);
    }
    router_free(router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_find), cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
