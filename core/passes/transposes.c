/* SPDX-License-Identifier: Apache-2.0
 * transposes.c - exporters of channels-last frameworks wrap every convolution in two Transposes. They go by
 *   merging   Transpose(Transpose(x)) is one Transpose; an identity one is removed by remove_noops;
 *   pushing   f(Transpose(x)) = Transpose(f'(x)) for element-wise f, Concat, Pad and Reduce*, until two meet. Constants
 * of f are transposed back instead. Only downwards, and only where the number of Transposes does not grow, so it ends;
 *   dropping  a Transpose that moves only axes of size 1, before a Reshape or Flatten: the order of elements is the
 * same. */
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"

struct perm {
    int rank;
    int64_t at[SHAPE_MAX_RANK]; /* output axis i is input axis at[i] */
};

static bool perm_of(const struct pass_ctx *c, uint32_t node, struct perm *p)
{
    const struct node *n = &c->edit.m->nodes[node];
    const struct attr *a = node_attr(n, "perm");
    if (a && (a->type != ATTR_INTS || a->ref_name || a->count < 1 || a->count > SHAPE_MAX_RANK))
        return false;
    p->rank = a ? a->count : infer_rank_of(&c->infer, n->input[0]);
    if (p->rank < 1)
        return false;
    unsigned seen = 0;
    for (int i = 0; i < p->rank; i++) {
        p->at[i] = a ? a->ints[i] : p->rank - 1 - i;
        if (p->at[i] < 0 || p->at[i] >= p->rank)
            return false;
        seen |= 1u << p->at[i];
    }
    return seen == (1u << p->rank) - 1;
}

static bool perm_equal(const struct perm *a, const struct perm *b)
{
    return a->rank == b->rank && memcmp(a->at, b->at, (size_t)a->rank * sizeof a->at[0]) == 0;
}

static uint32_t transpose_of(const struct pass_ctx *c, uint32_t value, struct perm *p)
{
    uint32_t t = edit_producer(&c->edit, value, "Transpose");
    return t != NODE_NONE && perm_of(c, t, p) ? t : NODE_NONE;
}

static void merge(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    struct perm outer, inner;
    uint32_t t = transpose_of(c, m->nodes[node].input[0], &inner);
    if (t == NODE_NONE || m->nodes[t].graph != m->nodes[node].graph || !perm_of(c, node, &outer) ||
        outer.rank != inner.rank)
        return;
    int64_t both[SHAPE_MAX_RANK];
    for (int i = 0; i < outer.rank; i++)
        both[i] = inner.at[outer.at[i]];
    node_set_ints(m, node, "perm", both, outer.rank);
    edit_set_input(&c->edit, node, 0, m->nodes[t].input[0]);
    c->changes++;
}

/* ---- dropping ---- */
static bool moves_only_ones(const struct shape *s, const struct perm *p)
{
    if (s->rank != p->rank)
        return false;
    int64_t last = -1;
    for (int i = 0; i < p->rank; i++) {
        if (s->dim[p->at[i]] == 1)
            continue;
        if (p->at[i] < last)
            return false;
        last = p->at[i];
    }
    return true;
}

/* The reader gives the same result whatever the order of size-1 axes. */
static bool ignores_order(const struct pass_ctx *c, const struct node *n, const struct perm *p)
{
    if (node_is(n, "Flatten"))
        return node_attr_int(n, "axis", 1) == 1 && p->at[0] == 0;
    if (!node_is(n, "Reshape") || n->n_input < 2)
        return false;
    int64_t target[SHAPE_MAX_RANK];
    int rank = const_ints(c->edit.m, n->input[1], target, SHAPE_MAX_RANK);
    for (int i = 0; i < rank; i++)
        if (target[i] == 0 && (i >= p->rank || p->at[i] != i))
            return false; /* 0 copies the dim at its place */
    return rank >= 0;
}

static void drop(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    const struct node *n = &m->nodes[node];
    struct perm p;
    if (n->n_input < 1)
        return;
    uint32_t t = transpose_of(c, n->input[0], &p);
    if (t == NODE_NONE || !ignores_order(c, n, &p) ||
        !moves_only_ones(infer_shape_of(&c->infer, m->nodes[t].input[0]), &p))
        return;
    edit_set_input(&c->edit, node, 0, m->nodes[t].input[0]);
    c->changes++;
}

/* ---- pushing ---- */
enum push_kind { PUSH_UNARY, PUSH_BROADCAST, PUSH_CONCAT, PUSH_PAD, PUSH_REDUCE };
static const struct {
    const char *op_type;
    enum push_kind kind;
} pushable[] = {
    {"Relu", PUSH_UNARY},        {"LeakyRelu", PUSH_UNARY},  {"Sigmoid", PUSH_UNARY},    {"Tanh", PUSH_UNARY},
    {"Clip", PUSH_UNARY},        {"Elu", PUSH_UNARY},        {"Selu", PUSH_UNARY},       {"Celu", PUSH_UNARY},
    {"HardSigmoid", PUSH_UNARY}, {"HardSwish", PUSH_UNARY},  {"Softplus", PUSH_UNARY},   {"Softsign", PUSH_UNARY},
    {"Mish", PUSH_UNARY},        {"Gelu", PUSH_UNARY},       {"Erf", PUSH_UNARY},        {"Exp", PUSH_UNARY},
    {"Log", PUSH_UNARY},         {"Sqrt", PUSH_UNARY},       {"Neg", PUSH_UNARY},        {"Abs", PUSH_UNARY},
    {"Reciprocal", PUSH_UNARY},  {"Ceil", PUSH_UNARY},       {"Floor", PUSH_UNARY},      {"Round", PUSH_UNARY},
    {"Sign", PUSH_UNARY},        {"Cast", PUSH_UNARY},       {"Identity", PUSH_UNARY},   {"Add", PUSH_BROADCAST},
    {"Sub", PUSH_BROADCAST},     {"Mul", PUSH_BROADCAST},    {"Div", PUSH_BROADCAST},    {"Pow", PUSH_BROADCAST},
    {"Max", PUSH_BROADCAST},     {"Min", PUSH_BROADCAST},    {"Sum", PUSH_BROADCAST},    {"Mean", PUSH_BROADCAST},
    {"PRelu", PUSH_BROADCAST},   {"Concat", PUSH_CONCAT},    {"Pad", PUSH_PAD},          {"ReduceMean", PUSH_REDUCE},
    {"ReduceSum", PUSH_REDUCE},  {"ReduceMax", PUSH_REDUCE}, {"ReduceMin", PUSH_REDUCE},
};

/* A constant seen through the inverse permutation: shape padded with leading ones, then transposed back. */
static uint32_t untranspose_const(struct pass_ctx *c, uint32_t graph, uint32_t value, const struct perm *p)
{
    const struct tensor *t = value_const(c->edit.m, value);
    struct shape in = {.rank = p->rank}, out = {.rank = p->rank};
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};
    struct tensor r = {0};
    int lead = p->rank - t->shape.rank;
    for (int i = 0; i < p->rank; i++)
        in.dim[i] = i < lead ? 1 : t->shape.dim[i - lead];
    for (int i = 0; i < p->rank; i++)
        out.dim[p->at[i]] = in.dim[i];
    shape_strides(&in, false, stride);
    if (tensor_alloc(&r, t->dtype, &out, NULL)) {
        c->edit.failed = true;
        return VALUE_NONE;
    }
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    int64_t place[SHAPE_MAX_RANK]; /* stride in the source of each axis of the result */
    for (int i = 0; i < p->rank; i++)
        place[p->at[i]] = stride[i];
    for (int64_t k = 0, n = tensor_count(&r); k < n; k++) {
        int64_t from = 0;
        for (int i = 0; i < p->rank; i++)
            from += index[i] * place[i];
        memcpy((char *)r.data + (size_t)k * width, (const char *)t->data + (size_t)from * width, width);
        for (int i = p->rank - 1; i >= 0 && ++index[i] == out.dim[i]; i--)
            index[i] = 0;
    }
    uint32_t v = edit_add_weight(&c->edit, graph, c->edit.m->values[value].name, &r);
    tensor_fini(&r);
    return v;
}

static bool const_fits(const struct pass_ctx *c, uint32_t value, int rank)
{
    const struct tensor *t = value_const(c->edit.m, value);
    return t && t->data && t->dtype != DTYPE_STRING && dtype_bits(t->dtype) >= 8 && t->shape.rank <= rank &&
           tensor_count(t) > 0 && c->edit.m->values[value].notes == NULL;
}

/* Every input is a Transpose by the same permutation or a constant, and at least one Transpose would go. */
static bool inputs_agree(struct pass_ctx *c, const struct node *n, enum push_kind kind, struct perm *p)
{
    bool found = false, gain = false;
    int inputs = kind == PUSH_BROADCAST || kind == PUSH_CONCAT ? n->n_input : 1;
    for (int i = 0; i < inputs; i++) {
        struct perm q;
        uint32_t t = n->input[i] == VALUE_NONE ? NODE_NONE : transpose_of(c, n->input[i], &q);
        if (t == NODE_NONE)
            continue;
        if (found && !perm_equal(p, &q))
            return false;
        if (c->edit.m->nodes[t].graph != n->graph)
            return false;
        *p = q;
        found = true;
        gain = gain || edit_only_reader(&c->edit, n->input[i]) != NODE_NONE;
    }
    for (int i = 0; found && i < inputs; i++) {
        struct perm q;
        if (n->input[i] == VALUE_NONE)
            return false;
        if (transpose_of(c, n->input[i], &q) != NODE_NONE)
            continue;
        if (!const_fits(c, n->input[i], p->rank))
            return false;
        if (kind == PUSH_CONCAT && value_const(c->edit.m, n->input[i])->shape.rank != p->rank)
            return false;
    }
    return found && gain;
}

/* Clip's bounds and Cast's target do not care; `axis` and `broadcast` of opsets below 7 do. */
static bool is_plain(const struct node *n)
{
    return !node_attr(n, "axis") && !node_attr(n, "broadcast");
}

/* Axes of Concat, Pad, Reduce*, seen before the Transpose. False: not known. *plain: the result needs no Transpose. */
static bool move_axes(struct pass_ctx *c, uint32_t node, enum push_kind kind, const struct perm *p, bool *plain)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    int64_t v[2 * SHAPE_MAX_RANK], r[2 * SHAPE_MAX_RANK];
    *plain = false;
    if (kind == PUSH_CONCAT) {
        int64_t axis = node_attr_int(n, "axis", 1);
        if (axis < 0)
            axis += p->rank;
        if (axis < 0 || axis >= p->rank)
            return false;
        node_set_int(m, node, "axis", p->at[axis]);
        return true;
    }
    bool by_attr = node_attr(n, kind == PUSH_PAD ? "pads" : "axes") != NULL;
    int count = node_ints(m, n, kind == PUSH_PAD ? "pads" : "axes", 1, v, 2 * SHAPE_MAX_RANK);
    if (kind == PUSH_PAD) {
        if (count != 2 * p->rank || n->n_input > 3)
            return false;
        for (int i = 0; i < p->rank; i++) {
            r[p->at[i]] = v[i];
            r[p->rank + p->at[i]] = v[p->rank + i];
        }
    } else {
        unsigned reduced = 0;
        int64_t last = -1;
        if (count < 1)
            return false;
        for (int i = 0; i < count; i++) {
            if (v[i] < 0)
                v[i] += p->rank;
            if (v[i] < 0 || v[i] >= p->rank)
                return false;
            r[i] = p->at[v[i]];
            reduced |= 1u << v[i];
        }
        if (node_attr_int(n, "keepdims", 1) == 0) {
            for (int i = 0; i < p->rank; i++) {
                if (reduced >> i & 1)
                    continue;
                if (p->at[i] < last)
                    return false; /* the axes left would still be out of order */
                last = p->at[i];
            }
            *plain = true;
        }
    }
    if (by_attr)
        node_set_ints(m, node, kind == PUSH_PAD ? "pads" : "axes", r, count);
    else
        edit_set_input(&c->edit, node, 1,
                       edit_add_ints(&c->edit, n->graph, kind == PUSH_PAD ? "pads" : "axes", r, count));
    return true;
}

static void push(struct pass_ctx *c, uint32_t node, enum push_kind kind)
{
    struct model *m = c->edit.m;
    struct perm p = {0};
    bool plain = false;
    if (m->nodes[node].n_output != 1 || (kind != PUSH_CONCAT && !is_plain(&m->nodes[node])))
        return;
    if (!inputs_agree(c, &m->nodes[node], kind, &p))
        return;
    if (kind >= PUSH_CONCAT && !move_axes(c, node, kind, &p, &plain))
        return;
    int inputs = kind == PUSH_BROADCAST || kind == PUSH_CONCAT ? m->nodes[node].n_input : 1;
    uint32_t graph = m->nodes[node].graph;
    for (int i = 0; i < inputs; i++) {
        struct perm q;
        uint32_t in = m->nodes[node].input[i], t = transpose_of(c, in, &q);
        if (t != NODE_NONE)
            in = m->nodes[t].input[0];
        else if (tensor_count(value_const(m, in)) > 1)
            in = untranspose_const(c, graph, in, &p);
        edit_set_input(&c->edit, node, i, in);
    }
    c->changes++;
    if (plain)
        return;
    /* node makes a new value; the old one, with its name and readers, comes out of a Transpose behind it. */
    uint32_t out = m->nodes[node].output[0];
    uint32_t raw = edit_add_value(&c->edit, graph, m->values[out].name);
    if (raw == VALUE_NONE)
        return;
    uint32_t t = edit_add_node(&c->edit, graph, "Transpose", NULL, &raw, 1, &out, 1);
    if (t == NODE_NONE)
        return;
    edit_move_output(&c->edit, raw, node, 0);
    m->values[out].producer = t;
    m->values[out].slot = 0;
    node_set_ints(m, t, "perm", p.at, p.rank);
}

int pass_transposes(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    (void)err;
    for (uint32_t id = 0, n = m->n_nodes; id < n; id++) {
        if (!edit_node_is_live(&c->edit, id) || m->nodes[id].n_input < 1 || m->nodes[id].input[0] == VALUE_NONE)
            continue;
        if (node_is(&m->nodes[id], "Transpose")) {
            merge(c, id);
            continue;
        }
        drop(c, id);
        for (size_t i = 0; i < sizeof pushable / sizeof pushable[0]; i++)
            if (node_is(&m->nodes[id], pushable[i].op_type)) {
                push(c, id, pushable[i].kind);
                break;
            }
    }
    return 0;
}
