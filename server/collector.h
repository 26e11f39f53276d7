/* SPDX-License-Identifier: Apache-2.0
 * collector.h - the thread that removes what is no longer wanted while the server runs: jobs and artifacts older than
 * the settings allow (job_ttl_s, artifact_ttl_s), and stored files that nothing refers to (every sweep_interval_s),
 * which only an error between a row and its file leaves behind.
 * Why a thread  a sweep asks the catalogue once a file; the event loop that hears signals must not wait for it.
 * Life cycle    collector_start -> collector_stop, while store and blobs live. */
#ifndef PARED_SERVER_COLLECTOR_H
#define PARED_SERVER_COLLECTOR_H

#include "core/base/err.h"

struct server;
struct collector; /* opaque */

struct collector *collector_start(struct server *server, struct err *err);
void collector_stop(struct collector *collector); /* NULL is fine */

#endif
