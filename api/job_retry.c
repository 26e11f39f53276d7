/* SPDX-License-Identifier: Apache-2.0
 * job_retry.c - POST /v1/jobs/{id}/retry: a new job of the same inputs, recipe and settings, with a link to the old
 * one. The old job is history and stays as it is. Inputs are looked up anew: one that was deleted is a fault (422). */
#include <stdio.h>
#include <string.h>

#include "api/handlers.h"
#include "api/job_new.h"
#include "core/base/hash.h"

/* `request` holds what `job` borrows. */
static int copy(struct req *req, const struct store_job *old, const json_t *request, struct store_job_new *job,
                struct err *err)
{
    *job = (struct store_job_new){.owner = req->owner,
                                  .name = old->name,
                                  .retry_of = old->id,
                                  .traceparent = req->trace.parent,
                                  .priority = old->priority,
                                  .timeout_s = old->timeout_s,
                                  .memory_bytes = old->memory_bytes,
                                  .threads = old->threads,
                                  .max_queued = api_server(req)->config->max_queued_jobs,
                                  .max_active = req->caller->active_jobs,
                                  .max_bytes = req->caller->stored_bytes};
    memcpy(job->inputs, old->inputs, sizeof job->inputs);
    return job_new_fill(req->arena, json_object_get(request, "recipe"),
                        json_string_value(json_object_get(request, "recipe_name")), json_object_get(request, "labels"),
                        job, err);
}

static int again(struct req *req, const struct store_job *old, struct store_job *out, bool *replayed, struct err *err)
{
    struct store_job_new job;
    char sha256[SHA256_HEX], what[80];
    json_t *request = api_stored(old->request);
    int len = snprintf(what, sizeof what, "retry %s", old->id);
    int rc = copy(req, old, request, &job, err);
    if (rc == 0)
        rc = job_new_key(req, what, (size_t)len, sha256, &job, err);
    if (rc == 0)
        rc = store_job_insert(api_server(req)->store, &job, req->arena, out, replayed, err);
    json_decref(request);
    return rc;
}

int jobs_retry(struct req *req, struct res *res, struct err *err)
{
    struct store_job old, job;
    const char *id;
    bool replayed = false;
    if (api_id(req, "job", "job", &id, err) != 0)
        return -1;
    if (http_admit(req->http, err) != 0 ||
        store_job_get(api_server(req)->store, req->owner, id, req->arena, &old, err) != 0)
        return -1;
    if (!job_state_ended(old.state))
        return err_set(err, ERR_WRONG_STATE, "The job is %s; only one that has ended is done again.",
                       job_state_name(old.state));
    if (again(req, &old, &job, &replayed, err) != 0)
        return -1;
    return job_new_answer(res, &job, replayed, err);
}
