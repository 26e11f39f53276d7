/* SPDX-License-Identifier: Apache-2.0
 * trainer_judge.c - how good the model is on data it does not learn from, and which epoch stays. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/stats/evaluate.h"
#include "core/train/trainer_impl.h"

/* What a validation has seen so far. */
struct judging {
    struct task_metrics *metrics; /* NULL without classes */
    struct tensor *cut;           /* the model's outputs, without repeats */
    double loss;
    int64_t seen;
};

static int judge_batch(struct trainer *t, struct judging *j, const struct loader_batch *batch, struct err *err)
{
    const int64_t n = i64_min(batch->n, t->n_val - j->seen);
    const int n_out = model_main(t->c->model)->n_outputs;
    double loss = 0;
    if (n <= 0)
        return 0;
    if (t->o->prepare && t->o->prepare(t->o, batch, err))
        return -1;
    if (grad_forward(t->grad, batch->in, err) || t->o->loss(t->o, t->grad, t->outputs, batch, false, 1, &loss, err))
        return -1;
    j->loss += loss * (double)n;
    if (j->metrics) {
        struct tensor labels;
        for (int i = 0; i < n_out; i++)
            evaluate_cut_rows(&j->cut[i], grad_output(t->grad, i), n, batch->n);
        evaluate_cut_rows(&labels, &batch->labels, n, batch->n);
        const struct evaluate_batch b = {
            .first = j->seen, .n = (int)n, .fed = (int)batch->n, .in = batch->in, .out = j->cut, .labels = &labels};
        if (evaluate_judge(j->metrics, &b, n_out, err))
            return -1;
    }
    j->seen += n;
    return t->c->progress ? t->c->progress(t->c, "validation", j->seen, t->n_val, err) : 0;
}

int trainer_judge(struct trainer *t, struct trainer_figures *f, struct err *err)
{
    struct judging j = {.metrics = t->classes ? task_metrics_new() : NULL};
    const struct loader_batch *batch;
    int got = -1, rc = -1;
    *f = (struct trainer_figures){0};
    j.cut = calloc((size_t)model_main(t->c->model)->n_outputs + 1, sizeof *j.cut);
    if (!j.cut || (t->classes && !j.metrics)) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    grad_set_training(t->grad, false);
    if (loader_start(t->val, -1, err))
        goto out;
    while ((got = loader_next(t->val, &batch, err)) == 1)
        if (judge_batch(t, &j, batch, err)) {
            got = -1;
            break;
        }
    loader_stop(t->val);
    if (got < 0)
        goto out;
    f->there = true;
    f->loss = j.seen ? j.loss / (double)j.seen : NAN;
    if (j.metrics) {
        struct task_metrics_result result;
        task_metrics_result(j.metrics, &result);
        f->has_top1 = result.classes && result.samples > 0;
        f->top1 = f->has_top1 ? result.top1 : 0;
    }
    rc = 0;
out:
    grad_set_training(t->grad, t->training_mode);
    task_metrics_free(j.metrics);
    free(j.cut);
    return rc;
}

/* Top-1, then the loss. What is not a number is never better. */
bool trainer_better(const struct trainer_figures *a, const struct trainer_figures *b)
{
    if (!isfinite(a->loss))
        return false;
    if (!b->there || !isfinite(b->loss))
        return true;
    if (a->has_top1 && b->has_top1 && (a->top1 > b->top1 || a->top1 < b->top1))
        return a->top1 > b->top1;
    return a->loss < b->loss;
}

/* ---- moving average ---- */
struct average_job {
    struct tensor *to;
    const struct tensor *from;
    double keep;
};
enum { PIECE = 1 << 15 };

static void average_piece(void *arg, int64_t task, int lane)
{
    const struct average_job *j = arg;
    const int64_t at = task * PIECE, end = i64_min(at + PIECE, tensor_count(j->to));
    (void)lane;
    if (j->to->dtype == DTYPE_FLOAT) {
        float *restrict to = tensor_f32(j->to);
        const float *restrict from = tensor_f32(j->from);
        const float part = (float)(1 - j->keep);
        for (int64_t i = at; i < end; i++)
            to[i] += part * (from[i] - to[i]);
    } else {
        double *restrict to = j->to->data;
        const double *restrict from = j->from->data;
        for (int64_t i = at; i < end; i++)
            to[i] += (1 - j->keep) * (from[i] - to[i]);
    }
}

/* Over the first updates it forgets faster, so that it does not stay where training began. */
void trainer_average(struct trainer *t)
{
    const double grown = (1 + (double)t->averaged) / (10 + (double)t->averaged);
    for (int i = 0; i < t->params.n; i++) {
        struct average_job j = {&t->own[i].average, grad_param_value(t->grad, i), fmin(t->p->ema, grown)};
        const int64_t pieces = i64_ceil_div(tensor_count(j.to), PIECE);
        pool_run(pieces > 1 ? t->c->pool : NULL, pieces, average_piece, &j);
    }
    t->averaged++;
}

int trainer_swap_average(struct trainer *t, bool in, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        struct trainer_own *own = &t->own[i];
        struct tensor *value = grad_param_value(t->grad, i);
        if (in && !own->live.buf && tensor_alloc_raw(&own->live, value->dtype, &value->shape, err))
            return -1;
        if (in)
            memcpy(own->live.data, value->data, value->bytes);
        memcpy(value->data, in ? own->average.data : own->live.data, value->bytes);
        if (in && i < t->params.n_learned)
            constraints_apply(t->constraints, i, value);
    }
    return 0;
}

/* ---- the best ---- */
int trainer_keep_best(struct trainer *t, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        struct trainer_own *own = &t->own[i];
        const struct tensor *value = grad_param_value(t->grad, i);
        if (!own->best.buf && tensor_alloc_raw(&own->best, value->dtype, &value->shape, err))
            return -1;
        memcpy(own->best.data, value->data, value->bytes);
    }
    return 0;
}

int trainer_restore_best(struct trainer *t, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        struct tensor *value = grad_param_value(t->grad, i);
        if (!t->own[i].best.buf)
            return err_set(err, ERR_INTERNAL, "no epoch was kept");
        memcpy(value->data, t->own[i].best.data, value->bytes);
    }
    return 0;
}
