/* SPDX-License-Identifier: Apache-2.0
 * optimizer.h - parameter updates as PyTorch's torch.optim makes them, number for number.
 *   SGD    g += wd p;  b = first step ? g : momentum b + g;  g = nesterov ? g + momentum b : b;  p -= lr g
 *   (momentum 0: p -= lr g)
 *   Adam   g += wd p;  m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;
 *          p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 *   AdamW  p *= 1 - lr wd;  then Adam without wd
 * State      one slot a parameter, made at its first update; in the parameter's own type (float32 or float64).
 * Life cycle optimizer_new -> optimizer_update for every parameter, once a step -> optimizer_free.
 * Threads    one caller; the pool is used inside, element by element: the same bits on every pool. Errors:
 *            ERR_NOMEM, ERR_INVALID. */
#ifndef PARED_TRAIN_OPTIMIZER_H
#define PARED_TRAIN_OPTIMIZER_H

#include "core/base/pool.h"
#include "core/tensor/tensor.h"

struct optimizer; /* opaque */

enum optimizer_kind { OPTIMIZER_SGD, OPTIMIZER_ADAM, OPTIMIZER_ADAMW, OPTIMIZER_KINDS };
extern const char *const optimizer_names[]; /* "sgd", "adam", "adamw", NULL */

struct optimizer_opts {
    enum optimizer_kind kind;
    double lr, weight_decay;
    double momentum;          /* SGD */
    bool nesterov;            /* SGD; needs momentum > 0 */
    double beta1, beta2, eps; /* Adam; all zero: 0.9, 0.999, 1e-8 */
};

/* NULL: out of memory, or a number out of its range (err). */
struct optimizer *optimizer_new(const struct optimizer_opts *opts, int n_params, struct err *err);
void optimizer_free(struct optimizer *o);
void optimizer_set_lr(struct optimizer *o, double lr); /* for schedules */
/* Parameter i moves against its gradient. decay: weight_decay is meant for this one too. */
int optimizer_update(struct optimizer *o, struct pool *pool, int i, struct tensor *value, const struct tensor *gradient,
                     bool decay, struct err *err);
/* The state of parameter i: momentum, or m and v (empty before the first update), and the updates so far. For checkpoints,
 * and for parameters whose shape changed: the caller may put other tensors there. Owned by the optimizer. */
struct optimizer_state {
    struct tensor *first, *second;
    int64_t *steps;
};
struct optimizer_state optimizer_state(struct optimizer *o, int i);
/* Parameter i has lost slices along `axis` (channels were pruned): its state keeps those at kept[0..n), n >= 1, in that
 * order. Without state nothing happens. On error the state is as it was. */
int optimizer_gather(struct optimizer *o, int i, int axis, const int64_t *kept, int64_t n, struct err *err);
/* Parameter i starts anew: no state, no updates. */
void optimizer_reset(struct optimizer *o, int i);
/* Bytes of all state. */
size_t optimizer_bytes(const struct optimizer *o);

#endif
