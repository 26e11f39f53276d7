/* SPDX-License-Identifier: Apache-2.0
 * resource_create.c - from received bytes to a resource. The bytes lie in temporary files; a child reads them there;
 * only what it understood is committed, so that a refused upload leaves nothing. Between commit and row the blobs are
 * pinned by their puts. */
#include <stdlib.h>
#include <string.h>

#include "api/resource.h"
#include "server/auth.h"
#include "server/gc.h"
#include "server/metrics.h"
#include "server/upload.h"

const char *resource_name(const struct resource_kind *kind, struct req *req, const char *given, struct err *err)
{
    const char *name = req_query(req, "name");
    if (!name)
        name = given[0] ? given : kind->default_name;
    if (api_good_name(name))
        return name;
    faults_add(&req->faults, "?name", "must be 1 to 200 characters without slashes and control characters");
    err_set(err, ERR_INVALID, "A %s's name must be 1 to 200 characters without slashes and control characters.",
            kind->noun);
    return NULL;
}

static const char *put_sha256(struct arena *arena, const struct blob_put *put)
{
    char sha256[SHA256_HEX];
    struct hash hash = *blob_put_hash(put);
    hash_final(&hash, sha256);
    return arena_strdup(arena, sha256);
}

/* Where each file's bytes are now. `paths` holds those of stored blobs. */
static int child_files(struct server *server, struct arena *arena, const struct resource_draft *draft,
                       struct child_file *files, struct err *err)
{
    enum { PATH_BYTES = 4096 };
    for (int i = 0; i < draft->count; i++) {
        const struct resource_source *source = &draft->files[i];
        char *path = source->put ? NULL : arena_alloc(arena, PATH_BYTES);
        if (!source->put && !path)
            return err_set(err, ERR_NOMEM, "Out of memory.");
        if (path && (blob_verify(server->blobs, source->sha256, err) != 0 ||
                     blob_path(server->blobs, source->sha256, path, PATH_BYTES, err) != 0))
            return -1;
        files[i] = (struct child_file){source->name, path ? path : blob_put_path(source->put), source->sha256};
        if (source->put && !(files[i].sha256 = put_sha256(arena, source->put)))
            return err_set(err, ERR_NOMEM, "Out of memory.");
    }
    return 0;
}

/* The child's own list of faults, if it gave one. */
static void take_faults(const json_t *problem, struct faults *faults)
{
    const json_t *list = json_object_get(problem, "errors"), *fault;
    size_t i;
    json_array_foreach(list, i, fault)
    {
        const char *pointer = json_string_value(json_object_get(fault, "pointer"));
        const char *detail = json_string_value(json_object_get(fault, "detail"));
        if (detail)
            faults_add(faults, pointer ? pointer : "", "%s", detail);
    }
}

static int inspect(const struct resource_kind *kind, const struct resource_draft *draft, struct req *req,
                   struct child_inspection *found, struct err *err)
{
    struct server *server = api_server(req);
    struct child_file *files = arena_calloc(req->arena, (size_t)draft->count, sizeof *files);
    if (!files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (child_files(server, req->arena, draft, files, err) != 0)
        return -1;
    if (kind->inspect(server, files, draft->count, found, err) == 0)
        return 0;
    if (err_status(err->code) == 422)
        metrics_add(METRIC_UPLOADS_REFUSED, 1);
    take_faults(found->problem, &req->faults);
    return -1;
}

/* Commits the puts; fills the rows of files. */
static int commit(const struct resource_draft *draft, struct req *req, struct store_file *files, int64_t *bytes,
                  struct err *err)
{
    *bytes = 0;
    for (int i = 0; i < draft->count; i++) {
        const struct resource_source *source = &draft->files[i];
        files[i] = (struct store_file){source->name, source->sha256, source->bytes};
        if (source->put) {
            char sha256[SHA256_HEX];
            files[i].bytes = blob_put_bytes(source->put);
            if (blob_put_commit(source->put, sha256, err) != 0)
                return -1;
            files[i].sha256 = arena_strdup(req->arena, sha256);
            if (!files[i].sha256)
                return err_set(err, ERR_NOMEM, "Out of memory.");
        }
        *bytes += files[i].bytes;
    }
    return 0;
}

static int insert(const struct resource_kind *kind, const struct resource_draft *draft,
                  const struct child_inspection *found, struct req *req, struct store_file *files,
                  struct store_resource *row, bool *existed, struct err *err)
{
    int64_t bytes;
    struct store_detail details[4] = {0};
    int n = 0;
    if (commit(draft, req, files, &bytes, err) != 0)
        return -1;
    if (found->layers)
        details[n++] = (struct store_detail){"layers", found->layers};
    if (found->graph)
        details[n++] = (struct store_detail){"graph", found->graph};
    if (found->groups)
        details[n++] = (struct store_detail){"groups", found->groups};
    char *facts = json_dumps(found->facts, JSON_COMPACT | JSON_REAL_PRECISION(15));
    if (!facts)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    struct store_resource in = {.owner = req->owner,
                                .name = draft->name,
                                .sha256 = files[0].sha256,
                                .parent_job = draft->parent_job,
                                .facts = facts,
                                .bytes = bytes,
                                .files = files,
                                .file_count = draft->count,
                                .max_bytes = req->caller->stored_bytes};
    int rc = store_resource_insert(api_server(req)->store, kind->kind, &in, details, req->arena, row, existed, err);
    free(facts);
    return rc;
}

int resource_create(const struct resource_kind *kind, const struct resource_draft *draft, struct req *req,
                    struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct child_inspection found = {0};
    struct store_resource row;
    bool existed = false;
    struct store_file *files = arena_calloc(req->arena, (size_t)draft->count, sizeof *files);
    if (!files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    int rc = inspect(kind, draft, req, &found, err);
    if (rc == 0) {
        rc = insert(kind, draft, &found, req, files, &row, &existed, err);
        if (rc == 0)
            rc = res_json(res, existed ? 200 : 201, resource_json(kind, &row), err);
        if (rc == 0)
            res_header(res, "Location", "%s/%s", kind->path, row.id);
        upload_free(req->upload);
        for (int i = 0; i < draft->count;
             i++) /* what no row refers to: after a failed insert, or of other names than the row's */
            if (files[i].sha256 && draft->files[i].put)
                gc_blob(server->store, server->blobs, files[i].sha256);
    }
    child_inspection_fini(&found);
    return rc;
}
