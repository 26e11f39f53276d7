/* SPDX-License-Identifier: Apache-2.0
 * Changes to a model. Lists of a graph are edited in place (they belong to this model alone, see model_clone.c). */
#include <stdlib.h>
#include <string.h>

#include "core/model/model.h"

static void remove_id(uint32_t *ids, int *count, uint32_t id)
{
    int kept = 0;
    for (int i = 0; i < *count; i++)
        if (ids[i] != id)
            ids[kept++] = ids[i];
    *count = kept;
}

void model_move_node(struct model *m, uint32_t node, uint32_t anchor, bool after)
{
    struct graph *g = &m->graphs[m->nodes[node].graph];
    if (node == anchor || m->nodes[anchor].graph != m->nodes[node].graph)
        return;
    int count = g->n_nodes;
    remove_id(g->nodes, &g->n_nodes, node);
    if (g->n_nodes == count)
        return;
    int at = 0;
    while (at < g->n_nodes && g->nodes[at] != anchor)
        at++;
    at += after && at < g->n_nodes;
    memmove(g->nodes + at + 1, g->nodes + at, (size_t)(g->n_nodes - at) * sizeof *g->nodes);
    g->nodes[at] = node;
    g->n_nodes++;
}

static void remove_nodes_of(struct model *m, uint32_t graph);

static void remove_attr_graphs(struct model *m, const struct attr *a)
{
    if (a->type != ATTR_GRAPH && a->type != ATTR_GRAPHS)
        return;
    for (int i = 0; i < a->count; i++)
        remove_nodes_of(m, a->graphs[i]);
}

/* The node's row dies, and with it what its nested graphs hold. */
static void kill_node(struct model *m, uint32_t node)
{
    struct node *n = &m->nodes[node];
    n->op_type = NULL;
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && m->values[n->output[i]].producer == node)
            m->values[n->output[i]].producer = NODE_NONE;
    for (int i = 0; i < n->n_attr; i++)
        remove_attr_graphs(m, &n->attr[i]);
}

/* Nesting is at most as deep as the reader allows (64 messages, a third of it graphs), so recursion is safe. */
static void remove_nodes_of(struct model *m, uint32_t graph)
{
    struct graph *g = &m->graphs[graph];
    for (int i = 0; i < g->n_nodes; i++)
        kill_node(m, g->nodes[i]);
    g->n_nodes = g->n_inputs = g->n_outputs = g->n_infos = g->n_initializers = 0;
    for (uint32_t v = 0; v < m->n_values; v++)
        if (m->values[v].graph == graph)
            m->values[v].name = NULL;
}

void model_remove_node(struct model *m, uint32_t node)
{
    struct graph *g = &m->graphs[m->nodes[node].graph];
    if (!m->nodes[node].op_type)
        return;
    remove_id(g->nodes, &g->n_nodes, node);
    kill_node(m, node);
}

static void remove_infos(struct value_info *list, int *count, uint32_t value)
{
    int kept = 0;
    for (int i = 0; i < *count; i++)
        if (list[i].value != value)
            list[kept++] = list[i];
    *count = kept;
}

void model_remove_value(struct model *m, uint32_t value)
{
    struct value *v = &m->values[value];
    struct graph *g = &m->graphs[v->graph];
    remove_id(g->initializers, &g->n_initializers, value);
    remove_infos(g->infos, &g->n_infos, value);
    if (v->weight) {
        remove_infos(g->inputs, &g->n_inputs, value); /* IR 3 lists initializers there too */
        tensor_fini(&v->weight->tensor);
        v->weight = NULL;
    }
    v->name = NULL;
}

/* --- attributes --- */

/* The attribute called `name`, made if absent, emptied of its payload; NULL when memory is out. */
static struct attr *attr_slot(struct model *m, uint32_t node, const char *name)
{
    struct node *n = &m->nodes[node];
    struct attr *slot = NULL;
    for (int i = 0; i < n->n_attr && !slot; i++)
        if (n->attr[i].name && !strcmp(n->attr[i].name, name))
            slot = &n->attr[i];
    if (!slot) {
        const char *own = model_strdup(m, name);
        struct attr *grown = model_alloc(m, (size_t)n->n_attr + 1, sizeof *grown);
        if (!own || !grown)
            return NULL;
        if (n->n_attr)
            memcpy(grown, n->attr, (size_t)n->n_attr * sizeof *grown);
        n->attr = grown;
        slot = &grown[n->n_attr++];
        slot->name = own;
    }
    remove_attr_graphs(m, slot);
    *slot = (struct attr){.name = slot->name, .doc = slot->doc, .has_type = true};
    return slot;
}

static void set_payload(struct attr *a, enum attr_type type, void *payload, int count)
{
    a->type = type;
    a->count = count;
    a->ints = payload;
}

void node_set_int(struct model *m, uint32_t node, const char *name, int64_t v)
{
    int64_t *own = model_alloc(m, 1, sizeof *own);
    struct attr *a = own ? attr_slot(m, node, name) : NULL;
    if (!a)
        return;
    *own = v;
    set_payload(a, ATTR_INT, own, 1);
}

void node_set_ints(struct model *m, uint32_t node, const char *name, const int64_t *v, int count)
{
    int64_t *own = model_alloc(m, (size_t)count, sizeof *own);
    struct attr *a = own ? attr_slot(m, node, name) : NULL;
    if (!a)
        return;
    if (count)
        memcpy(own, v, (size_t)count * sizeof *own);
    set_payload(a, ATTR_INTS, own, count);
}

void node_set_float(struct model *m, uint32_t node, const char *name, float v)
{
    float *own = model_alloc(m, 1, sizeof *own);
    struct attr *a = own ? attr_slot(m, node, name) : NULL;
    if (!a)
        return;
    *own = v;
    set_payload(a, ATTR_FLOAT, own, 1);
}

void node_set_string(struct model *m, uint32_t node, const char *name, const char *v)
{
    struct attr_string *own = model_alloc(m, 1, sizeof *own);
    const char *text = model_strdup(m, v);
    struct attr *a = own && text ? attr_slot(m, node, name) : NULL;
    if (!a)
        return;
    *own = (struct attr_string){text, strlen(text)};
    set_payload(a, ATTR_STRING, own, 1);
}

void node_remove_attr(struct model *m, uint32_t node, const char *name)
{
    struct node *n = &m->nodes[node];
    int kept = 0;
    for (int i = 0; i < n->n_attr; i++) {
        if (n->attr[i].name && !strcmp(n->attr[i].name, name))
            remove_attr_graphs(m, &n->attr[i]);
        else
            n->attr[kept++] = n->attr[i];
    }
    n->n_attr = kept;
}

/* --- values --- */

int node_set_input(struct model *m, uint32_t node, int slot, uint32_t value)
{
    struct node *n = &m->nodes[node];
    if (slot >= n->n_input) {
        uint32_t *grown = model_alloc(m, (size_t)slot + 1, sizeof *grown);
        if (!grown)
            return -1;
        if (n->n_input)
            memcpy(grown, n->input, (size_t)n->n_input * sizeof *grown);
        for (int i = n->n_input; i < slot; i++)
            grown[i] = VALUE_NONE;
        n->input = grown;
        n->n_input = slot + 1;
    }
    n->input[slot] = value;
    return 0;
}

struct type type_tensor(enum dtype dtype, const struct shape *shape)
{
    return (struct type){
        .kind = TYPE_TENSOR, .dtype = dtype, .has_dtype = true, .has_shape = shape->rank >= 0, .shape = *shape};
}

static void redeclare(struct value_info *list, int count, uint32_t value, const struct type *type)
{
    for (int i = 0; i < count; i++)
        if (list[i].value == value && list[i].has_type)
            list[i].type = *type;
}

static void weight_replace(struct weight *w, const struct tensor *t)
{
    struct tensor old = w->tensor; /* t may be the same bytes */
    w->tensor = (struct tensor){0};
    tensor_ref(&w->tensor, t);
    tensor_fini(&old);
    w->storage = STORAGE_RAW;
    w->external = (struct entries){0};
    w->has_location = false;
    w->typed = w->opaque = (struct bytes){0};
    w->typed_of = NULL;
}

int value_set_weight(struct model *m, uint32_t value, const struct tensor *t)
{
    struct value *v = &m->values[value];
    struct weight *w = v->weight;
    if (!w && v->producer != NODE_NONE) {
        const struct attr *a = node_attr(&m->nodes[v->producer], "value");
        if (a && a->type == ATTR_TENSOR && a->count == 1)
            w = a->tensors[0];
    }
    if (!w)
        return -1;
    weight_replace(w, t);
    v->type = type_tensor(t->dtype, &t->shape);
    for (uint32_t g = 0; g < m->n_graphs; g++) {
        struct graph *graph = &m->graphs[g];
        redeclare(graph->inputs, graph->n_inputs, value, &v->type);
        redeclare(graph->outputs, graph->n_outputs, value, &v->type);
        redeclare(graph->infos, graph->n_infos, value, &v->type);
    }
    return 0;
}

void model_replace_uses(struct model *m, uint32_t from, uint32_t to, bool outputs)
{
    for (uint32_t n = 0; n < m->n_nodes; n++)
        for (int i = 0; m->nodes[n].op_type && i < m->nodes[n].n_input; i++)
            if (m->nodes[n].input[i] == from)
                m->nodes[n].input[i] = to;
    for (uint32_t g = 0; outputs && g < m->n_graphs; g++)
        for (int i = 0; i < m->graphs[g].n_outputs; i++)
            if (m->graphs[g].outputs[i].value == from)
                m->graphs[g].outputs[i].value = to;
}

void value_set_note(struct model *m, uint32_t value, const char *key, const char *text, const struct tensor *t)
{
    struct note *note = m->values[value].notes;
    while (note && strcmp(note->key, key))
        note = note->next;
    const char *own = model_strdup(m, text);
    if (text && !own)
        return;
    if (!note) {
        note = model_alloc(m, 1, sizeof *note);
        if (!note)
            return;
        note->key = key;
        note->next = m->values[value].notes;
        m->values[value].notes = note;
    }
    struct tensor old = note->tensor;
    note->text = own;
    note->tensor = (struct tensor){0};
    if (t)
        tensor_ref(&note->tensor, t);
    tensor_fini(&old);
}

const struct note *value_note(const struct model *m, uint32_t value, const char *key)
{
    for (const struct note *n = m->values[value].notes; n; n = n->next)
        if (!strcmp(n->key, key))
            return n;
    return NULL;
}

void value_move_notes(struct model *m, uint32_t from, uint32_t to)
{
    if (from == to)
        return;
    struct note **end = &m->values[from].notes;
    while (*end) {
        struct note *note = *end;
        if (value_note(m, to, note->key)) { /* what the target already says stays */
            end = &note->next;
            continue;
        }
        *end = note->next;
        note->next = m->values[to].notes;
        m->values[to].notes = note;
    }
}

/* --- model-wide facts --- */

void model_set_opset(struct model *m, const char *domain, int64_t version)
{
    bool found = false;
    for (int i = 0; i < m->n_opsets; i++) {
        const char *have = m->opsets[i].domain;
        if (model_domain_is_default(have) ? !model_domain_is_default(domain) : !domain || strcmp(have, domain) != 0)
            continue;
        m->opsets[i].version = version;
        m->opsets[i].has_version = found = true;
    }
    if (found)
        return;
    struct opset *grown = model_alloc(m, (size_t)m->n_opsets + 1, sizeof *grown);
    const char *own = model_strdup(m, domain ? domain : "");
    if (!grown || !own)
        return;
    if (m->n_opsets)
        memcpy(grown, m->opsets, (size_t)m->n_opsets * sizeof *grown);
    grown[m->n_opsets++] = (struct opset){.domain = own, .version = version, .has_version = true};
    m->opsets = grown;
}

void model_set_metadata(struct model *m, const char *key, const char *value)
{
    const char *own = model_strdup(m, value);
    if (!own)
        return;
    for (int i = 0; i < m->metadata.count; i++)
        if (m->metadata.at[i].key && !strcmp(m->metadata.at[i].key, key)) {
            m->metadata.at[i].value = own;
            return;
        }
    struct entry *grown = model_alloc(m, (size_t)m->metadata.count + 1, sizeof *grown);
    const char *own_key = model_strdup(m, key);
    if (!grown || !own_key)
        return;
    if (m->metadata.count)
        memcpy(grown, m->metadata.at, (size_t)m->metadata.count * sizeof *grown);
    grown[m->metadata.count++] = (struct entry){.key = own_key, .value = own};
    m->metadata.at = grown;
}
