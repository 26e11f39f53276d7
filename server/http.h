/* SPDX-License-Identifier: Apache-2.0
 * http.h - the HTTP server: libmicrohttpd in front, small executor pools behind it.
 * Why        libmicrohttpd runs a few epoll threads; a handler that blocks there (catalogue, disk, a child that
 *            reads an upload) would stall every other connection of its thread. So an event thread only parses,
 *            guards and routes; then the connection is suspended, an executor thread runs the handler, and the
 *            connection is resumed with the answer. Bodies are passed to the disk the same way, a bounded buffer at
 *            a time.
 *            A streamed answer (res_stream) is sent as it grows: while there is nothing to send the connection is
 *            suspended and parked, and costs neither a thread nor a connection of the store.
 * A request  is owned by exactly one thread at a time: the event thread, or, while suspended, one executor thread.
 *            Handlers get a `struct req` (read) and a `struct res` (write) and return 0, or -1 with *err filled, which
 *            becomes problem+json. Everything allocated in req->arena lives until the answer has been sent.
 * Life cycle http_start -> (requests) -> http_stop. http_stop lets running handlers end and cuts idle connections.
 * Threads    http_wake and http_set_draining may be called from every thread. */
#ifndef PARED_SERVER_HTTP_H
#define PARED_SERVER_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "server/router.h"
#include "server/trace.h"

struct http; /* opaque */
struct auth_caller;
struct proxies;
struct upload;

/* ---- what a handler reads */
struct req {
    struct arena *arena;
    struct http *http;
    void *app; /* http_opts.app */
    const struct route *route;
    const char *method;              /* as sent; HEAD arrives at the handler of GET */
    const char *path;                /* raw path without query, as sent */
    const char *param[ROUTE_PARAMS]; /* decoded {segments} of the route's path, in order */
    const char *request_id;          /* echoed as X-Request-Id */
    struct trace trace;              /* the client's trace, or a new one, with a span of this request */
    const char *owner;               /* whose resources: "local" without keys, else the key's id */
    const struct auth_caller *caller; /* server/auth.h: the key, its scopes and limits */
    json_t *json;     /* BODY_JSON, and BODY_UPLOAD sent as application/json; else NULL. Freed by the server */
    const char *body; /* the bytes of a JSON body, to be hashed; NUL-terminated */
    size_t body_len;
    struct upload *upload; /* BODY_UPLOAD sent raw or as multipart; else NULL. See server/upload.h */
    void *sink;            /* BODY_STREAM: what the route's sink keeps for this request */
    struct faults faults;  /* a handler adds faults here and returns -1: they become errors[] of the problem */
    int round;             /* how often the handler was woken for this request (res_wait) */
    uint64_t wakes;        /* http_wake calls before this run: what it reads from the store is at least that new */
    double started;        /* clock_seconds() of the request line */
};

/* Where the body of a BODY_STREAM route goes, in threads that may block. The handler runs when all of it is there. */
struct body_sink {
    /* Before the first byte is asked for, so that a refusal costs the client nothing. Sets req->sink. */
    int (*open)(struct req *req, struct err *err);
    int (*write)(struct req *req, const char *bytes, size_t len, struct err *err);
    /* Once if req->sink was set, also when the client hung up. */
    void (*close)(struct req *req);
};

/* First value of a header, or NULL. Valid while the request lives. */
const char *req_header(const struct req *req, const char *name);
/* Decoded value of a query parameter, or NULL. The route's `query` column names all that are allowed. */
const char *req_query(const struct req *req, const char *name);
/* Integer query parameter in [min, max]; `def` when absent; -1 with a fault when it is no such number. */
int req_query_int(struct req *req, const char *name, int64_t def, int64_t min, int64_t max, int64_t *out,
                  struct err *err);

/* ---- what a handler writes */

/* What the next look of a streamed answer depends on. */
enum stream_step {
    STREAM_MORE, /* there is more: look again once this has been sent */
    STREAM_WAIT, /* nothing more now: look again as res_wait() said */
    STREAM_END,  /* this was the last */
};
/* One look: append to `out` what there is to send. Runs in a thread of its own kind, which all streams share: it may
 * read the store, and must hold nothing when it returns. Errors are the stream's to tell, or end it. */
typedef enum stream_step stream_fn(struct req *req, struct res *res, void *state, struct buf *out);

struct res {
    struct req *req;
    int status; /* 200 unless set */
    /* the rest is private to http_res.c */
    struct res_header *headers;
    char *bytes;
    size_t len;
    bool borrowed; /* bytes live for ever: not freed */
    int fd;        /* a file to send; -1: none */
    uint64_t offset;
    double wait_until; /* > 0: park until http_wake(wait_key) or this monotonic time, then run the handler again */
    char *wait_key;
    stream_fn *stream; /* a streamed answer */
    void *stream_state;
};

/* Set a header (copied). Values with control characters are dropped: nobody injects a header line. */
void res_header(struct res *res, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Its value, or NULL when it is not set. */
const char *res_header_value(const struct res *res, const char *name);
/* JSON body; the reference is stolen. ERR_NOMEM when it cannot be written (NULL too). */
int res_json(struct res *res, int status, json_t *json, struct err *err);
/* Bytes from malloc, now owned by the answer. */
int res_take(struct res *res, int status, const char *media_type, char *bytes, size_t len);
/* Bytes that outlive the server (embedded files, tables). */
int res_static(struct res *res, int status, const char *media_type, const void *bytes, size_t len);
/* What such an answer holds now, to be kept by who makes it again. NULL: no body in memory. */
const char *res_body(const struct res *res, size_t *len);
/* No body. */
int res_empty(struct res *res, int status);
/* `len` bytes of an immutable file from `offset`; fd is taken over. */
int res_file(struct res *res, int status, const char *media_type, int fd, uint64_t offset, uint64_t len);
/* Long poll: run the handler again (req->round + 1) when `key` is woken or at `until` (clock_seconds). Returns 0. */
int res_wait(struct res *res, const char *key, double until);
/* An answer that grows: `next` is asked for its pieces until it says STREAM_END, the client goes or the server stops.
 * `state` lives as long as req->arena. Wakes of one stream are drawn together to ten a second. ERR_UNAVAILABLE when
 * streams and long polls already hold most of the connections (http_crowded). */
int res_stream(struct res *res, int status, const char *media_type, stream_fn *next, void *state, struct err *err);

/* ---- the server */
/* What is told after each answer, from an event thread: must not block. */
enum { HTTP_CUT = 499 }; /* status of no answer: the client left while it sent to a sink */
struct http_record {
    const char *method, *route; /* the template, "" when no route matched */
    const char *request_id;
    const struct trace *trace;
    int status;
    double seconds;
    int64_t bytes_in;
    const char *path, *owner; /* raw path without query; "" when no key was known */
    int64_t bytes_out;        /* of the answer's body; 0 for streams */
    enum err_code error;      /* what the problem was, ERR_NONE otherwise */
    const char *sent_method;  /* as the client sent it */
    const char *key_id;       /* NULL or "": none */
    const char *client;       /* address, behind trusted proxies too; "" when not known */
    const char *location;     /* of what was made, or NULL */
};

struct http_auth; /* server/auth.h */
struct blobs;

struct http_opts {
    const char *host; /* "127.0.0.1", "::1", "localhost", ...: a numeric address or a name that resolves to one */
    uint16_t port;    /* 0: any free one */
    int threads;      /* event threads */
    int executors;    /* threads of the fast lane, 0: 4; as many for whole files; half as many, at least 2, wait for children */
    int connection_limit, idle_timeout_s;
    int header_timeout_s; /* 0: 10 */
    int64_t min_rate;     /* bytes a second that a body, or the reading of an answer, must keep up; 0: any */
    int rate_window_s;    /* over so long; 0: 20 */
    _Atomic int64_t max_upload_bytes, max_json_bytes; /* http_set_limits */
    struct http_auth *auth;                                      /* borrowed: keys, Host and Origin */
    const struct router *router;                                 /* borrowed */
    struct blobs *blobs;                                         /* where uploads go; borrowed */
    const struct proxies *proxies; /* forwarded.h; borrowed; NULL: the client's address is not looked for */
    bool tls;                      /* with the identity of tls.h */
    int cors_max_age_s;
    void *app;                                                   /* req->app */
    void (*finish)(void *app, const struct req *req, struct res *res); /* headers for each answer, from an event
                                                                         * thread; may be NULL */
    int (*admit)(void *app, struct err *err);                    /* -1: nothing new now (admission.h); may be NULL */
    void (*record)(void *app, const struct http_record *record); /* may be NULL */
};

int http_start(struct http **out, const struct http_opts *opts, struct err *err);
/* The port that is listened on. */
uint16_t http_port(const struct http *http);
/* New uploads and jobs are refused with 503 from now on; parked requests answer at once. */
void http_set_draining(struct http *http);
/* Other limits for the requests that come from now on. */
void http_set_limits(struct http *http, int64_t max_upload_bytes, int64_t max_json_bytes);
bool http_draining(const struct http *http);
/* May something new be made now? -1 with ERR_UNAVAILABLE while draining, or what opts.admit says. Asked before every
 * body is read; handlers of routes without a body that make something ask themselves. */
int http_admit(struct http *http, struct err *err);
/* http_stop has waited long enough: what a handler can give up, it should. */
bool http_closing(struct http *http);
/* Run the parked handlers and streams that wait for `key` again; NULL wakes all. */
void http_wake(struct http *http, const char *key);
/* So many connections are held by streams and long polls that no more should wait: the rest is for short requests. */
bool http_crowded(struct http *http);
/* Connections open now, and those of them that hold a stream. For metrics. */
void http_counts(struct http *http, int *connections, int *streams);
/* No new connections; waits up to `grace_s` for requests under way, then cuts what still sends or receives. Frees. */
void http_stop(struct http *http, double grace_s);

#endif
