/* SPDX-License-Identifier: Apache-2.0
 * http_policy.c - headers that every answer carries, whatever its handler does: what a browser may make of it, whether
 * a page of another origin may read it, and what is left of the key's requests. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/http_internal.h"

enum { QUOTA_RETRY_S = 10 }; /* when jobs or bytes are too many: nobody knows when that ends */

/* ---- other origins (Fetch standard). Callers are known by a bearer key, never by a cookie, so there is no
 * Access-Control-Allow-Credentials. */

static const char cors_headers[] =
    "Authorization, Content-Type, Accept, Idempotency-Key, If-Match, If-None-Match, "
    "If-Range, Last-Event-ID, Prefer, Range, Content-Digest, Repr-Digest, X-Request-Id, traceparent, "
    "Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Checksum";
static const char cors_exposed[] =
    "Location, ETag, Retry-After, RateLimit, RateLimit-Policy, Content-Disposition, Content-Range, Accept-Ranges, "
    "Repr-Digest, X-Request-Id, Server-Timing, traceparent, Idempotent-Replayed, Deprecation, Sunset, Link, "
    "Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Upload-Offset, Upload-Length, Upload-Expires";

/* The request's Origin when it is in the setting allowed_origins. */
static const char *allowed_origin(const struct exchange *x)
{
    const char *origin = header_of(x, "Origin");
    const struct guard_names *names = http_auth_names(x->http->opts.auth);
    for (const char *const *at = names->origins; origin && at && *at; at++)
        if (strcasecmp(*at, origin) == 0)
            return origin;
    return NULL;
}

static void add_cors(const struct exchange *x, struct MHD_Response *response)
{
    const struct guard_names *names = http_auth_names(x->http->opts.auth);
    if (!names->origins || !names->origins[0])
        return;
    MHD_add_response_header(response, "Vary", "Origin");
    const char *origin = allowed_origin(x);
    if (!origin)
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", cors_exposed);
}

void policy_preflight(struct exchange *x)
{
    if (!header_of(x, "Access-Control-Request-Method") || !allowed_origin(x))
        return;
    res_header(&x->res, "Access-Control-Allow-Methods", "%s", x->allow);
    res_header(&x->res, "Access-Control-Allow-Headers", "%s", cors_headers);
    res_header(&x->res, "Access-Control-Max-Age", "%d", x->http->opts.cors_max_age_s);
}

/* ---- limits */

/* Of the key's three limits, those it has. */
static void add_policy(const struct auth_caller *caller, struct MHD_Response *response)
{
    char text[200] = "";
    size_t n = 0;
    if (caller->rate.quota)
        n += (size_t)snprintf(text, sizeof text, ", \"requests\";q=%lld;w=%d", (long long)caller->rate.quota,
                              RATE_WINDOW_S);
    if (caller->active_jobs)
        n += (size_t)snprintf(text + n, sizeof text - n, ", \"active-jobs\";q=%lld;qu=\"jobs\"",
                              (long long)caller->active_jobs);
    if (caller->stored_bytes)
        n += (size_t)snprintf(text + n, sizeof text - n, ", \"stored-bytes\";q=%lld;qu=\"content-bytes\"",
                              (long long)caller->stored_bytes);
    if (n)
        MHD_add_response_header(response, "RateLimit-Policy", text + 2);
}

static void add_limits(const struct exchange *x, struct MHD_Response *response)
{
    char text[80];
    const struct rate_view *rate = &x->caller.rate;
    add_policy(&x->caller, response);
    if (rate->quota) {
        snprintf(text, sizeof text, "\"requests\";r=%lld;t=%lld", (long long)rate->left, (long long)rate->reset_s);
        MHD_add_response_header(response, "RateLimit", text);
    }
    if (x->res.status != 429)
        return;
    snprintf(text, sizeof text, "%lld", rate->retry_s ? (long long)rate->retry_s : (long long)QUOTA_RETRY_S);
    MHD_add_response_header(response, "Retry-After", text);
}

/* RFC 6750: what is wrong with the key. */
static void add_challenge(const struct exchange *x, struct MHD_Response *response)
{
    char text[120];
    if (x->res.status != 403 || x->err.code != ERR_FORBIDDEN || !x->caller.key_id || !x->caller.key_id[0] ||
        !x->req.route || x->req.route->auth <= AUTH_KEY)
        return;
    enum scope scope = (enum scope)(x->req.route->auth - AUTH_KEY - 1);
    snprintf(text, sizeof text, "Bearer realm=\"pared\", error=\"insufficient_scope\", scope=\"%s\"",
             scope_name(scope));
    MHD_add_response_header(response, "WWW-Authenticate", text);
}

void policy_headers(const struct exchange *x, struct MHD_Response *response)
{
    static const struct {
        const char *name, *value;
    } rows[] = {
        {"X-Content-Type-Options", "nosniff"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"}, /* data is no page */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!MHD_get_response_header(response, rows[i].name))
            MHD_add_response_header(response, rows[i].name, rows[i].value);
    add_cors(x, response);
    add_limits(x, response);
    add_challenge(x, response);
}
