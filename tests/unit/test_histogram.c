/* SPDX-License-Identifier: Apache-2.0
 * Histograms against counting by hand; clips against searches over the numbers themselves. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/stats/histogram.h"

enum { N = 200000 };

static float *numbers(uint64_t seed, double scale, double shift)
{
    struct rng rng;
    float *x = malloc(N * sizeof *x);
    rng_init(&rng, seed, 0);
    for (int i = 0; i < N; i++)
        x[i] = (float)(rng_normal(&rng) * scale + shift);
    return x;
}

static struct histogram *of(struct pool *pool, const float *x, int64_t n)
{
    struct histogram *h = histogram_new();
    assert_non_null(h);
    histogram_add(pool, h, x, n);
    return h;
}

static void test_counts_are_those_of_the_definition(void **state)
{
    (void)state;
    float *x = numbers(1, 3, 0.5);
    struct histogram *h = of(NULL, x, N);
    uint64_t *count = calloc(HISTOGRAM_BINS, sizeof *count);
    assert_int_equal(h->total, N);
    assert_true(h->range == 16 || h->range == 32);
    for (int i = 0; i < N; i++)
        count[HISTOGRAM_BINS / 2 + (int)floor((double)x[i] / (double)h->range * (HISTOGRAM_BINS / 2))]++;
    assert_memory_equal(count, h->count, sizeof h->count);
    free(count);
    free(h);
    free(x);
}

/* The same histogram in pieces, in any order, and on any number of threads. */
static void test_order_and_threads_do_not_matter(void **state)
{
    (void)state;
    float *x = numbers(2, 1, 0);
    for (int i = 0; i < N; i++)
        x[i] *= i % 1000 == 0 ? 37.5f : 1;
    struct histogram *whole = of(NULL, x, N);
    for (int threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_new(threads);
        struct histogram *h = histogram_new();
        for (int at = N - 70000; at > -70000; at -= 70000) {
            int from = at < 0 ? 0 : at, n = at < 0 ? 70000 + at : 70000;
            histogram_add(pool, h, x + from, n);
        }
        assert_memory_equal(h, whole, sizeof *h);
        free(h);
        pool_free(pool);
    }
    free(whole);
    free(x);
}

/* Numbers next to the edges of bins, and too small to have a quotient of their own, stay in their bins when the range
 * grows after they came. */
static void test_edges_of_bins(void **state)
{
    (void)state;
    enum { EDGES = 4001 };
    float x[EDGES + 2];
    for (int i = 0; i < EDGES; i++)
        x[i] = nextafterf((float)(i - EDGES / 2) / 4096, i % 2 ? -2 : 2);
    x[EDGES] = -1e-42f;
    x[EDGES + 1] = 1e8f;
    struct histogram *before = of(NULL, x, EDGES + 1), *after = of(NULL, x + EDGES + 1, 1);
    for (int i = 0; i < EDGES; i++) {
        const int bin = HISTOGRAM_BINS / 2 + (int)floor((double)x[i] / (double)before->range * (HISTOGRAM_BINS / 2));
        assert_true(before->count[bin] > 0);
    }
    histogram_add(NULL, before, x + EDGES + 1, 1);
    histogram_add(NULL, after, x, EDGES + 1);
    assert_memory_equal(before, after, sizeof *after);
    free(before);
    free(after);
}

static void test_odd_numbers_are_left_out(void **state)
{
    (void)state;
    const float x[] = {NAN, 1, INFINITY, -2, -INFINITY, 0};
    struct histogram *h = of(NULL, x, 6);
    assert_int_equal(h->total, 3);
    assert_true(h->min == -2 && h->max == 1);
    free(h);
    h = of(NULL, x, 1);
    assert_int_equal(h->total, 0);
    struct clip c = histogram_entropy(h, 256, false);
    assert_true(c.lo == 0 && c.hi == 0);
    free(h);
    const float zeros[5] = {0}, tiny[2] = {1e-30f, -1e-38f}, huge[2] = {3e38f, -1};
    h = of(NULL, zeros, 5);
    histogram_add(NULL, h, tiny, 2);
    histogram_add(NULL, h, huge, 2);
    assert_int_equal(h->total, 9);
    c = histogram_percentile(h, 100, false);
    assert_true(c.lo == -1 && c.hi == (double)3e38f);
    free(h);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void test_percentile_against_sorted_numbers(void **state)
{
    (void)state;
    float *x = numbers(3, 2, 0.3);
    struct histogram *h = of(NULL, x, N);
    const double width = (double)h->range / (HISTOGRAM_BINS / 2);
    qsort(x, N, sizeof *x, ascending);
    static const double shares[] = {99, 99.9, 99.99};
    for (int i = 0; i < 3; i++) {
        struct clip c = histogram_percentile(h, shares[i], false);
        const int out = (int)(N * (1 - shares[i] / 100) / 2);
        assert_true(fabs(c.lo - (double)x[out]) <= 2 * width + 1e-3 && fabs(c.hi - (double)x[N - 1 - out]) <= 2 * width + 1e-3);
    }
    struct clip all = histogram_percentile(h, 100, true);
    assert_true(all.hi == -all.lo && all.hi == fmax(-(double)x[0], (double)x[N - 1]));
    free(h);
    free(x);
}

static double true_error(const float *x, struct clip c, int levels)
{
    const double step = (c.hi - c.lo) / (levels - 1);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        const double v = (double)x[i], d = v - nearbyint(fmin(fmax(v, c.lo), c.hi) / step) * step;
        sum += d * d;
    }
    return sum;
}

/* The interval found is not worse, on the numbers themselves, than any of a fine grid. */
static void test_mse_finds_the_least_error(void **state)
{
    (void)state;
    for (int relu = 0; relu < 2; relu++) {
        float *x = numbers(4, 1, 0);
        for (int i = 0; i < N; i++)
            x[i] = relu && x[i] < 0 ? 0 : x[i] * x[i] * x[i];
        struct histogram *h = of(NULL, x, N);
        struct clip c = histogram_mse(h, 256, false);
        const double found = true_error(x, c, 256);
        for (int i = 4; i <= 20; i++) {
            struct clip other = {fmin((double)h->min, 0) * i / 20, (double)h->max * i / 20};
            assert_true(found <= true_error(x, other, 256) * 1.02);
        }
        assert_true(relu ? c.lo == 0 : c.lo < 0);
        free(h);
        free(x);
    }
}

/* Divergence computed as the paper says, bin by bin. */
static double plain_divergence(const double *p0, int bins, int keep, int levels)
{
    double p[4096], q[4096] = {0}, total = 0, q_total = 0, sum = 0;
    for (int i = 0; i < bins; i++)
        total += p0[i];
    for (int i = 0; i < keep; i++)
        p[i] = p0[i];
    for (int i = keep; i < bins; i++)
        p[keep - 1] += p0[i];
    for (int k = 0; k < levels; k++) {
        const int a = (int)((int64_t)keep * k / levels), b = (int)((int64_t)keep * (k + 1) / levels);
        double m = 0;
        int filled = 0;
        for (int i = a; i < b; i++) {
            m += p0[i];
            filled += p0[i] > 0;
        }
        for (int i = a; i < b; i++)
            q[i] = p0[i] > 0 ? m / filled : 0;
    }
    for (int i = 0; i < keep; i++)
        q_total += q[i];
    for (int i = 0; i < keep; i++)
        if (p[i] > 0)
            sum += p[i] / total * log(p[i] / total / ((q[i] > 0 ? q[i] : 1e-4) / q_total));
    return sum;
}

static void test_entropy_against_the_paper(void **state)
{
    (void)state;
    float *x = numbers(5, 1, 0);
    for (int i = 0; i < N; i++) /* long tails: a few numbers far out */
        x[i] = x[i] * (i % 5000 == 0 ? 12 : 1);
    struct histogram *h = of(NULL, x, N);
    struct clip c = histogram_entropy(h, 256, true);
    const double width = (double)h->range / (HISTOGRAM_BINS / 2);
    double p[4096], least = INFINITY;
    for (int j = 0; j < 4096; j++)
        p[j] = (double)(h->count[4096 + j] + h->count[4095 - j]);
    p[0] = p[1]; /* zero is exact */
    for (int keep = 128; keep <= 4096; keep += 8)
        least = fmin(least, plain_divergence(p, 4096, keep, 128));
    const double found = plain_divergence(p, 4096, (int)lround(c.hi / width), 128);
    assert_true(found <= least * 1.05); /* every other width is tried */
    assert_true(c.hi < 0.8 * fmax(-(double)h->min, (double)h->max)); /* the tails are cut */
    assert_true(c.lo == -c.hi);
    free(h);
    free(x);
}

/* Uniform numbers have no tail: nothing is clipped. */
static void test_entropy_keeps_a_uniform_range(void **state)
{
    (void)state;
    struct rng rng;
    float *x = malloc(N * sizeof *x);
    rng_init(&rng, 6, 0);
    for (int i = 0; i < N; i++)
        x[i] = (float)(rng_uniform(&rng) * 6);
    struct histogram *h = of(NULL, x, N);
    struct clip c = histogram_entropy(h, 256, false);
    assert_true(c.lo == 0 && c.hi > 5.9 && c.hi <= 6);
    free(h);
    free(x);
}

/* Numbers of few values, and numbers away from zero: an interval that ends at the smallest would lose nothing of the
 * single value left. */
static void test_entropy_does_not_collapse(void **state)
{
    (void)state;
    struct rng rng;
    float *x = malloc(N * sizeof *x);
    for (int kind = 0; kind < 3; kind++) {
        rng_init(&rng, 8, 0);
        for (int i = 0; i < N; i++) {
            const double u = rng_uniform(&rng);
            x[i] = (float)(kind == 0 ? (u < 0.5 ? 0 : floor(u * 17) / 16) : kind == 1 ? 3 + 2 * u : -3 - 2 * u);
        }
        struct histogram *h = of(NULL, x, N);
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            struct clip c = histogram_entropy(h, 256, symmetric);
            assert_true(fmax(-c.lo, c.hi) >= 0.95 * fmax(-(double)h->min, (double)h->max));
            assert_true(symmetric ? c.lo == -c.hi : kind == 2 ? c.hi == 0 : c.lo == 0);
        }
        free(h);
    }
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_are_those_of_the_definition),
        cmocka_unit_test(test_order_and_threads_do_not_matter),
        cmocka_unit_test(test_edges_of_bins),
        cmocka_unit_test(test_odd_numbers_are_left_out),
        cmocka_unit_test(test_percentile_against_sorted_numbers),
        cmocka_unit_test(test_mse_finds_the_least_error),
        cmocka_unit_test(test_entropy_against_the_paper),
        cmocka_unit_test(test_entropy_keeps_a_uniform_range),
        cmocka_unit_test(test_entropy_does_not_collapse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
