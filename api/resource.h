/* SPDX-License-Identifier: Apache-2.0
 * resource.h - models and datasets: two kinds of one thing. What differs is one row; handlers of both call these. */
#ifndef PARED_API_RESOURCE_H
#define PARED_API_RESOURCE_H

#include "api/api.h"
#include "server/child.h"

struct resource_kind {
    enum store_kind kind;
    const char *prefix, *noun, *path; /* "mdl", "model", "/v1/models" */
    const char *default_name;         /* of an upload that brings none */
    const char *main_part;            /* name of the multipart part that is the first file */
    int (*inspect)(struct server *server, const struct child_file *files, int count, struct child_inspection *out,
                   struct err *err);
};
extern const struct resource_kind resource_model, resource_dataset;

/* {"id", "name", "sha256", "bytes", "files", "parent_job", "created_at", ... facts}. New reference. */
json_t *resource_json(const struct resource_kind *kind, const struct store_resource *row);
int resource_list(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err);
int resource_get(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err);
int resource_delete(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err);
int resource_content(const struct resource_kind *kind, struct req *req, struct res *res, struct err *err);
/* A stored detail ("layers", "graph", "groups") as it is. */
int resource_detail(const struct resource_kind *kind, const char *what, struct req *req, struct res *res,
                    struct err *err);

/* ---- creation (resource_create.c) */
/* One file to be, by the name the others know it by: an upload under way, or a stored blob. */
struct resource_source {
    const char *name;
    struct blob_put *put; /* or NULL and ... */
    const char *sha256;   /* ... this blob, pinned by the caller */
    int64_t bytes;
};
struct resource_draft {
    const char *name;
    const char *parent_job;        /* or NULL */
    struct resource_source *files; /* the first is the main file */
    int count;
};
/* Inspect in a child, store, answer 201 (or 200: the owner has it already) with Location. */
int resource_create(const struct resource_kind *kind, const struct resource_draft *draft, struct req *req,
                    struct res *res, struct err *err);
/* ---- made of what the server has (resource_upload.c) */
enum { RESOURCE_UPLOADS_MAX = 1000 };
/* {"upload"} or {"uploads"} or {"artifact"}, and "name"?; ids are borrowed from req->json, the list is the arena's. */
struct resource_body {
    const char *artifact, *name; /* or NULL */
    const char **uploads;
    int count;
};
int resource_read_body(struct req *req, struct resource_body *body, struct err *err);
/* Fill in draft->files (room for count) and draft->count from complete uploads. -1 with faults. */
typedef int resource_arrange_fn(struct req *req, const struct store_upload *rows, int count,
                                struct resource_draft *draft, struct err *err);
int resource_from_uploads(const struct resource_kind *kind, const struct resource_body *body,
                          resource_arrange_fn *arrange, struct req *req, struct res *res, struct err *err);
/* The file name its metadata gives (`filename` or `name`), "" when there is no good one. */
const char *resource_upload_name(struct req *req, const struct store_upload *row);
/* ERR_REFERENCE with a fault at /artifact. */
int resource_artifact(struct req *req, const char *id, struct store_artifact *out, struct err *err);

/* ?name=, else `given` (a file name, may be ""), else the kind's default. NULL with a fault when it is no good name. */
const char *resource_name(const struct resource_kind *kind, struct req *req, const char *given, struct err *err);

#endif
