/* SPDX-License-Identifier: Apache-2.0
 * The walk is driven by protobuf-c's descriptors of our schema, so what may stand where is said once, in onnx.proto.
 *
 * Lengths in the skeleton: a message shrinks when its payloads are cut out, and its length is not known before its end.
 * Room for a varint of 5 bytes is left and filled in afterwards (a varint may be padded with zero groups), so nothing
 * is moved.
 *
 * Budget: an empty message is 2 bytes in the file and some 100 in memory. The cost of each parsed thing is added up as
 * the walk goes, and a file that asks for much more memory than its size explains is refused before the first byte is
 * parsed. */
#include "core/model/onnx_wire.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKELETON_LEN_BYTES = 5, BUDGET_BASE = 256 << 20, BUDGET_FACTOR = 24 };
#define BUDGET_MAX ((size_t)4 << 30)

/* Number lists of TensorProto that the schema declares as bytes, and the wire type of one number. */
static const struct {
    const char *name;
    enum wire_type wire;
} typed_lists[] = {
    {"float_data", WIRE_32BIT},  {"int32_data", WIRE_VARINT},  {"int64_data", WIRE_VARINT},
    {"double_data", WIRE_64BIT}, {"uint64_data", WIRE_VARINT},
};

static const char *wire_name(unsigned wire)
{
    static const char *const names[] = {"varint", "64-bit", "length-delimited", "group start", "group end", "32-bit"};
    return wire < sizeof names / sizeof *names ? names[wire] : "no such type";
}

bool wire_varint(const unsigned char *bytes, size_t *at, size_t end, uint64_t *value)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (*at >= end)
            return false;
        unsigned char byte = bytes[(*at)++];
        v |= (uint64_t)(byte & 0x7f) << (shift < 63 ? shift : 63);
        if (!(byte & 0x80)) {
            *value = v;
            return true;
        }
    }
    return false;
}

static const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *desc, uint32_t number)
{
    unsigned low = 0, high = desc->n_fields;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (desc->fields[mid].id < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low < desc->n_fields && desc->fields[low].id == number ? &desc->fields[low] : NULL;
}

static enum wire_type expected_wire(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_32BIT;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_64BIT;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LEN;
    default:
        return WIRE_VARINT;
    }
}

static bool is_number(const ProtobufCFieldDescriptor *f)
{
    return expected_wire(f) != WIRE_LEN;
}

/* May `f` come with wire type `wire`? Lists of numbers come packed or one by one. */
static bool wire_fits(const ProtobufCFieldDescriptor *f, unsigned wire)
{
    if (wire == expected_wire(f) || (wire == WIRE_LEN && f->label == PROTOBUF_C_LABEL_REPEATED))
        return true;
    if (f->type != PROTOBUF_C_TYPE_BYTES)
        return false;
    for (size_t i = 0; i < sizeof typed_lists / sizeof *typed_lists; i++)
        if (!strcmp(f->name, typed_lists[i].name))
            return wire == typed_lists[i].wire;
    return false;
}

/* One message on the way down. */
struct level {
    struct wire *w;
    const ProtobufCMessageDescriptor *desc;
    size_t end;
    int depth;
    struct err *err;
};

static int spend(struct level *l, size_t bytes, size_t at)
{
    l->w->cost += bytes;
    if (l->w->cost <= l->w->budget)
        return 0;
    return err_set(l->err, ERR_MODEL_TOO_LARGE,
                   "the model's structure would take more than %zu MiB of memory (reached at byte %zu of %zu)",
                   l->w->budget >> 20, at, l->w->len);
}

static int emit_tag(struct level *l, uint32_t field, enum wire_type wire)
{
    uint64_t tag = (uint64_t)field << 3 | wire;
    unsigned char bytes[10];
    size_t n = 0;
    for (; tag >= 0x80; tag >>= 7)
        bytes[n++] = (unsigned char)(tag | 0x80);
    bytes[n++] = (unsigned char)tag;
    buf_append(&l->w->skeleton, bytes, n);
    return 0;
}

static int emit_cut(struct level *l, struct wire_cut cut)
{
    struct wire *w = l->w;
    if (spend(l, sizeof cut + 64, cut.at))
        return -1;
    if (w->n_cuts == w->cap_cuts) {
        size_t cap = w->cap_cuts ? w->cap_cuts * 2 : 64;
        struct wire_cut *grown = w->n_cuts < UINT32_MAX / 2 ? realloc(w->cuts, cap * sizeof *grown) : NULL;
        if (!grown)
            return err_set(l->err, ERR_NOMEM, "out of memory");
        w->cuts = grown;
        w->cap_cuts = cap;
    }
    emit_tag(l, cut.field, WIRE_LEN);
    uint32_t i = (uint32_t)w->n_cuts;
    unsigned char bytes[1 + WIRE_CUT_BYTES] = {WIRE_CUT_BYTES, (unsigned char)i, (unsigned char)(i >> 8),
                                               (unsigned char)(i >> 16), (unsigned char)(i >> 24)};
    buf_append(&w->skeleton, bytes, sizeof bytes);
    w->cuts[w->n_cuts++] = cut;
    return 0;
}

/* "field 7 (graph) of ModelProto at byte 12" */
static const char *place(const struct level *l, uint32_t field, size_t at, char out[160])
{
    const ProtobufCFieldDescriptor *f = find_field(l->desc, field);
    snprintf(out, 160, f ? "field %u (%s) of %s at byte %zu" : "field %u%s of %s at byte %zu", (unsigned)field,
             f ? f->name : "", l->desc->short_name, at);
    return out;
}

/* Tag and payload bounds of the field at `at`. */
static int read_field(struct level *l, size_t at, struct wire_cut *out, unsigned *wire)
{
    const unsigned char *bytes = l->w->bytes;
    uint64_t tag, value;
    char where[160];
    size_t p = at;
    *wire = 0;
    if (!wire_varint(bytes, &p, l->end, &tag) || tag > UINT32_MAX) {
        l->w->truncated = l->depth == 1 && p == l->end;
        return err_set(l->err, ERR_MODEL, "the field of %s at byte %zu has a broken tag", l->desc->short_name, at);
    }
    uint32_t field = (uint32_t)(tag >> 3);
    *wire = (unsigned)tag & 7;
    if (field == 0)
        return err_set(l->err, ERR_MODEL, "the field of %s at byte %zu has number 0; numbers start at 1",
                       l->desc->short_name, at);
    *out = (struct wire_cut){.at = at, .start = p, .end = p, .field = field, .wire = (enum wire_type) * wire};
    uint64_t left = l->end - p, need = 0;
    switch (*wire) {
    case WIRE_VARINT:
        if (wire_varint(bytes, &out->end, l->end, &value))
            return 0;
        l->w->truncated = l->depth == 1 && out->end == l->end;
        return err_set(l->err, ERR_MODEL, "%s has a broken number", place(l, field, at, where));
    case WIRE_LEN:
        if (!wire_varint(bytes, &out->start, l->end, &need)) {
            l->w->truncated = l->depth == 1 && out->start == l->end;
            return err_set(l->err, ERR_MODEL, "%s has a broken length", place(l, field, at, where));
        }
        out->end = out->start;
        left = l->end - out->start;
        break;
    case WIRE_64BIT:
        need = 8;
        break;
    case WIRE_32BIT:
        need = 4;
        break;
    default:
        return err_set(l->err, ERR_MODEL, "%s has wire type %u (%s), which ONNX does not use",
                       place(l, field, at, where), *wire, wire_name(*wire));
    }
    if (need > left) {
        l->w->truncated = l->depth == 1;
        return err_set(l->err, ERR_MODEL, "%s announces %" PRIu64 " bytes, but only %" PRIu64 " are left%s",
                       place(l, field, at, where), need, left, l->depth == 1 ? "" : " in the message around it");
    }
    out->end += (size_t)need;
    return 0;
}

/* A packed list in the file: whole numbers only. Counts what it becomes in memory. */
static int check_packed(struct level *l, const ProtobufCFieldDescriptor *f, const struct wire_cut *c)
{
    size_t count = 0, p = c->start;
    uint64_t value;
    char where[160];
    enum wire_type wire = expected_wire(f);
    if (wire != WIRE_VARINT) {
        size_t size = wire == WIRE_32BIT ? 4 : 8;
        count = (c->end - c->start) / size;
        if ((c->end - c->start) % size)
            return err_set(l->err, ERR_MODEL, "%s is a packed list of %zu bytes, not a multiple of %zu",
                           place(l, c->field, c->at, where), c->end - c->start, size);
    }
    for (; wire == WIRE_VARINT && p < c->end; count++)
        if (!wire_varint(l->w->bytes, &p, c->end, &value))
            return err_set(l->err, ERR_MODEL, "%s is a packed list that ends inside a number",
                           place(l, c->field, c->at, where));
    return spend(l, count * 8, c->at);
}

static int walk_message(struct level *l, size_t at, size_t end);

static int walk_submessage(struct level *l, const ProtobufCFieldDescriptor *f, const struct wire_cut *c)
{
    struct buf *skeleton = &l->w->skeleton;
    struct level inner = {.w = l->w, .desc = f->descriptor, .end = c->end, .depth = l->depth + 1, .err = l->err};
    if (inner.depth > WIRE_MAX_DEPTH)
        return err_set(l->err, ERR_MODEL, "nested deeper than %d levels at byte offset %zu", WIRE_MAX_DEPTH, c->at);
    if (spend(l, inner.desc->sizeof_message * 2 + 64, c->at))
        return -1;
    emit_tag(l, c->field, WIRE_LEN);
    size_t length_at = skeleton->len;
    buf_append(skeleton, "\x80\x80\x80\x80\0", SKELETON_LEN_BYTES);
    size_t body = skeleton->len;
    if (walk_message(&inner, c->start, c->end))
        return -1;
    if (skeleton->failed)
        return err_set(l->err, ERR_NOMEM, "out of memory");
    size_t length = skeleton->len - body;
    if (length > INT_MAX)
        return err_set(l->err, ERR_MODEL_TOO_LARGE, "the model without its weights is larger than 2 GiB");
    for (int i = 0; i < SKELETON_LEN_BYTES; i++, length >>= 7)
        skeleton->data[length_at + (size_t)i] = (char)((length & 0x7f) | (i < SKELETON_LEN_BYTES - 1 ? 0x80 : 0));
    return 0;
}

/* Known field of the right wire type. */
static int walk_known(struct level *l, const ProtobufCFieldDescriptor *f, const struct wire_cut *c)
{
    char where[160];
    if (f->type == PROTOBUF_C_TYPE_BYTES)
        return emit_cut(l, *c);
    if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        return walk_submessage(l, f, c);
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        if (memchr(l->w->bytes + c->start, 0, c->end - c->start))
            return err_set(l->err, ERR_MODEL, "%s is text with a NUL byte in it", place(l, c->field, c->at, where));
        if (spend(l, c->end - c->start + 64, c->at))
            return -1;
    } else if (c->wire == WIRE_LEN) {
        if (check_packed(l, f, c))
            return -1;
    } else if (spend(l, 32, c->at)) {
        return -1;
    }
    buf_append(&l->w->skeleton, l->w->bytes + c->at, c->end - c->at);
    return 0;
}

static int walk_message(struct level *l, size_t at, size_t end)
{
    uint64_t seen = 0; /* singular message fields of this message; no message has more than 64 */
    while (at < end) {
        struct wire_cut c;
        unsigned wire = 0;
        char where[160];
        if (read_field(l, at, &c, &wire))
            return -1;
        const ProtobufCFieldDescriptor *f = find_field(l->desc, c.field);
        if (f && !wire_fits(f, wire))
            return err_set(l->err, ERR_MODEL, "%s has wire type %u (%s), expected %u (%s)",
                           place(l, c.field, at, where), wire, wire_name(wire), (unsigned)expected_wire(f),
                           wire_name(expected_wire(f)));
        if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && f->label != PROTOBUF_C_LABEL_REPEATED) {
            uint64_t bit = (uint64_t)1 << ((f - l->desc->fields) & 63);
            if (seen & bit)
                return err_set(l->err, ERR_MODEL, "%s appears twice; at most one is allowed",
                               place(l, c.field, at, where));
            seen |= bit;
        }
        if (l->depth == 1 && f && !is_number(f))
            l->w->foreign = false;
        if (f ? walk_known(l, f, &c) : emit_cut(l, c))
            return -1;
        at = c.end;
    }
    return 0;
}

int wire_walk(struct wire *w, const unsigned char *bytes, size_t len, const ProtobufCMessageDescriptor *root,
              struct err *err)
{
    *w = (struct wire){.bytes = bytes, .len = len, .foreign = true};
    w->budget = len < BUDGET_MAX / BUDGET_FACTOR ? (size_t)BUDGET_BASE + len * BUDGET_FACTOR : BUDGET_MAX;
    struct level top = {.w = w, .desc = root, .end = len, .depth = 1, .err = err};
    if (walk_message(&top, 0, len))
        return -1;
    if (w->skeleton.failed)
        return err_set(err, ERR_NOMEM, "out of memory");
    return 0;
}

void wire_fini(struct wire *w)
{
    buf_fini(&w->skeleton);
    free(w->cuts);
    w->cuts = NULL;
    w->n_cuts = w->cap_cuts = 0;
}

/* protobuf-c allocates from the arena and its frees do nothing: all goes at once. */
static void *arena_hook_alloc(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void arena_hook_free(void *arena, void *pointer)
{
    (void)arena, (void)pointer;
}

ProtobufCMessage *wire_unpack(const struct wire *w, const ProtobufCMessageDescriptor *root, struct arena *arena,
                              struct err *err)
{
    ProtobufCAllocator allocator = {arena_hook_alloc, arena_hook_free, arena};
    ProtobufCMessage *message = protobuf_c_message_unpack(root, &allocator, w->skeleton.len,
                                                          (const uint8_t *)(w->skeleton.data ? w->skeleton.data : ""));
    if (!message) /* the skeleton is well-formed, so this is all that can be wrong */
        err_set(err, ERR_NOMEM, "out of memory");
    return message;
}

static const struct wire_cut *cut_at(const struct wire *w, const unsigned char *p)
{
    uint32_t i = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return &w->cuts[i];
}

const struct wire_cut *wire_cut_of(const struct wire *w, ProtobufCBinaryData data)
{
    return cut_at(w, data.data);
}

const struct wire_cut *wire_cut_unknown(const struct wire *w, const ProtobufCMessageUnknownField *field)
{
    return cut_at(w, field->data + field->len - WIRE_CUT_BYTES);
}

static void restore_bytes(const struct wire *w, ProtobufCBinaryData *data)
{
    if (!data->data)
        return;
    const struct wire_cut *c = wire_cut_of(w, *data);
    data->len = c->end - c->start;
    data->data = (uint8_t *)(uintptr_t)(w->bytes + c->start);
}

static void restore_field(const struct wire *w, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

/* Put the file's own bytes back where the skeleton has cut numbers. */
static void restore(const struct wire *w, ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->n_unknown_fields; i++) {
        ProtobufCMessageUnknownField *u = &m->unknown_fields[i];
        const struct wire_cut *c = wire_cut_unknown(w, u);
        size_t p = c->at;
        uint64_t tag;
        wire_varint(w->bytes, &p, c->end, &tag);
        u->wire_type = (ProtobufCWireType)c->wire;
        u->data = (uint8_t *)(uintptr_t)(w->bytes + p);
        u->len = c->end - p;
    }
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        restore_field(w, m, &m->descriptor->fields[i]);
}

static void restore_field(const struct wire *w, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    char *base = (char *)m;
    void *member = base + f->offset;
    if (f->type != PROTOBUF_C_TYPE_BYTES && f->type != PROTOBUF_C_TYPE_MESSAGE)
        return;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count = *(size_t *)(void *)(base + f->quantifier_offset);
        for (size_t i = 0; i < count; i++)
            if (f->type == PROTOBUF_C_TYPE_BYTES)
                restore_bytes(w, &(*(ProtobufCBinaryData **)member)[i]);
            else
                restore(w, (*(ProtobufCMessage ***)member)[i]);
        return;
    }
    bool one_of = f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
    if (one_of && *(uint32_t *)(void *)(base + f->quantifier_offset) != f->id)
        return;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        if (*(ProtobufCMessage **)member)
            restore(w, *(ProtobufCMessage **)member);
    } else if (one_of || *(protobuf_c_boolean *)(void *)(base + f->quantifier_offset)) {
        restore_bytes(w, member);
    }
}

void *wire_repack(const struct wire *w, ProtobufCMessage *message, struct arena *arena, size_t *len)
{
    restore(w, message);
    *len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = arena_alloc(arena, *len);
    if (bytes)
        protobuf_c_message_pack(message, bytes);
    return bytes;
}
