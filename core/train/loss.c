/* SPDX-License-Identifier: Apache-2.0
 * loss.c - see loss.h. A task is one sample; its places are taken one after the other, and a place's scores lie `inner`
 * apart. The values of the samples are added at the end, in order. */
#include "core/train/loss.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"

struct job {
    const struct loss_opts *opts;
    const struct tensor *y, *target;
    struct tensor *gradient;
    double *sample; /* [n] */
    int64_t n, classes, inner;
    double temperature, factor; /* of the gradient */
};

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
            g[c * k->inner] = (T)(k->factor * v + (k->opts->add ? (double)g[c * k->inner] : 0));                       \
    }                                                                                                                  \
    static double cross_entropy_##suffix(const struct job *k, const T *y, int64_t label, T *g)                         \
    {                                                                                                                  \
        const double even = k->opts->smoothing / (double)k->classes, hit = 1 - k->opts->smoothing;                     \
        if (label == LOSS_IGNORE) {                                                                                    \
            for (int64_t c = 0; c < k->classes; c++)                                                                   \
                put_##suffix(k, g, c, 0);                                                                              \
            return 0;                                                                                                  \
        }                                                                                                              \
        const double log_sum = log_sum_##suffix(k, y);                                                                 \
        double loss = hit * (log_sum - (double)y[label * k->inner]);                                                   \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double v = (double)y[c * k->inner] - log_sum;                                                        \
            if (even > 0)                                                                                              \
                loss -= even * v;                                                                                      \
            put_##suffix(k, g, c, exp(v) - even - (c == label ? hit : 0));                                             \
        }                                                                                                              \
        return loss;                                                                                                   \
    }                                                                                                                  \
    static double squared_##suffix(const struct job *k, const T *y, const T *t, T *g)                                  \
    {                                                                                                                  \
        double loss = 0;                                                                                               \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double d = (double)y[c * k->inner] - (double)t[c * k->inner];                                        \
            loss += d * d;                                                                                             \
            put_##suffix(k, g, c, 2 * d);                                                                              \
        }                                                                                                              \
        return loss;                                                                                                   \
    }                                                                                                                  \
    static double divergence_##suffix(const struct job *k, const T *y, const T *t, T *g)                               \
    {                                                                                                                  \
        const double temperature = k->temperature, own = log_sum_##suffix(k, y), other = log_sum_##suffix(k, t);       \
        double loss = 0;                                                                                               \
        for (int64_t c = 0; c < k->classes; c++) {                                                                     \
            const double log_p = (double)y[c * k->inner] / temperature - own;                                          \
            const double log_q = (double)t[c * k->inner] / temperature - other, q = exp(log_q);                        \
            if (q > 0)                                                                                                 \
                loss += q * (log_q - log_p);                                                                           \
            put_##suffix(k, g, c, temperature *(exp(log_p) - q));                                                      \
        }                                                                                                              \
        return temperature * temperature * loss;                                                                       \
    }                                                                                                                  \
    static void sample_##suffix(void *arg, int64_t n, int lane)                                                        \
    {                                                                                                                  \
        const struct job *k = arg;                                                                                     \
        double sum = 0;                                                                                                \
        (void)lane;                                                                                                    \
        for (int64_t d = 0; d < k->inner; d++) {                                                                       \
            const int64_t at = n * k->classes * k->inner + d;                                                          \
            const T *y = (const T *)k->y->data + at;                                                                   \
            T *g = k->gradient ? (T *)k->gradient->data + at : NULL;                                                   \
            if (k->opts->kind == LOSS_CROSS_ENTROPY)                                                                   \
                sum += cross_entropy_##suffix(k, y, label_at(k->target, n * k->inner + d), g);                         \
            else if (k->opts->kind == LOSS_SQUARED)                                                                    \
                sum += squared_##suffix(k, y, (const T *)k->target->data + at, g);                                     \
            else                                                                                                       \
                sum += divergence_##suffix(k, y, (const T *)k->target->data + at, g);                                  \
        }                                                                                                              \
        k->sample[n] = sum;                                                                                            \
    }

// cppcheck-suppress invalidFunctionArg
DEFINE(f32, float)
// cppcheck-suppress invalidFunctionArg
DEFINE(f64, double)

/* Labels that are classes or LOSS_IGNORE; how many count. */
static int count_labels(const struct job *k, int64_t *count, struct err *err)
{
    *count = 0;
    for (int64_t i = 0; i < k->n * k->inner; i++) {
        const int64_t label = label_at(k->target, i);
        if (label == LOSS_IGNORE)
            continue;
        if (label < 0 || label >= k->classes)
            return err_set(err, ERR_DATASET,
                           "label %" PRId64 " of place %" PRId64 " is no class; the output has %" PRId64 " classes",
                           label, i, k->classes);
        (*count)++;
    }
    return 0;
}

static int check(const struct loss_opts *opts, const struct tensor *y, const struct tensor *target,
                 const struct tensor *gradient, struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    bool fits = opts->kind != LOSS_CROSS_ENTROPY ? target->dtype == y->dtype && shape_equal(&target->shape, &y->shape)
                                                 : target->dtype == DTYPE_INT32 || target->dtype == DTYPE_INT64;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_SHAPE, "the output is %s; a loss takes float32 or float64", dtype_name(y->dtype));
    if (y->shape.rank < 1)
        return err_set(err, ERR_SHAPE, "the output has no batch axis");
    if (opts->kind == LOSS_CROSS_ENTROPY && fits) {
        fits = y->shape.rank >= 2 && target->shape.rank == y->shape.rank - 1;
        for (int d = 0; fits && d < target->shape.rank; d++)
            fits = target->shape.dim[d] == y->shape.dim[d ? d + 1 : 0];
    }
    if (!fits)
        return err_set(err, ERR_SHAPE, "targets %s%s do not fit the output %s%s", dtype_name(target->dtype),
                       shape_text(&target->shape, a), dtype_name(y->dtype), shape_text(&y->shape, b));
    if (gradient && (gradient->dtype != y->dtype || !shape_equal(&gradient->shape, &y->shape)))
        return err_set(err, ERR_SHAPE, "the gradient has another type or shape than the output");
    if (!(opts->smoothing >= 0 && opts->smoothing < 1) || !(opts->temperature >= 0))
        return err_set(err, ERR_INVALID, "smoothing must be in [0, 1), temperature above 0");
    return 0;
}

int loss_evaluate(struct pool *pool, const struct loss_opts *opts, const struct tensor *y, const struct tensor *target,
                  double *value, struct tensor *gradient, double *sample, struct err *err)
{
    if (check(opts, y, target, gradient, err))
        return -1;
    const struct shape *s = &y->shape;
    struct job k = {.opts = opts,
                    .y = y,
                    .target = target,
                    .gradient = gradient,
                    .n = s->dim[0],
                    .classes = s->rank > 1 ? s->dim[1] : 1,
                    .inner = shape_product(s, 2, s->rank > 2 ? s->rank : 2),
                    .temperature = opts->kind == LOSS_KL && opts->temperature > 0 ? opts->temperature : 1};
    int64_t count = tensor_count(y);
    if (opts->kind == LOSS_CROSS_ENTROPY && count_labels(&k, &count, err))
        return -1;
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
