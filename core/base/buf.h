/* SPDX-License-Identifier: Apache-2.0
 * buf.h - a growing byte buffer whose error is sticky: write freely, ask once at the end.
 * Life cycle struct buf b = {0}; buf_*...; if (b.failed) ...; buf_fini or buf_take. */
#ifndef PARED_BASE_BUF_H
#define PARED_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data; /* NUL-terminated whenever not NULL */
    size_t len, cap;
    bool failed; /* memory ran out: contents are incomplete */
};

void buf_append(struct buf *buf, const void *bytes, size_t len);
void buf_puts(struct buf *buf, const char *text);
void buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_fini(struct buf *buf);
/* The caller now owns the NUL-terminated bytes (free); NULL if failed. The buffer is empty again. */
char *buf_take(struct buf *buf);

#endif
