/* SPDX-License-Identifier: Apache-2.0
 * The header values of resumable uploads and of digests: any lines as Upload-Metadata, Upload-Checksum, Content-Digest
 * and a number, in this order; what is left is the body, hashed whole and in two pieces. What is accepted must be what
 * the protocols allow, and a digest that holds for the whole must hold for the pieces. */
#include <nettle/base64.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/digest.h"
#include "server/tus_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static int checked(int rc, const struct err *err)
{
    must((rc == 0) == (err->code == ERR_NONE)); /* a failure has a sentence, a success has none */
    must(rc == 0 || (err->code == ERR_BAD_REQUEST && err->msg[0]));
    return rc;
}

/* The next line, NUL-terminated, or NULL; as in a header it ends at the first NUL. */
static char *line(const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size ? memchr(*data, '\n', *size) : NULL;
    if (!end)
        return NULL;
    char *text = strndup((const char *)*data, (size_t)(end - *data));
    *size -= (size_t)(end + 1 - *data);
    *data = end + 1;
    return text;
}

struct pairs {
    const char *text;
    int count;
};

/* The pair, coded again, is in the header. */
static void pair(void *arg, const char *key, const char *value, size_t len)
{
    struct pairs *pairs = arg;
    char *coded = malloc(strlen(key) + BASE64_ENCODE_RAW_LENGTH(len) + 2);
    must(coded && key[0] && !strpbrk(key, " ,") && value[len] == 0);
    size_t n = strlen(key);
    memcpy(coded, key, n);
    coded[n++] = ' ';
    base64_encode_raw(coded + n, len, (const uint8_t *)value);
    coded[len ? n + BASE64_ENCODE_RAW_LENGTH(len) : n - 1] = 0;
    must(strstr(pairs->text, coded) || len % 3); /* the bits behind the end of the last byte are free */
    pairs->count++;
    free(coded);
}

static void metadata(const char *text)
{
    struct err err = {0};
    struct pairs pairs = {text, 0};
    struct arena *arena = arena_new();
    int rc = checked(tus_metadata_each(arena, text, pair, &pairs, &err), &err);
    must(rc != 0 || pairs.count <= TUS_METADATA_KEYS);
    must(rc == 0 || !tus_metadata_get(arena, text, "filename"));
    tus_metadata_get(arena, text, "a");
    arena_free(arena);
}

static void digests(const char *checksum, const char *field, const uint8_t *body, size_t size)
{
    struct err err = {0}, whole = {0}, pieces = {0};
    struct digests a = {0}, b;
    if (checksum && checked(digest_add_tus(&a, checksum, &err), &err) != 0)
        return;
    if (field && checked(digest_add_field(&a, "Content-Digest", field, &err), &err) != 0)
        return;
    must(a.count <= DIGESTS_MAX);
    b = a;
    digest_update(&a, body, size);
    digest_update(&b, body, size / 3);
    digest_update(&b, body + size / 3, size - size / 3);
    int rc = digest_verify(&a, ERR_CHECKSUM, &whole);
    must(rc == digest_verify(&b, ERR_CHECKSUM, &pieces));
    must(rc == 0 ? whole.code == ERR_NONE : whole.code == ERR_CHECKSUM && strcmp(whole.msg, pieces.msg) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *meta = line(&data, &size), *checksum = line(&data, &size), *field = line(&data, &size),
         *number = line(&data, &size);
    int64_t value = -1;
    struct err err = {0};
    if (meta)
        metadata(meta);
    if (checked(tus_number("Upload-Length", number, &value, &err), &err) == 0)
        must(value >= 0 && value < INT64_C(1000000000000000000));
    digests(checksum && *checksum ? checksum : NULL, field && *field ? field : NULL, data, size);
    free(meta);
    free(checksum);
    free(field);
    free(number);
    return 0;
}
