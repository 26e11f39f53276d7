/* SPDX-License-Identifier: Apache-2.0 */
#include "api/resource.h"

#include <string.h>

#include "core/base/utf8.h"
#include "server/gc.h"

const struct resource_kind resource_model = {
    STORE_MODEL, "mdl", "model", "/v1/models", "model.onnx", "model", child_inspect_model,
};
const struct resource_kind resource_dataset = {
    STORE_DATASET, "dst", "dataset", "/v1/datasets", "dataset", "data", child_inspect_dataset,
};

static json_t *files_json(const struct store_resource *row)
{
    json_t *list = json_array();
    for (int i = 0; i < row->file_count; i++)
        json_array_append_new(list, json_pack("{s:o, s:I, s:s}", "name", utf8_json(row->files[i].name), "bytes",
                                              (json_int_t)row->files[i].bytes, "sha256", row->files[i].sha256));
    return list;
}

json_t *resource_json(const struct resource_kind *kind, const struct store_resource *row)
{
    json_t *object = json_object(), *facts = api_resource_facts(row);
    json_object_set_new(object, "id", json_string(row->id));
    json_object_set_new(object, "object", json_string(kind->noun));
    api_set_text(object, "name", row->name);
    json_object_set_new(object, "sha256", json_string(row->sha256));
    json_object_set_new(object, "bytes", json_integer(row->bytes));
    json_object_set_new(object, "files", files_json(row));
    api_set_text(object, "parent_job", row->parent_job);
    api_set_time(object, "created_at", row->created_at);
    json_object_update_missing(object, facts); /* what the child found never hides what the catalogue knows */
    json_decref(facts);
    return object;
}

int resource_list(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err)
{
    struct store_page page;
    int count = 0;
    bool more = false;
    if (api_page(req, kind->prefix, &page, err) != 0)
        return -1;
    struct store_resource *rows = arena_calloc(req->arena, (size_t)page.limit, sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_resource_list(api_server(req)->store, kind->kind, &page, req->arena, rows, &count, &more, err) != 0)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, resource_json(kind, &rows[i]));
    return api_json(req, res, api_page_json(list, more, count ? rows[count - 1].id : NULL), API_LIVE, err);
}

static int get_row(const struct resource_kind *kind, struct req *req, struct store_resource *row, struct err *err)
{
    const char *id;
    if (api_id(req, kind->prefix, kind->noun, &id, err) != 0)
        return -1;
    return store_resource_get(api_server(req)->store, kind->kind, req->owner, id, req->arena, row, err);
}

int resource_get(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err)
{
    struct store_resource row;
    if (get_row(kind, req, &row, err) != 0)
        return -1;
    return api_json(req, res, resource_json(kind, &row), API_FIXED, err);
}

int resource_delete(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_orphans orphans = {0};
    struct store_resource row;
    if (get_row(kind, req, &row, err) != 0 || api_json_if_match(req, resource_json(kind, &row), err) != 0 ||
        store_resource_delete(server->store, kind->kind, req->owner, row.id, req->arena, &orphans, err) != 0)
        return -1;
    gc_blobs(server->store, server->blobs, &orphans);
    return res_empty(res, 204);
}

int resource_content(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err)
{
    struct store_resource row;
    const char *wanted = req_query(req, "file");
    if (get_row(kind, req, &row, err) != 0)
        return -1;
    for (int i = 0; i < row.file_count; i++) {
        const struct store_file *file = &row.files[i];
        if (wanted ? strcmp(file->name, wanted) != 0 : i != 0)
            continue;
        struct api_download what = {
            .sha256 = file->sha256, .name = file->name, .media_type = "application/octet-stream"};
        return api_download(req, res, &what, err);
    }
    return err_set(err, ERR_NOT_FOUND, "The %s has no file '%.200s'.", kind->noun, wanted ? wanted : "");
}

int resource_detail(const struct resource_kind *kind, const char *what, struct req *req, struct res *res,
                    struct err *err)
{
    const char *id, *json;
    if (api_id(req, kind->prefix, kind->noun, &id, err) != 0 ||
        store_resource_details(api_server(req)->store, kind->kind, req->owner, id, what, req->arena, &json, err) != 0)
        return -1;
    return api_text(req, res, json, API_FIXED); /* the arena outlives the answer */
}
