/* SPDX-License-Identifier: Apache-2.0 */
#include "server/link.h"

#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"

enum { ID_DIGITS = 26, END_DIGITS = 15, MAC_HEX = 2 * SHA256_DIGEST_SIZE };

void link_secret_new(char hex[LINK_SECRET_HEX])
{
    uint8_t secret[LINK_SECRET_BYTES];
    random_bytes(secret, sizeof secret);
    hex_text(secret, sizeof secret, hex);
    explicit_bzero(secret, sizeof secret);
}

/* The parts are on lines of their own, so that no two different triples give the same text. */
static void mac(const char *secret_hex, const char *owner, const char *artifact, int64_t ends_at, char out[MAC_HEX + 1])
{
    struct hmac_sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];
    char tail[ID_SIZE + 40];
    int n = snprintf(tail, sizeof tail, "\n%s\n%lld", artifact, (long long)ends_at);
    hmac_sha256_set_key(&ctx, strlen(secret_hex), (const uint8_t *)secret_hex);
    hmac_sha256_update(&ctx, strlen("pared link 1\n"), (const uint8_t *)"pared link 1\n");
    hmac_sha256_update(&ctx, strlen(owner), (const uint8_t *)owner);
    hmac_sha256_update(&ctx, (size_t)n, (const uint8_t *)tail);
    hmac_sha256_digest(&ctx, sizeof digest, digest);
    hex_text(digest, sizeof digest, out);
}

bool link_sign(const char *secret_hex, const char *owner, const char *artifact, int64_t ends_at, char token[LINK_TOKEN])
{
    char hex[MAC_HEX + 1];
    if (!id_is(artifact, "art") || ends_at <= 0)
        return false;
    mac(secret_hex, owner, artifact, ends_at, hex);
    snprintf(token, LINK_TOKEN, "%s.%lld.%s", artifact + strlen("art_"), (long long)ends_at, hex);
    return true;
}

bool link_read(const char *token, char artifact[ID_SIZE], int64_t *ends_at)
{
    size_t len = strcspn(token, "."), digits = token[len] ? strspn(token + len + 1, "0123456789") : 0;
    const char *end = token + len + 1 + digits;
    if (len != ID_DIGITS || digits == 0 || digits > END_DIGITS || token[len + 1] == '0' || *end != '.' ||
        strlen(end + 1) != MAC_HEX)
        return false;
    snprintf(artifact, ID_SIZE, "art_%.*s", ID_DIGITS, token);
    *ends_at = strtoll(token + len + 1, NULL, 10);
    return id_is(artifact, "art");
}

bool link_verify(const char *secret_hex, const char *owner, const char *token)
{
    char artifact[ID_SIZE], right[MAC_HEX + 1];
    int64_t ends_at;
    if (!link_read(token, artifact, &ends_at))
        return false;
    mac(secret_hex, owner, artifact, ends_at, right);
    return memeql_sec(right, token + strlen(token) - MAC_HEX, MAC_HEX);
}
