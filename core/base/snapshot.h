/* SPDX-License-Identifier: Apache-2.0
 * snapshot.h - the state of a long computation in one file: named byte strings, checksummed, replaced by rename.
 * Form       "PAREDSNP", version, key, then records (name, length, bytes) and a sha256 of all before it.
 * Contract   a file that was not written whole, or was changed, or has another key, reads as if it were not there.
 * Errors     of writing: ERR_IO, ERR_NOMEM, ERR_DISK_FULL where errno says so. Threads: one a snapshot. */
#ifndef PARED_BASE_SNAPSHOT_H
#define PARED_BASE_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

struct snapshot_writer; /* opaque */
/* key: text that says what the state belongs to; a reader must give the same. */
struct snapshot_writer *snapshot_begin(const char *path, const char *key, struct err *err);
int snapshot_put(struct snapshot_writer *w, const char *name, const void *data, size_t bytes, struct err *err);
/* Durable and in place when this returns 0. Frees w in any case. */
int snapshot_commit(struct snapshot_writer *w, struct err *err);
void snapshot_abandon(struct snapshot_writer *w);

struct snapshot; /* opaque */
/* NULL without error set: there is none to use (*why, if not NULL, is set to a short reason or NULL when there is no
 * file). */
struct snapshot *snapshot_open(const char *path, const char *key, const char **why);
void snapshot_close(struct snapshot *s);
/* Borrowed until snapshot_close; NULL: no such record. 8-byte aligned. */
const void *snapshot_get(const struct snapshot *s, const char *name, size_t *bytes);

#endif
