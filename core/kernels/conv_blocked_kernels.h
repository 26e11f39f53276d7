/* SPDX-License-Identifier: Apache-2.0
 * conv_blocked_kernels.h - between the blocked kernels' drivers (conv_blocked.c, conv_winograd.c, pool_blocked.c) and
 * their loops, which exist once an instruction set. Not for others.
 * A tile     is P neighbouring output positions by B output blocks, whose sums stay in registers while the input
 *            channels go by: every step loads B vectors of weights, broadcasts P inputs and does P B fused products. */
#ifndef PARED_KERNELS_CONV_BLOCKED_KERNELS_H
#define PARED_KERNELS_CONV_BLOCKED_KERNELS_H

#include "core/kernels/conv_blocked.h"

enum { TILE_BLOCKS = 2, TILE_WIDTH = 6, TILE_WIDTH_SINGLE = 8 };

struct conv_tile {
    const float *x;       /* of the first input block */
    int64_t x_stride;     /* between input blocks, floats */
    int64_t n_blocks;     /* input blocks */
    const int32_t *offset; /* indirect: [tap][P] from x, negative: padding; first layer: [tap] */
    int64_t taps;
    int64_t step;         /* first layer: between neighbouring output positions, floats of x */
    const float *w;
    int64_t w_stride;     /* between output blocks, floats */
    float *y;
    int64_t y_stride;     /* between output blocks, floats */
    const float *bias, *residual; /* NULL: none; residual strides as y */
    bool first, last;     /* start from bias and residual, else from y; clamp at the end */
    float low, high;      /* -inf, inf: no clamp */
};
typedef void conv_tile_fn(const struct conv_tile *t);

/* One row of a depthwise convolution: `rows` kernel rows that lie inside the image. */
struct depthwise_row {
    const float *const *x; /* [rows] the image rows, at column 0 */
    const float *const *w; /* [rows] the kernel rows, [kw][8] */
    int64_t rows;
    int64_t in_w, out_w, kw, stride, dilation, pad;
    const float *bias, *residual;
    float *y;
    float low, high;
};

struct winograd_tiles {
    int m;                /* outputs along an axis of a tile: 2 or 4; m + 2 inputs */
    int64_t in_h, in_w, out_h, out_w, pad_h, pad_w, across; /* tiles in a row of tiles */
    int64_t from, count;  /* tiles of this call */
};

struct pool_row {
    const float *const *x; /* [rows] the image rows, at column 0 */
    int64_t rows;
    int64_t in_w, out_w, kw, stride, dilation, pad;
    bool average;
    const float *scale;    /* average: [out_w] 1 / divisor */
    float *y;
};

struct conv_blocked_kernels {
    conv_tile_fn *pointwise[TILE_BLOCKS][TILE_WIDTH_SINGLE]; /* [B - 1][P - 1]; NULL where not made */
    conv_tile_fn *indirect[TILE_BLOCKS][TILE_WIDTH_SINGLE];
    conv_tile_fn *first[TILE_BLOCKS][TILE_WIDTH_SINGLE];
    void (*depthwise_row)(const struct depthwise_row *r);
    /* One input block: x plane -> v[(m + 2)^2] at distance v_stride, tile t of the call at 8 t. */
    void (*winograd_input)(const struct winograd_tiles *g, const float *x, float *v, int64_t v_stride);
    /* One output block: products p[(m + 2)^2] at distance p_stride -> y plane. */
    void (*winograd_output)(const struct winograd_tiles *g, const float *p, int64_t p_stride, const float *bias,
                            const float *residual, float low, float high, float *y);
    void (*pool_row)(const struct pool_row *r);
    void (*global_average)(const float *x, int64_t cells, float scale, float *y); /* one block */
    /* blocks of 8 planes <-> [plane][8]; `channels` <= 8 planes are there, x_stride apart */
    void (*to_block)(const float *x, int64_t x_stride, int64_t channels, int64_t cells, float *y);
    void (*from_block)(const float *x, int64_t cells, int64_t channels, float *y, int64_t y_stride);
};
extern const struct conv_blocked_kernels conv_blocked_portable, conv_blocked_avx2;
/* The best set this machine and the limit allow. */
const struct conv_blocked_kernels *conv_blocked_kernels(void);

/* conv_winograd.c; most input channels for which m = 4 is exact enough */
enum { WINOGRAD4_CHANNELS = 1024 };
int64_t winograd_weights(const struct conv_blocked *cv);
void winograd_pack(const struct conv_blocked *cv, const float *weight, float *packed);
bool winograd_scratch(const struct conv_blocked *cv, int lanes, size_t *bytes);
void winograd_f32(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io);

/* Bounds of the activations a kernel applies itself; others: no bounds, act_f32 afterwards. */
void conv_act_bounds(const struct act *act, float *low, float *high);
static inline bool conv_act_in_registers(const struct act *act)
{
    return act->kind == ACT_NONE || act->kind == ACT_RELU || act->kind == ACT_CLIP;
}
/* First element of part i when n elements are cut into `parts` nearly equal pieces. */
static inline int64_t cut(int64_t n, int64_t parts, int64_t i)
{
    return n / parts * i + (i < n % parts ? i : n % parts);
}

#endif
