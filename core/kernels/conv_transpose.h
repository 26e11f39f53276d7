/* SPDX-License-Identifier: Apache-2.0
 * conv_transpose.h - transposed convolution, the gradient of a convolution with respect to its image:
 *   y[n, m, q] = bias[m] + sum over c, p, k with q = p * stride + k * dilation - pad of w[c, m, k] * x[n, c, p].
 * Shapes     x [batch, c_in, w.out...], weight [c_in, c_out / groups, kernel...], y [batch, c_out, w.in...]: the
 *            window is that of the convolution it transposes, so `out` is the size of x and `in` the size of y.
 * Scratch    conv_transpose_scratch() bytes for a pool of that many lanes. Threads and errors as in conv.h. */
#ifndef PARED_KERNELS_CONV_TRANSPOSE_H
#define PARED_KERNELS_CONV_TRANSPOSE_H

#include "core/kernels/conv.h"

bool conv_transpose_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes);
void conv_transpose_f32(struct pool *pool, const struct conv *cv, const float *x, const float *weight,
                        const float *bias, float *y, float *scratch);
void conv_transpose_f64(struct pool *pool, const struct conv *cv, const double *x, const double *weight,
                        const double *bias, double *y, double *scratch);

#endif
