/* SPDX-License-Identifier: Apache-2.0
 * gemm against the three loops, over shapes, transpositions, alpha and beta; the same bits on every pool; batches. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/gemm.h"

static const struct {
    int64_t m, n, k;
} shapes[] = {{1, 1, 1},    {1, 7, 5},    {6, 1, 9},     {3, 4, 0},    {5, 3, 2},
              {17, 33, 65}, {64, 64, 64}, {300, 20, 50}, {20, 300, 7}, {260, 190, 170}};
static const double scales[][2] = {{1, 0}, {0.5, 1}, {2, -0.25}};

static float *random_floats(struct rng *rng, int64_t n)
{
    float *out = malloc((size_t)(n + 1) * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(rng_uniform(rng) * 4 - 2);
    return out;
}

static void check(const struct gemm *g, struct pool *pool)
{
    struct rng rng;
    rng_init(&rng, 11, 1);
    const int64_t n_a = g->m * g->k, n_b = g->k * g->n, n_c = g->m * g->n;
    float *a = random_floats(&rng, n_a), *b = random_floats(&rng, n_b), *c = random_floats(&rng, n_c);
    float *want = malloc((size_t)n_c * 4), *again = malloc((size_t)n_c * 4);
    double *a64 = malloc((size_t)(n_a + 1) * 8), *b64 = malloc((size_t)(n_b + 1) * 8), *c64 = malloc((size_t)n_c * 8);

    assert_true(want && again && a64 && b64 && c64);
    memcpy(want, c, (size_t)n_c * 4);
    memcpy(again, c, (size_t)n_c * 4);
    for (int64_t i = 0; i < n_a; i++)
        a64[i] = (double)a[i];
    for (int64_t i = 0; i < n_b; i++)
        b64[i] = (double)b[i];
    for (int64_t i = 0; i < n_c; i++)
        c64[i] = g->beta == 0 ? NAN : (double)c[i];
    if (g->beta == 0)
        memset(c, 0xff, (size_t)n_c * 4);
    gemm_f32_naive(g, a, b, want);
    gemm_f32(NULL, g, a, b, c);
    gemm_f32(pool, g, a, b, again);
    gemm_f64(pool, g, a64, b64, c64);
    for (int64_t i = 0; i < n_c; i++) {
        const double bound = 1e-5 * (fabs((double)want[i]) + 10);
        if (!(fabs((double)c[i] - (double)want[i]) <= bound) || !(fabs(c64[i] - (double)want[i]) <= bound))
            fail_msg("%lldx%lldx%lld trans %d %d: %g (f64 %g), must be %g", (long long)g->m, (long long)g->n,
                     (long long)g->k, g->trans_a, g->trans_b, (double)c[i], c64[i], (double)want[i]);
    }
    assert_memory_equal(c, again, (size_t)n_c * 4);
    free(a), free(b), free(c), free(want), free(again), free(a64), free(b64), free(c64);
}

static void test_shapes(void **state)
{
    (void)state;
    struct pool *pool = pool_new(3);
    assert_non_null(pool);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t t = 0; t < 4 * sizeof scales / sizeof scales[0]; t++) {
            struct gemm g = gemm_plain(t & 1, t & 2, shapes[s].m, shapes[s].n, shapes[s].k);
            g.alpha = scales[t / 4][0];
            g.beta = scales[t / 4][1];
            check(&g, pool);
        }
    }
    pool_free(pool);
}

static void test_batch(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 5, 1);
    const struct gemm g = gemm_plain(false, false, 9, 8, 7);
    const int64_t a_at[] = {0, 63, 0, 63}, b_at[] = {0, 0, 56, 56};
    const struct gemm_batch batch = {4, a_at, b_at, 72};
    float *a = random_floats(&rng, 2 * 63), *b = random_floats(&rng, 2 * 56), c[4 * 72], want[72];

    gemm_batch_f32(NULL, &g, &batch, a, b, c);
    for (int i = 0; i < 4; i++) {
        gemm_f32_naive(&g, a + a_at[i], b + b_at[i], want);
        for (int j = 0; j < 72; j++)
            assert_true(fabsf(c[i * 72 + j] - want[j]) < 1e-4f);
    }
    free(a), free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
