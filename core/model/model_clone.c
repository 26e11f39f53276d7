/* SPDX-License-Identifier: Apache-2.0
 * A deep copy of everything but the bytes of weights: tables, lists, strings. The clone has an arena of its own, so
 * either model may go first. Weights and the mappings they lie in are shared by reference. The copy is one pass of
 * small functions, each of which replaces the pointers inside a row that was copied flat. A failed allocation sets
 * `failed` and leaves NULL with a count of 0; the half-made clone is freed at the end. */
#include <string.h>

#include "core/model/model.h"
#include "core/model/model_names.h"

struct clone {
    struct model *to;
    bool failed;
};

static void *dup_array(struct clone *c, const void *from, size_t count, size_t size)
{
    if (!from)
        return NULL;
    void *copy = model_alloc(c->to, count, size);
    if (!copy)
        c->failed = true;
    else if (count)
        memcpy(copy, from, count * size);
    return copy;
}

static const char *dup_text(struct clone *c, const char *text)
{
    return text ? dup_array(c, text, strlen(text) + 1, 1) : NULL;
}

static void fix_text(struct clone *c, const char **text)
{
    *text = dup_text(c, *text);
}

static void fix_bytes(struct clone *c, struct bytes *b)
{
    b->data = dup_array(c, b->data, b->len, 1);
}

/* Copy an array and give the caller the rows to fix; 0 rows when memory is out. */
#define FIX_ROWS(c, pointer, count, row)                                                                               \
    pointer = dup_array(c, pointer, (size_t)(count), sizeof *(pointer));                                               \
    for (int row = 0; pointer && row < (int)(count); row++)

static void fix_entries(struct clone *c, struct entries *e)
{
    FIX_ROWS(c, e->at, e->count, i)
    {
        fix_text(c, &e->at[i].key);
        fix_text(c, &e->at[i].value);
        fix_bytes(c, &e->at[i].unknown);
    }
}

static void fix_texts(struct clone *c, const char ***texts, int count)
{
    FIX_ROWS(c, *texts, count, i) fix_text(c, &(*texts)[i]);
}

static void fix_type(struct clone *c, struct type *t)
{
    if (t->dim_denotation && t->shape.rank > 0)
        fix_texts(c, &t->dim_denotation, t->shape.rank);
    fix_text(c, &t->denotation);
    fix_bytes(c, &t->opaque);
    fix_bytes(c, &t->unknown);
    t->inner = dup_array(c, t->inner, 1, sizeof *t->inner);
    if (t->inner)
        fix_type(c, t->inner);
}

static struct weight *copy_weight(struct clone *c, const struct weight *from)
{
    if (!from)
        return NULL;
    struct weight *w = model_new_weight(c->to);
    if (!w) {
        c->failed = true;
        return NULL;
    }
    struct weight *next = w->next_owned;
    *w = *from;
    w->next_owned = next;
    w->tensor = (struct tensor){0};
    tensor_ref(&w->tensor, &from->tensor);
    fix_text(c, &w->name);
    fix_text(c, &w->doc);
    fix_entries(c, &w->external);
    fix_entries(c, &w->metadata);
    fix_bytes(c, &w->opaque); /* typed lies in a shared file */
    fix_bytes(c, &w->unknown);
    return w;
}

static void fix_attr(struct clone *c, struct attr *a)
{
    fix_text(c, &a->name);
    fix_text(c, &a->ref_name);
    fix_text(c, &a->doc);
    fix_bytes(c, &a->unknown);
    switch (a->type) {
    case ATTR_FLOAT:
    case ATTR_FLOATS:
        a->floats = dup_array(c, a->floats, (size_t)a->count, sizeof *a->floats);
        break;
    case ATTR_INT:
    case ATTR_INTS:
        a->ints = dup_array(c, a->ints, (size_t)a->count, sizeof *a->ints);
        break;
    case ATTR_STRING:
    case ATTR_STRINGS: {
        FIX_ROWS(c, a->strings, a->count, i)
        a->strings[i].data = dup_array(c, a->strings[i].data, a->strings[i].len + 1, 1);
        break;
    }
    case ATTR_TENSOR:
    case ATTR_TENSORS: {
        FIX_ROWS(c, a->tensors, a->count, i) a->tensors[i] = copy_weight(c, a->tensors[i]);
        break;
    }
    case ATTR_GRAPH:
    case ATTR_GRAPHS:
        a->graphs = dup_array(c, a->graphs, (size_t)a->count, sizeof *a->graphs);
        break;
    case ATTR_TYPE_PROTO:
    case ATTR_TYPE_PROTOS: {
        FIX_ROWS(c, a->types, a->count, i) fix_type(c, &a->types[i]);
        break;
    }
    case ATTR_SPARSE_TENSOR:
    case ATTR_SPARSE_TENSORS: {
        FIX_ROWS(c, a->raw, a->count, i) fix_bytes(c, &a->raw[i]);
        break;
    }
    case ATTR_UNDEFINED:
    default:
        a->count = 0;
        a->ints = NULL;
    }
}

static void fix_attrs(struct clone *c, struct attr **attrs, int count)
{
    FIX_ROWS(c, *attrs, count, i) fix_attr(c, &(*attrs)[i]);
}

static void fix_notes(struct clone *c, struct note **at)
{
    struct note *from = *at;
    *at = NULL;
    for (; from; from = from->next) {
        struct note *n = model_alloc(c->to, 1, sizeof *n);
        if (!n) {
            c->failed = true;
            return;
        }
        n->key = from->key;
        n->text = dup_text(c, from->text);
        tensor_ref(&n->tensor, &from->tensor);
        *at = n;
        at = &n->next;
    }
}

static void fix_value(struct clone *c, struct value *v)
{
    fix_text(c, &v->name);
    fix_type(c, &v->type);
    v->weight = copy_weight(c, v->weight);
    fix_notes(c, &v->notes);
}

static void fix_node(struct clone *c, struct node *n)
{
    fix_text(c, &n->op_type);
    fix_text(c, &n->name);
    fix_text(c, &n->domain);
    fix_text(c, &n->overload);
    fix_text(c, &n->doc);
    n->input = dup_array(c, n->input, (size_t)n->n_input, sizeof *n->input);
    n->output = dup_array(c, n->output, (size_t)n->n_output, sizeof *n->output);
    fix_attrs(c, &n->attr, n->n_attr);
    fix_entries(c, &n->metadata);
    fix_bytes(c, &n->unknown);
}

static void fix_infos(struct clone *c, struct value_info **list, int count)
{
    FIX_ROWS(c, *list, count, i)
    {
        struct value_info *info = &(*list)[i];
        fix_type(c, &info->type);
        fix_text(c, &info->doc);
        fix_entries(c, &info->metadata);
        fix_bytes(c, &info->unknown);
    }
}

static void fix_graph(struct clone *c, struct graph *g)
{
    fix_text(c, &g->name);
    fix_text(c, &g->doc);
    g->nodes = dup_array(c, g->nodes, (size_t)g->n_nodes, sizeof *g->nodes);
    g->cap_nodes = g->n_nodes;
    g->initializers = dup_array(c, g->initializers, (size_t)g->n_initializers, sizeof *g->initializers);
    g->cap_initializers = g->n_initializers;
    fix_infos(c, &g->inputs, g->n_inputs);
    fix_infos(c, &g->outputs, g->n_outputs);
    fix_infos(c, &g->infos, g->n_infos);
    FIX_ROWS(c, g->sparse_initializers, g->n_sparse_initializers, i) fix_bytes(c, &g->sparse_initializers[i]);
    fix_bytes(c, &g->quantization);
    fix_entries(c, &g->metadata);
    fix_bytes(c, &g->unknown);
}

static void fix_opsets(struct clone *c, struct opset **opsets, int count)
{
    FIX_ROWS(c, *opsets, count, i)
    {
        fix_text(c, &(*opsets)[i].domain);
        fix_bytes(c, &(*opsets)[i].unknown);
    }
}

static void fix_function(struct clone *c, struct function *f)
{
    fix_text(c, &f->name);
    fix_text(c, &f->domain);
    fix_text(c, &f->overload);
    fix_text(c, &f->doc);
    fix_texts(c, &f->inputs, f->n_inputs);
    fix_texts(c, &f->outputs, f->n_outputs);
    fix_texts(c, &f->attrs, f->n_attrs);
    fix_attrs(c, &f->attr_defaults, f->n_attr_defaults);
    fix_opsets(c, &f->opsets, f->n_opsets);
    fix_entries(c, &f->metadata);
    fix_bytes(c, &f->unknown);
}

static void fix_header(struct clone *c, struct model *m)
{
    fix_text(c, &m->producer_name);
    fix_text(c, &m->producer_version);
    fix_text(c, &m->domain);
    fix_text(c, &m->doc);
    fix_opsets(c, &m->opsets, m->n_opsets);
    fix_entries(c, &m->metadata);
    FIX_ROWS(c, m->functions, m->n_functions, i) fix_function(c, &m->functions[i]);
    fix_bytes(c, &m->training);
    fix_bytes(c, &m->unknown);
    fix_texts(c, &m->symbols, m->n_symbols);
}

/* Capacity of the symbol list is the next power of two of its length (model_symbol). */
static void round_up_symbols(struct clone *c, struct model *m)
{
    int cap = 1;
    while (cap < m->n_symbols)
        cap *= 2;
    const char **grown = model_alloc(m, (size_t)cap, sizeof *grown);
    if (!grown || (m->n_symbols && !m->symbols)) {
        c->failed = true;
        return;
    }
    if (m->n_symbols)
        memcpy(grown, m->symbols, (size_t)m->n_symbols * sizeof *grown);
    m->symbols = grown;
}

/* The three tables: copied flat, then row by row. */
static void copy_tables(struct clone *c, const struct model *m)
{
    struct model *to = c->to;
    to->values = dup_array(c, m->values, m->n_values, sizeof *m->values);
    to->nodes = dup_array(c, m->nodes, m->n_nodes, sizeof *m->nodes);
    to->graphs = dup_array(c, m->graphs, m->n_graphs, sizeof *m->graphs);
    to->n_values = to->cap_values = to->values ? m->n_values : 0;
    to->n_nodes = to->cap_nodes = to->nodes ? m->n_nodes : 0;
    to->n_graphs = to->cap_graphs = to->graphs ? m->n_graphs : 0;
    for (uint32_t v = 0; v < to->n_values; v++)
        fix_value(c, &to->values[v]);
    for (uint32_t n = 0; n < to->n_nodes; n++)
        fix_node(c, &to->nodes[n]);
    for (uint32_t g = 0; g < to->n_graphs; g++)
        fix_graph(c, &to->graphs[g]);
}

struct model *model_clone(const struct model *m, struct err *err)
{
    struct clone c = {.to = model_new()};
    struct model *to = c.to;
    if (!to)
        goto nomem;
    struct model own = *to; /* what the clone does not take over */
    *to = *m;
    to->arena = own.arena;
    to->names = own.names;
    to->owned = NULL;
    to->files = NULL;
    to->n_files = 0;
    to->n_values = to->n_nodes = to->n_graphs = 0;
    for (int i = 0; i < m->n_files && !c.failed; i++)
        c.failed = model_keep_file(to, tbuf_ref(m->files[i])) != 0;
    copy_tables(&c, m);
    fix_header(&c, to);
    round_up_symbols(&c, to);
    struct name_index *names = name_index_clone(m->names);
    if (!names || c.failed) {
        name_index_free(names);
        goto nomem;
    }
    name_index_free(to->names);
    to->names = names;
    return to;
nomem:
    model_free(to);
    err_set(err, ERR_NOMEM, "out of memory");
    return NULL;
}
