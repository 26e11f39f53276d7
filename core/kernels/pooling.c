/* SPDX-License-Identifier: Apache-2.0
 * pooling.c - pools tap by tap.
 * Idea       As in depthwise convolution, an output plane starts as the neutral value, then every tap of the window
 *            updates all outputs it reaches, row by row: y[i] = max(y[i], x[i * stride]). The reach of a tap is a
 *            range known in advance, so the inner loop has no test, whatever the number of axes; padding is simply
 *            never visited. Taps that reach the image from no output are not walked at all.
 * Sparse     Huge strides between huge pads leave many taps that each reach few outputs: then the walk goes window by
 *            window, each clipped to the image. Both walks add a window's cells in the same order.
 * Average    The divisor is a product over the axes of how many cells of a window count along that axis. */
#include "core/kernels/pooling.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

/* All (tap, output row) pairs of one plane: fn updates `n` outputs from inputs `stride` apart. */
struct walk {
    const struct window *w;
    int64_t k[SHAPE_MAX_RANK]; /* tap */
    int64_t o[SHAPE_MAX_RANK]; /* output row: all axes but the last */
};

static bool next(int64_t *at, const int64_t *limit, int rank)
{
    for (int a = rank - 1; a >= 0; a--) {
        if (++at[a] < limit[a])
            return true;
        at[a] = 0;
    }
    return false;
}

/* Taps of a window, a range an axis. */
struct taps {
    int64_t first[SHAPE_MAX_RANK], end[SHAPE_MAX_RANK];
};

static bool next_tap(int64_t *k, const struct taps *t, int rank)
{
    for (int a = rank - 1; a >= 0; a--) {
        if (++k[a] < t->end[a])
            return true;
        k[a] = t->first[a];
    }
    return false;
}

/* Offset of the row of x that output row o reaches with tap k; false in the padding. */
static bool row_at(const struct walk *v, int64_t *x_row, int64_t *y_row)
{
    const struct window *w = v->w;
    int64_t x = 0, y = 0;

    for (int a = 0; a + 1 < w->rank; a++) {
        const int64_t i = v->o[a] * w->stride[a] + v->k[a] * w->dilation[a] - w->pad[a];
        if (i < 0 || i >= w->in[a])
            return false;
        x = x * w->in[a] + i;
        y = y * w->out[a] + v->o[a];
    }
    *x_row = x * w->in[w->rank - 1];
    *y_row = y * w->out[w->rank - 1];
    return true;
}

/* Taps along axis a of the window at position o that fall into [low, high). */
static void taps_between(const struct window *w, int a, int64_t o, int64_t low, int64_t high, int64_t *first,
                         int64_t *end)
{
    const int64_t start = o * w->stride[a] - w->pad[a], d = w->dilation[a];

    *first = start >= low ? 0 : i64_ceil_div(low - start, d);
    *end = start >= high ? 0 : i64_min(i64_ceil_div(high - start, d), w->kernel[a]);
}

/* How many cells of the window at position o count along axis a: inside the image, or inside image and padding. */
static int64_t cells(const struct window *w, int a, int64_t o, bool include_pad)
{
    int64_t first, end;

    taps_between(w, a, o, include_pad ? -w->pad[a] : 0, w->in[a] + (include_pad ? w->pad_end[a] : 0), &first, &end);
    return i64_max(end - first, 0);
}

/* Taps of the window at o that lie inside the image; false: there are none. */
static bool taps_inside(const struct window *w, const int64_t *o, struct taps *t)
{
    for (int a = 0; a < w->rank; a++) {
        taps_between(w, a, o[a], 0, w->in[a], &t->first[a], &t->end[a]);
        if (t->first[a] >= t->end[a])
            return false;
    }
    return true;
}

/* Taps that reach the image from any output: between those of the last position and those of the first. */
static bool taps_useful(const struct window *w, struct taps *t)
{
    int64_t unused;

    for (int a = 0; a < w->rank; a++) {
        taps_between(w, a, w->out[a] - 1, 0, w->in[a], &t->first[a], &unused);
        taps_between(w, a, 0, 0, w->in[a], &unused, &t->end[a]);
        if (t->first[a] >= t->end[a])
            return false;
    }
    return true;
}

/* More taps than four an image cell: most of them reach next to nothing. */
static bool taps_sparse(const struct window *w, const struct taps *t)
{
    double taps = 1, image = 4;

    for (int a = 0; a < w->rank; a++) {
        taps *= (double)(t->end[a] - t->first[a]);
        image *= (double)w->in[a];
    }
    return taps > image + 64;
}

/* Offset in the image of tap k of the window at o, which lies inside. */
static int64_t cell_at(const struct window *w, const int64_t *o, const int64_t *k)
{
    int64_t x = 0;

    for (int a = 0; a < w->rank; a++)
        x = x * w->in[a] + o[a] * w->stride[a] + k[a] * w->dilation[a] - w->pad[a];
    return x;
}

struct job {
    const struct pooling *g;
    const void *x;
    void *y;
    int64_t in, out, per_task;
    bool column_major;
};

static void run_planes(struct pool *pool, const struct pooling *g, const void *x, void *y, bool column_major,
                       pool_fn *fn)
{
    struct job job = {.g = g,
                      .x = x,
                      .y = y,
                      .column_major = column_major,
                      .in = window_count(g->w.in, g->w.rank),
                      .out = window_count(g->w.out, g->w.rank)};
    job.per_task =
        i64_max(1, (int64_t)(65536.0 / ((double)job.out * (double)window_count(g->w.kernel, g->w.rank) + 1)));
    const int64_t tasks = i64_ceil_div(g->planes, job.per_task);
    if (job.out > 0)
        pool_run(tasks > 1 ? pool : NULL, tasks, fn, &job);
}

/* A plane: y = start, then update(y, x value) for every tap. */
#define DEFINE_TAPS(name, T, start, update)                                                                            \
    KERNEL_CLONES static void row_##name(T *restrict y, const T *restrict x, int64_t n, int64_t stride, T p)           \
    {                                                                                                                  \
        (void)p;                                                                                                       \
        if (stride == 1)                                                                                               \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const T v = x[i];                                                                                      \
                y[i] = (T)(update);                                                                                    \
            }                                                                                                          \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const T v = x[i * stride];                                                                             \
                y[i] = (T)(update);                                                                                    \
            }                                                                                                          \
    }                                                                                                                  \
    static void windows_##name(const struct pooling *g, const T *x, T *y)                                              \
    {                                                                                                                  \
        const struct window *w = &g->w;                                                                                \
        struct walk v = {.w = w};                                                                                      \
        struct taps t;                                                                                                 \
                                                                                                                       \
        do {                                                                                                           \
            if (taps_inside(w, v.o, &t)) {                                                                             \
                memcpy(v.k, t.first, sizeof v.k);                                                                      \
                do                                                                                                     \
                    row_##name(y, x + cell_at(w, v.o, v.k), 1, 1, (T)g->p);                                            \
                while (next_tap(v.k, &t, w->rank));                                                                    \
            }                                                                                                          \
            y++;                                                                                                       \
        } while (next(v.o, w->out, w->rank));                                                                          \
    }                                                                                                                  \
    static void plane_##name(const struct pooling *g, const T *x, T *y, int64_t out)                                   \
    {                                                                                                                  \
        const struct window *w = &g->w;                                                                                \
        const int last = w->rank - 1;                                                                                  \
        struct walk v = {.w = w};                                                                                      \
        struct taps t;                                                                                                 \
                                                                                                                       \
        for (int64_t i = 0; i < out; i++)                                                                              \
            y[i] = (start);                                                                                            \
        if (!taps_useful(w, &t))                                                                                       \
            return;                                                                                                    \
        if (taps_sparse(w, &t)) {                                                                                      \
            windows_##name(g, x, y);                                                                                   \
            return;                                                                                                    \
        }                                                                                                              \
        memcpy(v.k, t.first, sizeof v.k);                                                                              \
        do {                                                                                                           \
            int64_t first, end, x_row, y_row;                                                                          \
            window_valid(w, last, v.k[last], &first, &end);                                                            \
            const int64_t s = w->stride[last], shift = v.k[last] * w->dilation[last] - w->pad[last];                   \
            do {                                                                                                       \
                if (first < end && row_at(&v, &x_row, &y_row))                                                         \
                    row_##name(y + y_row + first, x + x_row + first * s + shift, end - first, s, (T)g->p);             \
            } while (next(v.o, w->out, last));                                                                         \
        } while (next_tap(v.k, &t, w->rank));                                                                          \
    }

#define DEFINE_MAX(suffix, T, lowest)                                                                                  \
    DEFINE_TAPS(max_##suffix, T, lowest, v > y[i] ? v : y[i])                                                          \
    static void run_max_##suffix(void *arg, int64_t task, int lane)                                                    \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);                 \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++)                                                                            \
            plane_max_##suffix(job->g, (const T *)job->x + i * job->in, (T *)job->y + i * job->out, job->out);         \
    }                                                                                                                  \
    void pool_max_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                               \
    {                                                                                                                  \
        run_planes(pool, g, x, y, false, run_max_##suffix);                                                            \
    }

DEFINE_MAX(f32, float, -INFINITY)
DEFINE_MAX(f64, double, -INFINITY)
DEFINE_MAX(i8, int8_t, INT8_MIN)
DEFINE_MAX(u8, uint8_t, 0)

/* The place `at` of a plane, counted with the first axis fastest. */
static int64_t columns_first(const struct window *w, int64_t at)
{
    int64_t place = 0, scale = window_count(w->in, w->rank);

    for (int a = w->rank - 1; a >= 0; a--) {
        scale /= w->in[a];
        place += at % w->in[a] * scale;
        at /= w->in[a];
    }
    return place;
}

/* Place of the maximum, window by window: rarely wanted, so written plainly. */
#define DEFINE_INDEX(suffix, T)                                                                                        \
    static int64_t index_of_max_##suffix(const struct window *w, const T *x, const int64_t *o, bool column_major)      \
    {                                                                                                                  \
        int64_t k[SHAPE_MAX_RANK], best = -1;                                                                          \
        struct taps t;                                                                                                 \
                                                                                                                       \
        if (!taps_inside(w, o, &t))                                                                                    \
            return -1;                                                                                                 \
        memcpy(k, t.first, sizeof k);                                                                                  \
        do {                                                                                                           \
            const int64_t at = cell_at(w, o, k);                                                                       \
            if (best < 0 || x[at] > x[best])                                                                           \
                best = at;                                                                                             \
        } while (next_tap(k, &t, w->rank));                                                                            \
        return column_major ? columns_first(w, best) : best;                                                           \
    }                                                                                                                  \
    static void run_index_##suffix(void *arg, int64_t task, int lane)                                                  \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const struct window *w = &job->g->w;                                                                           \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);                 \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++) {                                                                          \
            int64_t o[SHAPE_MAX_RANK] = {0}, *index = (int64_t *)job->y + i * job->out;                                \
            do {                                                                                                       \
                const int64_t at = index_of_max_##suffix(w, (const T *)job->x + i * job->in, o, job->column_major);    \
                *index++ = at < 0 ? at : at + i * job->in;                                                             \
            } while (next(o, w->out, w->rank));                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    void pool_max_index_##suffix(struct pool *pool, const struct pooling *g, const T *x, bool column_major,            \
                                 int64_t *index)                                                                       \
    {                                                                                                                  \
        run_planes(pool, g, x, index, column_major, run_index_##suffix);                                               \
    }

DEFINE_INDEX(f32, float)
DEFINE_INDEX(f64, double)

#define DEFINE_SUMS(suffix, T, power, absolute)                                                                        \
    DEFINE_TAPS(sum_##suffix, T, 0, y[i] + v)                                                                          \
    DEFINE_TAPS(square_##suffix, T, 0, y[i] + v * v)                                                                   \
    DEFINE_TAPS(absolute_##suffix, T, 0, y[i] + absolute(v))                                                           \
    DEFINE_TAPS(power_##suffix, T, 0, y[i] + power(absolute(v), p))                                                    \
    static void divide_##suffix(const struct pooling *g, T *y)                                                         \
    {                                                                                                                  \
        int64_t o[SHAPE_MAX_RANK] = {0};                                                                               \
        do {                                                                                                           \
            int64_t count = 1;                                                                                         \
            for (int a = 0; a < g->w.rank; a++)                                                                        \
                count *= cells(&g->w, a, o[a], g->include_pad);                                                        \
            *y = count > 0 ? *y / (T)count : 0;                                                                        \
            y++;                                                                                                       \
        } while (next(o, g->w.out, g->w.rank));                                                                        \
    }                                                                                                                  \
    static void run_average_##suffix(void *arg, int64_t task, int lane)                                                \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);                 \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++) {                                                                          \
            T *y = (T *)job->y + i * job->out;                                                                         \
            plane_sum_##suffix(job->g, (const T *)job->x + i * job->in, y, job->out);                                  \
            divide_##suffix(job->g, y);                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static void run_norm_##suffix(void *arg, int64_t task, int lane)                                                   \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);                 \
        const T root = (T)(1 / job->g->p);                                                                             \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++) {                                                                          \
            const T *x = (const T *)job->x + i * job->in;                                                              \
            T *y = (T *)job->y + i * job->out;                                                                         \
            if (job->g->p == 1)                                                                                        \
                plane_absolute_##suffix(job->g, x, y, job->out);                                                       \
            else if (job->g->p == 2)                                                                                   \
                plane_square_##suffix(job->g, x, y, job->out);                                                         \
            else                                                                                                       \
                plane_power_##suffix(job->g, x, y, job->out);                                                          \
            for (int64_t j = 0; j < job->out && job->g->p != 1; j++)                                                   \
                y[j] = power(y[j], root);                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    void pool_average_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                           \
    {                                                                                                                  \
        run_planes(pool, g, x, y, false, run_average_##suffix);                                                        \
    }                                                                                                                  \
    void pool_norm_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                              \
    {                                                                                                                  \
        run_planes(pool, g, x, y, false, run_norm_##suffix);                                                           \
    }

DEFINE_SUMS(f32, float, powf, fabsf)
DEFINE_SUMS(f64, double, pow, fabs)

/* ---- one window over everything: eight running values, joined in a fixed order, so that the loop vectorises ---- */
enum { LANES = 8 };

struct global_job {
    enum pool_kind kind;
    double p;
    int64_t planes, cells, per_task;
    const void *x;
    void *y;
};

#define REDUCE(T, start, update, join)                                                                                 \
    T lane[LANES];                                                                                                     \
    int64_t i = 0;                                                                                                     \
    for (int l = 0; l < LANES; l++)                                                                                    \
        lane[l] = (start);                                                                                             \
    for (; i + LANES <= n; i += LANES)                                                                                 \
        for (int l = 0; l < LANES; l++) {                                                                              \
            const T v = x[i + l], s = lane[l];                                                                         \
            lane[l] = (update);                                                                                        \
        }                                                                                                              \
    for (; i < n; i++) {                                                                                               \
        const T v = x[i], s = lane[0];                                                                                 \
        lane[0] = (update);                                                                                            \
    }                                                                                                                  \
    for (int l = 1; l < LANES; l++) {                                                                                  \
        const T v = lane[l], s = lane[0];                                                                              \
        lane[0] = (join);                                                                                              \
    }                                                                                                                  \
    return lane[0];

#define DEFINE_GLOBAL(suffix, T, power, absolute)                                                                      \
    KERNEL_CLONES static T all_max_##suffix(const T *x, int64_t n){                                                    \
        REDUCE(T, x[0], v > s ? v : s, v > s ? v : s)} KERNEL_CLONES static T all_sum_##suffix(const T *x, int64_t n){ \
        REDUCE(T, 0, s + v, s + v)} KERNEL_CLONES static T all_square_##suffix(const T *x, int64_t n)                  \
    {                                                                                                                  \
        REDUCE(T, 0, s + v * v, s + v)                                                                                 \
    }                                                                                                                  \
    static T all_power_##suffix(const T *x, int64_t n, T p)                                                            \
    {                                                                                                                  \
        REDUCE(T, 0, s + power(absolute(v), p), s + v)                                                                 \
    }                                                                                                                  \
    static T all_norm_##suffix(const T *x, int64_t n, double p)                                                        \
    {                                                                                                                  \
        const T sum = p == 2 ? all_square_##suffix(x, n) : all_power_##suffix(x, n, (T)p);                             \
        return p == 1 ? sum : power(sum, (T)(1 / p));                                                                  \
    }                                                                                                                  \
    static void run_global_##suffix(void *arg, int64_t task, int lane)                                                 \
    {                                                                                                                  \
        const struct global_job *job = arg;                                                                            \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->planes), n = job->cells;    \
        (void)lane;                                                                                                    \
        for (int64_t i = from; i < to; i++) {                                                                          \
            const T *x = (const T *)job->x + i * n;                                                                    \
            ((T *)job->y)[i] = job->kind == POOL_MAX       ? all_max_##suffix(x, n)                                    \
                               : job->kind == POOL_AVERAGE ? all_sum_##suffix(x, n) / (T)n                             \
                                                           : all_norm_##suffix(x, n, job->p);                          \
        }                                                                                                              \
    }                                                                                                                  \
    void pool_global_##suffix(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t n, const T *x, \
                              T *y)                                                                                    \
    {                                                                                                                  \
        struct global_job job = {.kind = kind, .p = p, .planes = planes, .cells = n, .x = x, .y = y};                  \
        job.per_task = i64_max(1, 65536 / n);                                                                          \
        const int64_t tasks = i64_ceil_div(planes, job.per_task);                                                      \
        pool_run(tasks > 1 ? pool : NULL, tasks, run_global_##suffix, &job);                                           \
    }

DEFINE_GLOBAL(f32, float, powf, fabsf)
DEFINE_GLOBAL(f64, double, pow, fabs)
