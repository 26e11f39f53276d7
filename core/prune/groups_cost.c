/* SPDX-License-Identifier: Apache-2.0
 * groups_cost.c - what a cut saves, by arithmetic alone. Every node that multiplies is kept with the types of its
 * inputs and outputs at batch 1; its cost after a cut is its row's cost function on those types with smaller axes.
 * Only nodes and constants that a cut touches are counted anew, so that thousands of questions about a large model
 * are cheap. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/model/parameters.h"
#include "core/prune/groups_impl.h"

struct cost_table {
    struct type *types; /* by value id, at batch 1 */
    int64_t *macs;      /* by node id; -1: unknown */
    int64_t unknown;    /* nodes whose cost is */
    bool *parameter;    /* by value id */
    struct groups_cost whole;
    /* Of one question: */
    uint32_t *stamp_node, *stamp_value, now;
    int *next_row, *first_row; /* rows by root; -1 */
};

/* ---- one node ---- */
static void shrink_type(const struct solver *s, const struct cut *c, uint32_t value, struct type *t)
{
    for (int i = 0; i < t->shape.rank; i++) {
        const int row = row_of(s, value, i), root = row < 0 ? -1 : axis_root(s, row);
        if (root >= 0 && c->kept[root])
            t->shape.dim[i] = c->count[root];
    }
}

static bool known(const struct type *t)
{
    return t->kind == TYPE_TENSOR && shape_count(&t->shape) >= 0;
}

/* c NULL: nothing is cut. -1: not known, or no memory (*failed). */
static int64_t node_macs(const struct solver *s, const struct cost_table *t, uint32_t id, const struct cut *c,
                         bool *failed)
{
    const struct site *site = &s->site[id];
    const struct node *n = &s->m->nodes[id];
    struct infer_ctx k = site->infer;
    struct op_cost cost = {0};
    int64_t macs = -1;
    struct type *types = calloc((size_t)(k.n_in + k.n_out) + 1, sizeof *types);
    const struct type **in = calloc((size_t)k.n_in + 1, sizeof *in);
    if (!types || !in) {
        *failed = true;
        goto out;
    }
    for (int i = 0; i < k.n_in + k.n_out; i++) {
        const uint32_t v = i < k.n_in ? n->input[i] : n->output[i - k.n_in];
        types[i] = v == VALUE_NONE ? (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN} : t->types[v];
        if (v == VALUE_NONE)
            continue;
        if (c)
            shrink_type(s, c, v, &types[i]);
        if (!known(&types[i]))
            goto out;
        if (i < k.n_in)
            in[i] = &types[i];
    }
    k.in = in;
    k.out = types + k.n_in;
    site->op->cost(&k, &cost);
    macs = cost.macs;
out:
    free(in);
    free(types);
    return macs;
}

static bool all_constant(const struct solver *s, const struct node *n)
{
    for (int i = 0; i < n->n_input; i++)
        if (n->input[i] != VALUE_NONE && !s->infer.types[n->input[i]].has_dtype)
            return false;
    for (int i = 0; i < n->n_input; i++)
        if (n->input[i] != VALUE_NONE && !value_const(s->m, n->input[i]))
            return false;
    return true;
}

static bool counts_macs(const struct solver *s, uint32_t id)
{
    const struct site *site = &s->site[id];
    return site->op && site->op->cost && !all_constant(s, &s->m->nodes[id]);
}

/* ---- the whole model ---- */
static void add(int64_t *sum, int64_t more)
{
    if (!i64_add(*sum, more, sum))
        *sum = INT64_MAX;
}

static int fill_types(struct solver *s, struct cost_table *t, struct err *err)
{
    struct infer x;
    const size_t n = (size_t)s->m->n_values + 1;
    if (infer_run_batch(&x, s->m, 1, err))
        return -1;
    t->types = arena_calloc(s->arena, n, sizeof *t->types);
    if (t->types && s->m->n_values)
        memcpy(t->types, x.types, (size_t)s->m->n_values * sizeof *t->types);
    infer_fini(&x);
    return t->types ? 0 : err_set(err, ERR_NOMEM, "out of memory while counting costs");
}

static int count_whole(struct solver *s, struct cost_table *t)
{
    bool failed = false;
    for (int i = 0; i < s->n_order; i++) {
        const uint32_t id = s->order[i];
        if (!counts_macs(s, id))
            continue;
        t->macs[id] = node_macs(s, t, id, NULL, &failed);
        if (t->macs[id] < 0)
            t->unknown++;
        else
            add(&t->whole.macs, t->macs[id]);
    }
    for (uint32_t v = 0; v < s->m->n_values; v++) {
        const struct tensor *stored = value_stored(s->m, v);
        t->parameter[v] = value_is_parameter(s->m, &s->uses, v);
        if (!stored)
            continue;
        add(&t->whole.bytes, stored_bytes(stored));
        if (t->parameter[v])
            add(&t->whole.params, stored_elements(stored));
    }
    return failed ? -1 : 0;
}

static int list_rows(struct solver *s, struct cost_table *t)
{
    const size_t n = (size_t)s->n_axes + 1;
    t->next_row = arena_calloc(s->arena, n, sizeof *t->next_row);
    t->first_row = arena_calloc(s->arena, n, sizeof *t->first_row);
    if (!t->next_row || !t->first_row)
        return -1;
    memset(t->first_row, -1, n * sizeof *t->first_row);
    for (int i = s->n_axes - 1; i >= 0; i--) {
        const int root = axis_root(s, i);
        t->next_row[i] = t->first_row[root];
        t->first_row[root] = i;
    }
    return 0;
}

/* ---- after a cut ---- */
static void recount_node(const struct solver *s, struct cost_table *t, uint32_t id, const struct cut *c,
                         struct groups_cost *cost, bool *failed)
{
    if (id == NODE_NONE || t->stamp_node[id] == t->now)
        return;
    t->stamp_node[id] = t->now;
    if (s->m->nodes[id].graph != 0 || !counts_macs(s, id) || t->macs[id] < 0)
        return;
    const int64_t after = node_macs(s, t, id, c, failed);
    cost->macs += (after > 0 ? after : 0) - t->macs[id];
}

static void recount_constant(const struct solver *s, struct cost_table *t, uint32_t v, const struct cut *c,
                             struct groups_cost *cost)
{
    const struct tensor *stored = value_stored(s->m, v);
    if (!stored)
        return;
    struct tensor after = *stored;
    for (int i = 0; i < after.shape.rank; i++) {
        const int row = row_of(s, v, i), root = row < 0 ? -1 : axis_root(s, row);
        if (root >= 0 && c->kept[root])
            after.shape.dim[i] = c->count[root];
    }
    cost->bytes += stored_bytes(&after) - stored_bytes(stored);
    if (t->parameter[v])
        cost->params += stored_elements(&after) - stored_elements(stored);
}

static void recount_root(const struct solver *s, struct cost_table *t, int root, const struct cut *c,
                         struct groups_cost *cost, bool *failed)
{
    for (int row = t->first_row[root]; row >= 0; row = t->next_row[row]) {
        const uint32_t v = s->axis[row].value;
        if (t->stamp_value[v] == t->now)
            continue;
        t->stamp_value[v] = t->now;
        recount_constant(s, t, v, c, cost);
        recount_node(s, t, s->m->values[v].producer, c, cost, failed);
        for (uint32_t i = s->uses.first[v]; i < s->uses.first[v + 1]; i++)
            recount_node(s, t, s->uses.all[i].node, c, cost, failed);
    }
}

/* macs: of the nodes whose costs are known. */
static int recount(const struct solver *s, const struct cut *c, struct groups_cost *cost)
{
    struct cost_table *t = s->costs;
    bool failed = false;
    *cost = t->whole;
    t->now++;
    for (int i = 0; i < c->n_rows; i++)
        recount_root(s, t, c->rows[i], c, cost, &failed);
    return failed ? -1 : 0;
}

int groups_cost(const struct groups *g, const bool *const *gone, struct groups_cost *cost, struct err *err)
{
    const struct solver *s = g->solver;
    struct cut c;
    if (cut_plan(s, gone, false, &c, err))
        return -1;
    const int rc = recount(s, &c, cost);
    cut_fini(&c);
    if (s->costs->unknown)
        cost->macs = -1;
    return rc ? err_set(err, ERR_NOMEM, "out of memory while counting costs") : 0;
}

/* ---- one channel ---- */
/* All atoms of one group gone, divided by how many they are. Roots: those of its members. */
static int cost_group(struct solver *s, struct cut *c, struct group *g)
{
    struct groups_cost left;
    c->n_rows = 0;
    for (int i = 0; i < g->n_members; i++) {
        const struct group_member *m = &g->member[i];
        const int root = axis_root(s, row_of(s, m->value, m->axis));
        int64_t gone = 0;
        if (c->kept[root])
            continue;
        for (int64_t e = 0; e < m->size; e++)
            gone += m->atom[e] != ATOM_NONE;
        c->kept[root] = &c->count[root]; /* only says that something goes */
        c->count[root] = m->size - gone;
        c->rows[c->n_rows++] = root;
    }
    const int rc = recount(s, c, &left);
    for (int i = 0; i < c->n_rows; i++)
        c->kept[c->rows[i]] = NULL;
    g->params = (double)(s->costs->whole.params - left.params) / (double)g->n;
    g->bytes = (double)(s->costs->whole.bytes - left.bytes) / (double)g->n;
    g->macs = s->costs->unknown ? -1 : (double)(s->costs->whole.macs - left.macs) / (double)g->n;
    return rc;
}

int solver_costs(struct solver *s, struct err *err)
{
    const size_t nodes = (size_t)s->m->n_nodes + 1, values = (size_t)s->m->n_values + 1, rows = (size_t)s->n_axes + 1;
    struct cost_table *t = s->costs = arena_alloc(s->arena, sizeof *t);
    struct cut c = {calloc(rows, sizeof *c.kept), calloc(rows, sizeof *c.count), calloc(rows, sizeof *c.rows), 0};
    int rc = -1;
    if (t) {
        t->macs = arena_calloc(s->arena, nodes, sizeof *t->macs);
        t->parameter = arena_calloc(s->arena, values, sizeof *t->parameter);
        t->stamp_node = arena_calloc(s->arena, nodes, sizeof *t->stamp_node);
        t->stamp_value = arena_calloc(s->arena, values, sizeof *t->stamp_value);
        rc = t->macs && t->parameter && t->stamp_node && t->stamp_value && c.kept && c.count && c.rows ? 0 : -1;
    }
    if (rc == 0)
        rc = list_rows(s, t);
    if (rc)
        err_set(err, ERR_NOMEM, "out of memory while counting costs");
    if (rc == 0)
        rc = fill_types(s, t, err);
    if (rc == 0)
        rc = count_whole(s, t) ? err_set(err, ERR_NOMEM, "out of memory while counting costs") : 0;
    for (int i = 0; rc == 0 && i < s->groups->n; i++) {
        struct group *g = &s->groups->at[i];
        g->macs = s->costs->unknown ? -1 : 0;
        if (g->n && cost_group(s, &c, g))
            rc = err_set(err, ERR_NOMEM, "out of memory while counting costs");
    }
    free(c.kept);
    free(c.count);
    free(c.rows);
    return rc;
}
