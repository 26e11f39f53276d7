/* SPDX-License-Identifier: Apache-2.0
 * wire_bytes.h - protobuf messages by hand, so that tests can say what no library would write. Each wb_* appends one field. */
#ifndef PARED_TESTS_WIRE_BYTES_H
#define PARED_TESTS_WIRE_BYTES_H

#include <stdint.h>
#include <string.h>

#include "core/base/buf.h"

static inline void wb_varint(struct buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        buf_append(b, &(unsigned char){(unsigned char)(v | 0x80)}, 1);
    buf_append(b, &(unsigned char){(unsigned char)v}, 1);
}

static inline void wb_int(struct buf *b, unsigned field, int64_t v)
{
    wb_varint(b, (uint64_t)field << 3);
    wb_varint(b, (uint64_t)v);
}

static inline void wb_bytes(struct buf *b, unsigned field, const void *data, size_t len)
{
    wb_varint(b, (uint64_t)field << 3 | 2);
    wb_varint(b, len);
    buf_append(b, data, len);
}

static inline void wb_text(struct buf *b, unsigned field, const char *text)
{
    wb_bytes(b, field, text, strlen(text));
}

/* Takes `inner` over: it becomes a field and is freed. */
static inline void wb_message(struct buf *b, unsigned field, struct buf *inner)
{
    wb_bytes(b, field, inner->len ? inner->data : "", inner->len);
    buf_fini(inner);
}

static inline void wb_node(struct buf *graph, const char *op, const char *name, const char *in, const char *out)
{
    struct buf node = {0};
    if (in)
        wb_text(&node, 1, in);
    if (out)
        wb_text(&node, 2, out);
    if (name)
        wb_text(&node, 3, name);
    wb_text(&node, 4, op);
    wb_message(graph, 1, &node);
}

/* ValueInfoProto: float32 tensor of shape [n]. */
static inline void wb_value(struct buf *graph, unsigned field, const char *name, int64_t n)
{
    struct buf info = {0}, type = {0}, tensor = {0}, shape = {0}, dim = {0};
    wb_int(&dim, 1, n);
    wb_message(&shape, 1, &dim);
    wb_int(&tensor, 1, 1);
    wb_message(&tensor, 2, &shape);
    wb_message(&type, 1, &tensor);
    wb_text(&info, 1, name);
    wb_message(&info, 2, &type);
    wb_message(graph, field, &info);
}

/* float32 initializer with these dims and raw_data of `raw` bytes (negative: none). */
static inline void wb_initializer(struct buf *graph, const char *name, const int64_t *dims, int rank, int raw)
{
    static const char zeros[4096];
    struct buf tensor = {0};
    for (int i = 0; i < rank; i++)
        wb_int(&tensor, 1, dims[i]);
    wb_int(&tensor, 2, 1);
    wb_text(&tensor, 8, name);
    if (raw >= 0)
        wb_bytes(&tensor, 9, zeros, (size_t)raw);
    wb_message(graph, 5, &tensor);
}

/* ModelProto around a graph, which is taken over. */
static inline struct buf wb_model(struct buf *graph, int64_t opset)
{
    struct buf model = {0}, import = {0};
    wb_int(&model, 1, 8);
    wb_message(&model, 7, graph);
    wb_text(&import, 1, "");
    wb_int(&import, 2, opset);
    wb_message(&model, 8, &import);
    return model;
}

#endif
