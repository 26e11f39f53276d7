/* SPDX-License-Identifier: Apache-2.0
 * http_watch.c - the clock thread: parked requests whose time is up, and connections that take without giving.
 *
 * libmicrohttpd's timeout counts idle time only: a byte every few seconds holds a connection for ever. So
 *   a header     must be complete some seconds after the connection was made, or after its first byte on a connection
 *                that is used again (the kernel's count of received bytes tells when that was);
 *   a body, and the reading of an answer, must keep up a least rate over each window of some seconds. Time in which the
 *                server itself held the connection does not count.
 * Clients that left in the middle of a request are noticed here, too, when libmicrohttpd missed it.
 * When nearly all connections are in use, each new one pushes out one that is idle, those that never said anything
 * first: ten thousand clients that connect and say nothing cost no one else his turn. */
#include <linux/tcp.h>
#include <math.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "core/base/clock.h"
#include "server/http_internal.h"

enum { SLICE = 256, EVICT_LOOKS = 64, CLOCK_MIN_MS = 20 };

/* ---- the list of connections; all under the lock */

static void unlink_connection(struct http *http, struct connection *c)
{
    if (http->cursor == c)
        http->cursor = c->next;
    *(c->prev ? &c->prev->next : &http->oldest) = c->next;
    *(c->next ? &c->next->prev : &http->newest) = c->prev;
    c->prev = c->next = NULL;
}

static void append_connection(struct http *http, struct connection *c)
{
    c->prev = http->newest;
    *(c->prev ? &c->prev->next : &http->oldest) = c;
    http->newest = c;
}

static void cut(struct connection *c)
{
    const struct linger at_once = {.l_onoff = 1}; /* what a slow reader has not taken is not kept for him */
    c->cut = true;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    shutdown(c->fd, SHUT_RDWR); /* libmicrohttpd sees its end and closes it */
}

/* Rather one that has never asked for anything than a client between two requests. What is met on the way and stays goes
 * to the end, so that it is not met again soon (the clock algorithm of page caches). */
static void evict_idle(struct http *http)
{
    struct connection *second = NULL;
    for (int i = 0; i < EVICT_LOOKS && http->oldest; i++) {
        struct connection *c = http->oldest;
        unlink_connection(http, c);
        append_connection(http, c);
        if (c->cut || atomic_load(&c->busy))
            continue;
        if (!atomic_load(&c->used)) {
            cut(c);
            return;
        }
        if (!second)
            second = c;
    }
    if (second)
        cut(second);
}

void watch_open(struct http *http, struct connection *c)
{
    atomic_store(&c->since, clock_seconds());
    pthread_mutex_lock(&http->lock);
    int spare = http->limit / 16 > 4 ? http->limit / 16 : 4;
    if (++http->connections > http->limit - spare)
        evict_idle(http);
    append_connection(http, c);
    pthread_mutex_unlock(&http->lock);
}

void watch_close(struct http *http, struct connection *c)
{
    pthread_mutex_lock(&http->lock);
    http->connections--;
    unlink_connection(http, c);
    pthread_mutex_unlock(&http->lock);
}

void watch_idle(struct http *http, struct connection *c)
{
    atomic_store(&c->moving, MOVING_NOTHING);
    atomic_store(&c->since, clock_seconds());
    atomic_store(&c->used, true);
    atomic_store(&c->busy, false);
    unlink_connection(http, c);
    append_connection(http, c);
}

void watch_moving(struct connection *c, enum moving moving)
{
    if (!c)
        return;
    atomic_store(&c->since, clock_seconds());
    atomic_store(&c->moving, (int)moving);
}

void http_counts(struct http *http, int *connections, int *streams)
{
    pthread_mutex_lock(&http->lock);
    *connections = http->connections;
    *streams = http->streams;
    pthread_mutex_unlock(&http->lock);
}

/* ---- deadlines */

/* Bytes that the kernel received on this connection, or that the other side acknowledged; 0 when it does not tell. */
static int64_t tcp_bytes(int fd, bool received)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
        return 0;
    return (int64_t)(received ? info.tcpi_bytes_received : info.tcpi_bytes_acked);
}

/* A used connection may rest until libmicrohttpd's own timeout, but not in the middle of a header. */
static bool header_late(const struct http *http, struct connection *c, double now)
{
    double since = atomic_load(&c->since);
    if (!atomic_load(&c->used))
        return now - since > http->opts.header_timeout_s;
    if (now - since > http->opts.idle_timeout_s + http->opts.header_timeout_s)
        return true;
    if (c->marked_since != since) {
        c->marked_since = since;
        c->mark_bytes = tcp_bytes(c->fd, true);
        c->mark_time = INFINITY;
    } else if (isinf(c->mark_time) && tcp_bytes(c->fd, true) > c->mark_bytes) {
        c->mark_time = now; /* a header has begun */
    }
    return now - c->mark_time > http->opts.header_timeout_s;
}

static bool too_slow(const struct http *http, struct connection *c, double now)
{
    double since = atomic_load(&c->since), rate = (double)http->opts.min_rate;
    enum moving moving = (enum moving)atomic_load(&c->moving);
    if (moving == MOVING_NOTHING || rate <= 0)
        return false;
    if (c->marked_since == since && now - c->mark_time < http->opts.rate_window_s && !atomic_load(&c->held))
        return false;
    int64_t bytes = moving == MOVING_BODY ? atomic_load(&c->body_bytes) : tcp_bytes(c->fd, false);
    bool slow = c->marked_since == since && !atomic_load(&c->held) &&
                (double)(bytes - c->mark_bytes) < rate * (now - c->mark_time);
    c->marked_since = since;
    c->mark_bytes = bytes;
    c->mark_time = now;
    return slow;
}

/* The client has left, and libmicrohttpd may not know: it asks epoll for changes only (edge-triggered) and takes a read
 * of fewer bytes than it has room for as the last before the next change. If the end came with those bytes, there is
 * none. One more shutdown makes one. */
static void tell_end(struct connection *c)
{
    char byte;
    bool reads = !atomic_load(&c->busy) || (atomic_load(&c->moving) == MOVING_BODY && !atomic_load(&c->held));
    if (reads && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        shutdown(c->fd, SHUT_RD);
}

/* In slices, so that requests do not wait for the lock. */
static void watch_all(struct http *http, double now)
{
    http->cursor = http->oldest;
    for (int seen = 1, all = http->connections; http->cursor && seen <= all; seen++) {
        struct connection *c = http->cursor;
        http->cursor = c->next;
        if (!c->cut && (atomic_load(&c->busy) ? too_slow(http, c, now) : header_late(http, c, now)))
            cut(c);
        else if (!c->cut)
            tell_end(c);
        if (seen % SLICE == 0) {
            pthread_mutex_unlock(&http->lock);
            pthread_mutex_lock(&http->lock);
        }
    }
    http->cursor = NULL;
}

/* ---- the thread */

static void sleep_until(struct http *http, double now)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = (int64_t)((http->clock_next - now) * 1e9) + until.tv_nsec;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&http->parking, &http->lock, &until);
}

static void push_due(struct http *http, struct exchange *due)
{
    pthread_mutex_unlock(&http->lock);
    while (due) {
        struct exchange *x = due;
        due = x->next;
        exec_push(x);
    }
    pthread_mutex_lock(&http->lock);
}

void *watch_run(void *arg)
{
    struct http *http = arg;
    double watch_next = 0, look_next = 0;
    pthread_mutex_lock(&http->lock);
    while (!http->stop) {
        double now = clock_seconds();
        if (now >= watch_next) {
            watch_all(http, now);
            watch_next = now + 1;
        }
        if (now < look_next) { /* woken early: not more often than every CLOCK_MIN_MS through the whole table */
            http->clock_next = look_next;
            sleep_until(http, now);
            continue;
        }
        double next = watch_next;
        struct exchange *due = park_take_due(http, now, &next);
        look_next = now + CLOCK_MIN_MS / 1e3;
        http->clock_next = next > look_next ? next : look_next;
        if (due)
            push_due(http, due);
        else
            sleep_until(http, now);
    }
    pthread_mutex_unlock(&http->lock);
    return NULL;
}
