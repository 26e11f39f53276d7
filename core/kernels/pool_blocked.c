/* SPDX-License-Identifier: Apache-2.0
 * Pools over the blocked layout: eight channels are one vector, so a window is a plain loop. The divisors of averages
 * depend on the position only and are written down once a call. */
#include "core/kernels/pool_blocked.h"

#include "core/base/size.h"
#include "core/kernels/conv_blocked_kernels.h"

enum { TASK_CELLS = 32768 }; /* window cells of a task, at least */

struct job {
    const struct pool_blocked *g;
    const struct conv_blocked_kernels *kernels;
    const float *x, *scale;
    float *y;
    int64_t rows, chunks, planes; /* of a task: rows of a plane, pieces of a plane, whole planes */
    int64_t cells;
};

/* Cells of window o along an axis that count for the divisor. */
static int64_t counted(const struct window *w, int axis, int64_t o, bool include_pad)
{
    const int64_t start = o * w->stride[axis] - w->pad[axis], d = w->dilation[axis];
    const int64_t low = include_pad ? -w->pad[axis] : 0;
    const int64_t high = w->in[axis] + (include_pad ? w->pad_end[axis] : 0);
    int64_t n = 0;
    for (int64_t k = 0; k < w->kernel[axis]; k++)
        n += start + k * d >= low && start + k * d < high;
    return n;
}

static void fill_scales(const struct pool_blocked *g, float *scale)
{
    const struct window *w = &g->w;
    for (int64_t y = 0; y < w->out[0]; y++) {
        const int64_t rows = counted(w, 0, y, g->include_pad);
        for (int64_t x = 0; x < w->out[1]; x++) {
            const int64_t n = rows * counted(w, 1, x, g->include_pad);
            *scale++ = n ? 1 / (float)n : 0;
        }
    }
}

static void pool_rows(const struct job *job, int64_t plane, int64_t from, int64_t to)
{
    const struct window *w = &job->g->w;
    const float *rows[POOL_BLOCKED_ROWS];
    struct pool_row r = {.x = rows, .in_w = w->in[1], .out_w = w->out[1], .kw = w->kernel[1], .stride = w->stride[1],
                         .dilation = w->dilation[1], .pad = w->pad[1], .average = job->g->average};
    for (int64_t oy = from; oy < to; oy++) {
        r.rows = 0;
        for (int64_t k = 0; k < w->kernel[0]; k++) {
            const int64_t y = oy * w->stride[0] - w->pad[0] + k * w->dilation[0];
            if (y >= 0 && y < w->in[0])
                rows[r.rows++] = job->x + (plane * w->in[0] + y) * w->in[1] * BLOCK;
        }
        r.scale = job->scale ? job->scale + oy * w->out[1] : NULL;
        r.y = job->y + (plane * w->out[0] + oy) * w->out[1] * BLOCK;
        job->kernels->pool_row(&r);
    }
}

static void pool_task(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const int64_t height = job->g->w.out[0];
    (void)lane;
    if (job->chunks > 1) {
        const int64_t from = task % job->chunks * job->rows;
        pool_rows(job, task / job->chunks, from, i64_min(from + job->rows, height));
        return;
    }
    for (int64_t p = task * job->planes; p < i64_min((task + 1) * job->planes, job->g->planes); p++)
        pool_rows(job, p, 0, height);
}

void pool_blocked_f32(struct pool *pool, const struct pool_blocked *g, const float *x, float *y, float *scratch)
{
    const struct window *w = &g->w;
    struct job job = {.g = g, .kernels = conv_blocked_kernels(), .x = x, .y = y};
    if (g->planes < 1 || w->out[0] < 1 || w->out[1] < 1)
        return;
    if (g->average) {
        fill_scales(g, scratch);
        job.scale = scratch;
    }
    const int64_t row = w->out[1] * w->kernel[0] * w->kernel[1];
    job.rows = i64_min(i64_ceil_div(TASK_CELLS, row), w->out[0]);
    job.chunks = i64_ceil_div(w->out[0], job.rows);
    job.planes = i64_max(TASK_CELLS / (row * w->out[0]), 1);
    pool_run(pool, job.chunks > 1 ? g->planes * job.chunks : i64_ceil_div(g->planes, job.planes), pool_task, &job);
}

static void global_task(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const int64_t all = job->rows;
    (void)lane;
    for (int64_t p = task * job->planes; p < i64_min((task + 1) * job->planes, all); p++)
        job->kernels->global_average(job->x + p * job->cells * BLOCK, job->cells, 1 / (float)job->cells,
                                     job->y + p * BLOCK);
}

void global_average_blocked_f32(struct pool *pool, int64_t planes, int64_t cells, const float *x, float *y)
{
    struct job job = {.kernels = conv_blocked_kernels(), .x = x, .y = y, .rows = planes, .cells = cells};
    job.planes = i64_max(TASK_CELLS / i64_max(cells, 1), 1);
    pool_run(pool, i64_ceil_div(planes, job.planes), global_task, &job);
}
