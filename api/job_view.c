/* SPDX-License-Identifier: Apache-2.0 */
#include "api/job_view.h"

#include <math.h>
#include <stdio.h>

#include "api/api.h"
#include "core/base/clock.h"
#include "core/base/utf8.h"
#include "server/estimate.h"

json_t *job_progress_json(const struct store_progress *progress)
{
    json_t *object = json_pack("{s:I, s:I, s:o, s:I, s:I}", "step", (json_int_t)progress->step, "steps",
                               (json_int_t)progress->steps, "stage", utf8_json(progress->stage ? progress->stage : ""),
                               "done", (json_int_t)progress->done, "total", (json_int_t)progress->total);
    if (object && progress->eta_s >= 0)
        json_object_set_new(object, "eta_s", json_real(progress->eta_s));
    if (object && progress->metric)
        json_object_set_new(object, "metric", api_stored(progress->metric));
    return object ? object : json_null();
}

static void set_links(json_t *object, const struct store_job *job)
{
    static const struct {
        const char *name, *suffix;
        enum { ALWAYS, LIVING, ENDED, SUCCEEDED } when;
    } links[] = {{"self", "", ALWAYS},          {"artifacts", "/artifacts", ALWAYS}, {"metrics", "/metrics", ALWAYS},
                 {"events", "/events", ALWAYS}, {"report", "/report", SUCCEEDED},    {"retry", "/retry", ENDED},
                 {"cancel", "/cancel", LIVING}};
    json_t *all = json_object();
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        char url[160];
        bool ended = job_state_ended(job->state), succeeded = job->state == JOB_SUCCEEDED;
        bool shown = links[i].when == ALWAYS || (links[i].when == LIVING && !ended) ||
                     (links[i].when == ENDED && ended) || (links[i].when == SUCCEEDED && succeeded);
        snprintf(url, sizeof url, "/v1/jobs/%s%s", job->id, links[i].suffix);
        if (shown)
            json_object_set_new(all, links[i].name, json_string(url));
    }
    if (job->retry_of) {
        char url[160];
        snprintf(url, sizeof url, "/v1/jobs/%s", job->retry_of);
        json_object_set_new(all, "parent", json_string(url));
    }
    json_object_set_new(object, "links", all);
}

/* A failed job's problem, completed to a document like every other error of the API. */
static json_t *error_json(const char *stored)
{
    json_t *problem = api_stored(stored);
    enum err_code code = err_code_from_slug(
        json_string_value(json_object_get(problem, "code")) ? json_string_value(json_object_get(problem, "code")) : "");
    char type[80];
    if (!json_is_object(problem) || code == ERR_NONE)
        return problem;
    snprintf(type, sizeof type, "urn:pared:problem:%s", err_slug(code));
    json_object_set_new(problem, "type", json_string(type));
    json_object_set_new(problem, "title", json_string(err_title(code)));
    return problem;
}

/* Keys of the request and of the result that are keys of the job. */
static void take_keys(json_t *object, const char *stored, const char *const *keys)
{
    json_t *from = api_stored(stored);
    for (; *keys; keys++)
        if (json_object_get(from, *keys))
            json_object_set(object, *keys, json_object_get(from, *keys));
    json_decref(from);
}

json_t *job_json(const struct store_job *job)
{
    static const char *const request_keys[] = {"recipe", "recipe_name", "labels", NULL};
    static const char *const result_keys[] = {"targets_met", "metrics", NULL};
    json_t *object = json_object();
    json_object_set_new(object, "id", json_string(job->id));
    json_object_set_new(object, "object", json_string("job"));
    api_set_text(object, "name", job->name);
    json_object_set_new(object, "state", json_string(job_state_name(job->state)));
    json_object_set_new(object, "cancel_requested", json_boolean(job->cancel_requested_at != 0));
    for (int role = 0; role < JOB_ROLE_COUNT; role++)
        api_set_text(object, job_role_name((enum job_role)role), job->inputs[role]);
    take_keys(object, job->request, request_keys);
    api_set_text(object, "retry_of", job->retry_of);
    api_set_text(object, "traceparent", job->traceparent);
    if (job->reused)
        json_object_set_new(object, "reused", json_true());
    json_object_set_new(object, "priority", json_integer(job->priority));
    if (job->timeout_s)
        json_object_set_new(object, "timeout_s", json_integer(job->timeout_s));
    if (job->threads)
        json_object_set_new(object, "threads", json_integer(job->threads));
    if (job->memory_bytes)
        json_object_set_new(object, "memory_bytes", json_integer(job->memory_bytes));
    json_object_set_new(object, "attempt", json_integer(job->attempt));
    json_object_set_new(object, "crashes", json_integer(job->crashes));
    json_object_set_new(object, "losses", json_integer(job->losses));
    if (job->queue_position)
        json_object_set_new(object, "queue_position", json_integer(job->queue_position));
    if (job->progress.updated_at)
        json_object_set_new(object, "progress", job_progress_json(&job->progress));
    if (job->result)
        take_keys(object, job->result, result_keys);
    json_object_set_new(object, "error", job->error ? error_json(job->error) : json_null());
    json_object_set_new(object, "version", json_integer(job->version));
    api_set_time(object, "created_at", job->created_at);
    api_set_time(object, "started_at", job->started_at);
    api_set_time(object, "finished_at", job->finished_at);
    api_set_time(object, "expires_at", job->expires_at);
    set_links(object, job);
    return object;
}

/* Rounded to a tenth: more digits would claim more than a median of past jobs knows. */
static void set_estimate(json_t *object, const char *key, double seconds)
{
    if (seconds >= 0)
        json_object_set_new(object, key, json_real(round(seconds * 10) / 10));
}

json_t *job_json_estimated(const struct req *req, const struct store_job *job)
{
    json_t *object = job_json(job);
    struct server *server = api_server(req);
    if (job_state_ended(job->state))
        return object;
    struct estimate estimate = estimate_job(server->store, server->config->workers, job, clock_epoch_ms(), req->arena);
    set_estimate(object, "wait_s", estimate.wait_s);
    set_estimate(object, "eta_s", estimate.eta_s);
    return object;
}
