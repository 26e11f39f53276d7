/* SPDX-License-Identifier: Apache-2.0
 * Three kinds of threads meet at one lock:
 * - a worker sleeps until a job may be there, claims it and runs attempt_run, which blocks until the child is gone;
 * - the beater beats for every running job every third of a lease, in a thread of its own, so that a worker that hashes
 *   gigabytes of artifacts does not lose its lease; its answers become orders to the attempt;
 * - all others poke: they wake an idle worker, or the beater when a job is to be canceled.
 * An order is an atomic word and an eventfd that interrupts the worker's poll(). */
#include "server/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/pool.h"
#include "server/attempt.h"
#include "server/machine.h"
#include "server/metrics.h"

enum { POLL_MS = 1000, ERROR_PAUSE_MS = 1000, MIN_BEAT_MS = 50 };

struct worker {
    struct workers *pool;
    uv_thread_t thread;
    bool started;
    bool claiming; /* asks the catalogue; under the pool's lock */
    int wake_fd;
    char name[80];
    char job_id[ID_SIZE]; /* "" = idle; under the pool's lock, as are the two below */
    int64_t attempt;
    double lease_end; /* monotonic; when the last good beat ends */
    atomic_int order;
};

struct workers {
    struct server *server;
    int count;
    struct worker *at;
    int64_t threads, memory_bytes; /* of one job */
    uv_thread_t beater;
    bool beater_started;
    uv_mutex_t lock;
    uv_cond_t work, beat, settled; /* idle workers; the beater; a drain that waits for claims under way */
    uint64_t queued;               /* counts pokes: a worker that saw fewer than now looks again */
    bool cancels;                  /* the beater is to ask at once */
    bool drain, stop;
};

/* ---- orders -------------------------------------------------------------------------------------------------------
 */

/* Only a worse order replaces an order: what is lost stays lost. */
static void give_order(struct worker *w, enum attempt_order order)
{
    int old = atomic_load(&w->order);
    while (old < (int)order && !atomic_compare_exchange_weak(&w->order, &old, (int)order)) {
    }
    uint64_t one = 1;
    if (write(w->wake_fd, &one, sizeof one) < 0)
        log_warn("worker %s could not be woken", w->name);
}

static void clear_wakes(struct worker *w)
{
    uint64_t count;
    while (read(w->wake_fd, &count, sizeof count) > 0) {
    }
}

/* ---- the beater ---------------------------------------------------------------------------------------------------
 */

static void beat_one(struct workers *pool, struct worker *w)
{
    char id[ID_SIZE];
    uv_mutex_lock(&pool->lock);
    memcpy(id, w->job_id, sizeof id);
    int64_t attempt = w->attempt;
    uv_mutex_unlock(&pool->lock);
    if (!id[0])
        return;
    struct err err = {0};
    int64_t lease_ms = pool->server->config->lease_ms;
    double asked = clock_seconds();
    enum store_beat beat = store_job_beat(pool->server->store, id, attempt, lease_ms, &err);
    uv_mutex_lock(&pool->lock);
    if (w->attempt == attempt && !strcmp(w->job_id, id)) { /* else it ended meanwhile */
        if (beat == STORE_BEAT_OK || beat == STORE_BEAT_CANCEL)
            w->lease_end = asked + (double)lease_ms / 1e3;
        if (beat == STORE_BEAT_CANCEL)
            give_order(w, ATTEMPT_CANCEL);
        if (beat == STORE_BEAT_LOST || (beat == STORE_BEAT_ERROR && clock_seconds() > w->lease_end))
            give_order(w, ATTEMPT_LOST);
    }
    uv_mutex_unlock(&pool->lock);
    if (beat == STORE_BEAT_ERROR) {
        metrics_add(METRIC_STORE_ERRORS_BEAT, 1);
        log_warn("no beat for job %s: %s", id, err.msg);
    }
}

static void beater_main(void *arg)
{
    struct workers *pool = arg;
    int64_t every_ms = pool->server->config->lease_ms / 3;
    if (every_ms < MIN_BEAT_MS)
        every_ms = MIN_BEAT_MS;
    uv_mutex_lock(&pool->lock);
    while (!pool->stop) {
        if (!pool->cancels)
            uv_cond_timedwait(&pool->beat, &pool->lock, (uint64_t)every_ms * 1000000);
        pool->cancels = false;
        uv_mutex_unlock(&pool->lock);
        for (int i = 0; i < pool->count; i++)
            beat_one(pool, &pool->at[i]);
        uv_mutex_lock(&pool->lock);
    }
    uv_mutex_unlock(&pool->lock);
}

/* ---- a worker -----------------------------------------------------------------------------------------------------
 */

/* The claim found a job, which counts as busy from here, or none. Under the pool's lock. */
static void claim_settled(struct worker *w)
{
    w->claiming = false;
    uv_cond_broadcast(&w->pool->settled);
}

static void run(struct worker *w, struct arena *arena, const struct store_claim *claim, double claimed)
{
    struct workers *pool = w->pool;
    struct attempt_ctx ctx = {.server = pool->server,
                              .arena = arena,
                              .claim = claim,
                              .order = &w->order,
                              .wake_fd = w->wake_fd,
                              .threads = pool->threads,
                              .memory_bytes = pool->memory_bytes};
    clear_wakes(w);
    uv_mutex_lock(&pool->lock);
    atomic_store(&w->order, pool->stop ? ATTEMPT_RELEASE : ATTEMPT_GO_ON);
    snprintf(w->job_id, sizeof w->job_id, "%s", claim->id);
    claim_settled(w);
    w->attempt = claim->attempt;
    w->lease_end = claimed + (double)pool->server->config->lease_ms / 1e3;
    pool->cancels = true; /* a cancel between the claim and now had no worker to tell */
    uv_cond_signal(&pool->beat);
    if (pool->stop)
        give_order(w, ATTEMPT_RELEASE); /* leaves a wake behind, for the child that starts */
    uv_mutex_unlock(&pool->lock);
    metrics_add(METRIC_WORKERS_BUSY, 1);
    if (claim->attempt == 1)
        metrics_observe(METRIC_QUEUE_SECONDS, (double)claim->waited_ms / 1e3);
    attempt_run(&ctx);
    metrics_add(METRIC_WORKERS_BUSY, -1);
    uv_mutex_lock(&pool->lock);
    w->job_id[0] = 0;
    uv_mutex_unlock(&pool->lock);
}

/* Claim and run one job; whether there was one. */
static bool work_once(struct worker *w)
{
    const struct config *config = w->pool->server->config;
    struct err err = {0};
    struct store_claim claim;
    if (admission_check(w->pool->server, &err)) /* a job started now would fail for want of disk or memory */
        return false;
    struct arena *arena = arena_new();
    double claimed = clock_seconds();
    int rc = arena ? store_job_claim(w->pool->server->store, w->name, config->lease_ms, arena, &claim, &err)
                   : err_set(&err, ERR_NOMEM, "out of memory");
    if (rc > 0)
        run(w, arena, &claim, claimed);
    arena_free(arena);
    if (rc < 0) {
        metrics_add(METRIC_STORE_ERRORS_CLAIM, 1);
        log_warn("no job could be claimed: %s", err.msg);
    }
    return rc > 0;
}

static void worker_main(void *arg)
{
    struct worker *w = arg;
    struct workers *pool = w->pool;
    uv_mutex_lock(&pool->lock);
    while (!pool->stop) {
        uint64_t seen = pool->queued;
        if (!pool->drain) {
            w->claiming = true;
            uv_mutex_unlock(&pool->lock);
            bool worked = work_once(w);
            uv_mutex_lock(&pool->lock);
            claim_settled(w);
            if (worked)
                continue;
        }
        /* the clock, too: jobs that failed come back at their time */
        if (!pool->stop && (seen == pool->queued || pool->drain))
            uv_cond_timedwait(&pool->work, &pool->lock, (uint64_t)POLL_MS * 1000000);
    }
    uv_mutex_unlock(&pool->lock);
}

/* ---- the pool -----------------------------------------------------------------------------------------------------
 */

static void share_machine(struct workers *pool)
{
    const struct config *config = pool->server->config;
    int64_t workers = pool->count > 0 ? pool->count : 1;
    pool->threads = config->threads ? config->threads : pool_default_threads() / workers;
    if (pool->threads < 1)
        pool->threads = 1;
    pool->memory_bytes = config->job_memory_bytes ? config->job_memory_bytes : machine_memory_bytes() / 4 * 3 / workers;
}

static int start_threads(struct workers *pool, struct err *err)
{
    for (int i = 0; i < pool->count; i++) {
        struct worker *w = &pool->at[i];
        w->pool = pool;
        w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        snprintf(w->name, sizeof w->name, "%s:%ld:%d", pool->server->node, (long)getpid(), i);
        if (w->wake_fd < 0)
            return err_set_errno(err, ERR_INTERNAL, "cannot start a worker");
    }
    if (uv_thread_create(&pool->beater, beater_main, pool))
        return err_set(err, ERR_INTERNAL, "cannot start a thread");
    pool->beater_started = true;
    for (int i = 0; i < pool->count; i++) {
        if (uv_thread_create(&pool->at[i].thread, worker_main, &pool->at[i]))
            return err_set(err, ERR_INTERNAL, "cannot start a thread");
        pool->at[i].started = true;
    }
    return 0;
}

struct workers *workers_start(struct server *server, struct err *err)
{
    struct workers *pool = calloc(1, sizeof *pool);
    int count = (int)server->config->workers;
    if (!pool || !(pool->at = calloc((size_t)count + 1, sizeof *pool->at))) {
        free(pool);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    pool->server = server;
    pool->count = count;
    metrics_set(METRIC_WORKERS, count);
    for (int i = 0; i < count; i++)
        pool->at[i].wake_fd = -1;
    uv_mutex_init(&pool->lock);
    uv_cond_init(&pool->work);
    uv_cond_init(&pool->beat);
    uv_cond_init(&pool->settled);
    share_machine(pool);
    int requeued = 0;
    if (store_job_reap(server->store, server->node, &requeued, err) || start_threads(pool, err)) {
        workers_stop(pool);
        workers_free(pool);
        return NULL;
    }
    if (requeued) {
        metrics_add(METRIC_JOBS_REQUEUED, requeued);
        log_info("%d jobs of the last run were running: queued again, or ended", requeued);
    }
    return pool;
}

void workers_poke(struct workers *pool, enum store_change change)
{
    if (change == STORE_CHANGE_JOB)
        return;
    uv_mutex_lock(&pool->lock);
    if (change == STORE_CHANGE_QUEUED) {
        pool->queued++;
        uv_cond_signal(&pool->work);
    } else {
        pool->cancels = true;
        uv_cond_signal(&pool->beat);
    }
    uv_mutex_unlock(&pool->lock);
}

void workers_drain(struct workers *pool)
{
    uv_mutex_lock(&pool->lock);
    pool->drain = true;
    for (int i = 0; i < pool->count; i++)
        while (pool->at[i].claiming)
            uv_cond_wait(&pool->settled, &pool->lock);
    uv_mutex_unlock(&pool->lock);
}

int workers_busy(struct workers *pool)
{
    int busy = 0;
    uv_mutex_lock(&pool->lock);
    for (int i = 0; i < pool->count; i++)
        busy += pool->at[i].job_id[0] != 0;
    uv_mutex_unlock(&pool->lock);
    return busy;
}

void workers_stop(struct workers *pool)
{
    if (!pool)
        return;
    uv_mutex_lock(&pool->lock);
    pool->stop = pool->drain = true;
    for (int i = 0; i < pool->count; i++)
        if (pool->at[i].job_id[0])
            give_order(&pool->at[i], ATTEMPT_RELEASE);
    uv_cond_broadcast(&pool->work);
    uv_cond_broadcast(&pool->beat);
    uv_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->count; i++)
        if (pool->at[i].started)
            uv_thread_join(&pool->at[i].thread);
    if (pool->beater_started)
        uv_thread_join(&pool->beater);
}

void workers_free(struct workers *pool)
{
    if (!pool)
        return;
    for (int i = 0; i < pool->count; i++)
        if (pool->at[i].wake_fd >= 0)
            close(pool->at[i].wake_fd);
    uv_cond_destroy(&pool->settled);
    uv_cond_destroy(&pool->beat);
    uv_cond_destroy(&pool->work);
    uv_mutex_destroy(&pool->lock);
    free(pool->at);
    free(pool);
}
