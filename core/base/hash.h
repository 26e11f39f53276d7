/* SPDX-License-Identifier: Apache-2.0
 * hash.h - SHA-256 (FIPS 180-4, by libnettle) of bytes, files and streams, as 64 lower-case hex digits; a small hash for
 * tables; random bytes. */
#ifndef PARED_BASE_HASH_H
#define PARED_BASE_HASH_H

#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum { SHA256_HEX = 65 }; /* with the NUL */

struct hash {
    struct sha256_ctx ctx;
};
void hash_init(struct hash *hash);
void hash_update(struct hash *hash, const void *bytes, size_t len);
void hash_final(struct hash *hash, char hex[SHA256_HEX]); /* and starts anew */
void hash_bytes(const void *bytes, size_t len, char hex[SHA256_HEX]);
/* All bytes of the file, from its beginning; the offset stays. *bytes (may be NULL) counts them. */
int hash_fd(struct hash *hash, int fd, int64_t *bytes, struct err *err);
/* ERR_IO names only the reason, not the path. */
int hash_file(const char *path, char hex[SHA256_HEX], struct err *err);
/* `out` of 2 * len + 1. */
void hex_text(const void *bytes, size_t len, char *out);
/* FNV-1a, 32 bits: where a text goes in a table. Whoever chooses the texts can make them collide. */
uint32_t fnv1a(const char *text);
/* From the kernel, fit for secrets. */
void random_bytes(void *out, size_t len);

#endif
