/* SPDX-License-Identifier: Apache-2.0
 * coding.h - content codings of answers (RFC 9110 8.4 and 12.5.3): which one a client takes, and the bytes in it.
 * Pure functions; any thread. */
#ifndef PARED_SERVER_CODING_H
#define PARED_SERVER_CODING_H

#include <stdbool.h>
#include <stddef.h>

enum coding { CODING_IDENTITY, CODING_GZIP, CODING_ZSTD };
enum { CODING_MIN_BYTES = 1024, CODING_MAX_BYTES = 64 << 20 };

/* The best of an Accept-Encoding header (NULL: identity); of equals zstd before gzip. */
enum coding coding_choose(const char *accept);
/* "gzip", "zstd", "identity" */
const char *coding_name(enum coding coding);
/* Is a body of this media type worth it? Text is; pictures and archives are packed already, streams must not wait. */
bool coding_useful(const char *media_type);
/* Bytes from malloc; NULL when it does not get smaller, or memory is out: send it as it is. */
char *coding_apply(enum coding coding, const void *bytes, size_t len, size_t *out_len);

#endif
