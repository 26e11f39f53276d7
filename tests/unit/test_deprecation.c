/* SPDX-License-Identifier: Apache-2.0
 * The headers of calls that will go. The first case is the example of RFC 9745 and RFC 8594 in their forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/routes.h"
#include "server/deprecation.h"

static void texts_of_a_row(void **state)
{
    (void)state;
    const struct route_end end = {"2023-06-30", "2024-12-31", "/v1/jobs"};
    struct deprecation out;
    assert_true(deprecation_of(&end, &out));
    assert_string_equal(out.deprecation, "@1688083200"); /* date -ud 2023-06-30 +%s */
    assert_string_equal(out.sunset, "Tue, 31 Dec 2024 00:00:00 GMT");
    assert_string_equal(out.link, "</v1/jobs>; rel=\"successor-version\"");
}

static void no_row_no_headers(void **state)
{
    (void)state;
    static const struct route_end none[] = {{0}, {"2026-11-23", NULL, NULL}, {"soon", "2026-11-23", NULL}, {NULL, "2026-11-23", NULL}};
    struct deprecation out;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(deprecation_of(&none[i], &out));
}

/* A row that is to tell something tells it: dates that are dates, in order, and where to go instead. */
static void rows_of_the_table_are_whole(void **state)
{
    (void)state;
    for (const struct route *r = api_routes(); r->method; r++) {
        struct deprecation out;
        if (!r->end.deprecated)
            continue;
        assert_true(deprecation_of(&r->end, &out));
        assert_non_null(r->end.successor);
        assert_true(strcmp(r->end.deprecated, r->end.sunset) < 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts_of_a_row), cmocka_unit_test(no_row_no_headers),
                                       cmocka_unit_test(rows_of_the_table_are_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
