/* SPDX-License-Identifier: Apache-2.0
 * job_list.c - GET /v1/jobs: filters of the query, all of which hold, and a page. */
#include <string.h>

#include "api/handlers.h"
#include "api/job_new.h"
#include "api/job_view.h"
#include "server/id.h"

/* state=queued,running */
static int read_states(struct req *req, unsigned *states, struct err *err)
{
    const char *text = req_query(req, "state");
    char name[24];
    *states = 0;
    while (text) {
        size_t len = strcspn(text, ",");
        size_t kept = len < sizeof name ? len : sizeof name - 1;
        memcpy(name, text, kept);
        name[kept] = 0;
        int state = job_state_from_name(name);
        if (state < 0) {
            faults_add(&req->faults, "?state",
                       "must be queued, running, succeeded, failed or canceled, or several of them with commas, not "
                       "'%s'",
                       name);
            return err_set(err, ERR_INVALID,
                           "There is no job state '%s'; it is queued, running, succeeded, failed or canceled.", name);
        }
        *states |= 1u << state;
        text = text[len] ? text + len + 1 : NULL;
    }
    return 0;
}

/* One `key=value` of the list at *text, where `\,` is a comma of the value; *text moves behind it. */
static int read_label(struct req *req, const char **text, struct store_label *out, struct err *err)
{
    size_t n = 0, room = strlen(*text) + 1;
    char *copy = arena_alloc(req->arena, room);
    if (!copy)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    const char *at = *text;
    for (; *at && *at != ','; at++) {
        at += at[0] == '\\' && at[1] != 0;
        copy[n++] = *at;
    }
    copy[n] = 0;
    *text = *at ? at + 1 : NULL;
    char *equals = strchr(copy, '=');
    if (equals)
        *equals = 0;
    *out = (struct store_label){copy, equals ? equals + 1 : ""};
    if (equals && job_label_key(copy))
        return 0;
    faults_add(&req->faults, "?label", "must be KEY=VALUE, or several with commas, not '%.60s'", copy);
    return err_set(err, ERR_INVALID,
                   "The parameter `label` must be KEY=VALUE, or several with commas, where a "
                   "comma of a value is written `\\,`.");
}

static int read_labels(struct req *req, struct store_job_filter *filter, struct err *err)
{
    const char *text = req_query(req, "label");
    struct store_label *list = arena_calloc(req->arena, JOB_FILTER_LABELS, sizeof *list);
    if (!list)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    filter->labels = list;
    while (text) {
        if (filter->label_count == JOB_FILTER_LABELS) {
            faults_add(&req->faults, "?label", "names more than %d labels", JOB_FILTER_LABELS);
            return err_set(err, ERR_INVALID, "The parameter `label` names more than %d labels.", JOB_FILTER_LABELS);
        }
        if (read_label(req, &text, &list[filter->label_count++], err) != 0)
            return -1;
    }
    return 0;
}

/* An id of this kind, or NULL when the parameter is absent. */
static int read_id(struct req *req, const char *name, const char *prefix, const char **out, struct err *err)
{
    char pointer[40];
    *out = req_query(req, name);
    if (!*out || id_is(*out, prefix))
        return 0;
    snprintf(pointer, sizeof pointer, "?%s", name);
    faults_add(&req->faults, pointer, "must be an id like `%s_...`, not '%.60s'", prefix, *out);
    return err_set(err, ERR_INVALID, "The parameter `%s` must be an id like `%s_...`.", name, prefix);
}

static int read_filter(struct req *req, struct store_job_filter *filter, int64_t *priority, struct err *err)
{
    if (read_states(req, &filter->states, err) != 0 || read_labels(req, filter, err) != 0 ||
        read_id(req, "model", "mdl", &filter->model, err) != 0 ||
        read_id(req, "retry_of", "job", &filter->retry_of, err) != 0 ||
        req_query_int(req, "priority", 0, -1000, 1000, priority, err) != 0)
        return -1;
    filter->priority = req_query(req, "priority") ? priority : NULL;
    return 0;
}

int jobs_list(struct req *req, struct res *res, struct err *err)
{
    struct store_page page;
    struct store_job_filter filter = {0};
    int64_t priority;
    int count = 0;
    bool more = false;
    if (read_filter(req, &filter, &priority, err) != 0 || api_page(req, "job", &page, err) != 0)
        return -1;
    struct store_job *rows = arena_calloc(req->arena, (size_t)page.limit, sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_job_search(api_server(req)->store, &page, &filter, req->arena, rows, &count, &more, err) != 0)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, job_json(&rows[i]));
    return api_json(req, res, api_page_json(list, more, count ? rows[count - 1].id : NULL), API_LIVE, err);
}
