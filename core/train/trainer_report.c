/* SPDX-License-Identifier: Apache-2.0
 * trainer_report.c - what the report says of training: a row a parameter, the epochs, what was kept and why it ended.
 * */
#include <math.h>
#include <stdlib.h>

#include "core/train/trainer_impl.h"

static double number_at(const struct tensor *t, int64_t i)
{
    return t->dtype == DTYPE_FLOAT ? (double)tensor_f32(t)[i] : ((const double *)t->data)[i];
}

static json_t *facts_of(const struct tensor *t)
{
    int64_t nonzero = 0;
    double square = 0;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        const double v = number_at(t, i);
        nonzero += v != 0;
        square += v * v;
    }
    return json_pack("{s:I,s:f}", "nonzero", (json_int_t)nonzero, "norm", isfinite(square) ? sqrt(square) : 0.0);
}

/* The norm of the change as a share of the norm. */
static void add_moved(json_t *after, const struct tensor *was, const struct tensor *is)
{
    double change = 0, norm = 0;
    if (!shape_equal(&was->shape, &is->shape) || was->dtype != is->dtype)
        return;
    for (int64_t i = 0, n = tensor_count(was); i < n; i++) {
        const double a = number_at(was, i), d = number_at(is, i) - a;
        change += d * d;
        norm += a * a;
    }
    if (norm > 0 && isfinite(change))
        json_object_set_new(after, "moved", json_real(sqrt(change / norm)));
}

static void add_rows(struct trainer *t)
{
    const struct model *m = t->c->model;
    for (int i = 0; t->c->layers && i < t->params.n_learned; i++) {
        const struct train_parameter *p = &t->params.at[i];
        if (!m->values[p->value].weight)
            continue; /* of a BatchNormalization that was folded away again */
        const struct tensor *was = &t->own[i].first, *is = &m->values[p->value].weight->tensor;
        struct layer_row row = {.node = p->node, .weight = p->value, .sqnr_db = NAN};
        row.before = facts_of(was);
        row.after = facts_of(is);
        if (row.after)
            add_moved(row.after, was, is);
        if (!t->own[i].reached)
            row.skipped = "no gradient of the loss reaches it";
        layer_report_add(t->c->layers, m, &row);
    }
    for (int i = 0; t->c->layers && i < t->params.n_skipped; i++) {
        const struct train_skipped *s = &t->params.skipped[i];
        layer_report_add(t->c->layers, m,
                         &(struct layer_row){.node = s->node, .weight = s->value, .sqnr_db = NAN, .skipped = s->why});
    }
}

int trainer_report_epoch(struct trainer *t, double loss, double seconds, const struct trainer_figures *f,
                         struct err *err)
{
    const double samples = fmin((double)t->batches * (double)t->part, (double)t->n_train);
    json_t *row = json_pack("{s:I,s:f}", "epoch", (json_int_t)t->epoch, "lr", t->lr);
    if (!row)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (isfinite(loss))
        json_object_set_new(row, "loss", json_real(loss));
    if (t->penalty > 0 && isfinite(t->penalty))
        json_object_set_new(row, "penalty", json_real(t->penalty / (double)t->per_epoch));
    if (isfinite(f->loss))
        json_object_set_new(row, "val_loss", json_real(f->loss));
    if (f->has_top1)
        json_object_set_new(row, "val_top1", json_real(f->top1));
    if (t->n_nested)
        json_object_set_new(row, "ramp", json_real(trainer_ramp(t)));
    json_object_set_new(row, "seconds", json_real(seconds));
    if (seconds > 0 && isfinite(loss))
        json_object_set_new(row, "images_per_s", json_real(samples / seconds));
    if (t->c->metric)
        t->c->metric(t->c, row);
    return json_array_append_new(t->epochs, row) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
}

static json_t *figures(const struct trainer_figures *f)
{
    json_t *json = json_object();
    if (isfinite(f->loss))
        json_object_set_new(json, "val_loss", json_real(f->loss));
    if (f->has_top1)
        json_object_set_new(json, "val_top1", json_real(f->top1));
    return json;
}

static json_t *training_facts(const struct trainer *t)
{
    int64_t parameters = 0;
    for (int i = 0; i < t->params.n_learned; i++)
        parameters += t->own[i].reached ? tensor_count(grad_param_value(t->grad, i)) : 0;
    json_t *facts = json_pack("{s:I,s:I,s:{s:I,s:s},s:O,s:I}", "parameters", (json_int_t)parameters, "samples",
                              (json_int_t)t->n_train, "validation", "samples", (json_int_t)t->n_val, "split",
                              t->val_own ? "held back from dataset" : "val_dataset", "epochs", t->epochs, "kept_epoch",
                              (json_int_t)t->best_epoch);
    if (facts && t->came.there)
        json_object_set_new(facts, "before", figures(&t->came));
    if (facts && t->stopped)
        json_object_set_new(facts, "stopped", json_string(t->stopped));
    return facts;
}

int trainer_report(struct trainer *t, struct err *err)
{
    add_rows(t);
    if (!t->c->details)
        return 0;
    json_t *facts = training_facts(t);
    if (!facts || json_object_set_new(t->c->details, "training", facts))
        return err_set(err, ERR_NOMEM, "out of memory");
    return 0;
}
