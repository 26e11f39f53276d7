/* SPDX-License-Identifier: Apache-2.0
 * Alternating rounds under one time budget. What others do to the machine meanwhile is read from /proc/stat: busy
 * time of all CPUs, less our
 * own, over the time that passed. */
#include "core/stats/latency.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/stats/evaluate.h"
#include "core/stats/generate.h"

struct load {
    double all_s, own_s, at_s; /* seconds of CPU */
    bool known;
};

static struct load read_load(void)
{
    struct load l = {.at_s = clock_seconds()};
    unsigned long long user, nice, system, idle, iowait, irq, softirq;
    struct rusage own;
    FILE *f = fopen("/proc/stat", "re");
    double tick = (double)sysconf(_SC_CLK_TCK);
    if (f &&
        fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &iowait, &irq, &softirq) ==
            7 &&
        !getrusage(RUSAGE_SELF, &own)) {
        l.known = true;
        l.all_s = (double)(user + nice + system + irq + softirq) / tick;
        l.own_s = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                  1e-6 * (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec);
    }
    if (f)
        fclose(f);
    return l;
}

static double others(const struct load *a, const struct load *b)
{
    double wall = b->at_s - a->at_s;
    if (!a->known || !b->known || wall < 0.05)
        return NAN;
    double busy = ((b->all_s - a->all_s) - (b->own_s - a->own_s)) / wall;
    return busy > 0 ? busy : 0;
}

static int ascending(const void *pa, const void *pb)
{
    double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

/* Nearest rank: the smallest of n sorted values that at least a share of q is not above. */
static double percentile(const double *sorted, int n, double q)
{
    int rank = (int)ceil(q * n);
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

struct latency latency_summarize(double *ms, int n)
{
    qsort(ms, (size_t)n, sizeof *ms, ascending);
    return (struct latency){.p50_ms = percentile(ms, n, 0.50), .p90_ms = percentile(ms, n, 0.90),
                            .p99_ms = percentile(ms, n, 0.99), .min_ms = ms[0], .runs = n};
}

struct timing {
    struct plan *plan;
    struct tensor *own_in; /* generated, or as the plan declares them */
    const struct tensor *in;
    struct tensor *out;
    double *ms;
};

static int run_once(struct timing *t, double *ms, struct err *err)
{
    double start = clock_seconds();
    int rc = plan_run(t->plan, t->in, t->out, NULL, err);
    *ms = (clock_seconds() - start) * 1e3;
    for (int i = 0; i < plan_n_outputs(t->plan) && !rc; i++)
        tensor_fini(&t->out[i]);
    return rc;
}

static int prepare(struct timing *t, struct plan *plan, const struct latency_opts *o, int max_runs, struct err *err)
{
    t->plan = plan;
    t->out = calloc((size_t)plan_n_outputs(plan) + 1, sizeof *t->out);
    t->ms = calloc((size_t)max_runs + 1, sizeof *t->ms);
    t->own_in = calloc((size_t)plan_n_inputs(plan) + 1, sizeof *t->own_in);
    if (!t->out || !t->ms || !t->own_in)
        return err_set(err, ERR_NOMEM, "out of memory");
    t->in = t->own_in;
    struct generate_opts g = {.batch = o->batch, .seed = o->seed};
    if (!o->in)
        return generate_inputs(plan, &g, t->own_in, err);
    int rc = 0;
    for (int i = 0; i < plan_n_inputs(plan) && rc == 0; i++)
        rc = evaluate_feed(plan, i, &o->in[i], &t->own_in[i], err);
    return rc;
}

static void finish(struct timing *t)
{
    for (int i = 0; t->plan && t->own_in && i < plan_n_inputs(t->plan); i++)
        tensor_fini(&t->own_in[i]);
    free(t->own_in);
    free(t->out);
    free(t->ms);
}

/* Rounds of one run each. Returns how many rounds were made, -1 on error. */
static int time_rounds(struct timing *t, int n, const struct latency_opts *o, int max_runs, double end_s,
                       struct err *err)
{
    int min_runs = o->min_runs > 0 ? o->min_runs : 10, done = 0;
    while (done < max_runs && (done < min_runs || clock_seconds() < end_s)) {
        for (int i = 0; i < n; i++)
            if (run_once(&t[i], &t[i].ms[done], err))
                return -1;
        done++;
        if (o->progress && o->progress(o->progress_arg, done, max_runs, err))
            return -1;
    }
    return done;
}

int latency_measure(struct plan *const *plans, int n_plans, const struct latency_opts *opts, struct latency *out,
                    struct err *err)
{
    struct latency_opts o = opts ? *opts : (struct latency_opts){0};
    int max_runs = o.max_runs > 0 ? o.max_runs : 1000, runs = -1;
    if (max_runs < o.min_runs)
        max_runs = o.min_runs;
    double end_s = clock_seconds() + (o.budget_s > 0 ? o.budget_s : 2), warm;
    struct timing *t = calloc((size_t)n_plans + 1, sizeof *t);
    if (!t)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_plans; i++)
        if (prepare(&t[i], plans[i], &o, max_runs, err))
            goto out;
    for (int i = 0; i < n_plans; i++) /* the first run binds and touches memory, the second warms the caches */
        if (run_once(&t[i], &warm, err) || run_once(&t[i], &warm, err))
            goto out;
    struct load before = read_load();
    runs = time_rounds(t, n_plans, &o, max_runs, end_s, err);
    struct load after = read_load();
    for (int i = 0; i < n_plans && runs > 0; i++) {
        out[i] = latency_summarize(t[i].ms, runs);
        out[i].threads = o.threads > 0 ? o.threads : 1;
        out[i].batch = o.batch > 0 ? o.batch : 1;
        out[i].other_load = others(&before, &after);
    }
out:
    for (int i = 0; i < n_plans; i++)
        finish(&t[i]);
    free(t);
    return runs > 0 ? 0 : -1;
}

json_t *latency_json(const struct latency *l)
{
    json_t *o = json_pack("{s:f, s:f, s:f, s:i, s:i, s:I}", "p50", l->p50_ms, "p90", l->p90_ms, "p99", l->p99_ms,
                          "runs", l->runs, "threads", l->threads, "batch", (json_int_t)l->batch);
    if (isfinite(l->other_load))
        json_object_set_new(o, "other_load", json_real(l->other_load));
    return o;
}
