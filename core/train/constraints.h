/* SPDX-License-Identifier: Apache-2.0
 * constraints.h - what notes on weights say (model.h), held true while they are trained.
 * mask       after every update: value *= mask. With "splice" the parameter keeps latent values and the network is given latent * mask.
 * codebook   the gradient of a centroid is the sum of its members' (Han et al. 2016); centroids are what the optimizer moves, members
 *            follow; a centroid of 0 stays 0. Membership is found once, from equal values.
 * Life cycle constraints_new for the trained values -> constraints_project after each update -> constraints_finish. Threads: one. */
#ifndef PARED_TRAIN_CONSTRAINTS_H
#define PARED_TRAIN_CONSTRAINTS_H

#include "core/base/pool.h"
#include "core/model/model.h"

struct constraints; /* opaque */
/* values: [n] initializers, value[i] their trained tensors as they start. ERR_MODEL: a note does not fit its weight. */
struct constraints *constraints_new(const struct model *m, const uint32_t *values, struct tensor *const *value, int n,
                                    struct pool *pool, struct err *err);
void constraints_free(struct constraints *c);
/* What the optimizer moves in place of parameter i, and its gradient there from the member's: the parameter itself where there is no
 * codebook and no splice. */
struct tensor *constraints_moved(struct constraints *c, int i);
int constraints_gradient(struct constraints *c, int i, const struct tensor *gradient, const struct tensor **moved,
                         struct err *err);
/* The parameter's tensor from what was moved. */
void constraints_project(struct constraints *c, int i);
/* Notes of the model are brought up to date (codebooks) after its weights were set. */
int constraints_finish(struct constraints *c, struct model *m, struct err *err);

#endif
