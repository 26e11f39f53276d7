/* SPDX-License-Identifier: Apache-2.0
 * trainer.c - training from beginning to end: open everything, judge the model as it came in, then epoch after epoch
 * train, judge, remember the best, save; at the end put what is kept into the model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/train/batchnorm_insert.h"
#include "core/train/trainer_impl.h"

int trainer_open_optimizer(struct trainer *t, struct err *err)
{
    const struct train_params *p = t->p;
    const bool sgd = p->optimizer == OPTIMIZER_SGD;
    const struct optimizer_opts opts = {.kind = (enum optimizer_kind)p->optimizer,
                                        .lr = t->base_lr,
                                        .weight_decay = p->weight_decay,
                                        .momentum = sgd ? p->momentum : 0,
                                        .nesterov = sgd && p->nesterov,
                                        .beta1 = p->beta1,
                                        .beta2 = p->beta2,
                                        .eps = 1e-8};
    t->optimizer = optimizer_new(&opts, t->params.n_learned + t->o->n_params, err);
    return t->optimizer ? 0 : -1;
}

/* Is this epoch kept? A tie with the model as it came in goes to the trained one. */
static bool is_kept(const struct trainer *t, const struct trainer_figures *f)
{
    if (t->p->keep == KEEP_LAST || !t->best.there)
        return true;
    return t->best_epoch ? trainer_better(f, &t->best) : !trainer_better(&t->best, f);
}

/* The figures of the epoch just trained; with a moving average those of the average, which is also what is kept. */
static int judge_epoch(struct trainer *t, struct trainer_figures *f, struct err *err)
{
    const bool average = t->p->ema > 0;
    if (average && trainer_swap_average(t, true, err))
        return -1;
    int rc = trainer_judge(t, f, err);
    if (!rc && isfinite(f->loss) && trainer_ramp(t) >= 1) {
        const bool better = !t->best_epoch || trainer_better(f, &t->best);
        t->since_best = better ? 0 : t->since_best + 1;
        if (is_kept(t, f)) {
            rc = trainer_keep_best(t, err);
            t->best = *f;
            t->best_epoch = t->epoch;
        }
    }
    if (average && trainer_swap_average(t, false, err))
        rc = -1;
    return rc;
}

/* 1: training ends here. */
static int one_epoch(struct trainer *t, struct err *err)
{
    double loss, seconds;
    struct trainer_figures f = {.loss = NAN};
    const int rc = trainer_epoch(t, &loss, &seconds, err);
    if (rc < 0)
        return -1;
    t->epoch++;
    if (rc == 0 && judge_epoch(t, &f, err))
        return -1;
    if (rc == 0 && !isfinite(f.loss)) {
        snprintf(t->stop_text, sizeof t->stop_text,
                 "after epoch %lld the loss on validation data is not a finite number, at a learning rate of %g; a "
                 "smaller one, clip or warmup may help",
                 (long long)t->epoch, t->lr);
        t->stopped = "the loss was not finite";
    }
    if (trainer_report_epoch(t, rc ? NAN : loss, seconds, &f, err))
        return -1;
    if (!t->stopped && t->p->patience > 0 && t->since_best >= t->p->patience && t->epoch < t->p->epochs)
        t->stopped = "no better epoch within patience";
    return trainer_save(t, err) ? -1 : t->stopped != NULL;
}

/* The model as it came in is a candidate, unless steps prune it while it trains. */
static int judge_first(struct trainer *t, struct err *err)
{
    if (trainer_judge(t, &t->came, err))
        return -1;
    if (t->c->n_steps == 0 && t->p->keep == KEEP_BEST && isfinite(t->came.loss)) {
        t->best = t->came;
        return trainer_keep_best(t, err);
    }
    return 0;
}

static int finish(struct trainer *t, struct err *err)
{
    if (t->stop_text[0] && t->best_epoch == 0)
        return err_set(err, ERR_NON_FINITE, "%s", t->stop_text);
    if (t->stop_text[0])
        warnings_add(t->c->warnings, "Training stopped: %s. Epoch %lld is kept", t->stop_text,
                     (long long)t->best_epoch);
    if (t->best.there && trainer_restore_best(t, err))
        return -1;
    if (t->best.there && t->best_epoch == 0)
        warnings_add(t->c->warnings, "no epoch was better on validation data than the model as it came in, which is "
                                     "what stays; a smaller learning rate or more samples may help");
    if (trainer_store(t, false, err) || constraints_finish(t->constraints, t->c->model, err))
        return -1;
    return t->inserted ? batchnorm_insert_fold(t->c->model, err) : 0;
}

static int insert(struct trainer *t, struct err *err)
{
    const struct batchnorm_insert_opts opts = {t->c->data, t->train_index, t->n_train, t->c->pool};
    if (t->p->batch_norm != BATCH_NORM_INSERT)
        return 0;
    const int n = batchnorm_insert(t->c->model, &opts, err);
    if (n == 0)
        warnings_add(t->c->warnings, "batch_norm=insert found no convolution without BatchNormalization");
    t->inserted = n > 0;
    return n < 0 ? -1 : 0;
}

static int open_all(struct trainer *t, struct err *err)
{
    t->base_lr = t->p->lr_given ? t->p->lr : t->p->optimizer == OPTIMIZER_SGD ? 0.01 : 0.001;
    t->epochs = json_array();
    if (!t->epochs)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (train_parameters_prepare(t->c->model, err) || trainer_open_data(t, err) || insert(t, err) ||
        trainer_open_graph(t, err) || trainer_open_optimizer(t, err))
        return -1;
    return trainer_plan_nested(t, err);
}

int train_run(struct step_ctx *c, const struct train_params *p, struct objective *objective, struct train_hooks *hooks,
              struct err *err)
{
    struct trainer *t = calloc(1, sizeof *t);
    int rc = -1;
    if (!t)
        return err_set(err, ERR_NOMEM, "out of memory");
    t->c = c;
    t->p = p;
    t->o = objective;
    t->h = hooks;
    if (open_all(t, err))
        goto out;
    const int resumed = trainer_resume(t, err);
    if (resumed < 0 || (!resumed && judge_first(t, err)))
        goto out;
    rc = 0;
    while (!rc && t->epoch < p->epochs && !t->stopped)
        rc = one_epoch(t, err);
    if (rc >= 0)
        rc = finish(t, err) || trainer_report(t, err) ? -1 : 0;
out:
    trainer_close_nested(t);
    optimizer_free(t->optimizer);
    trainer_close_graph(t);
    trainer_close_data(t);
    json_decref(t->epochs);
    free(t);
    return rc;
}
