/* SPDX-License-Identifier: Apache-2.0
 * merge_common.c - equal weights become one, and nodes that compute the same from the same become one (common
 * subexpressions). Both by hashing: equal hashes are compared in full, so a collision costs time, never correctness.
 * Only within one graph, and never across notes (two weights with different masks are different). Random and unknown
 * operators are left alone. */
#include <stdlib.h>
#include <string.h>

#include "core/ops/op.h"
#include "core/passes/pass.h"

static uint64_t mix(uint64_t h, const void *bytes, size_t len) /* FNV-1a, 64 bit */
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t hash_tensor(const struct tensor *t)
{
    uint64_t h = mix(0xcbf29ce484222325u, &t->dtype, sizeof t->dtype);
    h = mix(h, t->shape.dim, (size_t)t->shape.rank * sizeof t->shape.dim[0]);
    return t->dtype == DTYPE_STRING || !t->data ? h : mix(h, t->data, t->bytes);
}

/* Open addressing over ids; slots hold id + 1. */
struct table {
    uint64_t *hash;
    uint32_t *id;
    size_t mask;
};

static bool table_init(struct table *t, uint32_t n)
{
    size_t size = 16;
    while (size < (size_t)n * 2)
        size *= 2;
    t->mask = size - 1;
    t->hash = calloc(size, sizeof *t->hash);
    t->id = calloc(size, sizeof *t->id);
    return t->hash && t->id;
}

static void table_fini(struct table *t)
{
    free(t->hash);
    free(t->id);
}

typedef bool equal_fn(const struct model *m, uint32_t a, uint32_t b);

/* The earlier equal id, or `id` itself, which is entered. */
static uint32_t table_find(struct table *t, const struct model *m, uint64_t hash, uint32_t id, equal_fn *equal)
{
    size_t i = hash & t->mask;
    for (; t->id[i]; i = (i + 1) & t->mask)
        if (t->hash[i] == hash && equal(m, t->id[i] - 1, id))
            return t->id[i] - 1;
    t->hash[i] = hash;
    t->id[i] = id + 1;
    return id;
}

static bool weights_equal(const struct model *m, uint32_t a, uint32_t b)
{
    return m->values[a].graph == m->values[b].graph &&
           tensor_equal(&m->values[a].weight->tensor, &m->values[b].weight->tensor);
}

static bool weight_is_mergeable(struct pass_ctx *c, uint32_t v)
{
    const struct value *x = &c->edit.m->values[v];
    if (!x->name || !x->weight || x->notes || (!x->weight->tensor.data && tensor_count(&x->weight->tensor) != 0))
        return false;
    return x->graph < c->edit.n_graphs && c->edit.state[x->graph] == EDIT_LIVE && value_const(c->edit.m, v) &&
           !edit_is_output(&c->edit, v) && edit_count(&c->edit, v) > 0;
}

static int merge_weights(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    struct table t = {0};
    int rc = -1;
    if (!table_init(&t, m->n_values)) {
        err_set(err, ERR_NOMEM, "out of memory while merging weights");
        goto out;
    }
    for (uint32_t v = 0; v < m->n_values; v++) {
        if (!weight_is_mergeable(c, v))
            continue;
        uint32_t first = table_find(&t, m, hash_tensor(&m->values[v].weight->tensor), v, weights_equal);
        if (first == v)
            continue;
        edit_replace_reads(&c->edit, v, first);
        c->changes++;
    }
    rc = 0;
out:
    table_fini(&t);
    return rc;
}

/* ---- nodes ---- */
static bool attr_is_plain(const struct attr *a)
{
    switch (a->type) {
    case ATTR_FLOAT:
    case ATTR_FLOATS:
    case ATTR_INT:
    case ATTR_INTS:
    case ATTR_STRING:
    case ATTR_STRINGS:
        return !a->ref_name && a->unknown.len == 0;
    default:
        return false;
    }
}

static bool attrs_equal(const struct attr *a, const struct attr *b)
{
    if (a->type != b->type || a->count != b->count)
        return false;
    if (a->type == ATTR_FLOAT || a->type == ATTR_FLOATS)
        return a->count == 0 || memcmp(a->floats, b->floats, (size_t)a->count * sizeof *a->floats) == 0;
    if (a->type == ATTR_INT || a->type == ATTR_INTS)
        return a->count == 0 || memcmp(a->ints, b->ints, (size_t)a->count * sizeof *a->ints) == 0;
    for (int i = 0; i < a->count; i++)
        if (a->strings[i].len != b->strings[i].len || memcmp(a->strings[i].data, b->strings[i].data, a->strings[i].len))
            return false;
    return true;
}

static bool nodes_equal(const struct model *m, uint32_t ia, uint32_t ib)
{
    const struct node *a = &m->nodes[ia], *b = &m->nodes[ib];
    if (a->graph != b->graph || strcmp(a->op_type, b->op_type) || a->n_input != b->n_input ||
        a->n_output != b->n_output || a->n_attr != b->n_attr ||
        strcmp(a->domain ? a->domain : "", b->domain ? b->domain : ""))
        return false;
    if (a->n_input && memcmp(a->input, b->input, (size_t)a->n_input * sizeof *a->input))
        return false;
    for (int i = 0; i < a->n_output; i++)
        if ((a->output[i] == VALUE_NONE) != (b->output[i] == VALUE_NONE))
            return false;
    for (int i = 0; i < a->n_attr; i++) {
        const struct attr *other = node_attr(b, a->attr[i].name);
        if (!other || !attrs_equal(&a->attr[i], other))
            return false;
    }
    return true;
}

static bool node_is_mergeable(struct pass_ctx *c, uint32_t id)
{
    const struct node *n = &c->edit.m->nodes[id];
    if (!edit_node_is_live(&c->edit, id))
        return false;
    const char *domain = n->domain ? n->domain : "";
    const struct op_class *op = op_find(n->op_type, domain, model_opset(c->edit.m, domain));
    if (!op || op->nondeterministic || n->n_input == 0)
        return false;
    for (int i = 0; i < n->n_attr; i++)
        if (!attr_is_plain(&n->attr[i]))
            return false;
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && edit_is_output(&c->edit, n->output[i]))
            return false;
    return true;
}

static int merge_nodes(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    struct table t = {0};
    int rc = -1;
    if (!table_init(&t, m->n_nodes)) {
        err_set(err, ERR_NOMEM, "out of memory while merging nodes");
        goto out;
    }
    for (uint32_t g = 0; g < c->edit.n_graphs; g++) {
        const struct graph *graph = &m->graphs[g];
        for (int i = 0; c->edit.state[g] == EDIT_LIVE && i < graph->n_nodes; i++) {
            uint32_t id = graph->nodes[i];
            if (!node_is_mergeable(c, id))
                continue;
            const struct node *n = &m->nodes[id];
            uint64_t h = mix(mix(0xcbf29ce484222325u, n->op_type, strlen(n->op_type)), n->input,
                             (size_t)n->n_input * sizeof *n->input);
            uint32_t first = table_find(&t, m, h, id, nodes_equal);
            if (first == id)
                continue;
            for (int k = 0; k < n->n_output; k++)
                if (n->output[k] != VALUE_NONE)
                    edit_replace_reads(&c->edit, n->output[k], m->nodes[first].output[k]);
            edit_remove_node(&c->edit, id);
            c->changes++;
        }
    }
    rc = 0;
out:
    table_fini(&t);
    return rc;
}

int pass_merge_common(struct pass_ctx *c, struct err *err)
{
    return merge_weights(c, err) || merge_nodes(c, err) ? -1 : 0;
}
