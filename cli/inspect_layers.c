/* SPDX-License-Identifier: Apache-2.0
 * inspect_layers.c - the nodes of a model as rows and as a drawing. What can be pruned or quantized is asked where the
 * methods ask: product_weight says which weight, or why none. */
#include <stdlib.h>
#include <string.h>

#include "cli/inspect.h"
#include "core/passes/weights.h"

json_t *inspect_text(const char *text)
{
    json_t *s = json_string(text ? text : "");
    if (s)
        return s;
    size_t len = strlen(text);
    char *copy = strdup(text);
    for (size_t i = 0; copy && i < len; i++)
        if ((unsigned char)copy[i] >= 0x80)
            copy[i] = '?';
    s = copy ? json_string(copy) : NULL;
    free(copy);
    return s ? s : json_string("?");
}

static json_t *shape_json(const struct model *m, const struct shape *s)
{
    json_t *a = json_array();
    for (int i = 0; i < s->rank; i++) {
        int64_t d = s->dim[i];
        int symbol = (int)DIM_SYMBOL_INDEX(d);
        if (d >= 0)
            json_array_append_new(a, json_integer(d));
        else if (d != DIM_UNKNOWN && symbol < m->n_symbols)
            json_array_append_new(a, inspect_text(m->symbols[symbol]));
        else
            json_array_append_new(a, json_null());
    }
    return a;
}

json_t *inspect_type_json(const struct model *m, const struct type *type)
{
    static const char *const kinds[] = {"none", "tensor", "sparse_tensor", "sequence", "map", "optional", "opaque"};
    json_t *o = json_object();
    if (type->kind != TYPE_TENSOR && (size_t)type->kind < sizeof kinds / sizeof kinds[0])
        json_object_set_new(o, "kind", json_string(kinds[type->kind]));
    if (type->dtype != DTYPE_NONE)
        json_object_set_new(o, "dtype", json_string(dtype_name(type->dtype)));
    if (type->has_shape && type->shape.rank >= 0)
        json_object_set_new(o, "shape", shape_json(m, &type->shape));
    return o;
}

/* ---- layers ---- */

static json_t *verdict(const char *why)
{
    return why ? json_pack("{s:b, s:s}", "possible", 0, "why", why) : json_pack("{s:b}", "possible", 1);
}

static bool reads_dequantized(const struct model *m, const struct node *n)
{
    for (int i = 1; i < n->n_input; i++) {
        uint32_t v = n->input[i], p = v < m->n_values ? m->values[v].producer : NODE_NONE;
        if (p != NODE_NONE && m->nodes[p].op_type && node_is(&m->nodes[p], "DequantizeLinear"))
            return true;
    }
    return false;
}

static void add_verdicts(const struct model *m, uint32_t id, json_t *row)
{
    const struct node *n = &m->nodes[id];
    struct weight_ref ref = {.value = VALUE_NONE};
    const char *why = NULL, *no_quantize;
    if (!node_is_rewritable(m, id))
        why = "it belongs to a function that several places may call";
    else if (!node_class(m, n))
        why = "the operator is not known";
    else if (!product_weight(m, id, &ref, &why))
        why = "the operator is no product with a weight";
    else if (why && reads_dequantized(m, n))
        why = "its weight is already quantized";
    else if (!why && !dtype_is_float(ref.tensor->dtype))
        why = "its weight is not floating point";
    no_quantize = why ? why : ref.tensor->dtype == DTYPE_FLOAT ? NULL : "its weight is not float32";
    if (ref.value != VALUE_NONE) {
        const struct tensor *t = value_const(m, ref.value);
        json_object_set_new(row, "weight", inspect_text(m->values[ref.value].name));
        if (t) {
            json_object_set_new(row, "shape", shape_json(m, &t->shape));
            json_object_set_new(row, "dtype", json_string(dtype_name(t->dtype)));
        }
    }
    json_object_set_new(row, "prune", verdict(why));
    json_object_set_new(row, "quantize", verdict(no_quantize));
}

/* NULL for a node that neither holds parameters nor multiplies. */
static json_t *layer_row(const struct model *m, const struct plan *plan, uint32_t id)
{
    const struct node *n = &m->nodes[id];
    int64_t params = 0, bytes = 0, macs = plan ? plan_macs(plan, id) : -1;
    bool known = node_class(m, n) != NULL;
    for (int i = 0; i < n->n_input; i++) {
        const struct tensor *t = n->input[i] < m->n_values ? value_const(m, n->input[i]) : NULL;
        bool integer = t && dtype_is_integer(t->dtype) && dtype_bits(t->dtype) > 8;
        if (!t || t->shape.rank == 0 || integer)
            continue;
        params += tensor_count(t);
        bytes += (int64_t)t->bytes;
    }
    if (params == 0 && macs <= 0 && known)
        return NULL;
    char label[300];
    json_t *row = json_pack("{s:o, s:o}", "node", inspect_text(node_label(m, id, label, sizeof label)), "op_type",
                            inspect_text(n->op_type));
    add_verdicts(m, id, row);
    json_object_set_new(row, "params", json_integer(params));
    json_object_set_new(row, "bytes", json_integer(bytes));
    if (macs >= 0)
        json_object_set_new(row, "macs", json_integer(macs));
    return row;
}

json_t *inspect_layers_json(const struct model *m, const struct plan *plan)
{
    json_t *rows = json_array();
    for (uint32_t id = 0; id < m->n_nodes && json_array_size(rows) < INSPECT_MAX_ROWS; id++) {
        json_t *row = m->nodes[id].op_type ? layer_row(m, plan, id) : NULL;
        if (row)
            json_array_append_new(rows, row);
    }
    return json_pack("{s:o}", "data", rows);
}

/* ---- drawing ---- */

struct drawing {
    const struct model *m;
    json_t *nodes, *edges;
    json_int_t next_id;
};

static void draw_node(struct drawing *d, json_int_t id, const char *op_type, const char *name, const char *domain)
{
    json_t *o = json_pack("{s:I, s:o, s:o}", "id", id, "op_type", inspect_text(op_type), "name", inspect_text(name));
    if (domain && *domain)
        json_object_set_new(o, "domain", inspect_text(domain));
    json_array_append_new(d->nodes, o);
}

static void draw_edge(struct drawing *d, const json_int_t *made_by, uint32_t value, json_int_t to)
{
    const struct value *v = &d->m->values[value];
    if (made_by[value] < 0) /* a constant */
        return;
    json_t *o = json_pack("{s:I, s:I, s:o}", "from", made_by[value], "to", to, "value", inspect_text(v->name));
    if (v->type.kind == TYPE_TENSOR && v->type.dtype != DTYPE_NONE)
        json_object_set_new(o, "type", inspect_type_json(d->m, &v->type));
    json_array_append_new(d->edges, o);
}

json_t *inspect_graph_json(const struct model *m)
{
    const struct graph *g = model_main(m);
    struct drawing d = {m, json_array(), json_array(), (json_int_t)m->n_nodes};
    json_int_t *made_by = malloc(((size_t)m->n_values + 1) * sizeof *made_by);
    int shown = g->n_nodes < INSPECT_MAX_ROWS ? g->n_nodes : INSPECT_MAX_ROWS;
    char label[300];
    for (uint32_t v = 0; made_by && v < m->n_values; v++)
        made_by[v] = -1;
    for (int i = 0; made_by && i < g->n_inputs; i++) {
        uint32_t v = g->inputs[i].value;
        if (m->values[v].weight)
            continue;
        made_by[v] = d.next_id++;
        draw_node(&d, made_by[v], "Input", m->values[v].name, NULL);
    }
    for (int i = 0; made_by && i < shown; i++) {
        const struct node *n = &m->nodes[g->nodes[i]];
        draw_node(&d, g->nodes[i], n->op_type, node_label(m, g->nodes[i], label, sizeof label), n->domain);
        for (int o = 0; o < n->n_output; o++)
            if (n->output[o] < m->n_values)
                made_by[n->output[o]] = g->nodes[i];
    }
    for (int i = 0; made_by && i < shown; i++) {
        const struct node *n = &m->nodes[g->nodes[i]];
        for (int k = 0; k < n->n_input; k++)
            if (n->input[k] < m->n_values)
                draw_edge(&d, made_by, n->input[k], g->nodes[i]);
    }
    for (int i = 0; made_by && i < g->n_outputs; i++) {
        uint32_t v = g->outputs[i].value;
        draw_node(&d, d.next_id, "Output", m->values[v].name, NULL);
        draw_edge(&d, made_by, v, d.next_id++);
    }
    free(made_by);
    return json_pack("{s:o, s:o, s:b}", "nodes", d.nodes, "edges", d.edges, "truncated", shown < g->n_nodes);
}
