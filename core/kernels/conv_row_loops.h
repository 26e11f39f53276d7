/* SPDX-License-Identifier: Apache-2.0
 * conv_row_loops.h - kernels that go along one row of one block: depthwise convolution, pools, layout; included once an
 * instruction set. The columns whose window lies wholly inside the image are done several at a time, the others one by
 * one over the part of the window that is inside. */
#include "core/kernels/conv_blocked_kernels.h"
#include "core/kernels/vec8.h"

enum { ROW_TILE = 8 };
#ifndef UNROLL
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Columns [*from, *to) have their whole window inside the image. */
static void inner_columns(int64_t in_w, int64_t out_w, int64_t kw, int64_t stride, int64_t dilation, int64_t pad,
                          int64_t *from, int64_t *to)
{
    const int64_t first = (pad + stride - 1) / stride, room = in_w + pad - (kw - 1) * dilation - 1;
    const int64_t end = room < 0 ? 0 : room / stride + 1;
    *from = first < out_w ? first : out_w;
    *to = end < out_w ? end : out_w;
    if (*to < *from)
        *to = *from;
}

/* Taps [*from, *to) of column ox lie inside the image. */
static inline void inner_taps(int64_t in_w, int64_t kw, int64_t dilation, int64_t start, int64_t *from, int64_t *to)
{
    *from = start < 0 ? (-start + dilation - 1) / dilation : 0;
    *to = start >= in_w ? 0 : (in_w - 1 - start) / dilation + 1;
    *to = *to < kw ? *to : kw;
    if (*to < *from)
        *to = *from;
}

/* ---- depthwise ---- */
VEC8_INLINE void depthwise_end(const struct depthwise_row *r, int64_t ox, const int P, vec8 *sum)
{
    const vec8 low = vec8_set(r->low), high = vec8_set(r->high);
    if (r->residual) {
        UNROLL for (int p = 0; p < P; p++)
            sum[p] = vec8_add(sum[p], vec8_load(r->residual + (ox + p) * BLOCK));
    }
    UNROLL for (int p = 0; p < P; p++)
        vec8_store(r->y + (ox + p) * BLOCK, vec8_min(high, vec8_max(low, sum[p])));
}

VEC8_INLINE vec8 depthwise_bias(const struct depthwise_row *r)
{
    return r->bias ? vec8_load(r->bias) : vec8_set(0);
}

static void depthwise_edge(const struct depthwise_row *r, int64_t ox)
{
    int64_t from, to, start = ox * r->stride - r->pad;
    vec8 sum = depthwise_bias(r);
    inner_taps(r->in_w, r->kw, r->dilation, start, &from, &to);
    for (int64_t i = 0; i < r->rows; i++)
        for (int64_t k = from; k < to; k++)
            sum = vec8_fma(vec8_load(r->x[i] + (start + k * r->dilation) * BLOCK), vec8_load(r->w[i] + k * BLOCK),
                           sum);
    depthwise_end(r, ox, 1, &sum);
}

/* KW, STRIDE, DILATION: constants, or 0 for what the row says. */
VEC8_INLINE void depthwise_tile(const struct depthwise_row *r, int64_t ox, const int P, const int KW, const int STRIDE)
{
    const int64_t kw = KW ? KW : r->kw, stride = STRIDE ? STRIDE : r->stride, dilation = KW ? 1 : r->dilation;
    const int64_t start = (ox * stride - r->pad) * BLOCK;
    vec8 sum[ROW_TILE];
    UNROLL for (int p = 0; p < P; p++)
        sum[p] = depthwise_bias(r);
    for (int64_t i = 0; i < r->rows; i++) {
        const float *x = r->x[i] + start, *w = r->w[i];
#pragma GCC unroll 5
        for (int64_t k = 0; k < kw; k++) {
            const vec8 weight = vec8_load(w + k * BLOCK);
            UNROLL for (int p = 0; p < P; p++)
                sum[p] = vec8_fma(vec8_load(x + (p * stride + k * dilation) * BLOCK), weight, sum[p]);
        }
    }
    depthwise_end(r, ox, P, sum);
}

VEC8_INLINE void depthwise_span(const struct depthwise_row *r, const int KW, const int STRIDE)
{
    int64_t from, to;
    inner_columns(r->in_w, r->out_w, r->kw, r->stride, r->dilation, r->pad, &from, &to);
    for (int64_t ox = 0; ox < from; ox++)
        depthwise_edge(r, ox);
    int64_t ox = from;
    for (; ox + ROW_TILE <= to; ox += ROW_TILE)
        depthwise_tile(r, ox, ROW_TILE, KW, STRIDE);
    for (; ox + 4 <= to; ox += 4)
        depthwise_tile(r, ox, 4, KW, STRIDE);
    if (ox + 2 <= to) {
        depthwise_tile(r, ox, 2, KW, STRIDE);
        ox += 2;
    }
    for (; ox < to; ox++)
        depthwise_tile(r, ox, 1, KW, STRIDE);
    for (; ox < r->out_w; ox++)
        depthwise_edge(r, ox);
}

static void depthwise_row(const struct depthwise_row *r)
{
    if (r->kw == 3 && r->stride == 1 && r->dilation == 1)
        depthwise_span(r, 3, 1);
    else if (r->kw == 3 && r->stride == 2 && r->dilation == 1)
        depthwise_span(r, 3, 2);
    else if (r->kw == 5 && r->stride == 1 && r->dilation == 1)
        depthwise_span(r, 5, 1);
    else if (r->kw == 5 && r->stride == 2 && r->dilation == 1)
        depthwise_span(r, 5, 2);
    else
        depthwise_span(r, 0, 0);
}

/* ---- pools ---- */
VEC8_INLINE vec8 pool_join(vec8 a, vec8 b, const int average)
{
    return average ? vec8_add(a, b) : vec8_max(a, b); /* a NaN in the sum so far is lost, one in b stays */
}

VEC8_INLINE void pool_end(const struct pool_row *r, int64_t ox, vec8 sum, const int average)
{
    if (average)
        sum = vec8_mul(sum, vec8_set(r->scale[ox]));
    vec8_store(r->y + ox * BLOCK, sum);
}

VEC8_INLINE void pool_edge(const struct pool_row *r, int64_t ox, const int average)
{
    int64_t from, to, start = ox * r->stride - r->pad;
    vec8 sum = vec8_set(average ? 0 : -INFINITY);
    inner_taps(r->in_w, r->kw, r->dilation, start, &from, &to);
    for (int64_t i = 0; i < r->rows; i++)
        for (int64_t k = from; k < to; k++)
            sum = pool_join(vec8_load(r->x[i] + (start + k * r->dilation) * BLOCK), sum, average);
    pool_end(r, ox, sum, average);
}

VEC8_INLINE void pool_span(const struct pool_row *r, const int average, const int KW, const int STRIDE)
{
    const int64_t kw = KW ? KW : r->kw, stride = STRIDE ? STRIDE : r->stride, dilation = KW ? 1 : r->dilation;
    int64_t from, to;
    inner_columns(r->in_w, r->out_w, kw, stride, dilation, r->pad, &from, &to);
    for (int64_t ox = 0; ox < from; ox++)
        pool_edge(r, ox, average);
    for (int64_t ox = from; ox < to; ox++) {
        vec8 sum = vec8_set(average ? 0 : -INFINITY);
        for (int64_t i = 0; i < r->rows; i++) {
            const float *x = r->x[i] + (ox * stride - r->pad) * BLOCK;
#pragma GCC unroll 3
            for (int64_t k = 0; k < kw; k++)
                sum = pool_join(vec8_load(x + k * dilation * BLOCK), sum, average);
        }
        pool_end(r, ox, sum, average);
    }
    for (int64_t ox = to; ox < r->out_w; ox++)
        pool_edge(r, ox, average);
}

static void pool_row(const struct pool_row *r)
{
    if (r->average)
        pool_span(r, 1, 0, 0);
    else if (r->kw == 3 && r->stride == 2 && r->dilation == 1)
        pool_span(r, 0, 3, 2);
    else if (r->kw == 2 && r->stride == 2 && r->dilation == 1)
        pool_span(r, 0, 2, 2);
    else
        pool_span(r, 0, 0, 0);
}

static void global_average(const float *x, int64_t cells, float scale, float *y)
{
    vec8 sum[4];
    int64_t i = 0;
    UNROLL for (int k = 0; k < 4; k++)
        sum[k] = vec8_set(0);
    for (; i + 4 <= cells; i += 4)
        UNROLL for (int k = 0; k < 4; k++)
            sum[k] = vec8_add(sum[k], vec8_load(x + (i + k) * BLOCK));
    for (; i < cells; i++)
        sum[0] = vec8_add(sum[0], vec8_load(x + i * BLOCK));
    sum[0] = vec8_add(vec8_add(sum[0], sum[1]), vec8_add(sum[2], sum[3]));
    vec8_store(y, vec8_mul(sum[0], vec8_set(scale)));
}

/* ---- layout ---- */
#if defined(__AVX2__) && defined(__FMA__)
/* Rows become columns. */
VEC8_INLINE void transpose8(vec8 *r)
{
    vec8 a[8], b[8];
    UNROLL for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL for (int h = 0; h < 2; h++) {
        b[4 * h + 0] = _mm256_shuffle_ps(a[4 * h], a[4 * h + 2], 0x44);
        b[4 * h + 1] = _mm256_shuffle_ps(a[4 * h], a[4 * h + 2], 0xee);
        b[4 * h + 2] = _mm256_shuffle_ps(a[4 * h + 1], a[4 * h + 3], 0x44);
        b[4 * h + 3] = _mm256_shuffle_ps(a[4 * h + 1], a[4 * h + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

static int64_t to_block_wide(const float *x, int64_t x_stride, int64_t cells, float *y)
{
    int64_t i = 0;
    for (; i + 8 <= cells; i += 8) {
        vec8 r[8];
        UNROLL for (int c = 0; c < 8; c++)
            r[c] = vec8_load(x + c * x_stride + i);
        transpose8(r);
        UNROLL for (int k = 0; k < 8; k++)
            vec8_store(y + (i + k) * BLOCK, r[k]);
    }
    return i;
}

static int64_t from_block_wide(const float *x, int64_t cells, int64_t channels, float *y, int64_t y_stride)
{
    int64_t i = 0;
    for (; i + 8 <= cells; i += 8) {
        vec8 r[8];
        UNROLL for (int k = 0; k < 8; k++)
            r[k] = vec8_load(x + (i + k) * BLOCK);
        transpose8(r);
        UNROLL for (int c = 0; c < 8; c++)
            if (c < channels)
                vec8_store(y + c * y_stride + i, r[c]);
    }
    return i;
}
#else
static int64_t to_block_wide(const float *x, int64_t x_stride, int64_t cells, float *y)
{
    (void)x, (void)x_stride, (void)cells, (void)y;
    return 0;
}

static int64_t from_block_wide(const float *x, int64_t cells, int64_t channels, float *y, int64_t y_stride)
{
    (void)x, (void)cells, (void)channels, (void)y, (void)y_stride;
    return 0;
}
#endif

static void to_block(const float *x, int64_t x_stride, int64_t channels, int64_t cells, float *y)
{
    int64_t i = channels == BLOCK ? to_block_wide(x, x_stride, cells, y) : 0;
    for (; i < cells; i++)
        for (int64_t c = 0; c < BLOCK; c++)
            y[i * BLOCK + c] = c < channels ? x[c * x_stride + i] : 0;
}

static void from_block(const float *x, int64_t cells, int64_t channels, float *y, int64_t y_stride)
{
    int64_t i = from_block_wide(x, cells, channels, y, y_stride);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t k = i; k < cells; k++)
            y[c * y_stride + k] = x[k * BLOCK + c];
}
