/* SPDX-License-Identifier: Apache-2.0
 * server.h - the running server: everything that lives from start to stop, and the order of both.
 * Start      lock the data folder, open catalogue and blobs, sweep, start HTTP (server/http.h), start workers, write
 *            the address file.
 * Stop       (SIGTERM, SIGINT): /readyz says 503, nothing more is claimed, running jobs get drain_s, what still runs
 *            goes back to the queue, HTTP stops, exit status 0.
 * Handlers   of api/ find the server in req->app. After a committed change of a job the server calls
 *            http_wake(http, job_id): long polls and event streams wait with res_wait(res, job_id, until). */
#ifndef PARED_SERVER_SERVER_H
#define PARED_SERVER_SERVER_H

#include <stdatomic.h>

#include "core/base/err.h"
#include "server/admission.h"
#include "server/blob.h"
#include "server/config.h"
#include "server/forwarded.h"
#include "server/link.h"
#include "server/store.h"

struct workers;
struct http;
struct http_auth;
struct audit;
struct router;
struct route;
struct reloads;
struct tus;

struct server {
    /* Read anew for each use: SIGHUP puts another in its place (reload.h). What a pointer was once read stays until the
     * server ends. */
    const struct config *_Atomic config;
    struct store *store;
    struct blobs *blobs;
    struct tus *tus; /* resumable uploads */
    struct workers *_Atomic workers; /* NULL until started */
    struct http *_Atomic http;       /* NULL until started */
    struct http_auth *auth;
    struct text_cache *texts; /* jobs that have ended, as GET shows them */
    char link_secret[LINK_SECRET_HEX];
    struct audit *audit; /* NULL: none is kept */
    struct proxies proxies;
    struct router *router;
    char node[40];        /* id of the data folder: whoever holds its lock is this node */
    atomic_bool draining; /* no new jobs and uploads: 503 with Retry-After */
    double started;       /* clock_seconds() */
    struct admission admission;
    struct reloads *reloads; /* reload.h */
};

/* Serve until a signal says stop. `routes` are the layer above (api/). 0, or -1 with *err when it could not start. */
int server_run(const struct config *config, const struct route *routes, struct err *err);

#endif
