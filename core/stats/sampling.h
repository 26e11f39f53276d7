/* SPDX-License-Identifier: Apache-2.0
 * sampling.h - running a float model on a spread of samples and looking at its values: what calibration, bias correction,
 * Gram matrices and sensitivity have in common.
 * Order      samples are spread evenly over the dataset (dataset_spread) and come in the same order for any batch size.
 * Memory     one batch at a time, of SAMPLING_BYTES if a single sample does not need more: the peak is the same for ten
 *            samples and for a thousand. Threads: one caller; the pool is used inside.
 * Errors     ERR_DATASET: an empty set, an unreadable sample; as of plan_new and plan_run. */
#ifndef PARED_STATS_SAMPLING_H
#define PARED_STATS_SAMPLING_H

#include "core/data/dataset.h"
#include "core/engine/engine.h"

enum { SAMPLING_BATCH = 8, SAMPLING_BYTES = 16 << 20 };

struct sampling {
    struct dataset *data; /* bound to the model by the run */
    struct pool *pool;    /* borrowed; may be NULL */
    int64_t samples;      /* wanted; all if the set has fewer */
    const int64_t *index; /* the samples to choose from, n_index of them; NULL: all */
    int64_t n_index;
    int64_t batch;          /* most samples a run; 0: SAMPLING_BATCH, fewer where activations are large */
    plan_observer *observe; /* sees every value of the model that is not fused away; may be NULL */
    void *observe_arg;
    const bool
        *watch; /* [m->n_values] or NULL: what `observe` is to see, beside the inputs; the model then runs optimized */
    bool any_order; /* as plan_run_opts: with watch, images come as they lie */
    /* Before the first run: `total` samples will come, `fixed` of them a run where the model dictates it (the last batch is
     * then filled up with repeats), else 0. After each run: `done` samples were seen. Either may be NULL; not 0 stops. */
    int (*start)(void *arg, int64_t fixed, int64_t total, struct err *err);
    int (*ran)(void *arg, int64_t done, int64_t total, struct err *err);
    void *arg; /* of start and ran */
};

/* Returns how many samples were run, or -1. */
int64_t sampling_run(const struct model *m, const struct sampling *s, struct err *err);

#endif
