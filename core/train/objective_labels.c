/* SPDX-License-Identifier: Apache-2.0
 * objective_labels.c - the loss between what a model says and the labels of its samples.
 *
 * Classes belong to the first output of floats with a row a sample and more than one score in it; targets to the first
 * one with as many numbers a sample. A model that ends in Softmax says probabilities: its loss is taken of what the
 * Softmax reads, because softmax of softmax learns badly; the same of Sigmoid and bce. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/passes/infer.h"
#include "core/train/loss.h"
#include "core/train/trainer.h"

struct labels {
    const struct train_params *p;
    struct pool *pool;
    uint32_t output; /* the model's output */
    bool classes;
    enum train_loss loss;
    int64_t width;        /* scores (targets) a sample */
    struct tensor target; /* of the last batch, where labels are no targets as they are */
};

/* ---- which value ---- */
static const struct node *maker_of(const struct model *m, uint32_t value)
{
    const uint32_t n = m->values[value].producer;
    return n == NODE_NONE || !m->nodes[n].op_type ? NULL : &m->nodes[n];
}

uint32_t train_scores(const struct model *m, uint32_t value, bool sigmoid)
{
    uint32_t v = value;
    for (int depth = 0; depth < 8; depth++) {
        const struct node *n = maker_of(m, v);
        if (!n || n->n_input < 1 || n->input[0] == VALUE_NONE)
            return value;
        if (sigmoid ? node_is(n, "Sigmoid") : node_is(n, "Softmax") || node_is(n, "LogSoftmax")) {
            const int64_t axis = sigmoid ? 1 : node_attr_int(n, "axis", model_opset(m, "") < 13 ? 1 : -1);
            return axis == 1 || axis == -1 ? n->input[0] : value;
        }
        if (!node_is(n, "Identity") && !node_is(n, "Flatten") && !node_is(n, "Reshape") && !node_is(n, "Squeeze"))
            return value;
        v = n->input[0];
    }
    return value;
}

/* Numbers a sample of a value at batch 1; -1: unknown, or not of floats with a row a sample. */
static int64_t width_of(const struct infer *x, uint32_t value)
{
    const struct shape *s = infer_shape_of(x, value);
    const enum dtype type = infer_dtype_of(x, value);
    if ((type != DTYPE_FLOAT && type != DTYPE_DOUBLE) || s->rank < 1 || !shape_known(s) || s->dim[0] < 1 ||
        shape_count(s) % s->dim[0])
        return -1;
    return shape_count(s) / s->dim[0];
}

static int find_output(struct labels *k, const struct step_ctx *c, int64_t wanted, struct err *err)
{
    const struct model *m = c->model;
    const struct graph *g = model_main(m);
    struct infer x = {0};
    int64_t widest = -1;
    if (infer_run_batch(&x, m, 1, err))
        return -1;
    k->output = VALUE_NONE;
    for (int i = 0; i < g->n_outputs && k->output == VALUE_NONE; i++) {
        const uint32_t v = g->outputs[i].value;
        const int64_t n = width_of(&x, v);
        widest = i64_max(widest, n);
        if (wanted ? n != wanted : n < 2 && !(n == 1 && k->loss == TRAIN_LOSS_BCE))
            continue;
        if (k->classes && infer_rank_of(&x, v) > 2 && infer_shape_of(&x, v)->dim[1] != n)
            continue; /* scores of many places, and one label */
        k->output = v;
        k->width = n;
    }
    infer_fini(&x);
    if (k->output != VALUE_NONE)
        return 0;
    if (wanted)
        return err_set(err, ERR_DATASET,
                       "the labels have %" PRId64 " numbers a sample; no output of the model has as many (the largest "
                       "has %" PRId64 ")",
                       wanted, widest);
    return err_set(err, ERR_DATASET,
                   "the labels are classes, and no output of the model is a row of scores, one a class");
}

/* Numbers a sample of float targets. */
static int target_width(const struct step_ctx *c, int64_t *width, struct err *err)
{
    enum { INPUTS = 64 };
    const int64_t first = 0;
    struct tensor in[INPUTS] = {0}, labels = {0};
    const int rc = dataset_read(c->data, &first, 1, in, &labels, err);
    *width = rc ? 0 : tensor_count(&labels);
    for (size_t i = 0; i < INPUTS; i++)
        tensor_fini(&in[i]);
    tensor_fini(&labels);
    return rc;
}

/* ---- the loss ---- */
static int values(struct objective *o, const struct model *m, uint32_t *extra, int *n, struct err *err)
{
    const struct labels *k = o->self;
    const bool scores = k->loss == TRAIN_LOSS_CROSS_ENTROPY || k->loss == TRAIN_LOSS_BCE;
    (void)err;
    extra[0] = scores ? train_scores(m, k->output, k->loss == TRAIN_LOSS_BCE) : k->output;
    *n = 1;
    return 0;
}

/* Classes for losses of numbers: one-hot targets of y's type. */
static int make_targets(struct labels *k, const struct tensor *y, const struct loader_batch *b, struct err *err)
{
    if (!k->target.buf || !shape_equal(&k->target.shape, &y->shape) || k->target.dtype != y->dtype) {
        tensor_fini(&k->target);
        if (tensor_alloc(&k->target, y->dtype, &y->shape, err))
            return -1;
    }
    memset(k->target.data, 0, k->target.bytes);
    for (int64_t i = 0; i < b->n; i++) {
        const int64_t at = i * k->width + tensor_i64(&b->labels)[i];
        if (y->dtype == DTYPE_FLOAT)
            tensor_f32(&k->target)[at] = 1;
        else
            ((double *)k->target.data)[at] = 1;
    }
    return 0;
}

/* Float targets in y's type and shape; classes as they are where the loss takes them. A view. */
static int choose_target(struct labels *k, const struct tensor *y, const struct loader_batch *b, struct tensor *target,
                         struct err *err)
{
    const bool takes_classes = k->loss == TRAIN_LOSS_CROSS_ENTROPY || k->loss == TRAIN_LOSS_BCE;
    const struct shape rows = SHAPE(b->n);
    if (k->classes && takes_classes) {
        tensor_view(target, b->labels.dtype, &rows, b->labels.data, NULL);
        return 0;
    }
    if (!k->classes && b->labels.dtype == y->dtype) {
        tensor_view(target, y->dtype, &y->shape, b->labels.data, NULL);
        return 0;
    }
    if (!k->classes)
        tensor_fini(&k->target);
    if (k->classes ? make_targets(k, y, b, err) : tensor_convert(&k->target, &b->labels, y->dtype, err))
        return -1;
    tensor_view(target, y->dtype, &y->shape, k->target.data, NULL);
    return 0;
}

static const enum loss_kind kinds[] = {[TRAIN_LOSS_CROSS_ENTROPY] = LOSS_CROSS_ENTROPY,
                                       [TRAIN_LOSS_MSE] = LOSS_SQUARED,
                                       [TRAIN_LOSS_L1] = LOSS_ABSOLUTE,
                                       [TRAIN_LOSS_HUBER] = LOSS_HUBER,
                                       [TRAIN_LOSS_BCE] = LOSS_BINARY};

static int check_batch(const struct labels *k, const struct tensor *y, const struct loader_batch *b, struct err *err)
{
    if (b->labels.dtype == DTYPE_NONE)
        return err_set(err, ERR_DATASET, "the loss needs labels, and the samples have none");
    if (tensor_count(y) != b->n * k->width || tensor_count(&b->labels) != b->n * (k->classes ? 1 : k->width))
        return err_set(err, ERR_SHAPE,
                       "%" PRId64 " samples have %" PRId64 " numbers in the output and %" PRId64
                       " in the labels; %" PRId64 " a sample were expected",
                       b->n, tensor_count(y), tensor_count(&b->labels), k->width);
    return 0;
}

static int loss(struct objective *o, struct grad *g, const int *outputs, const struct loader_batch *batch, bool seed,
                double scale, double *value, struct err *err)
{
    struct labels *k = o->self;
    const struct tensor *whole = grad_output(g, outputs[0]);
    struct tensor *to = seed ? grad_seed(g, outputs[0]) : NULL, y, target, dy = {0};
    double part = 0;
    if (check_batch(k, whole, batch, err))
        return -1;
    if (seed && !to)
        return err_set(err, ERR_OPERATOR, "no gradient passes from the judged output to any trained weight");
    const struct shape shape = SHAPE(batch->n, k->width);
    tensor_view(&y, whole->dtype, &shape, whole->data, NULL);
    if (seed)
        tensor_view(&dy, to->dtype, &shape, to->data, NULL);
    if (choose_target(k, &y, batch, &target, err))
        return -1;
    struct loss_opts opts = {.kind = kinds[k->loss],
                             .reduction = LOSS_MEAN,
                             .smoothing = k->loss == TRAIN_LOSS_CROSS_ENTROPY ? k->p->label_smoothing : 0,
                             .delta = k->p->huber_delta,
                             .scale = scale,
                             .add = true,
                             .weight = batch->weight};
    if (loss_evaluate(k->pool, &opts, &y, &target, value, seed ? &dy : NULL, NULL, err))
        return -1;
    opts.rest = true;
    opts.pair = batch->pair;
    if (batch->weight && loss_evaluate(k->pool, &opts, &y, &target, &part, seed ? &dy : NULL, NULL, err))
        return -1;
    *value = (*value + part) / scale;
    return 0;
}

static int check_classes(const struct labels *k, const struct step_ctx *c, struct err *err)
{
    const int64_t classes = k->width == 1 ? 2 : k->width; /* one score says which of two */
    if (!k->classes)
        return 0;
    if (dataset_check_labels(c->data, classes, err))
        return -1;
    if (c->val_data && dataset_has_labels(c->val_data) && dataset_labels_are_classes(c->val_data) &&
        dataset_check_labels(c->val_data, classes, err))
        return err_wrap(err, "validation data: ");
    return 0;
}

int objective_labels_new(struct objective *o, const struct train_params *p, const struct step_ctx *c, struct err *err)
{
    *o = (struct objective){.values = values, .loss = loss, .labels = true};
    if (!c->data || !dataset_has_labels(c->data))
        return err_set(err, ERR_DATASET,
                       "the loss needs labels, and the dataset has none; train.distill learns without");
    struct labels *k = o->self = calloc(1, sizeof *k);
    int64_t wanted = 0;
    if (!k)
        return err_set(err, ERR_NOMEM, "out of memory");
    k->p = p;
    k->pool = c->pool;
    k->classes = dataset_labels_are_classes(c->data);
    k->loss = k->classes ? TRAIN_LOSS_CROSS_ENTROPY : TRAIN_LOSS_MSE;
    if (p->loss != TRAIN_LOSS_AUTO)
        k->loss = (enum train_loss)p->loss;
    if (!k->classes && k->loss == TRAIN_LOSS_CROSS_ENTROPY) {
        err_set(
            err, ERR_DATASET,
            "loss=cross_entropy needs classes, and the labels are float targets; mse, l1, huber and bce take those");
        goto fail;
    }
    if (dataset_bind(c->data, c->model, err) || (!k->classes && target_width(c, &wanted, err)) ||
        find_output(k, c, wanted, err) || check_classes(k, c, err))
        goto fail;
    return 0;
fail:
    objective_labels_free(o);
    return -1;
}

void objective_labels_free(struct objective *o)
{
    struct labels *k = o->self;
    if (k)
        tensor_fini(&k->target);
    free(k);
    o->self = NULL;
}
