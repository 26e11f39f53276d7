/* SPDX-License-Identifier: Apache-2.0 */
#include "api/api.h"

#include <nettle/base64.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/utf8.h"
#include "core/recipe/json_text.h"
#include "core/recipe/nearest.h"
#include "server/blob.h"
#include "server/id.h"
#include "server/range.h"

int api_id(const struct req *req, const char *prefix, const char *noun, const char **id, struct err *err)
{
    *id = req->param[0];
    if (id_is(*id, prefix))
        return 0;
    return err_set(err, ERR_NOT_FOUND, "There is no %s '%.60s': ids of %ss start with `%s_`.", noun, *id, noun, prefix);
}

/* ---- lists */

/* 0 when the parameter is absent. */
static int query_time(struct req *req, const char *name, int64_t *out, struct err *err)
{
    const char *text = req_query(req, name);
    char pointer[40];
    *out = 0;
    if (!text || (clock_parse(text, out) && *out > 0))
        return 0;
    snprintf(pointer, sizeof pointer, "?%s", name);
    faults_add(&req->faults, pointer, "must be a time like 2026-11-23T07:30:00Z, not '%.60s'", text);
    return err_set(err, ERR_INVALID, "The parameter `%s` must be a time like 2026-11-23T07:30:00Z (RFC 3339).", name);
}

static int page_filters(struct req *req, struct store_page *page, struct err *err)
{
    const char *list = req->route->query;
    if (strstr(list, "created_from") && (query_time(req, "created_from", &page->created_from, err) != 0 ||
                                         query_time(req, "created_before", &page->created_before, err) != 0))
        return -1;
    page->name = req_query(req, "name");
    if (!page->name || api_good_name(page->name))
        return 0;
    faults_add(&req->faults, "?name", "must be a whole name of 1 to 200 bytes");
    return err_set(err, ERR_INVALID, "The parameter `name` must be a whole name of 1 to 200 bytes.");
}

int api_page(struct req *req, const char *prefix, struct store_page *page, struct err *err)
{
    int64_t limit;
    const char *cursor = req_query(req, "cursor");
    if (req_query_int(req, "limit", 50, 1, API_PAGE_MAX, &limit, err) != 0)
        return -1;
    if (cursor && !id_is(cursor, prefix)) {
        faults_add(&req->faults, "?cursor", "is no cursor of this list; take next_cursor of the page before");
        return err_set(err, ERR_INVALID,
                       "The parameter `cursor` is no cursor of this list; take next_cursor of the page before.");
    }
    *page = (struct store_page){.owner = req->owner, .after = cursor, .limit = (int)limit};
    return page_filters(req, page, err);
}

json_t *api_page_json(json_t *rows, bool more, const char *last)
{
    json_t *page = json_object();
    json_object_set_new(page, "data", rows);
    json_object_set_new(page, "next_cursor", more && last ? utf8_json(last) : json_null());
    return page;
}

/* ---- JSON */

void api_set_time(json_t *object, const char *key, int64_t epoch_ms)
{
    char text[CLOCK_RFC3339];
    if (epoch_ms == 0)
        return;
    clock_rfc3339(epoch_ms, text);
    json_object_set_new(object, key, json_string(text));
}

void api_set_text(json_t *object, const char *key, const char *text)
{
    if (text)
        json_object_set_new(object, key, utf8_json(text));
}

json_t *api_stored(const char *text)
{
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    return value ? value : json_null();
}

const char *api_pointer(struct arena *arena, const char *base, const char *key)
{
    size_t len = strlen(base), n = len;
    char *out = arena_alloc(arena, len + 2 + 2 * strlen(key));
    if (!out)
        return base;
    memcpy(out, base, len);
    out[n++] = '/';
    for (; *key; key++) {
        bool escaped = *key == '~' || *key == '/';
        out[n++] = escaped ? '~' : *key;
        if (escaped)
            out[n++] = *key == '~' ? '0' : '1';
    }
    return out; /* the arena's bytes were zero */
}

void api_known_keys(const json_t *object, const char *pointer, const char *const *allowed, struct faults *faults)
{
    struct arena *arena = arena_new();
    const char *key;
    json_t *value;
    if (!arena)
        return;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        bool known = false;
        for (const char *const *a = allowed; *a && !known; a++)
            known = strcmp(*a, key) == 0;
        if (known)
            continue;
        struct nearest nearest = NEAREST(key);
        struct buf list = {0};
        char hint[120];
        for (const char *const *a = allowed; *a; a++) {
            nearest_offer(&nearest, *a);
            buf_printf(&list, "%s%s", a == allowed ? "" : ", ", *a);
        }
        faults_add(faults, api_pointer(arena, pointer, key), "is no key of this document%s; it takes %s",
                   nearest_hint(&nearest, hint, sizeof hint), list.data ? list.data : "none");
        buf_fini(&list);
    }
    arena_free(arena);
}

const char *api_get_text(const json_t *object, const char *key, struct faults *faults)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_string(value))
        return json_string_value(value);
    char pointer[80];
    snprintf(pointer, sizeof pointer, "/%s", key);
    faults_add(faults, pointer, "must be a string, not %s", json_text_type(value));
    return NULL;
}

int64_t api_get_int(const json_t *object, const char *key, int64_t def, int64_t min, int64_t max, struct faults *faults)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        return def;
    if (json_is_integer(value) && json_integer_value(value) >= min && json_integer_value(value) <= max)
        return json_integer_value(value);
    char pointer[80], brief[JSON_TEXT_BRIEF];
    snprintf(pointer, sizeof pointer, "/%s", key);
    faults_add(faults, pointer, "must be a whole number from %lld to %lld, not %s", (long long)min, (long long)max,
               json_text_brief(value, brief));
    return def;
}

/* Faults of the recipe alone have its code, as the recipe's own checks give it. */
static enum err_code code_of(const struct faults *faults)
{
    for (int i = 0; i < faults->count; i++)
        if (strncmp(faults->at[i].pointer, "/recipe", strlen("/recipe")) != 0)
            return ERR_INVALID;
    return ERR_RECIPE;
}

int api_faults(const struct req *req, struct err *err)
{
    const struct faults *faults = &req->faults;
    if (faults->count == 0)
        return 0;
    const char *place = faults->at[0].pointer, *detail = faults->at[0].detail;
    size_t len = strlen(detail);
    const char *stop = len && detail[len - 1] == '?' ? "" : "."; /* "did you mean 'x'?" ends by itself */
    if (faults->count == 1)
        return err_set(err, code_of(faults), "%s: %s%s", place[0] ? place : "The body", detail, stop);
    return err_set(err, code_of(faults), "%s: %s%s (%d faults in all: see errors)", place[0] ? place : "The body",
                   detail, stop, faults->count);
}

/* Characters that are not seen but change what is seen: marks and overrides of the writing direction (a file that ends
 * in "exe" and shows "fdp"), C1 controls, line separators, byte order mark. Valid UTF-8 is given. */
static bool has_hidden(const char *name)
{
    static const char *const hidden[] = {
        "\xd8\x9c",     "\xe2\x80\x8e", "\xe2\x80\x8f", "\xe2\x80\xaa", "\xe2\x80\xab",
        "\xe2\x80\xac", "\xe2\x80\xad", "\xe2\x80\xae", "\xe2\x81\xa6", "\xe2\x81\xa7",
        "\xe2\x81\xa8", "\xe2\x81\xa9", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xef\xbb\xbf",
    };
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
        if (strstr(name, hidden[i]))
            return true;
    for (const char *c = name; (c = strstr(c, "\xc2")); c++)
        if ((unsigned char)c[1] < 0xa0)
            return true;
    return false;
}

bool api_good_name(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > 200 || !utf8_valid(name, len) || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 32 || name[i] == 127 || name[i] == '/' || name[i] == '\\')
            return false;
    return !has_hidden(name);
}

int api_room(const struct req *req, int64_t bytes, struct err *err)
{
    int64_t limit = req->caller->stored_bytes, stored;
    if (limit == 0)
        return 0;
    if (store_owner_bytes(api_server(req)->store, req->owner, &stored, err) != 0)
        return -1;
    if (stored <= limit && bytes <= limit - stored)
        return 0;
    return err_set(err, ERR_RATE_LIMITED,
                   "stored bytes: %lld are stored or being uploaded, %lld more do not fit into the limit of this key, "
                   "%lld; delete models, datasets, jobs or uploads that are not needed any more",
                   (long long)stored, (long long)bytes, (long long)limit);
}

/* ---- downloads */

static void set_digest(struct res *res, const char *sha256)
{
    uint8_t raw[32];
    char text[BASE64_ENCODE_RAW_LENGTH(32) + 1] = "";
    for (size_t i = 0; i < 32; i++) {
        unsigned byte;
        if (sscanf(sha256 + 2 * i, "%2x", &byte) != 1)
            return;
        raw[i] = (uint8_t)byte;
    }
    base64_encode_raw(text, sizeof raw, raw);
    res_header(res, "Repr-Digest", "sha-256=:%s:", text);
}

/* RFC 6266 with RFC 8187: a plain ASCII name for old clients, the true one beside it. */
static void set_disposition(struct res *res, const char *name, bool shown)
{
    char plain[256], coded[3 * 256 + 1];
    size_t n = 0, m = 0;
    for (const char *c = name; *c && n < sizeof plain - 1 && m < sizeof coded - 4; c++) {
        bool safe =
            (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || strchr("-._", *c);
        plain[n++] = safe || *c == ' ' ? *c : '_';
        if (safe)
            coded[m++] = *c;
        else
            m += (size_t)snprintf(coded + m, 4, "%%%02X", (unsigned char)*c);
    }
    plain[n] = coded[m] = 0;
    res_header(res, "Content-Disposition", "%s; filename=\"%s\"; filename*=UTF-8''%s", shown ? "inline" : "attachment",
               plain, coded);
}

int api_download(struct req *req, struct res *res, const struct api_download *what, struct err *err)
{
    char etag[SHA256_HEX + 2];
    int64_t bytes = 0;
    uint64_t first = 0, len;
    const char *if_range = req_header(req, "If-Range");
    snprintf(etag, sizeof etag, "\"%s\"", what->sha256);
    if (api_if_match(req, etag, err) != 0)
        return -1;
    res_header(res, "Cache-Control", what->ends ? "private, no-store" : "private, max-age=3600, immutable");
    if (api_not_modified(req, res, etag))
        return 0;
    int fd = blob_open(api_server(req)->blobs, what->sha256, &bytes, err);
    if (fd < 0)
        return -1;
    len = (uint64_t)bytes;
    /* RFC 9110 14.2: Range is of GET alone; 13.1.5: a weak tag or a date in If-Range is never the strong tag here */
    bool whole = (if_range && strcmp(if_range, etag) != 0) || strcmp(req->method, "GET") != 0;
    enum range_kind kind = range_parse(whole ? NULL : req_header(req, "Range"), (uint64_t)bytes, &first, &len);
    if (kind == RANGE_BEYOND) {
        close(fd);
        res_header(res, "Content-Range", "bytes */%lld", (long long)bytes);
        return err_set(err, ERR_RANGE, "The range lies beyond the end: the file has %lld bytes.", (long long)bytes);
    }
    res_header(res, "ETag", "%s", etag);
    res_header(res, "Accept-Ranges", "bytes");
    set_digest(res, what->sha256);
    if (!what->inline_) /* should a browser show it all the same: without scripts, of no origin */
        res_header(res, "Content-Security-Policy", "sandbox");
    set_disposition(res, what->name, what->inline_);
    if (kind == RANGE_PART)
        res_header(res, "Content-Range", "bytes %llu-%llu/%lld", (unsigned long long)first,
                   (unsigned long long)(first + len - 1), (long long)bytes);
    return res_file(res, kind == RANGE_PART ? 206 : 200, what->media_type, fd, first, len);
}

json_t *api_resource_facts(const struct store_resource *row)
{
    json_t *facts = api_stored(row->facts);
    if (json_is_object(facts))
        return facts;
    json_decref(facts);
    return json_object();
}
