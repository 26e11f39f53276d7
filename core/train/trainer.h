/* SPDX-License-Identifier: Apache-2.0
 * trainer.h - the training loop: epochs of batches, updates, validation, the best epoch kept.
 * Model      c->model is trained in place: at the end its initializers hold the trained values (value_set_weight), also
 *            of running statistics. Graph and ids stay (batch_norm=insert puts BatchNormalization in and folds it away
 *            again).
 * Parameters weights of products, norms and embeddings, biases, and other float constants of more than one element that
 *            an operator with a gradient adds or multiplies, of nodes that include / exclude select and a gradient
 *            reaches (train_parameters.h). Nothing to train: ERR_MODEL.
 *            A parameter whose gradient was zero in every update so far (no loss reaches it) is not moved, nor decayed,
 *            and named in the report.
 * Batches    loader.h, prefetched and augmented; order and augmentation depend on seed, epoch and sample alone, dropout
 *            on seed, epoch and place of the batch. A model of a fixed batch is run several times an update; its
 *            statistics are frozen then, with a warning. While statistics are frozen Dropout drops nothing.
 * Decisions  validation data: c->val_data, else a stratified tenth of c->data held back (split.h), never trained on
 *            (with `samples`, at most as many of it, or 500). Judged after every epoch: top-1 with classes (ties: the
 *            lower loss), else the loss. A tie with the model as it came in goes to the trained one. The model as it
 *            came in is judged too where nothing was pruned since (a worse one is never given back for a good one):
 *            what is kept is the best of all.
 * Notes      "mask", "splice" and "codebook" are held true after every update (constraints.h).
 * Nested     steps of c (c->n_steps) run at the start of training (ramp 1/n) and then spread evenly over the first half
 *            of the updates (one call in about 50, at least 4, at most 64), c->ramp rising to 1; the model is written
 *            back before and read again after. State of the optimizer is kept where a parameter's shape is the same,
 *            cut along the notes "kept.<axis>" where it is not. Epochs before the ramp is 1 are never the best.
 * Checkpoint after every epoch, if c->checkpoint: weights, optimizer, moving average, best so far, and what nested steps
 *            were given; a job that is tried again goes on behind its last epoch and gives the same bytes.
 * NaN        A loss that is not finite ends the step at that batch: the best epoch so far stays (ERR_NON_FINITE if
 *            there is none better than the model as it came), with a warning that names epoch, batch and learning rate.
 * Objectives the batches of validation have epoch -1, are never augmented, and their `index` counts in c->val_data
 *            where that was given, else in c->data (a cache must keep the two apart). Of a model with a fixed batch the
 *            last rows of the last validation batch are repeats. `loss` with seed false is called in evaluation mode
 *            (grad_set_training(false)) and must not need more than grad_forward; it must give the same number for the
 *            same batch. Outputs of g: the model's own in their order, then the extra values (outputs[i] is the place
 *            of the i-th; one that is an output already has that place). `value` is the loss without `scale`.
 *            train_scores gives the value before a closing Softmax or Sigmoid: cross entropy and soft targets are taken
 *            there.
 * Report     c->details["training"]: {"parameters", "samples", "validation": {"samples", "split"}, "epochs": [{"epoch",
 *            "lr", "loss", "val_loss", "val_top1"?,
 *            "seconds", "images_per_s"}], "kept_epoch", "stopped"?}; the same objects go to c->metric as they come.
 *            Times are in metrics and report only: they never change results.
 * Threads    one caller; c->pool inside, the loader's own thread. Results do not depend on the number of threads. */
#ifndef PARED_TRAIN_TRAINER_H
#define PARED_TRAIN_TRAINER_H

#include "core/data/loader.h"
#include "core/engine/grad.h"
#include "core/train/train_params.h"

/* What training minimizes: written by train.finetune (labels), train.distill (a teacher), or sums of such. */
struct objective {
    void *self;
    /* The graph is made or made anew (nested steps change shapes): values whose tensors and gradients it wants beside
     * the graph's outputs, appended to `extra` [room for OBJECTIVE_EXTRA_MAX], *n of them. NULL: none. */
    int (*values)(struct objective *o, const struct model *m, uint32_t *extra, int *n, struct err *err);
    /* The loss of a batch after grad_forward, mean over its samples; with `seed`, dL/d(output) times `scale` is added
     * to the seeds. `outputs`: place of the i-th extra value among g's outputs. `scale`: for batches run in parts. Not
     * finite: the value says so, no error. */
    int (*loss)(struct objective *o, struct grad *g, const int *outputs, const struct loader_batch *batch, bool seed,
                double scale, double *value, struct err *err);
    /* Parameters of its own (regressors of hints): they are updated as the model's are, and kept in checkpoints. May be
     * 0. Gradients are added to by `loss` and zeroed by the trainer. */
    int n_params;
    struct tensor *param, *gradient; /* [n_params] float32 */
    /* A batch as the loader gives it must be seen before the forward runs (teacher outputs). May be NULL. */
    int (*prepare)(struct objective *o, const struct loader_batch *batch, struct err *err);
    bool labels; /* it reads the batch's labels */
};
enum { OBJECTIVE_EXTRA_MAX = 64 };

/* Changes of the model around training (train.qat): what the trainer calls beside. All may be NULL. */
struct train_hooks {
    void *self;
    /* Before the first update of an epoch (also of the one a resumed job goes on with). epoch: from 0. */
    int (*begin_epoch)(struct train_hooks *h, struct grad *g, int64_t epoch, struct err *err);
    /* After an update, before the next forward: e.g. scales kept positive. A value's tensor is grad_param_value(g,
     * grad_param_index(g, value)). Also called once before the first forward. */
    int (*updated)(struct train_hooks *h, struct grad *g, int64_t epoch, struct err *err);
    /* The value's gradient is multiplied by this (LSQ). Asked when the graph is made. What is no weight of a product
     * gets no weight decay (with decay=weights). */
    double (*gradient_scale)(struct train_hooks *h, uint32_t value);
    bool (*is_parameter)(struct train_hooks *h, uint32_t value,
                         bool otherwise); /* more or fewer parameters than train_parameters finds */
};

/* Trains c->model. ERR_DATASET, ERR_MODEL, ERR_OPERATOR (no gradient, named), ERR_NON_FINITE, ERR_CANCELED. */
int train_run(struct step_ctx *c, const struct train_params *p, struct objective *objective, struct train_hooks *hooks,
              struct err *err);

/* The logits of output `value`: what a closing Softmax or LogSoftmax over the classes (or, if `sigmoid`, a Sigmoid)
 * reads; else `value`. */
uint32_t train_scores(const struct model *m, uint32_t value, bool sigmoid);

/* The objective of labels: p->loss on the first output that fits them. Checked against model and dataset at once:
 * ERR_DATASET with the class and the width. Freed by objective_labels_free. */
int objective_labels_new(struct objective *o, const struct train_params *p, const struct step_ctx *c, struct err *err);
void objective_labels_free(struct objective *o);

#endif
