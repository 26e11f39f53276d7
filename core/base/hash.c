/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/hash.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void hash_init(struct hash *hash)
{
    sha256_init(&hash->ctx);
}

void hash_update(struct hash *hash, const void *bytes, size_t len)
{
    sha256_update(&hash->ctx, len, bytes);
}

void hash_final(struct hash *hash, char hex[SHA256_HEX])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&hash->ctx, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[SHA256_HEX - 1] = 0;
}

void hash_bytes(const void *bytes, size_t len, char hex[SHA256_HEX])
{
    struct hash hash;
    hash_init(&hash);
    hash_update(&hash, bytes, len);
    hash_final(&hash, hex);
}

int hash_file(const char *path, char hex[SHA256_HEX], struct err *err)
{
    enum { CHUNK = 1 << 18 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "cannot open the file to hash");
    unsigned char *chunk = malloc(CHUNK);
    struct hash hash;
    hash_init(&hash);
    ssize_t n = -1;
    while (chunk && (n = read(fd, chunk, CHUNK)) > 0)
        hash_update(&hash, chunk, (size_t)n);
    if (n < 0)
        err_set_errno(err, ERR_IO, "cannot read the file to hash");
    free(chunk);
    close(fd);
    hash_final(&hash, hex);
    return n < 0 ? -1 : 0;
}
