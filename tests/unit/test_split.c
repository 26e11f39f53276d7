/* SPDX-License-Identifier: Apache-2.0
 * Splits: sizes, classes, order, seeds; and the spread over indices. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/data/split.h"

/* Both parts are ascending, disjoint and complete. */
static void check_partition(const struct split *s, int64_t n)
{
    int64_t r = 0, h = 0;
    assert_int_equal(s->n_rest + s->n_held, n);
    for (int64_t i = 0; i < n; i++) {
        const bool held = h < s->n_held && s->held[h] == i;
        if (held)
            h++;
        else
            assert_int_equal(s->rest[r++], i);
    }
    assert_int_equal(h, s->n_held);
    assert_int_equal(r, s->n_rest);
}

static void test_classes_keep_their_share(void **state)
{
    (void)state;
    enum { N = 1000 };
    int64_t label[N], count[4] = {0}, held[4] = {0};
    for (int64_t i = 0; i < N; i++) /* 600, 300, 95, 5 */
        count[label[i] = i < 600 ? 0 : i < 900 ? 1 : i < 995 ? 2 : 3]++;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct split s;
        memset(held, 0, sizeof held);
        assert_int_equal(split_make(&s, label, N, 0.1, seed, NULL), 0);
        check_partition(&s, N);
        assert_int_equal(s.n_held, 100);
        for (int64_t i = 0; i < s.n_held; i++)
            held[label[s.held[i]]]++;
        for (int c = 0; c < 4; c++)
            assert_true(fabs((double)held[c] - 0.1 * (double)count[c]) < 1);
        split_fini(&s);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        double share;
        int64_t held;
    } cases[] = {{2, 0.1, 1}, {3, 0.1, 1}, {10, 0.1, 1}, {15, 0.1, 2}, {10, 0.99, 9}, {1001, 0.1, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct split s;
        assert_int_equal(split_make(&s, NULL, cases[i].n, cases[i].share, 7, NULL), 0);
        check_partition(&s, cases[i].n);
        assert_int_equal(s.n_held, cases[i].held);
        split_fini(&s);
    }
    for (int64_t n = 0; n < 2; n++) {
        struct split s;
        struct err err = {0};
        assert_int_equal(split_make(&s, NULL, n, 0.1, 0, &err), -1);
        assert_int_equal(err.code, ERR_DATASET);
    }
}

static void test_a_class_of_one_stays(void **state)
{
    (void)state;
    int64_t label[20] = {0};
    label[4] = 9;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct split s;
        assert_int_equal(split_make(&s, label, 20, 0.5, seed, NULL), 0);
        check_partition(&s, 20);
        for (int64_t i = 0; i < s.n_held; i++)
            assert_int_not_equal(s.held[i], 4);
        split_fini(&s);
    }
    for (int64_t i = 0; i < 20; i++) /* a class for each sample: they say nothing */
        label[i] = i;
    struct split s;
    assert_int_equal(split_make(&s, label, 20, 0.1, 1, NULL), 0);
    assert_int_equal(s.n_held, 2);
    check_partition(&s, 20);
    split_fini(&s);
}

static void test_seed_decides(void **state)
{
    (void)state;
    struct split a, b, c;
    assert_int_equal(split_make(&a, NULL, 500, 0.1, 1, NULL), 0);
    assert_int_equal(split_make(&b, NULL, 500, 0.1, 1, NULL), 0);
    assert_int_equal(split_make(&c, NULL, 500, 0.1, 2, NULL), 0);
    assert_memory_equal(a.held, b.held, 50 * sizeof *a.held);
    assert_memory_not_equal(a.held, c.held, 50 * sizeof *a.held);
    split_fini(&a);
    split_fini(&b);
    split_fini(&c);
}

static void test_spread(void **state)
{
    (void)state;
    const int64_t index[7] = {3, 5, 8, 9, 11, 20, 21};
    int64_t out[7];
    assert_int_equal(split_spread(index, 7, 3, out), 3);
    assert_int_equal(out[0], 3);
    assert_int_equal(out[1], 8);
    assert_int_equal(out[2], 11);
    assert_int_equal(split_spread(index, 7, 0, out), 7);
    assert_memory_equal(out, index, sizeof index);
    assert_int_equal(split_spread(index, 7, 100, out), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes_keep_their_share), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_a_class_of_one_stays),     cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
