/* SPDX-License-Identifier: Apache-2.0
 * output_loss.h - dL/d(output) of one sample, for scores by gradients, with labels and without.
 * Labels     a class: L = -log p(class) of the first output that is scores or probabilities of classes. Numbers
 *            (targets): the first output of as many elements, L = sum (y - t)^2 / 2. Outputs that fit no label are
 *            seeded as without.
 * Drawn      no labels: the class is drawn from the model's own softmax, so that the mean of squared gradients is the
 *            Fisher information; where there are no scores, a random sign for each element of every output: the
 *            expected squared change of the output.
 * Reference  no labels and second derivatives: the divergence from the model's own output, KL(q || p) for scores (its
 *            Hessian is the Fisher information without any draw), sum (y - y0)^2 / 2 otherwise.
 * Batch      the model may take `batch` samples at once, the same one repeated; the first row is seeded, the others
 *            stay zero. Threads: one. */
#ifndef PARED_STATS_OUTPUT_LOSS_H
#define PARED_STATS_OUTPUT_LOSS_H

#include "core/base/rng.h"
#include "core/engine/grad.h"

/* After grad_forward. */
void output_loss_draw(struct grad *g, int64_t batch, struct rng *rng);
/* labels: as dataset_read gives them for `batch` times the sample. 1: done; 0: no output fits them, nothing was
 * seeded; -1: ERR_DATASET, the class is none of the output's. */
int output_loss_labels(struct grad *g, int64_t batch, const struct tensor *labels, struct err *err);

/* The outputs of one forward, kept. */
struct output_reference {
    float **row; /* [n] the first row of each output; NULL: carries no gradient */
    int n;
};
int output_reference_take(struct output_reference *r, struct grad *g, int64_t batch, struct err *err);
void output_reference_fini(struct output_reference *r);
void output_loss_reference(struct grad *g, int64_t batch, const struct output_reference *r);

#endif
