/* SPDX-License-Identifier: Apache-2.0
 * multipart.h - multipart/form-data (RFC 7578), parsed as it arrives, in constant memory.
 * Why        parts may be gigabytes: nothing is kept but an unfinished header line and an unfinished delimiter.
 * Life cycle multipart_new -> multipart_feed* -> multipart_end -> multipart_free
 * Strict     CRLF line ends, boundary of 1 to 70 characters, header block of a part at most 8 KiB, every part named.
 *            What is not so is ERR_BAD_REQUEST. A callback that fails (-1, err set) ends the parse with its error.
 * Threads    one parser a thread. */
#ifndef PARED_SERVER_MULTIPART_H
#define PARED_SERVER_MULTIPART_H

#include <stddef.h>

#include "core/base/err.h"

enum { MULTIPART_NAME = 256, MULTIPART_HEADER_BYTES = 8192, MULTIPART_PARTS = 1000 };

struct multipart_sink {
    /* A part starts. `filename` is "" when there is none. Strings are valid during the call. */
    int (*begin)(void *arg, const char *name, const char *filename, struct err *err);
    int (*data)(void *arg, const char *bytes, size_t len, struct err *err);
    int (*end)(void *arg, struct err *err);
    void *arg;
};

struct multipart;

/* `content_type` is the header's whole value. NULL: ERR_BAD_REQUEST when it has no usable boundary. */
struct multipart *multipart_new(const char *content_type, const struct multipart_sink *sink, struct err *err);
int multipart_feed(struct multipart *multipart, const char *bytes, size_t len, struct err *err);
/* The body is complete: was the closing delimiter there? */
int multipart_end(struct multipart *multipart, struct err *err);
void multipart_free(struct multipart *multipart);

#endif
