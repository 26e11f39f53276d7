/* SPDX-License-Identifier: Apache-2.0
 * router.h - from method and path to a row of the route table.
 * Why        one table (api/routes.def) says everything about a route: dispatch, authentication, body, 405's Allow
 *            and the contract test are derived from its rows.
 * Paths      "/v1/jobs/{id}/artifacts/{name}": a {segment} matches one non-empty segment, {file.ext} one
 *            with a dot in it. Literal segments win over {segments}. */
#ifndef PARED_SERVER_ROUTER_H
#define PARED_SERVER_ROUTER_H

#include <stddef.h>

#include "core/base/err.h"
#include "server/scope.h"

struct req;
struct res;
struct body_sink;
typedef int handler_fn(struct req *req, struct res *res, struct err *err);

enum { ROUTE_PARAMS = 3, ROUTE_SEGMENTS = 8, ROUTE_ALLOW = 64 };

enum body_kind {
    BODY_NONE,   /* nothing is read from it */
    BODY_JSON,   /* application/json, at most 1 MiB */
    BODY_UPLOAD, /* raw bytes of any type, multipart/form-data, or application/json */
    BODY_STREAM, /* bytes for the route's sink, piece by piece; see http.h */
};
/* What a caller needs: nothing, any key, or a key with the scope of this name. */
enum auth_kind {
    AUTH_OPEN,
    AUTH_KEY,
#define X(id, name, meaning) AUTH_##id,
    SCOPE_MAP(X)
#undef X
};
enum lane {
    LANE_INLINE, /* never blocks: runs in the event thread */
    LANE_FAST,   /* catalogue and small files */
    LANE_BULK,   /* writes, syncs, hashes or removes whole files, as the pieces of every upload do */
    LANE_SLOW,   /* waits for a child process */
};

enum answer_kind {
    ANSWER_JSON, /* 406 when the client's Accept leaves JSON out */
    ANSWER_ANY,  /* files, metrics, pages */
};

/* NULL dates: the call stays. */
struct route_end {
    const char *deprecated, *sunset; /* "2026-11-23": use the successor from then on; may be gone from then on */
    const char *successor;           /* path of what to use instead */
};

struct route {
    const char *method, *path;
    handler_fn *handler;
    enum body_kind body;
    enum answer_kind answer;
    enum auth_kind auth;
    enum lane lane;
    const char *query; /* names of the allowed query parameters, separated by spaces */
    const char *summary;
    struct route_end end;
    const struct body_sink *sink; /* of BODY_STREAM, else NULL */
};

struct router;
/* `routes` is borrowed and ends with a row whose method is NULL. NULL when memory is out. */
struct router *router_new(const struct route *routes);
void router_free(struct router *router);
const struct route *router_rows(const struct router *router);

/* A decoded path, cut at its slashes. */
struct route_path {
    const char *segment[ROUTE_SEGMENTS];
    int count;
};

/* NULL with *allow "" when no route has this path; NULL with *allow "GET, HEAD, OPTIONS" when one has, but not this
 * method. HEAD finds GET's row. On success param[] holds borrowed segments of the target. */
const struct route *router_find(const struct router *router, const char *method, const struct route_path *target,
                                const char *param[ROUTE_PARAMS], char allow[ROUTE_ALLOW]);

#endif
