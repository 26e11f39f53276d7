/* SPDX-License-Identifier: Apache-2.0
 * loader.h - batches for training: shuffled, augmented and read ahead by a thread of its own.
 * Why        The trainer keeps all cores busy; decoding pictures between its batches would leave them idle.
 * Order      every epoch a permutation drawn from (seed, epoch); without shuffle as in `index`. The last batch is left
 *            out when it is not full, if drop_last and there is another one.
 * Life cycle loader_new -> for each epoch: loader_start, loader_next until 0 (or loader_stop) -> loader_free. The
 *            dataset is read only between loader_start and the end of that epoch: others may read it in between (it
 *            takes one reader at a time).
 * Ownership  a batch is the loader's, valid until the next call. Errors: as dataset_read, with the sample; ERR_NOMEM.
 * Threads    one caller. Batches do not depend on timing. */
#ifndef PARED_DATA_LOADER_H
#define PARED_DATA_LOADER_H

#include "core/data/augment.h"

struct loader; /* opaque */

struct loader_opts {
    struct dataset *data;      /* bound to the model */
    const struct model *model; /* it is bound to; for the image input. NULL without augmentation */
    const int64_t *index;      /* [n] samples; copied. NULL: all */
    int64_t n, batch;
    bool shuffle, drop_last, labels; /* labels: are wanted */
    const struct augment *augment;   /* copied; NULL: none */
    uint64_t seed;
    int ahead; /* batches read ahead; 0: 2 */
};

struct loader_batch {
    struct tensor *in; /* [n_in] the model's fed inputs, [n, ...] */
    int n_in;
    struct tensor labels; /* as dataset_read; empty without */
    const int64_t *index; /* [n] samples */
    int64_t n, epoch;
    bool augmented; /* inputs are not those of the dataset */
    /* mixup: sample i is weight[i] of itself and 1 - weight[i] of the sample at place pair[i] of the batch. NULL: not
     * mixed */
    const float *weight;
    const int32_t *pair;
};

struct loader *loader_new(const struct loader_opts *opts, struct err *err);
void loader_free(struct loader *l);
int64_t loader_batches(const struct loader *l); /* an epoch */
int loader_start(struct loader *l, int64_t epoch, struct err *err);
/* The same, from batch `first` of that epoch on: a trainer that let others read the dataset in the middle of an epoch
 * (loader_stop) goes on where it was. */
int loader_start_at(struct loader *l, int64_t epoch, int64_t first, struct err *err);
/* 1: *batch; 0: the epoch is over; -1. */
int loader_next(struct loader *l, const struct loader_batch **batch, struct err *err);
void loader_stop(struct loader *l); /* ends an epoch early; waits for the reader */

#endif
