/* SPDX-License-Identifier: Apache-2.0
 * Probes ask every few seconds for ever; as long as they are answered well their lines are of level debug. */
#include "server/access.h"

#include <string.h>

#include "core/base/log.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/server.h"

static enum log_level level_of(struct server *server, const struct http_record *r)
{
    static const char *const probes[] = {"/healthz", "/readyz", "/metrics"};
    for (size_t i = 0; r->status == 200 && i < sizeof probes / sizeof probes[0]; i++)
        if (!strcmp(r->route, probes[i]))
            return LOG_DEBUG;
    return (enum log_level)server->config->access_level;
}

static void log_request(enum log_level level, const struct http_record *r)
{
    /* a path with a parameter that opens something by itself is shown as its template */
    const char *path = strstr(r->route, "{token}") ? r->route : r->path;
    const struct log_scope scope = {.request_id = r->request_id, .trace_id = r->trace->id, .owner = r->owner};
    const struct log_field fields[] = {
        {.key = "method", .kind = LOG_FIELD_TEXT, .text = r->method[0] ? r->method : "-"},
        {.key = "path", .kind = LOG_FIELD_TEXT, .text = path},
        {.key = "status", .kind = LOG_FIELD_INT, .number = r->status},
        {.key = "ms", .kind = LOG_FIELD_MS, .ms = r->seconds * 1e3},
        {.key = "bytes_in", .kind = LOG_FIELD_INT, .number = r->bytes_in},
        {.key = "bytes_out", .kind = LOG_FIELD_INT, .number = r->bytes_out},
        {.key = "client", .kind = LOG_FIELD_TEXT, .text = r->client[0] ? r->client : NULL},
        {.key = "code", .kind = LOG_FIELD_TEXT, .text = r->error ? err_slug(r->error) : NULL}};
    const struct log_scope *before = log_enter(&scope);
    log_fields(level, "request", fields, sizeof fields / sizeof fields[0]);
    log_enter(before);
}

void access_record(struct server *server, const struct http_record *r)
{
    enum log_level level = level_of(server, r);
    metrics_http(r->method, r->route, r->status, r->seconds);
    if (r->error == ERR_STORE)
        metrics_add(METRIC_STORE_ERRORS_REQUEST, 1);
    if (log_on(level))
        log_request(level, r);
}
