/* SPDX-License-Identifier: Apache-2.0
 * Helpers sleep on a condition variable between loops and take tasks from a shared counter during one. After a loop they
 * spin for a few microseconds before sleeping, because a network is hundreds of short loops in a row. */
#include "core/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 256, SPINS = 2000 };

struct pool {
    int threads;
    pthread_t *helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint round; /* counts loops: a helper works when it sees a new number */
    atomic_bool stop;
    pool_fn *fn;
    void *arg;
    int64_t tasks;
    atomic_llong next;
    atomic_int busy; /* helpers not yet done with this round */
};

static _Thread_local bool inside; /* this thread is running a task: nested loops go inline */

struct helper_arg {
    struct pool *pool;
    int lane;
};

static void drain(struct pool *pool, int lane)
{
    inside = true;
    for (;;) {
        long long task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks)
            break;
        pool->fn(pool->arg, task, lane);
    }
    inside = false;
}

static void await_round(struct pool *pool, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->round, memory_order_acquire) != seen)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void *helper(void *opaque)
{
    struct helper_arg arg = *(struct helper_arg *)opaque;
    free(opaque);
    unsigned seen = 0;
    for (;;) {
        await_round(arg.pool, seen);
        seen++;
        if (atomic_load(&arg.pool->stop))
            return NULL;
        drain(arg.pool, arg.lane);
        atomic_fetch_sub_explicit(&arg.pool->busy, 1, memory_order_release);
    }
}

static void start_round(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->round, 1, memory_order_release);
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
    if (!pool || pool->threads == 1 || tasks <= 1 || inside) {
        for (int64_t i = 0; i < tasks; i++)
            fn(arg, i, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    start_round(pool);
    drain(pool, 0);
    for (int i = 0; atomic_load_explicit(&pool->busy, memory_order_acquire); i++)
        if (i > SPINS)
            sched_yield();
}

static int cgroup_quota_cores(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    long long quota = 0, period = 0;
    int fields = f ? fscanf(f, "%lld %lld", &quota, &period) : 0;
    if (f)
        fclose(f);
    return fields == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int pool_default_threads(void)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cgroup_quota_cores();
    if (quota > 0 && quota < cores)
        cores = quota;
    return cores > 0 ? cores : 1;
}
