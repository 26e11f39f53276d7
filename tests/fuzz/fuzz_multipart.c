/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a multipart body of boundary `b`, fed whole and byte by byte: both ways must end alike and give the same
 * parts. The first line is tried as Content-Type too. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/multipart_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse(const char *type, const char *body, size_t len, size_t piece, struct buf *out)
{
    struct err err = {0};
    int rc = multipart_text(type, body, len, piece, out, &err);
    if ((rc == 0) != (err.code == ERR_NONE))
        abort(); /* a failure without a sentence, or a sentence without a failure */
    return rc;
}

static void compare(const char *type, const char *body, size_t len)
{
    struct buf whole = {0}, pieces = {0};
    int a = parse(type, body, len, len ? len : 1, &whole), b = parse(type, body, len, 1, &pieces);
    if (a != b)
        abort();
    if (a == 0 && (whole.len != pieces.len || (whole.len && memcmp(whole.data, pieces.data, whole.len))))
        abort();
    buf_fini(&whole);
    buf_fini(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = memchr(text, '\n', size);
    compare("multipart/form-data; boundary=b", text, size);
    if (!end)
        return 0;
    char *type = strndup(text, (size_t)(end - text));
    if (type)
        compare(type, end + 1, size - (size_t)(end + 1 - text));
    free(type);
    return 0;
}
