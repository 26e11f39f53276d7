/* SPDX-License-Identifier: Apache-2.0
 * reference.h - what a model says of chosen samples, kept, so that many changed versions of it can be judged against it, each
 * by one run.
 * Judged     one output: the first with scores (a row a sample, and one axis of at least 2 beside it), else the first of
 *            floats. Scores are taken as they are if every row of the original is non-negative and sums to one, else by softmax.
 * Figures    see struct closeness. Memory: the judged output of all samples, at most 256 MiB.
 * Errors     as of plan_new, dataset_read, plan_run; ERR_MODEL: there is no output of floats. Threads: one caller. */
#ifndef PARED_STATS_REFERENCE_H
#define PARED_STATS_REFERENCE_H

#include "core/data/dataset.h"
#include "core/engine/engine.h"

struct reference; /* opaque */

struct reference_opts {
    struct dataset *data;
    const int64_t *index; /* samples; copied */
    int64_t n;
    struct pool *pool;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *progress_arg;
};

struct closeness {
    int64_t samples;
    bool classes;        /* the judged output has scores: kl and disagreement are there */
    double kl;           /* mean Kullback-Leibler divergence of the model's scores from the original's, in nats */
    double disagreement; /* share of samples whose largest score has another place */
    double top1;         /* share of samples whose label has the largest score; NAN without labels of classes */
    double noise;        /* sum (a - b)^2 / sum a^2 */
};

/* NULL on error. */
struct reference *reference_new(const struct model *original, const struct reference_opts *opts, struct err *err);
void reference_free(struct reference *r);
/* How many samples, multiply-accumulates a sample (1e6 if they cannot be counted). The outputs of fewer samples than asked for are
 * kept where all would not fit: the first ones, at least one. */
int64_t reference_samples(const struct reference *r);
double reference_macs(const struct reference *r);
/* Of the last comparison, for each sample: sum (a - b)^2 over the mean of all samples' sum a^2. Borrowed. */
const double *reference_noise(const struct reference *r);
/* The original against itself: its top1. */
const struct closeness *reference_own(const struct reference *r);
/* Runs m over the same samples, the first `limit` of them (0: all). */
int reference_compare(struct reference *r, const struct model *m, int64_t limit, struct closeness *out,
                      struct err *err);

#endif
