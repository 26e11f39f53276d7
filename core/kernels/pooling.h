/* SPDX-License-Identifier: Apache-2.0
 * pooling.h - maximum, average and p-norm over sliding windows, for any number of spatial axes.
 * Shapes     x [planes, in...], y [planes, out...]. Cells in the padding never count as values.
 * Empty      A window that lies wholly in the padding gives the lowest value (max), 0 (sum of powers), 0/0 -> 0
 *            (average).
 * Threads    cut by planes. */
#ifndef PARED_KERNELS_POOLING_H
#define PARED_KERNELS_POOLING_H

#include "core/base/pool.h"
#include "core/kernels/im2col.h"

struct pooling {
    struct window w;
    int64_t planes;
    bool include_pad; /* average: divide by the cells inside image and padding, not by those inside the image */
    double p;         /* p-norm */
};

void pool_max_f32(struct pool *pool, const struct pooling *g, const float *x, float *y);
void pool_max_f64(struct pool *pool, const struct pooling *g, const double *x, double *y);
void pool_max_i8(struct pool *pool, const struct pooling *g, const int8_t *x, int8_t *y);
void pool_max_u8(struct pool *pool, const struct pooling *g, const uint8_t *x, uint8_t *y);
/* index[i]: place of the maximum in the flattened x, planes included; `column_major` counts the spatial axes of a
 * plane with the first one fastest. The first of equal maxima wins. -1 for an empty window. */
void pool_max_index_f32(struct pool *pool, const struct pooling *g, const float *x, bool column_major, int64_t *index);
void pool_max_index_f64(struct pool *pool, const struct pooling *g, const double *x, bool column_major, int64_t *index);
void pool_average_f32(struct pool *pool, const struct pooling *g, const float *x, float *y);
void pool_average_f64(struct pool *pool, const struct pooling *g, const double *x, double *y);
void pool_norm_f32(struct pool *pool, const struct pooling *g, const float *x, float *y);
void pool_norm_f64(struct pool *pool, const struct pooling *g, const double *x, double *y);

/* One value a plane of `cells` > 0 contiguous values: maximum, average, or p-norm (p > 0). */
enum pool_kind { POOL_MAX, POOL_AVERAGE, POOL_NORM };
void pool_global_f32(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t cells, const float *x,
                     float *y);
void pool_global_f64(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t cells, const double *x,
                     double *y);

#endif
