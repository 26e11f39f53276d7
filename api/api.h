/* SPDX-License-Identifier: Apache-2.0
 * api.h - what the resources share: paging, ids, times, file names, downloads, checked keys of a JSON body. */
#ifndef PARED_API_API_H
#define PARED_API_API_H

#include <jansson.h>

#include "server/auth.h"
#include "server/http.h"
#include "server/problem.h"
#include "server/server.h"
#include "server/store.h"

static inline struct server *api_server(const struct req *req)
{
    return req->app;
}

/* ERR_NOT_FOUND unless param[0] has the form of an id of this kind; `noun`: "model". */
int api_id(const struct req *req, const char *prefix, const char *noun, const char **id, struct err *err);

/* ---- answers of GET, with ETag; 304 when If-None-Match has it (answer.c) */
enum { API_ETAG = 80 };
enum api_life {
    API_FIXED, /* never changes under this URL: a strong tag */
    API_LIVE,  /* weak */
};
/* 200 with the document, whose reference is stolen. */
int api_json(struct req *req, struct res *res, json_t *json, enum api_life life, struct err *err);
/* The same with JSON text that outlives the answer. */
int api_text(struct req *req, struct res *res, const char *text, enum api_life life);
/* Sets ETag; true: the answer is 304 and complete. */
bool api_not_modified(struct req *req, struct res *res, const char *etag);
/* ERR_PRECONDITION when If-Match is there and does not have `etag`; strong comparison: weak tags never match. */
int api_if_match(const struct req *req, const char *etag, struct err *err);
/* The same for what api_json answers as API_FIXED; the reference is stolen. */
int api_json_if_match(const struct req *req, json_t *json, struct err *err);

/* ---- lists: ?limit=1..200 (50) and ?cursor=, the id of the last row seen; where the route has them, the filters
 * ?name=, ?created_from= and ?created_before= */
enum { API_PAGE_MAX = 200 };
int api_page(struct req *req, const char *prefix, struct store_page *page, struct err *err);
/* {"data": rows, "next_cursor": id of the last row, or null}. `rows` is stolen; `last` may be NULL when there is no
 * more. */
json_t *api_page_json(json_t *rows, bool more, const char *last);

/* ---- JSON */
void api_set_time(json_t *object, const char *key, int64_t epoch_ms); /* RFC 3339; nothing for 0 */
void api_set_text(json_t *object, const char *key, const char *text); /* nothing for NULL */
/* Stored JSON text as a value; null when it is none. New reference. */
json_t *api_stored(const char *text);
/* Faults for keys of `object` that are not in `allowed` (NULL-terminated) with the nearest allowed one named. */
void api_known_keys(const json_t *object, const char *pointer, const char *const *allowed, struct faults *faults);
/* object[key] of the right kind, or NULL / def with a fault at pointer/key when it is of another. */
const char *api_get_text(const json_t *object, const char *key, struct faults *faults);
int64_t api_get_int(const json_t *object, const char *key, int64_t def, int64_t min, int64_t max,
                    struct faults *faults);
/* "/a~1b" for a key "a/b", in the arena. */
const char *api_pointer(struct arena *arena, const char *base, const char *key);
/* -1 with ERR_INVALID and a sentence of the first fault if there is one. */
int api_faults(const struct req *req, struct err *err);

/* A name for people and for files: 1 to 200 bytes of UTF-8 without control characters and slashes. */
bool api_good_name(const char *name);

/* ERR_RATE_LIMITED when `bytes` more would be beyond what the caller's owner may have stored (server/auth.h). */
int api_room(const struct req *req, int64_t bytes, struct err *err);

/* ---- downloads */
struct api_download {
    const char *sha256, *name, *media_type;
    bool inline_; /* shown by a browser instead of saved */
    bool ends;    /* the URL holds for a moment: no cache may keep what it gave */
};
/* 200, 206, 304, 412 or 416, with ETag, Repr-Digest, Content-Disposition and ranges. */
int api_download(struct req *req, struct res *res, const struct api_download *what, struct err *err);

/* Facts the job validator needs of a resource that was read already. */
json_t *api_resource_facts(const struct store_resource *row);

#endif
