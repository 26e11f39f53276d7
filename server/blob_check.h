/* SPDX-License-Identifier: Apache-2.0
 * blob_check.h - is a stored file still what it was stored as?
 * Why        A disk may change bytes, a person may edit a file, a restore may be cut short. A model that is not the one
 *            that was verified must not be served or trained on; so a file is hashed when it is read.
 * Cost       Hashing 1 GB takes about a second, so a file that was found right is believed as long as its inode, size,
 *            mtime and ctime are those of then and the check is not older than the setting allows. The memory of checks
 *            is a table of fixed size; what falls out of it is hashed again.
 * Threads    all calls from any thread. */
#ifndef PARED_SERVER_BLOB_CHECK_H
#define PARED_SERVER_BLOB_CHECK_H

#include <stdint.h>

#include "core/base/err.h"

struct blob_checks; /* opaque */

struct blob_checks *blob_checks_new(struct err *err);
void blob_checks_free(struct blob_checks *checks); /* NULL is fine */
/* A check is believed for so long; 0: every read is a check. */
void blob_checks_set_age(struct blob_checks *checks, int64_t seconds);
/* The bytes of `fd` have just been hashed to `sha256` by who wrote them. */
void blob_checks_note(struct blob_checks *checks, const char *sha256, int fd);
/* ERR_CORRUPT when the file behind `fd` is not `sha256`. The file offset stays. */
int blob_checks_verify(struct blob_checks *checks, const char *sha256, int fd, struct err *err);

#endif
