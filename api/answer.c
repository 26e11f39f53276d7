/* SPDX-License-Identifier: Apache-2.0
 * answer.c - answers of GET with their validators (RFC 9110 8.8, 13). The tag of a JSON document is a hash of its text:
 * right without a column for it, and cheap, since the text is made anyway. What never changes under its URL (a model's
 * facts, a method) has a strong tag; what is a view of many rows (lists) a weak one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "core/base/hash.h"
#include "server/range.h"

enum { TAG_DIGITS = 32 };

static void tag_of(const char *text, size_t len, enum api_life life, char etag[API_ETAG])
{
    char hex[SHA256_HEX];
    hash_bytes(text, len, hex);
    snprintf(etag, API_ETAG, "%s\"%.*s\"", life == API_FIXED ? "" : "W/", TAG_DIGITS, hex);
}

bool api_not_modified(struct req *req, struct res *res, const char *etag)
{
    res_header(res, "ETag", "%s", etag);
    if (!etag_listed(req_header(req, "If-None-Match"), etag, true))
        return false;
    res_empty(res, 304);
    return true;
}

int api_if_match(const struct req *req, const char *etag, struct err *err)
{
    const char *wanted = req_header(req, "If-Match");
    if (!wanted || etag_listed(wanted, etag, false))
        return 0;
    return err_set(err, ERR_PRECONDITION,
                   "The resource's ETag is %s, none of those in If-Match (which compares strongly); nothing was done.",
                   etag);
}

int api_text(struct req *req, struct res *res, const char *text, enum api_life life)
{
    char etag[API_ETAG];
    tag_of(text, strlen(text), life, etag);
    if (api_not_modified(req, res, etag))
        return 0;
    return res_static(res, 200, "application/json", text, strlen(text));
}

/* The text of `json` in malloc'ed memory; the reference is stolen. */
static char *dump(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(json);
    return text;
}

int api_json(struct req *req, struct res *res, json_t *json, enum api_life life, struct err *err)
{
    char etag[API_ETAG], *text = dump(json);
    if (!text)
        return err_set(err, ERR_NOMEM, "Out of memory for the answer.");
    tag_of(text, strlen(text), life, etag);
    if (!api_not_modified(req, res, etag))
        return res_take(res, 200, "application/json", text, strlen(text));
    free(text);
    return 0;
}

int api_json_if_match(const struct req *req, json_t *json, struct err *err)
{
    char etag[API_ETAG] = "", *text = dump(json);
    if (!text)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    tag_of(text, strlen(text), API_FIXED, etag);
    free(text);
    return api_if_match(req, etag, err);
}
