/* SPDX-License-Identifier: Apache-2.0
 * batchnorm_insert.h - BatchNormalization put behind convolutions that have none, for training with statistics, and
 * folded away.
 * Why        Exported models have it folded into their convolutions; trained as they are they are fragile (a step
 *            changes the scale of all that follows), and pruned ones cannot adapt their statistics.
 * How        mean and variance of every channel are measured on samples; scale = sqrt(variance + epsilon) and bias =
 *            mean make the new node compute its own input: the function does not change. Behind float32 Conv of
 *            constant weight that only it reads and whose output is no output of the graph and read by no
 *            BatchNormalization. Not where the weight has a codebook: folding would break it.
 * Folding    batchnorm_insert_fold takes exactly those away again. Ids of the model's own nodes and values stay.
 *            Threads: one. */
#ifndef PARED_TRAIN_BATCHNORM_INSERT_H
#define PARED_TRAIN_BATCHNORM_INSERT_H

#include "core/step/method.h"

struct batchnorm_insert_opts {
    struct dataset *data; /* bound here */
    const int64_t *index; /* samples to measure on, n of them */
    int64_t n;
    struct pool *pool;
};
/* How many were put in, or -1. */
int batchnorm_insert(struct model *m, const struct batchnorm_insert_opts *o, struct err *err);
int batchnorm_insert_fold(struct model *m, struct err *err);

#endif
