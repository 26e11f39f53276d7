/* SPDX-License-Identifier: Apache-2.0
 * SequenceProto and OptionalProto have few fields, all of them messages again but name (1) and elem_type (2), so
 * they are walked by hand down to the TensorProtos, which the model reader takes. Field numbers of the items are the
 * same in both: 3 tensor, 5 sequence, 7 optional. */
#include "core/model/onnx_value.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_wire.h"
#include "core/model/onnx_write.h"

enum { FIELD_NAME = 1, FIELD_ELEM = 2, FIELD_TENSOR = 3, FIELD_SEQUENCE = 5, FIELD_OPTIONAL = 7, MAX_DEPTH = 4 };

struct part {
    const unsigned char *bytes;
    size_t len;
};

struct items {
    struct tensor *at;
    int64_t n, cap;
};

static void items_fini(struct items *items)
{
    for (int64_t i = 0; i < items->n; i++)
        tensor_fini(&items->at[i]);
    free(items->at);
}

static struct tensor *items_add(struct items *items, struct err *err)
{
    if (items->n == TENSOR_LIST_MAX) {
        err_set(err, ERR_MODEL_TOO_LARGE, "a sequence has more than %d items", TENSOR_LIST_MAX);
        return NULL;
    }
    if (items->n == items->cap) {
        int64_t cap = items->cap ? items->cap * 2 : 8;
        struct tensor *grown = realloc(items->at, (size_t)cap * sizeof *grown);
        if (!grown) {
            err_set(err, ERR_NOMEM, "out of memory");
            return NULL;
        }
        items->at = grown;
        items->cap = cap;
    }
    items->at[items->n] = (struct tensor){0};
    return &items->at[items->n++];
}

static int read_tensor_part(struct tensor *t, struct part p, struct err *err)
{
    struct tbuf *copy = tbuf_new(p.len, err);
    if (!copy)
        return -1;
    if (p.len)
        memcpy(tbuf_data(copy), p.bytes, p.len);
    int rc = onnx_read_tensor_bytes(t, NULL, 0, copy, p.len, err);
    tbuf_unref(copy);
    return rc;
}

/* The next field: its number and, for messages, its payload. 0 at the end, -1: broken. */
static int next_field(struct part *p, uint64_t *field, struct part *payload, struct err *err)
{
    size_t at = 0, len;
    uint64_t tag, value;
    if (!p->len)
        return 0;
    if (!wire_varint(p->bytes, &at, p->len, &tag))
        goto broken;
    *field = tag >> 3;
    *payload = (struct part){0};
    switch (tag & 7) {
    case WIRE_VARINT:
        if (!wire_varint(p->bytes, &at, p->len, &value))
            goto broken;
        len = 0;
        break;
    case WIRE_LEN:
        if (!wire_varint(p->bytes, &at, p->len, &value) || value > p->len - at)
            goto broken;
        len = (size_t)value;
        *payload = (struct part){p->bytes + at, len};
        break;
    case WIRE_64BIT:
        len = 8;
        break;
    case WIRE_32BIT:
        len = 4;
        break;
    default:
        goto broken;
    }
    if (len > p->len - at)
        goto broken;
    p->bytes += at + len;
    p->len -= at + len;
    return 1;
broken:
    return err_set(err, ERR_MODEL, "the value is cut off or no SequenceProto or OptionalProto");
}

static int read_list(struct tensor *t, enum dtype kind, struct part p, int depth, struct err *err)
{
    struct items items = {0};
    struct part payload;
    uint64_t field = 0;
    int rc = 0, more;
    *t = (struct tensor){0};
    if (depth > MAX_DEPTH)
        return err_set(err, ERR_MODEL, "sequences and optionals are nested deeper than %d", MAX_DEPTH);
    while (!rc && (more = next_field(&p, &field, &payload, err)) != 0) {
        struct tensor *item = NULL;
        if (more < 0)
            rc = -1;
        else if (field == FIELD_TENSOR || field == FIELD_SEQUENCE || field == FIELD_OPTIONAL)
            rc = (item = items_add(&items, err)) ? 0 : -1;
        else if (field != FIELD_NAME && field != FIELD_ELEM)
            rc = err_set(err, ERR_MODEL, "field %" PRIu64 " of the value holds a sparse tensor or a map; only tensors, "
                                         "sequences and optionals can be held", field);
        if (rc || !item)
            continue;
        rc = field == FIELD_TENSOR ? read_tensor_part(item, payload, err)
                                   : read_list(item, field == FIELD_SEQUENCE ? DTYPE_SEQUENCE : DTYPE_OPTIONAL, payload,
                                               depth + 1, err);
    }
    if (!rc && kind == DTYPE_OPTIONAL && items.n > 1)
        rc = err_set(err, ERR_MODEL, "the optional holds %" PRId64 " values; at most one is possible", items.n);
    if (!rc)
        rc = tensor_list(t, kind, items.at, items.n, err);
    items_fini(&items);
    return rc;
}

int onnx_read_value_file(struct tensor *t, const struct type *type, const char *path, struct err *err)
{
    bool sequence = type && type->kind == TYPE_SEQUENCE;
    if (!sequence && (!type || type->kind != TYPE_OPTIONAL))
        return onnx_read_tensor_file(t, NULL, 0, path, err);
    struct file_map map;
    *t = (struct tensor){0};
    if (file_map_open(&map, path, err))
        return -1;
    int rc = read_list(t, sequence ? DTYPE_SEQUENCE : DTYPE_OPTIONAL, (struct part){map.data, map.size}, 0, err);
    file_map_close(&map);
    return rc;
}

/* ---- writing ---- */
static void put_varint(struct buf *out, uint64_t v)
{
    unsigned char bytes[10];
    size_t n = 0;
    do {
        bytes[n] = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (bytes[n++] & 0x80);
    buf_append(out, bytes, n);
}

static void put_bytes(struct buf *out, unsigned field, const void *bytes, size_t len)
{
    put_varint(out, (uint64_t)field << 3 | WIRE_LEN);
    put_varint(out, len);
    buf_append(out, bytes, len);
}

/* TENSOR, SEQUENCE or OPTIONAL of the DataType enums. */
static unsigned elem_type(const struct tensor *list)
{
    enum dtype d = tensor_count(list) ? tensor_items(list)[0].dtype : DTYPE_NONE;
    return d == DTYPE_SEQUENCE ? 3 : d == DTYPE_OPTIONAL ? 5 : d != DTYPE_NONE || list->dtype == DTYPE_SEQUENCE ? 1 : 0;
}

static int put_list(struct buf *out, const struct tensor *list, const char *name, struct err *err)
{
    if (name)
        put_bytes(out, FIELD_NAME, name, strlen(name));
    put_varint(out, FIELD_ELEM << 3 | WIRE_VARINT);
    put_varint(out, elem_type(list));
    for (int64_t i = 0; i < tensor_count(list); i++) {
        const struct tensor *item = &tensor_items(list)[i];
        struct buf inner = {0};
        unsigned field = item->dtype == DTYPE_SEQUENCE   ? FIELD_SEQUENCE
                         : item->dtype == DTYPE_OPTIONAL ? FIELD_OPTIONAL
                                                         : FIELD_TENSOR;
        int rc = tensor_is_list(item) ? put_list(&inner, item, NULL, err)
                                      : onnx_write_tensor_buf(item, NULL, &inner, err);
        if (!rc)
            put_bytes(out, field, inner.data, inner.len);
        buf_fini(&inner);
        if (rc)
            return -1;
    }
    return 0;
}

int onnx_write_value_file(const struct tensor *t, const char *name, const char *path, struct err *err)
{
    if (!tensor_is_list(t))
        return onnx_write_tensor_file(t, name, path, err);
    struct buf out = {0};
    int rc = put_list(&out, t, name, err);
    if (!rc && out.failed)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (!rc)
        rc = file_write_atomic(path, out.data, out.len, err);
    buf_fini(&out);
    return rc;
}
