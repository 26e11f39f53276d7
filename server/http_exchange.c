/* SPDX-License-Identifier: Apache-2.0
 * http_exchange.c - the event thread's side of a request: guard, target, Host and Origin, route, key, Accept, body;
 * each step may refuse. Nothing here touches disk or catalogue.
 *
 * A refusal of a request with a body: libmicrohttpd can answer before the body was read, but then it closes the
 * connection while the client still sends, and the client may see a reset instead of the answer. So unless the client
 * waits for "100 Continue", up to HTTP_DISCARD_BYTES of the body are read and dropped first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/clock.h"
#include "server/auth.h"
#include "server/http_internal.h"

/* ---- accessors for handlers */

const char *req_header(const struct req *req, const char *name)
{
    const struct exchange *x = (const struct exchange *)((const char *)req - offsetof(struct exchange, req));
    return header_of(x, name);
}

const char *req_query(const struct req *req, const char *name)
{
    const struct exchange *x = (const struct exchange *)((const char *)req - offsetof(struct exchange, req));
    for (int i = 0; i < x->query.count; i++)
        if (strcmp(x->query.at[i].name, name) == 0)
            return x->query.at[i].value;
    return NULL;
}

int req_query_int(struct req *req, const char *name, int64_t def, int64_t min, int64_t max, int64_t *out,
                  struct err *err)
{
    const char *text = req_query(req, name);
    *out = def;
    if (!text)
        return 0;
    char *end;
    size_t len = strlen(text);
    long long value = strtoll(text, &end, 10);
    if (len && len < 19 && strspn(text + (text[0] == '-'), "0123456789") == len - (text[0] == '-') && value >= min &&
        value <= max) {
        *out = value;
        return 0;
    }
    char pointer[80];
    snprintf(pointer, sizeof pointer, "?%s", name);
    faults_add(&req->faults, pointer, "must be a whole number from %lld to %lld, not '%s'", (long long)min,
               (long long)max, text);
    return err_set(err, ERR_INVALID, "The parameter `%s` must be a whole number from %lld to %lld, not '%s'.", name,
                   (long long)min, (long long)max, text);
}

/* ---- life cycle */

static bool id_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_' ||
           c == '.';
}

static void set_request_id(struct exchange *x)
{
    const char *given = header_of(x, "X-Request-Id");
    size_t len = given ? strlen(given) : 0;
    bool good = len > 0 && len <= 128;
    for (size_t i = 0; good && i < len; i++)
        good = id_char((unsigned char)given[i]);
    if (good)
        memcpy(x->request_id, given, len + 1);
    else
        snprintf(x->request_id, sizeof x->request_id, "req_%llx%06llx", (unsigned long long)x->http->id_base,
                 (unsigned long long)atomic_fetch_add(&x->http->id_next, 1));
    x->req.request_id = x->request_id;
}

void *exchange_open(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct http *http = cls;
    struct exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->http = http;
    x->conn = conn;
    x->target = strdup(uri);
    x->req.arena = arena_new();
    x->req.http = http;
    x->req.app = http->opts.app;
    x->req.started = clock_seconds();
    x->req.path = "/";
    x->req.method = "";
    x->route_text = "";
    res_reset(&x->res, &x->req);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->socket = info ? info->socket_context : NULL;
    pthread_mutex_lock(&http->lock);
    http->live++;
    pthread_mutex_unlock(&http->lock);
    if (!x->target || !x->req.arena)
        err_set(&x->err, ERR_NOMEM, "Out of memory.");
    return x;
}

/* The path for logs; not that of a signed link, which opens a file by itself. */
static const char *shown_path(const struct exchange *x)
{
    static const char links[] = "/v1/links/";
    bool link = strstr(x->route_text, "{token}") || strncmp(x->req.path, links, strlen(links)) == 0;
    return link ? "/v1/links/{token}" : x->req.path;
}

void exchange_close(void *cls, struct MHD_Connection *conn, void **state, enum MHD_RequestTerminationCode code)
{
    struct http *http = cls;
    struct exchange *x = *state;
    (void)conn;
    (void)code;
    if (!x)
        return;
    *state = NULL;
    const bool cut = x->phase == PHASE_BODY && x->req.sink; /* what has arrived is kept */
    if (http->opts.record && (x->phase == PHASE_DONE || cut)) {
        struct http_record record = {x->req.route ? x->req.route->method : "",
                                     x->route_text,
                                     x->request_id,
                                     &x->req.trace,
                                     cut ? HTTP_CUT : x->res.status,
                                     clock_seconds() - x->req.started,
                                     x->body_bytes,
                                     shown_path(x),
                                     x->req.owner ? x->req.owner : "",
                                     (int64_t)x->res.len,
                                     x->err.code,
                                     x->req.method,
                                     x->caller.key_id,
                                     x->client,
                                     res_header_value(&x->res, "Location")};
        http->opts.record(http->opts.app, &record);
    }
    struct connection *socket = x->socket;
    x->socket = NULL;
    x->conn = NULL;
    if (socket) {
        pthread_mutex_lock(&http->lock);
        watch_idle(http, socket);
        pthread_mutex_unlock(&http->lock);
    }
    if (!x->req.sink && !x->req.upload) {
        exchange_end(x);
        return;
    }
    x->task = TASK_END; /* files are written or removed: not in the event thread */
    exec_push(x);
}

void exchange_end(struct exchange *x)
{
    struct http *http = x->http;
    if (x->phase == PHASE_BODY && x->req.sink)
        body_flush(x); /* hung up: what has arrived is worth keeping */
    body_close(x);
    upload_free(x->req.upload);
    body_claim_end(x);
    json_decref(x->req.json);
    buf_fini(&x->json);
    buf_fini(&x->out);
    faults_fini(&x->req.faults);
    res_fini(&x->res);
    arena_free(x->req.arena);
    bool streams = x->streams;
    free(x->target);
    free(x);
    pthread_mutex_lock(&http->lock);
    http->live--;
    http->streams -= streams;
    pthread_cond_broadcast(&http->fewer);
    pthread_mutex_unlock(&http->lock);
}

/* ---- the steps that may refuse */

static enum MHD_Result feed_guard(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                  const char *value, size_t value_len)
{
    (void)kind;
    guard_header(cls, name, name_len, value ? value : "", value_len);
    return MHD_YES;
}

/* Do the parts that the parser shows explain every byte of the header, as clients write it? If not, something in it was
 * dropped or cut: folded lines, blanks, NUL, a line without a name, which even ends the header early. Others may have
 * read that request in another way; it is answered, but what lies behind it on this connection is not read. */
static bool whole_header(const struct exchange *x, const char *method, const char *version, const struct guard *guard)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t line = strlen(method) + 1 + strlen(x->target) + 1 + strlen(version) + 2;
    return !info || info->header_size == line + guard->bytes + 2;
}

/* Is the query parameter `name` in the route's list? */
static bool query_allowed(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, name, n) == 0)
            return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

static int check_query(struct exchange *x)
{
    for (int i = 0; i < x->query.count; i++) {
        const char *name = x->query.at[i].name;
        char pointer[80];
        snprintf(pointer, sizeof pointer, "?%s", name);
        bool known = query_allowed(x->req.route->query, name);
        bool twice = known && req_query(&x->req, name) != x->query.at[i].value;
        if (!known)
            faults_add(&x->req.faults, pointer, "is no parameter of this call; it takes %s",
                       x->req.route->query[0] ? x->req.route->query : "none");
        if (twice)
            faults_add(&x->req.faults, pointer, "is given twice");
    }
    if (x->req.faults.count == 0)
        return 0;
    return err_set(&x->err, ERR_INVALID, "The query parameter `%s` %s.", x->req.faults.at[0].pointer + 1,
                   x->req.faults.at[0].detail);
}

/* RFC 9110 12.5.1, as far as it asks: may the answer be JSON? */
static bool accepts_json(const char *accept)
{
    for (const char *at = accept; at && *at;) {
        size_t len = strcspn(at, ","), type = strcspn(at, ",; \t");
        bool fits = (type == 3 && strncmp(at, "*/*", 3) == 0) ||
                    (type == 13 && strncasecmp(at, "application/*", 13) == 0) ||
                    (type == 16 && strncasecmp(at, "application/json", 16) == 0);
        const char *q = strstr(at, "q=");
        bool none = q && q < at + len && strtod(q + 2, NULL) <= 0;
        if (fits && !none)
            return true;
        at += len + (at[len] == ',');
        at += strspn(at, " \t");
    }
    return !accept || !*accept;
}

/* "application/json; charset=utf-8" */
static bool is_type(const char *content_type, const char *wanted)
{
    size_t len = strlen(wanted);
    return content_type && strncasecmp(content_type, wanted, len) == 0 && strchr("; \t", content_type[len]);
}

/* Length of the body as declared; -1: chunked. */
static int64_t declared_length(const struct exchange *x)
{
    const char *text = header_of(x, "Content-Length");
    if (!text)
        return header_of(x, "Transfer-Encoding") ? -1 : 0;
    return strlen(text) > 18 ? INT64_MAX : strtoll(text, NULL, 10);
}

/* RFC 9530: what the client says of its body is verified once it is there. */
static int announced(struct exchange *x, struct digests *digests)
{
    static const char *const names[] = {"Repr-Digest", "Content-Digest"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = header_of(x, names[i]);
        if (value && digest_add_field(digests, names[i], value, &x->err) != 0)
            return -1;
    }
    return 0;
}

static int json_body(struct exchange *x)
{
    int64_t limit = x->http->opts.max_json_bytes;
    if (x->length > limit)
        return err_set(&x->err, ERR_TOO_LARGE, "The JSON body has %lld bytes; at most %lld are taken.",
                       (long long)x->length, (long long)limit);
    x->json_digests = arena_calloc(x->req.arena, 1, sizeof *x->json_digests);
    if (!x->json_digests)
        return err_set(&x->err, ERR_NOMEM, "Out of memory.");
    x->mode = MODE_JSON;
    return announced(x, x->json_digests);
}

static int upload_body(struct exchange *x, const char *type)
{
    int64_t limit = x->http->opts.max_upload_bytes;
    if (x->length > limit)
        return err_set(&x->err, ERR_TOO_LARGE,
                       "The upload has %lld bytes; this server takes at most %lld (max_upload_bytes).",
                       (long long)x->length, (long long)limit);
    const int64_t may = x->caller.stored_bytes;
    if (may > 0 && x->length > may)
        return err_set(&x->err, ERR_RATE_LIMITED,
                       "stored bytes: the upload has %lld bytes; the limit of this key is %lld in all",
                       (long long)x->length, (long long)may);
    x->req.upload = upload_new(x->req.arena, x->http->opts.blobs, type, limit, &x->err);
    x->mode = MODE_UPLOAD;
    return x->req.upload ? announced(x, &x->req.upload->digests) : -1;
}

static int check_body(struct exchange *x)
{
    const char *type = header_of(x, "Content-Type"), *coding = header_of(x, "Content-Encoding");
    bool any = x->length != 0;
    enum body_kind kind = x->req.route->body;
    if (kind != BODY_NONE && http_admit(x->http, &x->err) != 0)
        return -1;
    if (any && coding && strcasecmp(coding, "identity") != 0)
        return err_set(&x->err, ERR_MEDIA_TYPE, "The body has Content-Encoding `%s`; send it as it is.", coding);
    switch (kind) {
    case BODY_NONE:
        if (x->length > HTTP_DISCARD_BYTES)
            return err_set(&x->err, ERR_TOO_LARGE, "This call takes no body, and one of %lld bytes was announced.",
                           (long long)x->length);
        x->mode = any ? MODE_DISCARD : MODE_NONE;
        return 0;
    case BODY_JSON:
        if (!is_type(type, "application/json"))
            return err_set(&x->err, ERR_MEDIA_TYPE,
                           "The body must be JSON, and Content-Type must say so: `application/json`%s%s%s. With curl, "
                           "use --json instead of -d.",
                           type ? ", not `" : "", type ? type : "", type ? "`" : "");
        return json_body(x);
    case BODY_UPLOAD:
        if (!any && !header_of(x, "Content-Length"))
            return err_set(&x->err, ERR_LENGTH_REQUIRED,
                           "An upload needs a body: send Content-Length and the bytes, or a chunked body.");
        return is_type(type, "application/json") ? json_body(x) : upload_body(x, type);
    case BODY_STREAM:
        x->mode = MODE_STREAM;
        return 0;
    }
    return 0;
}

static int check_names(struct exchange *x, const char *method, const char *authority)
{
    const struct guard_names *names = http_auth_names(x->http->opts.auth);
    const char *host = authority ? authority : header_of(x, "Host");
    if (guard_host(names, host, &x->err) != 0)
        return -1;
    return guard_origin(names, method, host, header_of(x, "Origin"), header_of(x, "Sec-Fetch-Site"), &x->err);
}

static int find_route(struct exchange *x, const char *method, const struct route_path *target)
{
    struct req *req = &x->req;
    req->route = router_find(x->http->opts.router, method, target, req->param, x->allow);
    if (req->route) {
        x->route_text = req->route->path;
        return 0;
    }
    if (!x->allow[0])
        return err_set(&x->err, ERR_NOT_FOUND, "There is nothing at this path. The calls are listed in /openapi.yaml.");
    return err_set(&x->err, ERR_METHOD, "This path does not take %s; it takes %s.", method, x->allow);
}

static int check_key(struct exchange *x)
{
    struct req *req = &x->req;
    int rc = req->route->auth == AUTH_OPEN ? 0
                                           : http_auth_check(x->http->opts.auth, header_of(x, "Authorization"),
                                                             req->route->auth, req->arena, &x->caller, &x->err);
    req->owner = x->caller.owner; /* of a refused key too: for the logs */
    req->caller = &x->caller;
    return rc;
}

/* All checks, in the order of section 7: what is wrong with the form of the request comes before what it asks for. */
static int admit(struct exchange *x, const char *method, const char *version)
{
    struct guard guard = {0};
    struct route_path target;
    const char *authority;
    struct req *req = &x->req;
    req->method = arena_strdup(req->arena, method);
    x->length = declared_length(x);
    MHD_get_connection_values_n(x->conn, MHD_HEADER_KIND, feed_guard, &guard);
    x->close = !whole_header(x, method, version, &guard);
    if (guard_verdict(&guard, version, &x->err) != 0) {
        x->close = true;
        return -1;
    }
    if (guard_target(req->arena, x->target, &target, &x->query, &req->path, &authority, &x->err) != 0 ||
        check_names(x, method, authority) != 0 || find_route(x, method, &target) != 0)
        return -1;
    if (check_key(x) != 0)
        return -1;
    if (req->route->answer == ANSWER_JSON && !accepts_json(header_of(x, "Accept")))
        return err_set(&x->err, ERR_NOT_ACCEPTABLE,
                       "The answer is application/json, which the header Accept leaves out.");
    return check_query(x) == 0 ? check_body(x) : -1;
}

/* ---- the handler of libmicrohttpd */

struct joined {
    struct exchange *x;
    const char *name;
    char *text;
};
static enum MHD_Result join(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct joined *all = cls;
    (void)kind;
    if (value && strcasecmp(name, all->name) == 0)
        all->text = all->text ? arena_printf(all->x->req.arena, "%s,%s", all->text, value)
                              : arena_strdup(all->x->req.arena, value);
    return MHD_YES;
}

/* All lines of the header count: a proxy may add one of its own behind the client's. */
static void find_client(struct exchange *x)
{
    const struct proxies *proxies = x->http->opts.proxies;
    struct joined all = {x, proxies ? proxies_header(proxies) : NULL, NULL};
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (all.name)
        MHD_get_connection_values(x->conn, MHD_HEADER_KIND, join, &all);
    if (proxies)
        proxies_client(proxies, info ? info->client_addr : NULL, all.text, x->client);
}

static void begin(struct exchange *x)
{
    find_client(x);
    trace_begin(&x->req.trace, header_of(x, "traceparent"));
    if (!x->socket)
        return;
    watch_moving(x->socket, MOVING_NOTHING);
    atomic_store(&x->socket->body_bytes, 0);
    atomic_store(&x->socket->busy, true);
}

static enum MHD_Result answer(struct exchange *x)
{
    x->phase = PHASE_DONE;
    watch_moving(x->socket, x->res.stream ? MOVING_NOTHING : MOVING_ANSWER);
    return res_send(x);
}

/* OPTIONS of a path that exists: 204 with Allow, and what an allowed origin's page asks for. */
static enum MHD_Result answer_refused(struct exchange *x, const char *method)
{
    if (x->err.code == ERR_METHOD && strcmp(method, "OPTIONS") == 0) {
        res_header(&x->res, "Allow", "%s", x->allow);
        policy_preflight(x);
        res_empty(&x->res, 204);
    } else {
        res_problem(x);
    }
    return answer(x);
}

static enum MHD_Result refuse(struct exchange *x, const char *method)
{
    bool body = x->length != 0, waits = header_of(x, "Expect") != NULL;
    if (!x->close && (!body || (!waits && x->length <= HTTP_DISCARD_BYTES))) {
        x->mode =
            body ? MODE_DISCARD : MODE_NONE; /* then answer; an answer from this call would close the connection */
        x->phase = PHASE_BODY;
        watch_moving(x->socket, body ? MOVING_BODY : MOVING_NOTHING);
        return MHD_YES;
    }
    x->close = true;
    return answer_refused(x, method);
}

/* Bytes for an upload go into the chunk. What does not fit stays with libmicrohttpd, and the connection is suspended in
 * this very call: left over bytes without suspending would wait for the next event of the socket, which never comes
 * once the client has sent all. */
static enum MHD_Result receive_upload(struct exchange *x, const char *data, size_t *size)
{
    if (!x->chunk && !body_chunk(x))
        return MHD_NO;
    size_t room = x->chunk_size - x->chunk_len, take = *size < room ? *size : room;
    memcpy(x->chunk + x->chunk_len, data, take);
    x->chunk_len += take;
    x->body_bytes += (int64_t)take;
    if (x->socket)
        atomic_fetch_add(&x->socket->body_bytes, (int64_t)take);
    *size -= take;
    return *size == 0 || exec_submit(x, TASK_FLUSH) ? MHD_YES : MHD_NO;
}

static enum MHD_Result receive(struct exchange *x, const char *data, size_t *size)
{
    size_t take = *size;
    if (x->mode == MODE_UPLOAD || x->mode == MODE_STREAM)
        return receive_upload(x, data, size);
    if (x->mode == MODE_JSON) {
        if ((int64_t)(x->json.len + take) > x->http->opts.max_json_bytes) {
            err_set(&x->err, ERR_TOO_LARGE, "The JSON body is larger than %lld bytes.",
                    (long long)x->http->opts.max_json_bytes);
            x->mode = MODE_DISCARD;
        } else {
            buf_append(&x->json, data, take);
        }
    }
    x->body_bytes += (int64_t)take;
    if (x->socket)
        atomic_fetch_add(&x->socket->body_bytes, (int64_t)take);
    *size = 0;
    if (x->mode == MODE_DISCARD)
        x->discarded += (int64_t)take;
    return x->length < 0 && x->discarded > HTTP_DISCARD_BYTES ? MHD_NO
                                                              : MHD_YES; /* a refused stream may not go on for ever */
}

static enum MHD_Result complete(struct exchange *x, const char *method)
{
    if (!x->req.route) /* refused, and the body has been dropped */
        return answer_refused(x, method);
    if (x->req.route->lane == LANE_INLINE || (x->err.code != ERR_NONE && !x->chunk)) {
        handler_run(x);
        return answer(x);
    }
    return exec_submit(x, TASK_RUN) ? MHD_YES : MHD_NO;
}

enum MHD_Result exchange_step(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                              const char *version, const char *data, size_t *size, void **state)
{
    struct exchange *x = *state;
    (void)cls;
    (void)conn;
    (void)url; /* decoded, and cut at %00: x->target is what was sent */
    if (!x || !x->target || !x->req.arena)
        return MHD_NO;
    switch (x->phase) {
    case PHASE_NEW:
        begin(x);
        set_request_id(x);
        if (admit(x, method, version) != 0)
            return refuse(x, method);
        if (x->mode == MODE_STREAM)
            return exec_submit(x, TASK_OPEN) ? MHD_YES : MHD_NO;
        /* fall through */
    case PHASE_OPENED:
        if (x->err.code != ERR_NONE)
            return refuse(x, method);
        x->phase = PHASE_BODY;
        watch_moving(x->socket, x->mode != MODE_NONE ? MOVING_BODY : MOVING_NOTHING);
        return MHD_YES;
    case PHASE_BODY:
        return *size ? receive(x, data, size) : complete(x, method);
    case PHASE_DONE:
        return answer(x);
    case PHASE_WORK: /* suspended: libmicrohttpd does not call then */
        break;
    }
    return MHD_NO;
}
