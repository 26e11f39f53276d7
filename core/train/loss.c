/* SPDX-License-Identifier: Apache-2.0
 * loss.c - see loss.h. A task is one sample; its places are taken one after the other, and a place's scores lie `inner`
 * apart. The values of the samples are added at the end, in order. */
#include "core/train/loss.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"

struct job;
/* One score against its target: the loss, and *d its derivative. */
typedef double element_fn(const struct job *k, double y, double t, double *d);

struct job {
    const struct loss_opts *opts;
    element_fn *element; /* NULL: the kind looks at all scores of a place */
    bool labels;         /* the targets are classes */
    const struct tensor *y, *target;
    struct tensor *gradient;
    double *sample; /* [n] */
    int64_t n, classes, inner;
    double temperature, delta, factor; /* factor: of the gradient */
};

static double squared(const struct job *k, double y, double t, double *d)
{
    (void)k;
    *d = 2 * (y - t);
    return (y - t) * (y - t);
}

static double absolute(const struct job *k, double y, double t, double *d)
{
    (void)k;
    *d = y > t ? 1 : y < t ? -1 : y - t; /* NaN stays NaN */
    return fabs(y - t);
}

static double huber(const struct job *k, double y, double t, double *d)
{
    const double e = y - t;
    if (fabs(e) <= k->delta || isnan(e)) {
        *d = e;
        return e * e / 2;
    }
    *d = e > 0 ? k->delta : -k->delta;
    return k->delta * (fabs(e) - k->delta / 2);
}

static double binary(const struct job *k, double y, double t, double *d)
{
    (void)k;
    const double small = exp(-fabs(y)); /* no overflow whatever y is */
    *d = (y >= 0 ? 1 / (1 + small) : small / (1 + small)) - t;
    return fmax(y, 0) - t * y + log1p(small) + (isnan(y) ? y : 0);
}

enum targets { LABELS = 1, SCORES = 2 };
static const struct {
    element_fn *element;
    int targets;
} kinds[LOSS_KINDS] = {
    [LOSS_CROSS_ENTROPY] = {NULL, LABELS}, [LOSS_SQUARED] = {squared, SCORES}, [LOSS_KL] = {NULL, SCORES},
    [LOSS_ABSOLUTE] = {absolute, SCORES},  [LOSS_HUBER] = {huber, SCORES},     [LOSS_BINARY] = {binary, LABELS | SCORES},
};

/* What the losses of sample n are multiplied by. */
static double weight_of(const struct job *k, int64_t n)
{
    const struct loss_opts *o = k->opts;
    return !o->weight ? 1 : o->rest ? 1 - (double)o->weight[n] : (double)o->weight[n];
}

static int64_t label_at(const struct tensor *t, int64_t i)
{
    return t->dtype == DTYPE_INT32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}

/* Scores of one place, as double or float. */
#define DEFINE(suffix, T)                                                                                              \
    /* log of the sum of exp(y / temperature) over the classes */                                                      \
    static double log_sum_##suffix(const struct job *k, const T *y)                                                    \
    {                                                                                                                  \
        double most = -INFINITY, sum = 0;                                                                              \
        for (int64_t c = 0; c < k->classes; c++)                                                                       \
            most = fmax(most, (double)y[c * k->inner]);                                                                \
        for (int64_t c = 0; c < k->classes; c++)                                                                       \
            sum += exp(((double)y[c * k->inner] - most) / k->temperature);                                             \
        return most / k->temperature + log(sum);                                                                       \
    }                                                                                                                  \
    static void put_##suffix(const struct job *k, T *g, int64_t c, double v)                                           \
    {                                                                                                                  \
        if (g)                                                                                                         \
            g[c * k->inner] = (T)(v + (k->opts->add ? (double)g[c * k->inner] : 0));                                   \
    }                                                                                                                  \
    static void ignore_##suffix(const struct job *k, T *g)                                                             \
    {                                                                                                                  \
        for (int64_t c = 0; c < k->classes; c++)                                                                       \
            put_##suffix(k, g, c, 0);                                                                                  \
    }                                                                                                                  \
    static double cross_entropy_##suffix(const struct job *k, const T *y, int64_t label, T *g, double by)              \
    {                                                                                                                  \
        const double even = k->opts->smoothing / (double)k->classes, hit = 1 - k->opts->smoothing;                     \
        const double log_sum = log_sum_##suffix(k, y);                                                                 \
        double loss = hit * (log_sum - (double)y[label * k->inner]);                                                   \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double v = (double)y[c * k->inner] - log_sum;                                                        \
            if (even > 0)                                                                                              \
                loss -= even * v;                                                                                      \
            put_##suffix(k, g, c, by *(exp(v) - even - (c == label ? hit : 0)));                                       \
        }                                                                                                              \
        return loss;                                                                                                   \
    }                                                                                                                  \
    /* label: of the place, or -1 where t has a target a score */                                                      \
    static double elements_##suffix(const struct job *k, const T *y, const T *t, int64_t label, T *g, double by)       \
    {                                                                                                                  \
        double loss = 0, d;                                                                                            \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double target = t                 ? (double)t[c * k->inner]                                          \
                                  : k->classes == 1 ? (double)label                                                    \
                                                    : (double)(c == label);                                            \
            loss += k->element(k, (double)y[c * k->inner], target, &d);                                                \
            put_##suffix(k, g, c, by *d);                                                                              \
        }                                                                                                              \
        return loss;                                                                                                   \
    }                                                                                                                  \
    static double divergence_##suffix(const struct job *k, const T *y, const T *t, T *g, double by)                    \
    {                                                                                                                  \
        const double temperature = k->temperature, own = log_sum_##suffix(k, y), other = log_sum_##suffix(k, t);       \
        double loss = 0;                                                                                               \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double log_p = (double)y[c * k->inner] / temperature - own;                                          \
            const double log_q = (double)t[c * k->inner] / temperature - other, q = exp(log_q);                        \
            if (q > 0)                                                                                                 \
                loss += q * (log_q - log_p);                                                                           \
            put_##suffix(k, g, c, by *temperature *(exp(log_p) - q));                                                  \
        }                                                                                                              \
        return temperature * temperature * loss;                                                                       \
    }                                                                                                                  \
    static void sample_##suffix(void *arg, int64_t n, int lane)                                                        \
    {                                                                                                                  \
        const struct job *k = arg;                                                                                     \
        const int64_t from = k->opts->pair ? k->opts->pair[n] : n, size = k->classes * k->inner;                       \
        const double weight = weight_of(k, n), by = k->factor * weight;                                                \
        double sum = 0;                                                                                                \
        (void)lane;                                                                                                    \
        for (int64_t d = 0; d < k->inner; d++) {                                                                       \
            const T *y = (const T *)k->y->data + n * size + d;                                                         \
            const T *t = k->labels ? NULL : (const T *)k->target->data + from * size + d;                              \
            T *g = k->gradient ? (T *)k->gradient->data + n * size + d : NULL;                                         \
            const int64_t label = k->labels ? label_at(k->target, from * k->inner + d) : -1;                           \
            if (k->labels && label == LOSS_IGNORE)                                                                     \
                ignore_##suffix(k, g);                                                                                 \
            else if (k->opts->kind == LOSS_CROSS_ENTROPY)                                                              \
                sum += cross_entropy_##suffix(k, y, label, g, by);                                                     \
            else if (k->element)                                                                                       \
                sum += elements_##suffix(k, y, t, label, g, by);                                                       \
            else                                                                                                       \
                sum += divergence_##suffix(k, y, t, g, by);                                                            \
        }                                                                                                              \
        k->sample[n] = weight * sum;                                                                                   \
    }

// cppcheck-suppress invalidFunctionArg
DEFINE(f32, float)
// cppcheck-suppress invalidFunctionArg
DEFINE(f64, double)

/* Labels that are classes or LOSS_IGNORE; how many places count. */
static int count_labels(const struct job *k, int64_t *count, struct err *err)
{
    const bool single = k->opts->kind == LOSS_BINARY && k->classes == 1;
    const int64_t classes = single ? 2 : k->classes;
    *count = 0;
    for (int64_t i = 0; i < k->n * k->inner; i++) {
        const int64_t label = label_at(k->target, i);
        if (label == LOSS_IGNORE)
            continue;
        if (label < 0 || label >= classes)
            return err_set(err, ERR_DATASET,
                           "label %" PRId64 " of place %" PRId64 " is no class; the output has %" PRId64 " %s", label, i,
                           k->classes, single ? "score, which takes 0 or 1" : "classes");
        (*count)++;
    }
    return 0;
}

static int check_shares(const struct tensor *t, struct err *err)
{
    for (int64_t i = 0; i < tensor_count(t); i++) {
        const double v = dtype_get(t->dtype, t->data, i);
        if (!(v >= 0 && v <= 1))
            return err_set(err, ERR_DATASET,
                           "target %g at place %" PRId64 " is not from 0 to 1, as binary cross entropy takes", v, i);
    }
    return 0;
}

/* Labels have y's axes but that of the classes; without such an axis all of them. */
static bool labels_fit(const struct loss_opts *opts, const struct tensor *y, const struct tensor *target)
{
    if (opts->kind == LOSS_BINARY && y->shape.rank == 1)
        return target->shape.rank == 1 && target->shape.dim[0] == y->shape.dim[0];
    bool fits = y->shape.rank >= 2 && target->shape.rank == y->shape.rank - 1;
    for (int d = 0; fits && d < target->shape.rank; d++)
        fits = target->shape.dim[d] == y->shape.dim[d ? d + 1 : 0];
    return fits;
}

static int check(const struct loss_opts *opts, const struct tensor *y, const struct tensor *target,
                 const struct tensor *gradient, struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    const bool labels = target->dtype == DTYPE_INT32 || target->dtype == DTYPE_INT64;
    if (opts->kind < 0 || opts->kind >= LOSS_KINDS)
        return err_set(err, ERR_INVALID, "there is no loss %d", (int)opts->kind);
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_SHAPE, "the output is %s; a loss takes float32 or float64", dtype_name(y->dtype));
    if (y->shape.rank < 1)
        return err_set(err, ERR_SHAPE, "the output has no batch axis");
    if (!(kinds[opts->kind].targets & (labels ? LABELS : SCORES)) ||
        !(labels ? labels_fit(opts, y, target) : target->dtype == y->dtype && shape_equal(&target->shape, &y->shape)))
        return err_set(err, ERR_SHAPE, "targets %s%s do not fit the output %s%s", dtype_name(target->dtype),
                       shape_text(&target->shape, a), dtype_name(y->dtype), shape_text(&y->shape, b));
    if (gradient && (gradient->dtype != y->dtype || !shape_equal(&gradient->shape, &y->shape)))
        return err_set(err, ERR_SHAPE, "the gradient has another type or shape than the output");
    if (!(opts->smoothing >= 0 && opts->smoothing < 1) || !(opts->temperature >= 0) || !(opts->delta >= 0))
        return err_set(err, ERR_INVALID, "smoothing must be in [0, 1), temperature and delta above 0");
    for (int64_t i = 0; opts->pair && i < y->shape.dim[0]; i++)
        if (opts->pair[i] < 0 || opts->pair[i] >= y->shape.dim[0])
            return err_set(err, ERR_INVALID, "the target of sample %" PRId64 " is at place %d of %" PRId64, i,
                           (int)opts->pair[i], y->shape.dim[0]);
    return 0;
}

int loss_evaluate(struct pool *pool, const struct loss_opts *opts, const struct tensor *y, const struct tensor *target,
                  double *value, struct tensor *gradient, double *sample, struct err *err)
{
    if (check(opts, y, target, gradient, err))
        return -1;
    const struct shape *s = &y->shape;
    struct job k = {.opts = opts,
                    .element = kinds[opts->kind].element,
                    .labels = target->dtype == DTYPE_INT32 || target->dtype == DTYPE_INT64,
                    .y = y,
                    .target = target,
                    .gradient = gradient,
                    .n = s->dim[0],
                    .classes = s->rank > 1 ? s->dim[1] : 1,
                    .inner = shape_product(s, 2, s->rank > 2 ? s->rank : 2),
                    .temperature = opts->kind == LOSS_KL && opts->temperature > 0 ? opts->temperature : 1,
                    .delta = opts->delta > 0 ? opts->delta : 1};
    int64_t count = tensor_count(y), places = 0;
    if (k.labels ? count_labels(&k, &places, err) : opts->kind == LOSS_BINARY ? check_shares(target, err) : 0)
        return -1;
    if (k.labels)
        count = opts->kind == LOSS_BINARY ? places * k.classes : places;
    const int64_t divisor = opts->reduction == LOSS_SUM ? 1 : opts->reduction == LOSS_MEAN ? count : k.n;
    k.factor = (opts->scale != 0 ? opts->scale : 1) / (double)i64_max(divisor, 1);
    double *own = sample ? NULL : calloc((size_t)k.n + 1, sizeof *own), sum = 0;
    if (!sample && !own)
        return err_set(err, ERR_NOMEM, "out of memory");
    k.sample = sample ? sample : own;
    pool_run(tensor_count(y) > 4096 ? pool : NULL, k.n, y->dtype == DTYPE_FLOAT ? sample_f32 : sample_f64, &k);
    for (int64_t i = 0; i < k.n; i++)
        sum += k.sample[i];
    *value = sum * k.factor;
    free(own);
    return 0;
}
