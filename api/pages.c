/* SPDX-License-Identifier: Apache-2.0
 * pages.c - files embedded in the binary: the dashboard and the contract. `/` is index.html, and what it needs lies
 * beside it. */
#include <string.h>

#include "api/api.h"
#include "api/assets.h"
#include "api/handlers.h"
#include "core/base/hash.h"
#include "server/range.h"

static const struct {
    const char *suffix, *media_type;
} types[] = {
    {".html", "text/html; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".svg", "image/svg+xml"},
    {".png", "image/png"},
    {".ico", "image/x-icon"},
    {".json", "application/json"},
    {".yaml", "application/yaml"},
    {".txt", "text/plain; charset=utf-8"},
    {".woff2", "font/woff2"},
    {".webmanifest", "application/manifest+json"},
};

static const char *type_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].suffix, dot) == 0)
            return types[i].media_type;
    return "application/octet-stream";
}

/* Names and tensors shown on the page are strangers' text: nothing from elsewhere is loaded or run, nothing is framed.
 */
static void security_headers(struct res *res)
{
    res_header(res, "Content-Security-Policy",
               "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; img-src 'self' data: "
               "blob:; object-src 'none'");
    res_header(res, "X-Frame-Options", "DENY");
    res_header(res, "Referrer-Policy", "no-referrer");
    res_header(res, "Cross-Origin-Opener-Policy", "same-origin");
}

static int serve(struct req *req, struct res *res, const char *name, struct err *err)
{
    for (const struct asset *a = asset_table; a->name; a++) {
        if (strcmp(a->name, name) != 0)
            continue;
        size_t len = (size_t)(a->end - a->start);
        char hex[SHA256_HEX], etag[24];
        hash_bytes(a->start, len, hex);
        snprintf(etag, sizeof etag, "\"%.16s\"", hex);
        res_header(res, "ETag", "%s", etag);
        res_header(res, "Cache-Control", "no-cache");
        security_headers(res);
        if (etag_listed(req_header(req, "If-None-Match"), etag, true))
            return res_empty(res, 304);
        return res_static(res, 200, type_of(name), a->start, len);
    }
    return err_set(err, ERR_NOT_FOUND, "The dashboard has no file '%.100s'.", name);
}

int pages_index(struct req *req, struct res *res, struct err *err)
{
    return serve(req, res, "index.html", err);
}

int pages_asset(struct req *req, struct res *res, struct err *err)
{
    return serve(req, res, req->param[0], err);
}

int openapi_get(struct req *req, struct res *res, struct err *err)
{
    return serve(req, res, "openapi.yaml", err);
}
