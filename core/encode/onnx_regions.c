/* SPDX-License-Identifier: Apache-2.0
 * onnx_regions.c - see onnx_regions.h. A walk over the wire format: a table says which fields of which messages are
 * messages that may hold tensors. */
#include "core/encode/onnx_regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/model/onnx_wire.h"
#include "core/tensor/dtype.h"

enum message { MODEL, GRAPH, NODE, ATTRIBUTE, FUNCTION, SPARSE_TENSOR, TENSOR };
enum { DEPTH_MOST = 64, COLS_MOST = 1 << 22 };

static const struct {
    enum message in;
    uint32_t field;
    enum message is;
} children[] = {
    {MODEL, 7, GRAPH},         {MODEL, 25, FUNCTION},          {GRAPH, 1, NODE},
    {GRAPH, 5, TENSOR},        {GRAPH, 15, SPARSE_TENSOR},     {NODE, 5, ATTRIBUTE},
    {ATTRIBUTE, 5, TENSOR},    {ATTRIBUTE, 6, GRAPH},          {ATTRIBUTE, 10, TENSOR},
    {ATTRIBUTE, 11, GRAPH},    {ATTRIBUTE, 22, SPARSE_TENSOR}, {FUNCTION, 7, NODE},
    {FUNCTION, 11, ATTRIBUTE}, {SPARSE_TENSOR, 1, TENSOR},     {SPARSE_TENSOR, 2, TENSOR},
};

struct walk {
    const unsigned char *bytes;
    struct regions *found;
    size_t cap;
    const char *const *external;
    const size_t *size;
    int n_external;
    struct err *err;
};

struct field {
    uint32_t number;
    enum wire_type type;
    size_t start, end; /* of the payload */
    uint64_t value;    /* of a varint */
};

/* False: the bytes are no message. */
static bool next_field(const unsigned char *bytes, size_t *at, size_t end, struct field *f)
{
    uint64_t tag, len;
    if (!wire_varint(bytes, at, end, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX)
        return false;
    *f = (struct field){.number = (uint32_t)(tag >> 3), .type = (enum wire_type)(tag & 7), .start = *at};
    switch (tag & 7) {
    case WIRE_VARINT:
        if (!wire_varint(bytes, at, end, &f->value))
            return false;
        break;
    case WIRE_64BIT:
    case WIRE_32BIT:
        len = f->type == WIRE_64BIT ? 8 : 4;
        if (len > end - *at)
            return false;
        *at += len;
        break;
    case WIRE_LEN:
        if (!wire_varint(bytes, at, end, &len) || len > end - *at)
            return false;
        f->start = *at;
        *at += len;
        break;
    default:
        return false;
    }
    f->end = *at;
    return true;
}

/* ---- tensors ---- */
struct tensor_facts {
    int64_t dim[8], dtype;
    int rank;
    struct field data, name, location;
    bool typed; /* data is float_data or double_data */
    uint64_t offset, length;
    bool has_length;
};

static void add_dim(struct tensor_facts *t, uint64_t v)
{
    if (t->rank < 8)
        t->dim[t->rank] = v > INT32_MAX ? 0 : (int64_t)v;
    t->rank++;
}

static void read_dims(const struct walk *w, struct tensor_facts *t, const struct field *f)
{
    uint64_t v;
    if (f->type == WIRE_VARINT)
        add_dim(t, f->value);
    for (size_t at = f->start; f->type == WIRE_LEN && at < f->end && wire_varint(w->bytes, &at, f->end, &v);)
        add_dim(t, v);
}

static bool is_text(const struct walk *w, const struct field *f, const char *text)
{
    return f->end - f->start == strlen(text) && memcmp(w->bytes + f->start, text, f->end - f->start) == 0;
}

static bool number(const struct walk *w, const struct field *f, uint64_t *out)
{
    char text[24] = {0}, *end;
    if (f->end - f->start >= sizeof text || f->end == f->start)
        return false;
    memcpy(text, w->bytes + f->start, f->end - f->start);
    errno = 0;
    *out = strtoull(text, &end, 10);
    return !*end && !errno && text[0] >= '0' && text[0] <= '9';
}

static void read_external(const struct walk *w, struct tensor_facts *t, const struct field *f)
{
    struct field key = {0}, value = {0}, part;
    for (size_t at = f->start; at < f->end && next_field(w->bytes, &at, f->end, &part);) {
        if (part.number == 1 && part.type == WIRE_LEN)
            key = part;
        if (part.number == 2 && part.type == WIRE_LEN)
            value = part;
    }
    if (is_text(w, &key, "location"))
        t->location = value;
    if (is_text(w, &key, "offset"))
        number(w, &value, &t->offset);
    if (is_text(w, &key, "length"))
        t->has_length = number(w, &value, &t->length);
}

static void read_tensor_field(const struct walk *w, struct tensor_facts *t, const struct field *f)
{
    if (f->number == 1)
        read_dims(w, t, f);
    else if (f->number == 2 && f->type == WIRE_VARINT)
        t->dtype = f->value > DTYPE_COUNT ? 0 : (int64_t)f->value;
    else if (f->number == 8 && f->type == WIRE_LEN)
        t->name = *f;
    else if (f->number == 13 && f->type == WIRE_LEN)
        read_external(w, t, f);
    else if (f->type == WIRE_LEN && (f->number == 9 || f->number == 4 || f->number == 10)) {
        t->data = *f;
        t->typed = f->number != 9;
    }
}

static int append(struct walk *w, const struct region *r)
{
    if (w->found->count == w->cap) {
        const size_t cap = w->cap ? 2 * w->cap : 64;
        struct region *grown = realloc(w->found->at, cap * sizeof *grown);
        if (!grown)
            return err_set(w->err, ERR_NOMEM, "out of memory while reading a model");
        w->found->at = grown;
        w->cap = cap;
    }
    w->found->at[w->found->count++] = *r;
    return 0;
}

static size_t columns(const struct tensor_facts *t)
{
    size_t cols = 1;
    for (int i = 1; i < t->rank && i < 8; i++)
        if (!size_mul(cols, (size_t)t->dim[i], &cols))
            return 1;
    return cols > 0 && cols < COLS_MOST ? cols : 1;
}

static int add_tensor(struct walk *w, const struct tensor_facts *t)
{
    const int bits = dtype_valid((int)t->dtype) ? dtype_bits((enum dtype)t->dtype) : 0;
    const unsigned width = bits <= 8 ? 1 : bits >= 64 ? 8 : (unsigned)bits / 8;
    struct region r = {.width = width, .cols = columns(t)};
    if (bits == 0 || t->dtype == DTYPE_STRING)
        return 0;
    r.rotate = (dtype_is_float((enum dtype)t->dtype) && width > 1) || t->dtype == DTYPE_COMPLEX128;
    r.at = t->data.start;
    r.bytes = t->data.end - t->data.start;
    for (int i = 0; r.bytes == 0 && i < w->n_external; i++) {
        if (!is_text(w, &t->location, w->external[i]) || t->offset > w->size[i])
            continue;
        const size_t rest = w->size[i] - (size_t)t->offset;
        r.file = i + 1;
        r.at = (size_t)t->offset;
        r.bytes = t->has_length && t->length < rest ? (size_t)t->length : rest;
    }
    if (t->typed) /* float_data also of complex64, double_data of complex128 */
        r.width = t->data.number == 4 ? 4 : 8;
    r.bytes -= r.bytes % r.width;
    if (r.bytes < REGION_LEAST)
        return 0;
    r.name = strndup((const char *)w->bytes + t->name.start, t->name.end - t->name.start);
    if (!r.name)
        return err_set(w->err, ERR_NOMEM, "out of memory while reading a model");
    if (append(w, &r)) {
        free(r.name);
        return -1;
    }
    return 0;
}

/* -1: memory. What is not understood is left out. */
static int walk_message(struct walk *w, enum message in, size_t at, size_t end, int depth)
{
    struct tensor_facts t = {0};
    struct field f;
    while (at < end && next_field(w->bytes, &at, end, &f)) {
        if (in == TENSOR)
            read_tensor_field(w, &t, &f);
        for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
            if (children[i].in == in && children[i].field == f.number && f.type == WIRE_LEN && depth < DEPTH_MOST &&
                walk_message(w, children[i].is, f.start, f.end, depth + 1))
                return -1;
    }
    return in == TENSOR ? add_tensor(w, &t) : 0;
}

static int by_place(const void *a, const void *b)
{
    const struct region *x = a, *y = b;
    if (x->file != y->file)
        return x->file - y->file;
    return (x->at > y->at) - (x->at < y->at);
}

/* Data that several tensors share, or that overlaps: the first one's. */
static void drop_overlaps(struct regions *r)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct region *before = kept ? &r->at[kept - 1] : NULL;
        if (before && before->file == r->at[i].file && r->at[i].at < before->at + before->bytes)
            free(r->at[i].name);
        else
            r->at[kept++] = r->at[i];
    }
    r->count = kept;
}

int regions_find(struct regions *r, const unsigned char *model, size_t len, const char *const *external,
                 const size_t *size, int n_external, struct err *err)
{
    struct walk w = {model, r, 0, external, size, n_external, err};
    *r = (struct regions){0};
    if (walk_message(&w, MODEL, 0, len, 0)) {
        regions_fini(r);
        return -1;
    }
    if (r->count)
        qsort(r->at, r->count, sizeof *r->at, by_place);
    drop_overlaps(r);
    return 0;
}

void regions_fini(struct regions *r)
{
    for (size_t i = 0; i < r->count; i++)
        free(r->at[i].name);
    free(r->at);
    *r = (struct regions){0};
}
