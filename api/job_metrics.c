/* SPDX-License-Identifier: Apache-2.0
 * job_metrics.c - what the steps of a job measured on their way: the rows of its loss curves. They are the job's events
 * of type "metric", oldest first, each with its
 * number: a viewer that watches a running job asks again with the last number it has seen as cursor. */
#include <stdio.h>

#include "api/api.h"
#include "api/handlers.h"

enum { METRICS_PAGE = 1000 };

/* ?cursor=, the number of the last event seen. */
static int read_page(struct req *req, int64_t *limit, int64_t *after, struct err *err)
{
    return req_query_int(req, "limit", METRICS_PAGE, 1, METRICS_PAGE, limit, err) ||
                   req_query_int(req, "cursor", 0, 0, INT64_MAX, after, err)
               ? -1
               : 0;
}

static json_t *metric_json(const struct store_event *event)
{
    json_t *row = api_stored(event->data);
    if (!json_is_object(row)) {
        json_decref(row);
        row = json_object();
    }
    json_object_set_new(row, "seq", json_integer(event->seq));
    api_set_time(row, "at", event->at);
    return row;
}

int job_metrics_list(struct req *req, struct res *res, struct err *err)
{
    struct store *store = api_server(req)->store;
    const char *id;
    int64_t limit, after, version;
    enum job_state state;
    int count = 0;
    if (api_id(req, "job", "job", &id, err) != 0 || read_page(req, &limit, &after, err) != 0 ||
        store_job_version(store, req->owner, id, &version, &state, err) != 0)
        return -1;
    struct store_event *rows = arena_calloc(req->arena, (size_t)limit, sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_event_list(store, req->owner, id, "metric", after, (int)limit, req->arena, rows, &count, err) != 0)
        return -1;
    json_t *list = json_array();
    char last[32];
    for (int i = 0; i < count; i++)
        json_array_append_new(list, metric_json(&rows[i]));
    snprintf(last, sizeof last, "%lld", (long long)(count ? rows[count - 1].seq : 0));
    return api_json(req, res, api_page_json(list, count == limit, last), API_LIVE, err);
}
