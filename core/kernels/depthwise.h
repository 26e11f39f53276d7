/* SPDX-License-Identifier: Apache-2.0
 * depthwise.h - 2-D convolution in which every group has one input channel: direct, without unfolding.
 * Shapes     x [batch, groups, h, w], weight [c_out, 1, kh, kw], y [batch, c_out, oh, ow], c_out a multiple of
 *            groups.
 * A product with K = kh * kw and few rows wastes a matrix multiplication; here the rows of the image are streamed
 * once per tap. */
#ifndef PARED_KERNELS_DEPTHWISE_H
#define PARED_KERNELS_DEPTHWISE_H

#include "core/kernels/conv.h"

/* cv->w.rank must be 2 and cv->groups == cv->c_in. */
void depthwise_f32(struct pool *pool, const struct conv *cv, const float *x, const float *weight, const float *bias,
                   float *y);

#endif
