/* SPDX-License-Identifier: Apache-2.0
 * http_exec.c - four lanes of threads that may block: short requests, whole files, those that wait for a child process, and
 * those that were parked.
 *
 * Suspending comes before handing over: the executor may resume the connection before exec_submit returns. A connection
 * that is suspended when the daemon stops would abort the process, so `suspended` counts them and `closing` forbids new
 * ones. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "server/http_internal.h"

static void push(struct lane_queue *lane, struct exchange *x)
{
    pthread_mutex_lock(&lane->lock);
    x->next = NULL;
    *lane->tail = x;
    lane->tail = &x->next;
    pthread_mutex_unlock(&lane->lock);
    pthread_cond_signal(&lane->ready); /* now: who wakes shall not wait for the lock next */
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
    if (x->task == TASK_STREAM || x->req.round > 0) /* who has waited long is in less of a hurry than who just came */
        return &x->http->stream;
    if (x->task == TASK_FLUSH || x->task == TASK_END)
        return &x->http->bulk;
    enum lane lane = x->task == TASK_RUN && x->req.route ? x->req.route->lane : LANE_FAST;
    return lane == LANE_SLOW ? &x->http->slow : lane == LANE_BULK ? &x->http->bulk : &x->http->fast;
}

void exec_push(struct exchange *x)
{
    push(lane_of(x), x);
}

bool exec_suspend(struct exchange *x)
{
    struct http *http = x->http;
    pthread_mutex_lock(&http->lock);
    bool closing = http->closing;
    http->suspended += !closing;
    pthread_mutex_unlock(&http->lock);
    if (closing)
        return false;
    if (x->socket)
        atomic_store(&x->socket->held, true);
    MHD_suspend_connection(x->conn);
    return true;
}

bool exec_submit(struct exchange *x, enum task task)
{
    if (!exec_suspend(x))
        return false;
    x->task = task;
    x->phase = PHASE_WORK;
    x->submitted = clock_seconds();
    exec_push(x);
    return true;
}

void exec_resume(struct exchange *x, enum phase phase)
{
    struct http *http = x->http;
    x->phase = phase;
    if (x->socket)
        atomic_store(&x->socket->held, false);
    MHD_resume_connection(x->conn);
    pthread_mutex_lock(&http->lock);
    http->suspended--;
    pthread_cond_broadcast(&http->fewer);
    pthread_mutex_unlock(&http->lock);
}

static void run_handler(struct exchange *x)
{
    if (x->req.round == 0) {
        x->waited = clock_seconds() - x->submitted;
        body_finish(x);
    }
    for (;;) {
        pthread_mutex_lock(&x->http->lock);
        x->req.wakes = x->http->wakes;
        pthread_mutex_unlock(&x->http->lock);
        handler_run(x);
        if (x->res.wait_until <= 0)
            break;
        x->not_before = x->req.round++ ? clock_seconds() + HTTP_PAUSE_MS / 1e3 : 0;
        if (park(x))
            return; /* the clock or http_wake has it now */
    }
    body_close(x);
    res_encode(x);
    upload_free(x->req.upload); /* here, not in the event thread: removing files may take time */
    x->req.upload = NULL;
    exec_resume(x, PHASE_DONE);
}

static void run(struct exchange *x)
{
    switch (x->task) {
    case TASK_OPEN:
        body_open(x);
        exec_resume(x, PHASE_OPENED);
        break;
    case TASK_FLUSH:
        body_flush(x);
        exec_resume(x, PHASE_BODY);
        break;
    case TASK_RUN:
        run_handler(x);
        break;
    case TASK_STREAM:
        stream_look(x);
        break;
    case TASK_END:
        exchange_end(x);
        break;
    }
}

static void *work(void *arg)
{
    struct lane_queue *lane = arg;
    struct exchange *x;
    while ((x = pop(lane)))
        run(x);
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
    if (lane_start(&http->fast, http, fast, err) != 0 || lane_start(&http->bulk, http, fast, err) != 0 ||
        lane_start(&http->slow, http, slow, err) != 0 || lane_start(&http->stream, http, 1, err) != 0)
        return -1;
    errno = pthread_create(&http->clock, NULL, watch_run, http);
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
    lane_stop(&http->bulk);
    lane_stop(&http->slow);
    lane_stop(&http->stream);
}
