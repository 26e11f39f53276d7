/* SPDX-License-Identifier: Apache-2.0
 * conv_grad.c - gradients of convolutions as matrix products over tiles; any rank, groups, strides, dilations.
 * Depthwise  small planes of many images go to depthwise_planes.h.
 * Direct     2-D windows of float32 mostly go to conv_rows.h where the CPU has AVX2; the rest is unfolded:
 * Image      columns [C/G * taps, P] = w^T dy of one image (a part of the channels at a time), folded back (col2im).
 * Weight     dw [M, K] = sum over images and tiles of dy [M, tile] * columns [K, tile]^T, into one partial dw a chunk
 *            of images; the rows are cut too where chunks alone are too few tasks. */
#include "core/kernels/conv_grad.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_rows.h"
#include "core/kernels/depthwise_planes.h"
#include "core/kernels/gemm.h"
#include "core/kernels/simd.h"

enum {
    FOLD_BYTES = 1 << 19,     /* columns of one task, image gradient */
    TILE_BYTES = 1 << 19,     /* columns of a tile, weight gradient */
    CHUNKS = 8,               /* partial sums, at most */
    PARTIAL_BYTES = 64 << 20, /* of all partial sums */
};

/* The image is its own column matrix: products read and write it where it lies. */
static bool is_pointwise(const struct window *w)
{
    for (int a = 0; a < w->rank; a++)
        if (w->kernel[a] != 1 || w->stride[a] != 1 || w->pad[a] != 0 || w->in[a] != w->out[a])
            return false;
    return true;
}

/* ---- image ---- */
struct data_plan {
    int64_t channels, taps, positions; /* input channels of a group, cells of the kernel, output positions */
    int64_t part, parts;               /* channels of a task, tasks of a group */
    size_t lane;                       /* elements of scratch */
};

static bool data_plan(struct data_plan *p, const struct conv *cv, size_t elem)
{
    size_t width, bytes;
    *p = (struct data_plan){.channels = cv->c_in / cv->groups,
                            .taps = window_count(cv->w.kernel, cv->w.rank),
                            .positions = window_count(cv->w.out, cv->w.rank)};
    if (!size_mul((size_t)p->taps, (size_t)p->positions, &width) || !size_mul(width, elem, &bytes))
        return false;
    p->part = i64_max(1, i64_min(p->channels, FOLD_BYTES / (int64_t)(bytes ? bytes : 1)));
    p->parts = i64_ceil_div(p->channels, p->part);
    return size_mul(width, (size_t)p->part, &p->lane) && size_add(p->lane, 15, &p->lane) &&
           (p->lane = p->lane / 16 * 16, true);
}

bool conv_data_grad_scratch(const struct conv *cv, size_t elem, int lanes, size_t *bytes)
{
    struct data_plan p;
    if (elem == sizeof(float) && depthwise_planes_fits(cv))
        return depthwise_planes_scratch(cv, lanes, bytes);
    if (elem == sizeof(float) && conv_rows_fits(cv, CONV_ROWS_DATA))
        return conv_rows_scratch(cv, CONV_ROWS_DATA, lanes, bytes);
    return data_plan(&p, cv, elem) && size_mul(p.lane, elem, bytes) && size_mul(*bytes, (size_t)lanes, bytes);
}

/* ---- weight ---- */
struct weight_plan {
    int64_t m, k, positions; /* of a group */
    int64_t chunk, chunks;   /* images of a partial sum, partial sums */
    int64_t rows, parts;     /* output channels of a task */
    int64_t tile;            /* positions */
    size_t lane, partial;    /* elements */
};

static bool weight_plan(struct weight_plan *p, const struct conv *cv, size_t elem)
{
    size_t bytes;
    *p = (struct weight_plan){.m = cv->c_out / cv->groups, .positions = window_count(cv->w.out, cv->w.rank)};
    p->k = cv->c_in / cv->groups * window_count(cv->w.kernel, cv->w.rank);
    if (!size_mul((size_t)cv->c_out, (size_t)p->k, &p->partial) || !size_mul(p->partial, elem, &bytes))
        return false;
    p->chunks = i64_max(1, i64_min(CHUNKS, PARTIAL_BYTES / (int64_t)(bytes ? bytes : 1)));
    p->chunk = i64_ceil_div(i64_max(cv->batch, 1), p->chunks);
    p->chunks = i64_ceil_div(i64_max(cv->batch, 1), p->chunk);
    p->parts = p->chunks * cv->groups >= 4 ? 1 : i64_max(1, i64_min(4, p->m / 16));
    p->rows = i64_ceil_div(p->m, p->parts);
    p->tile = i64_min(i64_max(TILE_BYTES / (int64_t)elem / i64_max(p->k, 1) / 16 * 16, 64), i64_max(p->positions, 1));
    return size_mul((size_t)p->tile, (size_t)p->k, &p->lane) && size_add(p->lane, 15, &p->lane) &&
           (p->lane = p->lane / 16 * 16, true);
}

bool conv_weight_grad_scratch(const struct conv *cv, size_t elem, int lanes, size_t *bytes)
{
    struct weight_plan p;
    size_t sums;
    if (elem == sizeof(float) && depthwise_planes_fits(cv))
        return depthwise_planes_scratch(cv, lanes, bytes);
    if (elem == sizeof(float) && conv_rows_fits(cv, CONV_ROWS_WEIGHT))
        return conv_rows_scratch(cv, CONV_ROWS_WEIGHT, lanes, bytes);
    return weight_plan(&p, cv, elem) && size_mul(p.lane, (size_t)lanes, bytes) &&
           size_mul(p.partial, (size_t)p.chunks, &sums) && size_add(*bytes, sums, bytes) &&
           size_mul(*bytes, elem, bytes);
}

#define DEFINE(suffix, T)                                                                                              \
    struct data_##suffix {                                                                                             \
        const struct conv *cv;                                                                                         \
        struct data_plan plan;                                                                                         \
        const T *dy, *w;                                                                                               \
        T *dx, *scratch;                                                                                               \
        bool add;                                                                                                      \
    };                                                                                                                 \
    static void data_task_##suffix(void *arg, int64_t task, int lane)                                                  \
    {                                                                                                                  \
        const struct data_##suffix *job = arg;                                                                         \
        const struct data_plan *p = &job->plan;                                                                        \
        const struct conv *cv = job->cv;                                                                               \
        const int64_t part = task % p->parts, group = task / p->parts % cv->groups, n = task / p->parts / cv->groups;  \
        const int64_t first = part * p->part, count = i64_min(p->part, p->channels - first);                           \
        const int64_t m = cv->c_out / cv->groups, cells = window_count(cv->w.in, cv->w.rank);                          \
        T *col = job->scratch + (size_t)lane * p->lane;                                                                \
        T *dx = job->dx + (n * cv->c_in + group * p->channels + first) * cells;                                        \
        struct gemm g = gemm_plain(true, false, count * p->taps, p->positions, m);                                     \
                                                                                                                       \
        g.lda = p->channels * p->taps;                                                                                 \
        if (is_pointwise(&cv->w)) {                                                                                    \
            g.beta = job->add ? 1 : 0;                                                                                 \
            gemm_##suffix##_tile(&g, job->w + group * m * p->channels + first,                                         \
                                 job->dy + (n * cv->c_out + group * m) * p->positions, dx);                            \
            return;                                                                                                    \
        }                                                                                                              \
        gemm_##suffix##_tile(&g, job->w + (group * m * p->channels + first) * p->taps,                                 \
                             job->dy + (n * cv->c_out + group * m) * p->positions, col);                               \
        if (!job->add)                                                                                                 \
            memset(dx, 0, (size_t)(count * cells) * sizeof(T));                                                        \
        col2im_##suffix(&cv->w, count, col, dx);                                                                       \
    }                                                                                                                  \
    void conv_data_grad_##suffix(struct pool *pool, const struct conv *cv, const T *dy, const T *w, T *dx, bool add,   \
                                 void *scratch)                                                                        \
    {                                                                                                                  \
        if (sizeof(T) == sizeof(float) && depthwise_planes_fits(cv)) {                                                 \
            depthwise_planes_data(pool, cv, (const void *)dy, (const void *)w, (void *)dx, add, scratch);              \
            return;                                                                                                    \
        }                                                                                                              \
        if (sizeof(T) == sizeof(float) && conv_rows_fits(cv, CONV_ROWS_DATA)) {                                        \
            conv_rows_data(pool, cv, (const void *)dy, (const void *)w, (void *)dx, add, scratch);                     \
            return;                                                                                                    \
        }                                                                                                              \
        struct data_##suffix job = {.cv = cv, .dy = dy, .w = w, .dx = dx, .scratch = scratch, .add = add};             \
        if (!data_plan(&job.plan, cv, sizeof(T)))                                                                      \
            return; /* conv_data_grad_scratch has refused it before */                                                 \
        pool_run(pool, cv->batch * cv->groups * job.plan.parts, data_task_##suffix, &job);                             \
    }                                                                                                                  \
                                                                                                                       \
    struct weight_##suffix {                                                                                           \
        const struct conv *cv;                                                                                         \
        struct weight_plan plan;                                                                                       \
        const T *x, *dy;                                                                                               \
        T *partial, *scratch, *dw;                                                                                     \
        bool add;                                                                                                      \
    };                                                                                                                 \
    static void weight_task_##suffix(void *arg, int64_t task, int lane)                                                \
    {                                                                                                                  \
        const struct weight_##suffix *job = arg;                                                                       \
        const struct weight_plan *p = &job->plan;                                                                      \
        const struct conv *cv = job->cv;                                                                               \
        const int64_t part = task % p->parts, group = task / p->parts % cv->groups;                                    \
        const int64_t chunk = task / p->parts / cv->groups, channels = cv->c_in / cv->groups;                          \
        const int64_t first = part * p->rows, rows = i64_min(p->rows, p->m - first), m = group * p->m + first;         \
        const int64_t cells = window_count(cv->w.in, cv->w.rank);                                                      \
        T *col = job->scratch + (size_t)lane * p->lane, *dw = job->partial + (size_t)chunk * p->partial + m * p->k;    \
        bool empty = true;                                                                                             \
                                                                                                                       \
        for (int64_t n = chunk * p->chunk; rows > 0 && n < i64_min((chunk + 1) * p->chunk, cv->batch); n++)            \
            for (int64_t at = 0; at < p->positions; at += p->tile) {                                                   \
                struct gemm g = gemm_plain(false, true, rows, p->k, i64_min(p->tile, p->positions - at));              \
                g.lda = p->positions;                                                                                  \
                g.beta = empty ? 0 : 1;                                                                                \
                const T *x = job->x + (n * cv->c_in + group * channels) * cells, *columns = x + at;                    \
                if (is_pointwise(&cv->w)) {                                                                            \
                    g.ldb = cells;                                                                                     \
                } else {                                                                                               \
                    im2col_##suffix(&cv->w, channels, x, at, g.k, col, g.k);                                           \
                    columns = col;                                                                                     \
                }                                                                                                      \
                gemm_##suffix##_tile(&g, job->dy + (n * cv->c_out + m) * p->positions + at, columns, dw);              \
                empty = false;                                                                                         \
            }                                                                                                          \
        if (empty && rows > 0)                                                                                         \
            memset(dw, 0, (size_t)(rows * p->k) * sizeof(T));                                                          \
    }                                                                                                                  \
    static void sum_task_##suffix(void *arg, int64_t task, int lane)                                                   \
    {                                                                                                                  \
        const struct weight_##suffix *job = arg;                                                                       \
        const int64_t from = task * 4096, to = i64_min(from + 4096, (int64_t)job->plan.partial);                       \
        (void)lane;                                                                                                    \
        for (int64_t c = 0; c < job->plan.chunks; c++) {                                                               \
            const T *restrict part = job->partial + (size_t)c * job->plan.partial;                                     \
            T *restrict dw = job->dw;                                                                                  \
            if (c == 0 && !job->add)                                                                                   \
                memcpy(dw + from, part + from, (size_t)(to - from) * sizeof(T));                                       \
            else                                                                                                       \
                for (int64_t i = from; i < to; i++)                                                                    \
                    dw[i] += part[i];                                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    void conv_weight_grad_##suffix(struct pool *pool, const struct conv *cv, const T *x, const T *dy, T *dw, bool add, \
                                   void *scratch)                                                                      \
    {                                                                                                                  \
        if (sizeof(T) == sizeof(float) && depthwise_planes_fits(cv)) {                                                 \
            depthwise_planes_weight(pool, cv, (const void *)x, (const void *)dy, (void *)dw, add, scratch);            \
            return;                                                                                                    \
        }                                                                                                              \
        if (sizeof(T) == sizeof(float) && conv_rows_fits(cv, CONV_ROWS_WEIGHT)) {                                      \
            conv_rows_weight(pool, cv, (const void *)x, (const void *)dy, (void *)dw, add, scratch);                   \
            return;                                                                                                    \
        }                                                                                                              \
        struct weight_##suffix job = {.cv = cv, .x = x, .dy = dy, .dw = dw, .add = add, .partial = scratch};           \
        if (!weight_plan(&job.plan, cv, sizeof(T)))                                                                    \
            return; /* conv_weight_grad_scratch has refused it before */                                               \
        job.scratch = job.partial + (size_t)job.plan.chunks * job.plan.partial;                                        \
        pool_run(pool, job.plan.chunks * cv->groups * job.plan.parts, weight_task_##suffix, &job);                     \
        pool_run(pool, i64_ceil_div((int64_t)job.plan.partial, 4096), sum_task_##suffix, &job);                        \
    }                                                                                                                  \
                                                                                                                       \
    struct bias_##suffix {                                                                                             \
        int64_t batch, channels, cells;                                                                                \
        const T *dy;                                                                                                   \
        T *db;                                                                                                         \
        bool add;                                                                                                      \
    };                                                                                                                 \
    KERNEL_CLONES static double sum_##suffix(const T *x, int64_t n)                                                    \
    {                                                                                                                  \
        double lane[8] = {0}, sum = 0;                                                                                 \
        int64_t i = 0;                                                                                                 \
        for (; i + 8 <= n; i += 8)                                                                                     \
            for (int l = 0; l < 8; l++)                                                                                \
                lane[l] += (double)x[i + l];                                                                           \
        for (; i < n; i++)                                                                                             \
            lane[0] += (double)x[i];                                                                                   \
        for (int l = 0; l < 8; l++)                                                                                    \
            sum += lane[l];                                                                                            \
        return sum;                                                                                                    \
    }                                                                                                                  \
    static void bias_task_##suffix(void *arg, int64_t channel, int lane)                                               \
    {                                                                                                                  \
        const struct bias_##suffix *job = arg;                                                                         \
        double sum = 0;                                                                                                \
        (void)lane;                                                                                                    \
        for (int64_t n = 0; n < job->batch; n++)                                                                       \
            sum += sum_##suffix(job->dy + (n * job->channels + channel) * job->cells, job->cells);                     \
        job->db[channel] = job->add ? job->db[channel] + (T)sum : (T)sum;                                              \
    }                                                                                                                  \
    void conv_bias_grad_##suffix(struct pool *pool, int64_t batch, int64_t channels, int64_t cells, const T *dy,       \
                                 T *db, bool add)                                                                      \
    {                                                                                                                  \
        struct bias_##suffix job = {batch, channels, cells, dy, db, add};                                              \
        pool_run(pool, channels, bias_task_##suffix, &job);                                                            \
    }

DEFINE(f32, float)
DEFINE(f64, double)
