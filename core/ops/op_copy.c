/* SPDX-License-Identifier: Apache-2.0
 * Strided copies: Transpose, Slice, Expand, Tile, Split and others are all "a contiguous output reads the input at
 * index * stride". Adjacent axes that walk memory as one are merged first, so most cases end as rows of memcpy. When
 * the output's inner axis is strided in the input but another axis is contiguous there (a transpose), both are walked
 * in square blocks that fit the first-level cache. */
#include <string.h>

#include "core/ops/op_util.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { BLOCK = 32, GRAIN = 1 << 15 };

struct copy {
    size_t elem;
    char *dst;
    const char *src;
    int rank;
    int64_t dim[OP_COPY_RANK], stride[OP_COPY_RANK]; /* in elements */
    int64_t row;                                     /* elements of the inner axis */
    int across;                                      /* axis that is contiguous in src (transpose), or -1 */
};

#define COPY_ROW(T)                                                                                                    \
    {                                                                                                                  \
        T *d = (T *)dst;                                                                                               \
        const T *s = (const T *)src;                                                                                   \
        if (stride == 0)                                                                                               \
            for (int64_t i = 0; i < n; i++)                                                                            \
                d[i] = s[0];                                                                                           \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++)                                                                            \
                d[i] = s[i * stride];                                                                                  \
        break;                                                                                                         \
    }

struct pair64 {
    uint64_t half[2];
};

static void copy_row(void *dst, const void *src, size_t elem, int64_t n, int64_t stride)
{
    if (stride == 1) {
        memcpy(dst, src, elem * (size_t)n);
        return;
    }
    switch (elem) {
    case 1:
        COPY_ROW(uint8_t)
    case 2:
        COPY_ROW(uint16_t)
    case 4:
        COPY_ROW(uint32_t)
    case 8:
        COPY_ROW(uint64_t)
    default:
        COPY_ROW(struct pair64)
    }
}

void op_fill(void *dst, const void *value, size_t elem, int64_t n)
{
    copy_row(dst, value, elem, n, 0);
}

static void copy_rows(void *opaque, int64_t begin, int64_t end)
{
    const struct copy *k = opaque;
    const int64_t stride = k->stride[k->rank - 1];
    int64_t at[OP_COPY_RANK] = {0}, offset = 0, rest = begin;
    for (int i = k->rank - 2; i >= 0; i--) { /* where row `begin` is; from there on counted, not divided */
        at[i] = rest % k->dim[i];
        rest /= k->dim[i];
        offset += at[i] * k->stride[i];
    }
    for (int64_t r = begin; r < end; r++) {
        copy_row(k->dst + (size_t)(r * k->row) * k->elem, k->src + offset * (int64_t)k->elem, k->elem, k->row, stride);
        for (int i = k->rank - 2; i >= 0; i--) {
            offset += k->stride[i];
            if (++at[i] < k->dim[i])
                break;
            offset -= at[i] * k->stride[i];
            at[i] = 0;
        }
    }
}

#define COPY_BLOCK(T)                                                                                                  \
    {                                                                                                                  \
        T *d = (T *)dst;                                                                                               \
        const T *s = (const T *)src;                                                                                   \
        for (int64_t i = 0; i < rows; i++)                                                                             \
            for (int64_t j = 0; j < cols; j++)                                                                         \
                d[i * dst_stride + j] = s[i + j * src_stride];                                                         \
        break;                                                                                                         \
    }

#if defined(__SSE2__)
/* Four-byte elements in squares of 4 x 4, which are turned in registers; the rest one by one. */
static void copy_block_4(uint32_t *d, const uint32_t *s, int64_t rows, int64_t cols, int64_t dst_stride,
                         int64_t src_stride)
{
    int64_t rows4 = rows & ~(int64_t)3, cols4 = cols & ~(int64_t)3;
    for (int64_t i = 0; i < rows4; i += 4)
        for (int64_t j = 0; j < cols4; j += 4) {
            const float *from = (const float *)(const void *)(s + i + j * src_stride);
            float *to = (float *)(void *)(d + i * dst_stride + j);
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + src_stride);
            __m128 c = _mm_loadu_ps(from + 2 * src_stride), e = _mm_loadu_ps(from + 3 * src_stride);
            _MM_TRANSPOSE4_PS(a, b, c, e);
            _mm_storeu_ps(to, a);
            _mm_storeu_ps(to + dst_stride, b);
            _mm_storeu_ps(to + 2 * dst_stride, c);
            _mm_storeu_ps(to + 3 * dst_stride, e);
        }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < rows4 ? cols4 : 0; j < cols; j++)
            d[i * dst_stride + j] = s[i + j * src_stride];
}
#endif

/* d[rows, cols] = s[cols, rows] transposed. */
static void copy_block(void *dst, const void *src, size_t elem, int64_t rows, int64_t cols, int64_t dst_stride,
                       int64_t src_stride)
{
    switch (elem) {
    case 1:
        COPY_BLOCK(uint8_t)
    case 2:
        COPY_BLOCK(uint16_t)
    case 4:
#if defined(__SSE2__)
        copy_block_4(dst, src, rows, cols, dst_stride, src_stride);
        break;
#else
        COPY_BLOCK(uint32_t)
#endif
    case 8:
        COPY_BLOCK(uint64_t)
    default:
        COPY_BLOCK(struct pair64)
    }
}

/* One strip of a plane of the output: BLOCK indices of the `across` axis by the inner axis, at fixed other coordinates.
 */
static void copy_strip(const struct copy *k, int64_t plane, int64_t begin, int64_t dst_across)
{
    int64_t src = begin, dst = begin * dst_across, size = 1;
    for (int i = k->rank - 1; i >= 0; i--) {
        if (i != k->across && i != k->rank - 1) {
            int64_t at = plane % k->dim[i];
            plane /= k->dim[i];
            src += at * k->stride[i];
            dst += at * size;
        }
        size *= k->dim[i];
    }
    int64_t n = i64_min(BLOCK, k->dim[k->across] - begin), src_inner = k->stride[k->rank - 1];
    for (int64_t j = 0; j < k->row; j += BLOCK)
        copy_block(k->dst + (size_t)(dst + j) * k->elem, k->src + (src + j * src_inner) * (int64_t)k->elem, k->elem, n,
                   i64_min(BLOCK, k->row - j), dst_across, src_inner);
}

static void copy_strips(void *opaque, int64_t begin, int64_t end)
{
    const struct copy *k = opaque;
    int64_t dst_across = 1, strips = i64_ceil_div(k->dim[k->across], BLOCK);
    for (int i = k->across + 1; i < k->rank; i++)
        dst_across *= k->dim[i];
    for (int64_t s = begin; s < end; s++)
        copy_strip(k, s / strips, s % strips * BLOCK, dst_across);
}

/* Drop axes of size 1 and merge axis i into i - 1 where stride[i - 1] == stride[i] * dim[i]. */
static void merge_axes(struct copy *k, int rank, const int64_t *dims, const int64_t *strides)
{
    for (int i = 0; i < rank; i++) {
        int last = k->rank - 1;
        if (dims[i] == 1)
            continue;
        if (k->rank && k->stride[last] == strides[i] * dims[i]) {
            k->dim[last] *= dims[i];
            k->stride[last] = strides[i];
            continue;
        }
        k->dim[k->rank] = dims[i];
        k->stride[k->rank++] = strides[i];
    }
    if (k->rank == 0) {
        k->dim[0] = k->stride[0] = 1;
        k->rank = 1;
    }
}

static int axis_across(const struct copy *k)
{
    if (k->stride[k->rank - 1] == 1 || k->stride[k->rank - 1] == 0 || k->row < 4)
        return -1;
    for (int i = k->rank - 2; i >= 0; i--)
        if (k->stride[i] == 1 && k->dim[i] >= 4)
            return i;
    return -1;
}

void op_copy_strided(struct pool *pool, size_t elem, void *dst, const void *src, int rank, const int64_t *dims,
                     const int64_t *strides)
{
    int64_t total = 1;
    for (int i = 0; i < rank; i++)
        total *= dims[i];
    if (total == 0)
        return;
    struct copy k = {.elem = elem, .dst = dst, .src = src};
    merge_axes(&k, rank, dims, strides);
    k.row = k.dim[k.rank - 1];
    k.across = axis_across(&k);
    if (k.across >= 0) {
        int64_t across = k.dim[k.across], strip = k.row * i64_min(BLOCK, across);
        op_parallel(pool, total / (k.row * across) * i64_ceil_div(across, BLOCK), i64_max(1, GRAIN / strip),
                    copy_strips, &k);
    } else {
        op_parallel(pool, total / k.row, i64_max(1, GRAIN / k.row), copy_rows, &k);
    }
}
