/* SPDX-License-Identifier: Apache-2.0
 * The slab layout against its definition: no two buffers that live together overlap, everything is aligned, and the
 * slab is no smaller than
 * the largest sum of live bytes, computed here step by step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/engine/plan.h"

static void check(struct plan_interval *iv, int n, double slack)
{
    struct err err = {0};
    size_t slab, lower, most = 0;
    assert_int_equal(plan_layout(iv, n, &slab, &lower, &err), 0);
    for (int i = 0; i < n; i++) {
        assert_int_equal(iv[i].offset % 64, 0);
        assert_true(iv[i].offset + iv[i].bytes <= slab);
        for (int k = 0; k < i; k++)
            if (iv[i].first <= iv[k].last && iv[k].first <= iv[i].last)
                assert_true(iv[i].offset + iv[i].bytes <= iv[k].offset || iv[k].offset + iv[k].bytes <= iv[i].offset);
    }
    for (int s = 0; s < 1000; s++) {
        size_t live = 0;
        for (int i = 0; i < n; i++)
            if (iv[i].first <= s && s <= iv[i].last)
                live += iv[i].bytes;
        most = live > most ? live : most;
    }
    assert_int_equal(lower, most);
    assert_true(slab >= lower);
    assert_true((double)slab <= (double)lower * slack);
}

static void test_chain(void **state)
{
    (void)state;
    struct plan_interval iv[20];
    for (int i = 0; i < 20; i++)
        iv[i] = (struct plan_interval){.bytes = 1000, .first = i, .last = i + 1};
    check(iv, 20, 1.0); /* a chain needs two buffers */
}

static void test_empty_and_single(void **state)
{
    (void)state;
    size_t slab, lower;
    assert_int_equal(plan_layout(NULL, 0, &slab, &lower, NULL), 0);
    assert_int_equal(slab, 0);
    struct plan_interval iv[2] = {{.bytes = 1, .first = 3, .last = 3}, {.bytes = 0, .first = 3, .last = 9}};
    check(iv, 2, 1.0);
}

static void test_random(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct plan_interval iv[200];
        struct rng rng;
        rng_init(&rng, seed, 0);
        for (int i = 0; i < 200; i++) {
            int first = (int)rng_below(&rng, 500);
            iv[i] = (struct plan_interval){.bytes = (size_t)rng_below(&rng, 100000) + 1,
                                           .first = first,
                                           .last = first + (int)rng_below(&rng, seed % 2 ? 5 : 60)};
        }
        check(iv, 200, 1.35);
    }
}

/* Thousands alive together: past the budget of meetings the rest is laid in time order, by the same rules. */
static void test_crowd(void **state)
{
    (void)state;
    enum { N = 4000 };
    struct plan_interval *iv = calloc(N, sizeof *iv);
    struct rng rng;
    assert_non_null(iv);
    for (int i = 0; i < N; i++)
        iv[i] = (struct plan_interval){.bytes = 64, .first = i / 5, .last = 900};
    check(iv, N, 1.0);
    rng_init(&rng, 1, 0);
    for (int i = 0; i < N; i++) {
        int first = (int)rng_below(&rng, 400);
        iv[i] = (struct plan_interval){.bytes = (size_t)rng_below(&rng, 100000),
                                       .first = first,
                                       .last = first + (int)rng_below(&rng, 500)};
    }
    check(iv, N, 1.35);
    free(iv);
}

static void test_long_chain(void **state)
{
    (void)state;
    enum { N = 200000 };
    struct plan_interval *iv = calloc(N, sizeof *iv);
    struct err err = {0};
    size_t slab, lower;
    assert_non_null(iv);
    for (int i = 0; i < N; i++)
        iv[i] = (struct plan_interval){.bytes = 1000, .first = i, .last = i + 1};
    assert_int_equal(plan_layout(iv, N, &slab, &lower, &err), 0);
    assert_int_equal(lower, 2048);
    assert_int_equal(slab, lower);
    free(iv);
}

static void test_overflow(void **state)
{
    (void)state;
    struct err err = {0};
    size_t slab, lower;
    struct plan_interval huge[2] = {{.bytes = SIZE_MAX - 3, .first = 0, .last = 1},
                                    {.bytes = 1, .first = 0, .last = 1}};
    assert_int_equal(plan_layout(huge, 2, &slab, &lower, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
    struct plan_interval sum[2] = {{.bytes = SIZE_MAX / 2, .first = 0, .last = 1},
                                   {.bytes = SIZE_MAX / 2, .first = 1, .last = 2}};
    err = (struct err){0};
    assert_int_equal(plan_layout(sum, 2, &slab, &lower, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chain), cmocka_unit_test(test_empty_and_single),
                                       cmocka_unit_test(test_random), cmocka_unit_test(test_overflow),
                                       cmocka_unit_test(test_crowd), cmocka_unit_test(test_long_chain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
