/* SPDX-License-Identifier: Apache-2.0
 * edit.c - the index of readers (edit.h). Lists are unordered: removing swaps in the last, so a change costs as much as
 * the list is long. Values and nodes die lazily (edit_finish sweeps), so no change searches a graph's tables. */
#include "core/passes/edit.h"

#include <stdlib.h>
#include <string.h>

static bool room(struct edit *e)
{
    if (e->m->n_values <= e->n)
        return true;
    uint32_t n = e->m->n_values + e->m->n_values / 2 + 16;
    struct reader_list *grown = realloc(e->lists, n * sizeof *grown);
    if (!grown) {
        e->failed = true;
        return false;
    }
    memset(grown + e->n, 0, (n - e->n) * sizeof *grown);
    e->lists = grown;
    e->n = n;
    return true;
}

static void add_reader(struct edit *e, uint32_t value, struct reader r)
{
    if (value == VALUE_NONE || value >= e->m->n_values || !room(e))
        return;
    struct reader_list *l = &e->lists[value];
    if (l->count == l->cap) {
        int cap = l->cap ? l->cap * 2 : 2;
        struct reader *grown = realloc(l->at, (size_t)cap * sizeof *grown);
        if (!grown) {
            e->failed = true;
            return;
        }
        l->at = grown;
        l->cap = cap;
    }
    l->at[l->count++] = r;
}

static void drop_reader(struct edit *e, uint32_t value, uint32_t node, int slot)
{
    if (value == VALUE_NONE || value >= e->n)
        return;
    struct reader_list *l = &e->lists[value];
    for (int i = 0; i < l->count; i++)
        if (l->at[i].node == node && l->at[i].slot == slot) {
            l->at[i] = l->at[--l->count];
            return;
        }
}

static void index_graph(struct edit *e, uint32_t graph)
{
    struct graph *g = &e->m->graphs[graph];
    if (e->state[graph] == EDIT_LIVE)
        return;
    e->state[graph] = EDIT_LIVE;
    for (int i = 0; i < g->n_outputs; i++)
        add_reader(e, g->outputs[i].value, (struct reader){NODE_NONE, i, graph});
    for (int k = 0; k < g->n_nodes; k++) {
        struct node *n = &e->m->nodes[g->nodes[k]];
        if (!n->op_type)
            continue;
        for (int i = 0; i < n->n_input; i++)
            add_reader(e, n->input[i], (struct reader){g->nodes[k], i, graph});
        for (int a = 0; a < n->n_attr; a++)
            for (int i = 0; (n->attr[a].type == ATTR_GRAPH || n->attr[a].type == ATTR_GRAPHS) && i < n->attr[a].count;
                 i++)
                if (n->attr[a].graphs[i] < e->n_graphs)
                    index_graph(e, n->attr[a].graphs[i]);
    }
}

int edit_init(struct edit *e, struct model *m, struct err *err)
{
    *e = (struct edit){.m = m, .n_graphs = m->n_graphs};
    e->state = calloc(m->n_graphs ? m->n_graphs : 1, sizeof *e->state);
    if (e->state && room(e))
        index_graph(e, 0);
    if (!e->state || e->failed) {
        edit_fini(e);
        return err_set(err, ERR_NOMEM, "out of memory while indexing the model");
    }
    return 0;
}

void edit_fini(struct edit *e)
{
    for (uint32_t v = 0; v < e->n; v++)
        free(e->lists[v].at);
    free(e->lists);
    free(e->state);
    *e = (struct edit){0};
}

const struct reader_list *edit_readers(struct edit *e, uint32_t value)
{
    static const struct reader_list none;
    return value < e->n ? &e->lists[value] : &none;
}

bool edit_is_output(struct edit *e, uint32_t value)
{
    const struct reader_list *l = edit_readers(e, value);
    for (int i = 0; i < l->count; i++)
        if (l->at[i].node == NODE_NONE)
            return true;
    return false;
}

uint32_t edit_only_reader(struct edit *e, uint32_t value)
{
    const struct reader_list *l = edit_readers(e, value);
    if (l->count != 1 || l->at[0].node == NODE_NONE)
        return NODE_NONE;
    return e->m->nodes[l->at[0].node].graph == e->m->values[value].graph ? l->at[0].node : NODE_NONE;
}

bool edit_node_is_live(const struct edit *e, uint32_t node)
{
    if (node >= e->m->n_nodes || !e->m->nodes[node].op_type)
        return false;
    uint32_t g = e->m->nodes[node].graph;
    return g < e->n_graphs && e->state[g] == EDIT_LIVE;
}

uint32_t edit_producer(const struct edit *e, uint32_t value, const char *op_type)
{
    if (value == VALUE_NONE || value >= e->m->n_values)
        return NODE_NONE;
    uint32_t p = e->m->values[value].producer;
    if (p == NODE_NONE || !edit_node_is_live(e, p))
        return NODE_NONE;
    return !op_type || node_is(&e->m->nodes[p], op_type) ? p : NODE_NONE;
}

void edit_set_input(struct edit *e, uint32_t node, int slot, uint32_t value)
{
    struct node *n = &e->m->nodes[node];
    if (slot < n->n_input) {
        drop_reader(e, n->input[slot], node, slot);
        n->input[slot] = value;
    } else if (node_set_input(e->m, node, slot, value)) {
        e->failed = true;
        return;
    }
    add_reader(e, value, (struct reader){node, slot, e->m->nodes[node].graph});
}

void edit_cut_inputs(struct edit *e, uint32_t node, int count)
{
    struct node *n = &e->m->nodes[node];
    for (int i = count; i < n->n_input; i++)
        drop_reader(e, n->input[i], node, i);
    if (count < n->n_input)
        n->n_input = count;
}

void edit_replace_reads(struct edit *e, uint32_t from, uint32_t to)
{
    if (from == to || from >= e->n)
        return;
    struct reader_list old = e->lists[from];
    e->lists[from] = (struct reader_list){0};
    for (int i = 0; i < old.count; i++) {
        struct reader r = old.at[i];
        if (r.node == NODE_NONE) {
            add_reader(e, from, r);
        } else {
            e->m->nodes[r.node].input[r.slot] = to;
            add_reader(e, to, r);
        }
    }
    free(old.at);
}

void edit_move_output(struct edit *e, uint32_t value, uint32_t to, int slot)
{
    struct value *v = &e->m->values[value];
    if (v->producer != NODE_NONE && v->producer != to) {
        struct node *p = &e->m->nodes[v->producer];
        if (v->slot < p->n_output && p->output[v->slot] == value)
            p->output[v->slot] = VALUE_NONE;
    }
    uint32_t old = e->m->nodes[to].output[slot];
    if (old != VALUE_NONE && old != value)
        e->m->values[old].producer = NODE_NONE;
    e->m->nodes[to].output[slot] = value;
    v->producer = to;
    v->slot = slot;
}

bool edit_bypass(struct edit *e, uint32_t node, uint32_t in, uint32_t out)
{
    struct model *m = e->m;
    if (in == VALUE_NONE || in == out)
        return false;
    if (edit_is_output(e, out)) {
        uint32_t p = m->values[in].producer;
        if (p == NODE_NONE || m->values[in].graph != m->values[out].graph || edit_is_output(e, in))
            return false;
        int slot = m->values[in].slot;
        edit_remove_node(e, node);
        edit_move_output(e, out, p, slot);
        edit_replace_reads(e, in, out);
        value_move_notes(m, in, out);
        return true;
    }
    edit_remove_node(e, node);
    edit_replace_reads(e, out, in);
    value_move_notes(m, out, in);
    return true;
}

static void remove_graph(struct edit *e, uint32_t graph)
{
    if (graph >= e->n_graphs || e->state[graph] != EDIT_LIVE)
        return;
    struct graph *g = &e->m->graphs[graph];
    e->state[graph] = EDIT_REMOVED;
    for (int i = 0; i < g->n_outputs; i++) {
        struct reader_list *l = g->outputs[i].value < e->n ? &e->lists[g->outputs[i].value] : NULL;
        for (int k = 0; l && k < l->count; k++)
            if (l->at[k].node == NODE_NONE && l->at[k].graph == graph && l->at[k].slot == i)
                l->at[k] = l->at[--l->count];
    }
    for (int k = 0; k < g->n_nodes; k++)
        if (e->m->nodes[g->nodes[k]].op_type)
            edit_remove_node(e, g->nodes[k]);
    g->n_inputs = g->n_outputs = g->n_infos = g->n_nodes = g->n_initializers = 0;
}

void edit_remove_node(struct edit *e, uint32_t node)
{
    struct node *n = &e->m->nodes[node];
    if (!n->op_type)
        return;
    for (int i = 0; i < n->n_input; i++)
        drop_reader(e, n->input[i], node, i);
    for (int a = 0; a < n->n_attr; a++)
        for (int i = 0; (n->attr[a].type == ATTR_GRAPH || n->attr[a].type == ATTR_GRAPHS) && i < n->attr[a].count; i++)
            remove_graph(e, n->attr[a].graphs[i]);
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && e->m->values[n->output[i]].producer == node)
            e->m->values[n->output[i]].producer = NODE_NONE;
    n->op_type = NULL; /* edit_finish takes it out of its graph's list */
}

uint32_t edit_add_value(struct edit *e, uint32_t graph, const char *name)
{
    uint32_t v = model_add_value(e->m, graph, name, true);
    if (v == ID_NONE)
        e->failed = true;
    else
        room(e);
    return v;
}

uint32_t edit_add_node(struct edit *e, uint32_t graph, const char *op_type, const char *name, const uint32_t *in,
                       int n_in, const uint32_t *out, int n_out)
{
    uint32_t id = model_add_node(e->m, graph, op_type, NULL, name, in, n_in, out, n_out);
    if (id == ID_NONE) {
        e->failed = true;
        return id;
    }
    for (int i = 0; i < n_in; i++)
        add_reader(e, in[i], (struct reader){id, i, graph});
    return id;
}

/* Room for one more declared input, in the arena. */
static bool declare_input(struct model *m, uint32_t graph, uint32_t value, const struct tensor *t)
{
    struct graph *g = &m->graphs[graph];
    struct value_info *grown = model_alloc(m, (size_t)g->n_inputs + 1, sizeof *grown);
    if (!grown)
        return false;
    if (g->n_inputs)
        memcpy(grown, g->inputs, (size_t)g->n_inputs * sizeof *grown);
    grown[g->n_inputs] = (struct value_info){.value = value, .has_type = true};
    grown[g->n_inputs].type =
        (struct type){.kind = TYPE_TENSOR, .dtype = t->dtype, .has_dtype = true, .has_shape = true, .shape = t->shape};
    g->inputs = grown;
    g->n_inputs++;
    return true;
}

uint32_t edit_add_weight(struct edit *e, uint32_t graph, const char *name, const struct tensor *t)
{
    uint32_t v = model_add_weight(e->m, graph, name, t);
    if (v == ID_NONE ||
        (e->m->has_ir_version && e->m->ir_version < 4 && graph == 0 && !declare_input(e->m, graph, v, t)))
        e->failed = true;
    else
        room(e);
    return v;
}

uint32_t edit_add_ints(struct edit *e, uint32_t graph, const char *name, const int64_t *v, int count)
{
    struct tensor t = {0};
    uint32_t id = ID_NONE;
    if (tensor_alloc(&t, DTYPE_INT64, &SHAPE(count), NULL) == 0) {
        if (count)
            memcpy(t.data, v, (size_t)count * sizeof *v);
        id = edit_add_weight(e, graph, name, &t);
    } else
        e->failed = true;
    tensor_fini(&t);
    return id;
}

/* A value stays if it is read, made by a live node, an output, or an input that a caller feeds. */
static void sweep_graph(struct edit *e, uint32_t graph, const bool *keep)
{
    struct model *m = e->m;
    struct graph *g = &m->graphs[graph];
    int k = 0;
    for (int i = 0; i < g->n_nodes; i++)
        if (m->nodes[g->nodes[i]].op_type)
            g->nodes[k++] = g->nodes[i];
    g->n_nodes = k;
    k = 0;
    for (int i = 0; i < g->n_inputs; i++)
        if (keep[g->inputs[i].value])
            g->inputs[k++] = g->inputs[i];
    g->n_inputs = k;
    k = 0;
    for (int i = 0; i < g->n_infos; i++)
        if (keep[g->infos[i].value])
            g->infos[k++] = g->infos[i];
    g->n_infos = k;
    k = 0;
    for (int i = 0; i < g->n_initializers; i++)
        if (keep[g->initializers[i]])
            g->initializers[k++] = g->initializers[i];
    g->n_initializers = k;
}

static void mark_kept(struct edit *e, bool *keep)
{
    struct model *m = e->m;
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct value *x = &m->values[v];
        enum edit_graph state = x->graph < e->n_graphs ? e->state[x->graph] : EDIT_FOREIGN;
        bool made = x->producer != NODE_NONE && m->nodes[x->producer].op_type;
        keep[v] = x->name && (state == EDIT_FOREIGN || (state == EDIT_LIVE && (made || edit_count(e, v) > 0)));
    }
    for (uint32_t gi = 0; gi < e->n_graphs; gi++)
        for (int i = 0; i < m->graphs[gi].n_inputs; i++) {
            uint32_t v = m->graphs[gi].inputs[i].value;
            if (!m->values[v].weight)
                keep[v] = true; /* fed by the caller, used or not */
        }
}

int edit_finish(struct edit *e, struct err *err)
{
    struct model *m = e->m;
    bool *keep = calloc(m->n_values ? m->n_values : 1, sizeof *keep);
    uint32_t *order = calloc(m->n_nodes ? m->n_nodes : 1, sizeof *order);
    int rc = -1;
    if (!keep || !order || e->failed) {
        err_set(err, ERR_NOMEM, "out of memory while rewriting the model");
        goto out;
    }
    mark_kept(e, keep);
    for (uint32_t g = 0; g < e->n_graphs; g++)
        if (e->state[g] == EDIT_LIVE)
            sweep_graph(e, g, keep);
    for (uint32_t v = 0; v < m->n_values; v++) {
        struct value *x = &m->values[v];
        if (keep[v] || !x->name)
            continue;
        if (x->weight)
            tensor_fini(&x->weight->tensor);
        x->weight = NULL;
        x->name = NULL;
    }
    for (uint32_t g = 0; g < e->n_graphs; g++) {
        if (e->state[g] != EDIT_LIVE)
            continue;
        if (model_toposort(m, g, order, err))
            goto out;
        if (m->graphs[g].n_nodes)
            memcpy(m->graphs[g].nodes, order, (size_t)m->graphs[g].n_nodes * sizeof *order);
    }
    rc = 0;
out:
    free(keep);
    free(order);
    return rc;
}
