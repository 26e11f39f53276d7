/* SPDX-License-Identifier: Apache-2.0
 * Packed integer products: every panel of this CPU, both widths, row and column tails, tables of rows and several runs,
 * against sums in 64-bit integers; and the three ends. The 8-bit element loops of q8.h against their formulas. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/isa.h"
#include "core/kernels/q8.h"
#include "core/kernels/qgemm.h"

enum { MOST_ROWS = 13, MOST_COLS = 40, MOST_DEPTH = 3 * 40, SPAN = 8192 };
static int16_t a[SPAN];
static int8_t w[MOST_COLS * MOST_DEPTH];
static int64_t row_at[MOST_ROWS], run_at[3];
static int32_t bias[MOST_COLS + 8];
static float multiplier[MOST_COLS + 8], float_bias[MOST_COLS + 8];

/* W[column][run][element] as it lies in w. */
static int64_t place(const void *arg, int64_t column, int64_t run, int64_t element)
{
    const struct qgemm_shape *s = arg;
    return (column * s->runs + run) * s->length + element;
}

static int64_t sum_of(const struct qgemm_shape *s, int64_t row, int64_t column, const int32_t *zero)
{
    int64_t sum = 0;
    for (int64_t u = 0; u < s->runs; u++)
        for (int64_t e = 0; e < s->length; e++)
            sum += (int64_t)a[row_at[row] + run_at[u] + e] * (w[place(s, column, u, e)] - zero[column]);
    return sum;
}

static void fill(struct rng *rng)
{
    for (int i = 0; i < SPAN; i++)
        a[i] = (int16_t)(rng_below(rng, 3) ? (int)rng_below(rng, 511) - 255 : rng_below(rng, 2) ? 255 : -255);
    for (size_t i = 0; i < sizeof w; i++)
        w[i] = rng_below(rng, 3) ? (int8_t)rng_u64(rng) : rng_below(rng, 2) ? 127 : -128;
    for (int i = 0; i < MOST_ROWS; i++)
        row_at[i] = (int64_t)rng_below(rng, SPAN / 2);
    for (int i = 0; i < 3; i++)
        run_at[i] = (int64_t)rng_below(rng, SPAN / 4);
    for (int i = 0; i < MOST_COLS + 8; i++) {
        bias[i] = (int32_t)rng_below(rng, 100000) - 50000;
        multiplier[i] = (float)(1 + rng_below(rng, 100)) * 1e-5f;
        float_bias[i] = (float)rng_below(rng, 100) * 0.25f;
    }
}

static void check_end(const struct qgemm_shape *s, struct qgemm_job *job, int64_t rows, const int32_t *zero,
                      enum qgemm_end end)
{
    static char y[MOST_ROWS * MOST_COLS * 4];
    job->out = (struct qgemm_out){.end = end, .zero = 7, .low = 3, .high = 255, .bias = bias, .multiplier = multiplier,
                                  .float_bias = float_bias};
    const int64_t elem = end == QGEMM_BYTES ? 1 : 4;
    const struct qgemm_rows m = {.a = a, .at = row_at, .count = rows, .y = y, .y_step = s->columns * elem};
    memset(y, 0xee, sizeof y);
    qgemm(job, &m, 0, qgemm_panels(s));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < s->columns; j++) {
            const int32_t sum = (int32_t)(sum_of(s, r, j, zero) + bias[j]);
            const char *at = y + (r * s->columns + j) * elem;
            const float scaled = (float)sum * multiplier[j];
            if (end == QGEMM_SUMS)
                assert_int_equal(*(const int32_t *)(const void *)at, sum);
            else if (end == QGEMM_FLOAT)
                assert_float_equal(*(const float *)(const void *)at, scaled + float_bias[j], 0);
            else
                assert_int_equal(*(const uint8_t *)at, (int)fminf(fmaxf(nearbyintf(scaled) + 7, 3), 255));
        }
    for (size_t i = (size_t)(rows * s->columns * elem); i < sizeof y; i++)
        assert_int_equal((uint8_t)y[i], 0xee); /* nothing beyond */
}

static void check_shape(const struct qgemm_shape *s, int64_t rows, bool with_zeros)
{
    static const enum isa limits[] = {ISA_PORTABLE, ISA_AVX2, ISA_KINDS};
    int32_t zero[MOST_COLS];
    for (int j = 0; j < MOST_COLS; j++)
        zero[j] = with_zeros ? j * 6 - 120 : 0;
    const struct qgemm_source source = {.data = w, .is_signed = true, .zero = zero, .zero_columns = true, .place = place,
                                        .arg = s};
    for (int wide = !qgemm_fits_bytes(s, &source); wide < 2; wide++) {
        void *packed = aligned_alloc(64, ((size_t)qgemm_packed_count(s) * 2 + 127) / 64 * 64);
        assert_non_null(packed);
        qgemm_pack(s, &source, wide, packed);
        struct qgemm_job job = {.shape = *s, .at = run_at, .packed = packed, .wide = wide};
        for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
            isa_limit(limits[l]);
            check_end(s, &job, rows, zero, QGEMM_SUMS);
            check_end(s, &job, rows, zero, QGEMM_FLOAT);
            check_end(s, &job, rows, zero, QGEMM_BYTES);
        }
        isa_limit(ISA_KINDS);
        free(packed);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 41, 0);
    for (int i = 0; i < 120; i++) {
        fill(&rng);
        const struct qgemm_shape s = {.runs = 1 + (int64_t)rng_below(&rng, 3), .length = 1 + (int64_t)rng_below(&rng, 40),
                                      .columns = 1 + (int64_t)rng_below(&rng, MOST_COLS)};
        check_shape(&s, 1 + i % MOST_ROWS, i % 2);
    }
}

static void test_widen(void **state)
{
    (void)state;
    uint8_t x[256];
    int16_t y[256];
    for (int i = 0; i < 256; i++)
        x[i] = (uint8_t)i;
    qgemm_widen(x, 256, false, 255, y);
    for (int i = 0; i < 256; i++)
        assert_int_equal(y[i], i - 255);
    qgemm_widen(x, 256, true, -128, y);
    for (int i = 0; i < 256; i++)
        assert_int_equal(y[i], (int8_t)i + 128);
}

/* All pairs of bytes: within one unit of the real result everywhere, equal on every path. */
static void check_binary(bool is_signed, bool multiply)
{
    static uint8_t x[65536], z[65536], got[65536], portable[65536];
    const int32_t lift = is_signed ? -128 : 0;
    const struct q8_binary op = {.a = {0.031f, 120 + lift, is_signed}, .b = {0.047f, 9 + lift, is_signed},
                                 .y = {multiply ? 0.09f : 0.06f, 70 + lift, is_signed}, .low = lift, .high = lift + 255};
    for (int i = 0; i < 65536; i++)
        x[i] = (uint8_t)i, z[i] = (uint8_t)(i >> 8);
    (multiply ? q8_mul : q8_add)(&op, x, z, got, 65536, 1, 1);
    isa_limit(ISA_PORTABLE);
    (multiply ? q8_mul : q8_add)(&op, x, z, portable, 65536, 1, 1);
    isa_limit(ISA_KINDS);
    assert_memory_equal(got, portable, sizeof got);
    for (int i = 0; i < 65536; i++) {
        const double a_real = (double)q8_real(&op.a, x[i]), b_real = (double)q8_real(&op.b, z[i]);
        const double v = (multiply ? a_real * b_real : a_real + b_real) / (double)op.y.scale + op.y.zero;
        const double stored = is_signed ? (int8_t)got[i] : got[i];
        assert_true(fabs(fmin(fmax(v, op.low), op.high) - stored) <= 0.5 + 1e-3);
    }
    uint8_t row[256], one[256];
    for (int i = 0; i < 256; i++) { /* one operand repeated, either side */
        (multiply ? q8_mul : q8_add)(&op, x, z + i * 256, row, 256, 1, 0);
        assert_memory_equal(row, got + i * 256, 256);
    }
    (multiply ? q8_mul : q8_add)(&op, x + 5, z, one, 256, 0, 0);
    for (int i = 0; i < 256; i++)
        assert_int_equal(one[i], got[5]);
}

static void test_binary(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        check_binary(i & 1, i & 2);
}

static void test_quantize(void **state)
{
    (void)state;
    const float x[] = {0, 0.25f, 0.75f, 1.25f, -1e30f, 1e30f, NAN, INFINITY, -INFINITY, -0.25f};
    const uint8_t want_unsigned[] = {100, 100, 102, 102, 0, 255, 0, 255, 0, 100};
    const int8_t want_signed[] = {-3, -3, -1, -1, -128, 127, -128, 127, -128, -3};
    uint8_t y[10];
    q8_quantize(&(struct q8){0.5f, 100, false}, x, y, 10);
    assert_memory_equal(y, want_unsigned, 10);
    q8_quantize(&(struct q8){0.5f, -3, true}, x, y, 10);
    assert_memory_equal(y, want_signed, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_widen),
                                       cmocka_unit_test(test_binary), cmocka_unit_test(test_quantize)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
