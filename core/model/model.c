/* SPDX-License-Identifier: Apache-2.0
 * Life cycle and tables of a model. The three tables (values, nodes, graphs) grow by doubling inside the arena: the old
 * copies stay behind until the model goes, at most as much again as the last one. Ids are positions, so they never
 * move. */
#include "core/model/model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/model/model_names.h"

struct model *model_new(void)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->arena = arena_new();
    m->names = name_index_new();
    if (!m->arena || !m->names || model_add_graph(m, GRAPH_NONE, NODE_NONE) == GRAPH_NONE) {
        model_free(m);
        return NULL;
    }
    return m;
}

void model_free(struct model *m)
{
    if (!m)
        return;
    for (struct weight *w = m->owned; w; w = w->next_owned)
        tensor_fini(&w->tensor);
    for (uint32_t v = 0; v < m->n_values; v++)
        for (struct note *n = m->values[v].notes; n; n = n->next)
            tensor_fini(&n->tensor);
    for (int i = 0; i < m->n_files; i++)
        tbuf_unref(m->files[i]);
    name_index_free(m->names);
    arena_free(m->arena);
    free(m);
}

void *model_alloc(struct model *m, size_t count, size_t size)
{
    return arena_calloc(m->arena, count, size);
}

const char *model_strdup(struct model *m, const char *text)
{
    return arena_strdup(m->arena, text);
}

const char *model_printf(struct model *m, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : arena_alloc(m->arena, (size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

struct weight *model_new_weight(struct model *m)
{
    struct weight *w = model_alloc(m, 1, sizeof *w);
    if (w) {
        w->next_owned = m->owned;
        m->owned = w;
    }
    return w;
}

int model_keep_file(struct model *m, struct tbuf *file)
{
    struct tbuf **files = model_alloc(m, (size_t)m->n_files + 1, sizeof *files);
    if (!files) {
        tbuf_unref(file);
        return -1;
    }
    if (m->n_files)
        memcpy(files, m->files, (size_t)m->n_files * sizeof *files);
    files[m->n_files++] = file;
    m->files = files;
    return 0;
}

/* Room for one more row of `size` bytes; the table may move. */
static void *table_room(struct model *m, void *table, uint32_t used, uint32_t *cap, size_t size)
{
    if (used < *cap)
        return table;
    if (*cap > (ID_NONE - 1) / 2)
        return NULL;
    uint32_t grown = *cap ? *cap * 2 : 16;
    void *moved = model_alloc(m, grown, size);
    if (!moved)
        return NULL;
    if (used)
        memcpy(moved, table, used * size);
    *cap = grown;
    return moved;
}

uint32_t model_add_graph(struct model *m, uint32_t parent, uint32_t parent_node)
{
    struct graph *graphs = table_room(m, m->graphs, m->n_graphs, &m->cap_graphs, sizeof *graphs);
    if (!graphs)
        return GRAPH_NONE;
    m->graphs = graphs;
    graphs[m->n_graphs] = (struct graph){.parent = parent, .parent_node = parent_node};
    return m->n_graphs++;
}

static const char *unique_name(struct model *m, const char *name)
{
    if (name_index_find(m->names, m, GRAPH_NONE, name) == VALUE_NONE)
        return model_strdup(m, name);
    for (uint32_t i = 1;; i++) {
        char suffix[16];
        snprintf(suffix, sizeof suffix, "_%u", (unsigned)i);
        struct {
            size_t stem, tail;
        } len = {strlen(name), strlen(suffix)};
        char *candidate = model_alloc(m, len.stem + len.tail + 1, 1);
        if (!candidate)
            return NULL;
        memcpy(candidate, name, len.stem);
        memcpy(candidate + len.stem, suffix, len.tail);
        if (name_index_find(m->names, m, GRAPH_NONE, candidate) == VALUE_NONE)
            return candidate;
    }
}

uint32_t model_add_value(struct model *m, uint32_t graph, const char *name, bool unique)
{
    struct value *values = table_room(m, m->values, m->n_values, &m->cap_values, sizeof *values);
    const char *own = unique ? unique_name(m, name) : model_strdup(m, name);
    if (!values || !own || name_index_add(m->names, own, m->n_values))
        return VALUE_NONE;
    m->values = values;
    values[m->n_values] = (struct value){.name = own, .graph = graph, .producer = NODE_NONE};
    return m->n_values++;
}

int model_rename_value(struct model *m, uint32_t value, const char *name)
{
    const char *own = model_strdup(m, name);
    if (!own || name_index_add(m->names, own, value))
        return -1;
    m->values[value].name = own;
    return 0;
}

uint32_t model_add_weight(struct model *m, uint32_t graph, const char *name, const struct tensor *t)
{
    struct weight *w = model_new_weight(m);
    uint32_t v = w ? model_add_value(m, graph, name, true) : VALUE_NONE;
    if (v == VALUE_NONE)
        return VALUE_NONE;
    struct graph *g = &m->graphs[graph];
    if (g->n_initializers >= g->cap_initializers) {
        int cap = g->n_initializers * 2 + 8;
        uint32_t *grown = model_alloc(m, (size_t)cap, sizeof *grown);
        if (!grown) {
            m->values[v].name = NULL;
            return VALUE_NONE;
        }
        if (g->n_initializers)
            memcpy(grown, g->initializers, (size_t)g->n_initializers * sizeof *grown);
        g->initializers = grown;
        g->cap_initializers = cap;
    }
    g->initializers[g->n_initializers++] = v;
    tensor_ref(&w->tensor, t);
    m->values[v].weight = w;
    m->values[v].type = type_tensor(t->dtype, &t->shape);
    return v;
}

static bool add_to_graph(struct model *m, struct graph *g, uint32_t node)
{
    if (g->n_nodes >= g->cap_nodes) {
        int cap = g->n_nodes * 2 + 8;
        uint32_t *grown = model_alloc(m, (size_t)cap, sizeof *grown);
        if (!grown)
            return false;
        if (g->n_nodes)
            memcpy(grown, g->nodes, (size_t)g->n_nodes * sizeof *grown);
        g->nodes = grown;
        g->cap_nodes = cap;
    }
    g->nodes[g->n_nodes++] = node;
    return true;
}

uint32_t model_add_node(struct model *m, uint32_t graph, const char *op_type, const char *domain, const char *name,
                        const uint32_t *in, int n_in, const uint32_t *out, int n_out)
{
    struct node *nodes = table_room(m, m->nodes, m->n_nodes, &m->cap_nodes, sizeof *nodes);
    if (!nodes)
        return NODE_NONE;
    m->nodes = nodes;
    struct node node = {.op_type = model_strdup(m, op_type),
                        .domain = model_strdup(m, domain),
                        .name = model_strdup(m, name),
                        .graph = graph,
                        .input = model_alloc(m, (size_t)n_in, sizeof(uint32_t)),
                        .output = model_alloc(m, (size_t)n_out, sizeof(uint32_t)),
                        .n_input = n_in,
                        .n_output = n_out};
    uint32_t id = m->n_nodes;
    if (!node.op_type || (domain && !node.domain) || (name && !node.name) || !node.input || !node.output ||
        !add_to_graph(m, &m->graphs[graph], id))
        return NODE_NONE;
    if (n_in)
        memcpy(node.input, in, (size_t)n_in * sizeof *in);
    if (n_out)
        memcpy(node.output, out, (size_t)n_out * sizeof *out);
    for (int i = 0; i < n_out; i++)
        if (out[i] != VALUE_NONE) {
            m->values[out[i]].producer = id;
            m->values[out[i]].slot = i;
        }
    nodes[id] = node;
    m->n_nodes++;
    return id;
}

int model_symbol(struct model *m, const char *name)
{
    for (int i = 0; i < m->n_symbols; i++)
        if (!strcmp(m->symbols[i], name))
            return i;
    const char *own = model_strdup(m, name);
    const char **grown = m->symbols;
    if ((m->n_symbols & (m->n_symbols - 1)) == 0) { /* capacity is the next power of two */
        grown = model_alloc(m, (size_t)m->n_symbols * 2 + 1, sizeof *grown);
        if (grown && m->n_symbols)
            memcpy(grown, m->symbols, (size_t)m->n_symbols * sizeof *grown);
    }
    if (!own || !grown)
        return -1;
    m->symbols = grown;
    m->symbols[m->n_symbols] = own;
    return m->n_symbols++;
}
