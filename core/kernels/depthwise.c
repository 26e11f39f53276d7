/* SPDX-License-Identifier: Apache-2.0
 * depthwise.c - direct depthwise convolution, one plane after another.
 * Idea       An output row is kept in the first-level cache while each tap (ky, kx) adds weight * (a shifted row of
 *            the image) to it. The valid range of every tap is known in advance, so the inner loop has no test and
 *            vectorises. A 3 x 3 window with stride 1 or 2 takes its inside columns with nine taps at once.
 * Order      bias, then taps in row-major order, for every output: the same sum in the unrolled and in the general
 *            loop. */
#include "core/kernels/depthwise.h"

#include "core/base/size.h"
#include "core/kernels/simd.h"

struct job {
    const struct conv *cv;
    const float *x, *weight, *bias;
    float *y;
    int64_t planes_per_task;
};

KERNEL_CLONES static void add_tap(float *restrict y, const float *restrict x, int64_t n, int64_t stride, float weight)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++)
            y[i] += weight * x[i];
    } else {
        for (int64_t i = 0; i < n; i++)
            y[i] += weight * x[i * stride];
    }
}

/* Nine taps of an undilated 3 x 3 window whose three rows all lie inside the image. */
KERNEL_CLONES static void add_3x3(float *restrict y, const float *restrict r0, const float *restrict r1,
                                  const float *restrict r2, int64_t n, int64_t stride, const float *restrict k)
{
    if (stride == 1) {
        for (int64_t i = 0; i < n; i++) {
            float s = y[i];
            s += k[0] * r0[i];
            s += k[1] * r0[i + 1];
            s += k[2] * r0[i + 2];
            s += k[3] * r1[i];
            s += k[4] * r1[i + 1];
            s += k[5] * r1[i + 2];
            s += k[6] * r2[i];
            s += k[7] * r2[i + 1];
            s += k[8] * r2[i + 2];
            y[i] = s;
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            const int64_t j = 2 * i;
            float s = y[i];
            s += k[0] * r0[j];
            s += k[1] * r0[j + 1];
            s += k[2] * r0[j + 2];
            s += k[3] * r1[j];
            s += k[4] * r1[j + 1];
            s += k[5] * r1[j + 2];
            s += k[6] * r2[j];
            s += k[7] * r2[j + 1];
            s += k[8] * r2[j + 2];
            y[i] = s;
        }
    }
}

/* Valid outputs of each tap along a row, looked up instead of divided for; wider kernels than this compute theirs
 * each time. */
enum { REACH_MAX = 16 };
struct reach {
    int64_t first[REACH_MAX], end[REACH_MAX];
};

/* Add all taps to the outputs [from, to) of row oy. */
static void add_taps(const struct window *w, const struct reach *reach, const float *x, const float *weight, int64_t oy,
                     int64_t from, int64_t to, float *y)
{
    if (from >= to)
        return;
    for (int64_t ky = 0; ky < w->kernel[0]; ky++) {
        const int64_t iy = oy * w->stride[0] + ky * w->dilation[0] - w->pad[0];
        if (iy < 0 || iy >= w->in[0])
            continue;
        for (int64_t kx = 0; kx < w->kernel[1]; kx++) {
            int64_t first = kx < REACH_MAX ? reach->first[kx] : 0, end = kx < REACH_MAX ? reach->end[kx] : 0;
            if (kx >= REACH_MAX)
                window_valid(w, 1, kx, &first, &end);
            first = i64_max(first, from);
            end = i64_min(end, to);
            if (first >= end)
                continue;
            const float *src = x + iy * w->in[1] + first * w->stride[1] + kx * w->dilation[1] - w->pad[1];
            const float k = weight[ky * w->kernel[1] + kx];
            if (end - first == 1)
                y[first] += k * *src;
            else
                add_tap(y + first, src, end - first, w->stride[1], k);
        }
    }
}

static void plane(const struct window *w, const float *x, const float *weight, float bias, float *y)
{
    const int64_t ow = w->out[1], s = w->stride[1];
    const bool fast =
        w->kernel[0] == 3 && w->kernel[1] == 3 && w->dilation[0] == 1 && w->dilation[1] == 1 && (s == 1 || s == 2);
    int64_t first, end, ignore;
    struct reach reach;

    for (int64_t kx = 0; kx < i64_min(w->kernel[1], REACH_MAX); kx++)
        window_valid(w, 1, kx, &reach.first[kx], &reach.end[kx]);
    window_valid(w, 1, 0, &first, &ignore); /* outputs whose whole window lies inside, along the row */
    window_valid(w, 1, w->kernel[1] - 1, &ignore, &end);
    for (int64_t oy = 0; oy < w->out[0]; oy++) {
        float *row = y + oy * ow;
        const int64_t iy = oy * w->stride[0] - w->pad[0];
        for (int64_t i = 0; i < ow; i++)
            row[i] = bias;
        if (fast && first < end && iy >= 0 && iy + 2 < w->in[0]) {
            const float *r = x + iy * w->in[1] + first * s - w->pad[1];
            add_3x3(row + first, r, r + w->in[1], r + 2 * w->in[1], end - first, s, weight);
            add_taps(w, &reach, x, weight, oy, 0, first, row);
            add_taps(w, &reach, x, weight, oy, end, ow, row);
        } else {
            add_taps(w, &reach, x, weight, oy, 0, ow, row);
        }
    }
}

static void run(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const struct conv *cv = job->cv;
    const int64_t multiplier = cv->c_out / cv->groups, taps = window_count(cv->w.kernel, 2);
    const int64_t from = task * job->planes_per_task, to = i64_min(from + job->planes_per_task, cv->batch * cv->c_out);

    (void)lane;
    for (int64_t i = from; i < to; i++) {
        const int64_t m = i % cv->c_out, n = i / cv->c_out;
        plane(&cv->w, job->x + (n * cv->c_in + m / multiplier) * window_count(cv->w.in, 2), job->weight + m * taps,
              job->bias ? job->bias[m] : 0, job->y + i * window_count(cv->w.out, 2));
    }
}

void depthwise_f32(struct pool *pool, const struct conv *cv, const float *x, const float *weight, const float *bias,
                   float *y)
{
    const int64_t cost = i64_max(window_count(cv->w.out, 2) * window_count(cv->w.kernel, 2), 1);
    struct job job = {.cv = cv, .x = x, .weight = weight, .bias = bias, .y = y};

    job.planes_per_task = i64_max(1, 131072 / cost);
    const int64_t tasks = i64_ceil_div(cv->batch * cv->c_out, job.planes_per_task);
    pool_run(tasks > 1 ? pool : NULL, tasks, run, &job);
}
