/* SPDX-License-Identifier: Apache-2.0
 * Pools against the definition, window by window; global pools; and the accuracy of the vector exponential. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/pooling.h"
#include "core/kernels/vmath.h"

static const struct row {
    int rank;
    int64_t planes, in[3], kernel[3], stride[3], dilation[3], pad[3], pad_end[3];
} table[] = {
    {1, 3, {11}, {3}, {2}, {1}, {1}, {1}},
    {2, 4, {9, 8}, {3, 2}, {2, 1}, {1, 1}, {1, 0}, {1, 1}},
    {2, 2, {9, 10}, {2, 3}, {1, 2}, {3, 2}, {1, 2}, {0, 2}},
    {3, 2, {4, 5, 6}, {2, 2, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {1, 0, 1}},
    {2, 300, {6, 6}, {2, 2}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
};
enum { CELLS = 300 * 36, INDEX_NONE = -1 };

static struct pooling make(const struct row *r)
{
    struct pooling g = {.w.rank = r->rank, .planes = r->planes, .p = 3};
    for (int a = 0; a < r->rank; a++) {
        g.w.in[a] = r->in[a];
        g.w.kernel[a] = r->kernel[a];
        g.w.stride[a] = r->stride[a];
        g.w.dilation[a] = r->dilation[a];
        g.w.pad[a] = r->pad[a];
        g.w.pad_end[a] = r->pad_end[a];
        g.w.out[a] =
            (r->in[a] + r->pad[a] + r->pad_end[a] - (r->kernel[a] - 1) * r->dilation[a] - 1) / r->stride[a] + 1;
    }
    return g;
}

/* What one window holds: position p of a plane, both rasters flattened. */
struct found {
    double max, sum, cubes;
    int64_t index, inside, with_pad;
};

static struct found look(const struct window *w, const float *x, int64_t p)
{
    struct found f = {.max = -INFINITY, .index = INDEX_NONE};
    for (int64_t t = 0, taps = window_count(w->kernel, w->rank); t < taps; t++) {
        int64_t at = 0, scale = 1, rest_p = p, rest_t = t;
        int inside = 1, padded = 1;
        for (int a = w->rank - 1; a >= 0; a--) {
            const int64_t i = rest_p % w->out[a] * w->stride[a] + rest_t % w->kernel[a] * w->dilation[a] - w->pad[a];
            inside &= i >= 0 && i < w->in[a];
            padded &= i < w->in[a] + w->pad_end[a];
            at += i * scale;
            scale *= w->in[a];
            rest_p /= w->out[a];
            rest_t /= w->kernel[a];
        }
        f.with_pad += padded;
        if (!inside)
            continue;
        f.inside++;
        f.sum += (double)x[at];
        f.cubes += pow(fabs((double)x[at]), 3);
        if ((double)x[at] > f.max) {
            f.max = (double)x[at];
            f.index = at;
        }
    }
    return f;
}

static void near(float got, double want)
{
    assert_true(fabs((double)got - want) <= 1e-5 * (fabs(want) + 1));
}

static void test_windows(void **state)
{
    (void)state;
    static float x[CELLS], max[CELLS], average[CELLS], padded[CELLS], norm[CELLS];
    static int64_t index[CELLS];
    struct rng rng;
    struct pool *pool = pool_new(2);

    rng_init(&rng, 9, 0);
    for (int i = 0; i < CELLS; i++)
        x[i] = (float)(rng_uniform(&rng) * 4 - 2);
    for (size_t r = 0; r < sizeof table / sizeof table[0]; r++) {
        struct pooling g = make(&table[r]);
        const int64_t in = window_count(g.w.in, g.w.rank), out = window_count(g.w.out, g.w.rank);
        assert_true(g.planes * in <= CELLS && g.planes * out <= CELLS);
        pool_max_f32(pool, &g, x, max);
        pool_max_index_f32(pool, &g, x, false, index);
        pool_average_f32(pool, &g, x, average);
        pool_norm_f32(pool, &g, x, norm);
        g.include_pad = true;
        pool_average_f32(pool, &g, x, padded);
        for (int64_t i = 0; i < g.planes * out; i++) {
            const struct found f = look(&g.w, x + i / out * in, i % out);
            near(max[i], f.max);
            near(average[i], f.inside ? f.sum / (double)f.inside : 0);
            near(padded[i], f.sum / (double)f.with_pad);
            near(norm[i], cbrt(f.cubes));
            assert_int_equal(index[i], f.index < 0 ? f.index : f.index + i / out * in);
        }
    }
    pool_free(pool);
}

static void test_global(void **state)
{
    (void)state;
    enum { PLANES = 5, N = 37 };
    float x[PLANES * N], y[PLANES];
    struct rng rng;

    rng_init(&rng, 10, 0);
    for (int i = 0; i < PLANES * N; i++)
        x[i] = (float)(rng_uniform(&rng) * 4 - 2);
    for (int kind = POOL_MAX; kind <= POOL_NORM; kind++) {
        pool_global_f32(NULL, (enum pool_kind)kind, 2, PLANES, N, x, y);
        for (int p = 0; p < PLANES; p++) {
            double max = -INFINITY, sum = 0, squares = 0;
            for (int i = 0; i < N; i++) {
                const double v = (double)x[p * N + i];
                max = v > max ? v : max;
                sum += v;
                squares += v * v;
            }
            near(y[p], kind == POOL_MAX ? max : kind == POOL_AVERAGE ? sum / N : sqrt(squares));
        }
    }
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (double x = -87; x <= 88.7; x += 0.00037) {
        const double want = exp((double)(float)x), got = (double)vmath_exp((float)x);
        worst = fmax(worst, fabs(got - want) / want);
    }
    assert_true(worst < 2e-7);
    assert_true(vmath_exp(-200) == 0 && isinf(vmath_exp(200)) && isnan(vmath_exp(NAN)) && vmath_exp(0) == 1);
    assert_true(isinf(vmath_exp(INFINITY)) && vmath_exp(-INFINITY) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_windows), cmocka_unit_test(test_global),
                                       cmocka_unit_test(test_exp)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
