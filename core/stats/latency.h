/* SPDX-License-Identifier: Apache-2.0
 * latency.h - how long one run takes: percentiles over repeated runs, of one plan or of several timed alternately.
 * Why        Two models timed one after the other measure the machine's mood; run in turn (a, b, a, b, ...) they
 *            share it.
 * How        Warm-up, then rounds until the time budget is used, at least min_runs each. Percentiles by nearest rank.
 *            The load of all CPUs during the measurement is recorded, this process's own work not counted. */
#ifndef PARED_STATS_LATENCY_H
#define PARED_STATS_LATENCY_H

#include <jansson.h>

#include "core/engine/engine.h"

struct latency_opts {
    int min_runs;    /* 0: 10 */
    int max_runs;    /* 0: 1000 */
    double budget_s; /* total over all plans, warm-up included; 0: 2 s. Min runs are made even when they take longer */
    int64_t batch;   /* for generated inputs; 0: 1 */
    int threads;     /* reported only: the plans' pool decides */
    uint64_t seed;
    const struct tensor *in; /* inputs for all plans; NULL: generated (generate.h) */
    /* Called between runs; not 0: stop with err set. May be NULL. */
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err);
    void *progress_arg;
};

struct latency {
    double p50_ms, p90_ms, p99_ms, min_ms;
    int runs, threads;
    int64_t batch;
    double other_load; /* mean number of cores that others kept busy meanwhile; NAN: unknown */
};

/* Percentiles and the smallest of n >= 1 times in ms, which are put in order; the other fields but `runs` are left zero. */
struct latency latency_summarize(double *ms, int n);
/* out[n_plans]. */
int latency_measure(struct plan *const *plans, int n_plans, const struct latency_opts *opts, struct latency *out,
                    struct err *err);
/* {"p50", "p90", "p99", "runs", "threads", "batch", "other_load"} in ms (report.json); new reference. */
json_t *latency_json(const struct latency *l);

#endif
