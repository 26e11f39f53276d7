/* SPDX-License-Identifier: Apache-2.0 */
#include "server/estimate.h"

#include <stdlib.h>

enum { SIZE_FACTOR = 2 };

static int by_seconds(const void *a, const void *b)
{
    const struct store_run *x = a, *y = b;
    return (x->seconds > y->seconds) - (x->seconds < y->seconds);
}

double estimate_median(struct store_run *runs, int count, int64_t bytes)
{
    if (count < ESTIMATE_MIN_SAMPLES)
        return -1;
    for (int i = 0; i < count; i++)
        if (runs[i].input_bytes > 0 && bytes > 0)
            runs[i].seconds *= (double)bytes / (double)runs[i].input_bytes;
    qsort(runs, (size_t)count, sizeof *runs, by_seconds);
    return (runs[count / 2].seconds + runs[(count - 1) / 2].seconds) / 2;
}

/* < 0: not known. */
static double run_time(struct store *store, const char *methods, int64_t bytes, int *samples)
{
    struct store_run runs[STORE_RUN_SAMPLES];
    struct err err = {0};
    *samples = 0;
    if (!methods || !methods[0] || bytes <= 0 || bytes > INT64_MAX / SIZE_FACTOR ||
        store_run_times(store, methods, bytes / SIZE_FACTOR, bytes * SIZE_FACTOR, runs, samples, &err) != 0)
        return -1;
    return estimate_median(runs, *samples, bytes);
}

/* < 0: not known. */
static double wait_time(struct store *store, int64_t workers, const struct store_job *job, double own_run_s,
                        struct arena *arena)
{
    struct store_ahead *ahead;
    struct err err = {0};
    int count, samples, running = 0;
    int64_t waiting = 0;
    double total = 0;
    if (workers <= 0 || store_queue_ahead(store, job->id, arena, &ahead, &count, &err) != 0)
        return -1;
    for (int i = 0; i < count; i++) {
        running += ahead[i].ran_s >= 0;
        waiting += ahead[i].ran_s < 0 ? ahead[i].count : 0;
    }
    /* Those of higher rank stand for those whose turn comes before: owners take turns, and of a long queue only a part
     * was looked at. */
    double before = job->queue_position > 0 ? (double)(job->queue_position - 1) : 0;
    double share = waiting > 0 ? before / (double)waiting : 0;
    if (before <= 0 && running < workers)
        return 0; /* a worker is free, and nothing comes first */
    if (waiting == 0 && before > 0) { /* others' turns, but nothing of higher rank: of those nothing is known */
        if (own_run_s < 0)
            return -1;
        total += own_run_s * before;
    }
    for (int i = 0; i < count; i++) {
        double run = run_time(store, ahead[i].methods, ahead[i].input_bytes, &samples), ran = ahead[i].ran_s;
        if (run < 0)
            return -1;
        if (ran < 0)
            total += run * (double)ahead[i].count * share;
        else if (run > ran) /* one that has run for longer than expected may end at any moment */
            total += run - ran;
    }
    return total / (double)workers;
}

struct estimate estimate_job(struct store *store, int64_t workers, const struct store_job *job, int64_t now_ms,
                             struct arena *arena)
{
    struct estimate out = {-1, -1, 0};
    if (job_state_ended(job->state))
        return out;
    double run = run_time(store, job->methods, job->input_bytes, &out.samples);
    if (job->state == JOB_QUEUED)
        out.wait_s = wait_time(store, workers, job, run, arena);
    double ran = job->state == JOB_RUNNING ? (double)(now_ms - job->started_at) / 1000 : 0;
    double wait = job->state == JOB_QUEUED ? out.wait_s : 0;
    if (run >= 0 && wait >= 0)
        out.eta_s = wait + (run > ran ? run - ran : 0);
    return out;
}
