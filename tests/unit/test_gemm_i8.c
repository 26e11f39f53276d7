/* SPDX-License-Identifier: Apache-2.0
 * 8-bit products: every path of this CPU against the three loops, with extreme values and every kind of zero point. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/conv_i8.h"
#include "core/kernels/gemm_i8.h"

static const int64_t shapes[][3] = {{1, 1, 1},     {4, 16, 2},     {3, 17, 5},  {5, 15, 0},
                                    {65, 33, 257}, {130, 40, 511}, {7, 300, 64}};

/* 0 or 255 often: pairs of extremes are what a saturating instruction gets wrong. */
static uint8_t *random_bytes(struct rng *rng, int64_t n)
{
    static const uint8_t extremes[] = {0, 255, 127, 128};
    uint8_t *out = malloc((size_t)n + 1);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++)
        out[i] = rng_below(rng, 2) ? extremes[rng_below(rng, 4)] : (uint8_t)rng_u64(rng);
    return out;
}

static void check(const int64_t shape[3], int variant, struct pool *pool)
{
    struct rng rng;
    rng_init(&rng, 17, (uint64_t)variant);
    struct gemm_i8 g = {.m = shape[0],
                        .n = shape[1],
                        .k = shape[2],
                        .lda = shape[2] + 3,
                        .ldb = shape[1] + 1,
                        .ldc = shape[1] + 2,
                        .a_signed = variant & 1,
                        .b_signed = variant & 2,
                        .a_zero_rows = variant & 4,
                        .b_zero_columns = variant & 8};
    uint8_t *a = random_bytes(&rng, g.m * g.lda), *b = random_bytes(&rng, (g.k + 1) * g.ldb);
    int32_t *a_zero = malloc((size_t)g.m * 4), *b_zero = malloc((size_t)g.n * 4);
    const size_t bytes = (size_t)(g.m * g.ldc) * 4;
    int32_t *want = calloc(1, bytes), *got = calloc(1, bytes);

    assert_true(a_zero && b_zero && want && got);
    for (int64_t i = 0; i < g.m; i++)
        a_zero[i] = (int32_t)rng_below(&rng, 256) - (g.a_signed ? 128 : 0);
    for (int64_t i = 0; i < g.n; i++)
        b_zero[i] = (int32_t)rng_below(&rng, 256) - (g.b_signed ? 128 : 0);
    g.a_zero = a_zero;
    g.b_zero = b_zero;
    gemm_i8_naive(&g, a, b, want);
    for (int path = 0; path < GEMM_I8_PATHS; path++) {
        if (!gemm_i8_has((enum gemm_i8_path)path))
            continue;
        memset(got, 0, bytes);
        gemm_i8_with((enum gemm_i8_path)path, &g, a, b, got);
        assert_memory_equal(want, got, bytes);
    }
    memset(got, 0, bytes);
    gemm_i8(pool, &g, a, b, got);
    assert_memory_equal(want, got, bytes);
    free(a), free(b), free(a_zero), free(b_zero), free(want), free(got);
}

static void test_paths(void **state)
{
    (void)state;
    struct pool *pool = pool_new(2);
    assert_non_null(pool);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int variant = 0; variant < 16; variant++)
            check(shapes[s], variant, pool);
    pool_free(pool);
}

/* Against the float convolution, exact for these small integers. */
static void test_conv(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 23, 0);
    const struct conv_i8 base = {.shape = {.w = {.rank = 2,
                                                 .in = {9, 10},
                                                 .out = {5, 10},
                                                 .kernel = {3, 3},
                                                 .stride = {2, 1},
                                                 .dilation = {1, 1},
                                                 .pad = {1, 1},
                                                 .pad_end = {1, 1}},
                                           .batch = 2,
                                           .groups = 2,
                                           .c_in = 6,
                                           .c_out = 8},
                                 .x_signed = false,
                                 .w_signed = true,
                                 .x_zero = 131,
                                 .w_zero_channels = true};
    const int32_t w_zero[8] = {0, 1, -2, 3, 0, 5, -6, 7};
    enum { N_X = 2 * 6 * 90, N_W = 8 * 3 * 9, N_Y = 2 * 8 * 50 };
    static uint8_t x[N_X], w[N_W];
    static float xf[N_X], wf[N_W], want[N_Y];
    static int32_t got[N_Y];
    struct conv_i8 cv = base;
    size_t bytes;

    cv.w_zero = w_zero;
    for (int i = 0; i < N_X; i++) {
        x[i] = (uint8_t)rng_u64(&rng);
        xf[i] = (float)(x[i] - 131);
    }
    for (int i = 0; i < N_W; i++) {
        w[i] = (uint8_t)rng_u64(&rng);
        wf[i] = (float)((int8_t)w[i] - w_zero[i / 27]);
    }
    assert_true(conv_i8_scratch(&cv, 1, &bytes));
    void *scratch = malloc(bytes);
    assert_non_null(scratch);
    conv_i8(NULL, &cv, x, w, got, scratch);
    conv_f32_naive(&cv.shape, xf, wf, NULL, want);
    for (int i = 0; i < N_Y; i++)
        assert_int_equal(got[i], (int32_t)want[i]);
    free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_paths), cmocka_unit_test(test_conv)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
