/* SPDX-License-Identifier: Apache-2.0
 * TensorProto into a tensor. Elements stand in one of three places (raw_data, a typed list, an external file), each
 * checked against dims x dtype to the byte. Raw bytes become a window of the mapping where their address suits the
 * element type; protobuf aligns nothing, so others are copied, unless the caller only looks (opts->keep_unaligned). */
#include <inttypes.h>
#include <string.h>

#include "core/base/size.h"
#include "core/model/onnx_reader.h"

enum { KEEP_UNALIGNED_BYTES = 65536 };

/* Which typed list holds a dtype, and how. Each int32_data number of a sub-byte dtype holds a packed byte. */
enum list_id { LIST_FLOAT, LIST_INT32, LIST_INT64, LIST_DOUBLE, LIST_UINT64, LIST_COUNT };
struct list_kind {
    const char *name;
    enum wire_type wire;
    size_t width; /* bytes of a number on the wire; 0: varint */
};
static const struct list_kind list_kinds[LIST_COUNT] = {
    [LIST_FLOAT] = {"float_data", WIRE_32BIT, 4},    [LIST_INT32] = {"int32_data", WIRE_VARINT, 0},
    [LIST_INT64] = {"int64_data", WIRE_VARINT, 0},   [LIST_DOUBLE] = {"double_data", WIRE_64BIT, 8},
    [LIST_UINT64] = {"uint64_data", WIRE_VARINT, 0},
};

static enum list_id list_of(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_FLOAT:
    case DTYPE_COMPLEX64:
        return LIST_FLOAT;
    case DTYPE_DOUBLE:
    case DTYPE_COMPLEX128:
        return LIST_DOUBLE;
    case DTYPE_INT64:
        return LIST_INT64;
    case DTYPE_UINT32:
    case DTYPE_UINT64:
        return LIST_UINT64;
    default:
        return LIST_INT32;
    }
}

struct list {
    const ProtobufCBinaryData *at;
    size_t count;
};

static struct list list_get(const Onnx__TensorProto *pb, enum list_id id)
{
    const struct list lists[LIST_COUNT] = {
        [LIST_FLOAT] = {pb->float_data, pb->n_float_data},    [LIST_INT32] = {pb->int32_data, pb->n_int32_data},
        [LIST_INT64] = {pb->int64_data, pb->n_int64_data},    [LIST_DOUBLE] = {pb->double_data, pb->n_double_data},
        [LIST_UINT64] = {pb->uint64_data, pb->n_uint64_data},
    };
    return lists[id];
}

/* dims, dtype and the bytes they need. */
static int read_shape(struct reader *r, const Onnx__TensorProto *pb, struct tensor *t, size_t *need)
{
    char text[SHAPE_TEXT];
    t->dtype = (enum dtype)pb->data_type;
    t->shape.rank = (int)pb->n_dims;
    for (size_t i = 0; i < pb->n_dims; i++) {
        if (pb->dims[i] < 0)
            return err_set(r->err, ERR_MODEL, "dims[%zu] is %" PRId64 "; a dimension is at least 0", i, pb->dims[i]);
        t->shape.dim[i] = pb->dims[i];
    }
    int64_t n = shape_count(&t->shape);
    if (n < 0 || !dtype_bytes(t->dtype, n, need) || *need > INT64_MAX)
        return err_set(r->err, ERR_MODEL, "%s%s is larger than any tensor can be", dtype_name(t->dtype),
                       shape_text(&t->shape, text));
    return 0;
}

int read_window(struct reader *r, struct tensor *t, const unsigned char *data, struct tbuf *owner)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    size_t align = width > 8 ? 8 : width ? width : 1;
    enum dtype dtype = t->dtype;
    struct shape shape = t->shape;
    size_t bytes = 0;
    bool small = dtype_bytes(dtype, shape_count(&shape), &bytes) && bytes < KEEP_UNALIGNED_BYTES;
    bool keep = r->opts && r->opts->keep_unaligned && !small;
    if ((uintptr_t)data % align == 0 || keep) {
        tensor_view(t, dtype, &shape, (void *)(uintptr_t)data, owner);
        return 0;
    }
    if (tensor_alloc(t, dtype, &shape, r->err))
        return -1;
    memcpy(t->data, data, t->bytes);
    struct tensor copied = {0}; /* the file's own pages are not looked at again */
    tensor_view(&copied, dtype, &shape, (void *)(uintptr_t)data, owner);
    tensor_release_pages(&copied);
    tensor_fini(&copied);
    return 0;
}

static int read_raw(struct reader *r, const Onnx__TensorProto *pb, struct tensor *t, size_t need)
{
    char text[SHAPE_TEXT];
    const struct wire_cut *c = wire_cut_of(r->w, pb->raw_data);
    size_t have = c->end - c->start;
    if (t->dtype == DTYPE_STRING)
        return err_set(r->err, ERR_MODEL, "raw_data cannot hold strings; string_data does");
    if (have != need)
        return err_set(r->err, ERR_MODEL, "raw_data holds %zu bytes, but %s%s needs %zu", have, dtype_name(t->dtype),
                       shape_text(&t->shape, text), need);
    return read_window(r, t, r->w->bytes + c->start, r->file);
}

/* Numbers in one entry of a list, or -1 if it ends inside one. */
static int64_t count_entry(const struct reader *r, const struct wire_cut *c, const struct list_kind *kind)
{
    if (c->wire != WIRE_LEN)
        return 1;
    if (kind->width)
        return (c->end - c->start) % kind->width ? -1 : (int64_t)((c->end - c->start) / kind->width);
    int64_t n = 0;
    uint64_t value;
    for (size_t p = c->start; p < c->end; n++)
        if (!wire_varint(r->w->bytes, &p, c->end, &value))
            return -1;
    return n;
}

/* Numbers of `width` bytes, little-endian: the low bytes of each varint. */
static unsigned char *decode_varints(const struct reader *r, const struct wire_cut *c, size_t width, unsigned char *out)
{
    uint64_t value = 0;
    for (size_t p = c->start; p < c->end; out += width) {
        wire_varint(r->w->bytes, &p, c->end, &value);
        memcpy(out, &value, width);
    }
    return out;
}

/* Where the list's fields stand on the wire, to be written back as they are. */
static int keep_typed(struct reader *r, struct list list, struct weight *w)
{
    bool failed = false;
    w->storage = STORAGE_TYPED;
    w->typed_of = w->tensor.data;
    w->typed = reader_fields(r, list.at, list.count, &failed);
    /* A second reference: whoever wants to change the elements must make them private first, which typed_of then shows.
     */
    if (!failed && w->tensor.buf && w->tensor.buf != r->file)
        failed = model_keep_file(r->m, tbuf_ref(w->tensor.buf)) != 0;
    return failed ? reader_nomem(r) : 0;
}

static int read_typed(struct reader *r, const Onnx__TensorProto *pb, struct weight *w, size_t need)
{
    char text[SHAPE_TEXT];
    struct tensor *t = &w->tensor;
    enum list_id id = list_of(t->dtype);
    const struct list_kind *kind = &list_kinds[id];
    struct list list = list_get(pb, id);
    int64_t have = 0, want = shape_count(&t->shape);
    int bits = dtype_bits(t->dtype);
    if (bits < 8)
        want = (int64_t)need;
    else if (dtype_kind(t->dtype) == 'c' && !i64_mul(want, 2, &want))
        want = -1;
    if (!list.count && want > 0 && r->opts && r->opts->allow_missing_external) {
        w->storage = STORAGE_TYPED; /* no data at all: written back as nothing */
        return 0;
    }
    for (size_t i = 0; i < list.count; i++) {
        int64_t n = count_entry(r, wire_cut_of(r->w, list.at[i]), kind);
        if (n < 0)
            return err_set(r->err, ERR_MODEL, "%s ends inside a number", kind->name);
        have += n;
    }
    if (!list.count && want > 0)
        return err_set(r->err, ERR_MODEL,
                       "has no elements, but %s%s needs %" PRId64 " (a model saved without its weights?)",
                       dtype_name(t->dtype), shape_text(&t->shape, text), want);
    if (have != want)
        return err_set(r->err, ERR_MODEL, "%s holds %" PRId64 " numbers, but %s%s needs %" PRId64, kind->name, have,
                       dtype_name(t->dtype), shape_text(&t->shape, text), want);
    const struct wire_cut *first = list.count == 1 ? wire_cut_of(r->w, list.at[0]) : NULL;
    struct shape shape = t->shape;
    if (first && kind->width) {
        if (read_window(r, t, r->w->bytes + first->start, r->file))
            return -1;
        return keep_typed(r, list, w);
    }
    if (tensor_alloc(t, t->dtype, &shape, r->err))
        return -1;
    unsigned char *out = t->data;
    size_t width = bits < 8 ? 1 : (size_t)bits / 8;
    for (size_t i = 0; i < list.count; i++) {
        const struct wire_cut *c = wire_cut_of(r->w, list.at[i]);
        if (!kind->width) {
            out = decode_varints(r, c, width, out);
        } else {
            memcpy(out, r->w->bytes + c->start, c->end - c->start);
            out += c->end - c->start;
        }
    }
    return keep_typed(r, list, w);
}

/* Strings stay in the mapping; the tensor's buffer holds the array of (pointer, length) only. */
static int read_strings(struct reader *r, const Onnx__TensorProto *pb, struct weight *w)
{
    char text[SHAPE_TEXT];
    struct tensor *t = &w->tensor;
    struct shape shape = t->shape;
    int64_t want = shape_count(&shape);
    if ((uint64_t)want != pb->n_string_data)
        return err_set(r->err, ERR_MODEL, "string_data holds %zu strings, but string%s needs %" PRId64,
                       pb->n_string_data, shape_text(&shape, text), want);
    size_t total = (size_t)want * sizeof(struct dtype_string);
    for (size_t i = 0; i < pb->n_string_data; i++) {
        const struct wire_cut *c = wire_cut_of(r->w, pb->string_data[i]);
        total += c->end - c->start + 1;
    }
    struct tbuf *buf = tbuf_new(total, r->err);
    if (!buf)
        return -1;
    struct dtype_string *array = tbuf_data(buf);
    char *at = (char *)(array + want);
    for (size_t i = 0; i < pb->n_string_data; i++) {
        const struct wire_cut *c = wire_cut_of(r->w, pb->string_data[i]);
        array[i] = (struct dtype_string){at, c->end - c->start};
        memcpy(at, r->w->bytes + c->start, array[i].len);
        at += array[i].len + 1;
    }
    tensor_view(t, DTYPE_STRING, &shape, array, buf);
    tbuf_unref(buf);
    return keep_typed(r, (struct list){pb->string_data, pb->n_string_data}, w);
}

/* Elements in two places, or in the list of another dtype, contradict each other. */
static int check_places(struct reader *r, const Onnx__TensorProto *pb, bool external)
{
    const char *found = external ? "external data" : NULL;
    enum list_id own = list_of((enum dtype)pb->data_type);
    if (pb->has_raw_data &&
        (!external || wire_cut_of(r->w, pb->raw_data)->end > wire_cut_of(r->w, pb->raw_data)->start)) {
        if (found)
            return err_set(r->err, ERR_MODEL, "has both raw_data and %s; one place holds the elements", found);
        found = "raw_data";
    }
    for (int id = 0; id < LIST_COUNT; id++) {
        struct list list = list_get(pb, (enum list_id)id);
        bool empty = true;
        for (size_t i = 0; i < list.count && empty; i++) {
            const struct wire_cut *c = wire_cut_of(r->w, list.at[i]);
            empty = c->end == c->start;
        }
        if (empty)
            continue;
        if (found)
            return err_set(r->err, ERR_MODEL, "has both %s and %s; one place holds the elements", list_kinds[id].name,
                           found);
        if ((enum list_id)id != own || pb->data_type == DTYPE_STRING)
            return err_set(r->err, ERR_MODEL, "is %s but has its elements in %s", dtype_name((enum dtype)pb->data_type),
                           list_kinds[id].name);
        found = list_kinds[id].name;
    }
    if (pb->n_string_data && (found || pb->data_type != DTYPE_STRING))
        return err_set(r->err, ERR_MODEL, "is %s but has string_data", dtype_name((enum dtype)pb->data_type));
    return 0;
}

static int read_opaque(struct reader *r, const Onnx__TensorProto *pb, struct weight *w)
{
    size_t len;
    void *bytes = wire_repack(r->w, (ProtobufCMessage *)(uintptr_t)&pb->base, r->m->arena, &len);
    if (!bytes)
        return reader_nomem(r);
    w->opaque = (struct bytes){bytes, len};
    w->tensor.shape = SHAPE_UNKNOWN;
    if (dtype_valid(pb->data_type))
        w->tensor.dtype = (enum dtype)pb->data_type;
    return 0;
}

static int read_frame(struct reader *r, const Onnx__TensorProto *pb, struct weight *w)
{
    bool failed = false;
    w->name = reader_text(r, pb->name, &failed);
    w->doc = reader_text(r, pb->doc_string, &failed);
    w->unknown = reader_unknown(r, &pb->base, &failed);
    w->has_location = pb->has_data_location;
    if (failed)
        return reader_nomem(r);
    if (read_entries(r, pb->external_data, pb->n_external_data, &w->external))
        return -1;
    return read_entries(r, pb->metadata_props, pb->n_metadata_props, &w->metadata);
}

int read_tensor(struct reader *r, const Onnx__TensorProto *pb, struct weight *w)
{
    size_t need;
    bool external = pb->has_data_location && pb->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    if (read_frame(r, pb, w))
        return -1;
    if (!pb->has_data_type || pb->data_type == 0)
        return err_set(r->err, ERR_MODEL, "has no data_type");
    if (!dtype_valid(pb->data_type) || pb->n_dims > SHAPE_MAX_RANK || pb->has_segment)
        return read_opaque(r, pb, w);
    if (read_shape(r, pb, &w->tensor, &need) || check_places(r, pb, external))
        return -1;
    if (external) {
        w->storage = STORAGE_EXTERNAL;
        return read_external(r, w, need);
    }
    if (pb->has_raw_data) {
        w->storage = STORAGE_RAW;
        return read_raw(r, pb, &w->tensor, need);
    }
    return pb->data_type == DTYPE_STRING ? read_strings(r, pb, w) : read_typed(r, pb, w, need);
}
