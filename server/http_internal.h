/* SPDX-License-Identifier: Apache-2.0
 * http_internal.h - what the files of the HTTP server share; nobody else includes it.
 *
 * Life of an exchange (one request and its answer)
 *
 *   NEW --guard, route, authentication--> BODY --chunk full--> [flush on an executor] --> BODY
 *    |                                     |--body complete--> [handler on an executor] --> DONE --> answer queued
 *    |                                                              | res_wait               ^
 *    |                                                              +--> parked --woken------+ (handler runs again)
 *    +--refused: answer at once, or DISCARD the body first and then answer
 *
 * In brackets the connection is suspended and the exchange belongs to an executor thread; otherwise to the event
 * thread. */
#ifndef PARED_SERVER_HTTP_INTERNAL_H
#define PARED_SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/base/buf.h"
#include "server/guard.h"
#include "server/http.h"
#include "server/upload.h"

enum {
    HTTP_CHUNK_BYTES = 256 << 10,       /* buffer between socket and disk, one an upload */
    /* libmicrohttpd's pool of a connection. It is cleared after every request: 256 KiB of it halved the small requests a
     * second, and uploads gain nothing from it, since they have HTTP_CHUNK_BYTES of their own. */
    HTTP_CONNECTION_MEMORY = 64 << 10,
    HTTP_DISCARD_BYTES = 64 << 20,      /* so much of a refused body is read before the answer, and no more */
    HTTP_HEADER_SECONDS = 15,           /* a new connection sends its first header within this time */
    HTTP_SLOW_BODY_SECONDS = 30,        /* after so long ... */
    HTTP_SLOW_BODY_RATE = 1 << 10,      /* ... a body must have come at least at so many bytes a second */
    HTTP_TEXT_BYTES = 160,
};

enum phase { PHASE_NEW, PHASE_BODY, PHASE_WORK, PHASE_DONE };
enum body_mode { MODE_NONE, MODE_JSON, MODE_UPLOAD, MODE_DISCARD };
enum task { TASK_FLUSH, TASK_RUN };

struct connection { /* one socket, for the watchdog */
    struct connection *prev, *next;
    int fd;
    _Atomic double since;       /* start of waiting for a request, or of the request */
    atomic_bool busy;           /* a request is under way */
    atomic_bool receiving;      /* and its body is arriving */
    atomic_bool used;           /* there was a request before */
    _Atomic int64_t body_bytes; /* received of it */
};

struct exchange {
    struct http *http;
    struct MHD_Connection *conn;
    struct connection *socket; /* may be NULL */
    struct req req;
    struct res res;
    struct err err;
    struct query query;
    char *target; /* as sent */
    char request_id[HTTP_TEXT_BYTES];
    const char *route_text;
    enum phase phase;
    enum body_mode mode;
    bool close; /* the answer ends the connection */
    char allow[ROUTE_ALLOW];
    char *chunk; /* HTTP_CHUNK_BYTES, or NULL */
    size_t chunk_len;
    struct buf json;
    int64_t length; /* of the body; -1: chunked */
    int64_t body_bytes, discarded;
    /* executor */
    enum task task;
    struct exchange *next; /* queue, or list of parked ones */
    uint64_t wake_seen;    /* http->wakes when the handler started */
};

struct lane_queue {
    struct http *http;
    pthread_mutex_t lock;
    pthread_cond_t ready;
    struct exchange *head, **tail;
    pthread_t *threads;
    int count;
    bool stop;
};

struct http {
    struct http_opts opts;
    struct MHD_Daemon *daemon;
    uint16_t port;
    struct lane_queue fast, slow;
    /* suspended connections: parked ones and those on executors */
    pthread_mutex_t lock;
    pthread_cond_t fewer;   /* suspended or live went down; CLOCK_MONOTONIC, as the next */
    pthread_cond_t parking; /* for the clock: something was parked, or stop */
    struct exchange *parked;
    struct connection *connections;
    int suspended, live;
    uint64_t wakes;
    bool closing; /* suspend nothing more */
    bool stop;    /* ends the clock thread */
    atomic_bool draining;
    pthread_t clock;
    bool clock_runs;
    uint64_t id_base;
    atomic_ullong id_next;
};

/* http_exchange.c: the event thread's side */
void *exchange_open(void *cls, const char *uri, struct MHD_Connection *conn);
enum MHD_Result exchange_step(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                              const char *version, const char *data, size_t *size, void **state);
void exchange_close(void *cls, struct MHD_Connection *conn, void **state, enum MHD_RequestTerminationCode code);
/* http_exec.c: executors, parking, clock */
int exec_start(struct http *http, struct err *err);
void exec_stop(struct http *http);
/* Suspends the connection and gives the exchange to a lane; false when the server is stopping. */
bool exec_submit(struct exchange *x, enum task task);
/* http_body.c: what executors do with a body, and with the handler */
void body_flush(struct exchange *x);
void body_finish(struct exchange *x);
void handler_run(struct exchange *x);
/* http_res.c */
enum MHD_Result res_send(struct exchange *x);
void res_problem(struct exchange *x);
void res_reset(struct res *res, struct req *req);
void res_fini(struct res *res);

#endif
