/* SPDX-License-Identifier: Apache-2.0
 * Levels are those where both spend about as long on a document as the catalogue did to find it. */
#include "server/coding.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>

enum { GZIP_LEVEL = 4, ZSTD_LEVEL = 3, GZIP_WINDOW = 15 + 16, GZIP_MEMORY = 8 };

static const char *const names[] = {
    [CODING_IDENTITY] = "identity", [CODING_GZIP] = "gzip", [CODING_ZSTD] = "zstd"};

const char *coding_name(enum coding coding)
{
    return names[coding];
}

/* Quality of one member of the list, 1 without one; `len` bytes at `at`. */
static double quality(const char *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (at[i] != ';')
            continue;
        i += 1 + strspn(at + i + 1, " \t");
        if (i + 2 <= len && (at[i] == 'q' || at[i] == 'Q') && at[i + 1] == '=') {
            double q = strtod(at + i + 2, NULL);
            return q >= 0 && q <= 1 ? q : 0;
        }
        i--;
    }
    return 1;
}

enum coding coding_choose(const char *accept)
{
    double given[3] = {-1, -1, -1}, any = 0;
    for (const char *at = accept; at && *at;) {
        at += strspn(at, " \t,");
        size_t len = strcspn(at, ","), name = strcspn(at, ",; \t");
        double q = quality(at, len);
        for (int c = CODING_IDENTITY; c <= CODING_ZSTD; c++)
            if (strlen(names[c]) == name && strncasecmp(at, names[c], name) == 0)
                given[c] = q;
        if (name == 6 && strncasecmp(at, "x-gzip", 6) == 0)
            given[CODING_GZIP] = q;
        if (name == 1 && *at == '*')
            any = q;
        at += len;
    }
    double gzip = given[CODING_GZIP] < 0 ? any : given[CODING_GZIP];
    double zstd = given[CODING_ZSTD] < 0 ? any : given[CODING_ZSTD];
    double best = zstd >= gzip ? zstd : gzip;
    if (best <= 0 || best < given[CODING_IDENTITY])
        return CODING_IDENTITY;
    return zstd >= gzip ? CODING_ZSTD : CODING_GZIP;
}

bool coding_useful(const char *media_type)
{
    static const char *const types[] = {"application/json", "application/problem+json", "application/yaml",
                                        "application/manifest+json", "image/svg+xml"};
    if (!media_type || strncmp(media_type, "text/event-stream", 17) == 0)
        return false;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        size_t len = strlen(types[i]);
        if (strncmp(media_type, types[i], len) == 0 && strchr("; ", media_type[len]))
            return true;
    }
    return strncmp(media_type, "text/", 5) == 0;
}

static size_t apply_gzip(const void *bytes, size_t len, char *out, size_t room)
{
    z_stream z = {.next_in = (Bytef *)(size_t)bytes, .avail_in = (uInt)len, .next_out = (Bytef *)out,
                  .avail_out = (uInt)room};
    if (deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    size_t n = deflate(&z, Z_FINISH) == Z_STREAM_END ? z.total_out : 0;
    deflateEnd(&z);
    return n;
}

char *coding_apply(enum coding coding, const void *bytes, size_t len, size_t *out_len)
{
    if (coding == CODING_IDENTITY || len < CODING_MIN_BYTES || len > CODING_MAX_BYTES)
        return NULL;
    size_t room = len - len / 16; /* less gained than that is not worth the reader's work */
    char *out = malloc(room);
    if (!out)
        return NULL;
    size_t n = coding == CODING_GZIP ? apply_gzip(bytes, len, out, room)
                                     : ZSTD_compress(out, room, bytes, len, ZSTD_LEVEL);
    if (n == 0 || (coding == CODING_ZSTD && ZSTD_isError(n))) {
        free(out);
        return NULL;
    }
    *out_len = n;
    char *fit = realloc(out, n);
    if (fit)
        out = fit;
    return out;
}
