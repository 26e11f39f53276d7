/* SPDX-License-Identifier: Apache-2.0
 * Integer convolutions: every path of this CPU, both widths of packed weights and every thread count against the
 * definition in 64-bit integers, with extreme values; then the requantized bytes against the formula. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/kernels/isa.h"
#include "core/kernels/qconv.h"

struct geometry {
    int64_t batch, c_in, c_out, groups, h, w, kh, kw, sh, sw, dh, dw, top, left, bottom, right;
};
static const struct geometry geometries[] = {
    {1, 3, 16, 1, 9, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},   /* first layer */
    {1, 3, 20, 1, 15, 14, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3},  /* odd run, partial panel */
    {2, 16, 24, 1, 7, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},   /* pointwise, flat */
    {1, 17, 33, 1, 8, 9, 1, 1, 2, 3, 1, 1, 0, 1, 0, 0},   /* pointwise with strides and a pad */
    {1, 8, 5, 1, 9, 9, 3, 2, 2, 1, 2, 3, 1, 2, 0, 1},     /* dilated */
    {1, 12, 18, 3, 6, 7, 3, 3, 1, 2, 1, 1, 1, 0, 1, 1},   /* groups */
    {2, 5, 15, 5, 6, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},    /* one channel in, three out */
    {1, 24, 24, 24, 11, 13, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, /* depthwise */
    {2, 7, 7, 7, 9, 6, 5, 4, 2, 2, 1, 2, 2, 3, 2, 3},
    {1, 33, 33, 33, 1, 9, 1, 3, 1, 1, 1, 1, 0, 1, 0, 1},
    {1, 64, 17, 1, 60, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},  /* more than one band */
    {1, 48, 48, 48, 50, 61, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
    {1, 300, 130, 1, 5, 4, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
};

static int64_t out_size(int64_t in, int64_t pads, int64_t k, int64_t d, int64_t s)
{
    return (in + pads - ((k - 1) * d + 1)) / s + 1;
}

static struct qconv make(const struct geometry *g, int variant)
{
    return (struct qconv){.batch = g->batch, .c_in = g->c_in, .c_out = g->c_out, .groups = g->groups, .in_h = g->h,
                          .in_w = g->w, .kernel_h = g->kh, .kernel_w = g->kw, .stride_h = g->sh, .stride_w = g->sw,
                          .dilation_h = g->dh, .dilation_w = g->dw, .pad_top = g->top, .pad_left = g->left,
                          .out_h = out_size(g->h, g->top + g->bottom, g->kh, g->dh, g->sh),
                          .out_w = out_size(g->w, g->left + g->right, g->kw, g->dw, g->sw),
                          .x_signed = variant & 1, .x_zero = variant & 1 ? -128 : 255};
}

/* Extremes often: pairs of them are what a saturating instruction gets wrong. */
static void *random_bytes(struct rng *rng, int64_t n)
{
    static const uint8_t extremes[] = {0, 255, 127, 128};
    uint8_t *out = malloc((size_t)n);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++)
        out[i] = rng_below(rng, 2) ? extremes[rng_below(rng, 4)] : (uint8_t)rng_u64(rng);
    return out;
}

static void *allocate(int64_t n, size_t elem)
{
    void *out = aligned_alloc(64, ((size_t)n * elem + 127) / 64 * 64);
    assert_non_null(out);
    return out;
}

struct arrays {
    uint8_t *x, *w;
    int32_t *w_zero, *bias, *padded_bias;
    float *multiplier, *padded_multiplier;
    int64_t *want;
    void *packed, *y;
    int64_t outputs;
};

static void check_sums(struct qconv q, const struct arrays *a, struct pool *pool)
{
    size_t bytes;
    q.out = (struct qgemm_out){.end = QGEMM_SUMS};
    assert_true(qconv_scratch(&q, pool ? pool_threads(pool) : 1, &bytes));
    void *scratch = allocate((int64_t)bytes, 1);
    memset(a->y, 0xee, (size_t)a->outputs * 4);
    qconv(pool, &q, a->x, a->packed, a->y, scratch);
    for (int64_t i = 0; i < a->outputs; i++)
        assert_int_equal(((int32_t *)a->y)[i], (int32_t)a->want[i]);
    free(scratch);
}

static void check_bytes(struct qconv q, const struct arrays *a, bool is_signed)
{
    size_t bytes;
    q.out = (struct qgemm_out){.end = QGEMM_BYTES, .is_signed = is_signed, .zero = is_signed ? -5 : 131,
                               .low = is_signed ? -5 : 0, .high = is_signed ? 127 : 250, .bias = a->padded_bias,
                               .multiplier = a->padded_multiplier};
    assert_true(qconv_scratch(&q, 1, &bytes));
    void *scratch = allocate((int64_t)bytes, 1);
    qconv(NULL, &q, a->x, a->packed, a->y, scratch);
    for (int64_t i = 0; i < a->outputs; i++) {
        const int64_t m = i % q.c_out;
        float v = nearbyintf((float)(int32_t)(a->want[i] + a->bias[m]) * a->multiplier[m]) + (float)q.out.zero;
        v = fminf(fmaxf(v, (float)q.out.low), (float)q.out.high);
        assert_int_equal(is_signed ? ((int8_t *)a->y)[i] : ((uint8_t *)a->y)[i], (int32_t)v);
    }
    q.out.end = QGEMM_FLOAT;
    q.out.float_bias = NULL;
    qconv(NULL, &q, a->x, a->packed, a->y, scratch);
    for (int64_t i = 0; i < a->outputs; i++)
        assert_float_equal(((float *)a->y)[i],
                           (float)(int32_t)(a->want[i] + a->bias[i % q.c_out]) * a->multiplier[i % q.c_out], 0);
    free(scratch);
}

static void check(const struct geometry *g, int variant)
{
    static const enum isa limits[] = {ISA_PORTABLE, ISA_AVX2, ISA_KINDS};
    struct rng rng;
    rng_init(&rng, 5, (uint64_t)variant);
    struct qconv q = make(g, variant);
    const int64_t n_w = g->c_out * (g->c_in / g->groups) * g->kh * g->kw;
    const bool full = variant & 2; /* zero points that need int16 */
    struct arrays a = {.outputs = q.batch * q.out_h * q.out_w * q.c_out};
    a.x = random_bytes(&rng, g->batch * g->c_in * g->h * g->w);
    a.w = random_bytes(&rng, n_w);
    a.w_zero = allocate(g->c_out, 4), a.bias = allocate(g->c_out, 4), a.multiplier = allocate(g->c_out, 4);
    for (int64_t i = 0; i < g->c_out; i++) {
        a.w_zero[i] = full ? (int32_t)rng_below(&rng, 256) : 0;
        a.bias[i] = (int32_t)rng_below(&rng, 20000) - 10000;
        a.multiplier[i] = 1e-5f * (float)(1 + rng_below(&rng, 300));
    }
    const struct qconv_weight w = {.data = a.w, .is_signed = !full, .zero_channels = true, .zero = a.w_zero};
    a.want = allocate(a.outputs, 8);
    a.y = allocate(a.outputs, 4);
    qconv_naive(&q, &w, a.x, a.want);
    a.padded_bias = allocate(qconv_padded(&q), 4), a.padded_multiplier = allocate(qconv_padded(&q), 4);
    qconv_spread(&q, a.bias, a.padded_bias);
    qconv_spread(&q, a.multiplier, a.padded_multiplier);
    if (!full)
        assert_true(qconv_is_depthwise(&q) || qconv_fits_bytes(&q, &w));
    for (int wide = full || qconv_is_depthwise(&q); wide < 2; wide++) {
        q.wide = wide;
        a.packed = allocate(qconv_packed_count(&q), 2);
        qconv_pack(&q, &w, a.packed);
        for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
            isa_limit(limits[l]);
            for (int threads = 1; threads <= 3; threads++) {
                struct pool *pool = pool_new(threads);
                assert_non_null(pool);
                check_sums(q, &a, pool);
                pool_free(pool);
            }
            check_bytes(q, &a, false);
            check_bytes(q, &a, true);
        }
        isa_limit(ISA_KINDS);
        free(a.packed);
    }
    free(a.x), free(a.w), free(a.w_zero), free(a.bias), free(a.multiplier), free(a.want), free(a.y);
    free(a.padded_bias), free(a.padded_multiplier);
}

static void test_paths(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof geometries / sizeof geometries[0]; i++)
        for (int variant = 0; variant < 4; variant++)
            check(&geometries[i], variant);
}

/* Every weight and every value at its extreme, of both signs: the largest sums there are. */
static void test_extremes(void **state)
{
    (void)state;
    static const uint8_t values[] = {0, 127, 128, 255};
    enum { K = 70, N = 20, M = 7 };
    static uint8_t x[M * K], w[N * K];
    static int32_t y[M * N];
    const int32_t zero = 0;
    for (int i = 0; i < 64; i++) {
        struct qconv q = {.batch = 1, .c_in = K, .c_out = N, .groups = 1, .in_h = M, .in_w = 1, .out_h = M, .out_w = 1,
                          .kernel_h = 1, .kernel_w = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1,
                          .x_signed = i & 1, .out = {.end = QGEMM_SUMS}};
        const struct qconv_weight weight = {.data = w, .is_signed = i & 2, .zero = &zero};
        memset(x, values[i / 4 % 4], sizeof x);
        memset(w, values[i / 16], sizeof w);
        q.wide = !qconv_fits_bytes(&q, &weight);
        void *packed = allocate(qconv_packed_count(&q), 2);
        size_t bytes;
        assert_true(qconv_scratch(&q, 1, &bytes));
        void *scratch = allocate((int64_t)bytes, 1);
        qconv_pack(&q, &weight, packed);
        qconv(NULL, &q, x, packed, y, scratch);
        const int32_t xv = i & 1 ? (int8_t)x[0] : x[0], wv = i & 2 ? (int8_t)w[0] : w[0];
        for (int k = 0; k < M * N; k++)
            assert_int_equal(y[k], K * xv * wv);
        free(packed), free(scratch);
    }
}

static void test_overflow(void **state)
{
    (void)state;
    size_t bytes;
    struct qconv q = {.batch = 1, .c_in = INT64_MAX / 2, .c_out = INT64_MAX / 3, .groups = 1, .in_h = 4, .in_w = 4,
                      .out_h = 4, .out_w = 4, .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1,
                      .dilation_h = 1, .dilation_w = 1};
    assert_false(qconv_scratch(&q, 2, &bytes));
    assert_int_equal(qconv_packed_count(&q), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_paths), cmocka_unit_test(test_extremes),
                                       cmocka_unit_test(test_overflow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
