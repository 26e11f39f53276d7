/* SPDX-License-Identifier: Apache-2.0
 * pooling.c - pools tap by tap.
 * Idea       As in depthwise convolution, an output plane starts as the neutral value, then every tap of the window
 *            updates all outputs it reaches, row by row: y[i] = max(y[i], x[i * stride]). The reach of a tap is a
 *            range known in advance, so the inner loop has no test, whatever the number of axes; padding is simply
 *            never visited.
 * Average    The divisor is a product over the axes of how many cells of a window count along that axis. */
#include "core/kernels/pooling.h"

#include <math.h>

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

/* How many cells of the window at position o count along axis a: inside the image, or inside image and padding. */
static int64_t cells(const struct window *w, int a, int64_t o, bool include_pad)
{
    const int64_t start = o * w->stride[a] - w->pad[a];
    const int64_t low = include_pad ? -w->pad[a] : 0, high = w->in[a] + (include_pad ? w->pad_end[a] : 0);
    const int64_t d = w->dilation[a];
    const int64_t first = start >= low ? 0 : i64_ceil_div(low - start, d);
    const int64_t end = start >= high ? 0 : i64_min(i64_ceil_div(high - start, d), w->kernel[a]);

    return i64_max(end - first, 0);
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
    struct job job = {.g = g, .x = x, .y = y, .column_major = column_major, .in = window_count(g->w.in, g->w.rank),
                      .out = window_count(g->w.out, g->w.rank)};
    job.per_task =
        i64_max(1, (int64_t)(65536.0 / ((double)job.out * (double)window_count(g->w.kernel, g->w.rank) + 1)));
    const int64_t tasks = i64_ceil_div(g->planes, job.per_task);
    if (job.out > 0)
        pool_run(tasks > 1 ? pool : NULL, tasks, fn, &job);
}

/* A plane: y = start, then update(y, x value) for every tap. */
#define DEFINE_TAPS(name, T, start, update)                                                                          \
    KERNEL_CLONES static void row_##name(T *restrict y, const T *restrict x, int64_t n, int64_t stride, T p)         \
    {                                                                                                                \
        (void)p;                                                                                                     \
        if (stride == 1)                                                                                             \
            for (int64_t i = 0; i < n; i++) {                                                                        \
                const T v = x[i];                                                                                    \
                y[i] = (T)(update);                                                                                  \
            }                                                                                                        \
        else                                                                                                         \
            for (int64_t i = 0; i < n; i++) {                                                                        \
                const T v = x[i * stride];                                                                           \
                y[i] = (T)(update);                                                                                  \
            }                                                                                                        \
    }                                                                                                                \
    static void plane_##name(const struct pooling *g, const T *x, T *y, int64_t out)                                 \
    {                                                                                                                \
        const struct window *w = &g->w;                                                                              \
        const int last = w->rank - 1;                                                                                \
        struct walk v = {.w = w};                                                                                    \
                                                                                                                     \
        for (int64_t i = 0; i < out; i++)                                                                            \
            y[i] = (start);                                                                                          \
        do {                                                                                                         \
            int64_t first, end, x_row, y_row;                                                                        \
            window_valid(w, last, v.k[last], &first, &end);                                                          \
            const int64_t s = w->stride[last], shift = v.k[last] * w->dilation[last] - w->pad[last];                 \
            do {                                                                                                     \
                if (first < end && row_at(&v, &x_row, &y_row))                                                       \
                    row_##name(y + y_row + first, x + x_row + first * s + shift, end - first, s, (T)g->p);           \
            } while (next(v.o, w->out, last));                                                                       \
        } while (next(v.k, w->kernel, w->rank));                                                                     \
    }

#define DEFINE_MAX(suffix, T, lowest)                                                                                \
    DEFINE_TAPS(max_##suffix, T, lowest, v > y[i] ? v : y[i])                                                        \
    static void run_max_##suffix(void *arg, int64_t task, int lane)                                                  \
    {                                                                                                                \
        const struct job *job = arg;                                                                                 \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);               \
        (void)lane;                                                                                                  \
        for (int64_t i = from; i < to; i++)                                                                          \
            plane_max_##suffix(job->g, (const T *)job->x + i * job->in, (T *)job->y + i * job->out, job->out);       \
    }                                                                                                                \
    void pool_max_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                             \
    {                                                                                                                \
        run_planes(pool, g, x, y, false, run_max_##suffix);                                                          \
    }

DEFINE_MAX(f32, float, -INFINITY)
DEFINE_MAX(f64, double, -INFINITY)
DEFINE_MAX(i8, int8_t, INT8_MIN)
DEFINE_MAX(u8, uint8_t, 0)

/* Place of the maximum, window by window: rarely wanted, so written plainly. */
#define DEFINE_INDEX(suffix, T)                                                                                      \
    static int64_t index_of_max_##suffix(const struct window *w, const T *x, const int64_t *o, bool column_major)    \
    {                                                                                                                \
        int64_t k[SHAPE_MAX_RANK] = {0}, best = -1;                                                                  \
        T most = 0;                                                                                                  \
        do {                                                                                                         \
            int64_t row = 0, column = 0, scale = 1;                                                                  \
            bool inside = true;                                                                                      \
            for (int a = 0; a < w->rank && inside; a++) {                                                            \
                const int64_t i = o[a] * w->stride[a] + k[a] * w->dilation[a] - w->pad[a];                           \
                inside = i >= 0 && i < w->in[a];                                                                     \
                row = row * w->in[a] + i;                                                                            \
                column += i * scale;                                                                                 \
                scale *= w->in[a];                                                                                   \
            }                                                                                                        \
            if (inside && (best < 0 || x[row] > most)) {                                                             \
                most = x[row];                                                                                       \
                best = column_major ? column : row;                                                                  \
            }                                                                                                        \
        } while (next(k, w->kernel, w->rank));                                                                       \
        return best;                                                                                                 \
    }                                                                                                                \
    static void run_index_##suffix(void *arg, int64_t task, int lane)                                                \
    {                                                                                                                \
        const struct job *job = arg;                                                                                 \
        const struct window *w = &job->g->w;                                                                         \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);               \
        (void)lane;                                                                                                  \
        for (int64_t i = from; i < to; i++) {                                                                        \
            int64_t o[SHAPE_MAX_RANK] = {0}, *index = (int64_t *)job->y + i * job->out;                              \
            do {                                                                                                     \
                const int64_t at = index_of_max_##suffix(w, (const T *)job->x + i * job->in, o, job->column_major);  \
                *index++ = at < 0 ? at : at + i * job->in;                                                           \
            } while (next(o, w->out, w->rank));                                                                      \
        }                                                                                                            \
    }                                                                                                                \
    void pool_max_index_##suffix(struct pool *pool, const struct pooling *g, const T *x, bool column_major,          \
                                 int64_t *index)                                                                     \
    {                                                                                                                \
        run_planes(pool, g, x, index, column_major, run_index_##suffix);                                             \
    }

DEFINE_INDEX(f32, float)
DEFINE_INDEX(f64, double)

#define DEFINE_SUMS(suffix, T, power, absolute)                                                                      \
    DEFINE_TAPS(sum_##suffix, T, 0, y[i] + v)                                                                        \
    DEFINE_TAPS(square_##suffix, T, 0, y[i] + v * v)                                                                 \
    DEFINE_TAPS(absolute_##suffix, T, 0, y[i] + absolute(v))                                                         \
    DEFINE_TAPS(power_##suffix, T, 0, y[i] + power(absolute(v), p))                                                  \
    static void divide_##suffix(const struct pooling *g, T *y)                                                       \
    {                                                                                                                \
        int64_t o[SHAPE_MAX_RANK] = {0};                                                                             \
        do {                                                                                                         \
            int64_t count = 1;                                                                                       \
            for (int a = 0; a < g->w.rank; a++)                                                                      \
                count *= cells(&g->w, a, o[a], g->include_pad);                                                      \
            *y = count > 0 ? *y / (T)count : 0;                                                                      \
            y++;                                                                                                     \
        } while (next(o, g->w.out, g->w.rank));                                                                      \
    }                                                                                                                \
    static void run_average_##suffix(void *arg, int64_t task, int lane)                                              \
    {                                                                                                                \
        const struct job *job = arg;                                                                                 \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);               \
        (void)lane;                                                                                                  \
        for (int64_t i = from; i < to; i++) {                                                                        \
            T *y = (T *)job->y + i * job->out;                                                                       \
            plane_sum_##suffix(job->g, (const T *)job->x + i * job->in, y, job->out);                                \
            divide_##suffix(job->g, y);                                                                              \
        }                                                                                                            \
    }                                                                                                                \
    static void run_norm_##suffix(void *arg, int64_t task, int lane)                                                 \
    {                                                                                                                \
        const struct job *job = arg;                                                                                 \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->g->planes);               \
        const T root = (T)(1 / job->g->p);                                                                           \
        (void)lane;                                                                                                  \
        for (int64_t i = from; i < to; i++) {                                                                        \
            const T *x = (const T *)job->x + i * job->in;                                                            \
            T *y = (T *)job->y + i * job->out;                                                                       \
            if (job->g->p == 1)                                                                                      \
                plane_absolute_##suffix(job->g, x, y, job->out);                                                     \
            else if (job->g->p == 2)                                                                                 \
                plane_square_##suffix(job->g, x, y, job->out);                                                       \
            else                                                                                                     \
                plane_power_##suffix(job->g, x, y, job->out);                                                        \
            for (int64_t j = 0; j < job->out && job->g->p != 1; j++)                                                 \
                y[j] = power(y[j], root);                                                                            \
        }                                                                                                            \
    }                                                                                                                \
    void pool_average_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                         \
    {                                                                                                                \
        run_planes(pool, g, x, y, false, run_average_##suffix);                                                      \
    }                                                                                                                \
    void pool_norm_##suffix(struct pool *pool, const struct pooling *g, const T *x, T *y)                            \
    {                                                                                                                \
        run_planes(pool, g, x, y, false, run_norm_##suffix);                                                         \
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

#define REDUCE(T, start, update, join)                                                                               \
    T lane[LANES];                                                                                                   \
    int64_t i = 0;                                                                                                   \
    for (int l = 0; l < LANES; l++)                                                                                  \
        lane[l] = (start);                                                                                           \
    for (; i + LANES <= n; i += LANES)                                                                               \
        for (int l = 0; l < LANES; l++) {                                                                            \
            const T v = x[i + l], s = lane[l];                                                                       \
            lane[l] = (update);                                                                                      \
        }                                                                                                            \
    for (; i < n; i++) {                                                                                             \
        const T v = x[i], s = lane[0];                                                                               \
        lane[0] = (update);                                                                                          \
    }                                                                                                                \
    for (int l = 1; l < LANES; l++) {                                                                                \
        const T v = lane[l], s = lane[0];                                                                            \
        lane[0] = (join);                                                                                            \
    }                                                                                                                \
    return lane[0];

#define DEFINE_GLOBAL(suffix, T, power, absolute)                                                                    \
    KERNEL_CLONES static T all_max_##suffix(const T *x, int64_t n) { REDUCE(T, x[0], v > s ? v : s, v > s ? v : s) } \
    KERNEL_CLONES static T all_sum_##suffix(const T *x, int64_t n) { REDUCE(T, 0, s + v, s + v) }                    \
    KERNEL_CLONES static T all_square_##suffix(const T *x, int64_t n) { REDUCE(T, 0, s + v * v, s + v) }             \
    static T all_power_##suffix(const T *x, int64_t n, T p) { REDUCE(T, 0, s + power(absolute(v), p), s + v) }       \
    static T all_norm_##suffix(const T *x, int64_t n, double p)                                                      \
    {                                                                                                                \
        const T sum = p == 2 ? all_square_##suffix(x, n) : all_power_##suffix(x, n, (T)p);                           \
        return p == 1 ? sum : power(sum, (T)(1 / p));                                                                \
    }                                                                                                                \
    static void run_global_##suffix(void *arg, int64_t task, int lane)                                               \
    {                                                                                                                \
        const struct global_job *job = arg;                                                                          \
        const int64_t from = task * job->per_task, to = i64_min(from + job->per_task, job->planes), n = job->cells;  \
        (void)lane;                                                                                                  \
        for (int64_t i = from; i < to; i++) {                                                                        \
            const T *x = (const T *)job->x + i * n;                                                                  \
            ((T *)job->y)[i] = job->kind == POOL_MAX       ? all_max_##suffix(x, n)                                  \
                               : job->kind == POOL_AVERAGE ? all_sum_##suffix(x, n) / (T)n                           \
                                                           : all_norm_##suffix(x, n, job->p);                        \
        }                                                                                                            \
    }                                                                                                                \
    void pool_global_##suffix(struct pool *pool, enum pool_kind kind, double p, int64_t planes, int64_t n, const T *x, \
                              T *y)                                                                                  \
    {                                                                                                                \
        struct global_job job = {.kind = kind, .p = p, .planes = planes, .cells = n, .x = x, .y = y};                \
        job.per_task = i64_max(1, 65536 / n);                                                                        \
        const int64_t tasks = i64_ceil_div(planes, job.per_task);                                                    \
        pool_run(tasks > 1 ? pool : NULL, tasks, run_global_##suffix, &job);                                         \
    }

DEFINE_GLOBAL(f32, float, powf, fabsf)
DEFINE_GLOBAL(f64, double, pow, fabs)
