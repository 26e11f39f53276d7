/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
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
    hex_text(digest, sizeof digest, hex);
}

void hash_bytes(const void *bytes, size_t len, char hex[SHA256_HEX])
{
    struct hash hash;
    hash_init(&hash);
    hash_update(&hash, bytes, len);
    hash_final(&hash, hex);
}

int hash_fd(struct hash *hash, int fd, int64_t *bytes, struct err *err)
{
    enum { CHUNK = 1 << 18 };
    unsigned char *chunk = malloc(CHUNK);
    ssize_t n;
    off_t at = 0;
    if (!chunk)
        return err_set(err, ERR_NOMEM, "out of memory");
    while ((n = pread(fd, chunk, CHUNK, at)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) {
            hash_update(hash, chunk, (size_t)n);
            at += n;
        }
    if (n < 0)
        err_set_errno(err, ERR_IO, "a file cannot be read to hash it");
    free(chunk);
    if (bytes)
        *bytes = at;
    return n < 0 ? -1 : 0;
}

int hash_file(const char *path, char hex[SHA256_HEX], struct err *err)
{
    struct hash hash;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "cannot open the file to hash");
    hash_init(&hash);
    int rc = hash_fd(&hash, fd, NULL, err);
    close(fd);
    hash_final(&hash, hex);
    return rc;
}

void hex_text(const void *bytes, size_t len, char *out)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = "0123456789abcdef"[at[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[at[i] & 15];
    }
    out[2 * len] = 0;
}

uint32_t fnv1a(const char *text)
{
    uint32_t hash = 2166136261u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

void random_bytes(void *out, size_t len)
{
    for (size_t n = 0; n < len;) { /* cannot fail for so few once the kernel's pool is ready, only be interrupted */
        ssize_t got = getrandom((char *)out + n, len - n, 0);
        if (got > 0)
            n += (size_t)got;
    }
}
