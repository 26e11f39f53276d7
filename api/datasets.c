/* SPDX-License-Identifier: Apache-2.0
 * datasets.c - /v1/datasets. An upload is one file that describes itself, or multipart: the part `data` is the JSON
 * that describes the others, which are named as the keys of its `files`. The others get the file names that the
 * description gives them. Or JSON that names resumable uploads (the first describes the others, which are found by the
 * `filename` of their metadata) or an artifact of a job. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/resource.h"
#include "core/base/file.h"
#include "core/recipe/json_text.h"
#include "server/metrics.h"
#include "server/upload.h"

static const char description_name[] = "data.json";

/* One entry of `files`: which part holds it? */
static void take_part(struct req *req, const char *key, const json_t *value, bool *used, struct resource_draft *draft)
{
    struct upload *upload = req->upload;
    const char *pointer = api_pointer(req->arena, "/data/files", key), *path = json_string_value(value);
    if (!path || !api_good_name(path) || strcmp(path, description_name) == 0) {
        faults_add(&req->faults, pointer,
                   "must be a plain file name, without slashes: in an upload all files lie side by side");
        return;
    }
    for (int i = 0; i < upload->count; i++) {
        if (used[i] || strcmp(upload->files[i].field, key) != 0)
            continue;
        used[i] = true;
        for (int k = 1; k < draft->count; k++) {
            if (strcmp(draft->files[k].name, path) == 0) {
                faults_add(&req->faults, pointer,
                           "names '%s', as another key does; upload the file once a key and name them apart", path);
                return;
            }
        }
        draft->files[draft->count++] = (struct resource_source){.name = path, .put = upload->files[i].put};
        return;
    }
    for (int k = 1; k < draft->count; k++)
        if (strcmp(draft->files[k].name, path) == 0)
            return; /* two keys in one file, uploaded once */
    faults_add(&req->faults, pointer, "needs a part named `%s` with the bytes of '%s'", key, path);
}

/* `what` starts the sentences: "The part `data`". */
static json_t *read_description(const char *path, const char *what, struct err *err)
{
    size_t len;
    struct err fault = {0};
    char *text = file_read(path, JSON_TEXT_MAX, &len, &fault);
    if (!text) {
        if (fault.code == ERR_TOO_LARGE)
            err_set(err, ERR_TOO_LARGE, "%s is larger than %d bytes; it is the JSON that describes the others.", what,
                    JSON_TEXT_MAX);
        else
            err_set(err, fault.code, "%s", fault.msg);
        return NULL;
    }
    json_t *json = json_text_parse(text, len, JSON_TEXT_MAX, &fault);
    if (!json)
        err_set(err, ERR_DATASET, "%s must be the JSON that describes the others: %s", what, fault.msg);
    free(text);
    return json;
}

/* The order of `files` in the description, not that of arrival: the same dataset is the same, however it is sent. */
static int gather(struct req *req, const json_t *json, bool *used, struct resource_draft *draft)
{
    json_t *files = json_object_get(json, "files"), *value;
    const char *key;
    if (!json_is_object(files))
        faults_add(&req->faults, "/data/files", "must be an object: names of parts and the file names they go by");
    json_object_foreach(files, key, value) take_part(req, key, value, used, draft);
    for (int i = 0; i < req->upload->count; i++)
        if (!used[i])
            faults_add(&req->faults, api_pointer(req->arena, "", req->upload->files[i].field),
                       "is no key of `files` in the part `data`");
    return req->faults.count ? -1 : 0;
}

static int from_parts(struct req *req, struct res *res, struct err *err)
{
    struct upload *upload = req->upload;
    struct resource_draft draft = {.name = resource_name(&resource_dataset, req, "", err), .count = 1};
    bool *used = arena_calloc(req->arena, (size_t)upload->count + 1, sizeof *used);
    draft.files = arena_calloc(req->arena, (size_t)upload->count + 2, sizeof *draft.files);
    if (!draft.name)
        return -1;
    if (!used || !draft.files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    int data = -1;
    for (int i = 0; i < upload->count && data < 0; i++)
        if (strcmp(upload->files[i].field, resource_dataset.main_part) == 0)
            data = i;
    if (data < 0) {
        faults_add(&req->faults, "/data", "is missing: the part `data` is the JSON that describes the other parts");
        return api_faults(req, err);
    }
    used[data] = true;
    draft.files[0] = (struct resource_source){.name = description_name, .put = upload->files[data].put};
    json_t *json = read_description(blob_put_path(upload->files[data].put), "The part `data`", err);
    if (!json)
        return -1;
    int rc = gather(req, json, used, &draft) == 0 ? resource_create(&resource_dataset, &draft, req, res, err)
                                                  : api_faults(req, err);
    json_decref(json); /* the draft's names point into it */
    return rc;
}

/* ---- from uploads */

/* One entry of `files`: the upload with this file name holds it. */
static void take_upload(struct req *req, const char *key, const char *path, const struct store_upload *rows, int count,
                        struct resource_draft *draft)
{
    for (int k = 1; k < draft->count; k++)
        if (path && strcmp(draft->files[k].name, path) == 0)
            return; /* two keys in one file */
    for (int i = 1; path && strcmp(path, description_name) != 0 && i < count; i++) {
        if (strcmp(resource_upload_name(req, &rows[i]), path) != 0)
            continue;
        if (draft->count < count) /* else two uploads have one name: one stays unused, which is told */
            draft->files[draft->count++] = (struct resource_source){
                .name = arena_strdup(req->arena, path), .sha256 = rows[i].sha256, .bytes = rows[i].length};
        return;
    }
    faults_add(&req->faults, api_pointer(req->arena, "/data/files", key),
               "needs an upload whose Upload-Metadata has the `filename` that it names");
}

/* The first upload describes the others, as the part `data` does. */
static int arrange_described(struct req *req, const struct store_upload *rows, int count, struct resource_draft *draft,
                             struct err *err)
{
    enum { PATH_BYTES = 4096 };
    char *path = arena_alloc(req->arena, PATH_BYTES);
    if (!path)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (blob_path(api_server(req)->blobs, rows[0].sha256, path, PATH_BYTES, err) != 0)
        return -1;
    json_t *json = read_description(path, "The first upload", err), *files = json_object_get(json, "files"), *value;
    const char *key;
    if (!json)
        return -1;
    draft->files[0].name = description_name;
    if (!json_is_object(files))
        faults_add(&req->faults, "/data/files", "must be an object: names of parts and the file names they go by");
    json_object_foreach(files, key, value) take_upload(req, key, json_string_value(value), rows, count, draft);
    if (req->faults.count == 0 && draft->count != count)
        faults_add(&req->faults, "/uploads", "has %d uploads beside the description, which names %d of them", count - 1,
                   draft->count - 1);
    json_decref(json);
    return api_faults(req, err);
}

static int arrange(struct req *req, const struct store_upload *rows, int count, struct resource_draft *draft,
                   struct err *err)
{
    draft->count = 1;
    draft->files[0] = (struct resource_source){.name = draft->name, .sha256 = rows[0].sha256, .bytes = rows[0].length};
    return count > 1 ? arrange_described(req, rows, count, draft, err) : 0;
}

static int from_artifact(struct req *req, struct res *res, const struct resource_body *body, struct err *err)
{
    struct store_artifact artifact;
    struct blobs *blobs = api_server(req)->blobs;
    if (resource_artifact(req, body->artifact, &artifact, err) != 0)
        return -1;
    const char *name = body->name ? body->name : resource_name(&resource_dataset, req, artifact.name, err);
    struct resource_source file = {.name = name, .sha256 = artifact.sha256, .bytes = artifact.bytes};
    struct resource_draft draft = {.name = name, .parent_job = artifact.job_id, .files = &file, .count = 1};
    if (!name || blob_pin(blobs, artifact.sha256, err) != 0)
        return -1;
    int rc = resource_create(&resource_dataset, &draft, req, res, err);
    blob_unpin(blobs, artifact.sha256);
    return rc;
}

static int from_json(struct req *req, struct res *res, struct err *err)
{
    struct resource_body body;
    if (resource_read_body(req, &body, err) != 0)
        return -1;
    return body.artifact ? from_artifact(req, res, &body, err)
                         : resource_from_uploads(&resource_dataset, &body, arrange, req, res, err);
}

int datasets_create(struct req *req, struct res *res, struct err *err)
{
    if (!req->upload)
        return from_json(req, res, err);
    metrics_add(METRIC_UPLOAD_BYTES, req->upload->bytes);
    if (req->upload->multipart)
        return from_parts(req, res, err);
    struct resource_source file = {.put = req->upload->files[0].put};
    struct resource_draft draft = {.name = resource_name(&resource_dataset, req, "", err), .files = &file, .count = 1};
    file.name = draft.name;
    return draft.name ? resource_create(&resource_dataset, &draft, req, res, err) : -1;
}

int datasets_list(struct req *req, struct res *res, struct err *err)
{
    return resource_list(&resource_dataset, req, res, err);
}

int datasets_get(struct req *req, struct res *res, struct err *err)
{
    return resource_get(&resource_dataset, req, res, err);
}

int datasets_delete(struct req *req, struct res *res, struct err *err)
{
    return resource_delete(&resource_dataset, req, res, err);
}

int datasets_content(struct req *req, struct res *res, struct err *err)
{
    return resource_content(&resource_dataset, req, res, err);
}
