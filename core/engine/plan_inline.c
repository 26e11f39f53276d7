/* SPDX-License-Identifier: Apache-2.0
 * Local functions: each call is replaced by a copy of the function's body in a private clone of the model, until no
 * call is left. Bodies
 * may call functions again, so the number of nodes is capped: a few lines of nested calls can ask for billions.
 * Attributes of the
 * body that refer to the caller's (ref_attr_name) take its value, else the function's default, else are absent. */
#include <stdlib.h>
#include <string.h>

#include "core/engine/plan.h"

enum { MAX_NODES = 200000 };

struct inliner {
    struct model *m;
    int *opset; /* [cap] by node id */
    size_t cap;
};

static int64_t import_of(const struct function *f, const char *domain)
{
    for (int i = 0; i < f->n_opsets; i++) {
        const char *d = f->opsets[i].domain;
        if (model_domain_is_default(domain) ? model_domain_is_default(d) : d && !strcmp(d, domain))
            return f->opsets[i].version;
    }
    return 0;
}

static int set_opset(struct inliner *in, uint32_t node, int64_t opset, struct err *err)
{
    if (node >= in->cap) {
        size_t cap = (size_t)node * 2 + 64;
        int *grown = realloc(in->opset, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        memset(grown + in->cap, 0, (cap - in->cap) * sizeof *grown);
        in->opset = grown;
        in->cap = cap;
    }
    in->opset[node] = opset > 0 && opset < INT32_MAX ? (int)opset : 0;
    return 0;
}

static const struct attr *find_attr(const struct attr *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (list[i].name && !strcmp(list[i].name, name))
            return &list[i];
    return NULL;
}

/* One call being replaced: which call, of what, and the id outside for each value of the body (VALUE_NONE: none yet). */
struct copying {
    struct inliner *in;
    const struct node *call;
    const struct function *f;
    uint32_t *map;
};

static int copy_graph(const struct copying *k, uint32_t from, uint32_t parent, uint32_t holder, uint32_t *to,
                      struct err *err);

/* Nested graphs become graphs of the copy: each call has its own. */
static int copy_graphs(const struct copying *k, struct attr *attr, uint32_t holder, struct err *err)
{
    uint32_t *ids = model_alloc(k->in->m, (size_t)attr->count + 1, sizeof *ids);
    if (!ids)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < attr->count; i++)
        if (copy_graph(k, attr->graphs[i], k->in->m->nodes[holder].graph, holder, &ids[i], err))
            return -1;
    attr->graphs = ids;
    return 0;
}

/* The attributes of a body node, as the caller sets them. */
static int copy_attrs(const struct copying *k, uint32_t to, const struct node *body, struct err *err)
{
    struct attr *attr = model_alloc(k->in->m, (size_t)body->n_attr + 1, sizeof *attr);
    int n = 0;
    if (!attr)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < body->n_attr; i++) {
        const struct attr *from = &body->attr[i];
        const bool refers = from->ref_name && from->ref_name[0];
        if (refers) {
            const struct attr *given = find_attr(k->call->attr, k->call->n_attr, from->ref_name);
            if (!given)
                given = find_attr(k->f->attr_defaults, k->f->n_attr_defaults, from->ref_name);
            if (!given)
                continue;
            attr[n] = *given;
            attr[n++].name = from->name;
        } else {
            attr[n++] = *from;
        }
        if (attr[n - 1].type != ATTR_GRAPH && attr[n - 1].type != ATTR_GRAPHS)
            continue;
        if (refers)
            return err_set(err, ERR_OPERATOR, "cannot run this model: function '%s' takes a graph as an attribute",
                           k->f->name);
        if (copy_graphs(k, &attr[n - 1], to, err))
            return -1;
    }
    k->in->m->nodes[to].attr = attr;
    k->in->m->nodes[to].n_attr = n;
    return 0;
}

static uint32_t *map_values(struct inliner *in, const struct node *call, const struct graph *body)
{
    struct model *m = in->m;
    uint32_t *map = malloc((m->n_values + (size_t)1) * sizeof *map);
    if (!map)
        return NULL;
    memset(map, 0xff, (m->n_values + (size_t)1) * sizeof *map);
    for (int i = 0; i < body->n_inputs && i < call->n_input; i++)
        map[body->inputs[i].value] = call->input[i];
    for (int i = 0; i < body->n_outputs && i < call->n_output; i++)
        if (m->values[body->outputs[i].value].producer != NODE_NONE)
            map[body->outputs[i].value] = call->output[i];
    return map;
}

/* The id outside for a body value; inner values get a fresh one. */
static uint32_t mapped(const struct copying *k, uint32_t v, uint32_t graph, bool made_here)
{
    if (v == VALUE_NONE)
        return VALUE_NONE;
    if (k->map[v] == VALUE_NONE && made_here)
        k->map[v] = model_add_value(k->in->m, graph, k->in->m->values[v].name, true);
    return k->map[v];
}

/* A copy of body node `from` in `graph`. */
static int add_body_node(const struct copying *k, uint32_t graph, uint32_t from, struct err *err)
{
    struct model *m = k->in->m;
    struct node body = m->nodes[from]; /* rows move when tables grow */
    size_t n = (size_t)body.n_input + (size_t)body.n_output + 1;
    uint32_t *io = calloc(n, sizeof *io);
    if (!io)
        return err_set(err, ERR_NOMEM, "out of memory");
    uint32_t *out = io + body.n_input;
    for (int i = 0; i < body.n_input; i++)
        io[i] = mapped(k, body.input[i], graph,
                       body.input[i] != VALUE_NONE && m->values[body.input[i]].producer != NODE_NONE);
    for (int i = 0; i < body.n_output; i++)
        out[i] = mapped(k, body.output[i], graph, true);
    uint32_t id = model_add_node(m, graph, body.op_type, body.domain, k->call->name, io, body.n_input, out,
                                 body.n_output);
    free(io);
    if (id == ID_NONE)
        return err_set(err, ERR_NOMEM, "out of memory");
    m->nodes[id].overload = body.overload;
    if (set_opset(k->in, id, import_of(k->f, body.domain), err))
        return -1;
    return copy_attrs(k, id, &body, err);
}

/* Declared inputs or outputs of a graph, with the ids of the copy; inputs get theirs here. */
static int copy_infos(const struct copying *k, const struct value_info *from, int n, uint32_t graph, bool fresh,
                      struct value_info **to, struct err *err)
{
    struct value_info *list = model_alloc(k->in->m, (size_t)n + 1, sizeof *list);
    if (!list)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        list[i] = from[i];
        list[i].value = mapped(k, from[i].value, graph, fresh);
        if (list[i].value == VALUE_NONE)
            return err_set(err, fresh ? ERR_NOMEM : ERR_MODEL, fresh ? "out of memory" : "a nested graph's output %d has "
                           "no value", i);
    }
    *to = list;
    return 0;
}

static int copy_graph(const struct copying *k, uint32_t from, uint32_t parent, uint32_t holder, uint32_t *to,
                      struct err *err)
{
    struct model *m = k->in->m;
    if (from >= m->n_graphs || m->n_nodes > MAX_NODES)
        return err_set(err, ERR_MODEL_TOO_LARGE, "function calls expand to more than %d nodes", MAX_NODES);
    const struct graph body = m->graphs[from]; /* rows move when tables grow */
    struct value_info *inputs, *outputs;
    *to = model_add_graph(m, parent, holder);
    if (*to == GRAPH_NONE)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (copy_infos(k, body.inputs, body.n_inputs, *to, true, &inputs, err))
        return -1;
    for (int i = 0; i < body.n_initializers; i++) {
        const uint32_t v = body.initializers[i];
        if (!m->values[v].weight || k->map[v] != VALUE_NONE)
            return err_set(err, ERR_MODEL, "a nested graph of function '%s' gives an input a value", k->f->name);
        k->map[v] = model_add_weight(m, *to, model_printf(m, "%s of %u", m->values[v].name, (unsigned)*to),
                                     &m->values[v].weight->tensor);
        if (k->map[v] == VALUE_NONE)
            return err_set(err, ERR_NOMEM, "out of memory");
    }
    for (int i = 0; i < body.n_nodes; i++)
        if (m->nodes[body.nodes[i]].op_type && add_body_node(k, *to, body.nodes[i], err))
            return -1;
    if (copy_infos(k, body.outputs, body.n_outputs, *to, false, &outputs, err))
        return -1;
    struct graph *g = &m->graphs[*to];
    g->name = body.name;
    g->inputs = inputs;
    g->n_inputs = body.n_inputs;
    g->outputs = outputs;
    g->n_outputs = body.n_outputs;
    return 0;
}

static int inline_call(struct inliner *in, uint32_t id, const struct function *f, struct err *err)
{
    struct model *m = in->m;
    struct node call = m->nodes[id];
    if (f->body >= m->n_graphs)
        return err_set(err, ERR_MODEL, "function '%s' has no body", f->name);
    struct graph body = m->graphs[f->body];
    uint32_t *map = map_values(in, &call, &body);
    const struct copying k = {in, &call, f, map};
    int rc = map ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (map)
        model_remove_node(m, id);
    for (int i = 0; i < body.n_nodes && !rc; i++)
        if (m->nodes[body.nodes[i]].op_type)
            rc = add_body_node(&k, call.graph, body.nodes[i], err);
    for (int i = 0; i < body.n_outputs && i < call.n_output && !rc; i++) { /* an output that is an input */
        uint32_t v = body.outputs[i].value;
        if (m->values[v].producer == NODE_NONE && call.output[i] != VALUE_NONE && map[v] != VALUE_NONE &&
            model_add_node(m, call.graph, "Identity", NULL, call.name, &map[v], 1, &call.output[i], 1) == ID_NONE)
            rc = err_set(err, ERR_NOMEM, "out of memory");
    }
    free(map);
    return rc;
}

static bool in_function(const struct model *m, uint32_t graph)
{
    while (graph != 0 && m->graphs[graph].parent != GRAPH_NONE)
        graph = m->graphs[graph].parent;
    return graph != 0;
}

/* The first call from `*at` on; NODE_NONE: none. */
static uint32_t next_call(const struct model *m, uint32_t *at, const struct function **f)
{
    for (; *at < m->n_nodes; (*at)++) {
        const struct node *node = &m->nodes[*at];
        if (node->op_type && !in_function(m, node->graph) && (*f = plan_function(m, node)))
            return (*at)++;
    }
    return NODE_NONE;
}

int plan_inline_functions(const struct model *m, struct model **out, int **opset, struct err *err)
{
    const struct function *f;
    uint32_t at = 0, call;
    *out = NULL;
    *opset = NULL;
    if (!m->n_functions || next_call(m, &at, &f) == NODE_NONE)
        return 0;
    struct inliner in = {.m = model_clone(m, err)};
    if (!in.m)
        return -1;
    int rc = 0;
    for (at = 0; !rc && (call = next_call(in.m, &at, &f)) != NODE_NONE;) {
        rc = in.m->n_nodes > MAX_NODES
                 ? err_set(err, ERR_MODEL_TOO_LARGE, "function calls expand to more than %d nodes", MAX_NODES)
                 : inline_call(&in, call, f, err);
        if (rc)
            err_wrap(err, "function '%s': ", f->name);
    }
    if (!rc)
        rc = set_opset(&in, in.m->n_nodes, 0, err); /* an entry for every node */
    if (rc) {
        model_free(in.m);
        free(in.opset);
        return -1;
    }
    *out = in.m;
    *opset = in.opset;
    return 0;
}
