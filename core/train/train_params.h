/* SPDX-License-Identifier: Apache-2.0
 * train_params.h - what all training methods are told, and the rows that say so: train.finetune, train.distill and
 * train.qat have them all, then their own. */
#ifndef PARED_TRAIN_TRAIN_PARAMS_H
#define PARED_TRAIN_TRAIN_PARAMS_H

#include "core/step/method.h"

enum train_schedule { SCHEDULE_COSINE, SCHEDULE_ONE_CYCLE, SCHEDULE_STEP, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };
/* auto: cross entropy for classes, squared error for targets. bce: sigmoid cross entropy of every score (labels of 0
 * and 1 a score: multi-label; classes: one-hot). */
enum train_loss {
    TRAIN_LOSS_AUTO,
    TRAIN_LOSS_CROSS_ENTROPY,
    TRAIN_LOSS_MSE,
    TRAIN_LOSS_L1,
    TRAIN_LOSS_HUBER,
    TRAIN_LOSS_BCE
};
/* auto: train where there is BatchNormalization and the batch is at least 16, else frozen. insert: after convolutions
 * without, which folded models need to be trained with statistics; folded away again at the end. */
enum train_batch_norm { BATCH_NORM_AUTO, BATCH_NORM_TRAIN, BATCH_NORM_FROZEN, BATCH_NORM_INSERT };
enum train_keep { KEEP_BEST, KEEP_LAST };      /* the epoch whose weights stay */
enum train_decay { DECAY_WEIGHTS, DECAY_ALL }; /* weight_decay: weights of products only, or norms and biases too */
extern const char *const train_schedules[], *const train_losses[], *const train_batch_norms[],
                                                                       *const train_keeps[], *const train_decays[];

struct train_params {
    int64_t epochs, batch, samples; /* samples: of the dataset an epoch; 0: all */
    int optimizer;                  /* enum optimizer_kind */
    double lr, momentum, weight_decay, beta1, beta2;
    bool nesterov, lr_given;
    int schedule;
    double warmup;           /* epochs of linear rise from 0 */
    double step_at, step_by; /* step: lr *= step_by each step_at epochs */
    int loss;
    double label_smoothing, huber_delta;
    double l1, l2;      /* l1 |w| and l2/2 w^2 added to the loss, weights of products */
    double group_lasso; /* of ||w of a channel||_2 sqrt(n of it), output channels of products */
    double bn_sparsity; /* of |scale| of BatchNormalization (network slimming, Liu 2017) */
    double clip;        /* gradients are scaled down to this norm, over all parameters; 0: not */
    int batch_norm, keep, decay;
    double ema;                    /* moving average of weights with this decay is what is judged and kept; 0: none */
    int64_t patience;              /* epochs without a better figure before training stops; 0: never */
    struct globs include, exclude; /* nodes whose weights are trained; others are frozen */
    const json_t *augment;         /* augment.h; NULL: as the dataset's description says. {}: none */
};

/* Rows for a method's table: the field `train` of struct S is a struct train_params. Defined in train_params.c's terms;
 * each row's text is in the macro so that all methods say the same. */
#define TRAIN_PARAM(S, f) .name = #f, .offset = offsetof(struct S, train.f)
#define TRAIN_LR_OF_SGD "0.01 for sgd, 0.001 for adam and adamw if not given"
#define TRAIN_PARAM_ROWS(S) TRAIN_PARAM_ROWS_OF(S, "\"sgd\"", TRAIN_LR_OF_SGD, "0")
/* With another optimizer by default, what is said of the learning rate, and another largest gradient by default. */
#define TRAIN_PARAM_ROWS_OF(S, default_optimizer, lr_doc, default_clip)                                                \
    {TRAIN_PARAM(S, epochs),                                                                                           \
     .kind = PARAM_INT,                                                                                                \
     .def = "3",                                                                                                       \
     .min = 1,                                                                                                         \
     .max = 10000,                                                                                                     \
     .doc = "times the data is gone through"},                                                                         \
        {TRAIN_PARAM(S, batch), .kind = PARAM_INT, .def = "128", .min = 1, .max = 65536, .doc = "samples an update"},  \
        {TRAIN_PARAM(S, samples),                                                                                      \
         .kind = PARAM_INT,                                                                                            \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e12,                                                                                                  \
         .doc = "of the dataset, spread evenly; 0: all"},                                                              \
        {TRAIN_PARAM(S, optimizer), .kind = PARAM_ENUM, .def = default_optimizer, .choices = optimizer_names,          \
         .doc = "how weights move"},                                                                                   \
        {TRAIN_PARAM(S, lr),                                                                                           \
         .kind = PARAM_NUMBER,                                                                                         \
         .min = 0,                                                                                                     \
         .max = 100,                                                                                                   \
         .above_min = true,                                                                                            \
         .given = offsetof(struct S, train.lr_given) + 1,                                                              \
         .doc = "largest learning rate; " lr_doc},                                                                     \
        {TRAIN_PARAM(S, momentum), .kind = PARAM_NUMBER, .def = "0.9", .min = 0, .max = 1,                             \
         .below_max = true,        .doc = "of sgd"},                                                                   \
        {TRAIN_PARAM(S, nesterov), .kind = PARAM_BOOL, .def = "false", .doc = "sgd looks ahead by its momentum"},      \
        {TRAIN_PARAM(S, beta1), .kind = PARAM_NUMBER,      .def = "0.9", .min = 0, .max = 1,                           \
         .below_max = true,     .doc = "of adam and adamw"},                                                           \
        {TRAIN_PARAM(S, beta2), .kind = PARAM_NUMBER,      .def = "0.999", .min = 0, .max = 1,                         \
         .below_max = true,     .doc = "of adam and adamw"},                                                           \
        {TRAIN_PARAM(S, weight_decay),                                                                                 \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0.0001",                                                                                              \
         .min = 0,                                                                                                     \
         .max = 10,                                                                                                    \
         .doc = "pull to zero, as the optimizer makes it"},                                                            \
        {TRAIN_PARAM(S, decay), .kind = PARAM_ENUM, .def = "\"weights\"", .choices = train_decays,                     \
         .doc = "what weight_decay pulls: the weights of products, or norms and biases too"},                          \
        {TRAIN_PARAM(S, schedule), .kind = PARAM_ENUM, .def = "\"cosine\"", .choices = train_schedules,                \
         .doc = "how the learning rate goes"},                                                                         \
        {TRAIN_PARAM(S, warmup),                                                                                       \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 10000,                                                                                                 \
         .doc = "epochs in which the learning rate rises from 0"},                                                     \
        {TRAIN_PARAM(S, step_at),                                                                                      \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "1",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 10000,                                                                                                 \
         .above_min = true,                                                                                            \
         .doc = "schedule=step: epochs between drops"},                                                                \
        {TRAIN_PARAM(S, step_by),                                                                                      \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0.1",                                                                                                 \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .above_min = true,                                                                                            \
         .doc = "schedule=step: factor of a drop"},                                                                    \
        {TRAIN_PARAM(S, loss), .kind = PARAM_ENUM, .def = "\"auto\"", .choices = train_losses,                         \
         .doc = "of outputs and labels"},                                                                              \
        {TRAIN_PARAM(S, label_smoothing), .kind = PARAM_NUMBER, .def = "0", .min = 0, .max = 1, .below_max = true,     \
         .doc = "of cross entropy"},                                                                                   \
        {TRAIN_PARAM(S, huber_delta),                                                                                  \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "1",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e6,                                                                                                   \
         .above_min = true,                                                                                            \
         .doc = "loss=huber: where it turns from square to linear"},                                                   \
        {TRAIN_PARAM(S, l1), .kind = PARAM_NUMBER, .def = "0",                                                         \
         .min = 0,           .max = 1e3,           .doc = "times the sum of |w| is added to the loss"},                \
        {TRAIN_PARAM(S, l2), .kind = PARAM_NUMBER, .def = "0",                                                         \
         .min = 0,           .max = 1e3,           .doc = "times half the sum of w^2 is added to the loss"},           \
        {TRAIN_PARAM(S, group_lasso),                                                                                  \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e3,                                                                                                   \
         .doc = "times the norms of output channels is added to the loss"},                                            \
        {TRAIN_PARAM(S, bn_sparsity),                                                                                  \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e3,                                                                                                   \
         .doc = "times the sum of |scale| of BatchNormalization is added to the loss (network slimming)"},             \
        {TRAIN_PARAM(S, clip), .kind = PARAM_NUMBER,                                                                   \
         .def = default_clip,  .min = 0,                                                                               \
         .max = 1e9,           .doc = "largest norm of all gradients together; 0: any"},                               \
        {TRAIN_PARAM(S, batch_norm), .kind = PARAM_ENUM, .def = "\"auto\"", .choices = train_batch_norms,              \
         .doc = "how BatchNormalization runs"},                                                                        \
        {TRAIN_PARAM(S, ema),                                                                                          \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .below_max = true,                                                                                            \
         .doc = "decay of a moving average of the weights, which is then kept; 0: none"},                              \
        {TRAIN_PARAM(S, keep), .kind = PARAM_ENUM, .def = "\"best\"", .choices = train_keeps,                          \
         .doc = "the epoch that is kept, judged on validation data"},                                                  \
        {TRAIN_PARAM(S, patience),                                                                                     \
         .kind = PARAM_INT,                                                                                            \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 10000,                                                                                                 \
         .doc = "epochs without a better one before it stops; 0: never"},                                              \
        {TRAIN_PARAM(S, augment), .kind = PARAM_JSON,                                                                  \
         .doc =                                                                                                        \
             "flip, crop_pad, resized_crop, jitter, rotate, cutout, mixup; not given: as the dataset says, {}: none"}, \
        {TRAIN_PARAM(S, include), .kind = PARAM_GLOBS, .doc = "nodes whose weights are trained; empty: all"},          \
    {                                                                                                                  \
        TRAIN_PARAM(S, exclude), .kind = PARAM_GLOBS, .doc = "nodes whose weights stay as they are"                    \
    }

/* Faults of several parameters together (nesterov without momentum, augment's keys, ...). */
void train_params_check(const struct train_params *p, const char *pointer, struct faults *faults);

#endif
