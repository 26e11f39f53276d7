/* SPDX-License-Identifier: Apache-2.0
 * optimizer.c - see optimizer.h. Each rule is one loop over a parameter, cut into pieces of fixed size. */
#include "core/train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

enum { PIECE = 1 << 14 };

const char *const optimizer_names[] = {"sgd", "adam", "adamw", NULL};

struct slot {
    struct tensor first, second; /* momentum; or m and v */
    int64_t steps;
};

struct optimizer {
    struct optimizer_opts opts;
    struct slot *slot;
    int n;
};

static bool in_range(double v, double low, double high)
{
    return v >= low && v < high;
}

struct optimizer *optimizer_new(const struct optimizer_opts *opts, int n_params, struct err *err)
{
    struct optimizer *o = calloc(1, sizeof *o);
    if (!o || n_params < 0 || !(o->slot = calloc((size_t)n_params + 1, sizeof *o->slot))) {
        err_set(err, ERR_NOMEM, "out of memory");
        free(o);
        return NULL;
    }
    o->opts = *opts;
    o->n = n_params;
    if (o->opts.beta1 == 0 && o->opts.beta2 == 0 && o->opts.eps == 0) {
        o->opts.beta1 = 0.9;
        o->opts.beta2 = 0.999;
        o->opts.eps = 1e-8;
    }
    const char *what = NULL;
    if (!in_range(opts->lr, 0, INFINITY))
        what = "the learning rate must be a number of at least 0";
    else if (!in_range(opts->weight_decay, 0, INFINITY))
        what = "weight_decay must be a number of at least 0";
    else if (!in_range(opts->momentum, 0, INFINITY))
        what = "momentum must be a number of at least 0";
    else if (opts->nesterov && !(opts->momentum > 0))
        what = "nesterov needs a momentum above 0";
    else if (!in_range(o->opts.beta1, 0, 1) || !in_range(o->opts.beta2, 0, 1) || !in_range(o->opts.eps, 0, INFINITY))
        what = "beta1 and beta2 must be in [0, 1), eps at least 0";
    if (what) {
        err_set(err, ERR_INVALID, "%s", what);
        optimizer_free(o);
        return NULL;
    }
    return o;
}

void optimizer_free(struct optimizer *o)
{
    for (int i = 0; o && i < o->n; i++) {
        tensor_fini(&o->slot[i].first);
        tensor_fini(&o->slot[i].second);
    }
    if (o)
        free(o->slot);
    free(o);
}

void optimizer_set_lr(struct optimizer *o, double lr)
{
    o->opts.lr = lr;
}

size_t optimizer_bytes(const struct optimizer *o)
{
    size_t sum = 0;
    for (int i = 0; i < o->n; i++)
        sum += o->slot[i].first.bytes + o->slot[i].second.bytes;
    return sum;
}

struct optimizer_state optimizer_state(struct optimizer *o, int i)
{
    struct slot *s = &o->slot[i];
    return (struct optimizer_state){&s->first, &s->second, &s->steps};
}

/* The numbers of one update. */
struct rule {
    double lr, decay, momentum;           /* decay: added to the gradient */
    double shrink;                        /* the parameter is multiplied by it first (AdamW) */
    double keep1, keep2, step, root, eps; /* Adam: 1 - beta1, beta2, lr / (1 - beta1^t), sqrt(1 - beta2^t) */
    double fresh2;                        /* 1 - beta2 */
    bool nesterov, begins;
};

struct job {
    const struct rule *rule;
    enum optimizer_kind kind;
    void *p, *first, *second;
    const void *g;
    int64_t n;
};

#define DEFINE(suffix, T, square_root)                                                                                 \
    KERNEL_CLONES static void plain_##suffix(T *restrict p, const T *restrict grad, int64_t n, T lr, T decay)          \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            p[i] -= lr * (grad[i] + decay * p[i]);                                                                     \
    }                                                                                                                  \
    KERNEL_CLONES static void momentum_##suffix(T *restrict p, const T *restrict grad, T *restrict b, int64_t n, T lr, \
                                                T decay, T momentum, T ahead, T behind)                                \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T g = grad[i] + decay * p[i];                                                                        \
            b[i] = momentum * b[i] + g;                                                                                \
            p[i] -= lr * (ahead * g + behind * b[i]);                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    KERNEL_CLONES static void adam_##suffix(T *restrict p, const T *restrict grad, T *restrict m, T *restrict v,       \
                                            int64_t n, T shrink, T decay, T keep1, T keep2, T fresh2, T step, T scale, \
                                            T eps)                                                                     \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T q = p[i] * shrink, g = grad[i] + decay * q;                                                        \
            m[i] += keep1 * (g - m[i]);                                                                                \
            v[i] = keep2 * v[i] + fresh2 * g * g;                                                                      \
            p[i] = q - step * m[i] / (square_root(v[i]) / scale + eps);                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static void update_##suffix(void *arg, int64_t task, int lane)                                                     \
    {                                                                                                                  \
        const struct job *job = arg;                                                                                   \
        const struct rule *r = job->rule;                                                                              \
        const int64_t at = task * PIECE, n = i64_min(PIECE, job->n - at);                                              \
        T *p = (T *)job->p + at, *first = (T *)job->first + (job->first ? at : 0);                                     \
        const T *g = (const T *)job->g + at;                                                                           \
        (void)lane;                                                                                                    \
        if (job->kind != OPTIMIZER_SGD)                                                                                \
            adam_##suffix(p, g, first, (T *)job->second + at, n, (T)r->shrink, (T)r->decay, (T)r->keep1, (T)r->keep2,  \
                          (T)r->fresh2, (T)r->step, (T)r->root, (T)r->eps);                                            \
        else if (r->momentum > 0)                                                                                      \
            momentum_##suffix(p, g, first, n, (T)r->lr, (T)r->decay, (T)(r->begins ? 0 : r->momentum),                 \
                              r->nesterov ? 1 : 0, (T)(r->nesterov ? r->momentum : 1));                                \
        else                                                                                                           \
            plain_##suffix(p, g, n, (T)r->lr, (T)r->decay);                                                            \
    }

DEFINE(f32, float, sqrtf)
DEFINE(f64, double, sqrt)

static int make_state(struct slot *s, const struct optimizer_opts *opts, const struct tensor *value, struct err *err)
{
    const bool adam = opts->kind != OPTIMIZER_SGD;
    if ((adam || opts->momentum > 0) && !s->first.buf && tensor_alloc(&s->first, value->dtype, &value->shape, err))
        return -1;
    return adam && !s->second.buf ? tensor_alloc(&s->second, value->dtype, &value->shape, err) : 0;
}

static bool fits(const struct tensor *state, const struct tensor *value)
{
    return !state->buf || (state->dtype == value->dtype && shape_equal(&state->shape, &value->shape));
}

int optimizer_update(struct optimizer *o, struct pool *pool, int i, struct tensor *value, const struct tensor *gradient,
                     bool decay, struct err *err)
{
    const struct optimizer_opts *opts = &o->opts;
    if (i < 0 || i >= o->n || (value->dtype != DTYPE_FLOAT && value->dtype != DTYPE_DOUBLE) ||
        gradient->dtype != value->dtype || !shape_equal(&gradient->shape, &value->shape))
        return err_set(err, ERR_INVALID, "parameter %d and its gradient differ in type or shape", i);
    struct slot *s = &o->slot[i];
    if (make_state(s, opts, value, err))
        return -1;
    if (!fits(&s->first, value) || !fits(&s->second, value))
        return err_set(err, ERR_INVALID, "parameter %d changed its shape", i);
    const double wd = decay ? opts->weight_decay : 0, t = (double)++s->steps;
    const bool adamw = opts->kind == OPTIMIZER_ADAMW;
    const struct rule rule = {.lr = opts->lr,
                              .decay = adamw ? 0 : wd,
                              .momentum = opts->momentum,
                              .shrink = adamw ? 1 - opts->lr * wd : 1,
                              .nesterov = opts->nesterov,
                              .begins = s->steps == 1,
                              .keep1 = 1 - opts->beta1,
                              .keep2 = opts->beta2,
                              .fresh2 = 1 - opts->beta2,
                              .step = opts->lr / (1 - pow(opts->beta1, t)),
                              .root = sqrt(1 - pow(opts->beta2, t)),
                              .eps = opts->eps};
    struct job job = {&rule,          opts->kind,     value->data,        s->first.data,
                      s->second.data, gradient->data, tensor_count(value)};
    const int64_t tasks = i64_ceil_div(job.n, PIECE);
    pool_run(tasks > 1 ? pool : NULL, tasks, value->dtype == DTYPE_FLOAT ? update_f32 : update_f64, &job);
    return 0;
}

/* ---- parameters that change their shape ---- */

static int gather(struct tensor *out, const struct tensor *t, int axis, const int64_t *kept, int64_t n, struct err *err)
{
    struct shape shape = t->shape;
    size_t row;
    if (axis < 0 || axis >= shape.rank || n < 1)
        return err_set(err, ERR_INVALID, "the state of a parameter of rank %d has no axis %d to keep %lld of", shape.rank,
                       axis, (long long)n);
    const int64_t outer = shape_product(&shape, 0, axis), width = shape.dim[axis];
    const int64_t inner = shape_product(&shape, axis + 1, shape.rank);
    for (int64_t j = 0; j < n; j++)
        if (kept[j] < 0 || kept[j] >= width)
            return err_set(err, ERR_INVALID, "index %lld of an axis of %lld", (long long)kept[j], (long long)width);
    shape.dim[axis] = n;
    if (!dtype_bytes(t->dtype, inner, &row))
        return err_set(err, ERR_INVALID, "a row is too large");
    if (tensor_alloc(out, t->dtype, &shape, err))
        return -1;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t j = 0; j < n && row; j++)
            memcpy((char *)out->data + (size_t)(o * n + j) * row,
                   (const char *)t->data + (size_t)(o * width + kept[j]) * row, row);
    return 0;
}

int optimizer_gather(struct optimizer *o, int i, int axis, const int64_t *kept, int64_t n, struct err *err)
{
    struct tensor first = {0}, second = {0};
    if (i < 0 || i >= o->n)
        return err_set(err, ERR_INVALID, "parameter %d of %d", i, o->n);
    struct slot *s = &o->slot[i];
    if ((s->first.buf && gather(&first, &s->first, axis, kept, n, err)) ||
        (s->second.buf && gather(&second, &s->second, axis, kept, n, err))) {
        tensor_fini(&first);
        return -1;
    }
    tensor_fini(&s->first);
    tensor_fini(&s->second);
    s->first = first;
    s->second = second;
    return 0;
}

void optimizer_reset(struct optimizer *o, int i)
{
    if (i < 0 || i >= o->n)
        return;
    tensor_fini(&o->slot[i].first);
    tensor_fini(&o->slot[i].second);
    o->slot[i].steps = 0;
}
