/* SPDX-License-Identifier: Apache-2.0
 * range.h - conditions and ranges of RFC 9110 (13 and 14), for resources with a strong ETag and a known length. */
#ifndef PARED_SERVER_RANGE_H
#define PARED_SERVER_RANGE_H

#include <stdbool.h>
#include <stdint.h>

enum range_kind {
    RANGE_WHOLE,  /* no Range, one that is not understood, or several ranges: the whole body, 200 */
    RANGE_PART,   /* 206 */
    RANGE_BEYOND, /* 416 */
};
/* `value` is the Range header or NULL. On RANGE_PART [*first, *first + *len) lies within size. */
enum range_kind range_parse(const char *value, uint64_t size, uint64_t *first, uint64_t *len);

/* True if the list of an If-None-Match or If-Match header names `etag` (with its quotes), or is "*". weak: W/ does not
 * matter. */
bool etag_listed(const char *header, const char *etag, bool weak);

#endif
