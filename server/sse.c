/* SPDX-License-Identifier: Apache-2.0 */
#include "server/sse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A line break inside data would end the line: each line gets a field of its own. CR, LF and CRLF all break. */
static void add_data(struct buf *out, const char *data)
{
    for (;;) {
        size_t len = strcspn(data, "\r\n");
        buf_puts(out, "data: ");
        buf_append(out, data, len);
        buf_puts(out, "\n");
        data += len;
        if (!*data)
            return;
        data += data[0] == '\r' && data[1] == '\n' ? 2 : 1;
    }
}

void sse_event(struct buf *out, int64_t id, const char *type, const char *data)
{
    if (id)
        buf_printf(out, "id: %" PRId64 "\n", id);
    buf_printf(out, "event: %s\n", type);
    add_data(out, data);
    buf_puts(out, "\n");
}

void sse_comment(struct buf *out, const char *text)
{
    buf_printf(out, ": %s\n\n", text);
}

void sse_retry(struct buf *out, int milliseconds)
{
    buf_printf(out, "retry: %d\n\n", milliseconds);
}

bool sse_parse_id(const char *text, int64_t *id)
{
    size_t len = strlen(text);
    if (len == 0 || len > 18 || strspn(text, "0123456789") != len)
        return false;
    *id = strtoll(text, NULL, 10);
    return true;
}
