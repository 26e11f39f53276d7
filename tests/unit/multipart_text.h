/* SPDX-License-Identifier: Apache-2.0
 * multipart_text.h - a multipart body as text, for tests and the fuzzer: "<name|filename>bytes;" a part. */
#ifndef PARED_TESTS_MULTIPART_TEXT_H
#define PARED_TESTS_MULTIPART_TEXT_H

#include "core/base/buf.h"
#include "server/multipart.h"

static int multipart_text_begin(void *arg, const char *name, const char *filename, struct err *err)
{
    (void)err;
    buf_printf(arg, "<%s|%s>", name, filename);
    return 0;
}

static int multipart_text_data(void *arg, const char *bytes, size_t len, struct err *err)
{
    (void)err;
    buf_append(arg, bytes, len);
    return 0;
}

static int multipart_text_end(void *arg, struct err *err)
{
    (void)err;
    buf_puts(arg, ";");
    return 0;
}

/* body, fed in pieces of `piece` bytes, into out. -1: refused, with err set. */
static int multipart_text(const char *type, const char *body, size_t len, size_t piece, struct buf *out,
                          struct err *err)
{
    struct multipart_sink sink = {multipart_text_begin, multipart_text_data, multipart_text_end, out};
    struct multipart *m = multipart_new(type, &sink, err);
    int rc = m ? 0 : -1;
    for (size_t at = 0; rc == 0 && at < len; at += piece)
        rc = multipart_feed(m, body + at, len - at < piece ? len - at : piece, err);
    if (rc == 0)
        rc = multipart_end(m, err);
    multipart_free(m);
    return rc;
}

#endif
