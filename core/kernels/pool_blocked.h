/* SPDX-License-Identifier: Apache-2.0
 * pool_blocked.h - maximum and average over 2-D windows of float32 images in the blocked layout (blocked.h).
 * Shapes     x [planes, H, W, 8], y [planes, OH, OW, 8], planes = batch times blocks. Every window has a cell inside
 *            the image. Threads: cut by planes and rows, by shape only. */
#ifndef PARED_KERNELS_POOL_BLOCKED_H
#define PARED_KERNELS_POOL_BLOCKED_H

#include <stdbool.h>

#include "core/kernels/blocked.h"
#include "core/kernels/im2col.h"

struct pool_blocked {
    struct window w; /* rank 2 */
    int64_t planes;
    bool average;
    bool include_pad; /* divide by the cells inside image and padding, not by those inside the image */
};

/* Most kernel rows; floats of scratch that pool_blocked_f32 needs. */
enum { POOL_BLOCKED_ROWS = 64 };
static inline int64_t pool_blocked_scratch(const struct pool_blocked *g)
{
    return g->average ? g->w.out[0] * g->w.out[1] : 0;
}
void pool_blocked_f32(struct pool *pool, const struct pool_blocked *g, const float *x, float *y, float *scratch);
/* One average a channel: x [planes, cells, 8], y [planes, 8]. */
void global_average_blocked_f32(struct pool *pool, int64_t planes, int64_t cells, const float *x, float *y);

#endif
