/* SPDX-License-Identifier: Apache-2.0
 * extent.h - the smallest and largest finite number of an array, and how many numbers are not finite.
 * Results    the same for every instruction set and thread count; a zero is always +0. */
#ifndef PARED_KERNELS_EXTENT_H
#define PARED_KERNELS_EXTENT_H

#include <stdbool.h>

#include "core/base/pool.h"

struct extent {
    float min, max; /* min > max: nothing finite */
    int64_t nan, inf;
};

/* pool may be NULL. */
struct extent extent_f32(struct pool *pool, const float *x, int64_t n);

/* ---- private to the paths ---- */
/* False: something is not finite, *min and *max are not to be used. n >= 1. */
bool extent_finite_portable(const float *x, int64_t n, float *min, float *max);
bool extent_finite_avx2(const float *x, int64_t n, float *min, float *max);

#endif
