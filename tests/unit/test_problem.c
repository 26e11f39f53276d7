/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/problem.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "(none)";
}

static void test_document(void **state)
{
    (void)state;
    struct err err = {ERR_RECIPE, "Step 0 is wrong."};
    struct faults faults = {0};
    faults_add(&faults, "/recipe/steps/0/sparsity", "must be below 1");
    faults_add(&faults, "?limit", "must be a number");
    json_t *problem = problem_json(&err, &faults, "/v1/jobs", "req_1");
    assert_string_equal(text_of(problem, "type"), "urn:pared:problem:recipe_invalid");
    assert_string_equal(text_of(problem, "code"), "recipe_invalid");
    assert_string_equal(text_of(problem, "title"), "Recipe is invalid");
    assert_string_equal(text_of(problem, "detail"), "Step 0 is wrong.");
    assert_string_equal(text_of(problem, "instance"), "/v1/jobs");
    assert_string_equal(text_of(problem, "request_id"), "req_1");
    assert_int_equal(json_integer_value(json_object_get(problem, "status")), 422);
    const json_t *list = json_object_get(problem, "errors");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(text_of(json_array_get(list, 0), "pointer"), "/recipe/steps/0/sparsity");
    assert_string_equal(text_of(json_array_get(list, 0), "detail"), "must be below 1");
    assert_string_equal(text_of(json_array_get(list, 1), "parameter"), "limit");
    json_decref(problem);
    faults_fini(&faults);
}

/* Every code gives a whole document; what happened inside stays inside. */
static void test_codes(void **state)
{
    (void)state;
    static const enum err_code hidden[] = {ERR_INTERNAL, ERR_IO, ERR_STORE};
    for (int code = 0; code < ERR_COUNT; code++) {
        struct err err = {(enum err_code)code, "secret /var/lib/pared/objects"};
        json_t *problem = problem_json(&err, NULL, NULL, NULL);
        long long status = json_integer_value(json_object_get(problem, "status"));
        assert_true(status >= 400 && status < 600);
        assert_true(strlen(text_of(problem, "detail")) > 3);
        assert_null(json_object_get(problem, "errors"));
        bool secret = code == ERR_NONE;
        for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
            secret = secret || hidden[i] == (enum err_code)code;
        assert_int_equal(strstr(text_of(problem, "detail"), "secret") == NULL, secret);
        json_decref(problem);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_document), cmocka_unit_test(test_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
