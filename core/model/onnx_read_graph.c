/* SPDX-License-Identifier: Apache-2.0
 * Graphs, nodes and attributes into the IR. A graph is read in two passes: first all names it defines (inputs,
 * initializers, node outputs), then what its nodes read, including their nested graphs: so a name is found whatever the
 * order of the nodes. A name nobody defines becomes a value without producer, which validate.h reports. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/model/onnx_reader.h"

int reader_nomem(struct reader *r)
{
    return err_set(r->err, ERR_NOMEM, "out of memory");
}

const char *reader_text(struct reader *r, const char *text, bool *failed)
{
    const char *own = model_strdup(r->m, text);
    if (text && !own)
        *failed = true;
    return own;
}

/* Fields that stand one after the other are a window of the file; others are joined in the arena. */
static struct bytes join_cuts(struct reader *r, const struct wire_cut **cuts, size_t count, bool *failed)
{
    size_t total = 0;
    bool adjacent = true;
    for (size_t i = 0; i < count; i++) {
        total += cuts[i]->end - cuts[i]->at;
        adjacent = adjacent && (i == 0 || cuts[i - 1]->end == cuts[i]->at);
    }
    if (count == 0)
        return (struct bytes){0};
    if (adjacent)
        return (struct bytes){r->w->bytes + cuts[0]->at, total};
    struct tbuf *joined = tbuf_new(total, r->err);
    if (!joined || model_keep_file(r->m, joined)) {
        *failed = true;
        return (struct bytes){0};
    }
    unsigned char *at = tbuf_data(joined);
    for (size_t i = 0; i < count; at += cuts[i]->end - cuts[i]->at, i++)
        memcpy(at, r->w->bytes + cuts[i]->at, cuts[i]->end - cuts[i]->at);
    return (struct bytes){tbuf_data(joined), total};
}

struct bytes reader_unknown(struct reader *r, const ProtobufCMessage *message, bool *failed)
{
    size_t count = message->n_unknown_fields;
    const struct wire_cut **cuts = count ? arena_calloc(r->scratch, count, sizeof *cuts) : NULL;
    if (count && !cuts)
        *failed = true;
    for (size_t i = 0; cuts && i < count; i++)
        cuts[i] = wire_cut_unknown(r->w, &message->unknown_fields[i]);
    return join_cuts(r, cuts, cuts ? count : 0, failed);
}

struct bytes reader_fields(struct reader *r, const ProtobufCBinaryData *data, size_t count, bool *failed)
{
    const struct wire_cut **cuts = count ? arena_calloc(r->scratch, count, sizeof *cuts) : NULL;
    if (count && !cuts)
        *failed = true;
    for (size_t i = 0; cuts && i < count; i++)
        cuts[i] = wire_cut_of(r->w, data[i]);
    return join_cuts(r, cuts, cuts ? count : 0, failed);
}

struct bytes reader_payload(struct reader *r, ProtobufCBinaryData data)
{
    const struct wire_cut *c = wire_cut_of(r->w, data);
    return (struct bytes){r->w->bytes + c->start, c->end - c->start};
}

int read_entries(struct reader *r, Onnx__StringStringEntryProto **pb, size_t count, struct entries *out)
{
    bool failed = false;
    *out = (struct entries){0};
    if (!count)
        return 0;
    out->at = model_alloc(r->m, count, sizeof *out->at);
    if (!out->at)
        return reader_nomem(r);
    out->count = (int)count;
    for (size_t i = 0; i < count; i++) {
        out->at[i].key = reader_text(r, pb[i]->key, &failed);
        out->at[i].value = reader_text(r, pb[i]->value, &failed);
        out->at[i].unknown = reader_unknown(r, &pb[i]->base, &failed);
    }
    return failed ? reader_nomem(r) : 0;
}

/* --- attributes --- */

/* Elements of the payload field of each attribute type. */
static size_t payload_count(const Onnx__AttributeProto *pb, enum attr_type type)
{
    switch (type) {
    case ATTR_FLOAT:
        return pb->has_f != 0;
    case ATTR_INT:
        return pb->has_i != 0;
    case ATTR_STRING:
        return pb->has_s != 0;
    case ATTR_TENSOR:
        return pb->t != NULL;
    case ATTR_GRAPH:
        return pb->g != NULL;
    case ATTR_FLOATS:
        return pb->n_floats;
    case ATTR_INTS:
        return pb->n_ints;
    case ATTR_STRINGS:
        return pb->n_strings;
    case ATTR_TENSORS:
        return pb->n_tensors;
    case ATTR_GRAPHS:
        return pb->n_graphs;
    case ATTR_SPARSE_TENSOR:
        return pb->has_sparse_tensor != 0;
    case ATTR_SPARSE_TENSORS:
        return pb->n_sparse_tensors;
    case ATTR_TYPE_PROTO:
        return pb->tp != NULL;
    case ATTR_TYPE_PROTOS:
        return pb->n_type_protos;
    case ATTR_UNDEFINED:
        return 0;
    }
    return 0;
}

static void clear_payload(Onnx__AttributeProto *pb, enum attr_type type)
{
    switch (type) {
    case ATTR_FLOAT:
        pb->has_f = 0;
        break;
    case ATTR_INT:
        pb->has_i = 0;
        break;
    case ATTR_STRING:
        pb->has_s = 0;
        break;
    case ATTR_TENSOR:
        pb->t = NULL;
        break;
    case ATTR_GRAPH:
        pb->g = NULL;
        break;
    case ATTR_FLOATS:
        pb->n_floats = 0;
        break;
    case ATTR_INTS:
        pb->n_ints = 0;
        break;
    case ATTR_STRINGS:
        pb->n_strings = 0;
        break;
    case ATTR_TENSORS:
        pb->n_tensors = 0;
        break;
    case ATTR_GRAPHS:
        pb->n_graphs = 0;
        break;
    case ATTR_SPARSE_TENSOR:
        pb->has_sparse_tensor = 0;
        break;
    case ATTR_SPARSE_TENSORS:
        pb->n_sparse_tensors = 0;
        break;
    case ATTR_TYPE_PROTO:
        pb->tp = NULL;
        break;
    case ATTR_TYPE_PROTOS:
        pb->n_type_protos = 0;
        break;
    case ATTR_UNDEFINED:
        break;
    }
}

static int read_strings_attr(struct reader *r, const ProtobufCBinaryData *data, struct attr *a)
{
    for (int i = 0; i < a->count; i++) {
        struct bytes b = reader_payload(r, data[i]);
        a->strings[i] = (struct attr_string){arena_strndup(r->m->arena, b.data, b.len), b.len};
        if (!a->strings[i].data)
            return reader_nomem(r);
    }
    return 0;
}

static int read_tensors_attr(struct reader *r, Onnx__TensorProto **pb, struct attr *a)
{
    for (int i = 0; i < a->count; i++) {
        a->tensors[i] = model_new_weight(r->m);
        if (!a->tensors[i])
            return reader_nomem(r);
        if (read_tensor(r, pb[i], a->tensors[i]))
            return -1;
    }
    return 0;
}

static int read_graphs_attr(struct reader *r, uint32_t graph, uint32_t node, Onnx__GraphProto **pb, struct attr *a)
{
    for (int i = 0; i < a->count; i++) {
        uint32_t id = model_add_graph(r->m, graph, node);
        if (id == GRAPH_NONE)
            return reader_nomem(r);
        a->graphs[i] = id;
        if (read_graph(r, id, pb[i]))
            return -1;
    }
    return 0;
}

static int read_types_attr(struct reader *r, Onnx__TypeProto **pb, struct attr *a)
{
    for (int i = 0; i < a->count; i++)
        if (read_type(r, pb[i], &a->types[i]))
            return -1;
    return 0;
}

static size_t payload_size(enum attr_type type)
{
    const struct attr *a = NULL;
    switch (type) {
    case ATTR_FLOAT:
    case ATTR_FLOATS:
        return sizeof *a->floats;
    case ATTR_STRING:
    case ATTR_STRINGS:
        return sizeof *a->strings;
    case ATTR_GRAPH:
    case ATTR_GRAPHS:
        return sizeof *a->graphs;
    case ATTR_TYPE_PROTO:
    case ATTR_TYPE_PROTOS:
        return sizeof *a->types;
    case ATTR_SPARSE_TENSOR:
    case ATTR_SPARSE_TENSORS:
        return sizeof *a->raw;
    default:
        return sizeof(void *); /* ints, tensors */
    }
}

static int read_payload(struct reader *r, uint32_t graph, uint32_t node, Onnx__AttributeProto *pb, struct attr *a)
{
    bool single = a->type == ATTR_SPARSE_TENSOR;
    size_t count = payload_count(pb, a->type);
    a->ints = model_alloc(r->m, count, payload_size(a->type)); /* any member: all are pointers */
    if (!a->ints)
        return reader_nomem(r);
    a->count = (int)count;
    if (!count)
        return 0;
    switch (a->type) {
    case ATTR_FLOAT:
        a->floats[0] = pb->f;
        return 0;
    case ATTR_INT:
        a->ints[0] = pb->i;
        return 0;
    case ATTR_FLOATS:
        memcpy(a->floats, pb->floats, count * sizeof *a->floats);
        return 0;
    case ATTR_INTS:
        memcpy(a->ints, pb->ints, count * sizeof *a->ints);
        return 0;
    case ATTR_STRING:
        return read_strings_attr(r, &pb->s, a);
    case ATTR_STRINGS:
        return read_strings_attr(r, pb->strings, a);
    case ATTR_TENSOR:
        return read_tensors_attr(r, &pb->t, a);
    case ATTR_TENSORS:
        return read_tensors_attr(r, pb->tensors, a);
    case ATTR_GRAPH:
        return read_graphs_attr(r, graph, node, &pb->g, a);
    case ATTR_GRAPHS:
        return read_graphs_attr(r, graph, node, pb->graphs, a);
    case ATTR_TYPE_PROTO:
        return read_types_attr(r, &pb->tp, a);
    case ATTR_TYPE_PROTOS:
        return read_types_attr(r, pb->type_protos, a);
    case ATTR_SPARSE_TENSOR:
    case ATTR_SPARSE_TENSORS:
        for (size_t i = 0; i < count; i++)
            a->raw[i] = reader_payload(r, single ? pb->sparse_tensor : pb->sparse_tensors[i]);
        return 0;
    case ATTR_UNDEFINED:
        return 0;
    }
    return 0;
}

/* Payload fields that the type does not speak of, and a type nobody knows, are kept as wire bytes. */
static int read_odd_rest(struct reader *r, const Onnx__AttributeProto *pb, struct attr *a)
{
    bool odd = a->has_type != pb->has_type, failed = false;
    for (int type = ATTR_FLOAT; type <= ATTR_TYPE_PROTOS; type++)
        odd = odd || ((enum attr_type)type != a->type && payload_count(pb, (enum attr_type)type));
    if (!odd) {
        a->unknown = reader_unknown(r, &pb->base, &failed);
        return failed ? reader_nomem(r) : 0;
    }
    Onnx__AttributeProto rest = *pb;
    rest.name = rest.doc_string = rest.ref_attr_name = NULL;
    rest.has_type = pb->has_type && !a->has_type;
    clear_payload(&rest, a->type);
    size_t len;
    void *bytes = wire_repack(r->w, &rest.base, r->m->arena, &len);
    if (!bytes)
        return reader_nomem(r);
    a->unknown = (struct bytes){bytes, len};
    return 0;
}

static int read_attr(struct reader *r, uint32_t graph, uint32_t node, Onnx__AttributeProto *pb, struct attr *a)
{
    bool failed = false;
    *a = (struct attr){.name = reader_text(r, pb->name, &failed),
                       .ref_name = reader_text(r, pb->ref_attr_name, &failed),
                       .doc = reader_text(r, pb->doc_string, &failed)};
    if (failed)
        return reader_nomem(r);
    int type = (int)pb->type;
    a->has_type = pb->has_type && type > ATTR_UNDEFINED && type <= ATTR_TYPE_PROTOS;
    if (a->has_type)
        a->type = (enum attr_type)type;
    for (type = ATTR_FLOAT; !a->has_type && a->type == ATTR_UNDEFINED && type <= ATTR_TYPE_PROTOS; type++)
        if (payload_count(pb, (enum attr_type)type))
            a->type = (enum attr_type)type;
    if (read_payload(r, graph, node, pb, a) || read_odd_rest(r, pb, a))
        return err_wrap(r->err, "attribute '%.200s': ", pb->name ? pb->name : "");
    return 0;
}

int read_attrs(struct reader *r, uint32_t graph, uint32_t node, Onnx__AttributeProto **pb, size_t count,
               struct attr **out)
{
    *out = model_alloc(r->m, count, sizeof **out);
    if (!*out)
        return reader_nomem(r);
    for (size_t i = 0; i < count; i++)
        if (read_attr(r, graph, node, pb[i], &(*out)[i]))
            return -1;
    return 0;
}

/* --- graphs --- */

/* A new value; a name of this graph must not be taken yet. `what` says who defines it, for the message. */
static uint32_t define(struct reader *r, uint32_t graph, const char *name, const char *what, const char *who)
{
    uint32_t v = model_find_value(r->m, graph, name);
    if (v != VALUE_NONE && r->m->values[v].graph == graph) {
        err_set(r->err, ERR_MODEL, "%s '%.200s' defines '%.200s', a name that is taken already; names must be unique",
                what, who, name);
        return VALUE_NONE;
    }
    v = model_add_value(r->m, graph, name, false);
    if (v == VALUE_NONE)
        reader_nomem(r);
    return v;
}

/* The value a name refers to; made here if there is none. */
static uint32_t refer(struct reader *r, uint32_t graph, const char *name)
{
    uint32_t v = model_find_value(r->m, graph, name);
    if (v == VALUE_NONE)
        v = model_add_value(r->m, graph, name, false);
    if (v == VALUE_NONE)
        reader_nomem(r);
    return v;
}

static int read_info(struct reader *r, Onnx__ValueInfoProto *pb, struct value_info *info)
{
    bool failed = false;
    info->doc = reader_text(r, pb->doc_string, &failed);
    info->unknown = reader_unknown(r, &pb->base, &failed);
    info->has_type = pb->type != NULL;
    if (failed)
        return reader_nomem(r);
    if (read_entries(r, pb->metadata_props, pb->n_metadata_props, &info->metadata))
        return -1;
    if (pb->type && read_type(r, pb->type, &info->type))
        return err_wrap(r->err, "value '%.200s': ", pb->name);
    struct value *v = &r->m->values[info->value];
    if (v->type.kind == TYPE_NONE)
        v->type = info->type;
    return 0;
}

enum info_role { INFO_INPUT, INFO_OUTPUT, INFO_OTHER };
static const char *const role_names[] = {"graph input", "graph output", "value_info"};

static int read_infos(struct reader *r, uint32_t graph, enum info_role role, Onnx__ValueInfoProto **pb, size_t count,
                      struct value_info **out, int *n_out)
{
    *out = model_alloc(r->m, count, sizeof **out);
    if (!*out)
        return reader_nomem(r);
    for (size_t i = 0; i < count; i++) {
        if (!pb[i]->name || !*pb[i]->name)
            return err_set(r->err, ERR_MODEL, "%s %zu has no name", role_names[role], i);
        uint32_t v = role == INFO_INPUT ? define(r, graph, pb[i]->name, "graph input", pb[i]->name)
                                        : refer(r, graph, pb[i]->name);
        (*out)[i].value = v;
        if (v == VALUE_NONE || read_info(r, pb[i], &(*out)[i]))
            return -1;
    }
    *n_out = (int)count;
    return 0;
}

static int read_initializer(struct reader *r, uint32_t graph, size_t i, const Onnx__TensorProto *pb)
{
    struct model *m = r->m;
    if (!pb->name || !*pb->name)
        return err_set(r->err, ERR_MODEL, "initializer %zu has no name", i);
    uint32_t v = model_find_value(m, graph, pb->name);
    /* Only inputs and initializers are defined by now. One may be both: always so up to IR 3, since then as a default.
     */
    if (v == VALUE_NONE || m->values[v].graph != graph || m->values[v].weight)
        v = define(r, graph, pb->name, "initializer", pb->name);
    struct weight *w = v == VALUE_NONE ? NULL : model_new_weight(m);
    if (!w)
        return v == VALUE_NONE ? -1 : reader_nomem(r);
    if (read_tensor(r, pb, w))
        return err_wrap(r->err, "initializer '%.200s': ", pb->name);
    m->values[v].weight = w;
    if (!w->opaque.len)
        m->values[v].type = type_tensor(w->tensor.dtype, &w->tensor.shape);
    m->graphs[graph].initializers[m->graphs[graph].n_initializers++] = v;
    return 0;
}

/* The name of a sparse initializer is SparseTensorProto.values (1) . TensorProto.name (8); the rest is only carried. */
static struct bytes find_field(struct bytes message, uint32_t number)
{
    const unsigned char *p = message.data;
    size_t at = 0;
    uint64_t tag, value;
    while (at < message.len && wire_varint(p, &at, message.len, &tag)) {
        size_t len = 0;
        bool ok = true;
        if ((tag & 7) == WIRE_VARINT)
            ok = wire_varint(p, &at, message.len, &value);
        else if ((tag & 7) == WIRE_LEN && (ok = wire_varint(p, &at, message.len, &value)))
            len = value < SIZE_MAX ? (size_t)value : SIZE_MAX;
        else if (ok)
            len = (tag & 7) == WIRE_64BIT ? 8 : (tag & 7) == WIRE_32BIT ? 4 : SIZE_MAX;
        if (!ok || len > message.len - at)
            break;
        if (tag == ((uint64_t)number << 3 | WIRE_LEN))
            return (struct bytes){p + at, len};
        at += len;
    }
    return (struct bytes){0};
}

static int read_sparse(struct reader *r, uint32_t graph, const Onnx__GraphProto *pb)
{
    struct model *m = r->m;
    size_t count = pb->n_sparse_initializer;
    struct bytes *list = model_alloc(m, count, sizeof *list);
    if (!list)
        return reader_nomem(r);
    for (size_t i = 0; i < count; i++) {
        list[i] = reader_payload(r, pb->sparse_initializer[i]);
        struct bytes name = find_field(find_field(list[i], 1), 8);
        if (!name.len || memchr(name.data, 0, name.len))
            return err_set(r->err, ERR_MODEL, "sparse initializer %zu has no name", i);
        const char *text = arena_strndup(r->scratch, name.data, name.len);
        uint32_t v = text ? define(r, graph, text, "sparse initializer", text) : VALUE_NONE;
        if (v == VALUE_NONE)
            return text ? -1 : reader_nomem(r);
        m->values[v].type.kind = TYPE_SPARSE_TENSOR;
    }
    m->graphs[graph].sparse_initializers = list;
    m->graphs[graph].n_sparse_initializers = (int)count;
    return 0;
}

/* First pass: the node with its outputs; the inputs are still empty. */
static int read_node_frame(struct reader *r, uint32_t graph, size_t i, const Onnx__NodeProto *pb)
{
    struct model *m = r->m;
    bool failed = false;
    char place[64];
    snprintf(place, sizeof place, "#%zu", i);
    if (!pb->op_type || !*pb->op_type)
        return err_set(r->err, ERR_MODEL, "node %zu '%.200s' has no op_type", i, pb->name ? pb->name : "");
    uint32_t *in = arena_calloc(r->scratch, pb->n_input, sizeof *in);
    uint32_t *out = arena_calloc(r->scratch, pb->n_output, sizeof *out);
    if (!in || !out)
        return reader_nomem(r);
    for (size_t k = 0; k < pb->n_input; k++)
        in[k] = VALUE_NONE;
    for (size_t k = 0; k < pb->n_output; k++) {
        out[k] = VALUE_NONE;
        if (!*pb->output[k])
            continue;
        out[k] = define(r, graph, pb->output[k], "node", pb->name && *pb->name ? pb->name : place);
        if (out[k] == VALUE_NONE)
            return -1;
    }
    uint32_t id =
        model_add_node(m, graph, pb->op_type, pb->domain, pb->name, in, (int)pb->n_input, out, (int)pb->n_output);
    if (id == NODE_NONE)
        return reader_nomem(r);
    struct node *n = &m->nodes[id];
    n->overload = reader_text(r, pb->overload, &failed);
    n->doc = reader_text(r, pb->doc_string, &failed);
    n->unknown = reader_unknown(r, &pb->base, &failed);
    if (failed)
        return reader_nomem(r);
    return read_entries(r, pb->metadata_props, pb->n_metadata_props, &n->metadata);
}

/* Second pass. m->nodes may move while nested graphs are read. */
static int read_node_body(struct reader *r, uint32_t graph, uint32_t id, const Onnx__NodeProto *pb)
{
    struct attr *attrs = NULL;
    for (size_t k = 0; k < pb->n_input; k++) {
        if (!*pb->input[k])
            continue;
        uint32_t v = refer(r, graph, pb->input[k]);
        if (v == VALUE_NONE)
            return -1;
        r->m->nodes[id].input[k] = v;
    }
    if (read_attrs(r, graph, id, pb->attribute, pb->n_attribute, &attrs)) {
        char label[200];
        return err_wrap(r->err, "node '%.200s' (%.60s): ", node_label(r->m, id, label, sizeof label), pb->op_type);
    }
    r->m->nodes[id].attr = attrs;
    r->m->nodes[id].n_attr = (int)pb->n_attribute;
    return 0;
}

static int read_nodes(struct reader *r, uint32_t graph, Onnx__NodeProto **pb, size_t count)
{
    uint32_t first = r->m->n_nodes;
    for (size_t i = 0; i < count; i++)
        if (read_node_frame(r, graph, i, pb[i]))
            return -1;
    for (size_t i = 0; i < count; i++)
        if (read_node_body(r, graph, first + (uint32_t)i, pb[i]))
            return -1;
    return 0;
}

static int read_graph_frame(struct reader *r, uint32_t id, const Onnx__GraphProto *pb)
{
    bool failed = false;
    struct graph *g = &r->m->graphs[id];
    g->name = reader_text(r, pb->name, &failed);
    g->doc = reader_text(r, pb->doc_string, &failed);
    g->quantization = reader_fields(r, pb->quantization_annotation, pb->n_quantization_annotation, &failed);
    g->unknown = reader_unknown(r, &pb->base, &failed);
    g->initializers = model_alloc(r->m, pb->n_initializer, sizeof *g->initializers);
    if (failed || !g->initializers)
        return reader_nomem(r);
    g->cap_initializers = (int)pb->n_initializer;
    return read_entries(r, pb->metadata_props, pb->n_metadata_props, &g->metadata);
}

/* m->graphs may move while nodes are read, so lists are taken through locals. */
int read_graph(struct reader *r, uint32_t id, Onnx__GraphProto *pb)
{
    struct value_info *list = NULL;
    int count = 0;
    if (read_graph_frame(r, id, pb) || read_infos(r, id, INFO_INPUT, pb->input, pb->n_input, &list, &count))
        return -1;
    r->m->graphs[id].inputs = list;
    r->m->graphs[id].n_inputs = count;
    for (size_t i = 0; i < pb->n_initializer; i++)
        if (read_initializer(r, id, i, pb->initializer[i]))
            return -1;
    if (read_sparse(r, id, pb) || read_nodes(r, id, pb->node, pb->n_node) ||
        read_infos(r, id, INFO_OUTPUT, pb->output, pb->n_output, &list, &count))
        return -1;
    r->m->graphs[id].outputs = list;
    r->m->graphs[id].n_outputs = count;
    if (read_infos(r, id, INFO_OTHER, pb->value_info, pb->n_value_info, &list, &count))
        return -1;
    r->m->graphs[id].infos = list;
    r->m->graphs[id].n_infos = count;
    return 0;
}
