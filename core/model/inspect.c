/* SPDX-License-Identifier: Apache-2.0
 * Rows are made by walking the tables once. What counts as a weight is core/model/parameters.h's word. */
#include "core/model/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/model/spread.h"

/* --- text --- */

/* An absent name is an empty one. */
static json_t *name_json(const char *name)
{
    return utf8_json(name ? name : "");
}

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text && *text)
        json_object_set_new(object, key, utf8_json(text));
}

/* A key that came from the file. */
static void set_named(json_t *object, const char *key, json_t *value)
{
    struct buf own = {0};
    utf8_append(&own, key);
    json_object_set_new(object, own.failed ? "" : own.data, value);
    buf_fini(&own);
}

/* object[key] += more; saturates. */
static void add_count(json_t *object, const char *key, int64_t more)
{
    struct buf own = {0};
    int64_t sum;
    utf8_append(&own, key);
    key = own.failed ? "" : own.data;
    if (!i64_add(json_integer_value(json_object_get(object, key)), more, &sum))
        sum = INT64_MAX;
    json_object_set_new(object, key, json_integer(sum));
    buf_fini(&own);
}

/* --- types --- */

static json_t *shape_json(const struct model *m, const struct shape *shape)
{
    json_t *list = json_array();
    for (int i = 0; i < shape->rank; i++) {
        int64_t d = shape->dim[i];
        if (d >= 0)
            json_array_append_new(list, json_integer(d));
        else if (d != DIM_UNKNOWN && DIM_SYMBOL_INDEX(d) < m->n_symbols)
            json_array_append_new(list, utf8_json(m->symbols[DIM_SYMBOL_INDEX(d)]));
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
        if (type->shape.rank >= 0)
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
        json_object_set_new(info, "name", name_json(v->name));
        set_type(m, info, list[i].has_type ? &list[i].type : &v->type);
        json_array_append_new(array, info);
    }
    return array;
}

/* --- layers --- */

/* Nodes a weight passes through on its way to the node that uses it: they are no layers. */
static bool passes_weights(const struct node *n)
{
    return node_is(n, "DequantizeLinear") || node_is(n, "Cast") || node_is(n, "Identity") || node_is(n, "Transpose");
}

/* The value that holds the weight behind `value`: itself, or the start of a chain of such nodes. VALUE_NONE: none. */
static uint32_t weight_behind(const struct model *m, uint32_t value)
{
    for (int hops = 0; value != VALUE_NONE && hops < 8; hops++) {
        uint32_t producer = m->values[value].producer;
        if (value_stored(m, value))
            return value;
        if (producer == NODE_NONE || !passes_weights(&m->nodes[producer]) || m->nodes[producer].n_input < 1)
            return VALUE_NONE;
        value = m->nodes[producer].input[0];
    }
    return VALUE_NONE;
}

static json_t *weight_json(const struct model *m, const struct uses *uses, uint32_t value, int *spreads)
{
    const struct tensor *t = value_stored(m, value);
    json_t *one = json_object();
    set_text(one, "name", m->values[value].name);
    if (t->shape.rank >= 0)
        json_object_set_new(one, "shape", shape_json(m, &t->shape));
    json_object_set_new(one, "dtype", json_string(dtype_name(t->dtype)));
    json_object_set_new(one, "params", json_integer(stored_elements(t)));
    json_object_set_new(one, "bytes", json_integer(stored_bytes(t)));
    int64_t nonzero = value_nonzero(m, uses, value);
    json_t *spread = *spreads > 0 ? tensor_spread_json(t) : NULL;
    if (nonzero >= 0)
        json_object_set_new(one, "nonzero", json_integer(nonzero));
    if (spread) {
        json_object_set_new(one, "histogram", spread);
        (*spreads)--;
    }
    return one;
}

static json_t *layer_json(const struct model *m, const struct uses *uses, uint32_t node, int *spreads)
{
    const struct node *n = &m->nodes[node];
    json_t *layer = json_object(), *weights = json_array();
    char label[200];
    json_object_set_new(layer, "node", utf8_json(node_label(m, node, label, sizeof label)));
    json_object_set_new(layer, "op_type", utf8_json(n->op_type));
    json_object_set_new(layer, "params", json_integer(0));
    json_object_set_new(layer, "bytes", json_integer(0));
    for (int i = 0; i < n->n_input; i++) {
        uint32_t value = weight_behind(m, n->input[i]);
        if (!value_is_parameter(m, uses, value))
            continue;
        json_array_append_new(weights, weight_json(m, uses, value, spreads));
        add_count(layer, "params", stored_elements(value_stored(m, value)));
        add_count(layer, "bytes", stored_bytes(value_stored(m, value)));
    }
    json_object_set_new(layer, "weights", weights);
    return layer;
}

static bool reads_weights(void *arg, uint32_t node, json_t *row)
{
    (void)arg, (void)node;
    return json_array_size(json_object_get(row, "weights")) > 0;
}

json_t *model_layers(const struct model *m, int max_rows)
{
    return model_layers_with(m, max_rows, reads_weights, NULL);
}

json_t *model_layers_with(const struct model *m, int max_rows, layer_add_fn *add, void *arg)
{
    struct uses uses = {0};
    int spreads = INSPECT_SPREADS;
    json_t *layers = json_array();
    if (!layers || uses_build(&uses, m, NULL)) {
        json_decref(layers);
        return NULL;
    }
    for (uint32_t n = 0; n < m->n_nodes && json_array_size(layers) < (size_t)max_rows; n++) {
        if (!m->nodes[n].op_type || passes_weights(&m->nodes[n]))
            continue;
        json_t *row = layer_json(m, &uses, n, &spreads);
        if (row && add(arg, n, row))
            json_array_append(layers, row);
        json_decref(row);
    }
    uses_fini(&uses);
    return layers;
}

/* --- the whole --- */

static json_t *opsets_json(const struct model *m)
{
    json_t *list = json_array();
    for (int i = 0; i < m->n_opsets; i++) {
        const char *domain = model_domain_is_default(m->opsets[i].domain) ? "ai.onnx" : m->opsets[i].domain;
        json_t *one = json_object();
        json_object_set_new(one, "domain", utf8_json(domain));
        json_object_set_new(one, "version", json_integer(m->opsets[i].version));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *bounded_json(const char *text)
{
    char longer[64];
    if (strlen(text) <= INSPECT_TEXT)
        return utf8_json(text);
    snprintf(longer, sizeof longer, "(more than %d bytes)", INSPECT_TEXT);
    return json_string(longer);
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
    for (int i = 0; i < m->metadata.count && i < INSPECT_ENTRIES; i++) {
        const struct entry *e = &m->metadata.at[i];
        if (e->key)
            set_named(metadata, e->key, bounded_json(e->value ? e->value : ""));
    }
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
        json_array_append_new(functions, utf8_json(m->functions[i].name ? m->functions[i].name : ""));
    json_object_set_new(facts, "nodes", json_integer(nodes));
    json_object_set_new(facts, "ops", ops);
    json_object_set_new(facts, "subgraphs", json_integer(subgraphs));
    json_object_set_new(facts, "functions", functions);
}

/* How many parameters are stored in which dtype. */
static void set_weights(const struct model *m, const struct uses *uses, json_t *facts)
{
    json_t *dtypes = json_object();
    int64_t params = 0;
    for (uint32_t v = 0; v < m->n_values; v++)
        if (value_is_parameter(m, uses, v))
            add_count(dtypes, dtype_name(value_stored(m, v)->dtype), stored_elements(value_stored(m, v)));
    const char *name;
    json_t *count;
    json_object_foreach (dtypes, name, count)
        if (!i64_add(params, json_integer_value(count), &params))
            params = INT64_MAX;
    json_object_set_new(facts, "params", json_integer(params));
    json_object_set_new(facts, "weight_bytes", json_integer(model_weight_bytes(m)));
    json_object_set_new(facts, "dtypes", dtypes);
}

json_t *model_inspect(const struct model *m)
{
    const struct graph *g = model_main(m);
    struct uses uses = {0};
    const char **names = NULL;
    int n_names = 0;
    json_t *facts = json_object(), *files = json_array();
    if (!facts || !files || uses_build(&uses, m, NULL) || model_external_files(m, &names, &n_names, NULL)) {
        uses_fini(&uses);
        json_decref(facts), json_decref(files);
        return NULL;
    }
    set_header(m, facts);
    json_object_set_new(facts, "inputs", infos_json(m, g->inputs, g->n_inputs, true));
    json_object_set_new(facts, "outputs", infos_json(m, g->outputs, g->n_outputs, false));
    set_nodes(m, facts);
    set_weights(m, &uses, facts);
    for (int i = 0; i < n_names; i++)
        json_array_append_new(files, utf8_json(names[i]));
    json_object_set_new(facts, "external_files", files);
    uses_fini(&uses);
    free(names);
    return facts;
}

/* --- for drawing --- */

struct drawing {
    const struct model *m;
    const struct uses *uses;
    json_t *nodes, *edges;
    json_int_t *made_by; /* [n_values]: the node drawn that makes it; -1: none, a constant or a node left out */
    json_int_t next_id;  /* of an Input or Output: behind those of the model */
};

static json_t *draw_node(struct drawing *d, json_int_t id, const char *op_type, const char *name)
{
    json_t *node = json_object();
    json_object_set_new(node, "id", json_integer(id));
    json_object_set_new(node, "op_type", utf8_json(op_type));
    json_object_set_new(node, "name", utf8_json(name ? name : ""));
    json_array_append_new(d->nodes, node);
    return node;
}

static void draw_edge(struct drawing *d, uint32_t value, json_int_t to)
{
    if (value == VALUE_NONE || d->made_by[value] < 0)
        return;
    json_t *edge = json_object();
    json_object_set_new(edge, "from", json_integer(d->made_by[value]));
    json_object_set_new(edge, "to", json_integer(to));
    json_object_set_new(edge, "value", utf8_json(d->m->values[value].name ? d->m->values[value].name : ""));
    set_type(d->m, edge, &d->m->values[value].type);
    json_array_append_new(d->edges, edge);
}

static void draw_operator(struct drawing *d, uint32_t id)
{
    const struct node *n = &d->m->nodes[id];
    char label[200];
    json_t *node = draw_node(d, id, n->op_type, node_label(d->m, id, label, sizeof label));
    set_text(node, "domain", n->domain);
    for (int i = 0; i < n->n_input; i++)
        if (value_is_parameter(d->m, d->uses, n->input[i]))
            add_count(node, "params", stored_elements(value_stored(d->m, n->input[i])));
    for (int o = 0; o < n->n_output; o++)
        if (n->output[o] != VALUE_NONE)
            d->made_by[n->output[o]] = id;
}

static void draw_all(struct drawing *d, const struct graph *g, int shown)
{
    for (uint32_t v = 0; v < d->m->n_values; v++)
        d->made_by[v] = -1;
    for (int i = 0; i < g->n_inputs; i++) {
        uint32_t v = g->inputs[i].value;
        if (d->m->values[v].weight)
            continue;
        draw_node(d, d->next_id, "Input", d->m->values[v].name);
        d->made_by[v] = d->next_id++;
    }
    for (int i = 0; i < shown; i++)
        draw_operator(d, g->nodes[i]);
    for (int i = 0; i < shown; i++)
        for (int k = 0; k < d->m->nodes[g->nodes[i]].n_input; k++)
            draw_edge(d, d->m->nodes[g->nodes[i]].input[k], g->nodes[i]);
    for (int i = 0; i < g->n_outputs; i++) {
        draw_node(d, d->next_id, "Output", d->m->values[g->outputs[i].value].name);
        draw_edge(d, g->outputs[i].value, d->next_id++);
    }
}

json_t *model_graph_json(const struct model *m, int max_nodes)
{
    const struct graph *g = model_main(m);
    int shown = g->n_nodes < max_nodes ? g->n_nodes : max_nodes;
    struct uses uses = {0};
    struct drawing d = {m, &uses, json_array(), json_array(), NULL, (json_int_t)m->n_nodes};
    json_t *out = NULL;
    d.made_by = calloc((size_t)m->n_values + 1, sizeof *d.made_by);
    if (!d.nodes || !d.edges || !d.made_by || uses_build(&uses, m, NULL))
        goto out;
    draw_all(&d, g, shown);
    out = json_pack("{s:O, s:O, s:b}", "nodes", d.nodes, "edges", d.edges, "truncated", shown < g->n_nodes);
out:
    json_decref(d.nodes);
    json_decref(d.edges);
    free(d.made_by);
    uses_fini(&uses);
    return out;
}
