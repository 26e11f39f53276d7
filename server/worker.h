/* SPDX-License-Identifier: Apache-2.0
 * worker.h - the pool of threads that claim jobs and run each in one child process.
 * Life cycle workers_start -> workers_poke* -> workers_drain -> workers_stop -> workers_free
 * Threads    poke may be called from anywhere, also from the store's change callback, until workers_free. */
#ifndef PARED_SERVER_WORKER_H
#define PARED_SERVER_WORKER_H

#include "core/base/err.h"
#include "server/store.h"

struct server;
struct workers; /* opaque */

/* config.workers threads (none is fine). Jobs of a former run of this node are put back into the queue first. */
struct workers *workers_start(struct server *server, struct err *err);
/* A job was queued (idle workers look at once), or is to be canceled (its worker asks the catalogue at once). */
void workers_poke(struct workers *workers, enum store_change change);
/* Claim nothing more: returns when claims under way have found a job, which runs, or none. */
void workers_drain(struct workers *workers);
/* Jobs running now. */
int workers_busy(struct workers *workers);
/* Hand running jobs back to the queue and end the threads. NULL is fine, here and below. */
void workers_stop(struct workers *workers);
void workers_free(struct workers *workers);

#endif
