/* SPDX-License-Identifier: Apache-2.0
 * router.c - the rows are cut into segments once; a lookup compares segment by segment. There are a few dozen rows, and
 * all but one or two differ in the number of segments or in the first ones, so a linear walk costs less than hashing
 * the path would. */
#include "server/router.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct pattern {
    const struct route *route;
    const char *segment[ROUTE_SEGMENTS]; /* into text */
    bool any[ROUTE_SEGMENTS], dotted[ROUTE_SEGMENTS];
    int count, literals;
    char *text;
};

struct router {
    const struct route *rows;
    struct pattern *at;
    size_t count;
};

static bool cut(struct pattern *pattern, const struct route *route)
{
    pattern->route = route;
    pattern->text = strdup(route->path);
    if (!pattern->text)
        return false;
    char *rest = pattern->text + 1; /* behind the leading slash */
    while (*rest && pattern->count < ROUTE_SEGMENTS) {
        char *end = strchr(rest, '/');
        if (end)
            *end = 0;
        pattern->any[pattern->count] = rest[0] == '{';
        pattern->dotted[pattern->count] = rest[0] == '{' && strchr(rest, '.');
        pattern->literals += rest[0] != '{';
        pattern->segment[pattern->count++] = rest;
        if (!end)
            break;
        rest = end + 1;
    }
    return true;
}

struct router *router_new(const struct route *routes)
{
    struct router *router = calloc(1, sizeof *router);
    if (!router)
        return NULL;
    router->rows = routes;
    while (routes[router->count].method)
        router->count++;
    router->at = calloc(router->count + 1, sizeof *router->at);
    bool ok = router->at != NULL;
    for (size_t i = 0; ok && i < router->count; i++)
        ok = cut(&router->at[i], &routes[i]);
    if (!ok) {
        router_free(router);
        return NULL;
    }
    return router;
}

void router_free(struct router *router)
{
    if (!router)
        return;
    for (size_t i = 0; router->at && i < router->count; i++)
        free(router->at[i].text);
    free(router->at);
    free(router);
}

const struct route *router_rows(const struct router *router)
{
    return router->rows;
}

static bool matches(const struct pattern *pattern, const struct route_path *target)
{
    if (pattern->count != target->count)
        return false;
    for (int i = 0; i < pattern->count; i++) {
        const char *segment = target->segment[i];
        bool fits = pattern->any[i] ? segment[0] && (!pattern->dotted[i] || strchr(segment, '.'))
                                    : strcmp(pattern->segment[i], segment) == 0;
        if (!fits)
            return false;
    }
    return true;
}

static void allow_add(char allow[ROUTE_ALLOW], const char *method)
{
    size_t len = strlen(allow), more = strlen(method);
    if (len + more + 3 > ROUTE_ALLOW)
        return;
    if (len) {
        memcpy(allow + len, ", ", 2);
        len += 2;
    }
    memcpy(allow + len, method, more + 1);
}

const struct route *router_find(const struct router *router, const char *method, const struct route_path *target,
                                const char *param[ROUTE_PARAMS], char allow[ROUTE_ALLOW])
{
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    const struct pattern *found = NULL;
    int literals = -1;
    allow[0] = 0;
    for (size_t i = 0; i < router->count; i++) /* a path that is spelt out hides one with {segments} */
        if (matches(&router->at[i], target) && router->at[i].literals > literals)
            literals = router->at[i].literals;
    if (literals < 0)
        return NULL;
    for (size_t i = 0; i < router->count; i++) {
        const struct pattern *pattern = &router->at[i];
        if (pattern->literals != literals || !matches(pattern, target))
            continue;
        allow_add(allow, pattern->route->method);
        if (strcmp(pattern->route->method, "GET") == 0)
            allow_add(allow, "HEAD");
        if (strcmp(pattern->route->method, wanted) == 0)
            found = pattern;
    }
    allow_add(allow, "OPTIONS");
    if (!found)
        return NULL;
    int n = 0;
    for (int i = 0; i < found->count && n < ROUTE_PARAMS; i++)
        if (found->any[i])
            param[n++] = target->segment[i];
    return found->route;
}
