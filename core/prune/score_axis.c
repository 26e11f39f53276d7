/* SPDX-License-Identifier: Apache-2.0
 * score_axis.c - sums over everything but one axis of a weight, which may be of gigabytes and lie in a mapped file.
 * A task takes a run of neighbouring indices; its bounds depend on the shape only, so results do not depend on
 * threads. A block at a time is converted to double, so every dtype takes the same way and no weight is ever held
 * twice. */
#include <math.h>

#include "core/base/size.h"
#include "core/prune/score_impl.h"

enum { BLOCK = 2048, INDICES = 1024 };

struct sums {
    const struct tensor *a, *b;
    enum score_term term;
    int64_t outer, size, inner, each; /* each: indices a task */
    double *sum;
};

/* Elements first .. first + n - 1 as doubles. */
static void load(const struct tensor *t, int64_t first, int64_t n, double *out)
{
    const int bits = dtype_bits(t->dtype);
    if (bits >= 8)
        dtype_convert(DTYPE_DOUBLE, out, t->dtype, (const char *)t->data + first * (bits / 8), n);
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = dtype_get(t->dtype, t->data, first + i);
}

static void terms_of(const struct sums *s, double *restrict x, const double *restrict y, int64_t n)
{
    switch (s->term) {
    case SCORE_ABS:
        for (int64_t i = 0; i < n; i++)
            x[i] = fabs(x[i]);
        return;
    case SCORE_SQUARE:
        for (int64_t i = 0; i < n; i++)
            x[i] *= x[i];
        return;
    case SCORE_PRODUCT:
        for (int64_t i = 0; i < n; i++)
            x[i] *= y[i];
        return;
    case SCORE_PRODUCT_SQUARE:
        for (int64_t i = 0; i < n; i++)
            x[i] = x[i] * y[i] * (x[i] * y[i]);
        return;
    }
}

/* In four lanes, so that additions do not wait for each other. */
static double total(const double *x, int64_t n)
{
    double lane[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++)
            lane[k] += x[i + k];
    for (; i < n; i++)
        lane[0] += x[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* x: n terms, the first at place `at` of a run of [indices][inner]. */
static void add_block(const struct sums *s, const double *x, int64_t at, int64_t n, double *sum)
{
    if (s->inner == 1) {
        for (int64_t i = 0; i < n; i++)
            sum[at + i] += x[i];
        return;
    }
    for (int64_t i = 0; i < n;) {
        const int64_t index = (at + i) / s->inner;
        const int64_t len = i64_min((index + 1) * s->inner - at - i, n - i);
        sum[index] += total(x + i, len);
        i += len;
    }
}

static void sum_task(void *arg, int64_t task, int lane)
{
    const struct sums *s = arg;
    const int64_t from = task * s->each, run = i64_min(s->each, s->size - from) * s->inner;
    double x[BLOCK], y[BLOCK];
    (void)lane;
    for (int64_t o = 0; o < s->outer; o++) {
        const int64_t base = (o * s->size + from) * s->inner;
        for (int64_t at = 0; at < run; at += BLOCK) {
            const int64_t n = i64_min(BLOCK, run - at);
            load(s->a, base + at, n, x);
            if (s->b)
                load(s->b, base + at, n, y);
            terms_of(s, x, y, n);
            add_block(s, x, at, n, s->sum + from);
        }
    }
}

void score_axis_sums(struct pool *pool, const struct tensor *a, const struct tensor *b, int axis, enum score_term term,
                     double *sum)
{
    struct sums s = {.a = a, .b = b, .term = term, .sum = sum, .size = a->shape.dim[axis],
                     .outer = shape_product(&a->shape, 0, axis),
                     .inner = shape_product(&a->shape, axis + 1, a->shape.rank)};
    if (s.outer < 1 || s.size < 1 || s.inner < 1 || !a->data || (b && !b->data))
        return;
    s.each = i64_max(1, INDICES / s.inner);
    pool_run(tensor_count(a) > 4 * BLOCK ? pool : NULL, i64_ceil_div(s.size, s.each), sum_task, &s);
}

void score_axis_scale(struct tensor *a, int axis, const double *factor)
{
    const int64_t outer = shape_product(&a->shape, 0, axis), size = a->shape.dim[axis];
    const int64_t inner = shape_product(&a->shape, axis + 1, a->shape.rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < size; i++)
            for (int64_t k = (o * size + i) * inner; k < (o * size + i + 1) * inner; k++) {
                if (a->dtype == DTYPE_DOUBLE)
                    ((double *)a->data)[k] *= factor[i];
                else
                    tensor_f32(a)[k] = (float)((double)tensor_f32(a)[k] * factor[i]);
            }
}
