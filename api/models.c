/* SPDX-License-Identifier: Apache-2.0
 * models.c - /v1/models. An upload is the raw file, or multipart with the part `model` and the files of its external
 * data, or JSON that names resumable uploads, or an artifact of a job, which becomes a model without travelling through
 * the client. */
#include <string.h>

#include "api/handlers.h"
#include "api/resource.h"
#include "server/metrics.h"
#include "server/upload.h"

/* External data is found by the plain name its tensors refer to: the part's file name, or else the part's own name. */
static int external_file(const struct upload_file *file, const struct resource_draft *draft, struct req *req,
                         struct resource_source *out)
{
    const char *name = file->filename[0] ? file->filename : file->field;
    const char *pointer = api_pointer(req->arena, "", file->field);
    if (!api_good_name(name)) {
        faults_add(&req->faults, pointer, "needs a plain file name, without slashes: the `location` its tensors name");
        return -1;
    }
    for (int i = 0; i < draft->count; i++) {
        if (draft->files[i].name && strcmp(draft->files[i].name, name) == 0) {
            faults_add(&req->faults, pointer, "has the file name '%s', which another part has too", name);
            return -1;
        }
    }
    *out = (struct resource_source){.name = name, .put = file->put};
    return 0;
}

static int from_upload(struct req *req, struct res *res, struct err *err)
{
    struct upload *upload = req->upload;
    struct resource_draft draft = {.count = upload->count};
    const char *filename = "";
    int main_at = upload->multipart ? -1 : 0, n = 1;
    draft.files = arena_calloc(req->arena, (size_t)upload->count + 1, sizeof *draft.files);
    if (!draft.files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    for (int i = 0; i < upload->count && main_at < 0; i++)
        if (strcmp(upload->files[i].field, resource_model.main_part) == 0)
            main_at = i;
    if (main_at < 0) {
        faults_add(&req->faults, "/model",
                   "is missing: the part `model` is the ONNX file, all other parts are its external data");
        return api_faults(req, err);
    }
    if (upload->files[main_at].filename[0])
        filename = upload->files[main_at].filename;
    draft.name = resource_name(&resource_model, req, filename, err);
    if (!draft.name)
        return -1;
    draft.files[0] = (struct resource_source){.name = draft.name, .put = upload->files[main_at].put};
    for (int i = 0; i < upload->count; i++)
        if (i != main_at && external_file(&upload->files[i], &draft, req, &draft.files[n]) == 0)
            n++;
    if (api_faults(req, err) != 0)
        return -1;
    return resource_create(&resource_model, &draft, req, res, err);
}

/* Artifacts of the job that are external data of its model: all that is neither a model nor a report. */
static bool is_external(const struct store_artifact *artifact, const struct store_artifact *model)
{
    const char *dot = strrchr(artifact->name, '.');
    return strcmp(artifact->id, model->id) != 0 && strcmp(artifact->media_type, "application/octet-stream") == 0 &&
           !(dot && strcmp(dot, ".onnx") == 0);
}

static int adopt(struct req *req, struct res *res, const struct store_artifact *model, const char *name,
                 struct err *err)
{
    struct server *server = api_server(req);
    struct store_artifact *all;
    int count = 0;
    if (store_artifact_list(server->store, req->owner, model->job_id, req->arena, &all, &count, err) != 0)
        return -1;
    struct resource_draft draft = {.name = name, .parent_job = model->job_id, .count = 1};
    draft.files = arena_calloc(req->arena, (size_t)count + 1, sizeof *draft.files);
    if (!draft.files)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    draft.files[0] = (struct resource_source){.name = name, .sha256 = model->sha256, .bytes = model->bytes};
    for (int i = 0; i < count; i++)
        if (is_external(&all[i], model))
            draft.files[draft.count++] =
                (struct resource_source){.name = all[i].name, .sha256 = all[i].sha256, .bytes = all[i].bytes};
    int pinned = 0;
    while (pinned < draft.count && blob_pin(server->blobs, draft.files[pinned].sha256, err) == 0)
        pinned++;
    int rc = pinned == draft.count ? resource_create(&resource_model, &draft, req, res, err) : -1;
    while (pinned > 0)
        blob_unpin(server->blobs, draft.files[--pinned].sha256);
    return rc;
}

/* The first upload is the model, the others are its external data under the file names of their metadata. */
static int arrange(struct req *req, const struct store_upload *rows, int count, struct resource_draft *draft,
                   struct err *err)
{
    for (int i = 0; i < count; i++) {
        const char *name = i ? resource_upload_name(req, &rows[i]) : draft->name;
        const char *pointer = arena_printf(req->arena, "/uploads/%d", i);
        if (!name[0])
            faults_add(&req->faults, pointer,
                       "needs a plain file name in the `filename` of its Upload-Metadata: the `location` its tensors "
                       "name");
        for (int k = 1; k < i; k++)
            if (name[0] && strcmp(draft->files[k].name, name) == 0)
                faults_add(&req->faults, pointer, "has the file name '%s', which another upload has too", name);
        draft->files[draft->count++] =
            (struct resource_source){.name = name, .sha256 = rows[i].sha256, .bytes = rows[i].length};
    }
    return api_faults(req, err);
}

static int from_json(struct req *req, struct res *res, struct err *err)
{
    struct resource_body body;
    struct store_artifact artifact;
    if (resource_read_body(req, &body, err) != 0)
        return -1;
    if (!body.artifact)
        return resource_from_uploads(&resource_model, &body, arrange, req, res, err);
    if (resource_artifact(req, body.artifact, &artifact, err) != 0)
        return -1;
    const char *name = body.name ? body.name : resource_name(&resource_model, req, artifact.name, err);
    return name ? adopt(req, res, &artifact, name, err) : -1;
}

int models_create(struct req *req, struct res *res, struct err *err)
{
    if (req->upload)
        metrics_add(METRIC_UPLOAD_BYTES, req->upload->bytes);
    return req->upload ? from_upload(req, res, err) : from_json(req, res, err);
}

int models_list(struct req *req, struct res *res, struct err *err)
{
    return resource_list(&resource_model, req, res, err);
}

int models_get(struct req *req, struct res *res, struct err *err)
{
    return resource_get(&resource_model, req, res, err);
}

int models_delete(struct req *req, struct res *res, struct err *err)
{
    return resource_delete(&resource_model, req, res, err);
}

int models_layers(struct req *req, struct res *res, struct err *err)
{
    return resource_detail(&resource_model, "layers", req, res, err);
}

int models_graph(struct req *req, struct res *res, struct err *err)
{
    return resource_detail(&resource_model, "graph", req, res, err);
}

int models_groups(struct req *req, struct res *res, struct err *err)
{
    return resource_detail(&resource_model, "groups", req, res, err);
}

int models_content(struct req *req, struct res *res, struct err *err)
{
    return resource_content(&resource_model, req, res, err);
}
