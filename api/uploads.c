/* SPDX-License-Identifier: Apache-2.0
 * uploads.c - /v1/uploads: tus 1.0 over HTTP. What an upload is lies in server/tus.h; here are its headers. HEAD and
 * GET are one handler: tus clients read the headers, people the JSON. */
#include <strings.h>
#include <string.h>
#include <time.h>

#include "api/handlers.h"
#include "api/resource.h"
#include "server/auth.h"
#include "server/digest.h"
#include "server/metrics.h"
#include "server/tus.h"
#include "server/tus_http.h"
#include "server/tus_text.h"

/* RFC 9110 5.6.7 */
static void expires(struct res *res, int64_t epoch_ms)
{
    char text[40];
    time_t seconds = (time_t)(epoch_ms / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) && strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm))
        res_header(res, "Upload-Expires", "%s", text);
}

static int version(const struct req *req, struct err *err)
{
    const char *given = req_header(req, "Tus-Resumable");
    if (given && strcmp(given, TUS_VERSION) == 0)
        return 0;
    return err_set(err, ERR_PRECONDITION, "The header Tus-Resumable must be " TUS_VERSION "%s%.40s%s.",
                   given ? ", not '" : "; it is missing", given ? given : "", given ? "'" : "");
}

static void add_pair(void *arg, const char *key, const char *value, size_t len)
{
    (void)len;
    api_set_text(arg, key, value);
}

static json_t *upload_json(struct req *req, const struct tus_upload *upload)
{
    const struct store_upload *row = &upload->row;
    struct err ignored = {0};
    json_t *object = json_object(), *metadata = json_object();
    tus_metadata_each(req->arena, row->metadata, add_pair, metadata, &ignored);
    json_object_set_new(object, "id", json_string(row->id));
    json_object_set_new(object, "object", json_string("upload"));
    json_object_set_new(object, "state", json_string(upload->offset == row->length ? "complete" : "receiving"));
    json_object_set_new(object, "offset", json_integer(upload->offset));
    json_object_set_new(object, "length", json_integer(row->length));
    json_object_set_new(object, "metadata", metadata);
    api_set_text(object, "sha256", row->sha256);
    api_set_time(object, "created_at", row->created_at);
    api_set_time(object, "expires_at", row->expires_at);
    return object;
}

static void set_headers(struct res *res, const struct tus_upload *upload)
{
    res_header(res, "Upload-Offset", "%lld", (long long)upload->offset);
    expires(res, upload->row.expires_at);
    res_header(res, "Cache-Control", "no-store");
}

/* ---- POST */

static int refuse_extensions(const struct req *req, struct err *err)
{
    static const struct {
        const char *header, *extension;
    } missing[] = {{"Upload-Defer-Length", "creation-defer-length"}, {"Upload-Concat", "concatenation"}};
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
        if (req_header(req, missing[i].header))
            return err_set(err, ERR_BAD_REQUEST,
                           "%s needs the extension `%s`, which is not offered here; OPTIONS lists those that are.",
                           missing[i].header, missing[i].extension);
    return 0;
}

int uploads_create(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    const struct config *config = atomic_load(&server->config);
    const char *metadata = req_header(req, "Upload-Metadata");
    struct tus_upload upload;
    int64_t length;
    if (version(req, err) != 0 || http_admit(req->http, err) != 0 || refuse_extensions(req, err) != 0 ||
        tus_number("Upload-Length", req_header(req, "Upload-Length"), &length, err) != 0 ||
        tus_metadata_each(req->arena, metadata ? metadata : "", NULL, NULL, err) != 0)
        return -1;
    if (length > config->max_upload_bytes)
        return err_set(err, ERR_TOO_LARGE,
                       "The upload has %lld bytes; this server takes at most %lld (max_upload_bytes).",
                       (long long)length, (long long)config->max_upload_bytes);
    if (api_room(req, length, err) != 0)
        return -1;
    const struct store_upload_new new = {.owner = req->owner,
                                         .metadata = metadata ? metadata : "",
                                         .length = length,
                                         .ttl_s = config->upload_ttl_s,
                                         .max_bytes = req->caller->stored_bytes};
    if (tus_create(server->tus, &new, req->arena, &upload, err) != 0)
        return -1;
    int rc = res_json(res, 201, upload_json(req, &upload), err);
    res_header(res, "Location", TUS_PATH "/%s", upload.row.id);
    set_headers(res, &upload);
    return rc;
}

/* ---- GET, HEAD, DELETE */

int uploads_get(struct req *req, struct res *res, struct err *err)
{
    const char *id;
    struct tus_upload upload;
    if ((strcmp(req->method, "HEAD") == 0 && version(req, err) != 0) || api_id(req, "upl", "upload", &id, err) != 0 ||
        tus_get(api_server(req)->tus, req->owner, id, req->arena, &upload, err) != 0)
        return -1;
    int rc = res_json(res, 200, upload_json(req, &upload), err);
    set_headers(res, &upload);
    res_header(res, "Upload-Length", "%lld", (long long)upload.row.length);
    if (upload.row.metadata[0])
        res_header(res, "Upload-Metadata", "%s", upload.row.metadata);
    return rc;
}

int uploads_list(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct store_page page;
    int count = 0;
    bool more = false;
    if (api_page(req, "upl", &page, err) != 0)
        return -1;
    struct store_upload *rows = arena_calloc(req->arena, (size_t)page.limit, sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_upload_list(server->store, &page, req->arena, rows, &count, &more, err) != 0)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < count; i++) {
        const struct tus_upload upload = {rows[i], tus_offset(server->tus, &rows[i])};
        json_array_append_new(list, upload_json(req, &upload));
    }
    return res_json(res, 200, api_page_json(list, more, count ? rows[count - 1].id : NULL), err);
}

int uploads_delete(struct req *req, struct res *res, struct err *err)
{
    const char *id;
    if (version(req, err) != 0 || api_id(req, "upl", "upload", &id, err) != 0 ||
        tus_delete(api_server(req)->tus, req->owner, id, err) != 0)
        return -1;
    return res_empty(res, 204);
}

/* ---- PATCH */

static int sink_open(struct req *req, struct err *err)
{
    struct server *server = api_server(req);
    const char *type = req_header(req, "Content-Type"), *length = req_header(req, "Content-Length");
    struct tus_append what = {.owner = req->owner,
                              .length = -1,
                              .checksum = req_header(req, "Upload-Checksum"),
                              .digest = req_header(req, "Content-Digest"),
                              .ttl_s = atomic_load(&server->config)->upload_ttl_s};
    if (version(req, err) != 0)
        return -1;
    if (!type || strcasecmp(type, TUS_MEDIA_TYPE) != 0)
        return err_set(err, ERR_MEDIA_TYPE, "Content-Type must be `" TUS_MEDIA_TYPE "`%s%.60s%s.",
                       type ? ", not `" : "; it is missing", type ? type : "", type ? "`" : "");
    if (api_id(req, "upl", "upload", &what.id, err) != 0 ||
        tus_number("Upload-Offset", req_header(req, "Upload-Offset"), &what.offset, err) != 0 ||
        (length && tus_number("Content-Length", length, &what.length, err) != 0))
        return -1;
    req->sink = tus_patch_open(server->tus, &what, err);
    return req->sink ? 0 : -1;
}

static int sink_write(struct req *req, const char *bytes, size_t len, struct err *err)
{
    metrics_add(METRIC_UPLOAD_BYTES, (int64_t)len);
    return tus_patch_write(req->sink, bytes, len, err);
}

static void sink_close(struct req *req)
{
    tus_patch_close(req->sink);
}

const struct body_sink uploads_sink = {sink_open, sink_write, sink_close};

int uploads_append(struct req *req, struct res *res, struct err *err)
{
    struct tus_upload upload;
    if (tus_patch_end(req->sink, req->arena, &upload, err) != 0)
        return -1;
    set_headers(res, &upload);
    return res_empty(res, 204);
}
