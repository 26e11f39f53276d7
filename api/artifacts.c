/* SPDX-License-Identifier: Apache-2.0
 * artifacts.c - what a job made: its report and its files. */
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "core/base/clock.h"
#include "server/link.h"

static json_t *artifact_json(const struct store_artifact *artifact)
{
    json_t *row = json_object();
    char url[400];
    api_set_text(row, "id", artifact->id);
    json_object_set_new(row, "object", json_string("artifact"));
    api_set_text(row, "job", artifact->job_id);
    api_set_text(row, "name", artifact->name);
    api_set_text(row, "media_type", artifact->media_type);
    json_object_set_new(row, "bytes", json_integer(artifact->bytes));
    api_set_text(row, "sha256", artifact->sha256);
    api_set_time(row, "created_at", artifact->created_at);
    api_set_time(row, "expires_at", artifact->expires_at);
    snprintf(url, sizeof url, "/v1/jobs/%s/artifacts/%s", artifact->job_id, artifact->name);
    api_set_text(row, "href", url);
    return row;
}

int artifacts_list(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    const char *id;
    int64_t version;
    enum job_state state;
    struct store_artifact *rows = NULL;
    int count = 0;
    if (api_id(req, "job", "job", &id, err) != 0 ||
        store_job_version(server->store, req->owner, id, &version, &state, err) != 0 ||
        store_artifact_list(server->store, req->owner, id, req->arena, &rows, &count, err) != 0)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, artifact_json(&rows[i]));
    return api_json(req, res, api_page_json(list, false, NULL), API_LIVE, err);
}

/* The named artifact; a job that has not made it yet says so (409), one that never will has none (404). */
static int find(struct req *req, const char *name, struct store_artifact *out, struct err *err)
{
    struct server *server = api_server(req);
    const char *id;
    int64_t version;
    enum job_state state;
    if (api_id(req, "job", "job", &id, err) != 0 ||
        store_job_version(server->store, req->owner, id, &version, &state, err) != 0)
        return -1;
    if (!job_state_ended(state))
        return err_set(err, ERR_WRONG_STATE,
                       "The job is %s; its files exist once it has succeeded. GET /v1/jobs/%s?wait=25 waits.",
                       job_state_name(state), id);
    struct err missing = {0};
    if (store_artifact_by_name(server->store, req->owner, id, name, req->arena, out, &missing) == 0)
        return 0;
    if (missing.code != ERR_NOT_FOUND)
        return err_set(err, missing.code, "%s", missing.msg);
    return err_set(err, ERR_NOT_FOUND, "The job %s and has no artifact '%.200s'.", job_state_name(state), name);
}

int artifacts_content(struct req *req, struct res *res, struct err *err)
{
    struct store_artifact artifact;
    if (find(req, req->param[1], &artifact, err) != 0)
        return -1;
    struct api_download what = {.sha256 = artifact.sha256, .name = artifact.name, .media_type = artifact.media_type};
    return api_download(req, res, &what, err);
}

/* ---- links: one file, a short time, no key */

int artifacts_link(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_artifact artifact;
    char token[LINK_TOKEN], url[LINK_TOKEN + 20];
    int64_t ends_at = clock_epoch_ms() + atomic_load(&server->config)->link_ttl_s * 1000;
    if (find(req, req->param[1], &artifact, err) != 0)
        return -1;
    if (!link_sign(server->link_secret, req->owner, artifact.id, ends_at, token))
        return err_set(err, ERR_INTERNAL, "The artifact's id cannot be signed.");
    snprintf(url, sizeof url, "/v1/links/%s", token);
    json_t *link = json_object();
    json_object_set_new(link, "object", json_string("link"));
    api_set_text(link, "artifact", artifact.id);
    api_set_text(link, "name", artifact.name);
    api_set_text(link, "url", url);
    api_set_time(link, "expires_at", ends_at);
    res_header(res, "Cache-Control", "no-store");
    return res_json(res, 200, link, err);
}

/* What is not signed by this server is no link: 404, whatever it names. */
int links_content(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_artifact artifact;
    struct err missing = {0};
    char id[ID_SIZE];
    int64_t ends_at;
    if (!link_read(req->param[0], id, &ends_at))
        return err_set(err, ERR_NOT_FOUND, "This is no link of this server.");
    if (store_artifact_any(server->store, id, req->arena, &artifact, &missing) != 0 && missing.code != ERR_NOT_FOUND)
        return err_set(err, missing.code, "%s", missing.msg);
    if (!link_verify(server->link_secret, missing.code ? "" : artifact.owner, req->param[0]) || missing.code)
        return err_set(err, ERR_NOT_FOUND, "This is no link of this server.");
    if (ends_at <= clock_epoch_ms())
        return err_set(err, ERR_FORBIDDEN,
                       "The link has ended. POST /v1/jobs/{id}/artifacts/{name}/link gives another one.");
    struct api_download what = {
        .sha256 = artifact.sha256, .name = artifact.name, .media_type = artifact.media_type, .ends = true};
    return api_download(req, res, &what, err);
}

int jobs_report(struct req *req, struct res *res, struct err *err)
{
    struct store_artifact artifact;
    if (find(req, "report.json", &artifact, err) != 0)
        return -1;
    struct api_download what = {
        .sha256 = artifact.sha256, .name = artifact.name, .media_type = "application/json", .inline_ = true};
    return api_download(req, res, &what, err);
}

/* ---- by id: an artifact exists only once its job has succeeded */

static int find_by_id(struct req *req, struct store_artifact *out, struct err *err)
{
    const char *id;
    if (api_id(req, "art", "artifact", &id, err) != 0)
        return -1;
    return store_artifact_get(api_server(req)->store, req->owner, id, req->arena, out, err);
}

int artifacts_get(struct req *req, struct res *res, struct err *err)
{
    struct store_artifact artifact;
    if (find_by_id(req, &artifact, err) != 0)
        return -1;
    return api_json(req, res, artifact_json(&artifact), API_FIXED, err);
}

int artifacts_get_content(struct req *req, struct res *res, struct err *err)
{
    struct store_artifact artifact;
    if (find_by_id(req, &artifact, err) != 0)
        return -1;
    struct api_download what = {.sha256 = artifact.sha256, .name = artifact.name, .media_type = artifact.media_type};
    return api_download(req, res, &what, err);
}
