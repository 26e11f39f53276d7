/* SPDX-License-Identifier: Apache-2.0
 * blob.h - immutable files by the SHA-256 of their content.
 * Why        Uploads and artifacts are stored once however often they come; a name cannot lie about its content; a
 *            half-written file is never seen. The interface fits a local disk and an object store alike.
 * Life cycle blob_put_begin -> blob_put_write* -> blob_put_commit -> (insert the rows that refer to it) ->
 *            blob_put_free
 * Pins       From commit to blob_put_free the object is pinned: blob_collect leaves it alone, although no row refers
 *            to it yet. Code that must keep an object across calls uses blob_pin / blob_unpin.
 * Threads    All calls from any thread; one put belongs to one thread at a time.
 * Errors     ERR_DISK_FULL (nothing is left behind), ERR_IO, ERR_NOT_FOUND, ERR_CORRUPT. Messages carry no path. */
#ifndef PARED_SERVER_BLOB_H
#define PARED_SERVER_BLOB_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/hash.h"

struct blobs;    /* opaque: the store */
struct blob_put; /* opaque: one write under way */

/* On local disk below `dir` (objects/aa/bb/SHA256, tmp/). Temporary files of a former run are removed.
 * `min_free_bytes`: writes that would leave less are refused. */
struct blobs *blob_disk_open(const char *dir, int64_t min_free_bytes, struct err *err);
void blobs_close(struct blobs *blobs); /* NULL is fine */

struct blob_put *blob_put_begin(struct blobs *blobs, struct err *err);
int blob_put_write(struct blob_put *put, const void *bytes, size_t len, struct err *err);
/* All is written: durable, read-only, without a descriptor. The commit does it too. */
int blob_put_end(struct blob_put *put, struct err *err);
int64_t blob_put_bytes(const struct blob_put *put);
/* SHA-256 of what was written so far. Lives as long as the put. */
const struct hash *blob_put_hash(const struct blob_put *put);
/* Bytes are on local disk here until the commit: a child may inspect them before anything is published. */
const char *blob_put_path(const struct blob_put *put);
/* Durable and visible under its hash afterwards. The same content twice, even at once, is fine. */
int blob_put_commit(struct blob_put *put, char sha256[SHA256_HEX], struct err *err);
/* Ends the put: not committed = nothing was ever there; committed = unpinned. NULL is fine. */
void blob_put_free(struct blob_put *put);
/* Take over a finished regular file from a folder beside the objects (a job's work folder): it is moved, not copied, so
 * nobody may have it open for writing. Pinned until blob_unpin(sha256). */
int blob_put_take(struct blobs *blobs, const char *path, char sha256[SHA256_HEX], int64_t *bytes, struct err *err);

/* The same for a file whose hash is known and which has been synced: it is not read again, and not pinned. When this
 * fails the file is where it was. `hashed`: as its bytes were written, so the first blob_open believes it. */
int blob_put_adopt(struct blobs *blobs, const char *path, bool hashed, const char *sha256, struct err *err);

/* Read-only descriptor of the caller (close), -1 with ERR_NOT_FOUND. The content is what the hash says (blob_check.h):
 * ERR_CORRUPT when it is not, so the first call for a large file may take seconds. */
int blob_open(struct blobs *blobs, const char *sha256, int64_t *bytes, struct err *err);
/* A local path that stays valid while a row refers to the object or a pin holds it. `out` of PATH_MAX bytes. */
int blob_path(struct blobs *blobs, const char *sha256, char *out, size_t size, struct err *err);
/* blob_open without a descriptor: before a path is given to a child. */
int blob_verify(struct blobs *blobs, const char *sha256, struct err *err);
/* How long the content of a file that looks untouched is believed; 0: it is hashed at every blob_open. */
void blobs_set_check_age(struct blobs *blobs, int64_t seconds);
int blob_pin(struct blobs *blobs, const char *sha256, struct err *err); /* ERR_NOMEM */
void blob_unpin(struct blobs *blobs, const char *sha256);

/* Remove the object unless it is pinned or used(arg, sha256) is not 0 (1 used, -1 not known). Nothing can pin it
 * between question and removal. 1 removed, 0 kept, -1. */
typedef int blob_used_fn(void *arg, const char *sha256);
int blob_collect(struct blobs *blobs, const char *sha256, blob_used_fn *used, void *arg, struct err *err);
/* blob_collect over every object there is, for a start after a crash. *removed counts. */
int blob_sweep(struct blobs *blobs, blob_used_fn *used, void *arg, int *removed, struct err *err);
/* Bytes a writer may still use (free space minus the reserve, >= 0). */
int64_t blob_free_bytes(struct blobs *blobs);

#endif
