/* SPDX-License-Identifier: Apache-2.0
 * im2col.c - unfolding by runs: the positions of a tile are walked as runs along the last axis, and for every kernel
 * offset a run is zeros, then a copy (memcpy when the stride is 1), then zeros. No position is tested on its own.
 * Same size  A 2-D window with stride 1 whose output is as wide as its input (the usual 3 x 3 with padding 1) sees
 *            the image shifted by a constant: a whole tile of a tap is one memcpy, then the few cells that fell over
 *            an edge are overwritten. */
#include "core/kernels/im2col.h"

#include <string.h>

#include "core/base/size.h"

int64_t window_count(const int64_t *dim, int rank)
{
    int64_t n = 1;
    for (int a = 0; a < rank; a++)
        n *= dim[a];
    return n;
}

void window_valid(const struct window *w, int axis, int64_t k, int64_t *first, int64_t *end)
{
    const int64_t shift = k * w->dilation[axis] - w->pad[axis]; /* input = out * stride + shift */
    const int64_t s = w->stride[axis], last = w->in[axis] - 1 - shift;

    *first = shift >= 0 ? 0 : i64_min(i64_ceil_div(-shift, s), w->out[axis]);
    *end = last < 0 ? 0 : i64_min(last / s + 1, w->out[axis]);
    if (*end < *first)
        *end = *first;
}

/* Where a run lies: output coordinates of its first position, and its length along the last axis. */
struct run {
    int64_t at[SHAPE_MAX_RANK];
    int64_t length, offset; /* offset in the tile */
};

static void run_start(struct run *run, const struct window *w, int64_t from)
{
    for (int a = w->rank - 1; a >= 0; a--) {
        run->at[a] = from % w->out[a];
        from /= w->out[a];
    }
    run->offset = 0;
    run->length = 0;
}

static void run_next(struct run *run, const struct window *w)
{
    run->offset += run->length;
    run->at[w->rank - 1] += run->length;
    for (int a = w->rank - 1; a >= 0 && run->at[a] >= w->out[a]; a--) {
        run->at[a] = 0;
        if (a > 0)
            run->at[a - 1]++;
    }
}

/* Offset in the image of the row that kernel offsets k reach from run->at, without the last axis; -1 if it is
 * padding. */
static int64_t row_base(const struct window *w, const struct run *run, const int64_t *k)
{
    int64_t base = 0;
    for (int a = 0; a + 1 < w->rank; a++) {
        const int64_t i = run->at[a] * w->stride[a] + k[a] * w->dilation[a] - w->pad[a];
        if (i < 0 || i >= w->in[a])
            return -1;
        base = base * w->in[a] + i;
    }
    return base * w->in[w->rank - 1];
}

static void offset_next(int64_t *k, const struct window *w)
{
    for (int a = w->rank - 1; a >= 0; a--) {
        if (++k[a] < w->kernel[a])
            return;
        k[a] = 0;
    }
}

static bool same_width(const struct window *w)
{
    return w->rank == 2 && w->stride[0] == 1 && w->stride[1] == 1 && w->in[1] == w->out[1];
}

#define DEFINE_IM2COL(T, suffix)                                                                                     \
    /* One tap of one channel: row[i] = plane[from + i + shift] where that is inside the image. */                   \
    static void unfold_same_##suffix(const struct window *w, const T *plane, int64_t ky, int64_t kx, T pad_value,    \
                                     int64_t from, int64_t width, T *row)                                            \
    {                                                                                                                \
        const int64_t w1 = w->in[1], dy = ky * w->dilation[0] - w->pad[0], dx = kx * w->dilation[1] - w->pad[1];     \
        const int64_t low = i64_max(-dy * w1, 0), high = (w->in[0] - dy) * w1; /* positions whose image row exists */ \
        const int64_t shift = dy * w1 + dx;                                                                          \
        const int64_t first = i64_min(i64_max(i64_max(low, -shift) - from, 0), width);                               \
        const int64_t end = i64_max(i64_min(i64_min(high, w->in[0] * w1 - shift) - from, width), first);             \
                                                                                                                     \
        for (int64_t i = 0; i < first; i++)                                                                          \
            row[i] = pad_value;                                                                                      \
        if (end > first)                                                                                             \
            memcpy(row + first, plane + from + first + shift, (size_t)(end - first) * sizeof(T));                    \
        for (int64_t i = end; i < width; i++)                                                                        \
            row[i] = pad_value;                                                                                      \
        if (dx == 0)                                                                                                 \
            return;                                                                                                  \
        const int64_t edge = dx < 0 ? 0 : i64_max(w1 - dx, 0), cells = i64_min(dx < 0 ? -dx : dx, w1);               \
        for (int64_t line = from / w1 * w1 - from + edge; line < width; line += w1)                                  \
            for (int64_t i = i64_max(line, 0); i < i64_min(line + cells, width); i++)                                \
                row[i] = pad_value;                                                                                  \
    }                                                                                                                \
                                                                                                                     \
    static void unfold_run_##suffix(const struct window *w, const struct run *run, const int64_t *k, const T *plane, \
                                    T pad_value, T *row)                                                             \
    {                                                                                                                \
        const int last = w->rank - 1;                                                                                \
        const int64_t base = row_base(w, run, k), s = w->stride[last];                                               \
        const int64_t shift = k[last] * w->dilation[last] - w->pad[last];                                            \
        int64_t first, end, i = 0;                                                                                   \
                                                                                                                     \
        window_valid(w, last, k[last], &first, &end);                                                                \
        first = base < 0 ? run->length : i64_min(i64_max(first - run->at[last], 0), run->length);                    \
        end = base < 0 ? run->length : i64_max(i64_min(end - run->at[last], run->length), first);                    \
        for (; i < first; i++)                                                                                       \
            row[i] = pad_value;                                                                                      \
        if (end > first) {                                                                                           \
            const T *src = plane + base + (run->at[last] + first) * s + shift;                                       \
            if (s == 1)                                                                                              \
                memcpy(row + first, src, (size_t)(end - first) * sizeof(T));                                         \
            else                                                                                                     \
                for (int64_t j = 0; j < end - first; j++)                                                            \
                    row[first + j] = src[j * s];                                                                     \
        }                                                                                                            \
        for (i = end; i < run->length; i++)                                                                          \
            row[i] = pad_value;                                                                                      \
    }                                                                                                                \
                                                                                                                     \
    static void unfold_##suffix(const struct window *w, int64_t channels, const T *image, T pad_value, int64_t from, \
                                int64_t width, T *col, int64_t ld)                                                   \
    {                                                                                                                \
        const int64_t plane = window_count(w->in, w->rank), taps = window_count(w->kernel, w->rank);                 \
        struct run run;                                                                                              \
                                                                                                                     \
        if (same_width(w)) {                                                                                         \
            for (int64_t c = 0; c < channels; c++, image += plane)                                                   \
                for (int64_t t = 0; t < taps; t++, col += ld)                                                        \
                    unfold_same_##suffix(w, image, t / w->kernel[1], t % w->kernel[1], pad_value, from, width, col); \
            return;                                                                                                  \
        }                                                                                                            \
        for (run_start(&run, w, from); run.offset < width; run_next(&run, w)) {                                      \
            run.length = i64_min(w->out[w->rank - 1] - run.at[w->rank - 1], width - run.offset);                     \
            T *row = col + run.offset;                                                                               \
            for (int64_t c = 0; c < channels; c++) {                                                                 \
                int64_t k[SHAPE_MAX_RANK] = {0};                                                                     \
                for (int64_t t = 0; t < taps; t++, row += ld) {                                                      \
                    unfold_run_##suffix(w, &run, k, image + c * plane, pad_value, row);                              \
                    offset_next(k, w);                                                                               \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }

DEFINE_IM2COL(float, f32)
DEFINE_IM2COL(double, f64)
DEFINE_IM2COL(uint8_t, u8)

void im2col_f32(const struct window *w, int64_t channels, const float *image, int64_t from, int64_t width, float *col,
                int64_t ld)
{
    unfold_f32(w, channels, image, 0, from, width, col, ld);
}

void im2col_f64(const struct window *w, int64_t channels, const double *image, int64_t from, int64_t width, double *col,
                int64_t ld)
{
    unfold_f64(w, channels, image, 0, from, width, col, ld);
}

void im2col_u8(const struct window *w, int64_t channels, const uint8_t *image, uint8_t pad_value, int64_t from,
               int64_t width, uint8_t *col, int64_t ld)
{
    unfold_u8(w, channels, image, pad_value, from, width, col, ld);
}

#define DEFINE_COL2IM(T, suffix)                                                                                     \
    void col2im_##suffix(const struct window *w, int64_t channels, const T *col, T *image)                           \
    {                                                                                                                \
        const int last = w->rank - 1;                                                                                \
        const int64_t plane = window_count(w->in, w->rank), taps = window_count(w->kernel, w->rank);                 \
        const int64_t width = window_count(w->out, w->rank);                                                         \
        struct run run;                                                                                              \
                                                                                                                     \
        for (int64_t c = 0; c < channels; c++) {                                                                     \
            int64_t k[SHAPE_MAX_RANK] = {0};                                                                         \
            for (int64_t t = 0; t < taps; t++, col += width, offset_next(k, w)) {                                    \
                int64_t first, end;                                                                                  \
                window_valid(w, last, k[last], &first, &end);                                                        \
                const int64_t s = w->stride[last], shift = k[last] * w->dilation[last] - w->pad[last];               \
                for (run_start(&run, w, 0); run.offset < width; run_next(&run, w)) {                                 \
                    run.length = w->out[last];                                                                       \
                    const int64_t base = row_base(w, &run, k);                                                       \
                    if (base < 0)                                                                                    \
                        continue;                                                                                    \
                    for (int64_t o = first; o < end; o++)                                                            \
                        image[c * plane + base + o * s + shift] += col[run.offset + o];                              \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }

DEFINE_COL2IM(float, f32)
DEFINE_COL2IM(double, f64)
