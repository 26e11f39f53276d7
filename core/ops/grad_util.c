/* SPDX-License-Identifier: Apache-2.0
 * Sums of terms over strided axes: see grad_util.h.
 * Way        Axes of one element go, adjacent axes that every operand walks as one merge. The last axis is the row.
 *            The others are kept (the destination moves along them) or summed. A task is one place of the kept axes
 *            and, when the row is kept too, a tile of it; a task owns its destination elements, so tasks are
 *            independent. A kept row adds side by side into a tile of doubles, a summed row adds into one. */
#include "core/ops/grad_util.h"

#include <string.h>

enum { TILE = 512, LANES = 8, GRAIN = 1 << 14 };

struct axes {
    int n;
    int64_t dim[OP_COPY_RANK], dst[OP_COPY_RANK], src[OP_COPY_RANK][GRAD_SOURCES];
};
struct work {
    const struct grad_loop *l;
    grad_term_fn *fn;
    size_t elem, src_elem[GRAD_SOURCES];
    struct axes kept, summed;
    int64_t n_kept, n_summed, row, dst_step, step[GRAD_SOURCES];
    int64_t tiles; /* of a kept row; 1 when it is summed */
};

/* ---- axes ---- */
static bool merges(const struct axes *a, int64_t dim, int64_t dst, const int64_t *src)
{
    const int last = a->n - 1;
    int64_t step; /* overflows only where an axis of size 0 leaves nothing to reach */
    if (last < 0 || !i64_mul(dst, dim, &step) || a->dst[last] != step)
        return false;
    for (int k = 0; k < GRAD_SOURCES; k++)
        if (!i64_mul(src[k], dim, &step) || a->src[last][k] != step)
            return false;
    return true;
}

static void push(struct axes *a, int64_t dim, int64_t dst, const int64_t *src)
{
    const bool merge = merges(a, dim, dst, src);
    const int at = merge ? a->n - 1 : a->n++;
    a->dim[at] = merge ? a->dim[at] * dim : dim;
    a->dst[at] = dst;
    memcpy(a->src[at], src, sizeof a->src[at]);
}

static void plan_axes(struct work *w)
{
    const struct grad_loop *l = w->l;
    struct axes all = {.n = 0};

    for (int i = 0; i < l->rank; i++) {
        int64_t src[GRAD_SOURCES] = {0};
        for (int k = 0; k < l->sources; k++)
            src[k] = l->src[k].stride[i];
        if (l->dim[i] != 1)
            push(&all, l->dim[i], l->dst_stride[i], src);
    }
    w->row = 1;
    w->dst_step = 1;
    w->n_kept = w->n_summed = 1;
    if (all.n > 0) {
        const int last = --all.n;
        w->row = all.dim[last];
        w->dst_step = all.dst[last];
        memcpy(w->step, all.src[last], sizeof w->step);
    }
    for (int i = 0; i < all.n; i++) {
        struct axes *to = all.dst[i] ? &w->kept : &w->summed;
        push(to, all.dim[i], all.dst[i], all.src[i]);
        *(all.dst[i] ? &w->n_kept : &w->n_summed) *= all.dim[i];
    }
    w->tiles = w->dst_step ? i64_ceil_div(w->row, TILE) : 1;
}

/* ---- one place ---- */
struct place {
    int64_t dst, src[GRAD_SOURCES];
};

static void advance(struct place *p, const struct axes *a, int axis, int64_t by)
{
    p->dst += a->dst[axis] * by;
    for (int k = 0; k < GRAD_SOURCES; k++)
        p->src[k] += a->src[axis][k] * by;
}

static struct place place_of(const struct axes *a, int64_t index)
{
    struct place p = {0};
    for (int i = a->n - 1; i >= 0; i--) {
        advance(&p, a, i, index % a->dim[i]);
        index /= a->dim[i];
    }
    return p;
}

/* The next place of the summed axes, by an odometer. */
static void next_place(struct place *p, const struct axes *a, int64_t *at)
{
    for (int i = a->n - 1; i >= 0; i--) {
        advance(p, a, i, 1);
        if (++at[i] < a->dim[i])
            return;
        advance(p, a, i, -a->dim[i]);
        at[i] = 0;
    }
}

#define DEFINE_TYPE(suffix, T)                                                                                       \
    static double sum_##suffix(const T *x, int64_t n)                                                                \
    {                                                                                                                \
        double lane[LANES] = {0}, sum = 0;                                                                           \
        int64_t i = 0;                                                                                               \
        for (; i + LANES <= n; i += LANES)                                                                           \
            for (int k = 0; k < LANES; k++)                                                                          \
                lane[k] += (double)x[i + k];                                                                         \
        for (; i < n; i++)                                                                                           \
            sum += (double)x[i];                                                                                     \
        for (int k = 0; k < LANES; k++)                                                                              \
            sum += lane[k];                                                                                          \
        return sum;                                                                                                  \
    }                                                                                                                \
    static void add_row_##suffix(double *restrict acc, const T *restrict x, int64_t n)                               \
    {                                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                              \
            acc[i] += (double)x[i];                                                                                  \
    }                                                                                                                \
    /* Terms of one piece of a row: the source's own elements where that can be. */                                  \
    static const T *terms_##suffix(const struct work *w, const struct place *p, int64_t from, int64_t n, T *buffer)  \
    {                                                                                                                \
        const void *src[GRAD_SOURCES] = {NULL};                                                                      \
        for (int k = 0; k < w->l->sources; k++)                                                                      \
            src[k] = (const char *)w->l->src[k].data + (p->src[k] + from * w->step[k]) * (int64_t)w->src_elem[k];    \
        if (w->fn) {                                                                                                 \
            w->fn(buffer, src, w->step, n, w->l->arg);                                                               \
            return buffer;                                                                                           \
        }                                                                                                            \
        const T *x = src[0];                                                                                         \
        if (w->step[0] == 1)                                                                                         \
            return x;                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                              \
            buffer[i] = x[i * w->step[0]];                                                                           \
        return buffer;                                                                                               \
    }                                                                                                                \
    /* A kept row without sums: straight into the destination. */                                                    \
    static void plain_##suffix(const struct work *w, const struct place *p, int64_t from, int64_t n)                 \
    {                                                                                                                \
        T buffer[TILE], *d = (T *)w->l->dst + p->dst + from * w->dst_step;                                           \
        const T *x = terms_##suffix(w, p, from, n, buffer);                                                          \
        if (w->l->assign && w->dst_step == 1)                                                                        \
            memmove(d, x, (size_t)n * sizeof *d);                                                                    \
        else if (w->l->assign)                                                                                       \
            for (int64_t i = 0; i < n; i++)                                                                          \
                d[i * w->dst_step] = x[i];                                                                           \
        else if (w->dst_step == 1)                                                                                   \
            for (int64_t i = 0; i < n; i++)                                                                          \
                d[i] += x[i];                                                                                        \
        else                                                                                                         \
            for (int64_t i = 0; i < n; i++)                                                                          \
                d[i * w->dst_step] += x[i];                                                                          \
    }                                                                                                                \
    static void tile_##suffix(const struct work *w, struct place p, int64_t from, int64_t n)                         \
    {                                                                                                                \
        T buffer[TILE], *d = (T *)w->l->dst + p.dst + from * w->dst_step;                                            \
        double acc[TILE];                                                                                            \
        int64_t at[OP_COPY_RANK] = {0};                                                                              \
        memset(acc, 0, (size_t)n * sizeof *acc);                                                                     \
        for (int64_t s = 0; s < w->n_summed; s++, next_place(&p, &w->summed, at))                                    \
            add_row_##suffix(acc, terms_##suffix(w, &p, from, n, buffer), n);                                        \
        for (int64_t i = 0; i < n; i++)                                                                              \
            d[i * w->dst_step] = (T)(acc[i] + (w->l->assign ? 0 : (double)d[i * w->dst_step]));                      \
    }                                                                                                                \
    static void row_##suffix(const struct work *w, struct place p)                                                   \
    {                                                                                                                \
        T buffer[TILE], *d = (T *)w->l->dst + p.dst;                                                                 \
        double acc = 0;                                                                                              \
        int64_t at[OP_COPY_RANK] = {0};                                                                              \
        for (int64_t s = 0; s < w->n_summed; s++, next_place(&p, &w->summed, at))                                    \
            for (int64_t i = 0; i < w->row; i += TILE) {                                                             \
                const int64_t n = i64_min(TILE, w->row - i);                                                         \
                acc += sum_##suffix(terms_##suffix(w, &p, i, n, buffer), n);                                         \
            }                                                                                                        \
        *d = (T)(acc + (w->l->assign ? 0 : (double)*d));                                                             \
    }                                                                                                                \
    static void run_##suffix(void *arg, int64_t begin, int64_t end)                                                  \
    {                                                                                                                \
        const struct work *w = arg;                                                                                  \
        for (int64_t t = begin; t < end; t++) {                                                                      \
            const struct place p = place_of(&w->kept, t / w->tiles);                                                 \
            const int64_t from = t % w->tiles * TILE, n = i64_min(TILE, w->row - from);                              \
            if (!w->dst_step)                                                                                        \
                row_##suffix(w, p);                                                                                  \
            else if (w->n_summed == 1)                                                                               \
                plain_##suffix(w, &p, from, n);                                                                      \
            else                                                                                                     \
                tile_##suffix(w, p, from, n);                                                                        \
        }                                                                                                            \
    }
DEFINE_TYPE(f32, float)
DEFINE_TYPE(f64, double)

/* A copy without sums into contiguous memory has a faster way, blocked for transposes. */
static bool is_copy(const struct grad_loop *l)
{
    int64_t stride = 1;
    if (l->term || !l->assign || l->src[0].elem)
        return false;
    for (int i = l->rank - 1; i >= 0; i--) {
        if (l->dim[i] != 1 && l->dst_stride[i] != stride)
            return false;
        stride *= l->dim[i];
    }
    return true;
}

/* A sum over nothing must not count to it: with a summed axis of size 0, the other summed axes shrink to 1. False: the
 * destination has no elements. */
static bool shrink_empty(const struct grad_loop *l, struct grad_loop *small)
{
    bool empty = false;
    for (int i = 0; i < l->rank; i++) {
        if (l->dim[i] == 0 && l->dst_stride[i] != 0)
            return false;
        empty = empty || l->dim[i] == 0;
    }
    *small = *l;
    for (int i = 0; empty && i < l->rank; i++)
        if (l->dst_stride[i] == 0 && l->dim[i] > 1)
            small->dim[i] = 1;
    return true;
}

void grad_sum(struct pool *pool, const struct grad_loop *loop)
{
    struct grad_loop small;
    const struct grad_loop *l = &small;
    if (!shrink_empty(loop, &small))
        return;
    struct work w = {.l = l, .elem = l->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double)};

    if (is_copy(l)) {
        op_copy_strided(pool, w.elem, l->dst, l->src[0].data, l->rank, l->dim, l->src[0].stride);
        return;
    }
    if (l->term)
        w.fn = l->dtype == DTYPE_FLOAT ? l->term->f32 : l->term->f64;
    for (int k = 0; k < l->sources; k++)
        w.src_elem[k] = l->src[k].elem ? l->src[k].elem : w.elem;
    plan_axes(&w);
    const int64_t each = w.dst_step ? i64_min(w.row, TILE) : w.row;
    int64_t cost;
    if (!i64_mul(i64_max(each, 1), i64_max(w.n_summed, 1), &cost))
        cost = INT64_MAX;
    op_parallel(pool, w.n_kept * w.tiles, i64_max(1, GRAIN / cost), l->dtype == DTYPE_FLOAT ? run_f32 : run_f64, &w);
}

/* ---- broadcast operands ---- */
static void aligned(const struct shape *s, const struct shape *over, int64_t *stride)
{
    int64_t own[SHAPE_MAX_RANK];
    shape_strides(s, true, own);
    for (int i = 0; i < over->rank; i++) {
        const int axis = i - (over->rank - s->rank);
        stride[i] = axis < 0 || s->dim[axis] == 1 ? 0 : own[axis];
    }
}

int grad_type(const struct tensor *t, struct err *err)
{
    if (t->dtype == DTYPE_FLOAT || t->dtype == DTYPE_DOUBLE)
        return 0;
    return err_set(err, ERR_OPERATOR, "gradients of type %s are not supported; float32 and float64 are",
                   dtype_name(t->dtype));
}

int grad_sum_broadcast(struct pool *pool, const struct grad_broadcast *b, struct err *err)
{
    if (grad_type(b->dst, err) < 0)
        return -1;
    struct grad_loop l = {.dtype = b->dst->dtype, .rank = b->over->rank, .dst = b->dst->data, .term = b->term,
                          .arg = b->arg, .assign = b->assign};
    memcpy(l.dim, b->over->dim, (size_t)b->over->rank * sizeof *l.dim);
    aligned(b->dst_shape ? b->dst_shape : &b->dst->shape, b->over, l.dst_stride);
    for (; l.sources < GRAD_SOURCES && b->src[l.sources]; l.sources++) {
        const int k = l.sources;
        l.src[k].data = b->src[k]->data;
        l.src[k].elem = op_elem(b->src[k]->dtype, err);
        if (!l.src[k].elem)
            return -1;
        aligned(b->src_shape[k] ? b->src_shape[k] : &b->src[k]->shape, b->over, l.src[k].stride);
    }
    if (b->src[0]->dtype == b->dst->dtype)
        l.src[0].elem = 0;
    grad_sum(pool, &l);
    return 0;
}

int grad_add_whole(struct grad_ctx *c, int input, const struct tensor *grad, struct err *err)
{
    struct tensor *dst = grad_wanted(c, input);
    if (!dst)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    if (!grad) {
        grad_zero(c, input);
        return 0;
    }
    const struct grad_loop l = {.dtype = dst->dtype, .rank = 1, .dim = {tensor_count(dst)}, .dst = dst->data,
                                .dst_stride = {1}, .sources = 1, .src = {{.data = grad->data, .stride = {1}}},
                                .assign = grad_assign(c, input)};
    grad_sum(c->pool, &l);
    return 0;
}

void grad_add_run(struct tensor *dst, int64_t to, const struct tensor *src, int64_t from, int64_t n)
{
    if (dst->dtype == DTYPE_FLOAT) {
        float *restrict d = tensor_f32(dst) + to;
        const float *restrict s = tensor_f32(src) + from;
        for (int64_t i = 0; i < n; i++)
            d[i] += s[i];
    } else {
        double *restrict d = (double *)dst->data + to;
        const double *restrict s = (const double *)src->data + from;
        for (int64_t i = 0; i < n; i++)
            d[i] += s[i];
    }
}

void grad_zero(struct grad_ctx *c, int input)
{
    struct tensor *dst = grad_wanted(c, input);
    if (dst && grad_assign(c, input) && dst->bytes)
        memset(dst->data, 0, dst->bytes);
}

/* ---- one axis, folded ---- */
struct fold {
    const struct grad_taps *t;
    const void *src;
    void *dst;
    int64_t inner, cells; /* cells: pieces of an inner run, so that few outer places still make tasks */
    enum dtype dtype;
};
enum { FOLD_CELL = 1024 };

#define DEFINE_FOLD(suffix, T)                                                                                       \
    static void fold_##suffix(const struct fold *k, int64_t outer, int64_t from, int64_t n)                          \
    {                                                                                                                \
        const struct grad_taps *t = k->t;                                                                            \
        const T *src = (const T *)k->src + outer * t->out * k->inner + from;                                         \
        T *dst = (T *)k->dst + outer * t->in * k->inner + from;                                                      \
        for (int64_t i = 0; i < t->in; i++)                                                                          \
            memset(dst + i * k->inner, 0, (size_t)n * sizeof *dst);                                                  \
        for (int64_t j = 0; j < t->out; j++)                                                                         \
            for (int64_t s = j * t->count; s < (j + 1) * t->count; s++) {                                            \
                const T weight = t->weight ? (T)t->weight[s] : 1;                                                    \
                const T *restrict g = src + j * k->inner;                                                            \
                T *restrict d = dst + (t->index[s] < 0 ? 0 : t->index[s]) * k->inner;                                \
                for (int64_t i = 0; i < n && t->index[s] >= 0; i++)                                                  \
                    d[i] += weight * g[i];                                                                           \
            }                                                                                                        \
    }
DEFINE_FOLD(f32, float)
DEFINE_FOLD(f64, double)

static void fold_range(void *arg, int64_t begin, int64_t end)
{
    const struct fold *k = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t from = i % k->cells * FOLD_CELL, n = i64_min(FOLD_CELL, k->inner - from);
        if (k->dtype == DTYPE_FLOAT)
            fold_f32(k, i / k->cells, from, n);
        else
            fold_f64(k, i / k->cells, from, n);
    }
}

void grad_fold_axis(struct pool *pool, enum dtype dtype, const struct grad_taps *taps, const void *src, void *dst,
                    int64_t outer, int64_t inner)
{
    struct fold k = {taps, src, dst, inner, i64_ceil_div(inner, FOLD_CELL), dtype};
    const int64_t each = i64_max(1, i64_max(taps->in, taps->out) * i64_min(inner, FOLD_CELL));
    op_parallel(pool, outer * k.cells, i64_max(1, GRAIN / each), fold_range, &k);
}
