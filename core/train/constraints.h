/* SPDX-License-Identifier: Apache-2.0
 * constraints.h - what notes on weights say (model.h), held true while they are trained.
 * mask       the gradient is masked, and after every update: value *= mask.
 * splice     (with a mask) the optimizer moves latent values, and gradients reach all of them; the network is given
 *            latent * mask (Guo et al. 2016).
 * codebook   the gradient of a centroid is the sum of its members' (Han et al. 2016); centroids are what the optimizer
 *            moves, members follow; a centroid of 0 stays 0. Membership is found once, from equal values. A mask holds
 *            beside it.
 * Use        constraints_new for the trained values as they start -> every update: constraints_gradient, an optimizer's
 *            move of constraints_moved, constraints_project -> constraints_finish.
 * Ownership  `value` tensors are the caller's and must stay where they are. Threads: one caller; sums are in a fixed
 *            order: the same bits on every pool. */
#ifndef PARED_TRAIN_CONSTRAINTS_H
#define PARED_TRAIN_CONSTRAINTS_H

#include "core/base/pool.h"
#include "core/model/model.h"

struct constraints; /* opaque */
/* values: [n] initializers, value[i] their trained tensors as they start; they are projected at once. ERR_MODEL: a note
 * does not fit its weight. */
struct constraints *constraints_new(const struct model *m, const uint32_t *values, struct tensor *const *value, int n,
                                    struct pool *pool, struct err *err);
void constraints_free(struct constraints *c);
/* What the optimizer moves in place of parameter i: the parameter itself where there is no codebook and no splice. */
struct tensor *constraints_moved(struct constraints *c, int i);
/* The gradient there, from the parameter's, which is changed (masked) in place. Borrowed until the next call for i. */
struct tensor *constraints_gradient(struct constraints *c, int i, struct tensor *gradient);
/* The parameter's tensor from what was moved. */
void constraints_project(struct constraints *c, int i);
/* A parameter's tensor elsewhere (a moving average) made to fit its mask. */
void constraints_apply(struct constraints *c, int i, struct tensor *value);
/* Notes of the model are brought up to date (codebooks) after its weights were set. */
int constraints_finish(struct constraints *c, struct model *m, struct err *err);

#endif
