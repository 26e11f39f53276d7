/* SPDX-License-Identifier: Apache-2.0
 * ops.c - what those who run the server ask: alive, ready, metrics, counts. */
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/utf8.h"
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

static json_t *check_json(const struct ready_check *check)
{
    json_t *json = json_pack("{s:b}", "ok", check->ok);
    if (check->free_bytes >= 0 && check->free_bytes < INT64_MAX)
        json_object_set_new(json, "free_bytes", json_integer(check->free_bytes));
    if (check->needed_bytes >= 0)
        json_object_set_new(json, "reserve_bytes", json_integer(check->needed_bytes));
    if (!check->ok)
        json_object_set_new(json, "detail", utf8_json(check->err.msg));
    return json;
}

/* Every check with its figures, whatever the answer is: 200, or a problem of 503. */
int readyz_get(struct req *req, struct res *res, struct err *err)
{
    struct ready_check checks[READY_CHECKS];
    const struct faults none = {0};
    struct err reason = {0};
    bool ready = server_ready(api_server(req), checks);
    json_t *rows = json_object(), *body;
    for (int i = 0; i < READY_CHECKS; i++) {
        json_object_set_new(rows, checks[i].name, check_json(&checks[i]));
        if (!checks[i].ok)
            err_set(&reason, ERR_UNAVAILABLE, "Not ready: %s", checks[i].err.msg);
    }
    body = ready ? json_pack("{s:s}", "status", "ready") : problem_json(&reason, &none, req->path, req->request_id);
    json_object_set_new(body, "checks", rows);
    res_header(res, "Cache-Control", "no-store");
    if (ready)
        return res_json(res, 200, body, err);
    res_header(res, "Retry-After", "5");
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text ? res_take(res, 503, "application/problem+json", text, strlen(text))
                : err_set(err, ERR_NOMEM, "Out of memory.");
}

/* Which server is this? Open, as /healthz tells it too. */
int version_get(struct req *req, struct res *res, struct err *err)
{
    return api_json(req, res, json_pack("{s:s, s:s, s:[s]}", "name", "pared", "version", PARED_VERSION, "api", "v1"),
                    API_FIXED, err);
}

int metrics_get(struct req *req, struct res *res, struct err *err)
{
    struct buf text = {0};
    metrics_render(&text, api_server(req));
    size_t len = text.len;
    char *bytes = buf_take(&text);
    res_header(res, "Cache-Control", "no-store");
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
    res_header(res, "Cache-Control", "no-store"); /* uptime differs every time */
    return res_json(res, 200, stats, err);
}
