/* SPDX-License-Identifier: Apache-2.0
 * guard.c - see guard.h. Everything here works on what the client sent, before routing; nothing is repaired, because a
 * repaired request is one that two parties may read differently. */
#include "server/guard.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "core/base/utf8.h"

/* ---- header lines */

static bool name_is(const char *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && strncasecmp(name, wanted, len) == 0;
}

/* RFC 9110 5.6.2 */
static bool token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

void guard_header(struct guard *guard, const char *name, size_t name_len, const char *value, size_t value_len)
{
    guard->count++;
    guard->bytes += name_len + value_len + 4; /* ": " and the line's end */
    if (name_len == 0)
        guard->bad_name = true;
    for (size_t i = 0; i < name_len; i++)
        if (!token_char((unsigned char)name[i]))
            guard->bad_name = true;
    for (size_t i = 0; i < value_len; i++)
        if (((unsigned char)value[i] < 32 && value[i] != '\t') || value[i] == 127)
            guard->bad_value = true;
    if (name_is(name, name_len, "Content-Length")) {
        guard->lengths++;
        if (value_len == 0)
            guard->bad_length = true;
        for (size_t i = 0; i < value_len; i++)
            if (value[i] < '0' || value[i] > '9')
                guard->bad_length = true;
    } else if (name_is(name, name_len, "Transfer-Encoding")) {
        guard->encodings++;
        if (value_len != 7 || strncasecmp(value, "chunked", 7) != 0)
            guard->bad_encoding = true;
    } else if (name_is(name, name_len, "Host")) {
        guard->hosts++;
    } else {
        static const char *const overrides[] = {"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"};
        for (size_t i = 0; i < sizeof overrides / sizeof overrides[0]; i++)
            guard->override |= name_is(name, name_len, overrides[i]);
    }
}

int guard_verdict(const struct guard *guard, const char *version, struct err *err)
{
    if (guard->bad_name)
        return err_set(err, ERR_BAD_REQUEST,
                       "A header name has characters that no header name may have (a space before the colon?).");
    if (guard->bad_value)
        return err_set(err, ERR_BAD_REQUEST, "A header value has control characters.");
    if (guard->count > GUARD_HEADER_COUNT || guard->bytes > GUARD_HEADER_BYTES)
        return err_set(err, ERR_HEADERS, "The header has %zu lines and %zu bytes; at most %d and %d are taken.",
                       guard->count, guard->bytes, GUARD_HEADER_COUNT, GUARD_HEADER_BYTES);
    if (guard->lengths > 1)
        return err_set(err, ERR_BAD_REQUEST, "Content-Length is given %d times; send it once.", guard->lengths);
    if (guard->lengths && guard->encodings)
        return err_set(err, ERR_BAD_REQUEST,
                       "Content-Length and Transfer-Encoding exclude each other; send one of them.");
    if (guard->encodings > 1 || guard->bad_encoding)
        return err_set(err, ERR_BAD_REQUEST, "The only Transfer-Encoding understood here is `chunked`, given once.");
    if (guard->bad_length)
        return err_set(err, ERR_BAD_REQUEST, "Content-Length must be a decimal number.");
    if (guard->override) /* a proxy's rules for methods would be stepped around */
        return err_set(err, ERR_BAD_REQUEST,
                       "The method of a request is that of its first line; headers that override it are not taken.");
    if (guard->hosts > 1)
        return err_set(err, ERR_BAD_REQUEST, "Host is given %d times; send it once.", guard->hosts);
    if (guard->hosts == 0 && strcmp(version, "HTTP/1.0") != 0)
        return err_set(err, ERR_BAD_REQUEST, "A request by %s needs a Host header.", version);
    return 0;
}

/* ---- request target */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Decodes raw[0..len) in arena memory. `plus` is a space in queries. -1: broken escape. */
static int decode(struct arena *arena, const char *raw, size_t len, bool plus, char **out, size_t *out_len,
                  struct err *err)
{
    char *text = arena_alloc(arena, len + 1);
    if (!text)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = raw[i];
        if (c == '%') {
            int hi = len - i > 2 ? hex(raw[i + 1]) : -1;
            int lo = len - i > 2 ? hex(raw[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return err_set(err, ERR_BAD_REQUEST,
                               "The URL has a %% that is not followed by two hexadecimal digits.");
            c = (char)(hi * 16 + lo);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        text[n++] = c;
    }
    text[n] = 0;
    *out = text;
    *out_len = n;
    return 0;
}

static int nowhere(struct err *err)
{
    return err_set(
        err, ERR_NOT_FOUND,
        "There is nothing at this path: no name here has a slash, a dot segment or control characters in it.");
}

static int add_segment(struct arena *arena, const char *raw, size_t len, struct route_path *target, struct err *err)
{
    char *text;
    size_t n;
    if (decode(arena, raw, len, false, &text, &n, err) != 0)
        return -1;
    if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0 || !utf8_valid(text, n))
        return nowhere(err);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 32 || text[i] == 127 || text[i] == '/' || text[i] == '\\')
            return nowhere(err);
    if (target->count == ROUTE_SEGMENTS)
        return err_set(err, ERR_NOT_FOUND, "There is nothing at this path.");
    target->segment[target->count++] = text;
    return 0;
}

static int split_query(struct arena *arena, const char *raw, struct query *query, struct err *err)
{
    while (*raw) {
        size_t len = strcspn(raw, "&"), name_len = strcspn(raw, "=&"), n, m = 0;
        char *name, *value = NULL;
        if (len) {
            if (query->count == QUERY_MAX)
                return err_set(err, ERR_BAD_REQUEST, "The query has more than %d parameters.", QUERY_MAX);
            if (decode(arena, raw, name_len, true, &name, &n, err) != 0)
                return -1;
            size_t skip = name_len < len ? name_len + 1 : name_len;
            if (decode(arena, raw + skip, len - skip, true, &value, &m, err) != 0)
                return -1;
            if (strlen(name) != n || strlen(value) != m || !utf8_valid(name, n) || !utf8_valid(value, m))
                return err_set(err, ERR_BAD_REQUEST, "The query has bytes that are no text (UTF-8 without NUL).");
            query->at[query->count].name = name;
            query->at[query->count++].value = value;
        }
        raw += len + (raw[len] == '&');
    }
    return 0;
}

int guard_target(struct arena *arena, const char *raw, struct route_path *target, struct query *query,
                 const char **path, const char **authority, struct err *err)
{
    *target = (struct route_path){0};
    *query = (struct query){0};
    *authority = NULL;
    *path = "/";
    if (strlen(raw) > GUARD_TARGET_BYTES)
        return err_set(err, ERR_URI_TOO_LONG, "The URL has %zu bytes; at most %d are taken.", strlen(raw),
                       GUARD_TARGET_BYTES);
    if (strncasecmp(raw, "http://", 7) == 0 || strncasecmp(raw, "https://", 8) == 0) {
        raw = strchr(raw, ':') + 3;
        size_t len = strcspn(raw, "/?#");
        *authority = arena_strndup(arena, raw, len);
        raw = raw[len] ? raw + len : "/";
    }
    if (raw[0] != '/' && raw[0] != '?')
        return err_set(err, ERR_BAD_REQUEST, "The request target must be a path that starts with a slash.");
    size_t len = strcspn(raw, "?#");
    *path = arena_strndup(arena, raw, len);
    if (!*path)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    for (size_t at = 1; at <= len && len > 1;) { /* at == len: behind a trailing slash, an empty segment */
        size_t n = strcspn(raw + at, "/?#");
        if (add_segment(arena, raw + at, n, target, err) != 0)
            return -1;
        at += n + 1;
    }
    if (raw[len] != '?')
        return 0;
    char *text = arena_strndup(arena, raw + len + 1, strcspn(raw + len + 1, "#"));
    return text ? split_query(arena, text, query, err) : err_set(err, ERR_NOMEM, "Out of memory.");
}

/* ---- Host and Origin */

/* Length of the name in "name", "name:port", "[v6]:port"; 0 when it is none of these. */
static size_t host_name_len(const char *host)
{
    size_t len;
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        len = end ? (size_t)(end - host) + 1 : 0;
    } else {
        len = strcspn(host, ":");
    }
    if (len == 0 || (host[len] && host[len] != ':'))
        return 0;
    const char *port = host + len + (host[len] == ':');
    return strspn(port, "0123456789") == strlen(port) && strlen(port) <= 5 ? len : 0;
}

static bool listed(const char *const *names, const char *text, size_t len)
{
    for (; names && *names; names++)
        if (strlen(*names) == len && strncasecmp(*names, text, len) == 0)
            return true;
    return false;
}

/* `text` is an IPv4 address, or an IPv6 one in brackets. A page that was lured here by DNS sends a name. */
static bool is_address(const char *text, size_t len)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr any;
    const bool v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
    const size_t n = v6 ? len - 2 : len;
    if (n >= sizeof address)
        return false;
    memcpy(address, text + v6, n);
    address[n] = 0;
    return inet_pton(v6 ? AF_INET6 : AF_INET, address, &any) == 1;
}

int guard_host(const struct guard_names *names, const char *host, struct err *err)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "[::1]", NULL};
    if (!host) /* HTTP/1.0: no browser sends that */
        return 0;
    size_t len = host_name_len(host);
    bool any = !names->loopback && (!names->hosts || !names->hosts[0]);
    if (len && (any || listed(names->hosts, host, len) || listed(loopback, host, len)))
        return 0;
    if (len && !names->loopback && is_address(host, len)) /* probes and scrapers call by address */
        return 0;
    return err_set(
        err, ERR_FORBIDDEN,
        "The server does not answer to the name in the Host header. Call it by localhost or 127.0.0.1, or list "
        "the name in the setting `allowed_hosts`.");
}

static bool same_origin(const char *host, const char *origin)
{
    const char *rest = strncasecmp(origin, "http://", 7) == 0    ? origin + 7
                       : strncasecmp(origin, "https://", 8) == 0 ? origin + 8
                                                                 : NULL;
    return rest && host && strcasecmp(rest, host) == 0;
}

int guard_origin(const struct guard_names *names, const char *method, const char *host, const char *origin,
                 const char *fetch_site, struct err *err)
{
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 || strcmp(method, "OPTIONS") == 0)
        return 0;
    if (origin && (same_origin(host, origin) || listed(names->origins, origin, strlen(origin))))
        return 0;
    bool foreign =
        fetch_site && (strcasecmp(fetch_site, "cross-site") == 0 || strcasecmp(fetch_site, "same-site") == 0);
    if (!origin && !foreign)
        return 0;
    return err_set(
        err, ERR_FORBIDDEN,
        "A page of another origin may not change anything here. Use the dashboard of this server, or list the "
        "origin in the setting `allowed_origins`.");
}
