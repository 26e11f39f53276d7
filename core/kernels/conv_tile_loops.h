/* SPDX-License-Identifier: Apache-2.0
 * conv_tile_loops.h - the tiles of conv_blocked_kernels.h, included once an instruction set. P and B are constants of
 * each instance, so that the sums are registers; the loops over them are unrolled by the compiler. */
#include "core/kernels/conv_blocked_kernels.h"
#include "core/kernels/vec8.h"

enum { TILE_SUMS = 2 * TILE_WIDTH_SINGLE };
#define UNROLL _Pragma("GCC unroll 16")

static const float padding_cell[BLOCK];

VEC8_INLINE void tile_start(const struct conv_tile *t, const int P, const int B, vec8 *sum)
{
    UNROLL for (int b = 0; b < B; b++) {
        const float *y = t->y + b * t->y_stride;
        if (!t->first) {
            UNROLL for (int p = 0; p < P; p++)
                sum[p * B + b] = vec8_load(y + p * BLOCK);
            continue;
        }
        const vec8 bias = t->bias ? vec8_load(t->bias + b * BLOCK) : vec8_set(0);
        UNROLL for (int p = 0; p < P; p++)
            sum[p * B + b] = bias;
        if (t->residual) {
            const float *r = t->residual + b * t->y_stride;
            UNROLL for (int p = 0; p < P; p++)
                sum[p * B + b] = vec8_add(sum[p * B + b], vec8_load(r + p * BLOCK));
        }
    }
}

VEC8_INLINE void tile_end(const struct conv_tile *t, const int P, const int B, vec8 *sum)
{
    if (t->last) {
        const vec8 low = vec8_set(t->low), high = vec8_set(t->high);
        UNROLL for (int i = 0; i < P * B; i++)
            sum[i] = vec8_min(high, vec8_max(low, sum[i]));
    }
    UNROLL for (int b = 0; b < B; b++) {
        float *y = t->y + b * t->y_stride;
        UNROLL for (int p = 0; p < P; p++)
            vec8_store(y + p * BLOCK, sum[p * B + b]);
    }
}

/* One input channel: w points to B vectors w_stride apart, x[p] to the channel at position p. */
VEC8_INLINE void tile_step(const float *const *x, int c, const float *w, int64_t w_stride, const int P, const int B,
                           vec8 *sum)
{
    vec8 weight[TILE_BLOCKS];
    UNROLL for (int b = 0; b < B; b++)
        weight[b] = vec8_load(w + b * w_stride);
    UNROLL for (int p = 0; p < P; p++) {
        const vec8 input = vec8_broadcast(x[p] + c);
        UNROLL for (int b = 0; b < B; b++)
            sum[p * B + b] = vec8_fma(input, weight[b], sum[p * B + b]);
    }
}

/* 1x1, stride 1: positions are neighbours in memory. */
VEC8_INLINE void tile_pointwise(const struct conv_tile *t, const int P, const int B)
{
    vec8 sum[TILE_SUMS];
    tile_start(t, P, B, sum);
    const float *w = t->w, *x = t->x;
    const int64_t w_stride = t->w_stride;
    for (int64_t block = 0; block < t->n_blocks; block++) {
        const float *at[TILE_WIDTH_SINGLE];
        UNROLL for (int p = 0; p < P; p++)
            at[p] = x + p * BLOCK;
        UNROLL for (int c = 0; c < BLOCK; c++)
            tile_step(at, c, w + c * BLOCK, w_stride, P, B, sum);
        w += BLOCK * BLOCK;
        x += t->x_stride;
    }
    tile_end(t, P, B, sum);
}

/* Any window: where each tap of each position lies was written down by the caller. */
VEC8_INLINE void tile_indirect(const struct conv_tile *t, const int P, const int B)
{
    vec8 sum[TILE_SUMS];
    tile_start(t, P, B, sum);
    const float *w = t->w, *x = t->x;
    const int64_t w_stride = t->w_stride;
    for (int64_t block = 0; block < t->n_blocks; block++) {
        const int32_t *offset = t->offset;
        for (int64_t tap = 0; tap < t->taps; tap++) {
            const float *at[TILE_WIDTH_SINGLE];
            UNROLL for (int p = 0; p < P; p++)
                at[p] = offset[p] < 0 ? padding_cell : x + offset[p];
            UNROLL for (int c = 0; c < BLOCK; c++)
                tile_step(at, c, w + c * BLOCK, w_stride, P, B, sum);
            offset += P;
            w += BLOCK * BLOCK;
        }
        x += t->x_stride;
    }
    tile_end(t, P, B, sum);
}

/* First layer: one scalar a tap and position, positions `step` apart. */
VEC8_INLINE void tile_first(const struct conv_tile *t, const int P, const int B)
{
    vec8 sum[TILE_SUMS];
    tile_start(t, P, B, sum);
    const float *w = t->w;
    const int64_t w_stride = t->w_stride, step = t->step;
    for (int64_t tap = 0; tap < t->taps; tap++) {
        const float *at[TILE_WIDTH_SINGLE];
        UNROLL for (int p = 0; p < P; p++)
            at[p] = t->x + t->offset[tap] + p * step;
        tile_step(at, 0, w, w_stride, P, B, sum);
        w += BLOCK;
    }
    tile_end(t, P, B, sum);
}

#define TILE(kind, P, B)                                                                                              \
    static void kind##_##P##_##B(const struct conv_tile *t)                                                           \
    {                                                                                                                 \
        tile_##kind(t, P, B);                                                                                         \
    }
#define TILES(kind)                                                                                                   \
    TILE(kind, 1, 1) TILE(kind, 2, 1) TILE(kind, 3, 1) TILE(kind, 4, 1) TILE(kind, 5, 1) TILE(kind, 6, 1)             \
    TILE(kind, 7, 1) TILE(kind, 8, 1) TILE(kind, 1, 2) TILE(kind, 2, 2) TILE(kind, 3, 2) TILE(kind, 4, 2)             \
    TILE(kind, 5, 2) TILE(kind, 6, 2)
TILES(pointwise)
TILES(indirect)
TILES(first)
#define TILE_TABLE(kind)                                                                                              \
    {                                                                                                                 \
        {kind##_1_1, kind##_2_1, kind##_3_1, kind##_4_1, kind##_5_1, kind##_6_1, kind##_7_1, kind##_8_1},             \
        {                                                                                                             \
            kind##_1_2, kind##_2_2, kind##_3_2, kind##_4_2, kind##_5_2, kind##_6_2                                    \
        }                                                                                                             \
    }
