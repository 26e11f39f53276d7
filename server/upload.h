/* SPDX-License-Identifier: Apache-2.0
 * upload.h - the files of one upload while they arrive: raw (one file) or multipart (several), each a blob_put.
 * Life cycle upload_new -> upload_feed* -> upload_end -> (handler: inspect the files by blob_put_path, commit, insert
 *            rows) -> upload_free. What the handler did not commit was never there: a cut upload leaves nothing behind.
 * Threads    one thread at a time. Blocks on disk. */
#ifndef PARED_SERVER_UPLOAD_H
#define PARED_SERVER_UPLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/err.h"
#include "server/blob.h"
#include "server/digest.h"

struct multipart;

struct upload_file {
    const char *field;    /* name of the part; "" for a raw body */
    const char *filename; /* as the client said, its last component; "" if it did not */
    struct blob_put *put;
};

struct upload {
    struct upload_file *files; /* in order of arrival */
    int count;
    /* private */
    int cap;
    int64_t bytes, limit;
    struct arena *arena;
    struct blobs *blobs;
    struct multipart *multipart; /* NULL: raw */
    struct digests digests;      /* of the body as it is sent; the caller adds what the client announced (digest.h) */
};

/* Lives in the arena. `content_type` NULL or not multipart/form-data: raw. */
struct upload *upload_new(struct arena *arena, struct blobs *blobs, const char *content_type, int64_t limit,
                          struct err *err);
/* ERR_TOO_LARGE beyond the limit, ERR_DISK_FULL, ERR_BAD_REQUEST (multipart). */
int upload_feed(struct upload *upload, const char *bytes, size_t len, struct err *err);
/* The body is complete. ERR_DIGEST: it is not what was announced. */
int upload_end(struct upload *upload, struct err *err);
void upload_free(struct upload *upload); /* NULL is fine */

#endif
