/* SPDX-License-Identifier: Apache-2.0
 * recover.h - repairing what structured pruning did, without labels and without training: the original network says what each kept
 * channel should be.
 * Models     `original` and `m` have the same ids (m was cut from a clone of it); which indices of a weight's axis are left is in its
 *            notes "kept.<axis>" (groups.h). Nodes that are gone or are no longer the same operator are left alone, and said so.
 * Methods    recover.bn_stats and recover.least_squares are rows of their own, for recipes; prune.channels and the others call these
 *            functions by `recover`. As a step the original is step_ctx.source.
 * Errors     ERR_DATASET, as of plan_run. Threads: one caller. */
#ifndef PARED_PRUNE_RECOVER_H
#define PARED_PRUNE_RECOVER_H

#include "core/step/method.h"

struct recover_opts {
    const struct model *original;
    struct dataset *data;
    struct dataset *val_data; /* for the ridge; NULL: samples of data are held back */
    int64_t samples;          /* of data; 0: 512 */
    struct pool *pool;
    uint64_t seed;
    struct layer_report *layers;
    struct warnings *warnings;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err);
    void *progress_arg;
};
/* Statistics of BatchNormalization re-estimated; per-channel mean and variance of folded products matched to the original's. */
int recover_bn_stats(struct model *m, const struct recover_opts *o, struct err *err);
/* Every product whose inputs changed is fitted anew, in topological order, its inputs captured from the network as repaired so far. */
int recover_least_squares(struct model *m, const struct recover_opts *o, struct err *err);

/* Choices of the parameter `recover`. auto: least_squares with data, else nothing, with a warning. */
enum recover_kind { RECOVER_AUTO, RECOVER_NONE, RECOVER_BN_STATS, RECOVER_LEAST_SQUARES };
extern const char *const recover_kinds[]; /* "auto", "none", "bn_stats", "least_squares", NULL */
int recover_run(enum recover_kind kind, struct model *m, const struct recover_opts *o, struct err *err);

#endif
