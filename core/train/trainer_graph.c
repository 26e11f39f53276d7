/* SPDX-License-Identifier: Apache-2.0
 * trainer_graph.c - the model as a plan with gradients, its parameters, and the way back.
 *
 * The plan is made of a clone, whose outputs are the model's and then what the objective wants to see; parameters are
 * private copies in the plan, so the model stays as it was until trainer_store. */
#include <stdlib.h>
#include <string.h>

#include "core/train/trainer_impl.h"

/* ---- BatchNormalization ---- */
static int count_nodes(const struct model *m, const char *type)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        n += node_is(&m->nodes[model_main(m)->nodes[i]], type);
    return n;
}

enum { STATISTICS_LEAST = 16 }; /* samples of a batch whose moments say something */

static void choose_mode(struct trainer *t)
{
    const int norms = count_nodes(t->c->model, "BatchNormalization"), drops = count_nodes(t->c->model, "Dropout");
    const int asked = t->p->batch_norm;
    t->batch_statistics =
        norms > 0 && asked != BATCH_NORM_FROZEN && (asked != BATCH_NORM_AUTO || t->part >= STATISTICS_LEAST);
    if (t->batch_statistics && t->fixed) {
        t->batch_statistics = false;
        warnings_add(t->c->warnings,
                     "the model takes %lld sample(s) at a time, so the statistics of BatchNormalization stay frozen",
                     (long long)t->part);
    }
    if (!norms && asked == BATCH_NORM_TRAIN)
        warnings_add(t->c->warnings, "the model has no BatchNormalization (it may be folded); batch_norm=insert puts "
                                     "some in while it trains");
    t->training_mode = t->batch_statistics || !norms;
    if (drops && !t->training_mode)
        warnings_add(t->c->warnings, "Dropout drops nothing while BatchNormalization is frozen");
}

/* ---- opening ---- */
static int add_outputs(struct trainer *t, const uint32_t *extra, int n, struct err *err)
{
    struct model *m = t->graph;
    struct graph *g = model_main(m);
    struct value_info *all = model_alloc(m, (size_t)(g->n_outputs + n) + 1, sizeof *all);
    if (!all)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (g->n_outputs)
        memcpy(all, g->outputs, (size_t)g->n_outputs * sizeof *all);
    g->outputs = all;
    for (int i = 0; i < n; i++) {
        int at = 0;
        while (at < g->n_outputs && g->outputs[at].value != extra[i])
            at++;
        if (at == g->n_outputs)
            g->outputs[g->n_outputs++] = (struct value_info){.value = extra[i]};
        t->outputs[i] = at;
    }
    return 0;
}

static int make_grad(struct trainer *t, struct err *err)
{
    uint32_t *values = calloc((size_t)t->params.n + 1, sizeof *values);
    struct tensor **tensors = calloc((size_t)t->params.n + 1, sizeof *tensors);
    int rc = -1;
    if (!values || !tensors) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < t->params.n; i++)
        values[i] = t->params.at[i].value;
    const struct grad_opts opts = {.pool = t->c->pool,
                                   .params = values,
                                   .n_params = t->params.n,
                                   .training = t->training_mode,
                                   .seed = t->c->seed,
                                   .checkpoints = 0};
    if (!(t->grad = grad_new(t->graph, &opts, err)))
        goto out;
    for (int i = 0; i < t->params.n; i++)
        tensors[i] = grad_param_value(t->grad, i);
    t->constraints = constraints_new(t->c->model, values, tensors, t->params.n_learned, t->c->pool, err);
    rc = t->constraints ? 0 : -1;
out:
    free(values);
    free(tensors);
    return rc;
}

static int make_own(struct trainer *t, struct err *err)
{
    t->own = calloc((size_t)t->params.n + 1, sizeof *t->own);
    if (!t->own)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < t->params.n; i++) {
        const uint32_t v = t->params.at[i].value;
        struct trainer_own *own = &t->own[i];
        tensor_ref(&own->first, &t->c->model->values[v].weight->tensor);
        own->gradient_scale = t->h && t->h->gradient_scale ? t->h->gradient_scale(t->h, v) : 1;
        if (t->p->ema > 0 && tensor_copy(&own->average, grad_param_value(t->grad, i), err))
            return -1;
    }
    return 0;
}

static int nothing_to_train(const struct trainer *t, struct err *err)
{
    const struct train_parameters *p = &t->params;
    if (p->n_skipped) {
        char buf[256];
        return err_set(
            err, ERR_MODEL,
            "there is nothing to train: the model has no weight that is selected and can be trained (%s, for "
            "example: %s)",
            node_label(t->c->model, p->skipped[0].node, buf, sizeof buf), p->skipped[0].why);
    }
    return err_set(err, ERR_MODEL, "there is nothing to train: the model has no floating-point weights");
}

int trainer_open_graph(struct trainer *t, struct err *err)
{
    uint32_t extra[OBJECTIVE_EXTRA_MAX];
    int n = 0;
    choose_mode(t);
    const struct train_parameters_opts find = {
        .include = &t->p->include, .exclude = &t->p->exclude, .running = t->batch_statistics, .hooks = t->h};
    if (train_parameters_find(&t->params, t->c->model, &find, err))
        return -1;
    if (t->params.n_learned == 0)
        return nothing_to_train(t, err);
    if (t->o->values && t->o->values(t->o, t->c->model, extra, &n, err))
        return -1;
    if (!(t->graph = model_clone(t->c->model, err)) || add_outputs(t, extra, n, err) || make_grad(t, err) ||
        make_own(t, err))
        return -1;
    return t->h && t->h->updated ? t->h->updated(t->h, t->grad, t->epoch, err) : 0;
}

void trainer_close_graph(struct trainer *t)
{
    for (int i = 0; t->own && i < t->params.n; i++) {
        tensor_fini(&t->own[i].first);
        tensor_fini(&t->own[i].best);
        tensor_fini(&t->own[i].average);
        tensor_fini(&t->own[i].live);
    }
    free(t->own);
    t->own = NULL;
    constraints_free(t->constraints);
    t->constraints = NULL;
    grad_free(t->grad);
    t->grad = NULL;
    model_free(t->graph);
    t->graph = NULL;
    train_parameters_fini(&t->params);
}

int trainer_store(struct trainer *t, bool latent, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        struct tensor copy = {0};
        const struct tensor *from = grad_param_value(t->grad, i);
        const struct tensor *moved = i < t->params.n_learned ? constraints_moved(t->constraints, i) : from;
        if (latent && shape_equal(&moved->shape, &from->shape))
            from = moved;
        if (tensor_copy(&copy, from, err))
            return -1;
        const int rc = value_set_weight(t->c->model, t->params.at[i].value, &copy);
        tensor_fini(&copy);
        if (rc)
            return err_set(err, ERR_NOMEM, "out of memory");
    }
    return 0;
}
