/* SPDX-License-Identifier: Apache-2.0
 * tus.h - resumable uploads (tus 1.0: creation, checksum, expiration, termination) without their HTTP: the bytes on
 * disk, the row that tells how many of them count, and who may write them now.
 * Bytes      DIR/upl_ID while they arrive; complete, they are a blob which the row refers to until the upload is used.
 * Offset     What counts after a kill -9 is what the kernel has taken. After a power cut it is what was synced, which
 *            the row tells (store_upload_mark). Bytes of a request with a checksum count once it was verified.
 * Lock       One request a time writes an upload; a second one is refused (ERR_LOCKED) unless nothing has come by
 *            the first for TUS_STALE_SECONDS: then its client is gone and the new one takes over. Deletion always wins.
 * Life cycle tus_open -> calls from any thread -> tus_close. A patch belongs to one thread at a time.
 * Errors     ERR_NOT_FOUND: no such upload, another owner's, or expired. Messages carry no path. */
#ifndef PARED_SERVER_TUS_H
#define PARED_SERVER_TUS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/err.h"
#include "server/blob.h"
#include "server/store.h"

enum { TUS_STALE_SECONDS = 5, TUS_EXPIRED_AT_ONCE = 100 };

struct tus;       /* opaque */
struct tus_patch; /* opaque: bytes that one request appends */

/* `dir` lies on the file system of the blobs. What a crash left half done is put right. `store`, `blobs`: borrowed. */
struct tus *tus_open(const char *dir, struct store *store, struct blobs *blobs, struct err *err);
void tus_close(struct tus *tus); /* NULL is fine */

struct tus_upload {
    struct store_upload row;
    int64_t offset; /* bytes that count now */
};
/* ERR_DISK_FULL when the disk has no room for in->length bytes; ERR_RATE_LIMITED (store.h). */
int tus_create(struct tus *tus, const struct store_upload_new *in, struct arena *arena, struct tus_upload *out,
               struct err *err);
int tus_get(struct tus *tus, const char *owner, const char *id, struct arena *arena, struct tus_upload *out,
            struct err *err);
/* Offset of a row that was read in a list. */
int64_t tus_offset(struct tus *tus, const struct store_upload *row);
int tus_delete(struct tus *tus, const char *owner, const char *id, struct err *err);
/* Remove expired ones, TUS_EXPIRED_AT_ONCE at most. How many, or -1. */
int tus_expire(struct tus *tus, struct err *err);

struct tus_append {
    const char *owner, *id;
    int64_t offset;       /* Upload-Offset */
    int64_t length;       /* of the body, -1: not known */
    const char *checksum; /* Upload-Checksum, or NULL */
    const char *digest;   /* Content-Digest, or NULL: the same by RFC 9530 */
    int64_t ttl_s;
};
/* ERR_NOT_FOUND, ERR_LOCKED, ERR_WRONG_STATE (offset), ERR_TOO_LARGE (more than was announced), ERR_BAD_REQUEST
 * (checksum). */
struct tus_patch *tus_patch_open(struct tus *tus, const struct tus_append *what, struct err *err);
/* ERR_TOO_LARGE, ERR_DISK_FULL, ERR_IO; ERR_WRONG_STATE when another request took over. What was written counts. */
int tus_patch_write(struct tus_patch *patch, const void *bytes, size_t len, struct err *err);
/* All bytes of the request are here: verify, sync, tell the catalogue; the last ones complete the upload.
 * ERR_CHECKSUM: none of them count. */
int tus_patch_end(struct tus_patch *patch, struct arena *arena, struct tus_upload *out, struct err *err);
/* Also of a request that was cut, from any thread: quick. NULL is fine. */
void tus_patch_close(struct tus_patch *patch);

/* The content of a complete upload as a pinned blob: row.sha256, for blob_unpin. ERR_NOT_FOUND; ERR_WRONG_STATE while
 * bytes are missing. */
int tus_take(struct tus *tus, const char *owner, const char *id, struct arena *arena, struct store_upload *row,
             struct err *err);
/* The upload has become something else. */
void tus_used(struct tus *tus, const struct store_upload *row);

#endif
