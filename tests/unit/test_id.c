/* SPDX-License-Identifier: Apache-2.0
 * Ids: form, order, uniqueness, also from many threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>

#include "core/base/clock.h"
#include "server/id.h"

enum { THREADS = 4, EACH = 5000 };
static char ids[THREADS][EACH][ID_SIZE];

static void *make(void *arg)
{
    char(*mine)[ID_SIZE] = arg;
    for (int i = 0; i < EACH; i++)
        id_new(mine[i], "job");
    return NULL;
}

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void later_ids_sort_later(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, make, ids[t]), 0);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++)
        for (int i = 0; i < EACH; i++) {
            assert_true(id_is(ids[t][i], "job"));
            assert_true(i == 0 || strcmp(ids[t][i - 1], ids[t][i]) < 0);
        }
    qsort(ids, THREADS * EACH, ID_SIZE, compare);
    char(*all)[ID_SIZE] = ids[0];
    for (int i = 1; i < THREADS * EACH; i++)
        assert_string_not_equal(all[i - 1], all[i]);
}

static void other_forms_are_none(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "job",
                                      "job_",
                                      "mdl_01m815g952asq6phbs7z2tw04c",
                                      "job_01m815g952asq6phbs7z2tw04",
                                      "job_01m815g952asq6phbs7z2tw04cc",
                                      "job_01M815G952ASQ6PHBS7Z2TW04C",
                                      "job_01m815g952asq6phbs7z2tw0/c",
                                      "jobs_01m815g952asq6phbs7z2tw04c"};
    assert_true(id_is("job_01m815g952asq6phbs7z2tw04c", "job"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(id_is(bad[i], "job"));
}

static void bounds_part_ids_by_time(void **state)
{
    (void)state;
    char id[ID_SIZE], low[ID_SIZE], high[ID_SIZE];
    int64_t before = clock_epoch_ms();
    id_new(id, "job");
    id_bound(low, "job", before - 1);
    id_bound(high, "job", before + 60000);
    assert_true(strcmp(low, id) < 0 && strcmp(id, high) < 0);
    id_bound(high, "job", 0);
    assert_string_equal(high, "job_0000000000");
    id_bound(low, "job", -1);
    assert_string_equal(low, high);
    id_bound(high, "job", INT64_MAX);
    assert_string_equal(high, "job_7zzzzzzzzz"); /* 48 bits of milliseconds */
    id_bound(low, "job", 1);
    assert_string_equal(low, "job_0000000001");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(later_ids_sort_later), cmocka_unit_test(other_forms_are_none),
                                       cmocka_unit_test(bounds_part_ids_by_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
