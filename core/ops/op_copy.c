/* SPDX-License-Identifier: Apache-2.0
 * Strided copies: Transpose, Slice, Expand, Tile, Split and others are all "a contiguous output reads the input at index * stride".
 * Adjacent axes that walk memory as one are merged first, so most cases end as rows of memcpy. When the output's inner axis is
 * strided in the input but another axis is contiguous there (a transpose), both are walked in square blocks that fit the
 * first-level cache. */
#include "core/ops/op_util.h"

#include <string.h>

enum { BLOCK = 32, GRAIN = 1 << 15 };

struct copy {
    size_t elem;
    char *dst;
    const char *src;
    int rank;
    int64_t dim[OP_COPY_RANK], stride[OP_COPY_RANK]; /* in elements */
    int64_t row;    /* elements of the inner axis */
    int across;     /* axis that is contiguous in src (transpose), or -1 */
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

/* Source offset of output row `row` (all axes but the last). */
static int64_t row_offset(const struct copy *k, int64_t row)
{
    int64_t offset = 0;
    for (int i = k->rank - 2; i >= 0; i--) {
        offset += row % k->dim[i] * k->stride[i];
        row /= k->dim[i];
    }
    return offset;
}

static void copy_rows(void *opaque, int64_t begin, int64_t end)
{
    const struct copy *k = opaque;
    int64_t stride = k->stride[k->rank - 1];
    for (int64_t r = begin; r < end; r++)
        copy_row(k->dst + (size_t)(r * k->row) * k->elem, k->src + row_offset(k, r) * (int64_t)k->elem, k->elem, k->row, stride);
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

/* d[rows, cols] = s[cols, rows] transposed. */
static void copy_block(void *dst, const void *src, size_t elem, int64_t rows, int64_t cols, int64_t dst_stride, int64_t src_stride)
{
    switch (elem) {
    case 1:
        COPY_BLOCK(uint8_t)
    case 2:
        COPY_BLOCK(uint16_t)
    case 4:
        COPY_BLOCK(uint32_t)
    case 8:
        COPY_BLOCK(uint64_t)
    default:
        COPY_BLOCK(struct pair64)
    }
}

/* One plane of the output: `across` x inner axis, at fixed other coordinates. */
static void copy_plane(const struct copy *k, int64_t plane, int64_t dst_across)
{
    int64_t src = 0, dst = 0, size = 1;
    for (int i = k->rank - 1; i >= 0; i--) {
        if (i != k->across && i != k->rank - 1) {
            int64_t at = plane % k->dim[i];
            plane /= k->dim[i];
            src += at * k->stride[i];
            dst += at * size;
        }
        size *= k->dim[i];
    }
    int64_t n_across = k->dim[k->across], src_inner = k->stride[k->rank - 1];
    for (int64_t i = 0; i < n_across; i += BLOCK)
        for (int64_t j = 0; j < k->row; j += BLOCK) {
            int64_t to = dst + i * dst_across + j, from = src + i + j * src_inner;
            copy_block(k->dst + (size_t)to * k->elem, k->src + from * (int64_t)k->elem, k->elem, i64_min(BLOCK, n_across - i),
                       i64_min(BLOCK, k->row - j), dst_across, src_inner);
        }
}

static void copy_planes(void *opaque, int64_t begin, int64_t end)
{
    const struct copy *k = opaque;
    int64_t dst_across = 1;
    for (int i = k->across + 1; i < k->rank; i++)
        dst_across *= k->dim[i];
    for (int64_t p = begin; p < end; p++)
        copy_plane(k, p, dst_across);
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
        int64_t plane = k.row * k.dim[k.across];
        op_parallel(pool, total / plane, i64_max(1, GRAIN / plane), copy_planes, &k);
    } else {
        op_parallel(pool, total / k.row, i64_max(1, GRAIN / k.row), copy_rows, &k);
    }
}
