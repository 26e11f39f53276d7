/* SPDX-License-Identifier: Apache-2.0
 * estimate.h - how long a job will wait and run, from the jobs before it.
 * Why        A queue without times tells a person nothing. A model of costs would need constants of every machine; the
 *            past of this server has them.
 * Run time   of a job: the median over the latest succeeded jobs with the same methods in the same order, whose inputs
 *            are at most twice and at least half as large, each scaled by the ratio of the sizes. At least
 *            ESTIMATE_MIN_SAMPLES of them, else it is not known.
 * Wait       of a queued job: what is left of the running ones and the run times of all before it, over the number of
 *            workers. Not known as soon as one of them is not known: a sum of what is known would be no bound.
 * Errors     are not told: an estimate that cannot be made is absent. */
#ifndef PARED_SERVER_ESTIMATE_H
#define PARED_SERVER_ESTIMATE_H

#include "server/store.h"

enum { ESTIMATE_MIN_SAMPLES = 3 };

struct estimate {
    double wait_s; /* until a queued job starts; < 0: not known, or not queued */
    double eta_s;  /* until a queued or running job ends; < 0: not known, or it has ended */
    int samples;   /* jobs that the run time comes from */
};
/* `job` as store_job_get gives it; `workers` of this server; now_ms is the time (clock_epoch_ms). */
struct estimate estimate_job(struct store *store, int64_t workers, const struct store_job *job, int64_t now_ms,
                             struct arena *arena);
/* The median of `runs`, each scaled to `bytes`; < 0 when there are too few. Sorts them. */
double estimate_median(struct store_run *runs, int count, int64_t bytes);

#endif
