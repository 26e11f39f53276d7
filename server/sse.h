/* SPDX-License-Identifier: Apache-2.0
 * sse.h - the text of server-sent events (HTML Living Standard, 9.2), appended to a buffer. */
#ifndef PARED_SERVER_SSE_H
#define PARED_SERVER_SSE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"

/* id 0: without one, so a client that comes back does not ask from here. `data` may have lines. */
void sse_event(struct buf *out, int64_t id, const char *type, const char *data);
/* Keeps proxies and clients awake; no event. Without line breaks. */
void sse_comment(struct buf *out, const char *text);
/* How long a client waits before it comes back. */
void sse_retry(struct buf *out, int milliseconds);
/* Last-Event-ID or ?after=: a whole number from 0. */
bool sse_parse_id(const char *text, int64_t *id);

#endif
