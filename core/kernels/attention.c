/* SPDX-License-Identifier: Apache-2.0
 * attention.c - see attention.h.
 * A task     is a tile of query rows of one head. Keys that none of its rows can see are left out of both products, so causal
 *            attention costs half and a window costs what the window holds. */
#include "core/kernels/attention.h"

#include <math.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/kernels/rows.h"

enum { TILE_ROWS = 96, TILE_STEP = 6, TILE_SCORES = 1 << 16 };

/* Rows of a tile: its scores stay in the second-level cache, unless a single row is larger. Tiles are of about the same
 * size, in the rows that the product takes at once. */
static int64_t tile_rows(const struct attention *a)
{
    const int64_t fit = a->cols > 0 ? TILE_SCORES / a->cols : TILE_ROWS;
    const int64_t most = i64_max(1, i64_min(i64_min(fit, TILE_ROWS), a->rows));
    const int64_t even = i64_ceil_div(i64_max(a->rows, 1), i64_ceil_div(i64_max(a->rows, 1), most));
    return i64_max(1, i64_min(i64_ceil_div(even, TILE_STEP) * TILE_STEP, a->rows));
}

bool attention_scratch(const struct attention *a, int threads, size_t elem, size_t *bytes)
{
    return size_mul((size_t)tile_rows(a), (size_t)i64_max(a->cols, 1), bytes) && size_mul(*bytes, elem, bytes) &&
           size_mul(*bytes, (size_t)threads, bytes);
}

struct range {
    int64_t from, to;
};

/* a + b where it fits: lengths and positions come from the caller's data. */
static int64_t sum_of(int64_t a, int64_t b)
{
    int64_t out;
    return i64_add(a, b, &out) ? out : b < 0 ? INT64_MIN : INT64_MAX;
}

/* The keys that row i of batch b may see. */
static struct range visible(const struct attention *a, int64_t b, int64_t i)
{
    const int64_t place = sum_of(a->past_of ? a->past_of[b] : a->past, i);
    struct range r = {0, a->length_of ? i64_min(i64_max(a->length_of[b], 0), a->cols) : a->cols};

    if (a->left >= 0)
        r.from = i64_max(0, sum_of(place, -a->left));
    if (a->right >= 0)
        r.to = i64_min(r.to, sum_of(sum_of(place, a->right), 1));
    r.to = i64_max(r.to, 0);
    r.from = i64_min(r.from, r.to);
    return r;
}

/* s[j] = e^(s[j] - most); their sum. */
static float exp_row_f32(float *s, int64_t n, float most)
{
    return n > 0 ? row_exp_sum_f32(s, n, most, s) : 0;
}

static double exp_row_f64(double *s, int64_t n, double most)
{
    double lane[8] = {0};
    for (int64_t j = 0; j < n; j++) {
        s[j] = exp(s[j] - most);
        lane[j % 8] += s[j];
    }
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* The largest of `most` and a row; NaN if there is one. */
static float max_row_f32(const float *s, int64_t n, float most)
{
    const float own = n > 0 ? row_max_f32(s, n) : most;
    return own > most || own != own ? own : most;
}

static double max_row_f64(const double *s, int64_t n, double most)
{
    for (int64_t j = 0; j < n; j++)
        most = s[j] > most || s[j] != s[j] ? s[j] : most;
    return most;
}

struct job {
    const struct attention *a;
    void *scratch;
    int64_t tile, tiles; /* rows of one, and how many a head */
};

/* Everything that is the same for float and double. s: the scores of one row, r: the keys it may see. */
#define DEFINE_ATTENTION(suffix, T, TANH)                                                                            \
/* The biases are added to each other first: a mask of -10000 keeps few bits of what comes after it. */          \
    static T bias_##suffix(const struct attention_bias *bias, int64_t b, int64_t h, int64_t i, int64_t j)            \
    {                                                                                                                \
        if (!bias->data)                                                                                             \
            return 0;                                                                                                \
        return j < bias->cols ? ((const T *)bias->data)[b * bias->batch + h * bias->head + i * bias->row + j] : (T)-INFINITY;\
    }                                                                                                                \
                                                                                                                     \
    static void add_biases_##suffix(const struct attention *a, int64_t b, int64_t h, int64_t i, struct range r, T *s)\
    {                                                                                                                \
        for (int64_t j = r.from; j < r.to; j++) {                                                                    \
            const T v = bias_##suffix(&a->bias[0], b, h, i, j) + bias_##suffix(&a->bias[1], b, h, i, j);             \
            s[j] = v == (T)-INFINITY ? v : s[j] + v;                                                                 \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    static void fill_##suffix(T *s, int64_t from, int64_t to, T value)                                               \
    {                                                                                                                \
        for (int64_t j = from; j < to; j++)                                                                          \
            s[j] = value;                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    static void softmax_##suffix(T *s, struct range r, const T *sink)                                                \
    {                                                                                                                \
        const T most = max_row_##suffix(s + r.from, r.to - r.from, sink ? *sink : (T)-INFINITY);                     \
        if (most == (T)-INFINITY) {                                                                                  \
            fill_##suffix(s, r.from, r.to, 0);                                                                       \
            return;                                                                                                  \
        }                                                                                                            \
        T sum = exp_row_##suffix(s + r.from, r.to - r.from, most);                                                   \
        if (sink) {                                                                                                  \
            T extra[1] = {*sink};                                                                                    \
            sum += exp_row_##suffix(extra, 1, most);                                                                 \
        }                                                                                                            \
        const T inverse = 1 / sum;                                                                                   \
        for (int64_t j = r.from; j < r.to; j++)                                                                      \
            s[j] *= inverse;                                                                                         \
    }                                                                                                                \
                                                                                                                     \
    static void probe_##suffix(const struct attention *a, enum attention_probe kind, int64_t row, const T *s)        \
    {                                                                                                                \
        if (a->probe_kind != kind || !a->probe)                                                                      \
            return;                                                                                                  \
        T *out = (T *)a->probe + row * a->cols;                                                                      \
        for (int64_t j = 0; j < a->cols; j++)                                                                        \
            out[j] = s[j];                                                                                           \
    }                                                                                                                \
                                                                                                                     \
    /* Scores of row i of head h, all keys of `span` computed, become weights. */                                    \
    static void row_##suffix(const struct attention *a, int64_t b, int64_t h, int64_t i, struct range span, T *s)    \
    {                                                                                                                \
        const int64_t row = (b * a->heads + h) * a->rows + i;                                                        \
        const struct range r = visible(a, b, i), capped = a->probe_kind ? span : r;                                  \
        probe_##suffix(a, ATTENTION_PRODUCT, row, s);                                                                \
        if (a->softcap != 0) {                                                                                       \
            const T cap = (T)a->softcap, inverse = 1 / cap;                                                          \
            for (int64_t j = capped.from; j < capped.to; j++)                                                        \
                s[j] = cap * TANH(s[j] * inverse);                                                                   \
        }                                                                                                            \
        probe_##suffix(a, ATTENTION_CAPPED, row, s);                                                                 \
        if (a->bias[0].data || a->bias[1].data)                                                                      \
            add_biases_##suffix(a, b, h, i, r, s);                                                                   \
        if (a->probe_kind == ATTENTION_BIASED) {                                                                     \
            fill_##suffix(s, span.from, r.from, (T)-INFINITY);                                                       \
            fill_##suffix(s, r.to, span.to, (T)-INFINITY);                                                           \
            probe_##suffix(a, ATTENTION_BIASED, row, s);                                                             \
        }                                                                                                            \
        softmax_##suffix(s, r, a->sink ? (const T *)a->sink + h : NULL);                                             \
        fill_##suffix(s, span.from, r.from, 0);                                                                      \
        fill_##suffix(s, r.to, span.to, 0);                                                                          \
        probe_##suffix(a, ATTENTION_WEIGHTS, row, s);                                                                \
    }                                                                                                                \
                                                                                                                     \
    static const T *head_##suffix(const struct attention_view *v, int64_t b, int64_t h)                              \
    {                                                                                                                \
        return (const T *)v->data + b * v->batch + h * v->head;                                                      \
    }                                                                                                                \
                                                                                                                     \
    static void tile_##suffix(void *arg, int64_t task, int lane)                                                     \
    {                                                                                                                \
        const struct job *job = arg;                                                                                 \
        const struct attention *a = job->a;                                                                          \
        const int64_t head = task / job->tiles, b = head / a->heads, h = head % a->heads;                            \
        const int64_t first = task % job->tiles * job->tile, rows = i64_min(job->tile, a->rows - first);             \
        const int64_t kv = h / (a->heads / a->kv_heads), stride = i64_max(a->cols, 1);                               \
        T *s = (T *)job->scratch + lane * job->tile * stride;                                                        \
        const struct range top = visible(a, b, first), end = visible(a, b, first + rows - 1);                        \
        struct range span = {i64_min(top.from, end.from), i64_max(top.to, end.to)};                                  \
        if (a->probe_kind)                                                                                           \
            span = (struct range){0, a->cols};                                                                       \
                                                                                                                     \
        const struct gemm product = {.trans_b = true, .m = rows, .n = span.to - span.from, .k = a->width,            \
                                     .lda = a->q.row, .ldb = a->k.row, .ldc = stride, .alpha = a->scale};            \
        if (product.n > 0)                                                                                           \
            gemm_##suffix##_tile(&product, head_##suffix(&a->q, b, h) + first * a->q.row,                            \
                                 head_##suffix(&a->k, b, kv) + span.from * a->k.row, s + span.from);                 \
        for (int64_t i = 0; i < rows; i++)                                                                           \
            row_##suffix(a, b, h, first + i, span, s + i * stride);                                                  \
                                                                                                                     \
        T *y = (T *)a->y + b * a->y_batch + h * a->y_head + first * a->y_row;                                        \
        const struct gemm sum = {.m = rows, .n = a->v_width, .k = product.n, .lda = stride, .ldb = a->v.row,         \
                                 .ldc = a->y_row, .alpha = 1};                                                       \
        if (a->y && sum.n > 0)                                                                                       \
            gemm_##suffix##_tile(&sum, s + span.from, head_##suffix(&a->v, b, kv) + span.from * a->v.row, y);        \
    }                                                                                                                \
                                                                                                                     \
    void attention_##suffix(struct pool *pool, const struct attention *a, void *scratch)                             \
    {                                                                                                                \
        struct job job = {.a = a, .scratch = scratch, .tile = tile_rows(a)};                                         \
        const double macs = (double)a->batch * (double)a->heads * (double)a->rows * (double)a->cols *                \
                            (double)(a->width + a->v_width);                                                         \
        if (a->rows <= 0 || a->batch <= 0)                                                                           \
            return;                                                                                                  \
        job.tiles = i64_ceil_div(a->rows, job.tile);                                                                 \
        const int64_t tasks = a->batch * a->heads * job.tiles;                                                       \
        pool_run(tasks > 1 && macs > 65536.0 ? pool : NULL, tasks, tile_##suffix, &job);                             \
    }

DEFINE_ATTENTION(f32, float, tanhf)
DEFINE_ATTENTION(f64, double, tanh)
