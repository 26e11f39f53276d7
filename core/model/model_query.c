/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/model.h"
#include "core/model/model_names.h"

bool model_domain_is_default(const char *domain)
{
    return !domain || !*domain || !strcmp(domain, "ai.onnx");
}

static bool same_domain(const char *a, const char *b)
{
    if (model_domain_is_default(a) || model_domain_is_default(b))
        return model_domain_is_default(a) && model_domain_is_default(b);
    return !strcmp(a, b);
}

int64_t model_opset(const struct model *m, const char *domain)
{
    int64_t best = 0;
    for (int i = 0; i < m->n_opsets; i++)
        if (same_domain(m->opsets[i].domain, domain) && m->opsets[i].version > best)
            best = m->opsets[i].version;
    return best;
}

uint32_t model_find_value(const struct model *m, uint32_t graph, const char *name)
{
    for (; graph != GRAPH_NONE; graph = m->graphs[graph].parent) {
        uint32_t v = name_index_find(m->names, m, graph, name);
        if (v != VALUE_NONE)
            return v;
    }
    return VALUE_NONE;
}

uint32_t model_find_node(const struct model *m, const char *name)
{
    for (uint32_t n = 0; n < m->n_nodes; n++)
        if (m->nodes[n].op_type && m->nodes[n].name && !strcmp(m->nodes[n].name, name))
            return n;
    return NODE_NONE;
}

const char *node_label(const struct model *m, uint32_t node, char *buf, size_t size)
{
    const struct node *n = &m->nodes[node];
    const char *op = n->op_type ? n->op_type : "removed node";
    if (n->name && *n->name)
        return n->name;
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && m->values[n->output[i]].name) {
            snprintf(buf, size, "%s -> %s", op, m->values[n->output[i]].name);
            return buf;
        }
    snprintf(buf, size, "%s #%u", op, (unsigned)node);
    return buf;
}

const struct attr *node_attr(const struct node *n, const char *name)
{
    for (int i = 0; i < n->n_attr; i++)
        if (n->attr[i].name && !strcmp(n->attr[i].name, name))
            return &n->attr[i];
    return NULL;
}

int64_t node_attr_int(const struct node *n, const char *name, int64_t fallback)
{
    const struct attr *a = node_attr(n, name);
    return a && a->type == ATTR_INT && a->count == 1 ? a->ints[0] : fallback;
}

float node_attr_float(const struct node *n, const char *name, float fallback)
{
    const struct attr *a = node_attr(n, name);
    return a && a->type == ATTR_FLOAT && a->count == 1 ? a->floats[0] : fallback;
}

bool node_is(const struct node *n, const char *op_type)
{
    return n->op_type && model_domain_is_default(n->domain) && !strcmp(n->op_type, op_type);
}

static bool listed(const struct value_info *list, int count, uint32_t value)
{
    for (int i = 0; i < count; i++)
        if (list[i].value == value)
            return true;
    return false;
}

bool value_is_graph_output(const struct model *m, uint32_t value)
{
    /* a nested graph may hand out an outer value, so every graph is asked */
    for (uint32_t g = 0; g < m->n_graphs; g++)
        if (listed(m->graphs[g].outputs, m->graphs[g].n_outputs, value))
            return true;
    return false;
}

bool value_is_graph_input(const struct model *m, uint32_t value)
{
    const struct graph *g = &m->graphs[m->values[value].graph];
    return listed(g->inputs, g->n_inputs, value);
}

const struct tensor *value_const(const struct model *m, uint32_t value)
{
    if (value == VALUE_NONE)
        return NULL;
    const struct value *v = &m->values[value];
    if (v->weight) {
        /* Up to IR 3 every initializer had to be listed as an input too; since IR 4 that means "a default to override".
         */
        if (v->weight->opaque.len || (m->ir_version >= 4 && value_is_graph_input(m, value)))
            return NULL;
        return &v->weight->tensor;
    }
    if (v->producer == NODE_NONE || !node_is(&m->nodes[v->producer], "Constant"))
        return NULL;
    const struct attr *a = node_attr(&m->nodes[v->producer], "value");
    if (!a || a->type != ATTR_TENSOR || a->count != 1 || a->tensors[0]->opaque.len)
        return NULL;
    return &a->tensors[0]->tensor;
}

/* --- uses --- */

typedef void use_fn(void *arg, uint32_t value, struct use use);

static void each_use(const struct model *m, use_fn *fn, void *arg)
{
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        if (!m->nodes[n].op_type)
            continue;
        for (int i = 0; i < m->nodes[n].n_input; i++)
            if (m->nodes[n].input[i] != VALUE_NONE)
                fn(arg, m->nodes[n].input[i], (struct use){n, i});
    }
    for (uint32_t g = 0; g < m->n_graphs; g++)
        for (int i = 0; i < m->graphs[g].n_outputs; i++)
            fn(arg, m->graphs[g].outputs[i].value, (struct use){NODE_NONE, i});
}

static void count_use(void *arg, uint32_t value, struct use use)
{
    (void)use;
    ((uint32_t *)arg)[value + 1]++;
}

static void store_use(void *arg, uint32_t value, struct use use)
{
    struct uses *uses = arg;
    uses->all[uses->first[value + 1]++] = use;
}

int uses_build(struct uses *uses, const struct model *m, struct err *err)
{
    size_t n = m->n_values;
    *uses = (struct uses){.first = calloc(n + 2, sizeof(uint32_t))};
    if (!uses->first)
        return err_set(err, ERR_NOMEM, "out of memory");
    /* first[v + 1] counts uses of v, then (shifted by one) becomes the place where the next use of v goes */
    each_use(m, count_use, uses->first);
    uint32_t total = 0;
    for (size_t v = 0; v <= n; v++) {
        uint32_t count = uses->first[v + 1];
        uses->first[v + 1] = total;
        total += count;
        if (v == n)
            break;
    }
    uses->all = calloc(total ? total : 1, sizeof *uses->all);
    if (!uses->all) {
        uses_fini(uses);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    each_use(m, store_use, uses);
    return 0;
}

void uses_fini(struct uses *uses)
{
    free(uses->all);
    free(uses->first);
    *uses = (struct uses){0};
}

/* --- topological order --- */

/* What each node waits for, by node id (CSR). A node inside a nested graph that reads an outer value makes the node of
 * the outer graph wait which holds it; so every edge joins two nodes of one graph. */
struct deps {
    const struct model *m;
    uint32_t *first; /* [n_nodes + 2] */
    uint32_t *to;    /* NULL while counting */
};

static void add_dep(struct deps *d, uint32_t graph, uint32_t reader, uint32_t value)
{
    const struct model *m = d->m;
    uint32_t producer = value == VALUE_NONE ? NODE_NONE : m->values[value].producer;
    if (producer == NODE_NONE || !m->nodes[producer].op_type)
        return;
    while (graph != m->nodes[producer].graph) { /* climb to the producer's graph */
        reader = m->graphs[graph].parent_node;
        graph = m->graphs[graph].parent;
        if (graph == GRAPH_NONE || reader == NODE_NONE)
            return;
    }
    if (reader == NODE_NONE)
        return;
    uint32_t slot = d->first[reader + 1]++;
    if (d->to)
        d->to[slot] = producer;
}

static void collect_deps(struct deps *d)
{
    const struct model *m = d->m;
    for (uint32_t n = 0; n < m->n_nodes; n++)
        for (int i = 0; m->nodes[n].op_type && i < m->nodes[n].n_input; i++)
            add_dep(d, m->nodes[n].graph, n, m->nodes[n].input[i]);
    for (uint32_t g = 0; g < m->n_graphs; g++)
        for (int i = 0; i < m->graphs[g].n_outputs; i++)
            add_dep(d, g, NODE_NONE, m->graphs[g].outputs[i].value);
}

static int deps_build(struct deps *d)
{
    size_t n = d->m->n_nodes;
    d->first = calloc(n + 2, sizeof *d->first);
    if (!d->first)
        return -1;
    collect_deps(d);
    uint32_t total = 0;
    for (size_t i = 0; i <= n; i++) {
        uint32_t count = d->first[i + 1];
        d->first[i + 1] = total;
        total += count;
    }
    d->to = calloc(total ? total : 1, sizeof *d->to);
    if (!d->to)
        return -1;
    collect_deps(d);
    return 0;
}

enum { WHITE, GREY, BLACK };

/* Depth first search over nodes; whoever is left behind has all it waits for before it in `order`. */
struct sorter {
    struct deps d;
    unsigned char *color;
    uint32_t *stack, *next;
    uint32_t *order; /* may be NULL */
    uint32_t placed;
};

static int sorter_init(struct sorter *s, const struct model *m, uint32_t *order)
{
    size_t n = (size_t)m->n_nodes + 1;
    *s = (struct sorter){.d = {.m = m}, .order = order};
    s->color = calloc(n, 1);
    s->stack = malloc(n * sizeof *s->stack);
    s->next = malloc(n * sizeof *s->next);
    return !s->color || !s->stack || !s->next || deps_build(&s->d) ? -1 : 0;
}

static void sorter_fini(struct sorter *s)
{
    free(s->color), free(s->stack), free(s->next);
    free(s->d.first), free(s->d.to);
}

static void enter(struct sorter *s, uint32_t *depth, uint32_t node)
{
    s->color[node] = GREY;
    s->next[node] = s->d.first[node];
    s->stack[(*depth)++] = node;
}

static int visit(struct sorter *s, uint32_t root, struct err *err)
{
    const struct model *m = s->d.m;
    uint32_t depth = 0;
    if (s->color[root] != WHITE || !m->nodes[root].op_type)
        return 0;
    enter(s, &depth, root);
    while (depth) {
        uint32_t at = s->stack[depth - 1];
        if (s->next[at] == s->d.first[at + 1]) {
            s->color[at] = BLACK;
            if (s->order)
                s->order[s->placed] = at;
            s->placed++;
            depth--;
            continue;
        }
        uint32_t dep = s->d.to[s->next[at]++];
        if (s->color[dep] == GREY) {
            char label[200];
            return err_set(err, ERR_MODEL,
                           "node '%.200s' (%.60s) is part of a cycle: its inputs depend on its own outputs",
                           node_label(m, at, label, sizeof label), m->nodes[at].op_type);
        }
        if (s->color[dep] == WHITE)
            enter(s, &depth, dep);
    }
    return 0;
}

int model_toposort(const struct model *m, uint32_t graph, uint32_t *order, struct err *err)
{
    struct sorter s;
    int rc = sorter_init(&s, m, order);
    if (rc)
        err_set(err, ERR_NOMEM, "out of memory");
    /* Roots in file order: a list that is in order already stays as it is. */
    for (int i = 0; rc == 0 && i < m->graphs[graph].n_nodes; i++)
        rc = visit(&s, m->graphs[graph].nodes[i], err);
    sorter_fini(&s);
    return rc;
}

int model_check_cycles(const struct model *m, struct err *err)
{
    struct sorter s;
    int rc = sorter_init(&s, m, NULL);
    if (rc)
        err_set(err, ERR_NOMEM, "out of memory");
    for (uint32_t n = 0; rc == 0 && n < m->n_nodes; n++)
        rc = visit(&s, n, err);
    sorter_fini(&s);
    return rc;
}
