/* SPDX-License-Identifier: Apache-2.0
 * blocked.h - the channel-blocked layout of images: [N, Cb, H, W, 8] with Cb = ceil(C / 8).
 * Why        eight neighbouring channels of one pixel are one vector: convolutions need no unfolding and no shuffling.
 * Padding    lanes beyond C are finite and mean nothing: packed weights are zero there. They never reach a plain tensor.
 * The same   for every element type: float32 (one AVX register, half an AVX-512 one), uint8 and int8 (8 bytes). */
#ifndef PARED_KERNELS_BLOCKED_H
#define PARED_KERNELS_BLOCKED_H

#include "core/base/pool.h"

enum { BLOCK = 8 };
static inline int64_t blocked_count(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

/* plain [n, c, plane] to blocked [n, ceil(c / 8), plane, 8] and back; elem is 1 or 4 bytes; padding lanes become 0. */
void to_blocked(struct pool *pool, int elem, int64_t n, int64_t c, int64_t plane, const void *x, void *y);
void from_blocked(struct pool *pool, int elem, int64_t n, int64_t c, int64_t plane, const void *x, void *y);
/* The same between [n, plane, c] and blocked, float32 only. */
void channels_last_to_blocked(struct pool *pool, int64_t n, int64_t c, int64_t plane, const float *x, float *y);
void channels_last_from_blocked(struct pool *pool, int64_t n, int64_t c, int64_t plane, const float *x, float *y);

#endif
