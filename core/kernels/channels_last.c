/* SPDX-License-Identifier: Apache-2.0
 * channels_last.c - see channels_last.h. Pieces of 256 pixels: the strided side of a piece stays in the cache. */
#include "core/kernels/channels_last.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

enum { PIECE = 256 };

struct job {
    const struct channels_image *im;
    const struct q8 *q;
    const void *x;
    void *y;
    int64_t pieces;
};

typedef void piece_fn(const struct job *k, int64_t image, int64_t first, int64_t count);

static void run_pieces(struct pool *pool, struct job *k, pool_fn *fn)
{
    k->pieces = i64_ceil_div(k->im->plane, PIECE);
    const int64_t tasks = k->im->n * k->pieces;
    pool_run(tasks > 8 ? pool : NULL, tasks, fn, k);
}

/* The piece of a task: image, first pixel, number of pixels. */
static void piece_of(const struct job *k, int64_t task, int64_t *image, int64_t *first, int64_t *count)
{
    *image = task / k->pieces;
    *first = task % k->pieces * PIECE;
    *count = i64_min(PIECE, k->im->plane - *first);
}

KERNEL_CLONES static void spread_bytes(const uint8_t *restrict from, int64_t n, int64_t step, uint8_t *restrict to)
{
    for (int64_t i = 0; i < n; i++)
        to[i * step] = from[i];
}

static void last_piece(void *arg, int64_t task, int lane)
{
    const struct job *k = arg;
    int64_t image, first, count;
    const int64_t c = k->im->c;

    (void)lane;
    piece_of(k, task, &image, &first, &count);
    for (int64_t j = 0; j < c; j++)
        spread_bytes((const uint8_t *)k->x + (image * c + j) * k->im->plane + first, count, c,
                     (uint8_t *)k->y + (image * k->im->plane + first) * c + j);
}

void channels_last_bytes(struct pool *pool, const struct channels_image *im, const uint8_t *x, uint8_t *y)
{
    struct job k = {.im = im, .x = x, .y = y};
    run_pieces(pool, &k, last_piece);
}

static void first_piece(void *arg, int64_t task, int lane)
{
    const struct job *k = arg;
    int64_t image, first, count;
    const int64_t c = k->im->c;

    (void)lane;
    piece_of(k, task, &image, &first, &count);
    const uint8_t *x = (const uint8_t *)k->x + (image * k->im->plane + first) * c;
    for (int64_t j = 0; j < c; j++) {
        uint8_t *y = (uint8_t *)k->y + (image * c + j) * k->im->plane + first;
        for (int64_t i = 0; i < count; i++)
            y[i] = x[i * c + j];
    }
}

void channels_first_bytes(struct pool *pool, const struct channels_image *im, const uint8_t *x, uint8_t *y)
{
    struct job k = {.im = im, .x = x, .y = y};
    run_pieces(pool, &k, first_piece);
}

static void quantize_piece(void *arg, int64_t task, int lane)
{
    const struct job *k = arg;
    int64_t image, first, count;
    const int64_t c = k->im->c;
    uint8_t part[PIECE];

    (void)lane;
    piece_of(k, task, &image, &first, &count);
    for (int64_t j = 0; j < c; j++) {
        q8_quantize(k->q, (const float *)k->x + (image * c + j) * k->im->plane + first, part, count);
        spread_bytes(part, count, c, (uint8_t *)k->y + (image * k->im->plane + first) * c + j);
    }
}

void channels_last_quantize(struct pool *pool, const struct channels_image *im, const struct q8 *q, const float *x,
                            uint8_t *y)
{
    struct job k = {.im = im, .q = q, .x = x, .y = y};
    run_pieces(pool, &k, quantize_piece);
}

static void dequantize_piece(void *arg, int64_t task, int lane)
{
    const struct job *k = arg;
    int64_t image, first, count;
    const int64_t c = k->im->c;

    (void)lane;
    piece_of(k, task, &image, &first, &count);
    const uint8_t *x = (const uint8_t *)k->x + (image * k->im->plane + first) * c;
    const uint8_t flip = q8_flip(k->q);
    const int32_t zero = k->q->zero + (k->q->is_signed ? 128 : 0);
    const float scale = k->q->scale;
    for (int64_t j = 0; j < c; j++) {
        float *y = (float *)k->y + (image * c + j) * k->im->plane + first;
        for (int64_t i = 0; i < count; i++)
            y[i] = (float)((int32_t)(x[i * c + j] ^ flip) - zero) * scale;
    }
}

void channels_first_dequantize(struct pool *pool, const struct channels_image *im, const struct q8 *q, const uint8_t *x,
                               float *y)
{
    struct job k = {.im = im, .q = q, .x = x, .y = y};
    run_pieces(pool, &k, dequantize_piece);
}

/* ---- maxima ---- */
struct max_job {
    const struct window *w;
    int64_t c;
    uint8_t flip;
    const uint8_t *x;
    uint8_t *y;
};

KERNEL_CLONES static void max_into(const uint8_t *restrict x, int64_t n, uint8_t flip, uint8_t *restrict y)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t v = x[i] ^ flip;
        y[i] = v > y[i] ? v : y[i];
    }
}

static void max_row(void *arg, int64_t row, int lane)
{
    const struct max_job *k = arg;
    const struct window *w = k->w;
    const int64_t image = row / w->out[0], oy = row % w->out[0], c = k->c;
    const uint8_t *x = k->x + image * w->in[0] * w->in[1] * c;

    (void)lane;
    for (int64_t ox = 0; ox < w->out[1]; ox++) {
        uint8_t *y = k->y + (row * w->out[1] + ox) * c;
        memset(y, 0, (size_t)c);
        for (int64_t ky = 0; ky < w->kernel[0]; ky++) {
            const int64_t iy = oy * w->stride[0] + ky * w->dilation[0] - w->pad[0];
            if (iy < 0 || iy >= w->in[0])
                continue;
            for (int64_t kx = 0; kx < w->kernel[1]; kx++) {
                const int64_t ix = ox * w->stride[1] + kx * w->dilation[1] - w->pad[1];
                if (ix >= 0 && ix < w->in[1])
                    max_into(x + (iy * w->in[1] + ix) * c, c, k->flip, y);
            }
        }
        for (int64_t i = 0; i < c && k->flip; i++)
            y[i] ^= k->flip;
    }
}

void channels_last_max(struct pool *pool, const struct window *w, int64_t n, int64_t c, bool is_signed,
                       const uint8_t *x, uint8_t *y)
{
    struct max_job k = {.w = w, .c = c, .flip = is_signed ? 0x80 : 0, .x = x, .y = y};
    const int64_t rows = n * w->out[0];
    pool_run(rows * w->out[1] * c > 4096 ? pool : NULL, rows, max_row, &k);
}
