/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.h - how much a change of each weight would cost, all weights in one pass over samples, by gradients.
 * Fisher     mean over samples of (sum g * delta)^2, g the gradient of -log p(y | x) with y drawn from the model's own softmax, so
 *            that no labels are needed: twice the Kullback-Leibler divergence the change causes, to second order
 *            (Dong et al., "HAWQ-V2", 2020, has the relatives). Where there are no scores, y is a random sign for each output
 *            element: the expected squared change of the output.
 * Cost       about three runs of the model a sample, however many weights.
 * Results    depend on model, samples and seed. Errors: as of grad_new (ERR_OPERATOR: an operator without gradient), dataset_read. */
#ifndef PARED_STATS_SENSITIVITY_H
#define PARED_STATS_SENSITIVITY_H

#include "core/data/dataset.h"
#include "core/engine/grad.h"

struct fisher_opts {
    struct dataset *data;
    const int64_t *index; /* samples, one run each */
    int64_t n;
    struct pool *pool;
    uint64_t seed;
    const uint32_t *weights;    /* [n_weights] initializers, float32 */
    const struct tensor *delta; /* [n_weights] float32, as the weights: changed - original */
    int n_weights;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *progress_arg;
};

/* score: [n_weights]. */
int sensitivity_fisher(const struct model *m, const struct fisher_opts *o, double *score, struct err *err);

#endif
