/* SPDX-License-Identifier: Apache-2.0
 * histogram.h - how often each size of number occurs, in fixed memory, whatever the number of samples.
 * Bins       HISTOGRAM_BINS of equal width over [-range, range). range is a power of two; a number beyond it doubles it
 *            and joins bins in pairs, which is exact, so the result does not depend on the order in which numbers came.
 * Clips      histogram_percentile, _entropy and _mse choose the interval that quantization represents: what lies
 *            outside is clipped. They read the histogram only; lo <= 0 <= hi always.
 * Errors     none but memory: histogram_new returns NULL. Threads: one a histogram. NaN and infinities are left out. */
#ifndef PARED_STATS_HISTOGRAM_H
#define PARED_STATS_HISTOGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/kernels/extent.h"

enum { HISTOGRAM_BINS = 8192 }; /* 64 KiB of counts */

struct histogram {
    float range;    /* 0: nothing seen yet */
    float min, max; /* of what was seen; min > max: nothing */
    int64_t total;
    uint64_t count[HISTOGRAM_BINS];
};

struct histogram *histogram_new(void); /* free() */
void histogram_add(struct pool *pool, struct histogram *h, const float *x, int64_t n);
/* The same where the numbers' extent is known already. */
void histogram_add_seen(struct pool *pool, struct histogram *h, const float *x, int64_t n, const struct extent *seen);

struct clip {
    double lo, hi;
};
/* The interval that leaves a share of (1 - percentile / 100) outside, in all: symmetric: [-a, a]; else half of it on each
 * side, within what was seen. percentile in (50, 100]. */
struct clip histogram_percentile(const struct histogram *h, double percentile, bool symmetric);
/* The interval whose quantization to `levels` codes loses the least information: the smallest Kullback-Leibler
 * divergence of the distribution, clipped, from itself after quantization (Migacz, "8-bit inference with TensorRT",
 * 2017). Tried are 2,048 shares of what was seen, from `levels` bins up, that clip at most
 * one number in a hundred; zeros do not count. One-sided data keeps its side. */
struct clip histogram_entropy(const struct histogram *h, int levels, bool symmetric);
/* The interval with the least mean squared error of rounding to `levels` codes and clipping: 100 shares from 0.2 to 1 of
 * what was seen, both ends shrunk alike, then each end on its own. */
struct clip histogram_mse(const struct histogram *h, int levels, bool symmetric);

#endif
