/* SPDX-License-Identifier: Apache-2.0
 * What is found, what is not, and what a later text of the same slot does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/id.h"
#include "server/text_cache.h"

static bool finds(struct text_cache *cache, const char *id, int64_t version, int64_t setting, const char *want)
{
    size_t len = 0;
    const struct text_key key = {id, version, setting};
    char *text = text_cache_get(cache, &key, &len);
    bool same = text && want ? len == strlen(want) && strcmp(text, want) == 0 : !text && !want;
    free(text);
    return same;
}

static void test_keys(void **state)
{
    (void)state;
    struct err err = {0};
    struct text_cache *cache = text_cache_new(&err);
    const struct text_key key = {"job_a", 3, 7};
    assert_true(finds(cache, "job_a", 3, 7, NULL));
    text_cache_put(cache, &key, "one", 3);
    assert_true(finds(cache, "job_a", 3, 7, "one"));
    assert_true(finds(cache, "job_a", 4, 7, NULL));
    assert_true(finds(cache, "job_a", 3, 8, NULL));
    assert_true(finds(cache, "job_b", 3, 7, NULL));
    text_cache_put(cache, &key, "two", 3);
    assert_true(finds(cache, "job_a", 3, 7, "two"));
    text_cache_free(cache);
    text_cache_free(NULL);
}

static void test_limits(void **state)
{
    (void)state;
    struct err err = {0};
    struct text_cache *cache = text_cache_new(&err);
    char *big = calloc(1, TEXT_CACHE_BYTES + 2), id[2 * ID_SIZE];
    memset(big, 'x', TEXT_CACHE_BYTES + 1);
    text_cache_put(cache, &(struct text_key){"job_a", 1, 0}, big, TEXT_CACHE_BYTES + 1);
    assert_true(finds(cache, "job_a", 1, 0, NULL));
    text_cache_put(cache, &(struct text_key){"job_a", 1, 0}, big, TEXT_CACHE_BYTES);
    big[TEXT_CACHE_BYTES] = 0;
    assert_true(finds(cache, "job_a", 1, 0, big));
    memset(id, 'i', sizeof id);
    id[ID_SIZE] = 0; /* one too long */
    text_cache_put(cache, &(struct text_key){id, 1, 0}, "x", 1);
    assert_true(finds(cache, id, 1, 0, NULL));
    int found = 0;
    for (int i = 0; i < 4 * TEXT_CACHE_SLOTS; i++) {
        snprintf(id, sizeof id, "job_%d", i);
        text_cache_put(cache, &(struct text_key){id, i, 0}, id, strlen(id));
        assert_true(finds(cache, id, i, 0, id));
    }
    for (int i = 0; i < 4 * TEXT_CACHE_SLOTS; i++) {
        snprintf(id, sizeof id, "job_%d", i);
        found += finds(cache, id, i, 0, id);
    }
    assert_in_range(found, TEXT_CACHE_SLOTS / 2, TEXT_CACHE_SLOTS);
    free(big);
    text_cache_free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys), cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
