/* SPDX-License-Identifier: Apache-2.0
 * batchnorm.h - one channel of a batch normalization: moments of a batch, and its gradients.
 *   y = (x - mean) r scale + bias with r = 1 / sqrt(variance + epsilon)
 * Shapes     a channel's values lie in `batch` planes of `cells` contiguous values, `step` values apart.
 * Frozen     dx = r scale dy.    Batch moments   dx = r scale (dy - mean(dy) - (x - mean) r^2 mean(dy (x - mean))).
 * Both       dscale = r sum dy (x - mean), dbias = sum dy.
 * Sums are in double; of float32 values the squares are exact there, so moments take one pass; of float64 values
 * two. */
#ifndef PARED_KERNELS_BATCHNORM_H
#define PARED_KERNELS_BATCHNORM_H

#include <stdbool.h>
#include <stdint.h>

struct bn_planes {
    int64_t batch, cells, step;
};

void bn_moments_f32(const struct bn_planes *p, const float *x, double *mean, double *variance);
void bn_moments_f64(const struct bn_planes *p, const double *x, double *mean, double *variance);
/* sum of dy, and of dy (x - mean) */
void bn_grad_sums_f32(const struct bn_planes *p, const float *x, const float *dy, double mean, double *sum,
                      double *dot);
void bn_grad_sums_f64(const struct bn_planes *p, const double *x, const double *dy, double mean, double *sum,
                      double *dot);
/* dx = or += a dy + b x + c */
void bn_grad_data_f32(const struct bn_planes *p, const float *x, const float *dy, double a, double b, double c,
                      float *dx, bool add);
void bn_grad_data_f64(const struct bn_planes *p, const double *x, const double *dy, double a, double b, double c,
                      double *dx, bool add);

#endif
