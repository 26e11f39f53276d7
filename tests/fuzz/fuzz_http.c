/* SPDX-License-Identifier: Apache-2.0
 * A request head as the server judges it before anything else: "METHOD TARGET VERSION", header lines "NAME:VALUE".
 * Guard, target, Host, Origin, route, ranges and conditions, traces, addresses told by proxies: what they let through
 * must be safe to act on. The header "trusted" stands for the setting `trusted_proxies`. */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/utf8.h"
#include "server/forwarded.h"
#include "server/guard.h"
#include "server/range.h"
#include "server/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The server's paths, without the handlers, which would bring the whole server with them. */
static int handled(struct req *req, struct res *res, struct err *err)
{
    (void)req, (void)res, (void)err;
    return 0;
}
static const struct route routes[] = {
#define ROUTE(verb, form, ...) {.method = #verb, .path = form, .handler = handled},
#define ROUTE_UNTIL ROUTE
#include "api/routes.def"
#undef ROUTE
#undef ROUTE_UNTIL
    {0},
};

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct head {
    const char *method, *target, *version;
    const char *host, *origin, *site, *range, *match, *trace, *forwarded, *forwarded_for, *trusted;
    struct guard guard;
};

/* Text up to `stop`, cut off the front of *at. */
static char *cut(char **at, char stop)
{
    char *text = *at, *end = strchr(text, stop);
    *at = end ? end + 1 : text + strlen(text);
    if (end)
        *end = 0;
    return text;
}

static void header(struct head *head, const char *name, const char *value, size_t value_len)
{
    const struct {
        const char *name, **to;
    } known[] = {{"Host", &head->host},           {"Origin", &head->origin},
                 {"Sec-Fetch-Site", &head->site}, {"Range", &head->range},
                 {"If-None-Match", &head->match}, {"traceparent", &head->trace},
                 {"Forwarded", &head->forwarded}, {"X-Forwarded-For", &head->forwarded_for},
                 {"trusted", &head->trusted}};
    guard_header(&head->guard, name, strlen(name), value, value_len);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcasecmp(name, known[i].name) == 0 && !*known[i].to)
            *known[i].to = value;
}

static void read_head(struct head *head, char *text, size_t len)
{
    char *end = text + len, *at = text, *first = cut(&at, '\n');
    head->method = cut(&first, ' ');
    head->target = cut(&first, ' ');
    head->version = first;
    while (at < end) {
        char *stop = memchr(at, '\n', (size_t)(end - at)), *line = at;
        size_t n = stop ? (size_t)(stop - at) : (size_t)(end - at);
        at += n + 1;
        line[n] = 0;
        char *colon = memchr(line, ':', n), *value = colon ? colon + 1 : line + n;
        if (colon)
            *colon = 0;
        header(head, line, value, (size_t)(line + n - value));
    }
}

static void segments(const struct route_path *target)
{
    must(target->count >= 0 && target->count <= ROUTE_SEGMENTS);
    for (int i = 0; i < target->count; i++) {
        const char *s = target->segment[i];
        must(utf8_valid(s, strlen(s)) && !strpbrk(s, "/\\") && strcmp(s, ".") && strcmp(s, ".."));
        for (; *s; s++)
            must((unsigned char)*s >= 32 && *s != 127);
    }
}

static struct router *router;

static void free_router(void)
{
    router_free(router);
}

static void route(const struct head *head)
{
    struct err err = {0};
    struct route_path target;
    struct query query;
    const char *path, *authority, *param[ROUTE_PARAMS] = {0};
    char allow[ROUTE_ALLOW];
    struct arena *arena = arena_new();
    int rc = guard_target(arena, head->target, &target, &query, &path, &authority, &err);
    must((rc == 0) == (err.code == ERR_NONE));
    if (rc == 0) {
        segments(&target);
        for (int i = 0; i < query.count; i++)
            must(utf8_valid(query.at[i].name, strlen(query.at[i].name)) &&
                 utf8_valid(query.at[i].value, strlen(query.at[i].value)));
        const struct route *found = router_find(router, head->method, &target, param, allow);
        must(found ? found->handler != NULL : strlen(allow) < ROUTE_ALLOW);
        if (authority)
            guard_host(&(struct guard_names){.loopback = true}, authority, &(struct err){0});
    }
    arena_free(arena);
}

static void names(const struct head *head)
{
    static const char *const hosts[] = {"pared.example", NULL}, *const origins[] = {"https://ci.example", NULL};
    for (int i = 0; i < 4; i++) {
        const struct guard_names who = {i & 1, i & 2 ? hosts : NULL, i & 2 ? origins : NULL};
        struct err err = {0};
        int rc = guard_host(&who, head->host, &err);
        must((rc == 0) == (err.code == ERR_NONE));
        err = (struct err){0};
        rc = guard_origin(&who, head->method, head->host, head->origin, head->site, &err);
        must((rc == 0) == (err.code == ERR_NONE));
    }
}

static void conditions(const struct head *head)
{
    static const uint64_t sizes[] = {0, 1, 100, UINT64_MAX / 2};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t first = 0, len = 0;
        if (range_parse(head->range, sizes[i], &first, &len) == RANGE_PART)
            must(len > 0 && first < sizes[i] && len <= sizes[i] - first);
    }
    etag_listed(head->match, "\"abc\"", true);
    must(!etag_listed(head->match, "\"abc\"", false) || etag_listed(head->match, "\"abc\"", true));
    struct trace trace;
    trace_begin(&trace, head->trace);
}

/* What is known of the client is an address or nothing, whatever its proxies say. */
static void client(const config_list *trusted, const char *name, const char *value)
{
    const struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};
    const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct sockaddr *peers[] = {(const struct sockaddr *)&v4, (const struct sockaddr *)&v6, NULL};
    struct proxies proxies;
    struct err err = {0};
    int rc = proxies_init(&proxies, trusted, name, &err);
    must((rc == 0) == (err.code == ERR_NONE));
    if (rc != 0)
        return;
    must((proxies_header(&proxies) != NULL) == (trusted->count > 0));
    for (int i = 0; i < 3; i++) {
        char out[CLIENT_TEXT];
        struct in6_addr bytes;
        proxies_client(&proxies, peers[i], value, out);
        must(peers[i] ? inet_pton(strchr(out, ':') ? AF_INET6 : AF_INET, out, &bytes) == 1 : !out[0]);
        must(trusted->count > 0 || i != 0 || strcmp(out, "10.0.0.1") == 0);
    }
    proxies_fini(&proxies);
}

static void clients(const struct head *head)
{
    char *items[4], *text = strdup(head->trusted ? head->trusted : "10.0.0.0/8"), *at = text;
    must(text != NULL);
    config_list trusted = {items, 0};
    while (*at && trusted.count < 4)
        items[trusted.count++] = cut(&at, ',');
    client(&trusted, "Forwarded", head->forwarded);
    client(&trusted, "X-Forwarded-For", head->forwarded_for);
    client(&trusted, head->method, head->forwarded_for);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!router) {
        router = router_new(routes);
        if (router && router_rows(router) != routes)
            abort();
        atexit(free_router);
    }
    char *text = malloc(size + 1);
    if (!text || !router)
        abort();
    memcpy(text, data, size);
    text[size] = 0;
    struct head head = {0};
    struct err err = {0};
    read_head(&head, text, size);
    int rc = guard_verdict(&head.guard, head.version, &err);
    must((rc == 0) == (err.code == ERR_NONE));
    must(rc != 0 ||
         (head.guard.lengths <= 1 && head.guard.encodings <= 1 && !(head.guard.lengths && head.guard.encodings)));
    route(&head);
    names(&head);
    conditions(&head);
    clients(&head);
    free(text);
    return 0;
}
