/* SPDX-License-Identifier: Apache-2.0
 * trainer_data.c - which samples are trained on and which decide, and how many go through the model at once. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/engine.h"
#include "core/train/trainer_impl.h"

enum { JUDGED_LEAST = 500 }; /* with `samples`, so many held back samples at least judge an epoch */

/* Do all outputs follow a batch of 2? */
static bool outputs_follow(struct plan *plan, int n)
{
    const struct type *types;
    struct shape *shape = calloc((size_t)n + 1, sizeof *shape);
    bool follow = shape != NULL;
    for (int i = 0; i < n && follow; i++) {
        plan_input_shape(plan, i, 2, 8, &shape[i]);
        follow = shape[i].rank > 0;
    }
    if (follow && plan_infer(plan, shape, &types, NULL))
        follow = false;
    for (int i = 0; i < plan_n_outputs(plan) && follow; i++) {
        const struct shape *s = &types[plan_output(plan, i)].shape;
        follow = s->rank < 1 || s->dim[0] == 2 || s->dim[0] < 0;
    }
    free(shape);
    return follow;
}

/* Samples a forward: what the model dictates, one where its outputs do not follow the batch, else `batch`. */
static int find_part(struct trainer *t, struct err *err)
{
    struct plan *plan = plan_new(t->c->model, &(struct plan_opts){.pool = t->c->pool}, err);
    if (!plan)
        return -1;
    const int n = plan_n_inputs(plan);
    int64_t fixed = 0;
    bool open = n == 0;
    for (int i = 0; i < n; i++) {
        struct shape s;
        plan_input_shape(plan, i, -1, -1, &s);
        open = open || s.rank < 1 || s.dim[0] < 0;
        if (s.rank > 0 && s.dim[0] > 0)
            fixed = s.dim[0];
    }
    t->part = t->p->batch;
    if (fixed > 0 && !open) {
        t->fixed = true;
        t->part = fixed;
    } else if (t->p->batch > 1 && !outputs_follow(plan, n)) {
        t->fixed = true;
        t->part = 1;
    }
    t->parts = t->fixed ? i64_max(1, t->p->batch / t->part) : 1;
    plan_free(plan);
    return 0;
}

static int64_t *all_of(int64_t n)
{
    int64_t *index = calloc((size_t)n + 1, sizeof *index);
    for (int64_t i = 0; index && i < n; i++)
        index[i] = i;
    return index;
}

static int choose_samples(struct trainer *t, struct err *err)
{
    const struct step_ctx *c = t->c;
    int64_t n = dataset_count(c->data), *all = NULL;
    int rc = -1;
    t->val_set = c->val_data ? c->val_data : c->data;
    t->val_own = !c->val_data;
    if (t->val_own) {
        if (split_dataset(&t->split, c->data, SPLIT_HELD_OUT, c->seed, err))
            return -1;
        n = t->split.n_rest;
        t->n_val = t->split.n_held;
        if (t->p->samples > 0)
            t->n_val = i64_min(t->n_val, i64_max(t->p->samples, JUDGED_LEAST));
    } else {
        t->n_val = dataset_count(c->val_data);
    }
    if (n < 1 || t->n_val < 1)
        return err_set(err, ERR_DATASET, "there are %" PRId64 " samples to train on and %" PRId64 " to judge by", n,
                       t->n_val);
    t->n_val_fed = t->fixed ? i64_ceil_div(t->n_val, t->part) * t->part : t->n_val;
    t->train_index = calloc((size_t)n + 1, sizeof *t->train_index);
    t->val_index = calloc((size_t)t->n_val_fed + 1, sizeof *t->val_index);
    all = all_of(i64_max(n, t->n_val));
    if (!t->train_index || !t->val_index || !all) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    t->n_train = split_spread(t->val_own ? t->split.rest : all, n, t->p->samples, t->train_index);
    if (t->val_own)
        split_spread(t->split.held, t->split.n_held, t->n_val, t->val_index);
    else
        memcpy(t->val_index, all, (size_t)t->n_val * sizeof *all);
    for (int64_t i = t->n_val; i < t->n_val_fed; i++)
        t->val_index[i] = t->val_index[(i - t->n_val) % t->n_val];
    rc = 0;
out:
    free(all);
    return rc;
}

static int choose_augment(struct trainer *t, struct augment *augment, struct err *err)
{
    struct faults faults = {0};
    int rc = 0;
    if (!t->p->augment)
        return augment_of_dataset(augment, t->c->data, err);
    augment_parse(augment, t->p->augment, "", &faults);
    if (faults.count)
        rc = err_set(err, ERR_INVALID, "augment%s: %s", faults.at[0].pointer, faults.at[0].detail);
    faults_fini(&faults);
    return rc;
}

static int open_loaders(struct trainer *t, struct err *err)
{
    struct augment augment = {0};
    struct step_ctx *c = t->c;
    if (choose_augment(t, &augment, err))
        return -1;
    if (augment.mixup > 0 && t->part == 1)
        warnings_add(c->warnings, "mixup mixes samples of one forward; here one goes through the model at a time, so "
                                  "nothing is mixed");
    t->classes = dataset_has_labels(t->val_set) && dataset_labels_are_classes(t->val_set);
    struct loader_opts opts = {.data = c->data,
                               .model = augment.any ? c->model : NULL,
                               .index = t->train_index,
                               .n = t->n_train,
                               .batch = t->part,
                               .shuffle = true,
                               .drop_last = true,
                               .labels = t->o->labels,
                               .augment = augment.any ? &augment : NULL,
                               .seed = c->seed};
    if (!(t->train = loader_new(&opts, err)))
        return -1;
    opts = (struct loader_opts){.data = t->val_set,
                                .index = t->val_index,
                                .n = t->n_val_fed,
                                .batch = t->part,
                                .labels = t->o->labels || t->classes,
                                .seed = c->seed};
    if (!(t->val = loader_new(&opts, err)))
        return -1;
    t->batches = loader_batches(t->train);
    t->per_epoch = i64_ceil_div(t->batches, t->parts);
    return 0;
}

int trainer_open_data(struct trainer *t, struct err *err)
{
    struct step_ctx *c = t->c;
    if (!c->data)
        return err_set(err, ERR_DATASET, "training needs a dataset");
    if (dataset_single_feed(c->data) || (c->val_data && dataset_single_feed(c->val_data)))
        return err_set(err, ERR_DATASET, "a folder of test data is one feed, not samples to train on");
    if (dataset_bind(c->data, c->model, err))
        return -1;
    if (c->val_data && dataset_bind(c->val_data, c->model, err))
        return err_wrap(err, "validation data: ");
    if (t->o->labels && c->val_data &&
        (!dataset_has_labels(c->val_data) ||
         dataset_labels_are_classes(c->val_data) != dataset_labels_are_classes(c->data)))
        return err_set(err, ERR_DATASET, "the validation data must have labels of the same kind as the dataset");
    if (find_part(t, err) || choose_samples(t, err))
        return -1;
    if (t->fixed && t->n_train < t->part)
        return err_set(err, ERR_DATASET,
                       "the model takes %" PRId64 " samples at a time, and there are %" PRId64 " to train on", t->part,
                       t->n_train);
    return open_loaders(t, err);
}

void trainer_close_data(struct trainer *t)
{
    loader_free(t->train);
    loader_free(t->val);
    split_fini(&t->split);
    free(t->train_index);
    free(t->val_index);
}
