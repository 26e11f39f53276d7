/* SPDX-License-Identifier: Apache-2.0
 * jobs.c - /v1/jobs. Everything that can be known to be wrong with a job is found before it is queued: keys, types,
 * references, the recipe against the method table, and what its steps need of data and model; all faults are listed at
 * once. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "api/job_new.h"
#include "api/job_view.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/size.h"
#include "core/recipe/recipe.h"
#include "server/attempt.h"
#include "server/gc.h"
#include "server/id.h"
#include "server/metrics.h"
#include "server/range.h"
#include "server/text_cache.h"

enum { WAIT_MAX_S = 30 };

/* What is gathered while a job is checked. */
struct draft {
    struct req *req;
    struct store_job_new job;
    json_t *facts[JOB_ROLE_COUNT]; /* of the resources, owned; NULL: not given */
    struct recipe *recipe;         /* owned */
    const char *recipe_name;       /* when it was named */
    json_t *labels;                /* borrowed */
};

static void draft_fini(struct draft *d)
{
    for (int role = 0; role < JOB_ROLE_COUNT; role++)
        json_decref(d->facts[role]);
    recipe_free(d->recipe);
}

/* ---- POST: references */

static int read_role(struct draft *d, enum job_role role, struct err *err)
{
    struct req *req = d->req;
    const char *key = job_role_name(role), *pointer = api_pointer(req->arena, "", key);
    const char *prefix = job_role_kind(role) == STORE_MODEL ? "mdl" : "dst";
    const char *noun = job_role_kind(role) == STORE_MODEL ? "model" : "dataset";
    json_t *given = json_object_get(req->json, key);
    if (json_is_null(given))
        given = NULL;
    if (!given && role == JOB_ROLE_MODEL)
        faults_add(&req->faults, pointer, "is missing: the id of an uploaded model");
    if (!given)
        return 0;
    const char *id = json_string_value(given);
    if (!id || !id_is(id, prefix)) {
        faults_add(&req->faults, pointer, "must be the id of a %s, `%s_...`", noun, prefix);
        return 0;
    }
    struct store_resource row;
    struct err fault = {0};
    if (store_resource_get(api_server(req)->store, job_role_kind(role), req->owner, id, req->arena, &row, &fault) ==
        0) {
        d->job.inputs[role] = row.id;
        d->facts[role] = api_resource_facts(&row);
        return 0;
    }
    if (fault.code != ERR_NOT_FOUND)
        return err_set(err, fault.code, "%s", fault.msg);
    faults_add(&req->faults, pointer, "names no %s: there is no '%.60s'", noun, id);
    return 0;
}

/* ---- POST: recipe */

/* The JSON of a recipe given by name; NULL with a fault. New reference. */
static json_t *named_recipe(struct draft *d, const char *name, struct err *err)
{
    struct req *req = d->req;
    const struct preset *preset = preset_find(name);
    struct store_recipe row;
    struct err fault = {0};
    d->recipe_name = name;
    if (preset)
        return json_loads(preset->recipe, 0, NULL);
    if (store_recipe_get(api_server(req)->store, req->owner, name, req->arena, &row, &fault) == 0)
        return api_stored(row.body);
    if (fault.code == ERR_NOT_FOUND)
        faults_add(&req->faults, "/recipe",
                   "names no recipe: '%.60s' is neither a preset nor one of yours (GET /v1/recipes)", name);
    else
        err_set(err, fault.code, "%s", fault.msg);
    return NULL;
}

static int read_recipe(struct draft *d, struct err *err)
{
    struct req *req = d->req;
    json_t *given = json_object_get(req->json, "recipe"), *json;
    if (!given) {
        faults_add(&req->faults, "/recipe", "is missing: a recipe like {\"steps\": [...]} or the name of one");
        return 0;
    }
    json = json_is_string(given) ? named_recipe(d, json_string_value(given), err) : json_incref(given);
    if (!json)
        return req->faults.count ? 0 : -1;
    struct err fault = {0};
    d->recipe = recipe_parse(json, "/recipe", &req->faults, &fault);
    json_decref(json);
    if (!d->recipe && err_status(fault.code) >= 500)
        return err_set(err, fault.code, "%s", fault.msg);
    return 0;
}

/* A list of operators among the model's facts, as one text in the arena; "" if none. */
static const char *operators(struct draft *d, enum job_role role, const char *fact)
{
    const json_t *list = json_object_get(d->facts[role], fact), *item;
    struct buf text = {0};
    size_t i;
    json_array_foreach(list, i, item) if (json_is_string(item))
        buf_printf(&text, "%s%s", text.len ? ", " : "", json_string_value(item));
    const char *out = text.data ? arena_strdup(d->req->arena, text.data) : "";
    buf_fini(&text);
    return out ? out : "";
}

/* From the facts of a dataset (dataset_facts); NULL: none. */
static struct recipe_data data_of(const json_t *facts)
{
    const char *labels = json_string_value(json_object_get(facts, "labels"));
    return (struct recipe_data){facts != NULL, labels != NULL, labels && strcmp(labels, "classes") == 0,
                                json_integer_value(json_object_get(facts, "max_label"))};
}

/* The longest row among the outputs a model declares, as the pipeline finds it by running; 0: a shape is not known, or
 * no row holds more than one number, which are no classes. */
static int64_t output_classes(const json_t *facts)
{
    const json_t *outputs = json_object_get(facts, "outputs"), *output, *dim;
    int64_t longest = 0;
    size_t i, d;
    json_array_foreach(outputs, i, output)
    {
        const json_t *shape = json_object_get(output, "shape");
        int64_t row = 1;
        if (!json_is_array(shape))
            return 0;
        json_array_foreach(shape, d, dim)
        {
            if (d == 0)
                continue;
            if (!json_is_integer(dim) || json_integer_value(dim) <= 0 || !i64_mul(row, json_integer_value(dim), &row))
                return 0;
        }
        longest = json_array_size(shape) > 0 && row > longest ? row : longest;
    }
    return longest > 1 ? longest : 0;
}

/* A teacher is run, whatever the model is. */
static void check_teacher(struct draft *d)
{
    const char *missing = operators(d, JOB_ROLE_TEACHER, "missing_operators");
    if (missing[0])
        faults_add(&d->req->faults, "/teacher", "these operators of the teacher are not supported: %s", missing);
}

/* Do steps and targets have what they need? Asked only when the parts themselves are right. */
static int check_needs(struct draft *d, struct err *err)
{
    json_t *const *facts = d->facts;
    struct recipe_given given = {
        .data = {[RECIPE_DATASET] = data_of(facts[JOB_ROLE_DATASET]),
                 [RECIPE_VAL_DATASET] = data_of(facts[JOB_ROLE_VAL_DATASET]),
                 [RECIPE_EVAL_DATASET] = data_of(facts[JOB_ROLE_EVAL_DATASET])},
        .missing_ops = operators(d, JOB_ROLE_MODEL, "missing_operators"),
        /* not among the facts of models that an older version looked at: then the job says it */
        .missing_gradients = operators(d, JOB_ROLE_MODEL, "operators_without_gradient"),
        .output_classes = output_classes(facts[JOB_ROLE_MODEL]),
    };
    check_teacher(d);
    return recipe_check_needs(d->recipe, &given, &d->req->faults, err);
}

/* ---- POST: the rest */

static void read_numbers(struct draft *d)
{
    const struct config *config = api_server(d->req)->config;
    struct faults *faults = &d->req->faults;
    json_t *json = d->req->json;
    d->job.priority = api_get_int(json, "priority", 0, -1000, 1000, faults);
    d->job.timeout_s = api_get_int(json, "timeout_s", 0, 1, config->job_timeout_s, faults);
    d->job.threads = api_get_int(json, "threads", 0, 1, 256, faults);
    d->job.memory_bytes =
        api_get_int(json, "memory_bytes", 0, 64 << 20,
                    config->job_memory_bytes > 0 ? config->job_memory_bytes : INT64_C(1) << 50, faults);
}

/* The name for people, labels, and whether an old result will do. */
static void read_words(struct draft *d)
{
    struct req *req = d->req;
    const json_t *reuse = json_object_get(req->json, "reuse");
    d->job.name = api_get_text(req->json, "name", &req->faults);
    if (d->job.name && !api_good_name(d->job.name))
        faults_add(&req->faults, "/name", "must be 1 to 200 bytes without slashes and control characters");
    if (reuse && !json_is_boolean(reuse))
        faults_add(&req->faults, "/reuse", "must be true or false");
    d->job.reuse = json_is_true(reuse);
    d->labels = json_object_get(req->json, "labels");
    job_labels_check(d->labels, req);
}

/* What GET shows of the request, and the worker's recipe. */
static int fill(struct draft *d, struct err *err)
{
    json_t *recipe = recipe_json(d->recipe);
    int rc = recipe ? job_new_fill(d->req->arena, recipe, d->recipe_name, d->labels, &d->job, err)
                    : err_set(err, ERR_NOMEM, "Out of memory.");
    json_decref(recipe);
    return rc;
}

static int check(struct draft *d, struct err *err)
{
    static const char *const keys[] = {"model",    "dataset",   "val_dataset", "eval_dataset", "teacher", "recipe",
                                       "priority", "timeout_s", "threads",     "memory_bytes", "labels",  "name",
                                       "reuse",    NULL};
    struct req *req = d->req;
    if (!json_is_object(req->json))
        return err_set(err, ERR_INVALID,
                       "The body must be an object like {\"model\": \"mdl_...\", \"recipe\": {\"steps\": [...]}}.");
    api_known_keys(req->json, "", keys, &req->faults);
    for (int role = 0; role < JOB_ROLE_COUNT; role++)
        if (read_role(d, (enum job_role)role, err) != 0)
            return -1;
    if (read_recipe(d, err) != 0)
        return -1;
    read_numbers(d);
    read_words(d);
    if (d->recipe && d->job.inputs[JOB_ROLE_MODEL] && check_needs(d, err) != 0)
        return -1;
    return api_faults(req, err);
}

int jobs_create(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct draft d = {.req = req,
                      .job = {.owner = req->owner,
                              .traceparent = req->trace.parent,
                              .max_queued = server->config->max_queued_jobs,
                              .max_active = req->caller->active_jobs,
                              .max_bytes = req->caller->stored_bytes}};
    char sha256[SHA256_HEX];
    struct store_job job;
    bool replayed = false;
    int rc = job_new_key(req, req->body, req->body_len, sha256, &d.job, err);
    if (rc == 0)
        rc = check(&d, err);
    if (rc == 0)
        rc = fill(&d, err);
    if (rc == 0)
        rc = store_job_insert(server->store, &d.job, req->arena, &job, &replayed, err);
    if (rc == 0)
        rc = job_new_answer(res, &job, replayed, err);
    draft_fini(&d);
    return rc;
}

/* ---- reading */

/* An ended job changes no more: its tag is strong. */
static void etag_of(int64_t version, enum job_state state, char out[API_ETAG])
{
    snprintf(out, API_ETAG, "%s\"v%lld\"", job_state_ended(state) ? "" : "W/", (long long)version);
}

/* The text of an ended job as it was made before; whether it is this owner's was asked already. */
static bool answer_known(struct req *req, struct res *res, const char *id, int64_t version)
{
    const struct text_key key = {id, version, store_job_ttl_ms(api_server(req)->store)};
    size_t len;
    char *text = text_cache_get(api_server(req)->texts, &key, &len);
    return text && res_take(res, 200, "application/json", text, len) == 0;
}

int jobs_get(struct req *req, struct res *res, struct err *err)
{
    struct store *store = api_server(req)->store;
    const char *id, *known = req_header(req, "If-None-Match");
    int64_t wait_s, since, version;
    enum job_state state;
    char etag[API_ETAG];
    if (api_id(req, "job", "job", &id, err) != 0 || req_query_int(req, "wait", 0, 0, 86400, &wait_s, err) != 0 ||
        req_query_int(req, "since", -1, 0, INT64_MAX / 2, &since, err) != 0 ||
        store_job_version(store, req->owner, id, &version, &state, err) != 0)
        return -1;
    double until = req->started + (double)(wait_s < WAIT_MAX_S ? wait_s : WAIT_MAX_S);
    etag_of(version, state, etag);
    bool unchanged = etag_listed(known, etag, true);
    bool may_wait = wait_s > 0 && clock_seconds() < until && !job_state_ended(state) && !http_draining(req->http) &&
                    (req->round > 0 || !http_crowded(req->http));
    if (may_wait && (since >= 0 ? version == since : unchanged || !known))
        return res_wait(res, id, until);
    if (unchanged) {
        res_header(res, "ETag", "%s", etag);
        return res_empty(res, 304);
    }
    if (job_state_ended(state) && answer_known(req, res, id, version)) {
        res_header(res, "ETag", "%s", etag);
        return 0;
    }
    struct store_job job;
    int64_t ttl_ms = store_job_ttl_ms(store);
    if (store_job_get(store, req->owner, id, req->arena, &job, err) != 0)
        return -1;
    etag_of(job.version, job.state, etag);
    res_header(res, "ETag", "%s", etag);
    if (res_json(res, 200, job_json_estimated(req, &job), err) != 0)
        return -1;
    if (job_state_ended(job.state)) {
        const struct text_key key = {id, job.version, ttl_ms};
        size_t len;
        const char *text = res_body(res, &len);
        text_cache_put(api_server(req)->texts, &key, text, len);
    }
    return 0;
}

/* ---- cancel, delete */

int jobs_cancel(struct req *req, struct res *res, struct err *err)
{
    struct store_job job;
    const char *id;
    if (api_id(req, "job", "job", &id, err) != 0 ||
        store_job_cancel(api_server(req)->store, req->owner, id, req->arena, &job, err) != 0)
        return -1;
    if (job_state_ended(job.state)) /* no worker has it: what an earlier attempt left goes here */
        attempt_forget(api_server(req), id);
    res_header(res, "Location", "/v1/jobs/%s", id);
    res_header(res, "Retry-After", "1");
    return res_json(res, 202, job_json(&job), err);
}

/* If-Match holds for an ended job's tag; one that has not ended is refused by its state all the same. */
static int delete_condition(const struct req *req, const char *id, struct err *err)
{
    int64_t version;
    enum job_state state;
    char etag[API_ETAG];
    if (!req_header(req, "If-Match"))
        return 0;
    if (store_job_version(api_server(req)->store, req->owner, id, &version, &state, err) != 0)
        return -1;
    etag_of(version, state, etag);
    return api_if_match(req, etag, err);
}

int jobs_delete(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_orphans orphans = {0};
    const char *id;
    if (api_id(req, "job", "job", &id, err) != 0 || delete_condition(req, id, err) != 0 ||
        store_job_delete(server->store, req->owner, id, req->arena, &orphans, err) != 0)
        return -1;
    gc_blobs(server->store, server->blobs, &orphans);
    attempt_forget(server, id);
    return res_empty(res, 204);
}
