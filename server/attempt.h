/* SPDX-License-Identifier: Apache-2.0
 * attempt.h - one attempt at one job: folder, spec, child process, artifacts, the fenced end. Private to the worker
 * pool.
 * Life cycle fill a struct attempt_ctx -> attempt_run, in the worker's thread, returns when the attempt has ended. */
#ifndef PARED_SERVER_ATTEMPT_H
#define PARED_SERVER_ATTEMPT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "server/server.h"

/* What the pool tells a running attempt; the worker's child is woken by the eventfd after each change. */
enum attempt_order { ATTEMPT_GO_ON, ATTEMPT_CANCEL, ATTEMPT_RELEASE, ATTEMPT_LOST };

struct attempt_ctx {
    struct server *server;
    struct arena *arena;
    const struct store_claim *claim;
    atomic_int *order; /* enum attempt_order */
    int wake_fd;
    int64_t threads, memory_bytes; /* what a job may use here */
};
/* Runs the job and settles it. */
void attempt_run(const struct attempt_ctx *ctx);
/* Remove the work folder of a job that ended while no worker had it (a checkpoint may lie there). */
void attempt_forget(struct server *server, const char *job_id);
/* Remove what a former run left in work/: folders of uploads, and of jobs that are neither queued nor running. */
void attempt_clean(struct server *server);

#endif
