/* SPDX-License-Identifier: Apache-2.0
 * trainer_impl.h - what the parts of the trainer share (trainer.h is the interface).
 * Parts      trainer.c             train_run: what is done in which order
 *            trainer_data.c        which samples are trained and judged on, loaders
 *            trainer_graph.c       the model as a gradient plan, its parameters, writing them back
 *            trainer_epoch.c       updates
 *            trainer_judge.c       validation, moving average, the best epoch
 *            trainer_nested.c      steps run between updates, state of the optimizer after them
 *            trainer_checkpoint.c  the state in a file
 *            trainer_report.c      rows, details, warnings
 * Indices    parameter i is i in params, grad, constraints and `own`; learned ones are first. The optimizer's slots are
 *            the learned parameters, then those of the objective. */
#ifndef PARED_TRAIN_TRAINER_IMPL_H
#define PARED_TRAIN_TRAINER_IMPL_H

#include "core/base/hash.h"
#include "core/data/split.h"
#include "core/train/constraints.h"
#include "core/train/optimizer.h"
#include "core/train/train_parameters.h"
#include "core/train/trainer.h"

struct trainer_figures {
    double loss, top1;
    bool has_top1, there; /* there: it was judged */
};

/* One trained value. */
struct trainer_own {
    struct tensor first;   /* as it came into the step, shared */
    struct tensor best;    /* of the best epoch; empty: none yet */
    struct tensor average; /* moving; empty without ema */
    struct tensor live;    /* the trained numbers while the average is in their place */
    double gradient_scale;
    bool reached; /* its gradient was not zero at least once */
};

struct trainer_nested {
    int64_t at;           /* before this update */
    struct tensor *value; /* [n] the model's weights as they were given to the steps; kept for checkpoints */
    uint32_t *id;
    int n;
};

struct trainer {
    struct step_ctx *c;
    const struct train_params *p;
    struct objective *o;
    struct train_hooks *h;

    /* trainer_data.c */
    struct split split;
    int64_t *train_index, *val_index;
    int64_t n_train, n_val, n_val_fed; /* fed: with repeats at the end, for a model of a fixed batch */
    struct dataset *val_set;
    bool val_own; /* held back from c->data */
    bool classes; /* validation data have classes */
    struct loader *train, *val;
    int64_t part;      /* samples of a forward */
    bool fixed;        /* the model takes so many only */
    int64_t parts;     /* forwards of an update */
    int64_t batches;   /* forwards of an epoch */
    int64_t per_epoch; /* updates */

    /* trainer_graph.c */
    struct model *graph; /* a clone with the objective's values as outputs */
    struct grad *grad;
    struct train_parameters params;
    struct trainer_own *own; /* [params.n] */
    struct constraints *constraints;
    int outputs[OBJECTIVE_EXTRA_MAX];
    bool batch_statistics; /* BatchNormalization takes the batch's moments */
    bool training_mode;    /* forwards of updates run in it: Dropout drops */
    bool inserted;         /* batch_norm=insert did something */

    struct optimizer *optimizer;
    double lr, base_lr; /* of this update; the largest one */
    int64_t updates;    /* done */
    int64_t averaged;   /* updates the moving average has seen */

    /* trainer_nested.c */
    struct trainer_nested *nested;
    int n_nested, nested_done;

    /* trainer_judge.c */
    struct trainer_figures came, best;      /* the model as it came in; of the best epoch */
    int64_t best_epoch, since_best;         /* 0: none, or the model as it came in */
    int64_t epoch;                          /* done */
    const char *stopped;                    /* why it ended early */
    char stop_text[300], stopped_text[100]; /* stopped_text: of a checkpoint */
    double penalty;                         /* of regularizers, summed over the updates of an epoch */

    char key[SHA256_HEX]; /* of checkpoints */
    json_t *epochs;       /* rows of the report */
};

/* trainer.c */
int trainer_open_optimizer(struct trainer *t, struct err *err);
/* trainer_data.c */
int trainer_open_data(struct trainer *t, struct err *err);
void trainer_close_data(struct trainer *t);
/* trainer_graph.c */
int trainer_open_graph(struct trainer *t, struct err *err);
void trainer_close_graph(struct trainer *t);
/* The trained values into c->model. latent: of spliced weights what lies below the mask too. */
int trainer_store(struct trainer *t, bool latent, struct err *err);
/* trainer_epoch.c. 1: it was stopped by a number that is not finite (t->stopped). */
int trainer_epoch(struct trainer *t, double *loss, double *seconds, struct err *err);
/* trainer_judge.c */
int trainer_judge(struct trainer *t, struct trainer_figures *f, struct err *err);
bool trainer_better(const struct trainer_figures *a, const struct trainer_figures *b);
void trainer_average(struct trainer *t); /* after an update */
/* Puts the average in place of the trained numbers, and back. */
int trainer_swap_average(struct trainer *t, bool in, struct err *err);
int trainer_keep_best(struct trainer *t, struct err *err);
int trainer_restore_best(struct trainer *t, struct err *err);
/* trainer_nested.c */
int trainer_plan_nested(struct trainer *t, struct err *err);
bool trainer_nested_due(const struct trainer *t);
int trainer_run_nested(struct trainer *t, struct err *err);
int trainer_call_nested(struct trainer *t, struct err *err); /* without anything around: for replaying */
void trainer_close_nested(struct trainer *t);
double trainer_ramp(const struct trainer *t); /* of the calls so far; 1 without nested steps */
/* trainer_checkpoint.c. Resume: 1 if a state was taken up. */
int trainer_save(struct trainer *t, struct err *err);
int trainer_resume(struct trainer *t, struct err *err);
/* trainer_report.c */
int trainer_report_epoch(struct trainer *t, double loss, double seconds, const struct trainer_figures *f,
                         struct err *err);
int trainer_report(struct trainer *t, struct err *err);

/* A seed of its own for whatever is told apart by `what`. */
static inline uint64_t trainer_mix(uint64_t seed, uint64_t what)
{
    uint64_t x = seed + 0x9e3779b97f4a7c15u * (what + 1);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
