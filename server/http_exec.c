/* SPDX-License-Identifier: Apache-2.0
 * http_exec.c - two lanes of threads that may block, the parking place of long polls, and a clock.
 *
 * Suspending comes before handing over: the executor may resume the connection before exec_submit returns. A connection
 * that is suspended when the daemon stops would abort the process, so `suspended` counts them and `closing` forbids new
 * ones. A parked exchange waits for http_wake(key). So that no change is lost between the handler's look and the
 * parking, wakes are counted: if one came meanwhile, whatever its key, the handler just runs again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "core/base/clock.h"
#include "server/http_internal.h"

static void push(struct lane_queue *lane, struct exchange *x)
{
    pthread_mutex_lock(&lane->lock);
    x->next = NULL;
    *lane->tail = x;
    lane->tail = &x->next;
    pthread_cond_signal(&lane->ready);
    pthread_mutex_unlock(&lane->lock);
}

static struct exchange *pop(struct lane_queue *lane)
{
    pthread_mutex_lock(&lane->lock);
    while (!lane->head && !lane->stop)
        pthread_cond_wait(&lane->ready, &lane->lock);
    struct exchange *x = lane->head;
    if (x) {
        lane->head = x->next;
        if (!lane->head)
            lane->tail = &lane->head;
    }
    pthread_mutex_unlock(&lane->lock);
    return x;
}

static struct lane_queue *lane_of(struct exchange *x)
{
    bool slow = x->task == TASK_RUN && x->req.route && x->req.route->lane == LANE_SLOW;
    return slow ? &x->http->slow : &x->http->fast;
}

bool exec_submit(struct exchange *x, enum task task)
{
    struct http *http = x->http;
    pthread_mutex_lock(&http->lock);
    bool closing = http->closing;
    http->suspended += !closing;
    pthread_mutex_unlock(&http->lock);
    if (closing)
        return false;
    x->task = task;
    x->phase = PHASE_WORK;
    MHD_suspend_connection(x->conn);
    push(lane_of(x), x);
    return true;
}

/* The exchange is the event thread's again. `x` may be gone when this returns. */
static void resume(struct exchange *x, enum phase phase)
{
    struct http *http = x->http;
    x->phase = phase;
    MHD_resume_connection(x->conn);
    pthread_mutex_lock(&http->lock);
    http->suspended--;
    pthread_cond_broadcast(&http->fewer);
    pthread_mutex_unlock(&http->lock);
}

/* True: parked. False: a wake came since the handler started, or the time is up: run it again. */
static bool park(struct exchange *x)
{
    struct http *http = x->http;
    pthread_mutex_lock(&http->lock);
    bool stay = http->wakes == x->wake_seen && !http->closing;
    if (stay) {
        x->next = http->parked;
        http->parked = x;
        pthread_cond_signal(&http->parking);
    }
    pthread_mutex_unlock(&http->lock);
    return stay;
}

static void run(struct exchange *x)
{
    if (x->task == TASK_FLUSH) {
        body_flush(x);
        resume(x, PHASE_BODY);
        return;
    }
    if (x->req.round == 0)
        body_finish(x);
    for (;;) {
        pthread_mutex_lock(&x->http->lock);
        x->wake_seen = x->http->wakes;
        pthread_mutex_unlock(&x->http->lock);
        handler_run(x);
        if (x->res.wait_until <= 0)
            break;
        x->req.round++;
        if (park(x))
            return; /* the clock or http_wake has it now */
    }
    upload_free(x->req.upload); /* here, not in the event thread: removing files may take time */
    resume(x, PHASE_DONE);
}

static void *work(void *arg)
{
    struct lane_queue *lane = arg;
    struct exchange *x;
    while ((x = pop(lane)))
        run(x);
    return NULL;
}

void http_wake(struct http *http, const char *key)
{
    struct exchange *woken = NULL;
    pthread_mutex_lock(&http->lock);
    http->wakes++;
    for (struct exchange **at = &http->parked; *at;) {
        struct exchange *x = *at;
        if (key && strcmp(x->res.wait_key, key) != 0) {
            at = &x->next;
            continue;
        }
        *at = x->next;
        x->next = woken;
        woken = x;
    }
    pthread_mutex_unlock(&http->lock);
    while (woken) {
        struct exchange *x = woken;
        woken = x->next;
        push(lane_of(x), x);
    }
}

/* ---- the clock: parked exchanges whose time is up, and clients that are too slow */

static bool too_slow(const struct connection *c, double now, double idle_s)
{
    double waited = now - atomic_load(&c->since);
    if (!atomic_load(&c->busy))
        return waited > (atomic_load(&c->used) ? idle_s + HTTP_HEADER_SECONDS : HTTP_HEADER_SECONDS);
    return atomic_load(&c->receiving) && waited > HTTP_SLOW_BODY_SECONDS &&
           (double)atomic_load(&c->body_bytes) < waited * HTTP_SLOW_BODY_RATE;
}

/* Under the lock. Takes what is due off the list; returns the next due time. */
static double take_due(struct http *http, double now, struct exchange **due)
{
    double next = now + 1;
    for (struct exchange **at = &http->parked; *at;) {
        struct exchange *x = *at;
        if (x->res.wait_until > now) {
            next = x->res.wait_until < next ? x->res.wait_until : next;
            at = &x->next;
            continue;
        }
        *at = x->next;
        x->next = *due;
        *due = x;
    }
    return next;
}

static void *clock_run(void *arg)
{
    struct http *http = arg;
    pthread_mutex_lock(&http->lock);
    while (!http->stop) {
        struct exchange *due = NULL;
        double now = clock_seconds(), next = take_due(http, now, &due);
        for (struct connection *c = http->connections; c; c = c->next)
            if (too_slow(c, now, http->opts.idle_timeout_s))
                shutdown(c->fd, SHUT_RDWR);
        if (due) {
            pthread_mutex_unlock(&http->lock);
            while (due) {
                struct exchange *x = due;
                due = x->next;
                push(lane_of(x), x);
            }
            pthread_mutex_lock(&http->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t wait_ns = (int64_t)((next - now) * 1e9) + until.tv_nsec;
        until.tv_sec += wait_ns / 1000000000;
        until.tv_nsec = wait_ns % 1000000000;
        pthread_cond_timedwait(&http->parking, &http->lock, &until);
    }
    pthread_mutex_unlock(&http->lock);
    return NULL;
}

/* ---- life cycle */

static int lane_start(struct lane_queue *lane, struct http *http, int threads, struct err *err)
{
    lane->http = http;
    lane->tail = &lane->head;
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->ready, NULL);
    lane->threads = calloc((size_t)threads, sizeof *lane->threads);
    if (!lane->threads)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    for (; lane->count < threads; lane->count++) {
        errno = pthread_create(&lane->threads[lane->count], NULL, work, lane);
        if (errno)
            return err_set_errno(err, ERR_INTERNAL, "A thread of the HTTP server could not be made");
    }
    return 0;
}

static void lane_stop(struct lane_queue *lane)
{
    if (!lane->http)
        return;
    pthread_mutex_lock(&lane->lock);
    lane->stop = true;
    pthread_cond_broadcast(&lane->ready);
    pthread_mutex_unlock(&lane->lock);
    for (int i = 0; i < lane->count; i++)
        pthread_join(lane->threads[i], NULL);
    free(lane->threads);
    pthread_mutex_destroy(&lane->lock);
    pthread_cond_destroy(&lane->ready);
}

int exec_start(struct http *http, struct err *err)
{
    int fast = http->opts.executors > 0 ? http->opts.executors : 4, slow = fast / 2 > 2 ? fast / 2 : 2;
    if (lane_start(&http->fast, http, fast, err) != 0 || lane_start(&http->slow, http, slow, err) != 0)
        return -1;
    errno = pthread_create(&http->clock, NULL, clock_run, http);
    http->clock_runs = errno == 0;
    return errno ? err_set_errno(err, ERR_INTERNAL, "A thread of the HTTP server could not be made") : 0;
}

void exec_stop(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    http->stop = true;
    pthread_cond_signal(&http->parking);
    pthread_mutex_unlock(&http->lock);
    if (http->clock_runs)
        pthread_join(http->clock, NULL);
    lane_stop(&http->fast);
    lane_stop(&http->slow);
}
