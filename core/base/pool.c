/* SPDX-License-Identifier: Apache-2.0
 * Helpers sleep on a condition variable between loops and take tasks from a shared counter during one. After a loop
 * they spin for some tens of microseconds before sleeping, because a network is hundreds of short loops in a row.
 * Joining    A loop is open from start to the moment its tasks are all taken. A helper that comes while it is open
 *            counts itself in and is waited for; one that comes later finds it closed and is not. So the caller never
 *            waits for a helper that is still asleep, or that the system gave no core to. The helper raises `inside`
 *            before it reads `open`, the caller clears `open` before it reads `inside`: one of them sees the other. */
#include "core/base/pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/cgroup_path.h"

enum { MAX_THREADS = 256, SPINS = 2000 };

struct pool {
    int threads;
    pthread_t *helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint round;    /* counts loops: a helper looks for work when it sees a new number */
    atomic_bool open;     /* tasks may be taken */
    atomic_int inside;    /* helpers that may touch the fields below */
    atomic_int sleepers;
    atomic_bool stop;
    pool_fn *fn;
    void *arg;
    int64_t tasks;
    atomic_llong next;
};

static _Thread_local bool in_task; /* this thread is running a task: nested loops go inline */

struct helper_arg {
    struct pool *pool;
    int lane;
};

static void drain(struct pool *pool, int lane)
{
    in_task = true;
    for (;;) {
        long long task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks)
            break;
        pool->fn(pool->arg, task, lane);
    }
    in_task = false;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static unsigned await_round(struct pool *pool, unsigned seen)
{
    unsigned round;
    for (int i = 0; i < SPINS; i++) {
        if ((round = atomic_load_explicit(&pool->round, memory_order_acquire)) != seen)
            return round;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while ((round = atomic_load(&pool->round)) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return round;
}

static void *helper(void *opaque)
{
    struct helper_arg arg = *(struct helper_arg *)opaque;
    free(opaque);
    unsigned seen = 0;
    for (;;) {
        seen = await_round(arg.pool, seen);
        if (atomic_load(&arg.pool->stop))
            return NULL;
        atomic_fetch_add(&arg.pool->inside, 1);
        if (atomic_load(&arg.pool->open))
            drain(arg.pool, arg.lane);
        atomic_fetch_sub(&arg.pool->inside, 1);
    }
}

/* A helper that goes to sleep raises `sleepers` before it looks at `round` for the last time. */
static void start_round(struct pool *pool)
{
    atomic_fetch_add(&pool->round, 1);
    if (!atomic_load(&pool->sleepers))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

struct pool *pool_new(int threads)
{
    if (threads <= 0)
        threads = pool_default_threads();
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->helpers = calloc((size_t)threads, sizeof *pool->helpers);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    while (pool->helpers && pool->threads < threads) {
        struct helper_arg *arg = malloc(sizeof *arg);
        if (!arg)
            break;
        *arg = (struct helper_arg){pool, pool->threads};
        if (pthread_create(&pool->helpers[pool->threads - 1], NULL, helper, arg)) {
            free(arg);
            break; /* fewer threads give the same results */
        }
        pool->threads++;
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    start_round(pool);
    for (int i = 0; i < pool->threads - 1; i++)
        pthread_join(pool->helpers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->helpers);
    free(pool);
}

int pool_threads(const struct pool *pool)
{
    return pool ? pool->threads : 1;
}

void pool_run(struct pool *pool, int64_t tasks, pool_fn *fn, void *arg)
{
    if (!pool || pool->threads == 1 || tasks <= 1 || in_task) {
        for (int64_t i = 0; i < tasks; i++)
            fn(arg, i, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store(&pool->open, true);
    start_round(pool);
    drain(pool, 0);
    atomic_store(&pool->open, false);
    for (int i = 0; atomic_load(&pool->inside); i++) {
        relax();
        if (i > SPINS)
            sched_yield();
    }
}

/* The share of processors a control group may use, rounded up; INT_MAX without a limit. */
static int quota_cores(const char *group)
{
    char path[PATH_MAX];
    long long quota = 0, period = 0;
    FILE *f = snprintf(path, sizeof path, "%s/cpu.max", group) < (int)sizeof path ? fopen(path, "re") : NULL;
    int fields = f ? fscanf(f, "%lld %lld", &quota, &period) : 0;
    if (f)
        fclose(f);
    return fields == 2 && quota > 0 && period > 0 && quota / period < INT_MAX ? (int)((quota + period - 1) / period)
                                                                              : INT_MAX;
}

int pool_default_threads(void)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    char group[PATH_MAX];
    for (bool there = cgroup_own(CGROUP_MOUNT, group, NULL) == 0; there; there = cgroup_parent(CGROUP_MOUNT, group)) {
        int quota = quota_cores(group);
        cores = quota < cores ? quota : cores;
    }
    return cores > 0 ? cores : 1;
}
