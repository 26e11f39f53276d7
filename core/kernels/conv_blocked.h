/* SPDX-License-Identifier: Apache-2.0
 * conv_blocked.h - 2-D float32 convolutions whose result is in the blocked layout (blocked.h), with packed weights and
 * a fused end: y = act(bias + residual + convolution).
 * Algorithms DIRECT     any kernel, stride, dilation, padding; groups of a multiple of 8 channels. x blocked.
 *            FIRST      few input channels: x is a plain image, [N, C, H, W] or [N, H, W, C]. One group.
 *            DEPTHWISE  every channel by itself (groups = c_in = c_out). x blocked.
 *            WINOGRAD2, WINOGRAD4   F(2x2, 3x3) and F(4x4, 3x3) of Winograd's minimal filtering (Lavin and Gray, "Fast
 *                       Algorithms for Convolutional Neural Networks", 2015): 3x3, stride 1, no dilation, one group.
 * Shapes     x [batch, ceil(c_in / 8), H, W, 8] (FIRST: plain), packed weights conv_blocked_weights() floats, bias
 *            [ceil(c_out / 8) * 8], padded with zeros, or NULL, residual as y or NULL, y [batch, ceil(c_out / 8), OH,
 *            OW, 8]. residual may be y. Lanes of y beyond c_out are act(residual), finite if the residual's are.
 * Scratch    conv_blocked_scratch() bytes, aligned to 64, for a pool of that many lanes.
 * Threads    the work is cut by shape, never by thread count: same bits on every pool. Errors: none; the caller has
 *            asked conv_blocked_fits. */
#ifndef PARED_KERNELS_CONV_BLOCKED_H
#define PARED_KERNELS_CONV_BLOCKED_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/pool.h"
#include "core/kernels/act.h"
#include "core/kernels/blocked.h"

enum conv_algorithm { CONV_DIRECT, CONV_FIRST, CONV_DEPTHWISE, CONV_WINOGRAD2, CONV_WINOGRAD4, CONV_ALGORITHMS };
/* "direct", ..., NULL-terminated. */
extern const char *const conv_algorithm_names[];

/* Arrays are [height, width]. Extents may be -1 (unknown) for conv_blocked_choose. */
struct conv_blocked {
    enum conv_algorithm algorithm;
    bool channels_last; /* FIRST: x is [N, H, W, C] */
    int64_t batch, c_in, c_out, groups;
    int64_t in[2], out[2], kernel[2], stride[2], dilation[2];
    int64_t pad[2]; /* before the image */
    struct act act;
};

/* The fastest algorithm by a model of the work; x_plain: x is at hand as a plain image. CONV_ALGORITHMS: none can. */
enum conv_algorithm conv_blocked_choose(const struct conv_blocked *cv, bool x_plain);
/* The algorithm can do this geometry; with known extents also: every offset fits the kernels' integers. */
bool conv_blocked_fits(const struct conv_blocked *cv);
/* Floats of the packed weight; -1 on overflow. */
int64_t conv_blocked_weights(const struct conv_blocked *cv);
/* weight: [c_out, c_in / groups, kh, kw] as ONNX has it. */
void conv_blocked_pack(const struct conv_blocked *cv, const float *weight, float *packed);
/* Bytes; false on overflow. */
bool conv_blocked_scratch(const struct conv_blocked *cv, int lanes, size_t *bytes);

struct conv_blocked_io {
    const float *x, *weight, *bias, *residual;
    float *y;
    void *scratch;
};
void conv_blocked_f32(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io);

#endif
