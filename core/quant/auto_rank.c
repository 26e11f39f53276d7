/* SPDX-License-Identifier: Apache-2.0
 * auto_rank.c - which layers lose most in 8 bits.
 *
 * One at a time: only this layer is quantized, and the model's scores are compared with those in float (Kullback-Leibler
 * divergence; without scores, the noise of the output). It sees weights and activations, at one run of the samples a layer.
 * Fisher: all layers in about three runs (core/stats/sensitivity.h), but weights only. The first is taken where it costs at
 * most half of either budget. */
#include <math.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/quant/auto.h"
#include "core/quant/qdq.h"
#include "core/stats/sensitivity.h"

static int by_sensitivity(const void *pa, const void *pb)
{
    const struct auto_layer *a = pa, *b = pb;
    const double x = isnan(a->sensitivity) ? -1 : a->sensitivity, y = isnan(b->sensitivity) ? -1 : b->sensitivity;
    if (x != y)
        return x > y ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

static int progress(struct auto_run *a, int done, struct err *err)
{
    return a->c->progress ? a->c->progress(a->c, "sensitivity", done, a->n_layers, err) : 0;
}

static int rank_each(struct auto_run *a, int from, bool *kept, struct err *err)
{
    for (int i = from; i < a->n_layers; i++) {
        struct closeness c;
        if (!auto_may_evaluate(a))
            break;
        for (int k = 0; k < a->n_layers; k++)
            kept[k] = k != i;
        if (auto_evaluate(a, kept, a->probe, &c, err))
            return -1;
        a->layers[i].sensitivity = c.classes ? c.kl : c.noise;
        if (progress(a, i + 1, err))
            return -1;
    }
    a->measured_by = "one at a time";
    return 0;
}

/* Q(w) - w, as float32. */
static int weight_change(struct auto_run *a, uint32_t node, struct tensor *delta, struct err *err)
{
    struct model *m = a->c->model;
    const struct node *n = &m->nodes[node];
    const struct tensor *w = value_const(m, n->input[1]);
    const struct qdq q = {.m = m};
    const int axis = w->shape.rank > 1 ? qdq_channel_axis(&q, n, w, err) : -1;
    struct qweight code = {0};
    if (axis < 0 && err->code)
        return -1;
    const struct qweight_opts opts = {.dtype = DTYPE_INT8,
                                      .axis = axis,
                                      .isa = a->p->s.isa,
                                      .pool = a->c->pool,
                                      .per_channel = a->p->s.per_channel && axis >= 0};
    if (qweight_make(&code, w, &opts, err))
        return -1;
    const int rc = tensor_alloc(delta, DTYPE_FLOAT, &w->shape, err);
    int64_t inner = 1;
    for (int i = axis + 1; axis >= 0 && i < w->shape.rank; i++)
        inner *= w->shape.dim[i];
    for (int64_t k = 0, count = tensor_count(w); rc == 0 && k < count; k++) {
        const int64_t at = opts.per_channel ? k / inner % w->shape.dim[axis] : 0;
        tensor_f32(delta)[k] =
            (float)((double)((const int8_t *)code.codes.data)[k] * (double)tensor_f32(&code.scale)[at] -
                    (double)tensor_f32(w)[k]);
    }
    qweight_fini(&code);
    return rc;
}

static int cancel(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct auto_run *a = arg;
    return a->c->progress ? a->c->progress(a->c, "sensitivity", done, total, err) : 0;
}

static int rank_fisher(struct auto_run *a, struct err *err)
{
    const size_t n = (size_t)a->n_layers + 1;
    uint32_t *weights = calloc(n, sizeof *weights);
    struct tensor *delta = calloc(n, sizeof *delta);
    double *score = calloc(n, sizeof *score);
    int *which = calloc(n, sizeof *which), count = 0, rc = -1;
    if (!weights || !delta || !score || !which) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < a->n_layers; i++) { /* a weight may be shared */
        for (which[i] = 0; which[i] < count && weights[which[i]] != a->layers[i].weight;)
            which[i]++;
        if (which[i] < count)
            continue;
        if (weight_change(a, a->layers[i].node, &delta[count], err))
            goto out;
        weights[count++] = a->layers[i].weight;
    }
    const struct fisher_opts opts = {.data = a->c->data,
                                     .index = a->probe_index,
                                     .n = a->n_probe,
                                     .pool = a->c->pool,
                                     .seed = a->c->seed,
                                     .weights = weights,
                                     .delta = delta,
                                     .n_weights = count,
                                     .progress = cancel,
                                     .progress_arg = a};
    if (sensitivity_fisher(a->c->model, &opts, score, err))
        goto out;
    for (int i = 0; i < a->n_layers; i++)
        a->layers[i].sensitivity = score[which[i]] / 2; /* the divergence, to second order */
    a->measured_by = "Fisher";
    a->evaluations += 3;
    rc = 0;
out:
    for (int i = 0; delta && i < count; i++)
        tensor_fini(&delta[i]);
    free(weights);
    free(delta);
    free(score);
    free(which);
    return rc;
}

/* The first layer is measured to see what one costs. */
static int choose(struct auto_run *a, bool *kept, bool *each, struct err *err)
{
    *each = a->p->sensitivity == SENSITIVITY_EACH;
    if (a->p->sensitivity != SENSITIVITY_AUTO || a->n_layers > a->p->evaluations / 2)
        return 0;
    if (!(a->p->budget_s > 0)) {
        *each = true;
        return 0;
    }
    const double start = clock_seconds();
    struct closeness c;
    for (int k = 0; k < a->n_layers; k++)
        kept[k] = k != 0;
    if (auto_evaluate(a, kept, a->probe, &c, err))
        return -1;
    a->layers[0].sensitivity = c.classes ? c.kl : c.noise;
    *each = (clock_seconds() - start) * a->n_layers <= a->p->budget_s / 2;
    return 0;
}

int auto_rank(struct auto_run *a, struct err *err)
{
    bool *kept = calloc((size_t)a->n_layers + 1, sizeof *kept), each;
    int rc = -1;
    if (!kept)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (choose(a, kept, &each, err))
        goto out;
    if (!each) {
        struct err why = {0};
        rc = rank_fisher(a, &why);
        each = rc != 0 && why.code == ERR_OPERATOR;
        if (rc && !each)
            *err = why;
        if (each)
            warnings_add(a->c->warnings, "sensitivities are measured one layer at a time: %s", why.msg);
    }
    if (each)
        rc = rank_each(a, 0, kept, err);
    if (rc == 0)
        qsort(a->layers, (size_t)a->n_layers, sizeof *a->layers, by_sensitivity);
out:
    free(kept);
    return rc;
}
