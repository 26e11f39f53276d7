/* SPDX-License-Identifier: Apache-2.0
 * http_res.c - answers: what handlers fill in, and how it becomes a response of libmicrohttpd. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "server/coding.h"
#include "server/deprecation.h"
#include "server/http_internal.h"
#include "server/problem.h"

struct res_header {
    struct res_header *next;
    const char *name, *value; /* arena */
};

void res_reset(struct res *res, struct req *req)
{
    *res = (struct res){.req = req, .status = 200, .fd = -1};
}

void res_fini(struct res *res)
{
    if (!res->borrowed)
        free(res->bytes);
    if (res->fd >= 0)
        close(res->fd);
    res->bytes = NULL;
    res->borrowed = false;
    res->fd = -1;
}

void res_header(struct res *res, const char *name, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : arena_alloc(res->req->arena, (size_t)n + 1);
    struct res_header *header = text ? arena_alloc(res->req->arena, sizeof *header) : NULL;
    if (header)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    for (int i = 0; header && i < n; i++)
        if ((unsigned char)text[i] < 32 || text[i] == 127)
            return;
    if (!header)
        return;
    *header = (struct res_header){.name = name, .value = text};
    struct res_header **at = &res->headers;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    if (*at)
        (*at)->value = header->value; /* the last word counts */
    else
        *at = header;
}

const char *res_header_value(const struct res *res, const char *name)
{
    for (const struct res_header *h = res->headers; h; h = h->next)
        if (strcmp(h->name, name) == 0)
            return h->value;
    return NULL;
}

/* A fresh answer of this kind: what was set before is gone. */
static void start(struct res *res, int status, const char *media_type, size_t len)
{
    res_fini(res);
    res->status = status;
    res->len = len;
    res_header(res, "Content-Type", "%s", media_type);
}

int res_take(struct res *res, int status, const char *media_type, char *bytes, size_t len)
{
    start(res, status, media_type, len);
    res->bytes = bytes;
    return 0;
}

int res_static(struct res *res, int status, const char *media_type, const void *bytes, size_t len)
{
    start(res, status, media_type, len);
    res->bytes = (char *)(uintptr_t)bytes; /* only read: libmicrohttpd takes a void pointer */
    res->borrowed = true;
    return 0;
}

const char *res_body(const struct res *res, size_t *len)
{
    *len = res->bytes ? res->len : 0;
    return res->bytes;
}

int res_empty(struct res *res, int status)
{
    res_fini(res);
    res->status = status;
    res->len = 0;
    return 0;
}

int res_json(struct res *res, int status, json_t *json, struct err *err)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(json);
    if (!text)
        return err_set(err, ERR_NOMEM, "Out of memory for the answer.");
    return res_take(res, status, "application/json", text, strlen(text));
}

int res_file(struct res *res, int status, const char *media_type, int fd, uint64_t offset, uint64_t len)
{
    start(res, status, media_type, len);
    res->fd = fd;
    res->offset = offset;
    return 0;
}

int res_wait(struct res *res, const char *key, double until)
{
    if (!res->wait_key || strcmp(res->wait_key, key) != 0) /* a stream waits often: its arena must not grow */
        res->wait_key = arena_strdup(res->req->arena, key);
    res->wait_until = res->wait_key ? until : 0;
    return 0;
}

/* ---- content coding */

/* The body in a coding the client takes, if that pays. Bytes with a digest or a range are what was asked for, and stay.
 * The caller is an executor: event threads do not compress. */
void res_encode(struct exchange *x)
{
    struct res *res = &x->res;
    const char *etag = res_header_value(res, "ETag");
    if (!res->bytes || res->stream || res_header_value(res, "Content-Encoding") ||
        res_header_value(res, "Content-Range") || res_header_value(res, "Repr-Digest") ||
        !coding_useful(res_header_value(res, "Content-Type")))
        return;
    enum coding coding = coding_choose(req_header(&x->req, "Accept-Encoding"));
    size_t len;
    char *coded = coding_apply(coding, res->bytes, res->len, &len);
    if (!coded)
        return;
    if (!res->borrowed)
        free(res->bytes);
    res->bytes = coded;
    res->len = len;
    res->borrowed = false;
    res_header(res, "Content-Encoding", "%s", coding_name(coding));
    if (etag && strncmp(etag, "W/", 2) != 0) /* a strong one stands for the very bytes; conditions compare weakly */
        res_header(res, "ETag", "W/%s", etag);
}

/* Whoever keeps this answer (or learns from a 304 that it is still good) must know that others may get other bytes. */
static void vary(struct res *res)
{
    const char *others = res_header_value(res, "Vary");
    if (res->fd >= 0 || res->stream || (res->status != 304 && !coding_useful(res_header_value(res, "Content-Type"))))
        return;
    res_header(res, "Vary", "%s%sAccept-Encoding", others ? others : "", others ? ", " : "");
}

/* w3.org/TR/server-timing, in milliseconds: time of the handler, of which in the catalogue, and before it in a queue. */
static void server_timing(struct MHD_Response *response, const struct exchange *x)
{
    char text[120];
    if (x->worked <= 0)
        return;
    long queue = (long)(x->waited * 1e6), app = (long)(x->worked * 1e6), store = (long)(x->stored * 1e6);
    snprintf(text, sizeof text, "queue;dur=%ld.%03ld, app;dur=%ld.%03ld, store;dur=%ld.%03ld", queue / 1000,
             queue % 1000, app / 1000, app % 1000, store / 1000, store % 1000); /* a third of the time of "%.3f" */
    MHD_add_response_header(response, "Server-Timing", text);
}

/* x->err becomes the answer. */
void res_problem(struct exchange *x)
{
    struct res *res = &x->res;
    res_fini(res);
    res->stream = NULL;
    if (x->err.code == ERR_NONE)
        err_set(&x->err, ERR_INTERNAL, "The handler failed without a reason.");
    if (err_status(x->err.code) >= 500)
        log_error("request %s: %s: %s", x->request_id, err_slug(x->err.code), x->err.msg);
    int status = err_status(x->err.code);
    json_t *problem = problem_json(&x->err, &x->req.faults, x->req.path, x->request_id);
    char *text = problem ? json_dumps(problem, JSON_COMPACT) : NULL;
    json_decref(problem);
    if (text)
        res_take(res, status, "application/problem+json", text, strlen(text));
    else
        res_empty(res, status);
    if ((status == 503 || status == 507) && !res_header_value(res, "Retry-After"))
        res_header(res, "Retry-After", status == 503 ? "5" : "60");
    if (status == 401)
        res_header(res, "WWW-Authenticate", "Bearer realm=\"pared\"");
    if (status == 405)
        res_header(res, "Allow", "%s", x->allow);
    res_header(res, "Cache-Control", "no-store");
}

/* Bytes of an open file. libmicrohttpd's own sendfile goes 128 KiB at a time and wakes the reader for each: over loopback
 * that is a third slower than large blocks, read and copied. */
struct file_body {
    atomic_size_t *holders;
    int fd;
    uint64_t offset;
};

static ssize_t read_file_body(void *cls, uint64_t pos, char *buf, size_t max)
{
    const struct file_body *file = cls;
    ssize_t n;
    do
        n = pread(file->fd, buf, max, (off_t)(file->offset + pos));
    while (n < 0 && errno == EINTR);
    return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR; /* shorter than it was: the client sees a broken transfer */
}

static void close_file_body(void *cls)
{
    struct file_body *file = cls;
    atomic_fetch_sub(file->holders, 1);
    close(file->fd);
    free(file);
}

/* Takes res->fd. */
static struct MHD_Response *file_response(struct http *http, struct res *res)
{
    struct file_body *file = malloc(sizeof *file);
    if (!file)
        return NULL;
    *file = (struct file_body){.holders = &http->files, .fd = res->fd, .offset = res->offset};
    size_t share = chunk_share(&http->files), block = res->len < share ? res->len : share;
    struct MHD_Response *response =
        MHD_create_response_from_callback(res->len, block ? block : 1, read_file_body, file, close_file_body);
    if (response) {
        res->fd = -1;
        return response;
    }
    atomic_fetch_sub(&http->files, 1);
    free(file);
    return NULL;
}

static struct MHD_Response *response_of(struct exchange *x)
{
    struct res *res = &x->res;
    struct MHD_Response *response;
    if (res->stream)
        return stream_response(x);
    if (res->fd >= 0)
        return file_response(x->http, res);
    response = MHD_create_response_from_buffer(
        res->len, res->bytes, res->borrowed || !res->bytes ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);
    if (response)
        res->bytes = NULL;
    return response;
}

enum MHD_Result res_send(struct exchange *x)
{
    struct res *res = &x->res;
    if (x->http->opts.finish && x->req.method)
        x->http->opts.finish(x->http->opts.app, &x->req, res);
    if (x->req.route)
        deprecation_headers(x->req.route, res);
    vary(res);
    struct MHD_Response *response = response_of(x);
    if (!response)
        return MHD_NO;
    for (const struct res_header *h = res->headers; h; h = h->next)
        MHD_add_response_header(response, h->name, h->value);
    MHD_add_response_header(response, "X-Request-Id", x->request_id);
    MHD_add_response_header(response, "traceparent", x->req.trace.parent);
    server_timing(response, x);
    policy_headers(x, response);
    if (!res_header_value(res, "Cache-Control"))
        MHD_add_response_header(response, "Cache-Control", "private, no-cache");
    if (x->close)
        MHD_add_response_header(response, "Connection", "close");
    enum MHD_Result ok = MHD_queue_response(x->conn, (unsigned)res->status, response);
    MHD_destroy_response(response);
    return ok;
}
