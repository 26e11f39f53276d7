/* SPDX-License-Identifier: Apache-2.0
 * Conversion between plain and blocked images: a task is some positions of one block, transposed 8 by 8. */
#include "core/kernels/blocked.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_blocked_kernels.h"

enum { CELLS = 4096 };

struct convert {
    const struct conv_blocked_kernels *kernels;
    int elem;
    int64_t blocks, channels, plane, parts;
    const char *x;
    char *y;
};

static void to_block_u8(const uint8_t *x, int64_t x_stride, int64_t channels, int64_t cells, uint8_t *y)
{
    for (int64_t i = 0; i < cells; i++)
        for (int64_t c = 0; c < BLOCK; c++)
            y[i * BLOCK + c] = c < channels ? x[c * x_stride + i] : 0;
}

static void from_block_u8(const uint8_t *x, int64_t cells, int64_t channels, uint8_t *y, int64_t y_stride)
{
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = 0; i < cells; i++)
            y[c * y_stride + i] = x[i * BLOCK + c];
}

/* Where a task's piece lies: the block's place in both layouts, its channels and positions. */
struct piece {
    int64_t plain, blocked, channels, cells; /* elements */
};

static struct piece piece_of(const struct convert *cv, int64_t task)
{
    const int64_t part = task % cv->parts, block = task / cv->parts % cv->blocks, n = task / cv->parts / cv->blocks;
    const int64_t from = part * CELLS;
    return (struct piece){
        .plain = (n * cv->channels + block * BLOCK) * cv->plane + from,
        .blocked = ((n * cv->blocks + block) * cv->plane + from) * BLOCK,
        .channels = i64_min(cv->channels - block * BLOCK, BLOCK),
        .cells = i64_min(CELLS, cv->plane - from),
    };
}

static void to_task(void *arg, int64_t task, int lane)
{
    const struct convert *cv = arg;
    const struct piece p = piece_of(cv, task);
    (void)lane;
    if (cv->elem == 1)
        to_block_u8((const uint8_t *)cv->x + p.plain, cv->plane, p.channels, p.cells, (uint8_t *)cv->y + p.blocked);
    else
        cv->kernels->to_block((const float *)(const void *)cv->x + p.plain, cv->plane, p.channels, p.cells,
                              (float *)(void *)cv->y + p.blocked);
}

static void from_task(void *arg, int64_t task, int lane)
{
    const struct convert *cv = arg;
    const struct piece p = piece_of(cv, task);
    (void)lane;
    if (cv->elem == 1)
        from_block_u8((const uint8_t *)cv->x + p.blocked, p.cells, p.channels, (uint8_t *)cv->y + p.plain, cv->plane);
    else
        cv->kernels->from_block((const float *)(const void *)cv->x + p.blocked, p.cells, p.channels,
                                (float *)(void *)cv->y + p.plain, cv->plane);
}

static void run(struct pool *pool, int elem, int64_t n, int64_t c, int64_t plane, const void *x, void *y, pool_fn *fn)
{
    struct convert cv = {conv_blocked_kernels(), elem, blocked_count(c), c, plane, i64_ceil_div(plane, CELLS), x, y};
    const int64_t tasks = n * cv.blocks * cv.parts;
    if (n * cv.blocks * plane <= CELLS / 2) /* not worth waking a thread */
        for (int64_t i = 0; i < tasks; i++)
            fn(&cv, i, 0);
    else
        pool_run(pool, tasks, fn, &cv);
}

void to_blocked(struct pool *pool, int elem, int64_t n, int64_t c, int64_t plane, const void *x, void *y)
{
    run(pool, elem, n, c, plane, x, y, to_task);
}

void from_blocked(struct pool *pool, int elem, int64_t n, int64_t c, int64_t plane, const void *x, void *y)
{
    run(pool, elem, n, c, plane, x, y, from_task);
}

/* ---- channels last: a task is some positions, all channels ---- */
static void last_to_task(void *arg, int64_t task, int lane)
{
    const struct convert *cv = arg;
    const int64_t n = task / cv->parts, from = task % cv->parts * CELLS, to = i64_min(from + CELLS, cv->plane);
    const float *x = (const float *)(const void *)cv->x + n * cv->plane * cv->channels;
    (void)lane;
    for (int64_t b = 0; b < cv->blocks; b++) {
        const int64_t channels = i64_min(cv->channels - b * BLOCK, BLOCK);
        float *y = (float *)(void *)cv->y + (n * cv->blocks + b) * cv->plane * BLOCK;
        for (int64_t i = from; i < to; i++)
            for (int64_t c = 0; c < BLOCK; c++)
                y[i * BLOCK + c] = c < channels ? x[i * cv->channels + b * BLOCK + c] : 0;
    }
}

static void last_from_task(void *arg, int64_t task, int lane)
{
    const struct convert *cv = arg;
    const int64_t n = task / cv->parts, from = task % cv->parts * CELLS, to = i64_min(from + CELLS, cv->plane);
    float *y = (float *)(void *)cv->y + n * cv->plane * cv->channels;
    (void)lane;
    for (int64_t b = 0; b < cv->blocks; b++) {
        const int64_t channels = i64_min(cv->channels - b * BLOCK, BLOCK);
        const float *x = (const float *)(const void *)cv->x + (n * cv->blocks + b) * cv->plane * BLOCK;
        for (int64_t i = from; i < to; i++)
            memcpy(y + i * cv->channels + b * BLOCK, x + i * BLOCK, (size_t)channels * sizeof *y);
    }
}

static void run_last(struct pool *pool, int64_t n, int64_t c, int64_t plane, const float *x, float *y, pool_fn *fn)
{
    struct convert cv = {.blocks = blocked_count(c), .channels = c, .plane = plane,
                         .parts = i64_ceil_div(plane, CELLS), .x = (const char *)x, .y = (char *)y};
    pool_run(pool, n * cv.parts, fn, &cv);
}

void channels_last_to_blocked(struct pool *pool, int64_t n, int64_t c, int64_t plane, const float *x, float *y)
{
    run_last(pool, n, c, plane, x, y, last_to_task);
}

void channels_last_from_blocked(struct pool *pool, int64_t n, int64_t c, int64_t plane, const float *x, float *y)
{
    run_last(pool, n, c, plane, x, y, last_from_task);
}
