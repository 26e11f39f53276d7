/* SPDX-License-Identifier: Apache-2.0
 * ops.c - what those who run the server ask: alive, ready, metrics, counts. */
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "server/metrics.h"

/* Says only that the process answers: no catalogue, no disk. */
int healthz_get(struct req *req, struct res *res, struct err *err)
{
    static const char body[] = "{\"status\":\"ok\",\"version\":\"" PARED_VERSION "\"}";
    (void)req;
    (void)err;
    res_header(res, "Cache-Control", "no-store");
    return res_static(res, 200, "application/json", body, sizeof body - 1);
}

int readyz_get(struct req *req, struct res *res, struct err *err)
{
    struct err reason = {0};
    if (server_ready(api_server(req), &reason) != 0)
        return err_set(err, ERR_UNAVAILABLE, "Not ready: %s", reason.msg);
    res_header(res, "Cache-Control", "no-store");
    return res_json(res, 200, json_pack("{s:s}", "status", "ready"), err);
}

int metrics_get(struct req *req, struct res *res, struct err *err)
{
    struct buf text = {0};
    metrics_render(&text, api_server(req)->store);
    size_t len = text.len;
    char *bytes = buf_take(&text);
    if (!bytes)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    return res_take(res, 200, "text/plain; version=0.0.4; charset=utf-8", bytes, len);
}

int stats_get(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_counts counts;
    if (store_count(server->store, &counts, err) != 0)
        return -1;
    json_t *jobs = json_object(), *stats = json_object();
    for (int state = 0; state < JOB_STATE_COUNT; state++)
        json_object_set_new(jobs, job_state_name((enum job_state)state), json_integer(counts.jobs[state]));
    json_object_set_new(stats, "version", json_string(PARED_VERSION));
    json_object_set_new(stats, "uptime_s", json_integer((json_int_t)(clock_seconds() - server->started)));
    json_object_set_new(stats, "draining", json_boolean(http_draining(req->http)));
    json_object_set_new(stats, "workers", json_integer(server->config->workers));
    json_object_set_new(stats, "workers_busy", json_integer(metrics_value(METRIC_WORKERS_BUSY)));
    json_object_set_new(stats, "jobs", jobs);
    json_object_set_new(stats, "models", json_integer(counts.models));
    json_object_set_new(stats, "datasets", json_integer(counts.datasets));
    json_object_set_new(stats, "artifacts", json_integer(counts.artifacts));
    return res_json(res, 200, stats, err);
}
