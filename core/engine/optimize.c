/* SPDX-License-Identifier: Apache-2.0
 * The driver of the engine's rewriting (optimize.h): clone, run the passes in order, tidy up between them.
 * Tidying is one sweep from the outputs backwards: a node is kept if one of its outputs is read, an initializer if
 * somebody reads it. So passes need not care who else becomes useless when they take a node out, and every pass starts
 * from a graph in order. A sweep costs a walk over the model, which all passes cost anyway. */
#include "core/engine/optimize.h"

#include <stdlib.h>
#include <string.h>

static optimize_pass fold_constants, fold_dequantized;

/* In order: see optimize.h. */
static optimize_pass *const passes[] = {
    fold_constants,   fuse_batchnorm, fuse_qdq,       fuse_dynamic, fuse_qlayout,
    fold_dequantized, fuse_patterns,  fuse_attention, fuse_matmul,  fuse_conv,
};

/* ---- for passes ---- */
int optimize_set_type(struct optimize *o, uint32_t value, const struct type *type, struct err *err)
{
    if (value >= o->cap_type) {
        uint32_t cap = value + value / 2 + 64;
        struct type *grown = realloc(o->type, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        for (uint32_t v = o->cap_type; v < cap; v++)
            grown[v] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
        o->type = grown;
        o->cap_type = cap;
    }
    o->type[value] = *type;
    return 0;
}

bool optimize_is_watched(const struct optimize *o, uint32_t value)
{
    return value < o->n_watch && o->watch[value];
}

int optimize_add_stand_in(struct optimize *o, struct plan_stand_in s, struct err *err)
{
    struct plan_stand_in *grown = realloc(o->stand_in, (o->n_stand_in + (size_t)1) * sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "out of memory");
    o->stand_in = grown;
    grown[o->n_stand_in++] = s;
    return 0;
}

uint32_t optimize_single_reader(const struct optimize *o, uint32_t value)
{
    if (value == VALUE_NONE || value >= o->n_uses || uses_count(&o->uses, value) != 1 || optimize_is_watched(o, value))
        return NODE_NONE;
    const struct use *use = &o->uses.all[o->uses.first[value]];
    if (use->node == NODE_NONE)
        return NODE_NONE;
    const struct node *node = &o->m->nodes[use->node];
    if (!node->op_type || node->graph != 0 || use->slot >= node->n_input || node->input[use->slot] != value)
        return NODE_NONE; /* this pass has changed it */
    return use->node;
}

uint32_t optimize_add_weight(struct optimize *o, const char *base, struct tensor *t, struct err *err)
{
    const struct type type = type_tensor(t->dtype, &t->shape);
    const size_t bytes = t->bytes;
    uint32_t v = model_add_weight(o->m, 0, base, t);
    tensor_fini(t);
    if (v == VALUE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory");
        return VALUE_NONE;
    }
    if (optimize_set_type(o, v, &type, err))
        return VALUE_NONE;
    o->packed_bytes += bytes;
    return v;
}

/* ---- constants that inference found ---- */
/* waits[v]: v is made from a DequantizeLinear, which fuse_qdq wants to see. Nodes are in topological order. */
static bool *dequantized_values(const struct model *m)
{
    bool *waits = calloc(m->n_values + (size_t)1, sizeof *waits);
    const struct graph *g = model_main(m);
    for (int i = 0; waits && i < g->n_nodes; i++) {
        const struct node *node = &m->nodes[g->nodes[i]];
        bool from = node_is(node, "DequantizeLinear");
        for (int k = 0; k < node->n_input && !from; k++)
            from = node->input[k] != VALUE_NONE && waits[node->input[k]];
        for (int k = 0; k < node->n_output; k++)
            if (node->output[k] != VALUE_NONE)
                waits[node->output[k]] = from;
    }
    return waits;
}

/* The initializer that stands for a known value from now on; made when first asked for. */
static uint32_t constant_for(struct optimize *o, uint32_t v, uint32_t *made, struct err *err)
{
    if (made[v] != VALUE_NONE)
        return made[v];
    const struct type type = type_tensor(o->known[v].dtype, &o->known[v].shape);
    made[v] = model_add_weight(o->m, 0, o->m->values[v].name, &o->known[v]);
    if (made[v] == VALUE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory");
        return VALUE_NONE;
    }
    return optimize_set_type(o, made[v], &type, err) ? VALUE_NONE : made[v];
}

static bool foldable(const struct optimize *o, uint32_t v, const bool *waits)
{
    return v < o->n_known && o->known[v].dtype != DTYPE_NONE && o->m->values[v].producer != NODE_NONE &&
           !(waits && waits[v]);
}

static int fold(struct optimize *o, bool dequantized, struct err *err)
{
    struct model *m = o->m;
    if (!o->known)
        return 0;
    bool *waits = dequantized ? NULL : dequantized_values(m);
    uint32_t *made = malloc((o->n_known + (size_t)1) * sizeof *made);
    int rc = -1;
    if (!made || (!waits && !dequantized)) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(made, 0xff, (o->n_known + (size_t)1) * sizeof *made);
    for (uint32_t n = 0; n < m->n_nodes; n++)
        for (int i = 0; m->nodes[n].op_type && m->nodes[n].graph == 0 && i < m->nodes[n].n_input; i++) {
            uint32_t v = m->nodes[n].input[i];
            if (v == VALUE_NONE || !foldable(o, v, waits))
                continue;
            v = constant_for(o, v, made, err);
            if (v == VALUE_NONE)
                goto out;
            m->nodes[n].input[i] = v;
        }
    rc = 0;
out:
    free(made);
    free(waits);
    return rc;
}

static int fold_constants(struct optimize *o, struct err *err)
{
    return fold(o, false, err);
}

static int fold_dequantized(struct optimize *o, struct err *err)
{
    return fold(o, true, err);
}

/* ---- tidying ---- */
/* Marks what a graph's nodes (and those nested in them) read. Nested graphs are at most as deep as the reader allows. */
static void mark_reads(const struct model *m, const struct node *node, bool *read)
{
    for (int i = 0; i < node->n_input; i++)
        if (node->input[i] != VALUE_NONE)
            read[node->input[i]] = true;
    for (int a = 0; a < node->n_attr; a++) {
        const struct attr *attr = &node->attr[a];
        for (int k = 0; (attr->type == ATTR_GRAPH || attr->type == ATTR_GRAPHS) && k < attr->count; k++) {
            const struct graph *g = &m->graphs[attr->graphs[k]];
            for (int i = 0; i < g->n_nodes; i++)
                if (m->nodes[g->nodes[i]].op_type)
                    mark_reads(m, &m->nodes[g->nodes[i]], read);
            for (int i = 0; i < g->n_outputs; i++)
                read[g->outputs[i].value] = true;
        }
    }
}

static bool node_is_read(const struct node *node, const bool *read)
{
    for (int i = 0; i < node->n_output; i++)
        if (node->output[i] != VALUE_NONE && read[node->output[i]])
            return true;
    return false;
}

/* Drop a node in place; the list is closed up by the caller. One with nested graphs takes the long way. */
static void drop_node(struct model *m, uint32_t id)
{
    struct node *node = &m->nodes[id];
    for (int a = 0; a < node->n_attr; a++)
        if (node->attr[a].type == ATTR_GRAPH || node->attr[a].type == ATTR_GRAPHS) {
            model_remove_node(m, id);
            return;
        }
    for (int i = 0; i < node->n_output; i++)
        if (node->output[i] != VALUE_NONE && m->values[node->output[i]].producer == id)
            m->values[node->output[i]].producer = NODE_NONE;
    node->op_type = NULL;
}

/* Initializers nobody reads: their bytes go now, not with the clone. */
static void drop_weights(struct model *m, const bool *read)
{
    struct graph *g = model_main(m);
    int kept = 0;
    for (int i = 0; i < g->n_initializers; i++) {
        uint32_t v = g->initializers[i];
        if (read[v]) {
            g->initializers[kept++] = v;
            continue;
        }
        tensor_fini(&m->values[v].weight->tensor);
        m->values[v].weight = NULL;
        m->values[v].name = NULL;
    }
    g->n_initializers = kept;
}

static int tidy(struct optimize *o, struct err *err)
{
    struct model *m = o->m;
    struct graph *g = model_main(m);
    size_t n = (size_t)g->n_nodes;
    bool *read = calloc(m->n_values + (size_t)1, sizeof *read);
    uint32_t *order = calloc(n + 1, sizeof *order);
    int rc = -1;
    if (!read || !order) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(order, 0xff, (n + 1) * sizeof *order); /* rows that a pass has emptied itself leave places at the end */
    if (model_toposort(m, 0, order, err))
        goto out;
    for (int i = 0; i < g->n_outputs; i++)
        read[g->outputs[i].value] = true;
    for (uint32_t v = 0; v < o->n_watch; v++)
        read[v] = read[v] || o->watch[v];
    for (uint32_t i = 0; i < o->n_stand_in; i++)
        read[o->stand_in[i].twin] = true;
    int kept = 0;
    for (size_t i = n; i-- > 0;) {
        if (order[i] == NODE_NONE || !m->nodes[order[i]].op_type)
            continue;
        const struct node *node = &m->nodes[order[i]];
        if (node_is_read(node, read))
            mark_reads(m, node, read);
        else
            drop_node(m, order[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (order[i] != NODE_NONE && m->nodes[order[i]].op_type)
            g->nodes[kept++] = order[i];
    g->n_nodes = kept;
    drop_weights(m, read);
    uses_fini(&o->uses);
    rc = uses_build(&o->uses, m, err);
    o->n_uses = m->n_values;
out:
    free(read);
    free(order);
    return rc;
}

/* ---- the whole ---- */
/* Defaults of inputs are constants here: the engine never takes another value for them. */
static void forget_default_inputs(struct model *m)
{
    struct graph *g = model_main(m);
    int kept = 0;
    for (int i = 0; i < g->n_inputs; i++)
        if (!m->values[g->inputs[i].value].weight)
            g->inputs[kept++] = g->inputs[i];
    g->n_inputs = kept;
}

static int start(struct optimize *o, const struct model *m, const struct type *types, struct err *err)
{
    o->m = model_clone(m, err);
    if (!o->m)
        return -1;
    o->type = calloc(m->n_values + (size_t)1, sizeof *o->type);
    if (!o->type)
        return err_set(err, ERR_NOMEM, "out of memory");
    o->cap_type = m->n_values;
    if (m->n_values)
        memcpy(o->type, types, m->n_values * sizeof *types);
    forget_default_inputs(o->m);
    return tidy(o, err);
}

static int by_twin(const void *pa, const void *pb)
{
    const struct plan_stand_in *a = pa, *b = pb;
    return (a->twin > b->twin) - (a->twin < b->twin);
}

/* Is every watched value that a node made still made, as itself or as its stand-in? No pass knows all the others' ways. */
static bool keeps_watched(const struct optimize *o, const struct model *original)
{
    bool *shown = calloc(o->n_watch + (size_t)1, sizeof *shown);
    bool keeps = shown != NULL;
    for (uint32_t i = 0; i < o->n_stand_in && keeps; i++)
        shown[o->stand_in[i].value] = o->m->values[o->stand_in[i].twin].producer != NODE_NONE;
    for (uint32_t v = 0; v < o->n_watch && keeps; v++)
        if (o->watch[v] && original->values[v].graph == 0 && original->values[v].producer != NODE_NONE)
            keeps = shown[v] || o->m->values[v].producer != NODE_NONE;
    free(shown);
    return keeps;
}

int plan_optimize(const struct model *m, const struct optimize_opts *opts, struct optimized *out, struct err *err)
{
    struct optimize o = {.known = opts->known,
                         .n_known = opts->known ? m->n_values : 0,
                         .watch = opts->watch,
                         .n_watch = opts->watch ? m->n_values : 0};
    *out = (struct optimized){0};
    int rc = start(&o, m, opts->types, err);
    bool changed = false;
    for (size_t i = 0; i < sizeof passes / sizeof passes[0] && !rc; i++) {
        const uint32_t n_nodes = o.m->n_nodes, n_values = o.m->n_values;
        const int live = model_main(o.m)->n_nodes;
        rc = passes[i](&o, err) || tidy(&o, err) ? -1 : 0;
        changed = changed || o.m->n_nodes != n_nodes || o.m->n_values != n_values || model_main(o.m)->n_nodes != live;
    }
    if (!rc && changed && keeps_watched(&o, m)) {
        if (o.n_stand_in)
            qsort(o.stand_in, o.n_stand_in, sizeof *o.stand_in, by_twin);
        *out = (struct optimized){o.m, o.packed_bytes, o.stand_in, o.n_stand_in};
        o.m = NULL;
        o.stand_in = NULL;
    }
    uses_fini(&o.uses);
    free(o.stand_in);
    free(o.type);
    model_free(o.m);
    return rc;
}
