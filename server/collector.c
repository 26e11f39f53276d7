/* SPDX-License-Identifier: Apache-2.0
 * Once a second: pages of expired rows until none is left, and a sweep when its time has come. A file goes after its
 * last row has: gc_blob asks again under the blobs' lock, so a row or a pin that came meanwhile keeps it. */
#include "server/collector.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <uv.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "server/gc.h"
#include "server/metrics.h"
#include "server/server.h"

enum { TICK_MS = 1000 };

struct collector {
    struct server *server;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t wake;
    bool stop; /* under the lock */
    double swept_at;
};

static bool stopping(struct collector *c)
{
    uv_mutex_lock(&c->lock);
    bool stop = c->stop;
    uv_mutex_unlock(&c->lock);
    return stop;
}

static const struct config *settings(const struct collector *c)
{
    return atomic_load(&c->server->config);
}

/* One page; whether there is another. */
static bool expire(struct collector *c)
{
    struct err err = {0};
    struct store_expired gone = {0};
    struct arena *arena = arena_new();
    if (!arena)
        return false;
    if (store_expire(c->server->store, arena, &gone, &err)) {
        log_warn("expired jobs and artifacts stay for now: %s", err.msg);
        gone.more = false;
    }
    gc_blobs(c->server->store, c->server->blobs, &gone.orphans);
    if (gone.jobs || gone.artifacts)
        log_info("removed %d jobs and %d artifacts whose time was up", gone.jobs, gone.artifacts);
    arena_free(arena);
    return gone.more;
}

static void tick(struct collector *c)
{
    const struct config *config = settings(c);
    const struct store_retention keep = {.job_ttl_s = config->job_ttl_s, .artifact_ttl_s = config->artifact_ttl_s};
    store_set_retention(c->server->store, &keep);
    blobs_set_check_age(c->server->blobs, config->storage_check_s);
    while (expire(c) && !stopping(c)) {
    }
    if (clock_seconds() - c->swept_at < (double)config->sweep_interval_s)
        return;
    gc_sweep(c->server->store, c->server->blobs);
    c->swept_at = clock_seconds();
}

static void run(void *arg)
{
    struct collector *c = arg;
    uv_mutex_lock(&c->lock);
    while (!c->stop) {
        uv_mutex_unlock(&c->lock);
        tick(c);
        uv_mutex_lock(&c->lock);
        if (!c->stop)
            uv_cond_timedwait(&c->wake, &c->lock, (uint64_t)TICK_MS * 1000000);
    }
    uv_mutex_unlock(&c->lock);
}

struct collector *collector_start(struct server *server, struct err *err)
{
    struct collector *c = calloc(1, sizeof *c);
    if (!c) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    c->server = server;
    c->swept_at = clock_seconds(); /* the start swept already */
    uv_mutex_init(&c->lock);
    uv_cond_init(&c->wake);
    if (uv_thread_create(&c->thread, run, c)) {
        uv_cond_destroy(&c->wake);
        uv_mutex_destroy(&c->lock);
        free(c);
        err_set(err, ERR_INTERNAL, "cannot start a thread");
        return NULL;
    }
    return c;
}

void collector_stop(struct collector *c)
{
    if (!c)
        return;
    uv_mutex_lock(&c->lock);
    c->stop = true;
    uv_cond_signal(&c->wake);
    uv_mutex_unlock(&c->lock);
    uv_thread_join(&c->thread);
    uv_cond_destroy(&c->wake);
    uv_mutex_destroy(&c->lock);
    free(c);
}
