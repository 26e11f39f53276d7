/* SPDX-License-Identifier: Apache-2.0
 * regularize.c - see regularize.h. A tensor is cut into at most PIECES_MAX pieces, whose number depends on its size
 * alone; each piece has a sum of its own, and these are added in order. */
#include "core/train/regularize.h"

#include <math.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

enum { PIECES_MAX = 256, PIECE_LEAST = 1 << 14, LANES = 8 };

struct job {
    const struct regularize *r;
    const void *w;
    void *g;
    int64_t n, piece;               /* elements, or channels for the group lasso */
    int64_t outer, channels, inner; /* w is [outer, channels, inner] */
    double by;
    double sum[PIECES_MAX];
};

static int64_t cut(struct job *k, int64_t n, int64_t least)
{
    k->n = n;
    k->piece = i64_max(least, i64_ceil_div(n, PIECES_MAX));
    return i64_ceil_div(n, k->piece);
}

static double total(const struct job *k, int64_t pieces)
{
    double sum = 0;
    for (int64_t i = 0; i < pieces; i++)
        sum += k->sum[i];
    return sum;
}

#define DEFINE(suffix, T)                                                                                              \
    /* eight sums side by side: the compiler may not reorder one */                                                    \
    KERNEL_CLONES static double square_of_##suffix(const T *x, int64_t n)                                              \
    {                                                                                                                  \
        double lane[LANES] = {0}, sum = 0;                                                                             \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int l = 0; l < LANES; l++)                                                                            \
                lane[l] += (double)x[i + l] * (double)x[i + l];                                                        \
        for (; i < n; i++)                                                                                             \
            sum += (double)x[i] * (double)x[i];                                                                        \
        for (int l = 0; l < LANES; l++)                                                                                \
            sum += lane[l];                                                                                            \
        return sum;                                                                                                    \
    }                                                                                                                  \
    KERNEL_CLONES static double absolute_of_##suffix(const T *x, int64_t n)                                            \
    {                                                                                                                  \
        double lane[LANES] = {0}, sum = 0;                                                                             \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int l = 0; l < LANES; l++)                                                                            \
                lane[l] += fabs((double)x[i + l]);                                                                     \
        for (; i < n; i++)                                                                                             \
            sum += fabs((double)x[i]);                                                                                 \
        for (int l = 0; l < LANES; l++)                                                                                \
            sum += lane[l];                                                                                            \
        return sum;                                                                                                    \
    }                                                                                                                  \
    KERNEL_CLONES static void pull_##suffix(T *restrict g, const T *restrict w, int64_t n, T l1, T l2)                 \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            g[i] += l2 * w[i] + (w[i] > 0 ? l1 : w[i] < 0 ? -l1 : 0);                                                  \
    }                                                                                                                  \
    KERNEL_CLONES static void add_scaled_##suffix(T *restrict g, const T *restrict w, int64_t n, T by)                 \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            g[i] += by * w[i];                                                                                         \
    }                                                                                                                  \
    KERNEL_CLONES static void multiply_##suffix(T *g, int64_t n, T by)                                                 \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            g[i] *= by;                                                                                                \
    }                                                                                                                  \
    static void square_task_##suffix(void *arg, int64_t task, int lane)                                                \
    {                                                                                                                  \
        struct job *k = arg;                                                                                           \
        const int64_t at = task * k->piece;                                                                            \
        (void)lane;                                                                                                    \
        k->sum[task] = square_of_##suffix((const T *)k->w + at, i64_min(k->piece, k->n - at));                         \
    }                                                                                                                  \
    static void scale_task_##suffix(void *arg, int64_t task, int lane)                                                 \
    {                                                                                                                  \
        struct job *k = arg;                                                                                           \
        const int64_t at = task * k->piece;                                                                            \
        (void)lane;                                                                                                    \
        multiply_##suffix((T *)k->g + at, i64_min(k->piece, k->n - at), (T)k->by);                                     \
    }                                                                                                                  \
    static void pull_task_##suffix(void *arg, int64_t task, int lane)                                                  \
    {                                                                                                                  \
        struct job *k = arg;                                                                                           \
        const int64_t at = task * k->piece, n = i64_min(k->piece, k->n - at);                                          \
        const T *w = (const T *)k->w + at;                                                                             \
        (void)lane;                                                                                                    \
        k->sum[task] = (k->r->l1 != 0 ? k->r->l1 * absolute_of_##suffix(w, n) : 0) +                                   \
                       (k->r->l2 != 0 ? k->r->l2 / 2 * square_of_##suffix(w, n) : 0);                                  \
        pull_##suffix((T *)k->g + at, w, n, (T)k->r->l1, (T)k->r->l2);                                                 \
    }                                                                                                                  \
    static void group_task_##suffix(void *arg, int64_t task, int lane)                                                 \
    {                                                                                                                  \
        struct job *k = arg;                                                                                           \
        const double root = sqrt((double)(k->outer * k->inner));                                                       \
        double sum = 0;                                                                                                \
        (void)lane;                                                                                                    \
        for (int64_t c = task * k->piece; c < i64_min((task + 1) * k->piece, k->n); c++) {                             \
            double square = 0;                                                                                         \
            for (int64_t o = 0; o < k->outer; o++)                                                                     \
                square += square_of_##suffix((const T *)k->w + (o * k->channels + c) * k->inner, k->inner);            \
            const double norm = sqrt(square);                                                                          \
            sum += k->r->group_lasso * root * norm;                                                                    \
            for (int64_t o = 0; o < k->outer && norm > 0; o++) {                                                       \
                const int64_t at = (o * k->channels + c) * k->inner;                                                   \
                add_scaled_##suffix((T *)k->g + at, (const T *)k->w + at, k->inner,                                    \
                                    (T)(k->r->group_lasso * root / norm));                                             \
            }                                                                                                          \
        }                                                                                                              \
        k->sum[task] = sum;                                                                                            \
    }

DEFINE(f32, float)
DEFINE(f64, double)

static struct pool *for_size(struct pool *pool, const struct tensor *t)
{
    return tensor_count(t) > PIECE_LEAST ? pool : NULL;
}

double regularize_add(struct pool *pool, const struct regularize *r, const struct tensor *w, struct tensor *gradient)
{
    struct job k = {.r = r, .w = w->data, .g = gradient->data};
    const int64_t count = tensor_count(w);
    const bool wide = w->dtype == DTYPE_DOUBLE;
    double value = 0;
    if (count == 0 || (w->dtype != DTYPE_FLOAT && !wide))
        return 0;
    if (r->l1 != 0 || r->l2 != 0) {
        const int64_t pieces = cut(&k, count, PIECE_LEAST);
        pool_run(for_size(pool, w), pieces, wide ? pull_task_f64 : pull_task_f32, &k);
        value += total(&k, pieces);
    }
    if (r->group_lasso != 0 && r->axis >= 0 && r->axis < w->shape.rank) {
        k.outer = shape_product(&w->shape, 0, r->axis);
        k.channels = w->shape.dim[r->axis];
        k.inner = shape_product(&w->shape, r->axis + 1, w->shape.rank);
        const int64_t pieces = cut(&k, k.channels, 1);
        pool_run(for_size(pool, w), pieces, wide ? group_task_f64 : group_task_f32, &k);
        value += total(&k, pieces);
    }
    return value;
}

double gradient_square(struct pool *pool, const struct tensor *gradient)
{
    struct job k = {.w = gradient->data};
    const int64_t pieces = cut(&k, tensor_count(gradient), PIECE_LEAST);
    if (gradient->dtype != DTYPE_FLOAT && gradient->dtype != DTYPE_DOUBLE)
        return 0;
    pool_run(for_size(pool, gradient), pieces, gradient->dtype == DTYPE_DOUBLE ? square_task_f64 : square_task_f32, &k);
    return total(&k, pieces);
}

void gradient_scale(struct pool *pool, struct tensor *gradient, double by)
{
    struct job k = {.g = gradient->data, .by = by};
    const int64_t pieces = cut(&k, tensor_count(gradient), PIECE_LEAST);
    if (gradient->dtype != DTYPE_FLOAT && gradient->dtype != DTYPE_DOUBLE)
        return;
    pool_run(for_size(pool, gradient), pieces, gradient->dtype == DTYPE_DOUBLE ? scale_task_f64 : scale_task_f32, &k);
}
