/* SPDX-License-Identifier: Apache-2.0
 * pool_grad.c - window by window: every output hands its gradient to cells of its window. A window is seen as rows
 * along the last axis, so any number of axes is one loop over rows of taps. 2 x 2 windows with stride 2 that fit, the
 * usual ones, have a loop of their own. */
#include "core/kernels/pool_grad.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

/* The taps [first, end) of the window at output o that lie inside [low, high) along axis a. */
static void taps_between(const struct window *w, int a, int64_t o, int64_t low, int64_t high, int64_t *first,
                         int64_t *end)
{
    const int64_t start = o * w->stride[a] - w->pad[a], d = w->dilation[a];
    *first = start >= low ? 0 : i64_ceil_div(low - start, d);
    *end = start >= high ? 0 : i64_min(i64_ceil_div(high - start, d), w->kernel[a]);
}

/* A walk over the output positions of a plane, and over the rows of taps of each window. */
struct walk {
    const struct window *w;
    int64_t o[SHAPE_MAX_RANK], first[SHAPE_MAX_RANK], end[SHAPE_MAX_RANK], k[SHAPE_MAX_RANK];
};

/* Windows of the current position; false: it lies in the padding. */
static bool walk_open(struct walk *v)
{
    const struct window *w = v->w;
    for (int a = 0; a < w->rank; a++) {
        taps_between(w, a, v->o[a], 0, w->in[a], &v->first[a], &v->end[a]);
        if (v->first[a] >= v->end[a])
            return false;
        v->k[a] = v->first[a];
    }
    return true;
}

/* Offset in the plane of the first cell of the current row of taps. */
static int64_t walk_row(const struct walk *v)
{
    const struct window *w = v->w;
    const int last = w->rank - 1;
    int64_t at = 0;
    for (int a = 0; a <= last; a++) {
        const int64_t k = a == last ? v->first[a] : v->k[a];
        at = at * w->in[a] + v->o[a] * w->stride[a] + k * w->dilation[a] - w->pad[a];
    }
    return at;
}

static bool walk_next_row(struct walk *v)
{
    for (int a = v->w->rank - 2; a >= 0; a--) {
        if (++v->k[a] < v->end[a])
            return true;
        v->k[a] = v->first[a];
    }
    return false;
}

static bool walk_next(struct walk *v)
{
    for (int a = v->w->rank - 1; a >= 0; a--) {
        if (++v->o[a] < v->w->out[a])
            return true;
        v->o[a] = 0;
    }
    return false;
}

/* The divisor of an average. */
static int64_t divisor(const struct pooling *g, const struct walk *v)
{
    const struct window *w = v->w;
    int64_t count = 1;
    for (int a = 0; a < w->rank; a++) {
        int64_t first, end;
        taps_between(w, a, v->o[a], g->include_pad ? -w->pad[a] : 0, w->in[a] + (g->include_pad ? w->pad_end[a] : 0),
                     &first, &end);
        count *= i64_max(end - first, 0);
    }
    return count;
}

static bool is_halving(const struct window *w)
{
    if (w->rank != 2)
        return false;
    for (int a = 0; a < 2; a++)
        if (w->kernel[a] != 2 || w->stride[a] != 2 || w->dilation[a] != 1 || w->pad[a] != 0 || w->out[a] * 2 > w->in[a])
            return false;
    return true;
}

struct job {
    const struct pooling *g;
    enum pool_kind kind;
    const void *x, *y, *dy;
    void *dx;
    bool add;
    int64_t in, out, per_task;
};

static void run_planes(struct pool *pool, struct job *job, pool_fn *fn)
{
    job->in = window_count(job->g->w.in, job->g->w.rank);
    job->out = window_count(job->g->w.out, job->g->w.rank);
    job->per_task = i64_max(1, 32768 / i64_max(job->in, 1));
    if (job->in > 0)
        pool_run(pool, i64_ceil_div(job->g->planes, job->per_task), fn, job);
}

#define DEFINE(suffix, T, power, absolute)                                                                             \
    static void halve_##suffix(const struct window *w, const T *x, const T *dy, T *dx)                                 \
    {                                                                                                                  \
        for (int64_t i = 0; i < w->out[0]; i++) {                                                                      \
            const T *restrict r0 = x + 2 * i * w->in[1], *restrict r1 = r0 + w->in[1],                                 \
                              *restrict d = dy + i * w->out[1];                                                        \
            T *restrict s0 = dx + 2 * i * w->in[1], *restrict s1 = s0 + w->in[1];                                      \
            for (int64_t j = 0; j < w->out[1]; j++) {                                                                  \
                const T a = r0[2 * j], b = r0[2 * j + 1], c = r1[2 * j], e = r1[2 * j + 1];                            \
                const int top = b > a, low = e > c;                                                                    \
                const T high = top ? b : a, deep = low ? e : c;                                                        \
                const int down = deep > high;                                                                          \
                s0[2 * j] += !down && !top ? d[j] : 0;                                                                 \
                s0[2 * j + 1] += !down && top ? d[j] : 0;                                                              \
                s1[2 * j] += down && !low ? d[j] : 0;                                                                  \
                s1[2 * j + 1] += down && low ? d[j] : 0;                                                               \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void max_plane_##suffix(const struct window *w, const T *x, const T *dy, T *dx)                             \
    {                                                                                                                  \
        struct walk v = {.w = w};                                                                                      \
        const int last = w->rank - 1;                                                                                  \
        do {                                                                                                           \
            const T d = *dy++;                                                                                         \
            int64_t best = -1;                                                                                         \
            if (!walk_open(&v))                                                                                        \
                continue;                                                                                              \
            do {                                                                                                       \
                const int64_t row = walk_row(&v), n = v.end[last] - v.first[last];                                     \
                for (int64_t i = 0; i < n; i++)                                                                        \
                    if (best < 0 || x[row + i * w->dilation[last]] > x[best])                                          \
                        best = row + i * w->dilation[last];                                                            \
            } while (walk_next_row(&v));                                                                               \
            dx[best] += d;                                                                                             \
        } while (walk_next(&v));                                                                                       \
    }                                                                                                                  \
    static void average_plane_##suffix(const struct pooling *g, const T *dy, T *dx)                                    \
    {                                                                                                                  \
        const struct window *w = &g->w;                                                                                \
        struct walk v = {.w = w};                                                                                      \
        const int last = w->rank - 1;                                                                                  \
        do {                                                                                                           \
            T d = *dy++;                                                                                               \
            if (!walk_open(&v))                                                                                        \
                continue;                                                                                              \
            d /= (T)divisor(g, &v);                                                                                    \
            do {                                                                                                       \
                const int64_t row = walk_row(&v), n = v.end[last] - v.first[last];                                     \
                for (int64_t i = 0; i < n; i++)                                                                        \
                    dx[row + i * w->dilation[last]] += d;                                                              \
            } while (walk_next_row(&v));                                                                               \
        } while (walk_next(&v));                                                                                       \
    }                                                                                                                  \
    static T norm_slope_##suffix(T x, T y, double p)                                                                   \
    {                                                                                                                  \
        const T side = x < 0 ? -1 : x > 0 ? 1 : 0;                                                                     \
        return y == 0 ? 0 : p == 1 ? side : p == 2 ? x / y : side * power(absolute(x) / y, (T)(p - 1));                \
    }                                                                                                                  \
    static void norm_plane_##suffix(const struct pooling *g, const T *x, const T *y, const T *dy, T *dx)               \
    {                                                                                                                  \
        const struct window *w = &g->w;                                                                                \
        struct walk v = {.w = w};                                                                                      \
        const int last = w->rank - 1;                                                                                  \
        do {                                                                                                           \
            const T d = *dy++, value = *y++;                                                                           \
            if (!walk_open(&v))                                                                                        \
                continue;                                                                                              \
            do {                                                                                                       \
                const int64_t row = walk_row(&v), n = v.end[last] - v.first[last];                                     \
                for (int64_t i = 0; i < n; i++) {                                                                      \
                    const int64_t at = row + i * w->dilation[last];                                                    \
                    dx[at] += d * norm_slope_##suffix(x[at], value, g->p);                                             \
                }                                                                                                      \
            } while (walk_next_row(&v));                                                                               \
        } while (walk_next(&v));                                                                                       \
    }                                                                                                                  \
    static void planes_##suffix(void *arg, int64_t task, int lane)                                                     \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);                 \
        const bool halving = is_halving(&job->g->w);                                                                   \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++) {                                                                          \
            if (job->in == 0)                                                                                          \
                continue;                                                                                              \
            const T *x = job->x ? (const T *)job->x + i * job->in : NULL;                                              \
            const T *dy = job->out ? (const T *)job->dy + i * job->out : NULL;                                         \
            T *dx = (T *)job->dx + i * job->in;                                                                        \
            if (!job->add)                                                                                             \
                memset(dx, 0, (size_t)job->in * sizeof(T));                                                            \
            if (job->out == 0)                                                                                         \
                continue;                                                                                              \
            if (job->kind == POOL_MAX && halving)                                                                      \
                halve_##suffix(&job->g->w, x, dy, dx);                                                                 \
            else if (job->kind == POOL_MAX)                                                                            \
                max_plane_##suffix(&job->g->w, x, dy, dx);                                                             \
            else if (job->kind == POOL_AVERAGE)                                                                        \
                average_plane_##suffix(job->g, dy, dx);                                                                \
            else                                                                                                       \
                norm_plane_##suffix(job->g, x, (const T *)job->y + i * job->out, dy, dx);                              \
        }                                                                                                              \
    }                                                                                                                  \
    void pool_max_grad_##suffix(struct pool *pool, const struct pooling *g, const T *x, const T *dy, T *dx, bool add)  \
    {                                                                                                                  \
        struct job job = {.g = g, .kind = POOL_MAX, .x = x, .dy = dy, .dx = dx, .add = add};                           \
        run_planes(pool, &job, planes_##suffix);                                                                       \
    }                                                                                                                  \
    void pool_average_grad_##suffix(struct pool *pool, const struct pooling *g, const T *dy, T *dx, bool add)          \
    {                                                                                                                  \
        struct job job = {.g = g, .kind = POOL_AVERAGE, .dy = dy, .dx = dx, .add = add};                               \
        run_planes(pool, &job, planes_##suffix);                                                                       \
    }                                                                                                                  \
    void pool_norm_grad_##suffix(struct pool *pool, const struct pooling *g, const T *x, const T *y, const T *dy,      \
                                 T *dx, bool add)                                                                      \
    {                                                                                                                  \
        struct job job = {.g = g, .kind = POOL_NORM, .x = x, .y = y, .dy = dy, .dx = dx, .add = add};                  \
        run_planes(pool, &job, planes_##suffix);                                                                       \
    }                                                                                                                  \
    void pool_global_grad_##suffix(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t cells,    \
                                   const T *x, const T *y, const T *dy, T *dx, bool add)                               \
    {                                                                                                                  \
        const struct pooling g = {                                                                                     \
            .w = {.rank = 1, .in = {cells}, .out = {1}, .kernel = {cells}, .stride = {1}, .dilation = {1}},            \
            .planes = planes,                                                                                          \
            .p = p};                                                                                                   \
        struct job job = {.g = &g, .kind = kind, .x = x, .y = y, .dy = dy, .dx = dx, .add = add};                      \
        run_planes(pool, &job, planes_##suffix);                                                                       \
    }

DEFINE(f32, float, powf, fabsf)
DEFINE(f64, double, pow, fabs)
