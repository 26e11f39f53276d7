/* SPDX-License-Identifier: Apache-2.0
 * sample_gradients.h - the gradient of -log p(y | x) with respect to weights, sample by sample.
 * y          the dataset's label if `labels` and the sample has one that fits an output (a class, or target numbers),
 *            else drawn from the model's own softmax (seeded), so that no labels are needed. Where the model has no
 *            scores, a random sign for each output element takes the place of the loss. output_loss.h has the formulas.
 * Why singly the mean over samples of the gradient for drawn labels is zero at the model's own weights; squares and
 *            absolute values of single samples are not.
 * Cost       about three runs of the model a sample, however many weights. Results depend on model, samples and seed.
 * Errors     as of grad_new (ERR_OPERATOR: an operator without gradient, named), dataset_read; ERR_DATASET: a class
 *            beyond the scores. */
#ifndef PARED_STATS_SAMPLE_GRADIENTS_H
#define PARED_STATS_SAMPLE_GRADIENTS_H

#include "core/data/dataset.h"
#include "core/engine/grad.h"

struct sample_gradients {
    struct dataset *data;
    const int64_t *index; /* samples, one run each */
    int64_t n;
    struct pool *pool;
    uint64_t seed;
    bool labels;
    int64_t *unfit; /* with labels: gets how many samples have none that fits an output (drawn for); may be NULL */
    const uint32_t *weights; /* [n_weights] initializers, float32 or float64 */
    int n_weights;
    /* For differences of gradients: each sample runs `runs` times (0: once), before its run r weights may be changed
     * (grad_param_value). Without labels the loss is then the divergence from the output of a run -1, before which
     * they are to be put back as they were (output_loss_reference). NULL: no changes. */
    int runs;
    int (*before)(void *arg, struct grad *g, int run, struct err *err);
    /* After each run but -1: grad_param_gradient(g, i) is weight i's. Not 0 stops. */
    int (*each)(void *arg, const struct grad *g, struct err *err);
    void *arg;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *progress_arg;
};

int sample_gradients_run(const struct model *m, const struct sample_gradients *o, struct err *err);

#endif
