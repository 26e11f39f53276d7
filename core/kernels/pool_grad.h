/* SPDX-License-Identifier: Apache-2.0
 * pool_grad.h - gradients of the pools of pooling.h. Shapes as there: x, dx [planes, in...], y, dy [planes, out...].
 * Maximum    dy goes to the first maximum of its window (row-major), as forward's index says.
 * Average    dy / divisor to every cell of the window inside the image.
 * p-norm     dy sign(x) |x|^(p - 1) y^(1 - p); 0 where y is 0.
 * Result     `add`: is added to what stands there; otherwise written over it. Threads: cut by planes. */
#ifndef PARED_KERNELS_POOL_GRAD_H
#define PARED_KERNELS_POOL_GRAD_H

#include "core/kernels/pooling.h"

#define POOL_GRAD_DECLARE(suffix, T)                                                                                   \
    void pool_max_grad_##suffix(struct pool *pool, const struct pooling *g, const T *x, const T *dy, T *dx, bool add); \
    void pool_average_grad_##suffix(struct pool *pool, const struct pooling *g, const T *dy, T *dx, bool add);         \
    void pool_norm_grad_##suffix(struct pool *pool, const struct pooling *g, const T *x, const T *y, const T *dy,      \
                                 T *dx, bool add);                                                                     \
    /* one window over each plane of `cells` values */                                                                 \
    void pool_global_grad_##suffix(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t cells,    \
                                   const T *x, const T *y, const T *dy, T *dx, bool add);
POOL_GRAD_DECLARE(f32, float)
POOL_GRAD_DECLARE(f64, double)

#endif
