/* SPDX-License-Identifier: Apache-2.0
 * byte_io.h - numbers and runs of bytes, read with every length checked. A varint is as in protobuf: 7 bits a byte, the
 * lowest first, the top bit says that more follow. */
#ifndef PARED_ENCODE_BYTE_IO_H
#define PARED_ENCODE_BYTE_IO_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/size.h"

struct byte_reader {
    const unsigned char *data;
    size_t at, len;
};

/* What is wrong with a file that says what cannot be; returns -1. */
static inline int damaged(struct err *err, const char *what)
{
    err_set(err, ERR_INVALID, "the container is damaged: %s", what);
    return -1;
}

static inline int read_bytes(struct byte_reader *r, size_t n, const unsigned char **out, struct err *err)
{
    if (n > r->len - r->at)
        return damaged(err, "it ends too early");
    *out = r->data + r->at;
    r->at += n;
    return 0;
}

/* At most `max`. */
static inline int read_varint(struct byte_reader *r, uint64_t max, uint64_t *out, struct err *err)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 63; shift += 7) {
        if (r->at == r->len)
            return damaged(err, "it ends too early");
        const unsigned char byte = r->data[r->at++];
        v |= (uint64_t)(byte & 127) << shift;
        if (byte & 128)
            continue;
        if (v > max)
            break;
        *out = v;
        return 0;
    }
    return damaged(err, "a number is too large");
}

static inline int read_byte(struct byte_reader *r, unsigned char *out, struct err *err)
{
    const unsigned char *p;
    if (read_bytes(r, 1, &p, err))
        return -1;
    *out = *p;
    return 0;
}

static inline void put_byte(struct buf *b, unsigned v)
{
    const unsigned char byte = (unsigned char)v;
    buf_append(b, &byte, 1);
}

static inline void put_varint(struct buf *b, uint64_t v)
{
    for (; v > 127; v >>= 7)
        put_byte(b, (unsigned)(v & 127) | 128);
    put_byte(b, (unsigned)v);
}

#endif
