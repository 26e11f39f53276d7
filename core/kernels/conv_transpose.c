/* SPDX-License-Identifier: Apache-2.0
 * conv_transpose.c - columns = weight^T * x, folded back into the image (col2im).
 * Tasks      (image, group, part of the output channels): the parts write disjoint planes, and each fits its columns
 *            into about a megabyte. Within a task the order of additions is fixed. */
#include "core/kernels/conv_transpose.h"

#include "core/base/size.h"
#include "core/kernels/gemm.h"

enum { COLUMN_BYTES = 1 << 20 };

struct plan {
    int64_t m, taps, positions; /* channels of a group, cells of the kernel, positions of x */
    int64_t part, parts;        /* channels of a task, tasks of a group */
    size_t lane;                /* elements of scratch of one lane */
};

static bool plan_make(struct plan *p, const struct conv *cv, size_t elem)
{
    size_t width;

    *p = (struct plan){.m = cv->c_out / cv->groups, .taps = window_count(cv->w.kernel, cv->w.rank),
                       .positions = window_count(cv->w.out, cv->w.rank)};
    if (!size_mul((size_t)p->taps, (size_t)p->positions, &width) || !size_mul(width, elem, &p->lane))
        return false;
    p->part = i64_max(1, i64_min(p->m, COLUMN_BYTES / (int64_t)(p->lane ? p->lane : 1)));
    p->parts = i64_ceil_div(p->m, p->part);
    return size_mul(width, (size_t)p->part, &p->lane);
}

bool conv_transpose_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes)
{
    struct plan p;
    return plan_make(&p, cv, elem_bytes) && size_mul(p.lane, elem_bytes, bytes) &&
           size_mul(*bytes, (size_t)lanes, bytes);
}

#define DEFINE(suffix, T)                                                                                            \
    struct job_##suffix {                                                                                            \
        const struct conv *cv;                                                                                       \
        struct plan plan;                                                                                            \
        const T *x, *weight, *bias;                                                                                  \
        T *y, *scratch;                                                                                              \
    };                                                                                                               \
    static void run_##suffix(void *arg, int64_t task, int lane)                                                      \
    {                                                                                                                \
        const struct job_##suffix *job = arg;                                                                        \
        const struct plan *p = &job->plan;                                                                           \
        const struct conv *cv = job->cv;                                                                             \
        const int64_t part = task % p->parts, group = task / p->parts % cv->groups, n = task / p->parts / cv->groups; \
        const int64_t first = part * p->part, count = i64_min(p->part, p->m - first), c = cv->c_in / cv->groups;     \
        const int64_t cells = window_count(cv->w.in, cv->w.rank), channel = group * p->m + first;                    \
        T *col = job->scratch + (size_t)lane * p->lane, *y = job->y + (n * cv->c_out + channel) * cells;             \
        struct gemm g = gemm_plain(true, false, count * p->taps, p->positions, c);                                   \
                                                                                                                     \
        g.lda = p->m * p->taps;                                                                                      \
        gemm_##suffix##_tile(&g, job->weight + (group * c * p->m + first) * p->taps,                                 \
                             job->x + (n * cv->c_in + group * c) * p->positions, col);                               \
        for (int64_t m = 0; m < count; m++)                                                                          \
            for (int64_t i = 0; i < cells; i++)                                                                      \
                y[m * cells + i] = job->bias ? job->bias[channel + m] : 0;                                           \
        col2im_##suffix(&cv->w, count, col, y);                                                                      \
    }                                                                                                                \
    void conv_transpose_##suffix(struct pool *pool, const struct conv *cv, const T *x, const T *weight, const T *bias, \
                                 T *y, T *scratch)                                                                   \
    {                                                                                                                \
        struct job_##suffix job = {.cv = cv, .x = x, .weight = weight, .bias = bias, .y = y, .scratch = scratch};    \
        if (!plan_make(&job.plan, cv, sizeof(T)) || cv->c_out == 0)                                                  \
            return; /* conv_transpose_scratch has refused it before */                                               \
        pool_run(pool, cv->batch *cv->groups *job.plan.parts, run_##suffix, &job);                                   \
    }

DEFINE(f32, float)
DEFINE(f64, double)
