/* SPDX-License-Identifier: Apache-2.0
 * pool.h - the one thread pool of a process, for loops over tiles.
 * Contract   pool_run(pool, tasks, fn, arg) calls fn(arg, task, lane) once for every task in [0, tasks) and returns when all
 *            are done. Which thread takes which task is open; so that results do not depend on the thread count, a task's
 *            bounds and its order of summation must not depend on it either, and tasks must write disjoint memory.
 * Threads    the caller works too (lane 0). Not reentrant: a task must not call pool_run on the same pool (it would run
 *            serially: this is detected and done inline). Only one thread may use a pool at a time. */
#ifndef PARED_BASE_POOL_H
#define PARED_BASE_POOL_H

#include <stdint.h>

struct pool; /* opaque */

typedef void pool_fn(void *arg, int64_t task, int lane);

/* `threads` counts the caller: 1 makes no thread at all. 0 means pool_default_threads(). NULL when out of memory. */
struct pool *pool_new(int threads);
void pool_free(struct pool *pool);
int pool_threads(const struct pool *pool);
/* pool may be NULL: everything runs in the caller. lane is in [0, pool_threads). */
void pool_run(struct pool *pool, int64_t tasks, pool_fn *fn, void *arg);
/* Cores this process may use: the affinity mask, limited by the cgroup's CPU quota, at least 1. */
int pool_default_threads(void);

#endif
