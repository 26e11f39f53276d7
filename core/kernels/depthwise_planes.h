/* SPDX-License-Identifier: Apache-2.0
 * depthwise_planes.h - depthwise 2-D convolution of a batch of small planes, and its gradients.
 * Idea       Planes of 7 x 7 have rows that fill no vector. So 16 images of a channel are laid side by side,
 *            [cells][16]: every tap is then one weight times whole vectors, whatever the plane's size, stride and
 *            padding.
 * Sums       forward: bias, then the taps inside the image in row-major order, the very sum of depthwise_f32. Weight:
 *            lane by lane over the places of 16 images, lanes and images added in double, in order.
 * Where      depthwise_planes_fits: float32, one output channel a group, at least 12 images, planes that stay in the
 *            second-level cache.
 * Shapes     as in conv.h and conv_grad.h. Scratch: depthwise_planes_scratch() bytes, aligned to 64, for all three.
 *            Threads: a task is a channel (weight), or a channel of 16 images: the same bits on every pool. Errors:
 *            none. */
#ifndef PARED_KERNELS_DEPTHWISE_PLANES_H
#define PARED_KERNELS_DEPTHWISE_PLANES_H

#include "core/kernels/conv.h"

bool depthwise_planes_fits(const struct conv *cv);
bool depthwise_planes_scratch(const struct conv *cv, int lanes, size_t *bytes);
void depthwise_planes_forward(struct pool *pool, const struct conv *cv, const float *x, const float *w,
                              const float *bias, float *y, void *scratch);
/* `add`: to what stands in dx or dw; otherwise written over it. */
void depthwise_planes_data(struct pool *pool, const struct conv *cv, const float *dy, const float *w, float *dx,
                           bool add, void *scratch);
void depthwise_planes_weight(struct pool *pool, const struct conv *cv, const float *x, const float *dy, float *dw,
                             bool add, void *scratch);

#endif
