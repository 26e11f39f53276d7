/* SPDX-License-Identifier: Apache-2.0
 * split.h - which samples of a dataset are for learning and which are held back for decisions (max_drop, early stop,
 * search), when no validation set was given.
 * How        With classes: of each class a share, seeded, so that small classes are in both parts (a class of one sample
 *            stays with the learning part). Without: a seeded share of all. Each part keeps the order of the dataset.
 * Results    depend on the dataset, share and seed alone. Memory: two int64_t a sample.
 * Errors     ERR_DATASET: fewer than two samples; ERR_NOMEM. */
#ifndef PARED_DATA_SPLIT_H
#define PARED_DATA_SPLIT_H

#include "core/data/dataset.h"

#define SPLIT_HELD_OUT 0.1 /* the share that all methods hold back */

struct split {
    int64_t *rest, *held; /* indices of samples */
    int64_t n_rest, n_held;
};

/* label: [n] classes, or NULL. share in (0, 1): round(share * n) are held, at least 1 of n >= 2. */
int split_make(struct split *s, const int64_t *label, int64_t n, double share, uint64_t seed, struct err *err);
/* The same of a dataset, by its classes if it has some. */
int split_dataset(struct split *s, const struct dataset *ds, double share, uint64_t seed, struct err *err);
void split_fini(struct split *s);

/* `wanted` of n indices spread evenly over them, in order; all if wanted <= 0 or >= n. Returns how many went to `out`,
 * which has room for n. */
int64_t split_spread(const int64_t *index, int64_t n, int64_t wanted, int64_t *out);

#endif
