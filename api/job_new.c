/* SPDX-License-Identifier: Apache-2.0 */
#include "api/job_new.h"

#include <stdlib.h>
#include <string.h>

#include "api/job_view.h"
#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "server/metrics.h"

enum { KEY_MAX = 255 };

/* Visible ASCII, so that a key is the same key through every proxy and log. */
static bool idempotency_key(const char *key)
{
    const size_t len = strlen(key);
    for (size_t i = 0; i < len; i++)
        if (key[i] < '!' || key[i] > '~')
            return false;
    return len > 0 && len <= KEY_MAX;
}

bool job_label_key(const char *key)
{
    size_t len = strlen(key);
    if (len == 0 || len > JOB_LABEL_KEY_MAX || !utf8_valid(key, len))
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)key[i] < 32 || key[i] == 127 || key[i] == '=' || key[i] == ',')
            return false;
    return true;
}

void job_labels_check(json_t *labels, struct req *req)
{
    const char *key;
    json_t *value;
    if (labels && !json_is_object(labels)) {
        faults_add(&req->faults, "/labels", "must be an object of strings");
        return;
    }
    if (json_object_size(labels) > JOB_LABELS_MAX)
        faults_add(&req->faults, "/labels", "has %zu entries; at most %d are kept", json_object_size(labels),
                   JOB_LABELS_MAX);
    json_object_foreach(labels, key, value)
    {
        const char *pointer = api_pointer(req->arena, "/labels", key);
        if (!job_label_key(key))
            faults_add(&req->faults, pointer,
                       "is no key of a label: 1 to %d bytes without control characters, `=` and `,`",
                       JOB_LABEL_KEY_MAX);
        if (!json_is_string(value) || strlen(json_string_value(value)) > JOB_LABEL_VALUE_MAX)
            faults_add(&req->faults, pointer, "must be a string of at most %d bytes", JOB_LABEL_VALUE_MAX);
    }
}

int job_new_key(struct req *req, const char *bytes, size_t len, char sha256[65], struct store_job_new *job,
                struct err *err)
{
    const char *key = req_header(req, "Idempotency-Key");
    if (!key)
        return 0;
    if (!idempotency_key(key))
        return err_set(err, ERR_BAD_REQUEST, "Idempotency-Key must be 1 to %d ASCII characters without blanks.",
                       KEY_MAX);
    hash_bytes(bytes, len, sha256);
    job->idempotency_key = key;
    job->request_sha256 = sha256;
    job->idempotency_ttl_s = api_server(req)->config->idempotency_ttl_s;
    return 0;
}

/* JSON text in the arena. */
static const char *text_of(struct arena *arena, const json_t *json, size_t flags)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15) | flags) : NULL;
    const char *out = text ? arena_strdup(arena, text) : NULL;
    free(text);
    return out;
}

/* Names of the steps' methods in order, nested ones behind the step that holds them. */
static void add_methods(const json_t *steps, struct buf *out)
{
    const json_t *step;
    size_t i;
    json_array_foreach(steps, i, step)
    {
        const char *method = json_string_value(json_object_get(step, "method"));
        buf_printf(out, "%s%s", out->len ? " " : "", method ? method : "?");
        add_methods(json_object_get(step, "steps"), out);
    }
}

static const char *methods_of(struct arena *arena, const json_t *recipe)
{
    struct buf text = {0};
    add_methods(json_object_get(recipe, "steps"), &text);
    const char *out = arena_strdup(arena, text.len ? text.data : "none");
    buf_fini(&text);
    return out;
}

static int take_labels(struct arena *arena, json_t *labels, struct store_job_new *job)
{
    const char *key;
    json_t *value;
    struct store_label *list = arena_calloc(arena, json_object_size(labels) + 1, sizeof *list);
    if (!list)
        return -1;
    json_object_foreach(labels, key, value) list[job->label_count++] =
        (struct store_label){key, json_string_value(value)};
    job->labels = list;
    return 0;
}

int job_new_fill(struct arena *arena, json_t *recipe, const char *recipe_name, json_t *labels,
                 struct store_job_new *job, struct err *err)
{
    json_t *request = json_object();
    json_object_set(request, "recipe", recipe);
    api_set_text(request, "recipe_name", recipe_name);
    if (labels)
        json_object_set(request, "labels", labels);
    job->request = text_of(arena, request, 0);
    job->methods = methods_of(arena, recipe);
    const char *sorted = text_of(arena, recipe, JSON_SORT_KEYS);
    struct buf plan = {0};
    buf_printf(&plan, "pared " PARED_VERSION "\n%s", sorted ? sorted : "");
    job->plan = plan.data ? arena_strdup(arena, plan.data) : NULL;
    buf_fini(&plan);
    json_decref(request);
    if (job->request && job->methods && job->plan && sorted && take_labels(arena, labels, job) == 0)
        return 0;
    return err_set(err, ERR_NOMEM, "Out of memory.");
}

int job_new_answer(struct res *res, const struct store_job *job, bool replayed, struct err *err)
{
    if (res_json(res, job->reused ? 200 : 202, job_json(job), err) != 0)
        return -1;
    res_header(res, "Location", "/v1/jobs/%s", job->id);
    if (!job->reused)
        res_header(res, "Retry-After", "2");
    if (replayed)
        res_header(res, "Idempotent-Replayed", "true");
    else if (!job->reused)
        metrics_add(METRIC_JOBS_ACCEPTED, 1);
    return 0;
}
