/* SPDX-License-Identifier: Apache-2.0
 * rows.h - what is done to whole rows of floats: softmax and its parts, layer normalization, sums and extremes.
 * Sums       are kept in four vectors of floats, joined in a fixed order: the same bits for the same row, whatever its
 *            alignment. Means of squares are taken around the mean (two passes over a row in the cache).
 * Sets       AVX2 and portable; their last bits differ. Errors: none. n > 0. In and out may be the same row. */
#ifndef PARED_KERNELS_ROWS_H
#define PARED_KERNELS_ROWS_H

#include <stdbool.h>
#include <stdint.h>

/* Longest row whose sums of floats are as good as they need be; longer ones: norm.h. */
enum { ROW_SUM_MAX = 1 << 15 };

float row_sum_f32(const float *x, int64_t n);
float row_square_sum_f32(const float *x, int64_t n);
/* NaN if there is one. */
float row_max_f32(const float *x, int64_t n);
float row_min_f32(const float *x, int64_t n);
/* y[i] = e^(x[i] - shift), for x - shift up to 88; 0 where it is below -87. The sum of y. */
float row_exp_sum_f32(const float *x, int64_t n, float shift, float *y);
/* y[i] = x[i] * scale + shift */
void row_affine_f32(const float *x, int64_t n, float scale, float shift, float *y);
/* y = e^(x - max) / sum of these */
void row_softmax_f32(const float *x, int64_t n, float *y);
/* y[i] = x[i] - max - ln sum e^(x - max) */
void row_log_softmax_f32(const float *x, int64_t n, float *y);

/* y = (x - mean) * inverse * scale + bias, inverse = 1 / sqrt(variance + epsilon); rms: mean 0. scale and bias [n],
 * either NULL. *mean and *inverse are given back. */
struct row_norm {
    const float *scale, *bias;
    double epsilon;
    bool rms;
};
void row_normalize_f32(const struct row_norm *norm, const float *x, int64_t n, float *y, float *mean, float *inverse);

/* y[j] += x[i][j] over rows i: sums over a leading axis. y is set, not added to. */
void row_add_rows_f32(const float *x, int64_t rows, int64_t n, float *y);

#endif
