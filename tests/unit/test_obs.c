/* SPDX-License-Identifier: Apache-2.0
 * Pruning by second moments against all masks there are, each with its least squares solved by plain elimination. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/prune/obs.h"

enum { ROWS = 3, K = 8, BIG_ROWS = 20, BIG_K = 300 };

/* H = X^T X / n + 0.01 with correlated columns. */
static void make_h(struct rng *rng, int k, double *h)
{
    double *x = malloc((size_t)(4 * k * k) * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < 4 * k; i++)
        for (int j = 0; j < k; j++)
            x[i * k + j] = rng_normal(rng) + (j > 0 ? 0.6 * x[i * k + j - 1] : 0);
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) {
            h[i * k + j] = i == j ? 0.01 : 0;
            for (int r = 0; r < 4 * k; r++)
                h[i * k + j] += x[r * k + i] * x[r * k + j] / (4 * k);
        }
    free(x);
}

/* The least error of a row with this mask, and its weights: Gauss elimination on H_SS w = (H d)_S. */
static double least_squares(const double *h, int k, const double *d, unsigned mask, double *w)
{
    double a[K][K + 1], error = 0;
    int at[K], n = 0;
    memset(w, 0, (size_t)k * sizeof *w);
    for (int i = 0; i < k; i++)
        if (mask >> i & 1)
            at[n++] = i;
    for (int i = 0; i < n; i++) {
        a[i][n] = 0;
        for (int j = 0; j < k; j++)
            a[i][n] += h[at[i] * k + j] * d[j];
        for (int j = 0; j < n; j++)
            a[i][j] = h[at[i] * k + at[j]];
    }
    for (int i = 0; i < n; i++)
        for (int r = 0; r < n; r++) {
            const double f = a[r][i] / a[i][i];
            for (int c = i; r != i && c <= n; c++)
                a[r][c] -= f * a[i][c];
        }
    for (int i = 0; i < n; i++)
        w[at[i]] = a[i][n] / a[i][i];
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++)
            error += (w[i] - d[i]) * h[i * k + j] * (w[j] - d[j]);
    return error;
}

struct problem {
    double h[K * K], d[ROWS * K], w[ROWS * K];
    unsigned char keep[ROWS * K];
    struct obs o;
};
static void make(struct problem *p, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    make_h(&rng, K, p->h);
    for (int i = 0; i < ROWS * K; i++)
        p->d[i] = rng_normal(&rng);
    memset(p->keep, 1, sizeof p->keep);
    p->o = (struct obs){.rows = ROWS, .k = K, .h = p->h, .dense = p->d, .keep = p->keep, .w = p->w};
}

static unsigned mask_of(const struct problem *p, int row)
{
    unsigned mask = 0;
    for (int i = 0; i < K; i++)
        mask |= (unsigned)p->keep[row * K + i] << i;
    return mask;
}

/* The weights are the least squares of their mask; returns the error of all rows. */
static double check_fit(const struct problem *p)
{
    double sum = 0, w[K];
    for (int row = 0; row < ROWS; row++) {
        sum += least_squares(p->h, K, p->d + row * K, mask_of(p, row), w);
        for (int i = 0; i < K; i++)
            assert_float_equal(p->w[row * K + i], w[i], 1e-8);
    }
    assert_true(fabs(obs_error(&p->o) - sum) <= 1e-8 * (1 + sum));
    return sum;
}

static bool fits_groups(unsigned mask, int n, int m)
{
    for (int first = 0; first < K; first += m) {
        const int size = K - first < m ? K - first : m;
        if (__builtin_popcount(mask >> first & ((1u << size) - 1)) != (size < n ? size : n))
            return false;
    }
    return true;
}

/* The least error of a row with `gone` zeros, or of n:m. */
static double best_row(const struct problem *p, int row, int gone, int n, int m)
{
    double best = INFINITY, w[K];
    for (unsigned mask = 0; mask < 1u << K; mask++)
        if (m > 0 ? fits_groups(mask, n, m) : __builtin_popcount(mask) == K - gone)
            best = fmin(best, least_squares(p->h, K, p->d + row * K, mask, w));
    return best;
}

/* One weight a row, or columns that have nothing to do with each other: always the best there is. Otherwise greedy: mostly the best,
 * and by never more than a factor. */
static void test_rows(void **state)
{
    (void)state;
    int same = 0, all = 0;
    for (uint64_t seed = 0; seed < 40; seed++)
        for (int gone = 1; gone < K; gone++) {
            struct problem p;
            const bool diagonal = seed % 4 == 0;
            make(&p, seed);
            for (int i = 0; diagonal && i < K * K; i++)
                p.h[i] *= i % (K + 1) == 0;
            p.o.each_row = true;
            p.o.goes = ROWS * gone;
            assert_int_equal(obs_exact(&p.o, NULL), 0);
            check_fit(&p);
            for (int row = 0; row < ROWS; row++) {
                double w[K];
                const double best = best_row(&p, row, gone, 0, 0);
                const double error = least_squares(p.h, K, p.d + row * K, mask_of(&p, row), w);
                const bool is_best = error <= best * (1 + 1e-6);
                assert_int_equal(__builtin_popcount(mask_of(&p, row)), K - gone);
                assert_true(error >= best * (1 - 1e-9) && error <= best * 4);
                assert_true(is_best || (gone > 1 && !diagonal));
                same += is_best;
                all++;
            }
        }
    assert_true(same >= all * 0.8);
}

/* Rows of a layer share a count: for the masks of each row's own order no other split is better. */
static void test_shared(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++)
        for (int goes = 1; goes < ROWS * K; goes += 4) {
            struct problem p, q;
            int gone = 0;
            make(&p, seed);
            p.o.goes = goes;
            assert_int_equal(obs_exact(&p.o, NULL), 0);
            const double error = check_fit(&p);
            for (int i = 0; i < ROWS * K; i++)
                gone += !p.keep[i];
            assert_int_equal(gone, goes);
            if (goes % ROWS == 0) {
                make(&q, seed);
                q.o.goes = goes;
                q.o.each_row = true;
                assert_int_equal(obs_exact(&q.o, NULL), 0);
                assert_true(error <= obs_error(&q.o) * 1.3);
            }
            if (goes == 1) { /* the best of all single ones */
                double best = INFINITY;
                for (int row = 0; row < ROWS; row++)
                    best = fmin(best, best_row(&p, row, 1, 0, 0));
                assert_float_equal(error, best, 1e-9);
            }
        }
}

static void test_groups(void **state)
{
    (void)state;
    static const int shapes[][2] = {{2, 4}, {1, 4}, {1, 2}, {4, 8}, {2, 3}, {1, 5}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (uint64_t seed = 0; seed < 10; seed++)
            for (int way = 0; way < 2; way++) {
                struct problem p;
                double best = 0;
                make(&p, seed);
                p.o.n = shapes[s][0];
                p.o.m = shapes[s][1];
                assert_int_equal(way ? obs_sequential(&p.o, NULL) : obs_exact(&p.o, NULL), 0);
                if (way)
                    assert_int_equal(obs_refit(&p.o, NULL), 0);
                const double error = check_fit(&p);
                for (int row = 0; row < ROWS; row++) {
                    assert_true(fits_groups(mask_of(&p, row), shapes[s][0], shapes[s][1]));
                    best += best_row(&p, row, 0, shapes[s][0], shapes[s][1]);
                }
                assert_true(error >= best * (1 - 1e-9) && error <= best * (way ? 6 : 2));
            }
}

/* What is gone beforehand stays gone and counts; a mask that is given is only fitted. */
static void test_given(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++)
        for (int way = 0; way < 4; way++) {
            struct problem p;
            int gone = 0;
            make(&p, seed);
            for (int i = 0; i < ROWS * K; i += 3)
                p.keep[i] = 0;
            p.o.goes = way == 1 ? 3 : 12; /* 8 are gone */
            p.o.each_row = way == 2;
            assert_int_equal(way == 3 ? obs_refit(&p.o, NULL) : obs_exact(&p.o, NULL), 0);
            check_fit(&p);
            for (int i = 0; i < ROWS * K; i++) {
                gone += !p.keep[i];
                assert_true(i % 3 != 0 || !p.keep[i]);
            }
            assert_int_equal(gone, way == 1 || way == 3 ? 8 : 12);
        }
}

/* A layer of several batches of columns: counts are exact, threads change nothing, and updates beat magnitude. */
static void test_sequential(void **state)
{
    (void)state;
    static double h[BIG_K * BIG_K], d[BIG_ROWS * BIG_K], w[3][BIG_ROWS * BIG_K];
    static unsigned char keep[3][BIG_ROWS * BIG_K];
    const int64_t all = BIG_ROWS * BIG_K;
    struct rng rng;
    struct pool *pool = pool_new(3);
    rng_init(&rng, 1, 0);
    make_h(&rng, BIG_K, h);
    for (int i = 0; i < all; i++)
        d[i] = rng_normal(&rng);
    for (int each = 0; each < 2; each++)
        for (int percent = 30; percent < 100; percent += 30) {
            double error[3];
            for (int way = 0; way < 3; way++) { /* sequential, the same with threads, exact */
                struct obs o = {.rows = BIG_ROWS,
                                .k = BIG_K,
                                .h = h,
                                .dense = d,
                                .keep = keep[way],
                                .w = w[way],
                                .goes = all * percent / 100,
                                .each_row = each,
                                .pool = way == 1 ? pool : NULL};
                int64_t gone = 0;
                memset(keep[way], 1, sizeof keep[way]);
                assert_int_equal(way == 2 ? obs_exact(&o, NULL) : obs_sequential(&o, NULL), 0);
                for (int64_t i = 0; i < all; i++) {
                    gone += !keep[way][i];
                    assert_true(keep[way][i] || w[way][i] == 0);
                }
                assert_int_equal(gone, o.goes);
                error[way] = obs_error(&o);
                if (way == 0) { /* fitting its mask can only help */
                    assert_int_equal(obs_refit(&o, NULL), 0);
                    assert_true(obs_error(&o) <= error[0] * (1 + 1e-9));
                    assert_int_equal(obs_sequential(&o, NULL), 0);
                }
            }
            assert_memory_equal(keep[0], keep[1], sizeof keep[0]);
            assert_true(error[2] < error[0]);
            double plain = 0; /* zeros without an update: the same number, the smallest */
            for (int r = 0; r < BIG_ROWS; r++) {
                double e[BIG_K];
                for (int i = 0; i < BIG_K; i++) {
                    int smaller = 0;
                    for (int j = 0; j < BIG_K; j++)
                        smaller += fabs(d[r * BIG_K + j]) < fabs(d[r * BIG_K + i]);
                    e[i] = smaller < BIG_K * percent / 100 ? d[r * BIG_K + i] : 0;
                }
                for (int i = 0; i < BIG_K; i++)
                    for (int j = 0; j < BIG_K; j++)
                        plain += e[i] * h[i * BIG_K + j] * e[j];
            }
            assert_true(error[0] < plain);
        }
    pool_free(pool);
}

static void test_not_finite(void **state)
{
    (void)state;
    struct problem p;
    struct err err = {0};
    make(&p, 1);
    p.h[3] = p.h[3 * K] = NAN;
    p.h[0] = NAN;
    p.o.goes = 3;
    assert_int_equal(obs_exact(&p.o, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_shared),     cmocka_unit_test(test_groups),
        cmocka_unit_test(test_given), cmocka_unit_test(test_sequential), cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
