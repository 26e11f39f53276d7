/* SPDX-License-Identifier: Apache-2.0
 * digest.h - digests that a client sends along, checked while the bytes arrive: Upload-Checksum of tus 1.0
 * ("sha1 BASE64"), Content-Digest and Repr-Digest of RFC 9530 ("sha-256=:BASE64:, ...").
 * Life cycle struct digests d = {0}; digest_add_* -> digest_update* -> digest_verify. Plain data, may be copied.
 * Speed      who hashes the same bytes by SHA-256 anyway says so in `sha256`: then it is not computed a second time.
 * Threads    one thread at a time. */
#ifndef PARED_SERVER_DIGEST_H
#define PARED_SERVER_DIGEST_H

#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum { DIGESTS_MAX = 4 };

/* What Tus-Checksum-Algorithm offers. */
#define DIGEST_TUS_ALGORITHMS "sha1,sha256"

struct digest_kind;
struct digest {
    const struct digest_kind *kind;
    uint8_t want[SHA512_DIGEST_SIZE];
    union {
        struct sha1_ctx sha1;
        struct sha256_ctx sha256;
        struct sha512_ctx sha512;
    } state;
};
struct digests {
    struct digest at[DIGESTS_MAX];
    int count;
    /* NULL, or the SHA-256 of the very bytes that digest_update gets, kept by the caller. Borrowed; digest_verify looks
     * at it. To be set before the first byte. */
    const struct sha256_ctx *sha256;
};

/* Upload-Checksum. ERR_BAD_REQUEST: malformed, or an algorithm that is not offered. */
int digest_add_tus(struct digests *digests, const char *text, struct err *err);
/* A field of RFC 9530; `name` for the sentence. Algorithms other than sha-256 and sha-512 are passed over, as it asks.
 * ERR_BAD_REQUEST: malformed. */
int digest_add_field(struct digests *digests, const char *name, const char *text, struct err *err);
void digest_update(struct digests *digests, const void *bytes, size_t len);
/* Ends them. -1 with `code` and a sentence with both values when one is not as announced. */
int digest_verify(struct digests *digests, enum err_code code, struct err *err);

#endif
