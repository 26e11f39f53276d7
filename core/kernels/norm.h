/* SPDX-License-Identifier: Apache-2.0
 * norm.h - building blocks of normalizations over contiguous rows. Sums are kept in double, in eight lanes joined in
 * a fixed order. */
#ifndef PARED_KERNELS_NORM_H
#define PARED_KERNELS_NORM_H

#include <stdint.h>

/* Mean and population variance of n > 0 values (two passes). */
void norm_moments_f32(const float *x, int64_t n, double *mean, double *variance);
void norm_moments_f64(const double *x, int64_t n, double *mean, double *variance);
/* Mean of squares of n > 0 values. */
double norm_mean_square_f32(const float *x, int64_t n);
double norm_mean_square_f64(const double *x, int64_t n);
/* y[i] = x[i] * scale + shift */
void norm_affine_f32(const float *x, int64_t n, float scale, float shift, float *y);
void norm_affine_f64(const double *x, int64_t n, double scale, double shift, double *y);

#endif
