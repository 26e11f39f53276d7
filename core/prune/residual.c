/* SPDX-License-Identifier: Apache-2.0
 * residual.c - residual branches of a graph (residual.h).
 *
 * A branch's own nodes are found backwards from the join: a node belongs to the branch when all that read it do. So the
 * work is that of the branch, not of the graph. Whether the branch starts at the kept side is a search backwards over nodes
 * that come later than it in topological order, which cannot leave the block by more than LOOK_BACK nodes.
 * Equal shapes are proven by symbols (core/passes/infer.h); where those are lost, in shapes that are computed while running, the
 * sizes are inferred for two different batches and must agree in both.
 * What is a join is a row of `joins`: which inputs are summed, and how the join is written with one of them missing. */
#include "core/prune/residual.h"

#include <stdlib.h>
#include <string.h>

#include "core/engine/engine.h"
#include "core/passes/pass.h"
#include "core/passes/weights.h"

enum { LOOK_BACK = 4096, OUT_SUM = 3 };

struct join_kind {
    const char *type, *domain;
    int sides;           /* inputs 0 .. sides - 1 are summed; 0: all */
    int used_outputs;    /* outputs from 1 on that may be read, as bits */
    int64_t opset;       /* needed of the default domain */
    const char *becomes; /* operator that is left; NULL: nothing */
    int (*drop)(struct edit *e, const struct residual_span *span, const struct join_kind *kind, struct err *err);
};

static int drop_side(struct edit *e, const struct residual_span *span, const struct join_kind *kind, struct err *err);
static int drop_skip(struct edit *e, const struct residual_span *span, const struct join_kind *kind, struct err *err);

static const struct join_kind joins[] = {
    {"Add", "", 2, 0, 1, NULL, drop_side},
    {"Sum", "", 0, 0, 1, NULL, drop_side},
    {"SkipLayerNormalization", "com.microsoft", 2, 1 << OUT_SUM, 17, "LayerNormalization", drop_skip},
    {"SkipSimplifiedLayerNormalization", "com.microsoft", 2, 1 << OUT_SUM, 1, "SimplifiedLayerNormalization",
     drop_skip},
};

static const struct join_kind *join_of(const struct node *n)
{
    for (size_t i = 0; i < sizeof joins / sizeof *joins; i++)
        if (!strcmp(n->op_type, joins[i].type) &&
            (*joins[i].domain ? n->domain && !strcmp(n->domain, joins[i].domain) : model_domain_is_default(n->domain)))
            return &joins[i];
    return NULL;
}

/* ---- finding ---- */
struct finder {
    struct residuals *r;
    struct model *m;
    struct edit edit;
    struct infer infer;
    uint32_t *place; /* of a node in topological order */
    uint32_t *stamp, now;
    int *hits; /* reads of a node's outputs by the branch; 0 outside a search */
    uint32_t *stack, *seen;
    int cap;
    bool tried;             /* sizes were asked for */
    struct shape *sized[2]; /* [n_values] for two sizes of what is free; NULL: they are not known */
};

/* Nodes that only `span`'s branch needs. entry: [cap] values the branch starts from; returns how many, -1: no memory. */
struct region {
    uint32_t *nodes, *entry;
    int n_nodes, n_entries, n_products;
};

static int reads_of(struct finder *f, uint32_t node)
{
    const struct node *n = &f->m->nodes[node];
    int reads = 0;
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE)
            reads += edit_count(&f->edit, n->output[i]);
    return reads;
}

static uint32_t maker(const struct finder *f, uint32_t value)
{
    const uint32_t p = value == VALUE_NONE ? NODE_NONE : f->m->values[value].producer;
    return p != NODE_NONE && f->m->nodes[p].op_type && f->m->nodes[p].graph == 0 ? p : NODE_NONE;
}

static bool is_product(const struct model *m, uint32_t node)
{
    const struct op_class *op = node_class(m, &m->nodes[node]);
    return !op || op->cost != NULL;
}

static int region_find(struct finder *f, uint32_t branch, struct region *g, struct err *err)
{
    int n = 0, n_seen = 0;
    uint32_t first = maker(f, branch);
    *g = (struct region){0};
    if (first == NODE_NONE)
        return 0;
    f->hits[first] = 1;
    f->seen[n_seen++] = first;
    if (reads_of(f, first) == 1)
        f->stack[n++] = first;
    for (int at = 0; at < n; at++) { /* the stack keeps what was taken: it is the list of nodes */
        const struct node *node = &f->m->nodes[f->stack[at]];
        g->n_products += is_product(f->m, f->stack[at]);
        for (int i = 0; i < node->n_input; i++) {
            const uint32_t p = maker(f, node->input[i]);
            if (p == NODE_NONE)
                continue;
            if (f->hits[p]++ == 0)
                f->seen[n_seen++] = p;
            if (f->hits[p] == reads_of(f, p))
                f->stack[n++] = p;
        }
    }
    g->n_nodes = n;
    g->nodes = arena_memdup(f->r->arena, f->stack, (size_t)n * sizeof *f->stack);
    int entries = 0;
    for (int at = 0; at < n; at++)
        entries += f->m->nodes[f->stack[at]].n_input;
    g->entry = arena_calloc(f->r->arena, (size_t)entries + 1, sizeof *g->entry);
    for (int at = 0; g->nodes && g->entry && at < n; at++)
        for (int i = 0; i < f->m->nodes[g->nodes[at]].n_input; i++) {
            const uint32_t v = f->m->nodes[g->nodes[at]].input[i];
            const uint32_t p = maker(f, v);
            if (v == VALUE_NONE || value_const(f->m, v) || (p != NODE_NONE && f->hits[p] == reads_of(f, p)))
                continue;
            g->entry[g->n_entries++] = v;
        }
    for (int i = 0; i < n_seen; i++)
        f->hits[f->seen[i]] = 0;
    return g->nodes && g->entry ? 0 : err_set(err, ERR_NOMEM, "out of memory while looking for residual branches");
}

/* Is `from` among what `value` is computed from? */
static bool descends(struct finder *f, uint32_t value, uint32_t from)
{
    const uint32_t start = maker(f, from);
    int n = 0, visited = 0;
    uint32_t p = maker(f, value);
    f->now++;
    if (p == NODE_NONE)
        return false;
    f->stack[n++] = p;
    f->stamp[p] = f->now;
    while (n > 0 && visited++ < LOOK_BACK) {
        const struct node *node = &f->m->nodes[f->stack[--n]];
        for (int i = 0; i < node->n_input; i++) {
            if (node->input[i] == from)
                return true;
            p = maker(f, node->input[i]);
            if (p == NODE_NONE || f->stamp[p] == f->now || (start != NODE_NONE && f->place[p] <= f->place[start]))
                continue;
            f->stamp[p] = f->now;
            f->stack[n++] = p;
        }
    }
    return false;
}

/* Shapes of all values for two batches, and two sizes of what else is free. Where that fails they stay unknown. */
static void infer_sizes(struct finder *f)
{
    static const int64_t batch[2] = {2, 3}, other[2] = {32, 64};
    struct plan *plan = plan_new(f->m, &(struct plan_opts){0}, NULL);
    const int n = plan ? plan_n_inputs(plan) : 0;
    struct shape *in = calloc((size_t)n + 1, sizeof *in);
    f->tried = true;
    for (int k = 0; k < 2 && plan && in; k++) {
        const struct type *types;
        for (int i = 0; i < n; i++)
            plan_input_shape(plan, i, batch[k], other[k], &in[i]);
        if (plan_infer(plan, in, &types, NULL) ||
            !(f->sized[k] = calloc(f->m->n_values + (size_t)1, sizeof **f->sized)))
            break;
        for (uint32_t v = 0; v < f->m->n_values; v++)
            f->sized[k][v] = types[v].kind == TYPE_TENSOR && types[v].has_shape ? types[v].shape : SHAPE_UNKNOWN;
    }
    free(in);
    plan_free(plan);
}

static bool sizes_agree(struct finder *f, uint32_t a, uint32_t b)
{
    if (!f->tried)
        infer_sizes(f);
    for (int k = 0; k < 2; k++) {
        if (!f->sized[k] || f->sized[k][a].rank < 0 || f->sized[k][a].rank != f->sized[k][b].rank)
            return false;
        for (int i = 0; i < f->sized[k][a].rank; i++)
            if (f->sized[k][a].dim[i] < 0 || f->sized[k][a].dim[i] != f->sized[k][b].dim[i])
                return false;
    }
    return true;
}

/* NULL: the shapes are equal. */
static const char *shapes_differ(struct finder *f, uint32_t a, uint32_t b)
{
    const struct shape *x = infer_shape_of(&f->infer, a), *y = infer_shape_of(&f->infer, b);
    if (x->rank < 0 || y->rank < 0)
        return sizes_agree(f, a, b) ? NULL : "the shapes of the two sides of the sum are not known";
    bool known = true;
    for (int i = 0; i < x->rank && x->rank == y->rank; i++) {
        if (x->dim[i] == DIM_UNKNOWN || y->dim[i] == DIM_UNKNOWN)
            known = false;
        else if (x->dim[i] != y->dim[i] && x->dim[i] >= 0 && y->dim[i] >= 0)
            return "the two sides of the sum have different shapes: one is repeated";
        else if (x->dim[i] != y->dim[i])
            known = false;
    }
    if (x->rank != y->rank)
        return "the two sides of the sum have different shapes: one is repeated";
    return known || sizes_agree(f, a, b) ? NULL : "the shapes of the two sides of the sum are not proven equal";
}

static const char *unfit(struct finder *f, const struct residual_span *s, const struct join_kind *kind)
{
    const struct node *n = &f->m->nodes[s->join];
    if (s->n_nodes == 0)
        return "its branch is read elsewhere too, so that leaving it out of the sum saves nothing";
    if (kind->becomes && model_opset(f->m, "") < kind->opset)
        return "what is left of it without the branch needs opset 17";
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && edit_count(&f->edit, n->output[i]) > 0 && !(kind->used_outputs >> i & 1))
            return "its mean or deviation is read";
    return shapes_differ(f, n->input[s->keep], n->input[s->drop]);
}

static bool subset(const struct region *inner, const struct region *outer, uint32_t value)
{
    for (int i = 0; i < inner->n_entries; i++) {
        bool found = inner->entry[i] == value;
        for (int k = 0; k < outer->n_entries && !found; k++)
            found = inner->entry[i] == outer->entry[k];
        if (!found)
            return false;
    }
    return inner->n_entries > 0;
}

static int add_span(struct finder *f, const struct residual_span *span, struct err *err)
{
    if (f->r->n == f->cap) {
        const int cap = f->cap ? f->cap * 2 : 16;
        struct residual_span *grown = realloc(f->r->at, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory while looking for residual branches");
        f->r->at = grown;
        f->cap = cap;
    }
    f->r->at[f->r->n++] = *span;
    return 0;
}

/* The branch of a join between two of its sides, if there is one. */
static int look_at_pair(struct finder *f, uint32_t join, const struct join_kind *kind, int a, int b, bool *found,
                        struct err *err)
{
    const struct node *n = &f->m->nodes[join];
    const uint32_t side[2] = {n->input[a], n->input[b]};
    struct region g[2];
    int drop = -1;
    bool projected = false;
    if (side[0] == VALUE_NONE || side[1] == VALUE_NONE || side[0] == side[1] || value_const(f->m, side[0]) ||
        value_const(f->m, side[1]))
        return 0;
    if (descends(f, side[1], side[0]))
        drop = 1;
    else if (descends(f, side[0], side[1]))
        drop = 0;
    if (region_find(f, side[0], &g[0], err) || region_find(f, side[1], &g[1], err))
        return -1;
    if (drop < 0) {
        const int more =
            g[1].n_products > g[0].n_products || (g[1].n_products == g[0].n_products && g[1].n_nodes >= g[0].n_nodes);
        projected = true;
        for (int k = 0; k < 2 && drop < 0; k++) {
            const int d = k == 0 ? more : !more;
            if (g[d].n_products > 0 && subset(&g[d], &g[!d], side[!d]))
                drop = d;
        }
    }
    if (drop < 0 || (g[drop].n_products == 0 && g[drop].n_nodes > 0))
        return 0;
    struct residual_span span = {.join = join,
                                 .keep = drop ? a : b,
                                 .drop = drop ? b : a,
                                 .projected = projected,
                                 .nodes = g[drop].nodes,
                                 .n_nodes = g[drop].n_nodes,
                                 .n_products = g[drop].n_products};
    span.skipped = unfit(f, &span, kind);
    *found = true;
    return add_span(f, &span, err);
}

static int look_at_join(struct finder *f, uint32_t join, struct err *err)
{
    const struct node *n = &f->m->nodes[join];
    const struct join_kind *kind = join_of(n);
    int sides = !kind ? 0 : kind->sides ? kind->sides : n->n_input;
    if (!kind || sides > n->n_input || sides > 16 || !node_class(f->m, n) || n->n_output < 1 ||
        n->output[0] == VALUE_NONE)
        return 0;
    for (int a = 0; a < sides; a++)
        for (int b = a + 1; b < sides; b++) {
            bool found = false;
            if (look_at_pair(f, join, kind, a, b, &found, err))
                return -1;
            if (found) /* one branch a time: the model is looked at again when it is gone */
                return 0;
        }
    return 0;
}

static int finder_init(struct finder *f, uint32_t *order, struct err *err)
{
    const size_t n = f->m->n_nodes + (size_t)1;
    f->place = calloc(n, sizeof *f->place);
    f->stamp = calloc(n, sizeof *f->stamp);
    f->hits = calloc(n, sizeof *f->hits);
    f->stack = calloc(n, sizeof *f->stack);
    f->seen = calloc(n, sizeof *f->seen);
    f->r->arena = arena_new();
    if (!f->place || !f->stamp || !f->hits || !f->stack || !f->seen || !f->r->arena)
        return err_set(err, ERR_NOMEM, "out of memory while looking for residual branches");
    if (model_toposort(f->m, 0, order, err) || infer_run(&f->infer, f->m, err) || edit_init(&f->edit, f->m, err))
        return -1;
    for (int i = 0; i < model_main(f->m)->n_nodes; i++)
        f->place[order[i]] = (uint32_t)i;
    return 0;
}

int residuals_find(struct residuals *r, struct model *m, struct err *err)
{
    struct finder f = {.r = r, .m = m};
    *r = (struct residuals){0};
    uint32_t *order = calloc((size_t)model_main(m)->n_nodes + 1, sizeof *order);
    int rc = order ? finder_init(&f, order, err)
                   : err_set(err, ERR_NOMEM, "out of memory while looking for residual branches");
    for (int i = 0; rc == 0 && i < model_main(m)->n_nodes; i++)
        if (m->nodes[order[i]].op_type)
            rc = look_at_join(&f, order[i], err);
    if (rc)
        residuals_fini(r);
    free(order);
    free(f.place);
    free(f.stamp);
    free(f.hits);
    free(f.stack);
    free(f.seen);
    free(f.sized[0]);
    free(f.sized[1]);
    infer_fini(&f.infer);
    edit_fini(&f.edit);
    return rc;
}

void residuals_fini(struct residuals *r)
{
    free(r->at);
    arena_free(r->arena);
    *r = (struct residuals){0};
}

/* ---- leaving out ---- */
/* `value`, made by a node that goes, is what `kept` is. */
static int become(struct edit *e, uint32_t node, uint32_t value, uint32_t kept, struct err *err)
{
    if (edit_bypass(e, node, kept, value))
        return 0;
    const char *name = e->m->nodes[node].name;
    const uint32_t id =
        edit_add_node(e, 0, "Identity", name, &kept, 1, &value, 1); /* an output of the graph keeps its name */
    if (id == NODE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory while leaving out a branch");
    edit_move_output(e, value, id, 0);
    edit_remove_node(e, node);
    return 0;
}

static int drop_side(struct edit *e, const struct residual_span *span, const struct join_kind *kind, struct err *err)
{
    const struct node *n = &e->m->nodes[span->join];
    const int left = n->n_input - 1;
    (void)kind;
    if (left == 1)
        return become(e, span->join, n->output[0], n->input[span->keep], err);
    for (int i = span->drop; i < left; i++)
        edit_set_input(e, span->join, i, e->m->nodes[span->join].input[i + 1]);
    edit_cut_inputs(e, span->join, left);
    return 0;
}

/* norm(x + branch + bias of the branch's last product) becomes norm(x), x itself being the sum. */
static int drop_skip(struct edit *e, const struct residual_span *span, const struct join_kind *kind, struct err *err)
{
    const struct node *n = &e->m->nodes[span->join];
    const bool centred = n->op_type && !strcmp(kind->becomes, "LayerNormalization");
    const uint32_t kept = n->input[span->keep], out = n->output[0];
    const uint32_t in[3] = {kept, n->n_input > 2 ? n->input[2] : VALUE_NONE,
                            centred && n->n_input > 3 ? n->input[3] : VALUE_NONE};
    const float epsilon = node_attr_float(n, "epsilon", 1e-12f);
    const uint32_t sum = n->n_output > OUT_SUM ? n->output[OUT_SUM] : VALUE_NONE;
    const uint32_t id = edit_add_node(e, 0, kind->becomes, n->name, in, in[2] == VALUE_NONE ? 2 : 3, &out, 1);
    if (id == NODE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory while leaving out a branch");
    node_set_int(e->m, id, "axis", -1);
    node_set_float(e->m, id, "epsilon", epsilon);
    edit_move_output(e, out, id, 0);
    if (sum != VALUE_NONE && edit_count(e, sum) > 0)
        return become(e, span->join, sum, kept, err);
    edit_remove_node(e, span->join);
    return 0;
}

int residual_drop(struct model *m, const struct residual_span *span, struct err *err)
{
    struct pass_ctx c = {0};
    if (edit_init(&c.edit, m, err))
        return -1;
    const struct join_kind *kind = join_of(&m->nodes[span->join]);
    int rc = kind->drop(&c.edit, span, kind, err);
    if (rc == 0)
        rc = pass_dead_code(&c, err);
    if (rc == 0)
        rc = edit_finish(&c.edit, err);
    edit_fini(&c.edit);
    return rc;
}
