/* SPDX-License-Identifier: Apache-2.0
 * conv.h - N-d convolution: y[n, m, p] = bias[m] + sum over c, k of w[m, c, k] * x[n, group(m) * C/G + c, position(p,
 * k)].
 * Shapes     x [batch, c_in, in...], weight [c_out, c_in / groups, kernel...], bias [c_out] or NULL, y [batch, c_out,
 *            out...].
 * Scratch    conv_scratch() bytes, aligned to 64, for a pool of that many lanes; the contents mean nothing between
 *            calls.
 * Threads    the work is cut by shape, never by thread count: same bits on every pool. Errors: none; shapes were
 *            checked before. */
#ifndef PARED_KERNELS_CONV_H
#define PARED_KERNELS_CONV_H

#include "core/base/pool.h"
#include "core/kernels/im2col.h"

struct conv {
    struct window w;
    int64_t batch, groups, c_in, c_out;
};

/* Bytes, or false on overflow. elem_bytes: 4 (f32) or 8 (f64). */
bool conv_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes);
void conv_f32(struct pool *pool, const struct conv *cv, const float *x, const float *weight, const float *bias,
              float *y, void *scratch);
void conv_f64(struct pool *pool, const struct conv *cv, const double *x, const double *weight, const double *bias,
              double *y, void *scratch);
/* The definition, loop by loop, summed in double: the oracle. */
void conv_f32_naive(const struct conv *cv, const float *x, const float *weight, const float *bias, float *y);

#endif
