/* SPDX-License-Identifier: Apache-2.0
 * guard.h - what is refused before a request means anything.
 * Why        libmicrohttpd 0.9.75 reads some malformed requests in a way that a proxy before it may read otherwise
 *            (two Content-Lengths, length and chunks together, a space before a colon): that is how requests are
 *            smuggled. And a server on loopback is reachable from every web page the user opens, through DNS
 *            rebinding and cross-site posts, unless Host and Origin are looked at.
 * Errors     every check answers 0, or -1 with *err set. No allocation but guard_target, no state, any thread. */
#ifndef PARED_SERVER_GUARD_H
#define PARED_SERVER_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/arena.h"
#include "core/base/err.h"
#include "server/router.h"

enum { GUARD_HEADER_COUNT = 100, GUARD_HEADER_BYTES = 16 << 10, GUARD_TARGET_BYTES = 8 << 10 };

/* Headers are fed one by one, then judged. */
struct guard {
    int lengths, encodings, hosts;
    size_t count, bytes; /* of all header lines */
    bool bad_name, bad_encoding, bad_length, bad_value, override;
};
void guard_header(struct guard *guard, const char *name, size_t name_len, const char *value, size_t value_len);
/* ERR_BAD_REQUEST or ERR_HEADERS: answer and close. `version` is "HTTP/1.1" or "HTTP/1.0". */
int guard_verdict(const struct guard *guard, const char *version, struct err *err);

enum { QUERY_MAX = 32 };
struct query {
    struct {
        const char *name, *value;
    } at[QUERY_MAX];
    int count;
};
/* Take a request target ("/v1/jobs?limit=5", or "http://host/v1/jobs") apart, percent-decoded, into arena memory.
 * *authority is set for the absolute form, else NULL. *path is the undecoded path.
 * ERR_NOT_FOUND: encoded slash, backslash or NUL, dot segments, bytes that are no UTF-8 text: no resource has such a
 * name. ERR_BAD_REQUEST: no path, or a broken escape. */
int guard_target(struct arena *arena, const char *raw, struct route_path *target, struct query *query,
                 const char **path, const char **authority, struct err *err);

/* Names under which the server may be called. */
struct guard_names {
    bool loopback; /* bound to loopback: only localhost, 127.0.0.1, [::1] and what is listed */
    const char *const
        *hosts; /* NULL-terminated, without port; may be NULL. Not on loopback and none listed: any name */
    const char *const *origins; /* NULL-terminated "https://host[:port]"; may be NULL */
};
/* ERR_FORBIDDEN when `host` (the Host header) is none of ours. */
int guard_host(const struct guard_names *names, const char *host, struct err *err);
/* ERR_FORBIDDEN when a browser says that another site's page sends an unsafe method. origin, fetch_site: headers or
 * NULL. */
int guard_origin(const struct guard_names *names, const char *method, const char *host, const char *origin,
                 const char *fetch_site, struct err *err);

#endif
