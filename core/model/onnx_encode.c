/* SPDX-License-Identifier: Apache-2.0
 * Fields are written in the order of their numbers, and unknown fields behind the known ones, as the protobuf libraries
 * do: so a file that came from one of them comes out byte for byte. Absent fields stay absent (NULL strings, has_*). */
#include "core/model/onnx_encode.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VARINT = 0, BITS64 = 1, LEN = 2, BITS32 = 5 };
enum { INLINE_BYTES = 4096, BIG_ALIGN = 4096, SMALL_ALIGN = 64, BIG_BYTES = 1 << 20 };

/* --- wire --- */

static size_t varint_bytes(uint64_t v, unsigned char out[10])
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (unsigned char)(v | 0x80);
    out[n++] = (unsigned char)v;
    return n;
}

static void put_varint(struct encoder *e, uint64_t v)
{
    unsigned char bytes[10];
    buf_append(&e->text, bytes, varint_bytes(v, bytes));
}

static void put_tag(struct encoder *e, unsigned field, unsigned wire)
{
    put_varint(e, (uint64_t)field << 3 | wire);
}

static void put_int(struct encoder *e, unsigned field, int64_t v)
{
    put_tag(e, field, VARINT);
    put_varint(e, (uint64_t)v);
}

static void put_float(struct encoder *e, unsigned field, float v)
{
    put_tag(e, field, BITS32);
    buf_append(&e->text, &v, sizeof v); /* little-endian hosts only, as the raw_data windows are */
}

static void put_raw(struct encoder *e, struct bytes b)
{
    if (b.len)
        buf_append(&e->text, b.data, b.len);
}

static void put_bytes(struct encoder *e, unsigned field, const void *data, size_t len)
{
    put_tag(e, field, LEN);
    put_varint(e, len);
    if (len)
        buf_append(&e->text, data, len);
}

static void put_text(struct encoder *e, unsigned field, const char *text)
{
    if (text)
        put_bytes(e, field, text, strlen(text));
}

/* As put_bytes; large data is referred to, not copied. tensor: whose it is, or NULL. */
static void put_payload(struct encoder *e, unsigned field, const void *data, size_t len, const struct tensor *tensor)
{
    if (len < INLINE_BYTES) {
        put_bytes(e, field, data, len);
        return;
    }
    put_tag(e, field, LEN);
    put_varint(e, len);
    if (e->n_pieces == e->cap_pieces) {
        size_t cap = e->cap_pieces ? e->cap_pieces * 2 : 64;
        struct piece *grown = realloc(e->pieces, cap * sizeof *grown);
        if (!grown) {
            e->failed = true;
            return;
        }
        e->pieces = grown;
        e->cap_pieces = cap;
    }
    e->pieces[e->n_pieces++] = (struct piece){e->text.len, data, len, tensor};
}

/* A message that has begun. */
struct mark {
    size_t text, piece;
};

static struct mark begin(struct encoder *e, unsigned field)
{
    put_tag(e, field, LEN);
    return (struct mark){e->text.len, e->n_pieces};
}

static void end(struct encoder *e, struct mark start)
{
    unsigned char bytes[10];
    uint64_t len = e->text.len - start.text;
    for (size_t i = start.piece; i < e->n_pieces; i++)
        len += e->pieces[i].len;
    size_t n = varint_bytes(len, bytes), body = e->text.len - start.text;
    buf_append(&e->text, bytes, n); /* makes room */
    if (e->text.failed)
        return;
    memmove(e->text.data + start.text + n, e->text.data + start.text, body);
    memcpy(e->text.data + start.text, bytes, n);
    for (size_t i = start.piece; i < e->n_pieces; i++)
        e->pieces[i].at += n;
}

static void put_entry(struct encoder *e, unsigned field, const char *key, const char *value)
{
    struct mark start = begin(e, field);
    put_text(e, 1, key);
    put_text(e, 2, value);
    end(e, start);
}

static void put_entries(struct encoder *e, unsigned field, const struct entries *entries)
{
    for (int i = 0; i < entries->count; i++) {
        struct mark start = begin(e, field);
        put_text(e, 1, entries->at[i].key);
        put_text(e, 2, entries->at[i].value);
        put_raw(e, entries->at[i].unknown);
        end(e, start);
    }
}

/* --- types --- */

static void put_shape(struct encoder *e, const struct type *type)
{
    struct mark shape = begin(e, 2);
    for (int i = 0; i < type->shape.rank; i++) {
        struct mark dim = begin(e, 1);
        int64_t d = type->shape.dim[i];
        if (d >= 0)
            put_int(e, 1, d);
        else if (d != DIM_UNKNOWN && DIM_SYMBOL_INDEX(d) < e->m->n_symbols)
            put_text(e, 2, e->m->symbols[DIM_SYMBOL_INDEX(d)]);
        if (type->dim_denotation)
            put_text(e, 3, type->dim_denotation[i]);
        end(e, dim);
    }
    end(e, shape);
}

static void put_type(struct encoder *e, unsigned field, const struct type *type);

/* The one of TypeProto's messages that `kind` is. */
static void put_kind(struct encoder *e, unsigned field, const struct type *type)
{
    struct mark kind = begin(e, field);
    if (type->has_dtype)
        put_int(e, 1, type->dtype);
    if (type->has_shape)
        put_shape(e, type);
    if (type->inner)
        put_type(e, type->kind == TYPE_MAP ? 2 : 1, type->inner);
    end(e, kind);
}

static void put_type(struct encoder *e, unsigned field, const struct type *type)
{
    static const unsigned fields[] = {[TYPE_TENSOR] = 1, [TYPE_SEQUENCE] = 4,      [TYPE_MAP] = 5,
                                      [TYPE_OPAQUE] = 7, [TYPE_SPARSE_TENSOR] = 8, [TYPE_OPTIONAL] = 9};
    enum { DENOTATION = 6 };
    struct mark start = begin(e, field);
    if (type->opaque.len) {
        put_raw(e, type->opaque);
        end(e, start);
        return;
    }
    unsigned kind = type->kind == TYPE_NONE ? 0 : fields[type->kind];
    if (kind && kind < DENOTATION)
        put_kind(e, kind, type);
    put_text(e, DENOTATION, type->denotation);
    if (kind > DENOTATION)
        put_kind(e, kind, type);
    put_raw(e, type->unknown);
    end(e, start);
}

static void put_info(struct encoder *e, unsigned field, const struct value_info *info)
{
    struct mark start = begin(e, field);
    put_text(e, 1, e->m->values[info->value].name);
    if (info->has_type)
        put_type(e, 2, &info->type);
    put_text(e, 3, info->doc);
    put_entries(e, 4, &info->metadata);
    put_raw(e, info->unknown);
    end(e, start);
}

/* --- tensors --- */

static bool add_part(struct encoder *e, struct external_part part)
{
    if (e->n_parts == e->cap_parts) {
        size_t cap = e->cap_parts ? e->cap_parts * 2 : 64;
        struct external_part *grown = realloc(e->parts, cap * sizeof *grown);
        if (!grown) {
            e->failed = true;
            return false;
        }
        e->parts = grown;
        e->cap_parts = cap;
    }
    e->parts[e->n_parts++] = part;
    return true;
}

static const char *entry_value(const struct entries *entries, const char *key)
{
    for (int i = 0; i < entries->count; i++)
        if (entries->at[i].key && !strcmp(entries->at[i].key, key))
            return entries->at[i].value;
    return NULL;
}

enum place { PLACE_RAW, PLACE_TYPED, PLACE_STRINGS, PLACE_STORED_EXTERNAL, PLACE_NEW_EXTERNAL };

static enum place place_of(const struct encoder *e, const struct weight *w)
{
    const struct tensor *t = &w->tensor;
    if (w->storage == STORAGE_TYPED && w->typed_of == t->data)
        return PLACE_TYPED;
    if (t->dtype == DTYPE_STRING)
        return PLACE_STRINGS;
    if (e->mode == WEIGHTS_BY_SIZE && t->data && t->bytes >= e->threshold)
        return PLACE_NEW_EXTERNAL;
    if (w->storage == STORAGE_EXTERNAL && (e->mode == WEIGHTS_AS_STORED || !t->data))
        return PLACE_STORED_EXTERNAL;
    return PLACE_RAW;
}

static void put_new_external(struct encoder *e, const struct tensor *t)
{
    char number[24];
    uint64_t align = t->bytes >= BIG_BYTES ? BIG_ALIGN : SMALL_ALIGN;
    uint64_t offset = (e->external_end + align - 1) / align * align;
    e->external_end = offset + t->bytes;
    add_part(e, (struct external_part){e->external_name, offset, t});
    put_entry(e, 13, "location", e->external_name);
    snprintf(number, sizeof number, "%" PRIu64, offset);
    put_entry(e, 13, "offset", number);
    snprintf(number, sizeof number, "%zu", t->bytes);
    put_entry(e, 13, "length", number);
    put_int(e, 14, 1);
}

static void put_stored_external(struct encoder *e, const struct weight *w)
{
    const char *location = entry_value(&w->external, "location"), *offset = entry_value(&w->external, "offset");
    if (w->tensor.data && location)
        add_part(e, (struct external_part){location, offset ? strtoull(offset, NULL, 10) : 0, &w->tensor});
    put_entries(e, 13, &w->external);
    put_int(e, 14, 1);
}

static void put_strings(struct encoder *e, const struct tensor *t)
{
    const struct dtype_string *s = t->data;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        put_bytes(e, 6, s[i].data, s[i].len);
}

static void put_tensor(struct encoder *e, unsigned field, const struct weight *w, const char *name)
{
    struct mark start = begin(e, field);
    const struct tensor *t = &w->tensor;
    if (w->opaque.len) {
        put_raw(e, w->opaque);
        end(e, start);
        return;
    }
    enum place place = place_of(e, w);
    /* typed lists up to int64_data (7) stand before the name (8), double_data and uint64_data behind raw_data (9) */
    bool early = place == PLACE_TYPED && w->typed.len && (*(const unsigned char *)w->typed.data >> 3) < 8;
    for (int i = 0; i < t->shape.rank; i++)
        put_int(e, 1, t->shape.dim[i]);
    put_int(e, 2, t->dtype);
    if (early)
        put_raw(e, w->typed);
    else if (place == PLACE_STRINGS)
        put_strings(e, t);
    put_text(e, 8, name);
    if (place == PLACE_RAW)
        put_payload(e, 9, t->data, t->bytes, t);
    else if (place == PLACE_TYPED && !early)
        put_raw(e, w->typed);
    put_text(e, 12, w->doc);
    if (place == PLACE_NEW_EXTERNAL)
        put_new_external(e, t);
    else if (place == PLACE_STORED_EXTERNAL)
        put_stored_external(e, w);
    else if (w->has_location && w->storage != STORAGE_EXTERNAL)
        put_int(e, 14, 0);
    put_entries(e, 16, &w->metadata);
    put_raw(e, w->unknown);
    end(e, start);
}

/* --- attributes and nodes --- */

static void put_graph(struct encoder *e, unsigned field, uint32_t id);

/* Field numbers: of the payload of each attribute type, and of the fields that stand between them. */
enum { ATTR_DOC = 13, ATTR_TYPE = 20, ATTR_REF = 21 };
static const unsigned payload_field[] = {[ATTR_FLOAT] = 2,          [ATTR_INT] = 3,
                                         [ATTR_STRING] = 4,         [ATTR_TENSOR] = 5,
                                         [ATTR_GRAPH] = 6,          [ATTR_FLOATS] = 7,
                                         [ATTR_INTS] = 8,           [ATTR_STRINGS] = 9,
                                         [ATTR_TENSORS] = 10,       [ATTR_GRAPHS] = 11,
                                         [ATTR_TYPE_PROTO] = 14,    [ATTR_TYPE_PROTOS] = 15,
                                         [ATTR_SPARSE_TENSOR] = 22, [ATTR_SPARSE_TENSORS] = 23};

static void put_element(struct encoder *e, unsigned field, const struct attr *a, int i)
{
    switch (a->type) {
    case ATTR_FLOAT:
    case ATTR_FLOATS:
        put_float(e, field, a->floats[i]);
        break;
    case ATTR_INT:
    case ATTR_INTS:
        put_int(e, field, a->ints[i]);
        break;
    case ATTR_STRING:
    case ATTR_STRINGS:
        put_bytes(e, field, a->strings[i].data, a->strings[i].len);
        break;
    case ATTR_TENSOR:
    case ATTR_TENSORS:
        put_tensor(e, field, a->tensors[i], a->tensors[i]->name);
        break;
    case ATTR_GRAPH:
    case ATTR_GRAPHS:
        put_graph(e, field, a->graphs[i]);
        break;
    case ATTR_TYPE_PROTO:
    case ATTR_TYPE_PROTOS:
        put_type(e, field, &a->types[i]);
        break;
    case ATTR_SPARSE_TENSOR:
    case ATTR_SPARSE_TENSORS:
        put_payload(e, field, a->raw[i].data, a->raw[i].len, NULL);
        break;
    case ATTR_UNDEFINED:
        break;
    }
}

static void put_attr(struct encoder *e, unsigned field, const struct attr *a)
{
    struct mark start = begin(e, field);
    unsigned payload = a->type == ATTR_UNDEFINED ? 0 : payload_field[a->type];
    put_text(e, 1, a->name);
    for (int i = 0; payload < ATTR_DOC && i < a->count; i++)
        put_element(e, payload, a, i);
    put_text(e, ATTR_DOC, a->doc);
    for (int i = 0; payload > ATTR_DOC && payload < ATTR_TYPE && i < a->count; i++)
        put_element(e, payload, a, i);
    if (a->has_type)
        put_int(e, ATTR_TYPE, a->type);
    put_text(e, ATTR_REF, a->ref_name);
    for (int i = 0; payload > ATTR_REF && i < a->count; i++)
        put_element(e, payload, a, i);
    put_raw(e, a->unknown);
    end(e, start);
}

static const char *name_of(const struct encoder *e, uint32_t value)
{
    const char *name = value == VALUE_NONE ? NULL : e->m->values[value].name;
    return name ? name : "";
}

static void put_node(struct encoder *e, unsigned field, const struct node *n)
{
    if (!n->op_type)
        return;
    struct mark start = begin(e, field);
    for (int i = 0; i < n->n_input; i++)
        put_text(e, 1, name_of(e, n->input[i]));
    for (int i = 0; i < n->n_output; i++)
        put_text(e, 2, name_of(e, n->output[i]));
    put_text(e, 3, n->name);
    put_text(e, 4, n->op_type);
    for (int i = 0; i < n->n_attr; i++)
        put_attr(e, 5, &n->attr[i]);
    put_text(e, 6, n->doc);
    put_text(e, 7, n->domain);
    put_text(e, 8, n->overload);
    put_entries(e, 9, &n->metadata);
    put_raw(e, n->unknown);
    end(e, start);
}

/* --- graphs, functions, the model --- */

static void put_graph(struct encoder *e, unsigned field, uint32_t id)
{
    const struct graph *g = &e->m->graphs[id];
    struct mark start = begin(e, field);
    for (int i = 0; i < g->n_nodes; i++)
        put_node(e, 1, &e->m->nodes[g->nodes[i]]);
    put_text(e, 2, g->name);
    for (int i = 0; i < g->n_initializers; i++) {
        const struct value *v = &e->m->values[g->initializers[i]];
        if (v->weight)
            put_tensor(e, 5, v->weight, v->name);
    }
    put_text(e, 10, g->doc);
    for (int i = 0; i < g->n_inputs; i++)
        put_info(e, 11, &g->inputs[i]);
    for (int i = 0; i < g->n_outputs; i++)
        put_info(e, 12, &g->outputs[i]);
    for (int i = 0; i < g->n_infos; i++)
        put_info(e, 13, &g->infos[i]);
    put_raw(e, g->quantization);
    for (int i = 0; i < g->n_sparse_initializers; i++)
        put_payload(e, 15, g->sparse_initializers[i].data, g->sparse_initializers[i].len, NULL);
    put_entries(e, 16, &g->metadata);
    put_raw(e, g->unknown);
    end(e, start);
}

static void put_opsets(struct encoder *e, unsigned field, const struct opset *opsets, int count)
{
    for (int i = 0; i < count; i++) {
        struct mark start = begin(e, field);
        put_text(e, 1, opsets[i].domain);
        if (opsets[i].has_version)
            put_int(e, 2, opsets[i].version);
        put_raw(e, opsets[i].unknown);
        end(e, start);
    }
}

static void put_texts(struct encoder *e, unsigned field, const char **texts, int count)
{
    for (int i = 0; i < count; i++)
        put_text(e, field, texts[i]);
}

static void put_function(struct encoder *e, unsigned field, const struct function *f)
{
    const struct graph *body = &e->m->graphs[f->body];
    struct mark start = begin(e, field);
    put_text(e, 1, f->name);
    put_texts(e, 4, f->inputs, f->n_inputs);
    put_texts(e, 5, f->outputs, f->n_outputs);
    put_texts(e, 6, f->attrs, f->n_attrs);
    for (int i = 0; i < body->n_nodes; i++)
        put_node(e, 7, &e->m->nodes[body->nodes[i]]);
    put_text(e, 8, f->doc);
    put_opsets(e, 9, f->opsets, f->n_opsets);
    put_text(e, 10, f->domain);
    for (int i = 0; i < f->n_attr_defaults; i++)
        put_attr(e, 11, &f->attr_defaults[i]);
    for (int i = 0; i < body->n_infos; i++)
        put_info(e, 12, &body->infos[i]);
    put_text(e, 13, f->overload);
    put_entries(e, 14, &f->metadata);
    put_raw(e, f->unknown);
    end(e, start);
}

int encode_model(struct encoder *e, const struct model *m)
{
    e->m = m;
    if (m->has_ir_version)
        put_int(e, 1, m->ir_version);
    put_text(e, 2, m->producer_name);
    put_text(e, 3, m->producer_version);
    put_text(e, 4, m->domain);
    if (m->has_model_version)
        put_int(e, 5, m->model_version);
    put_text(e, 6, m->doc);
    put_graph(e, 7, 0);
    put_opsets(e, 8, m->opsets, m->n_opsets);
    put_entries(e, 14, &m->metadata);
    put_raw(e, m->training);
    for (int i = 0; i < m->n_functions; i++)
        put_function(e, 25, &m->functions[i]);
    put_raw(e, m->unknown);
    return e->failed || e->text.failed ? -1 : 0;
}

/* The message itself: put_tensor's without the field that would hold it. */
int encode_tensor(struct encoder *e, const struct tensor *t, const char *name)
{
    for (int i = 0; i < t->shape.rank; i++)
        put_int(e, 1, t->shape.dim[i]);
    put_int(e, 2, t->dtype);
    if (t->dtype == DTYPE_STRING)
        put_strings(e, t);
    put_text(e, 8, name);
    if (t->dtype != DTYPE_STRING)
        put_payload(e, 9, t->data, t->bytes, t);
    return e->failed || e->text.failed ? -1 : 0;
}

uint64_t encoder_size(const struct encoder *e)
{
    uint64_t size = e->text.len;
    for (size_t i = 0; i < e->n_pieces; i++)
        size += e->pieces[i].len;
    return size;
}

void encoder_fini(struct encoder *e)
{
    buf_fini(&e->text);
    free(e->pieces);
    free(e->parts);
    e->pieces = NULL;
    e->parts = NULL;
    e->n_pieces = e->cap_pieces = e->n_parts = e->cap_parts = 0;
}
