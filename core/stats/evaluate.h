/* SPDX-License-Identifier: Apache-2.0
 * evaluate.h - a model on a dataset: metrics, outputs, and two models compared on the same samples.
 * Batches    As many samples a run as opts.batch says, as far as the model lets: a fixed first dim of the inputs
 *            decides, and then the last
 *            batch is filled up with its last sample and what comes of the filling is cut off again. A model whose
 *            outputs do not
 *            follow the batch runs with 1. Batches are halved until the activations fit in opts.batch_bytes.
 * Memory     One batch at a time. Errors: as of dataset_read and plan_run, with the sample numbers. */
#ifndef PARED_STATS_EVALUATE_H
#define PARED_STATS_EVALUATE_H

#include <jansson.h>

#include "core/data/dataset.h"
#include "core/engine/engine.h"
#include "core/stats/classify.h"
#include "core/stats/fidelity.h"

struct evaluate_opts {
    struct pool *pool;       /* borrowed; may be NULL */
    size_t max_memory_bytes; /* as plan_opts */
    int64_t batch;           /* most samples a run; 0: 32 */
    size_t batch_bytes;      /* most bytes of activations of more than one sample; 0: 256 MiB */
    int64_t limit;           /* first N samples only; 0: all */
    const int64_t *index;    /* these samples instead (dataset_spread), n_index of them; NULL: in order */
    int64_t n_index;
    const struct plan_run_opts *run;                                          /* observer (ranges.h); NULL: none */
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0: stop, err set; may be NULL */
    void *progress_arg;
};

/* One batch as it ran: n samples from position `first` in the order of evaluation. in: as fed, `fed` >= n samples;
 * out: plan_n_outputs
 * tensors, cut to n rows; labels: cut to n, an empty tensor without labels. All borrowed. */
struct evaluate_batch {
    int64_t first;
    int n, fed;
    const struct tensor *in, *out, *labels;
};
typedef int evaluate_fn(void *arg, const struct evaluate_batch *batch, struct err *err);

/* Run a plan of `m` over the dataset (bound here). fn may be NULL (observer only). opts may be NULL; opts->pool is
 * the plan's business.
 * Returns the number of samples, or -1. */
int64_t evaluate_each(struct plan *plan, const struct model *m, struct dataset *ds, const struct evaluate_opts *opts,
                      evaluate_fn *fn, void *arg, struct err *err);

/* Add a batch to metrics: the output that pairs with the labels is judged. Nothing happens without labels or when
 * metrics is NULL. */
int evaluate_judge(struct task_metrics *metrics, const struct evaluate_batch *batch, int n_out, struct err *err);
/* Metrics of a model on a labelled dataset (the first output that pairs with the labels is judged). New struct
 * task_metrics, to be freed
 * by task_metrics_free; a dataset without labels gives one with no samples. NULL on error. */
struct task_metrics *evaluate_model(const struct model *m, struct dataset *ds, const struct evaluate_opts *opts,
                                    struct err *err);

/* Outputs of b against those of a on the dataset (bound to a), or on `generated` batches of seeded inputs when ds is
 * NULL. Outputs are
 * paired by name, else by position. NULL on error. If metrics_a / metrics_b are not NULL they get the metrics of the
 * same runs (freed by
 * the caller; untouched on error), so that before, after and fidelity cost one pass. */
struct evaluate_compare_opts {
    int64_t generated_batches; /* 0: 4 */
    uint64_t seed;
    struct task_metrics **metrics_a, **metrics_b;
    /* Not NULL: gets the fidelity of every value that nodes of both models make under one name, in the order a runs;
     * with it opts->run is
     * not used. Values whose shapes differ have no elements. */
    struct fidelity **layers;
    struct plan *plan_a,
        *plan_b; /* of a and b, borrowed; NULL: made here. Not with layers, which no plan may fuse away */
};
struct fidelity *evaluate_compare(const struct model *a, const struct model *b, struct dataset *ds,
                                  const struct evaluate_opts *opts, const struct evaluate_compare_opts *compare,
                                  struct err *err);
/* Input i of a plan from a tensor made for another model: the same bytes, or converted when the plan's model declares another
 * floating-point type (float16 inputs of a result). *to is empty before, and the caller's after. */
int evaluate_feed(const struct plan *plan, int i, const struct tensor *from, struct tensor *to, struct err *err);
/* The first n of `fed` rows of t as a borrowed view; all of t when its axis 0 is something else. */
void evaluate_cut_rows(struct tensor *cut, const struct tensor *t, int64_t n, int64_t fed);
/* The batch a plan's model takes per run (see Batches above), at most `wanted` unless a larger one is fixed. in:
 * inputs of one sample, or NULL:
 * as declared. *fixed (may be NULL): the model takes this batch only. */
int64_t evaluate_batch_size(struct plan *plan, const struct tensor *in, int64_t wanted, bool *fixed);

#endif
