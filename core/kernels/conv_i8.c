/* SPDX-License-Identifier: Apache-2.0
 * conv_i8.c - as conv.c: columns of a tile of positions, unfolded as bytes, then one exact 8-bit product. */
#include "core/kernels/conv_i8.h"

#include "core/base/size.h"
#include "core/kernels/gemm_i8.h"

enum { TILE_BYTES = 256 * 1024, TILE_MIN = 64, TILE_MAX = 1024 };

struct job {
    const struct conv_i8 *cv;
    const uint8_t *x, *weight;
    int32_t *y;
    uint8_t *scratch;
    int64_t m, k, positions, tile, tiles;
    size_t lane_bytes;
};

static bool plan(struct job *job, const struct conv_i8 *cv)
{
    const struct conv *s = &cv->shape;

    job->cv = cv;
    job->m = s->c_out / s->groups;
    job->k = s->c_in / s->groups * window_count(s->w.kernel, s->w.rank);
    job->positions = window_count(s->w.out, s->w.rank);
    job->tile = i64_min(i64_max(TILE_BYTES / i64_max(job->k, 1) / 16 * 16, TILE_MIN), TILE_MAX);
    job->tile = i64_max(i64_min(job->tile, job->positions), 1);
    job->tiles = i64_ceil_div(job->positions, job->tile);
    return size_mul((size_t)job->k, (size_t)job->tile, &job->lane_bytes) &&
           size_add(job->lane_bytes, 64, &job->lane_bytes);
}

bool conv_i8_scratch(const struct conv_i8 *cv, int lanes, size_t *bytes)
{
    struct job job = {0};
    return plan(&job, cv) && size_mul(job.lane_bytes, (size_t)lanes, bytes);
}

static void run(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const struct conv *s = &job->cv->shape;
    const int64_t tile = task % job->tiles, group = task / job->tiles % s->groups,
                  image = task / job->tiles / s->groups;
    const int64_t from = tile * job->tile, width = i64_min(job->tile, job->positions - from);
    const int64_t channels = s->c_in / s->groups, plane = window_count(s->w.in, s->w.rank);
    uint8_t *col = job->scratch + (size_t)lane * job->lane_bytes;
    struct gemm_i8 g = {.m = job->m, .n = width, .k = job->k, .lda = job->k, .ldb = width, .ldc = job->positions,
                        .a_signed = job->cv->w_signed, .b_signed = job->cv->x_signed, .b_zero = &job->cv->x_zero,
                        .a_zero = job->cv->w_zero + (job->cv->w_zero_channels ? group * job->m : 0),
                        .a_zero_rows = job->cv->w_zero_channels};

    im2col_u8(&s->w, channels, job->x + (image * s->c_in + group * channels) * plane, (uint8_t)job->cv->x_zero, from,
              width, col, width);
    gemm_i8_tile(&g, job->weight + group * job->m * job->k, col,
                 job->y + (image * s->c_out + group * job->m) * job->positions + from);
}

void conv_i8(struct pool *pool, const struct conv_i8 *cv, const void *x, const void *weight, int32_t *y, void *scratch)
{
    struct job job = {.x = x, .weight = weight, .y = y, .scratch = scratch};

    if (!plan(&job, cv) || cv->shape.c_out == 0)
        return; /* conv_i8_scratch has refused it before */
    const int64_t tasks = cv->shape.batch * cv->shape.groups * job.tiles;
    pool_run(tasks > 1 ? pool : NULL, tasks, run, &job);
}
