/* SPDX-License-Identifier: Apache-2.0
 * Facts are gathered by walking the tables once. Constants are found through one list (each_weight), so that params,
 * bytes and non-zeros cannot disagree about what a weight is. */
#include "core/model/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/size.h"

/* --- text --- */

/* Length of the UTF-8 sequence at p (RFC 3629: shortest form, no surrogates), 0 if it is none. */
static size_t utf8_len(const unsigned char *p)
{
    static const struct {
        unsigned char first, last, second_min, second_max;
        size_t len;
    } rows[] = {
        {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (*p < rows[i].first || *p > rows[i].last)
            continue;
        if (rows[i].len > 1 && (p[1] < rows[i].second_min || p[1] > rows[i].second_max))
            return 0;
        for (size_t k = 2; k < rows[i].len; k++)
            if (p[k] < 0x80 || p[k] > 0xbf)
                return 0;
        return rows[i].len;
    }
    return 0;
}

/* `text` as valid UTF-8, in buf. */
static const char *clean(const char *text, struct buf *buf)
{
    buf->len = 0;
    buf_append(buf, "", 0);
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t len = utf8_len(p);
        if (len)
            buf_append(buf, p, len);
        else
            buf_puts(buf, "\xef\xbf\xbd");
        p += len ? len : 1;
    }
    return buf->failed ? "" : buf->data;
}

static json_t *text_json(const char *text)
{
    struct buf buf = {0};
    json_t *s = json_string(text);
    if (!s)
        s = json_string(clean(text, &buf));
    buf_fini(&buf);
    return s;
}

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text && *text)
        json_object_set_new(object, key, text_json(text));
}

/* A key that came from the file. */
static void set_named(json_t *object, const char *name, json_t *value)
{
    struct buf buf = {0};
    json_object_set_new(object, clean(name, &buf), value);
    buf_fini(&buf);
}

/* --- weights --- */

typedef void weight_fn(void *arg, const struct weight *w);

static void each_weight(const struct model *m, weight_fn *fn, void *arg)
{
    for (uint32_t v = 0; v < m->n_values; v++)
        if (m->values[v].name && m->values[v].weight)
            fn(arg, m->values[v].weight);
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        const struct attr *a = node_is(&m->nodes[n], "Constant") ? node_attr(&m->nodes[n], "value") : NULL;
        if (a && a->type == ATTR_TENSOR && a->count == 1)
            fn(arg, a->tensors[0]);
    }
}

static bool is_parameter(const struct tensor *t)
{
    return t->dtype != DTYPE_INT64 && t->dtype != DTYPE_BOOL && t->dtype != DTYPE_STRING && t->dtype != DTYPE_NONE;
}

static int64_t element_count(const struct tensor *t)
{
    int64_t n = shape_count(&t->shape);
    return n > 0 ? n : 0;
}

static int64_t byte_count(const struct tensor *t)
{
    size_t bytes = 0;
    return dtype_bytes(t->dtype, element_count(t), &bytes) && bytes <= INT64_MAX ? (int64_t)bytes : 0;
}

static void add_saturated(int64_t *sum, int64_t more)
{
    if (!i64_add(*sum, more, sum))
        *sum = INT64_MAX;
}

static void count_params(void *arg, const struct weight *w)
{
    if (is_parameter(&w->tensor))
        add_saturated(arg, element_count(&w->tensor));
}

static void count_bytes(void *arg, const struct weight *w)
{
    add_saturated(arg, byte_count(&w->tensor));
}

/* Elements of `width` bytes, read bytewise because windows may be unaligned; `sign` clears the sign bit of floats. */
static int64_t count_wide(const unsigned char *p, int64_t n, size_t width, bool sign)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++, p += width) {
        unsigned char any = 0;
        for (size_t k = 0; k + 1 < width; k++)
            any |= p[k];
        any |= (unsigned char)(sign ? p[width - 1] & 0x7f : p[width - 1]);
        nonzero += any != 0;
    }
    return nonzero;
}

static int64_t count_f32(const unsigned char *p, int64_t n)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + i * 4, 4);
        nonzero += (bits & 0x7fffffffu) != 0;
    }
    return nonzero;
}

static void count_nonzero(void *arg, const struct weight *w)
{
    const struct tensor *t = &w->tensor;
    int64_t n = element_count(t), nonzero = 0;
    int bits = dtype_bits(t->dtype);
    if (!is_parameter(t) || !t->data)
        return;
    if (t->dtype == DTYPE_FLOAT) {
        nonzero = count_f32(t->data, n);
    } else if (bits >= 8) {
        bool sign = dtype_is_float(t->dtype) && t->dtype != DTYPE_FLOAT8E8M0;
        nonzero = count_wide(t->data, n, (size_t)bits / 8, sign);
    } else {
        for (int64_t i = 0; i < n; i++)
            nonzero += dtype_get(t->dtype, t->data, i) != 0;
    }
    add_saturated(arg, nonzero);
}

int64_t model_params(const struct model *m)
{
    int64_t n = 0;
    each_weight(m, count_params, &n);
    return n;
}

int64_t model_nonzero(const struct model *m)
{
    int64_t n = 0;
    each_weight(m, count_nonzero, &n);
    return n;
}

int64_t model_weight_bytes(const struct model *m)
{
    int64_t n = 0;
    each_weight(m, count_bytes, &n);
    return n;
}

static void add_count(json_t *object, const char *key, int64_t more)
{
    struct buf buf = {0};
    const char *own = clean(key, &buf);
    json_object_set_new(object, own, json_integer(json_integer_value(json_object_get(object, own)) + more));
    buf_fini(&buf);
}

static void count_dtypes(void *arg, const struct weight *w)
{
    if (is_parameter(&w->tensor))
        add_count(arg, dtype_name(w->tensor.dtype), element_count(&w->tensor));
}

static void list_external(void *arg, const struct weight *w)
{
    if (w->storage != STORAGE_EXTERNAL)
        return;
    for (int i = 0; i < w->external.count; i++) {
        const struct entry *e = &w->external.at[i];
        if (e->key && e->value && !strcmp(e->key, "location"))
            set_named(arg, e->value, json_true());
    }
}

/* --- types --- */

static json_t *shape_json(const struct model *m, const struct shape *shape)
{
    if (shape->rank < 0)
        return json_null();
    json_t *list = json_array();
    for (int i = 0; i < shape->rank; i++) {
        int64_t d = shape->dim[i];
        if (d >= 0)
            json_array_append_new(list, json_integer(d));
        else if (d != DIM_UNKNOWN && DIM_SYMBOL_INDEX(d) < m->n_symbols)
            json_array_append_new(list, text_json(m->symbols[DIM_SYMBOL_INDEX(d)]));
        else
            json_array_append_new(list, json_null());
    }
    return list;
}

static void set_type(const struct model *m, json_t *object, const struct type *type)
{
    static const char *const kinds[] = {[TYPE_SPARSE_TENSOR] = "sparse_tensor",
                                        [TYPE_SEQUENCE] = "sequence",
                                        [TYPE_MAP] = "map",
                                        [TYPE_OPTIONAL] = "optional",
                                        [TYPE_OPAQUE] = "opaque"};
    if (type->kind == TYPE_NONE)
        return;
    if (type->kind != TYPE_TENSOR)
        set_text(object, "kind", kinds[type->kind]);
    if (type->kind == TYPE_TENSOR || type->kind == TYPE_SPARSE_TENSOR) {
        if (type->dtype != DTYPE_NONE)
            json_object_set_new(object, "dtype", json_string(dtype_name(type->dtype)));
        json_object_set_new(object, "shape", shape_json(m, &type->shape));
    }
    if (type->inner) {
        json_t *inner = json_object();
        set_type(m, inner, type->inner);
        json_object_set_new(object, "of", inner);
    }
}

static json_t *infos_json(const struct model *m, const struct value_info *list, int count, bool skip_weights)
{
    json_t *array = json_array();
    for (int i = 0; i < count; i++) {
        const struct value *v = &m->values[list[i].value];
        if (skip_weights && v->weight)
            continue;
        json_t *info = json_object();
        json_object_set_new(info, "name", text_json(v->name ? v->name : ""));
        set_type(m, info, list[i].has_type ? &list[i].type : &v->type);
        json_array_append_new(array, info);
    }
    return array;
}

/* --- layers --- */

/* The weight behind a value: itself, or what a chain of nodes that only change its form is made from. */
static const struct weight *weight_behind(const struct model *m, uint32_t value, const char **name)
{
    for (int hops = 0; value != VALUE_NONE && hops < 8; hops++) {
        const struct value *v = &m->values[value];
        *name = v->name;
        if (v->weight)
            return v->weight;
        if (v->producer == NODE_NONE)
            return NULL;
        const struct node *n = &m->nodes[v->producer];
        if (node_is(n, "Constant")) {
            const struct attr *a = node_attr(n, "value");
            return a && a->type == ATTR_TENSOR && a->count == 1 ? a->tensors[0] : NULL;
        }
        bool passes =
            node_is(n, "DequantizeLinear") || node_is(n, "Cast") || node_is(n, "Identity") || node_is(n, "Transpose");
        if (!passes || n->n_input < 1)
            return NULL;
        value = n->input[0];
    }
    return NULL;
}

static json_t *layer_json(const struct model *m, uint32_t node)
{
    const struct node *n = &m->nodes[node];
    json_t *weights = json_array();
    int64_t params = 0, bytes = 0;
    char label[200];
    for (int i = 0; i < n->n_input; i++) {
        const char *name = NULL;
        const struct weight *w = weight_behind(m, n->input[i], &name);
        if (!w || !is_parameter(&w->tensor))
            continue;
        json_t *one = json_object();
        set_text(one, "name", name);
        json_object_set_new(one, "shape", shape_json(m, &w->tensor.shape));
        json_object_set_new(one, "dtype", json_string(dtype_name(w->tensor.dtype)));
        json_object_set_new(one, "params", json_integer(element_count(&w->tensor)));
        json_object_set_new(one, "bytes", json_integer(byte_count(&w->tensor)));
        add_saturated(&params, element_count(&w->tensor));
        add_saturated(&bytes, byte_count(&w->tensor));
        json_array_append_new(weights, one);
    }
    if (!json_array_size(weights)) {
        json_decref(weights);
        return NULL;
    }
    json_t *layer = json_object();
    json_object_set_new(layer, "node", text_json(node_label(m, node, label, sizeof label)));
    json_object_set_new(layer, "op_type", text_json(n->op_type));
    json_object_set_new(layer, "weights", weights);
    json_object_set_new(layer, "params", json_integer(params));
    json_object_set_new(layer, "bytes", json_integer(bytes));
    return layer;
}

json_t *model_layers(const struct model *m)
{
    json_t *layers = json_array();
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        const struct node *node = &m->nodes[n];
        /* the nodes a weight passes through on its way are no layers */
        if (!node->op_type || node_is(node, "DequantizeLinear") || node_is(node, "Cast") || node_is(node, "Identity") ||
            node_is(node, "Transpose"))
            continue;
        json_t *layer = layer_json(m, n);
        if (layer)
            json_array_append_new(layers, layer);
    }
    return layers;
}

/* --- the whole --- */

static json_t *opsets_json(const struct model *m)
{
    json_t *list = json_array();
    for (int i = 0; i < m->n_opsets; i++) {
        const char *domain = model_domain_is_default(m->opsets[i].domain) ? "ai.onnx" : m->opsets[i].domain;
        json_t *one = json_object();
        json_object_set_new(one, "domain", text_json(domain));
        json_object_set_new(one, "version", json_integer(m->opsets[i].version));
        json_array_append_new(list, one);
    }
    return list;
}

static void set_header(const struct model *m, json_t *facts)
{
    json_object_set_new(facts, "ir_version", json_integer(m->ir_version));
    if (model_opset(m, ""))
        json_object_set_new(facts, "opset", json_integer(model_opset(m, "")));
    json_object_set_new(facts, "opsets", opsets_json(m));
    set_text(facts, "producer_name", m->producer_name);
    set_text(facts, "producer_version", m->producer_version);
    set_text(facts, "domain", m->domain);
    if (m->has_model_version && m->model_version)
        json_object_set_new(facts, "model_version", json_integer(m->model_version));
    set_text(facts, "graph_name", model_main(m)->name);
    json_t *metadata = json_object();
    for (int i = 0; i < m->metadata.count; i++)
        if (m->metadata.at[i].key)
            set_named(metadata, m->metadata.at[i].key,
                      text_json(m->metadata.at[i].value ? m->metadata.at[i].value : ""));
    json_object_set_new(facts, "metadata", metadata);
}

static void set_nodes(const struct model *m, json_t *facts)
{
    json_t *ops = json_object(), *functions = json_array();
    int64_t nodes = 0, subgraphs = 0;
    for (uint32_t n = 0; n < m->n_nodes; n++)
        if (m->nodes[n].op_type) {
            nodes++;
            add_count(ops, m->nodes[n].op_type, 1);
        }
    for (uint32_t g = 0; g < m->n_graphs; g++)
        subgraphs += m->graphs[g].parent != GRAPH_NONE && m->graphs[g].n_outputs > 0;
    for (int i = 0; i < m->n_functions; i++)
        json_array_append_new(functions, text_json(m->functions[i].name ? m->functions[i].name : ""));
    json_object_set_new(facts, "nodes", json_integer(nodes));
    json_object_set_new(facts, "ops", ops);
    json_object_set_new(facts, "subgraphs", json_integer(subgraphs));
    json_object_set_new(facts, "functions", functions);
}

json_t *model_inspect(const struct model *m, bool layers)
{
    const struct graph *g = model_main(m);
    json_t *facts = json_object(), *dtypes = json_object(), *external = json_object(), *files = json_array();
    const char *name;
    json_t *ignored;
    if (!facts || !dtypes || !external || !files) {
        json_decref(facts), json_decref(dtypes), json_decref(external), json_decref(files);
        return NULL;
    }
    set_header(m, facts);
    json_object_set_new(facts, "inputs", infos_json(m, g->inputs, g->n_inputs, true));
    json_object_set_new(facts, "outputs", infos_json(m, g->outputs, g->n_outputs, false));
    set_nodes(m, facts);
    json_object_set_new(facts, "params", json_integer(model_params(m)));
    json_object_set_new(facts, "weight_bytes", json_integer(model_weight_bytes(m)));
    each_weight(m, count_dtypes, dtypes);
    json_object_set_new(facts, "dtypes", dtypes);
    each_weight(m, list_external, external);
    json_object_foreach(external, name, ignored) json_array_append_new(files, json_string(name));
    json_decref(external);
    json_object_set_new(facts, "external_files", files);
    if (layers)
        json_object_set_new(facts, "layers", model_layers(m));
    return facts;
}

/* --- for drawing --- */

static json_t *end_json(const struct model *m, uint32_t value, const char *prefix)
{
    struct buf buf = {0};
    buf_puts(&buf, prefix);
    buf_puts(&buf, m->values[value].name ? m->values[value].name : "");
    json_t *end = buf.failed ? json_null() : text_json(buf.data);
    buf_fini(&buf);
    return end;
}

static void add_edge(const struct model *m, json_t *edges, json_t *from, json_t *to, uint32_t value)
{
    json_t *edge = json_object();
    json_object_set_new(edge, "from", from);
    json_object_set_new(edge, "to", to);
    json_object_set_new(edge, "value", text_json(m->values[value].name ? m->values[value].name : ""));
    set_type(m, edge, &m->values[value].type);
    json_array_append_new(edges, edge);
}

static json_t *source_json(const struct model *m, uint32_t value)
{
    uint32_t producer = m->values[value].producer;
    return producer == NODE_NONE ? end_json(m, value, "input:") : json_integer(producer);
}

static void draw_node(const struct model *m, uint32_t id, json_t *nodes, json_t *edges)
{
    const struct node *n = &m->nodes[id];
    json_t *node = json_object();
    char label[200];
    int64_t params = 0;
    for (int i = 0; i < n->n_input; i++) {
        uint32_t v = n->input[i];
        if (v == VALUE_NONE)
            continue;
        if (m->values[v].weight)
            add_saturated(&params,
                          is_parameter(&m->values[v].weight->tensor) ? element_count(&m->values[v].weight->tensor) : 0);
        else
            add_edge(m, edges, source_json(m, v), json_integer(id), v);
    }
    json_object_set_new(node, "id", json_integer(id));
    json_object_set_new(node, "name", text_json(node_label(m, id, label, sizeof label)));
    json_object_set_new(node, "op_type", text_json(n->op_type));
    set_text(node, "domain", n->domain);
    if (params)
        json_object_set_new(node, "params", json_integer(params));
    json_array_append_new(nodes, node);
}

static json_t *names_json(const struct model *m, const struct value_info *list, int count, bool skip_weights)
{
    json_t *names = json_array();
    for (int i = 0; i < count; i++)
        if (!skip_weights || !m->values[list[i].value].weight)
            json_array_append_new(names, text_json(m->values[list[i].value].name ? m->values[list[i].value].name : ""));
    return names;
}

json_t *model_graph_json(const struct model *m, int max_nodes)
{
    const struct graph *g = model_main(m);
    json_t *out = json_object(), *nodes = json_array(), *edges = json_array();
    if (!out || !nodes || !edges) {
        json_decref(out), json_decref(nodes), json_decref(edges);
        return NULL;
    }
    for (int i = 0; i < g->n_nodes && i < max_nodes; i++)
        draw_node(m, g->nodes[i], nodes, edges);
    for (int i = 0; i < g->n_outputs; i++)
        add_edge(m, edges, source_json(m, g->outputs[i].value), end_json(m, g->outputs[i].value, "output:"),
                 g->outputs[i].value);
    json_object_set_new(out, "inputs", names_json(m, g->inputs, g->n_inputs, true));
    json_object_set_new(out, "outputs", names_json(m, g->outputs, g->n_outputs, false));
    json_object_set_new(out, "nodes", nodes);
    json_object_set_new(out, "edges", edges);
    json_object_set_new(out, "truncated", json_boolean(g->n_nodes > max_nodes));
    return out;
}
