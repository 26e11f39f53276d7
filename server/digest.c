/* SPDX-License-Identifier: Apache-2.0 */
#include "server/digest.h"

#include <nettle/base64.h>
#include <nettle/nettle-meta.h>
#include <stdbool.h>
#include <string.h>

struct digest_kind {
    const char *tus, *field; /* its names; NULL: not taken there */
    const struct nettle_hash *hash;
};
static const struct digest_kind kinds[] = {
    {"sha1", NULL, &nettle_sha1},
    {"sha256", "sha-256", &nettle_sha256},
    {NULL, "sha-512", &nettle_sha512},
};

static const struct digest_kind *find(const char *name, size_t len, bool field)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const char *known = field ? kinds[i].field : kinds[i].tus;
        if (known && strlen(known) == len && memcmp(known, name, len) == 0)
            return &kinds[i];
    }
    return NULL;
}

/* One more digest to check; `base64` must be exactly one value of this algorithm. */
static int add(struct digests *digests, const struct digest_kind *kind, const char *base64, size_t len,
               const char *header, struct err *err)
{
    struct base64_decode_ctx ctx;
    uint8_t bytes[BASE64_DECODE_LENGTH(128)];
    size_t n = sizeof bytes;
    base64_decode_init(&ctx);
    if (len == 0 || len > 128 || strcspn(base64, " \t\v\f\r\n") < len || /* nettle passes over white space */
        !base64_decode_update(&ctx, &n, bytes, len, base64) ||
        !base64_decode_final(&ctx) || n != kind->hash->digest_size)
        return err_set(err, ERR_BAD_REQUEST, "%s: the value for %s must be the Base64 of %u bytes.", header,
                       kind->hash->name, kind->hash->digest_size);
    if (digests->count == DIGESTS_MAX)
        return err_set(err, ERR_BAD_REQUEST, "%s: at most %d digests are checked.", header, DIGESTS_MAX);
    struct digest *digest = &digests->at[digests->count++];
    digest->kind = kind;
    memcpy(digest->want, bytes, n);
    kind->hash->init(&digest->state);
    return 0;
}

int digest_add_tus(struct digests *digests, const char *text, struct err *err)
{
    size_t len = strcspn(text, " ");
    const struct digest_kind *kind = find(text, len, false);
    if (!kind)
        return err_set(err, ERR_BAD_REQUEST, "Upload-Checksum: the algorithm must be one of " DIGEST_TUS_ALGORITHMS
                       ", then a space and the Base64 of the digest, not '%.60s'.", text);
    const char *value = text[len] ? text + len + 1 : text + len;
    return add(digests, kind, value, strlen(value), "Upload-Checksum", err);
}

static bool key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("_-.*", c));
}

/* RFC 8941: the end of a bare item or of parameters, at the next comma outside quotes. */
static const char *skip_member(const char *at)
{
    while (*at && *at != ',') {
        if (*at == '"')
            for (at++; *at && *at != '"'; at++)
                at += *at == '\\' && at[1];
        at += *at != 0;
    }
    return at;
}

static int bad_field(const char *name, struct err *err)
{
    return err_set(err, ERR_BAD_REQUEST, "%s must be like `sha-256=:BASE64:` (RFC 9530), members separated by commas.",
                   name);
}

int digest_add_field(struct digests *digests, const char *name, const char *text, struct err *err)
{
    const char *at = text + strspn(text, " \t");
    for (const char *c = at; *c; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || (unsigned char)*c > '~') /* RFC 8941 4.2: ASCII */
            return bad_field(name, err);
    for (;;) {
        size_t len = 0;
        while (key_char(at[len]))
            len++;
        if (len == 0 || !(*at == '*' || (*at >= 'a' && *at <= 'z'))) /* RFC 8941 3.1.2: so a key begins */
            return bad_field(name, err);
        const struct digest_kind *kind = find(at, len, true);
        at += len;
        if (kind) {
            size_t n = at[0] == '=' && at[1] == ':' ? strcspn(at + 2, ":") : 0;
            if (n == 0 || at[2 + n] != ':')
                return bad_field(name, err);
            if (add(digests, kind, at + 2, n, name, err) != 0)
                return -1;
            at += n + 3;
        }
        at = skip_member(at);
        if (!*at)
            return 0;
        at += 1 + strspn(at + 1, " \t");
    }
}

static bool known(const struct digests *digests, const struct digest *digest)
{
    return digests->sha256 && digest->kind->hash == &nettle_sha256;
}

void digest_update(struct digests *digests, const void *bytes, size_t len)
{
    for (int i = 0; i < digests->count; i++)
        if (!known(digests, &digests->at[i]))
            digests->at[i].kind->hash->update(&digests->at[i].state, len, bytes);
}

int digest_verify(struct digests *digests, enum err_code code, struct err *err)
{
    for (int i = 0; i < digests->count; i++) {
        struct digest *digest = &digests->at[i];
        uint8_t got[SHA512_DIGEST_SIZE];
        char want_text[BASE64_ENCODE_RAW_LENGTH(SHA512_DIGEST_SIZE) + 1] = "", got_text[sizeof want_text] = "";
        size_t n = digest->kind->hash->digest_size;
        if (known(digests, digest))
            digest->state.sha256 = *digests->sha256;
        digest->kind->hash->digest(&digest->state, n, got);
        if (memcmp(got, digest->want, n) == 0)
            continue;
        base64_encode_raw(want_text, n, digest->want);
        base64_encode_raw(got_text, n, got);
        return err_set(err, code, "The %s of the bytes that arrived is %s, not %s as announced; send them again.",
                       digest->kind->hash->name, got_text, want_text);
    }
    return 0;
}
