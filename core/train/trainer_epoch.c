/* SPDX-License-Identifier: Apache-2.0
 * trainer_epoch.c - updates: forward, loss, backward, and what moves the parameters. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/size.h"
#include "core/train/regularize.h"
#include "core/train/schedule.h"
#include "core/train/trainer_impl.h"

/* Has a gradient come to it at all? What no gradient reaches is not pulled to zero by decay either. */
static bool any_gradient(const struct tensor *t)
{
    static const char zeros[4096];
    for (size_t at = 0; at < t->bytes; at += sizeof zeros) {
        const size_t n = t->bytes - at < sizeof zeros ? t->bytes - at : sizeof zeros;
        if (memcmp((const char *)t->data + at, zeros, n) != 0)
            return true;
    }
    return false;
}

static void regularize(struct trainer *t, int i, struct tensor *gradient)
{
    const struct train_params *p = t->p;
    const struct train_parameter *k = &t->params.at[i];
    struct regularize r = {.axis = k->axis};
    if (k->weight) {
        r.l1 = p->l1;
        r.l2 = p->l2;
        r.group_lasso = p->group_lasso;
    } else if (k->bn_scale) {
        r.l1 = p->bn_sparsity;
    }
    if (r.l1 > 0 || r.l2 > 0 || r.group_lasso > 0)
        t->penalty += regularize_add(t->c->pool, &r, grad_param_value(t->grad, i), gradient);
}

/* Scale of all gradients that brings their norm down to `clip`; NAN: they are not finite. */
static double clip_scale(struct trainer *t, struct tensor *const *gradient)
{
    double square = 0;
    if (!(t->p->clip > 0))
        return 1;
    for (int i = 0; i < t->params.n_learned; i++)
        if (gradient[i])
            square += gradient_square(t->c->pool, gradient[i]);
    for (int i = 0; i < t->o->n_params; i++)
        square += gradient_square(t->c->pool, &t->o->gradient[i]);
    const double norm = sqrt(square);
    return !isfinite(norm) ? NAN : norm > t->p->clip ? t->p->clip / norm : 1;
}

static int move(struct trainer *t, int slot, struct tensor *value, struct tensor *gradient, double scale, bool decay,
                struct err *err)
{
    if (scale < 1)
        gradient_scale(t->c->pool, gradient, scale);
    return optimizer_update(t->optimizer, t->c->pool, slot, value, gradient, decay, err);
}

/* Running statistics move as PyTorch's do: by the unbiased variance. */
static void follow_one(struct tensor *t, const double *batch, double by, double momentum, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (t->dtype == DTYPE_FLOAT)
            tensor_f32(t)[i] = (float)((double)tensor_f32(t)[i] * momentum + batch[i] * by * (1 - momentum));
        else
            ((double *)t->data)[i] = ((double *)t->data)[i] * momentum + batch[i] * by * (1 - momentum);
}

static void follow_statistics(struct trainer *t)
{
    for (int k = 0; t->batch_statistics && k < grad_n_stats(t->grad); k++) {
        const struct grad_stats *s = grad_stats(t->grad, k);
        const int mean = grad_param_index(t->grad, s->mean_value), var = grad_param_index(t->grad, s->var_value);
        const double unbias = s->count > 1 ? (double)s->count / (double)(s->count - 1) : 1;
        if (mean >= t->params.n_learned && tensor_count(grad_param_value(t->grad, mean)) == s->channels)
            follow_one(grad_param_value(t->grad, mean), s->mean, 1, s->momentum, s->channels);
        if (var >= t->params.n_learned && tensor_count(grad_param_value(t->grad, var)) == s->channels)
            follow_one(grad_param_value(t->grad, var), s->variance, unbias, s->momentum, s->channels);
    }
}

/* The gradients as the optimizer takes them; NULL where none has come yet. */
static void take_gradients(struct trainer *t, struct tensor **gradient)
{
    for (int i = 0; i < t->params.n_learned; i++) {
        struct tensor *g = grad_param_gradient_change(t->grad, i);
        struct trainer_own *own = &t->own[i];
        own->reached = own->reached || any_gradient(g);
        gradient[i] = NULL;
        if (!own->reached)
            continue;
        if (own->gradient_scale != 1)
            gradient_scale(t->c->pool, g, own->gradient_scale);
        regularize(t, i, g);
        gradient[i] = constraints_gradient(t->constraints, i, g);
    }
}

/* 1: the gradients are not finite. */
static int update(struct trainer *t, struct err *err)
{
    const int n = t->params.n_learned;
    struct tensor *few[256], **gradient = n <= 256 ? few : calloc((size_t)n, sizeof *gradient);
    int rc = -1;
    if (!gradient)
        return err_set(err, ERR_NOMEM, "out of memory");
    take_gradients(t, gradient);
    const double scale = clip_scale(t, gradient);
    if (isnan(scale)) {
        rc = 1;
        goto out;
    }
    optimizer_set_lr(t->optimizer, t->lr);
    for (int i = 0; i < n; i++) {
        if (!gradient[i])
            continue;
        const bool decay = t->params.at[i].weight || t->p->decay == DECAY_ALL;
        if (move(t, i, constraints_moved(t->constraints, i), gradient[i], scale, decay, err))
            goto out;
        constraints_project(t->constraints, i);
    }
    for (int i = 0; i < t->o->n_params; i++)
        if (move(t, n + i, &t->o->param[i], &t->o->gradient[i], scale, t->o->param[i].shape.rank > 1, err))
            goto out;
    rc = t->h && t->h->updated ? t->h->updated(t->h, t->grad, t->epoch, err) : 0;
out:
    if (gradient != few)
        free(gradient);
    return rc;
}

static int stop(struct trainer *t, const char *what, int64_t index)
{
    snprintf(t->stop_text, sizeof t->stop_text,
             "%s is not a finite number at batch %" PRId64 " of %" PRId64 " of epoch %" PRId64
             ", at a learning rate of %g; a smaller one, clip or warmup may help",
             what, index + 1, t->per_epoch, t->epoch + 1, t->lr);
    t->stopped = "the loss was not finite";
    return 1;
}

/* One forward and backward; *loss is the mean over its samples. */
static int run_part(struct trainer *t, const struct loader_batch *batch, int64_t index, double scale, double *loss,
                    struct err *err)
{
    if (t->o->prepare && t->o->prepare(t->o, batch, err))
        return -1;
    grad_set_seed(t->grad, trainer_mix(trainer_mix(t->c->seed, (uint64_t)t->epoch), (uint64_t)index));
    if (grad_forward(t->grad, batch->in, err) || t->o->loss(t->o, t->grad, t->outputs, batch, true, scale, loss, err))
        return -1;
    if (!isfinite(*loss))
        return 0;
    if (grad_backward(t->grad, err))
        return -1;
    follow_statistics(t);
    return 0;
}

/* The parts of one update. 1: the loss is not finite. *n: samples. */
static int run_parts(struct trainer *t, int64_t *at, double *loss, int64_t *n, struct err *err)
{
    const int64_t parts = i64_min(t->parts, t->batches - *at), index = *at / t->parts;
    *loss = 0;
    *n = 0;
    grad_reset(t->grad);
    for (int i = 0; i < t->o->n_params; i++)
        memset(t->o->gradient[i].data, 0, t->o->gradient[i].bytes);
    for (int64_t k = 0; k < parts; k++, (*at)++) {
        const struct loader_batch *batch;
        double part = 0;
        const int got = loader_next(t->train, &batch, err);
        if (got < 1)
            return got < 0 ? -1 : err_set(err, ERR_INTERNAL, "the samples of an epoch ended early");
        if (run_part(t, batch, *at, 1 / (double)parts, &part, err))
            return -1;
        if (!isfinite(part))
            return stop(t, "the loss", index);
        *loss += part / (double)parts;
        *n += batch->n;
    }
    return 0;
}

/* Steps between updates may read the dataset: the loader lets go of it meanwhile. */
static int nested(struct trainer *t, int64_t at, struct err *err)
{
    loader_stop(t->train);
    return trainer_run_nested(t, err) || loader_start_at(t->train, t->epoch, at, err) ? -1 : 0;
}

/* One update, with what is due before it. 1: a number is not finite. */
static int step(struct trainer *t, int64_t *at, double *sum, int64_t *samples, struct err *err)
{
    const int64_t index = *at / t->parts;
    double value = 0;
    int64_t n = 0;
    if (trainer_nested_due(t) && nested(t, *at, err))
        return -1;
    t->lr = schedule_lr(t->p, t->base_lr, t->updates, t->per_epoch);
    int rc = run_parts(t, at, &value, &n, err);
    if (!rc)
        rc = update(t, err);
    if (rc == 1 && !t->stopped)
        stop(t, "the norm of the gradients", index);
    if (rc)
        return rc;
    *sum += value * (double)n;
    *samples += n;
    t->updates++;
    if (t->p->ema > 0)
        trainer_average(t);
    return t->c->progress ? t->c->progress(t->c, "train", t->updates, t->p->epochs * t->per_epoch, err) : 0;
}

int trainer_epoch(struct trainer *t, double *loss, double *seconds, struct err *err)
{
    const double start = clock_seconds();
    double sum = 0;
    int64_t at = 0, samples = 0;
    int rc = 0;
    t->penalty = 0;
    if (t->h && t->h->begin_epoch && t->h->begin_epoch(t->h, t->grad, t->epoch, err))
        return -1;
    if (loader_start(t->train, t->epoch, err))
        return -1;
    while (at < t->batches && !rc)
        rc = step(t, &at, &sum, &samples, err);
    loader_stop(t->train);
    *loss = samples ? sum / (double)samples : NAN;
    *seconds = clock_seconds() - start;
    return rc;
}
