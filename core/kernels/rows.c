/* SPDX-License-Identifier: Apache-2.0
 * rows.c - rows of floats: the portable loops, the choice of the set, and what is made of several loops. */
#define ROW_SET row_set_portable
#include "core/kernels/rows_loops.h"

#include <math.h>

#include "core/kernels/isa.h"

static const struct row_set *best_set(void)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        return &row_set_avx2;
#endif
    return &row_set_portable;
}

float row_sum_f32(const float *x, int64_t n)
{
    return best_set()->sum(x, n);
}

float row_square_sum_f32(const float *x, int64_t n)
{
    return best_set()->square_sum(x, n, 0);
}

float row_max_f32(const float *x, int64_t n)
{
    return best_set()->max(x, n);
}

float row_min_f32(const float *x, int64_t n)
{
    return best_set()->min(x, n);
}

float row_exp_sum_f32(const float *x, int64_t n, float shift, float *y)
{
    return best_set()->exp_sum(x, n, shift, y);
}

void row_affine_f32(const float *x, int64_t n, float scale, float shift, float *y)
{
    best_set()->affine(x, n, scale, shift, y);
}

void row_softmax_f32(const float *x, int64_t n, float *y)
{
    const struct row_set *set = best_set();
    const float sum = set->exp_sum(x, n, set->any_max(x, n), y);
    set->affine(y, n, 1 / sum, 0, y);
}

void row_log_softmax_f32(const float *x, int64_t n, float *y)
{
    enum { PIECE = 512 };
    const struct row_set *set = best_set();
    float e[PIECE], sum = 0;
    const float most = set->any_max(x, n);
    for (int64_t i = 0; i < n; i += PIECE)
        sum += set->exp_sum(x + i, n - i < PIECE ? n - i : PIECE, most, e);
    set->affine(x, n, 1, -most, y);
    // cppcheck-suppress invalidFunctionArg
    set->affine(y, n, 1, -logf(sum), y);
}

void row_normalize_f32(const struct row_norm *norm, const float *x, int64_t n, float *y, float *mean, float *inverse)
{
    const struct row_set *set = best_set();
    *mean = norm->rms ? 0 : set->sum(x, n) / (float)n;
    *inverse = (float)(1 / sqrt((double)set->square_sum(x, n, *mean) / (double)n + norm->epsilon));
    if (y)
        set->normalize(norm, x, n, *mean, *inverse, y);
}

void row_add_rows_f32(const float *x, int64_t rows, int64_t n, float *y)
{
    best_set()->add_rows(x, rows, n, y);
}
