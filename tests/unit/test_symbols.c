/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic on sizes with names: normal forms, and against numbers put in for the names. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "core/base/rng.h"
#include "core/ops/symbols.h"

static const char *const names[] = {"N", "H", "W"};
static const struct sym N = {DIM_SYMBOL(0), false}, H = {DIM_SYMBOL(1), false}, W = {DIM_SYMBOL(2), false};

static void is(const struct symbols *t, struct sym got, const char *want)
{
    const char *name = got.known ? "a number" : symbols_name(t, got.n);
    if (!name || strcmp(name, want))
        fail_msg("%s, expected %s", name ? name : "unknown", want);
}

static void is_number(struct sym got, int64_t want)
{
    assert_true(got.known);
    assert_int_equal(got.n, want);
}

static void test_normal_forms(void **state)
{
    (void)state;
    struct symbols *t = symbols_new(names, 3);
    const struct sym one = sym_number(1), two = sym_number(2);
    is(t, sym_mul(t, two, N), "2*N");
    is(t, sym_add(t, N, one), "N + 1");
    is(t, sym_sub(t, N, two), "N - 2");
    is(t, sym_sub(t, sym_number(5), N), "-1*N + 5");
    is(t, sym_div(t, sym_add(t, H, one), two), "floor((H + 1)/2)");
    is(t, sym_div(t, sym_div(t, H, two), two), "floor(H/4)");
    is(t, sym_add(t, sym_div(t, sym_sub(t, H, one), two), one), "floor((H + 1)/2)");
    is(t, sym_mul(t, W, H), "H*W");
    is(t, sym_mul(t, sym_mul(t, two, W), sym_mul(t, H, N)), "2*N*H*W");
    is(t, sym_div(t, sym_mul(t, N, sym_mul(t, H, W)), H), "N*W");
    is(t, sym_div(t, sym_mul(t, sym_number(6), N), sym_number(3)), "2*N");
    is(t, sym_mul(t, sym_div(t, H, two), two), "2*floor(H/2)");
    is(t, sym_add(t, H, W), "H + W");
    is(t, sym_add(t, W, H), "H + W");
    is(t, sym_add(t, N, N), "2*N");
    is_number(sym_sub(t, N, N), 0);
    is_number(sym_sub(t, sym_add(t, N, two), N), 2);
    is_number(sym_mul(t, N, sym_number(0)), 0);
    is_number(sym_div(t, N, N), 1);
    assert_true(sym_equal(sym_mul(t, N, one), N));
    assert_false(sym_equal(SYM_UNKNOWN, SYM_UNKNOWN));
    symbols_free(t);
}

static void test_what_cannot_be_said(void **state)
{
    (void)state;
    struct symbols *t = symbols_new(names, 3);
    assert_int_equal(sym_dim(sym_div(t, N, sym_number(0))), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_div(t, sym_number(INT64_MIN), sym_number(-1))), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_add(t, sym_number(INT64_MAX), sym_number(1))), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_mul(t, N, sym_number(INT64_MAX))), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_sub(t, N, sym_number(INT64_MIN))), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_add(t, N, SYM_UNKNOWN)), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_number(-3)), DIM_UNKNOWN);
    assert_int_equal(sym_dim(sym_mul(NULL, N, sym_number(2))), DIM_UNKNOWN); /* no table, no new names */
    assert_int_equal(sym_dim(sym_mul(NULL, N, sym_number(1))), N.n);
    assert_int_equal(sym_dim(sym_mul(NULL, sym_number(6), sym_number(7))), 42);
    struct sym grows = N; /* a formula without end is given up, not carried on for ever */
    for (int i = 0; i < 5000; i++)
        grows = sym_add(t, sym_mul(t, grows, i % 2 ? H : W), sym_number(1));
    assert_int_equal(grows.n, DIM_UNKNOWN);
    assert_null(symbols_name(t, DIM_UNKNOWN));
    assert_null(symbols_name(t, DIM_SYMBOL(1000000)));
    assert_null(symbols_name(t, 7));
    symbols_free(t);
}

/* Random formulas, evaluated beside with numbers for the names: equal symbols must have equal values. */
static void test_equal_symbols_are_equal_numbers(void **state)
{
    (void)state;
    enum { COUNT = 400 };
    static const int64_t values[3] = {7, 30, 12};
    struct symbols *t = symbols_new(names, 3);
    struct sym s[COUNT] = {N, H, W};
    int64_t v[COUNT] = {7, 30, 12}, compared = 0;
    struct rng rng;
    rng_init(&rng, 5, 0);
    for (int i = 3; i < COUNT; i++) {
        const int a = (int)(rng_u64(&rng) % (uint64_t)i), op = (int)(rng_u64(&rng) % 4);
        int b = (int)(rng_u64(&rng) % (uint64_t)i);
        struct sym y = s[b];
        int64_t n = v[b];
        if (rng_u64(&rng) % 2) {
            n = 1 + (int64_t)(rng_u64(&rng) % 4);
            y = sym_number(n);
        }
        s[i] = op == 0   ? sym_add(t, s[a], y)
               : op == 1 ? sym_sub(t, s[a], y)
               : op == 2 ? sym_mul(t, s[a], y)
                         : sym_div(t, s[a], y);
        const int64_t q = n ? v[a] / n - (v[a] % n != 0 && (v[a] < 0) != (n < 0)) : 0;
        v[i] = op == 0 ? v[a] + n : op == 1 ? v[a] - n : op == 2 ? v[a] * n : q;
        if (v[i] < -1000000 || v[i] > 1000000 || n == 0) { /* keep the numbers small */
            s[i] = N;
            v[i] = values[0];
        }
        for (int k = 0; k < i; k++)
            if (sym_equal(s[k], s[i])) {
                assert_int_equal(v[k], v[i]);
                compared++;
            }
        if (s[i].known)
            assert_int_equal(s[i].n, v[i]);
    }
    assert_true(compared > COUNT);
    symbols_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normal_forms), cmocka_unit_test(test_what_cannot_be_said),
                                       cmocka_unit_test(test_equal_symbols_are_equal_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
