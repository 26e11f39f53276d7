/* SPDX-License-Identifier: Apache-2.0
 * http_internal.h - what the files of the HTTP server share; nobody else includes it.
 *
 * Life of an exchange (one request and its answer)
 *
 *   NEW --guard, route, authentication--> BODY --chunk full--> [flush on an executor] --> BODY
 *    |--a sink's body: [sink opened on an executor] --> OPENED --> BODY, or refused
 *    |                                     |--body complete--> [handler on an executor] --> DONE --> answer queued
 *    |                                                              | res_wait               ^
 *    |                                                              +--> parked --woken------+ (handler runs again)
 *    +--refused: answer at once, or DISCARD the body first and then answer
 *
 * A streamed answer goes on after DONE: libmicrohttpd asks for bytes; when there are none left
 *   DONE --[suspended: parked until woken, then a look on the stream lane]--> DONE with bytes, or the end
 *
 * In brackets the connection is suspended and the exchange belongs to an executor thread; otherwise to the event
 * thread. */
#ifndef PARED_SERVER_HTTP_INTERNAL_H
#define PARED_SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/base/buf.h"
#include "server/auth.h"
#include "server/forwarded.h"
#include "server/guard.h"
#include "server/http.h"
#include "server/upload.h"

enum {
    /* Buffer between socket and disk, one an upload: the more uploads there are at once, the smaller a new one's, so
     * that they share HTTP_CHUNKS_BYTES. Two hundred then take 23 MiB, not 50. */
    HTTP_CHUNK_BYTES = 256 << 10,
    HTTP_CHUNK_LEAST = 16 << 10,
    HTTP_CHUNKS_BYTES = 8 << 20, /* and as much for the files that are sent */
    /* libmicrohttpd's pool of a connection. It is cleared after every request: 256 KiB of it halved the small requests
     * a second, and uploads gain nothing from it, since they have a chunk of their own. */
    HTTP_CONNECTION_MEMORY = 32 << 10,
    HTTP_DISCARD_BYTES = 64 << 20,      /* so much of a refused body is read before the answer, and no more */
    HTTP_HEADER_SECONDS = 10,           /* preset of http_opts.header_timeout_s */
    HTTP_RATE_SECONDS = 20,             /* preset of http_opts.rate_window_s */
    HTTP_PAUSE_MS = 100,                /* between two looks of a stream or a long poll */
    HTTP_PARK_BUCKETS = 256,
    HTTP_TEXT_BYTES = 160,
};

enum phase { PHASE_NEW, PHASE_OPENED, PHASE_BODY, PHASE_WORK, PHASE_DONE };
enum body_mode { MODE_NONE, MODE_JSON, MODE_UPLOAD, MODE_STREAM, MODE_DISCARD };
enum task { TASK_OPEN, TASK_FLUSH, TASK_RUN, TASK_STREAM, TASK_END };

enum moving { MOVING_NOTHING, MOVING_BODY, MOVING_ANSWER };
struct connection { /* one socket, for the watchdog (http_watch.c) */
    struct connection *prev, *next; /* the one that has been idle longest first; busy ones anywhere */
    int fd;
    _Atomic double since;       /* start of waiting for a request, or of the request */
    atomic_bool busy;           /* a request is under way */
    atomic_bool used;           /* there was a request before */
    atomic_int moving;          /* what goes over the wire: enum moving */
    atomic_bool held;           /* suspended: the client is not to blame for the time */
    _Atomic int64_t body_bytes; /* received of the body */
    /* the watchdog's own */
    bool cut;
    double marked_since, mark_time; /* which `since` the mark belongs to, and when it was made */
    int64_t mark_bytes;
};

struct exchange {
    struct http *http;
    struct MHD_Connection *conn;
    struct connection *socket; /* may be NULL */
    struct req req;
    struct res res;
    struct err err;
    struct auth_caller caller;
    char client[CLIENT_TEXT]; /* address */
    struct query query;
    char *target; /* as sent */
    char request_id[HTTP_TEXT_BYTES];
    const char *route_text;
    enum phase phase;
    enum body_mode mode;
    bool close; /* the answer ends the connection */
    char allow[ROUTE_ALLOW];
    char *chunk; /* or NULL; counted in http->chunks */
    size_t chunk_len, chunk_size;
    struct buf json;
    struct digests *json_digests; /* in the arena: what the client says of it */
    int64_t length; /* of the body; -1: chunked */
    int64_t body_bytes, discarded;
    /* under the lock: in http->claimants while `claims`, with so many bytes */
    struct exchange *next_claimant;
    bool claims;
    int64_t claimed;
    /* streamed answer */
    struct buf out; /* bytes of the last look, of which `sent` have gone */
    size_t sent;
    enum stream_step step;
    bool streams;      /* counted in http->streams */
    double not_before; /* of the next look; of long polls too */
    /* executor */
    double submitted, waited, worked, stored; /* for Server-Timing, in seconds */
    enum task task;
    struct exchange *next; /* queue, or list of parked ones; req.wakes: http->wakes when the handler started */
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
    struct lane_queue fast, bulk, slow, stream;
    /* suspended connections: parked ones and those on executors */
    pthread_mutex_t lock;
    pthread_cond_t fewer;   /* suspended or live went down; CLOCK_MONOTONIC, as the next */
    pthread_cond_t parking; /* for the clock: something was parked, or stop */
    struct exchange *parked[HTTP_PARK_BUCKETS]; /* by hash of the key */
    double clock_next;                          /* when the clock thread looks again */
    struct connection *oldest, *newest, *cursor;
    int connections, limit;
    int suspended, live, parked_count, streams;
    uint64_t wakes;
    bool closing; /* suspend nothing more */
    bool stop;    /* ends the clock thread */
    atomic_bool draining;
    atomic_size_t chunks, files; /* that hold a buffer */
    struct exchange *claimants;  /* uploads under way of owners with a limit; under the lock */
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
/* A header of the request, or NULL. In a thread of libmicrohttpd, or while the connection is suspended. */
static inline const char *header_of(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, name);
}
/* What it held goes, and it; the connection may be gone. */
void exchange_end(struct exchange *x);
/* http_exec.c: executors */
int exec_start(struct http *http, struct err *err);
void exec_stop(struct http *http);
/* Suspends the connection and gives the exchange to a lane; false when the server is stopping. */
bool exec_submit(struct exchange *x, enum task task);
/* The first half of that: from now on the exchange is not the event thread's. */
bool exec_suspend(struct exchange *x);
/* The second half. */
void exec_push(struct exchange *x);
/* The exchange is the event thread's again. `x` may be gone when this returns. */
void exec_resume(struct exchange *x, enum phase phase);
/* http_park.c: who waits for what. */
/* True: parked until http_wake(res.wait_key) or res.wait_until. False: a wake came since x->req.wakes, run it again. */
bool park(struct exchange *x);
/* Under http->lock. Takes those whose time is up off the table, in a list; *next is lowered to the next due time. */
struct exchange *park_take_due(struct http *http, double now, double *next);
/* http_watch.c: clock of the parked, deadlines and eviction of connections. */
void watch_open(struct http *http, struct connection *c);
void watch_close(struct http *http, struct connection *c);
/* Under http->lock: a request of this connection has ended. */
void watch_idle(struct http *http, struct connection *c);
void watch_moving(struct connection *c, enum moving moving);
void *watch_run(void *http);
/* http_stream.c: an answer that grows */
struct MHD_Response *stream_response(struct exchange *x);
void stream_look(struct exchange *x);
/* http_body.c: what executors do with a body, and with the handler */
/* One holder more, and how large its buffer may be: all together about HTTP_CHUNKS_BYTES. */
size_t chunk_share(atomic_size_t *holders);
void body_claim_end(struct exchange *x); /* an upload's bytes are in the catalogue, or gone */
bool body_chunk(struct exchange *x); /* makes it, of a size that fits the number of them; false: out of memory */
void body_open(struct exchange *x);
void body_flush(struct exchange *x);
void body_close(struct exchange *x);
void body_finish(struct exchange *x);
void handler_run(struct exchange *x);
/* http_policy.c: headers of every answer; those of OPTIONS */
void policy_headers(const struct exchange *x, struct MHD_Response *response);
void policy_preflight(struct exchange *x);
/* http_res.c */
enum MHD_Result res_send(struct exchange *x);
void res_problem(struct exchange *x);
void res_encode(struct exchange *x);
void res_reset(struct res *res, struct req *req);
void res_fini(struct res *res);

#endif
