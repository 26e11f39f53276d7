/* SPDX-License-Identifier: Apache-2.0
 * calibrate.h - the interval each activation is quantized over, from what a model's values are on samples.
 * How        A plan_observer: say which values are to get an interval (calibration_want) or a range at least
 *            (calibration_watch), run the samples once with calibration_observe, call calibration_ran after each batch and
 *            calibration_finish after the last. The order of a sample's elements does not matter (plan_run_opts.any_order).
 * Memory     a struct range for every value; for wanted ones two sums (moving average) or a histogram of 64 KiB
 *            (percentile, entropy, mse), until calibration_finish. It does not grow with the samples.
 * Results    do not depend on the thread count, nor, run as calibration_batch says, on the batch size.
 * Threads    one a plan. Ownership: values are named by their ids in the plan's model; nothing of it is kept. */
#ifndef PARED_STATS_CALIBRATE_H
#define PARED_STATS_CALIBRATE_H

#include "core/stats/channel_ranges.h"
#include "core/stats/histogram.h"
#include "core/stats/ranges.h"

enum calibrator {
    CALIBRATE_MINMAX,         /* smallest to largest number seen */
    CALIBRATE_MOVING_AVERAGE, /* mean of the samples' smallest to mean of their largest numbers */
    CALIBRATE_PERCENTILE,     /* histogram_percentile */
    CALIBRATE_ENTROPY,        /* histogram_entropy */
    CALIBRATE_MSE,            /* histogram_mse */
    CALIBRATORS
};

struct calibration_opts {
    enum calibrator calibrator;
    double percentile; /* of CALIBRATE_PERCENTILE */
    int levels;        /* codes of the type that is quantized to */
    bool symmetric;    /* intervals [-a, a] */
    struct pool *pool; /* borrowed; may be NULL. The plan's own may be given */
};

struct calibration; /* opaque */

/* NULL: out of memory. */
struct calibration *calibration_new(uint32_t n_values, const struct calibration_opts *opts);
void calibration_free(struct calibration *c);
/* This value is to get an interval; no others do. Only float32 values can. */
void calibration_want(struct calibration *c, uint32_t value);
/* This value's range is to be known (calibration_range). */
void calibration_watch(struct calibration *c, uint32_t value);
/* [n_values] what was wanted or is to be watched: plan_opts.watch, for a plan that runs fused. Borrowed. */
const bool *calibration_watched(const struct calibration *c);
/* Most samples a run: 1 where every sample counts on its own, 0 for any number. */
int64_t calibration_batch(const struct calibration *c);
/* The model takes `fixed` samples a run (0 or 1: that does not matter) and `total` will be run: if the last batch is
 * filled up, rows beyond the last sample are not counted. */
void calibration_start(struct calibration *c, int64_t fixed, int64_t total);
/* A plan_observer; arg is the struct calibration. ERR_NOMEM is the only error. */
int calibration_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err);
/* `done` samples of all were run so far. */
void calibration_ran(struct calibration *c, int64_t done);
/* Choose the intervals, in parallel over the values, and free the histograms. */
void calibration_finish(struct calibration *c);

/* As ranges_get: what was seen of any value, exactly. */
const struct range *calibration_range(const struct calibration *c, uint32_t value);
/* The interval of a value; what was seen of it if it has none. {0, 0}: nothing was seen. */
struct clip calibration_clip(const struct calibration *c, uint32_t value);
/* Ranges of channels measured beside, for isa=avx2. Ownership moves to c; NULL: none. */
void calibration_keep_channels(struct calibration *c, struct channel_ranges *channels);
const struct channel_ranges *calibration_channels(const struct calibration *c);
/* The pool of its options, for what is made of the ranges; c may be NULL. */
struct pool *calibration_pool(const struct calibration *c);

#endif
