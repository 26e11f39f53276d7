/* SPDX-License-Identifier: Apache-2.0
 * pair_gram.h - second moments of what products read in two versions of a model: a, the original, and b, changed so far.
 * Why        The outputs of a layer of b are to be those of a although its input has changed too: least squares of a's outputs on
 *            b's inputs needs the mean of x_b x_b^T and of x_a x_b^T.
 * Rows       as of gram.h, the same ones of both. Both models run over the samples side by side, a batch at a time.
 * Results    do not depend on threads; within a tile sums are in float, across tiles in double.
 * Memory     2 K^2 doubles a group and two tiles of rows for each node. Threads: one caller.
 * Errors     as of plan_new, plan_run, dataset_read. */
#ifndef PARED_STATS_PAIR_GRAM_H
#define PARED_STATS_PAIR_GRAM_H

#include "core/data/dataset.h"
#include "core/model/model.h"

struct pair_moments {
    int64_t groups, k, rows;
    double *bb;              /* [groups][k][k] mean of x_b x_b^T */
    double *ab;              /* [groups][k][k] mean of x_a x_b^T: a's element is the row */
    double *mean_a, *mean_b; /* [groups][k] */
    const char *why;         /* nothing is known of this node, and why; a static string */
};

struct pair_gram {
    const struct model *a, *b; /* with the same ids */
    struct dataset *data;
    struct pool *pool;
    int64_t samples;
    int64_t rows; /* about so many times K rows are taken of each node, spread evenly; 0: all */
    const uint32_t *nodes;
    int64_t n;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *progress_arg;
};
/* Bytes of one node; SIZE_MAX: no rows of it are known (gram_refusal says why). */
size_t pair_gram_bytes(const struct model *m, uint32_t node);
/* out: [n], to be freed by pair_moments_fini one by one, also on error. */
int pair_gram_run(const struct pair_gram *p, struct pair_moments *out, struct err *err);
void pair_moments_fini(struct pair_moments *m);

#endif
