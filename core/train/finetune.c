/* SPDX-License-Identifier: Apache-2.0
 * finetune.c - train.finetune: the model learns from labels (trainer.h does the work). */
#include "core/train/optimizer.h"
#include "core/train/trainer.h"

struct finetune_params {
    struct train_params train;
};

static void check(const void *params, const char *pointer, struct faults *faults)
{
    train_params_check(&((const struct finetune_params *)params)->train, pointer, faults);
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct finetune_params *p = c->params;
    struct objective o;
    if (objective_labels_new(&o, &p->train, c, err))
        return -1;
    const int rc = train_run(c, &p->train, &o, NULL, err);
    objective_labels_free(&o);
    return rc;
}

static const struct param rows[] = {TRAIN_PARAM_ROWS(finetune_params), {0}};

METHOD(train_finetune) = {
    .name = "train.finetune",
    .summary = "weights trained on labelled data",
    .doc =
        "Gradient descent on the loss of labels: cross entropy for classes, squared error for targets, or what `loss` "
        "names. What pruning removed stays zero, centroids of shared weights move as one. Each epoch is judged on "
        "validation data (val_dataset, else a tenth of the dataset that is not trained on), and the best one is kept; "
        "the model as it came in is one of the candidates. BatchNormalization takes the batch's statistics or stays "
        "frozen; batch_norm=insert puts it into folded models while they train. Steps in `steps` (scheduled methods) "
        "run between updates with a rising share of their work. Same data and seed: same bytes, at any thread count.",
    .params = rows,
    .params_size = sizeof(struct finetune_params),
    .needs = NEEDS_DATA | NEEDS_LABELS | NEEDS_RUN | NEEDS_GRADIENTS,
    .check = check,
    .run = run,
    .holds = HOLDS_SCHEDULED,
};
