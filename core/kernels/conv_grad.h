/* SPDX-License-Identifier: Apache-2.0
 * conv_grad.h - gradients of the convolution of conv.h: of its image, its weight and its bias.
 *   dx[n, c, q] = sum over m, k, p with q = p * stride + k * dilation - pad of w[m, c, k] dy[n, m, p]
 *   dw[m, c, k] = sum over n, p of dy[n, m, p] x[n, c, p * stride + k * dilation - pad]
 *   db[m]       = sum over n, p of dy[n, m, p]
 * Shapes     as in conv.h: x, dx [batch, c_in, in...], w, dw [c_out, c_in / groups, kernel...], dy [batch, c_out,
 *            out...].
 * Result     `add`: is added to what stands there; otherwise written over it.
 * Transposed convolution y = w^T x has the same three, with the roles of x and dy exchanged: its dx is
 *            conv_f32(dy, w), its dw is conv_weight_grad(x = dy, dy = x).
 * Scratch    conv_*_scratch() bytes, aligned to 64. Threads: the work is cut by shape; sums over images go into a
 *            partial sum for each fixed chunk of images, and these are added in order: the same bits on every pool.
 *            Errors: none. */
#ifndef PARED_KERNELS_CONV_GRAD_H
#define PARED_KERNELS_CONV_GRAD_H

#include "core/kernels/conv.h"

bool conv_data_grad_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes);
void conv_data_grad_f32(struct pool *pool, const struct conv *cv, const float *dy, const float *w, float *dx, bool add,
                        void *scratch);
void conv_data_grad_f64(struct pool *pool, const struct conv *cv, const double *dy, const double *w, double *dx,
                        bool add, void *scratch);

bool conv_weight_grad_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes);
void conv_weight_grad_f32(struct pool *pool, const struct conv *cv, const float *x, const float *dy, float *dw,
                          bool add, void *scratch);
void conv_weight_grad_f64(struct pool *pool, const struct conv *cv, const double *x, const double *dy, double *dw,
                          bool add, void *scratch);

/* dy [batch, channels, cells] */
void conv_bias_grad_f32(struct pool *pool, int64_t batch, int64_t channels, int64_t cells, const float *dy, float *db,
                        bool add);
void conv_bias_grad_f64(struct pool *pool, int64_t batch, int64_t channels, int64_t cells, const double *dy, double *db,
                        bool add);

#endif
