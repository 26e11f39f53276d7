/* SPDX-License-Identifier: Apache-2.0
 * resource_upload.c - resources made of what the server has already: {"upload": id}, {"uploads": [ids]} and
 * {"artifact": id}. The blobs are pinned while a child reads them; uploads that became a resource are gone. */
#include <string.h>

#include "api/resource.h"
#include "server/tus.h"
#include "server/tus_text.h"

static int read_ids(struct req *req, struct resource_body *body, struct err *err)
{
    json_t *one = json_object_get(req->json, "upload"), *many = json_object_get(req->json, "uploads"), *item;
    size_t i, n = many ? json_array_size(many) : one ? 1 : 0;
    if (many && (!json_is_array(many) || n == 0 || n > RESOURCE_UPLOADS_MAX)) {
        faults_add(&req->faults, "/uploads", "must be a list of 1 to %d ids of uploads, the main file first",
                   RESOURCE_UPLOADS_MAX);
        return 0;
    }
    body->uploads = arena_calloc(req->arena, n + 1, sizeof *body->uploads);
    if (!body->uploads)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (one)
        body->uploads[body->count++] = api_get_text(req->json, "upload", &req->faults);
    json_array_foreach(many, i, item)
    {
        const char *id = json_string_value(item), *pointer = arena_printf(req->arena, "/uploads/%zu", i);
        if (!id)
            faults_add(&req->faults, pointer, "must be the id of an upload, `upl_...`");
        for (int k = 0; id && k < body->count; k++)
            if (body->uploads[k] && strcmp(body->uploads[k], id) == 0)
                faults_add(&req->faults, pointer, "is in the list twice");
        body->uploads[body->count++] = id;
    }
    return 0;
}

int resource_read_body(struct req *req, struct resource_body *body, struct err *err)
{
    static const char *const keys[] = {"artifact", "upload", "uploads", "name", NULL};
    *body = (struct resource_body){0};
    if (!json_is_object(req->json))
        return err_set(err, ERR_INVALID,
                       "The body must be an object like {\"upload\": \"upl_...\"} or {\"artifact\": \"art_...\"}.");
    api_known_keys(req->json, "", keys, &req->faults);
    int given = 0;
    for (int i = 0; i < 3; i++)
        given += json_object_get(req->json, keys[i]) != NULL;
    if (given != 1)
        faults_add(&req->faults, given ? "" : "/upload",
                   given ? "must have one of `upload`, `uploads` and `artifact`, not several"
                         : "is missing: the id of a complete upload (or `uploads`, a list of them, or `artifact`)");
    body->artifact = api_get_text(req->json, "artifact", &req->faults);
    body->name = api_get_text(req->json, "name", &req->faults);
    if (body->name && !api_good_name(body->name))
        faults_add(&req->faults, "/name", "must be 1 to 200 characters without slashes and control characters");
    if (read_ids(req, body, err) != 0)
        return -1;
    return api_faults(req, err);
}

const char *resource_upload_name(struct req *req, const struct store_upload *row)
{
    static const char *const keys[] = {"filename", "name"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *name = tus_metadata_get(req->arena, row->metadata, keys[i]);
        if (name && api_good_name(name))
            return name;
    }
    return "";
}

/* Pins the content of each; *taken counts those to be unpinned, whatever this returns. */
static int take(struct req *req, const struct resource_body *body, struct store_upload *rows, int *taken,
                struct err *err)
{
    for (*taken = 0; *taken < body->count; ++*taken) {
        const char *id = body->uploads[*taken];
        struct err why = {0};
        if (tus_take(api_server(req)->tus, req->owner, id, req->arena, &rows[*taken], &why) == 0)
            continue;
        if (why.code != ERR_NOT_FOUND)
            return err_set(err, why.code, "%s", why.msg);
        const char *pointer =
            json_object_get(req->json, "uploads") ? arena_printf(req->arena, "/uploads/%d", *taken) : "/upload";
        faults_add(&req->faults, pointer, "names no upload: '%.60s'; it may have expired or been used", id);
        return err_set(err, ERR_REFERENCE, "There is no upload '%.60s'; it may have expired or been used.", id);
    }
    return 0;
}

static int create(const struct resource_kind *kind, const struct resource_body *body, resource_arrange_fn *arrange,
                  const struct store_upload *rows, struct req *req, struct res *res, struct err *err)
{
    struct resource_draft draft = {.name = body->name};
    draft.files = arena_calloc(req->arena, (size_t)body->count + 1, sizeof *draft.files);
    if (!draft.files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (!draft.name)
        draft.name = resource_name(kind, req, resource_upload_name(req, &rows[0]), err);
    if (!draft.name || arrange(req, rows, body->count, &draft, err) != 0)
        return -1;
    return resource_create(kind, &draft, req, res, err);
}

int resource_from_uploads(const struct resource_kind *kind, const struct resource_body *body,
                          resource_arrange_fn *arrange, struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_upload *rows = arena_calloc(req->arena, (size_t)body->count, sizeof *rows);
    int taken = 0;
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    int rc = take(req, body, rows, &taken, err);
    if (rc == 0)
        rc = create(kind, body, arrange, rows, req, res, err);
    for (int i = 0; rc == 0 && i < body->count; i++)
        tus_used(server->tus, &rows[i]);
    while (taken > 0)
        blob_unpin(server->blobs, rows[--taken].sha256);
    return rc;
}

int resource_artifact(struct req *req, const char *id, struct store_artifact *out, struct err *err)
{
    struct err missing = {0};
    if (store_artifact_get(api_server(req)->store, req->owner, id, req->arena, out, &missing) == 0)
        return 0;
    if (missing.code != ERR_NOT_FOUND)
        return err_set(err, missing.code, "%s", missing.msg);
    faults_add(&req->faults, "/artifact", "names no artifact: '%.60s'", id);
    return err_set(err, ERR_REFERENCE, "There is no artifact '%.60s'.", id);
}
