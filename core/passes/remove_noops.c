/* SPDX-License-Identifier: Apache-2.0
 * remove_noops.c - nodes whose output equals their first input: a table of op types and the test that proves it. */
#include <string.h>

#include "core/passes/pass.h"

typedef bool noop_fn(const struct pass_ctx *c, const struct node *n);

static bool always(const struct pass_ctx *c, const struct node *n)
{
    (void)c;
    return n->n_input == 1;
}

/* Dropout at inference. From opset 12 an input may switch training on; below 7 an attribute may. */
static bool dropout(const struct pass_ctx *c, const struct node *n)
{
    if (c->opset < 7)
        return node_attr_int(n, "is_test", 0) != 0;
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return true;
    const struct tensor *t = value_const(c->edit.m, n->input[2]);
    return t && t->data && tensor_count(t) == 1 && dtype_get(t->dtype, t->data, 0) == 0;
}

static bool cast(const struct pass_ctx *c, const struct node *n)
{
    enum dtype from = infer_dtype_of(&c->infer, n->input[0]);
    return from != DTYPE_NONE && node_attr_int(n, "to", 0) == (int64_t)from;
}

static bool transpose(const struct pass_ctx *c, const struct node *n)
{
    const struct attr *perm = node_attr(n, "perm");
    if (!perm)
        return infer_rank_of(&c->infer, n->input[0]) >= 0 && infer_rank_of(&c->infer, n->input[0]) < 2;
    if (perm->ref_name || perm->type != ATTR_INTS)
        return false;
    for (int i = 0; i < perm->count; i++)
        if (perm->ints[i] != i)
            return false;
    return true;
}

/* The output's shape is proven to be the input's: same rank, every dim the same number or symbol, at most one unknown
 * dim (the element counts are equal, so it is equal too) provided the others are not zero. */
static bool same_shape(const struct infer *x, uint32_t a, uint32_t b)
{
    const struct shape *p = infer_shape_of(x, a), *q = infer_shape_of(x, b);
    if (p->rank < 0 || p->rank != q->rank)
        return false;
    int unknown = 0;
    for (int i = 0; i < p->rank; i++) {
        if (p->dim[i] == q->dim[i] && p->dim[i] != DIM_UNKNOWN && p->dim[i] != 0)
            continue;
        if (p->dim[i] >= 0 && q->dim[i] >= 0)
            return false;
        unknown++;
    }
    return unknown <= 1;
}

static bool reshape(const struct pass_ctx *c, const struct node *n)
{
    return same_shape(&c->infer, n->input[0], n->output[0]);
}

static bool flatten(const struct pass_ctx *c, const struct node *n)
{
    return infer_rank_of(&c->infer, n->input[0]) == 2 &&
           (node_attr_int(n, "axis", 1) == 1 || node_attr_int(n, "axis", 1) == -1);
}

static bool concat(const struct pass_ctx *c, const struct node *n)
{
    (void)c;
    return n->n_input == 1;
}

static bool pad(const struct pass_ctx *c, const struct node *n)
{
    int64_t pads[2 * SHAPE_MAX_RANK];
    int count = node_ints(c->edit.m, n, c->opset < 2 ? "paddings" : "pads", 1, pads, 2 * SHAPE_MAX_RANK);
    for (int i = 0; i < count; i++)
        if (pads[i] != 0)
            return false;
    return count > 0;
}

/* Known shapes, equal: of Slice, Expand and Tile only the whole can be as large as the input. */
static bool expand(const struct pass_ctx *c, const struct node *n)
{
    const struct shape *p = infer_shape_of(&c->infer, n->input[0]), *q = infer_shape_of(&c->infer, n->output[0]);
    return shape_known(p) && shape_known(q) && shape_equal(p, q);
}

static bool slice(const struct pass_ctx *c, const struct node *n)
{
    int64_t starts[SHAPE_MAX_RANK], ends[SHAPE_MAX_RANK], steps[SHAPE_MAX_RANK];
    int count = node_ints(c->edit.m, n, "starts", 1, starts, SHAPE_MAX_RANK);
    if (count < 0 || node_ints(c->edit.m, n, "ends", 2, ends, SHAPE_MAX_RANK) != count)
        return false;
    bool stepped = n->n_input > 4 && n->input[4] != VALUE_NONE;
    if (stepped && node_ints(c->edit.m, n, "steps", 4, steps, SHAPE_MAX_RANK) != count)
        return false;
    for (int i = 0; stepped && i < count; i++)
        if (steps[i] < 1)
            return false;
    for (int i = 0; i < count; i++)
        if (starts[i] != 0 || ends[i] < INT32_MAX || (stepped && steps[i] != 1)) /* "to the end" by convention */
            return expand(c, n);
    return true;
}

static const struct {
    const char *op_type;
    noop_fn *is_noop;
} noops[] = {
    {"Identity", always}, {"Dropout", dropout}, {"Cast", cast},         {"Transpose", transpose},
    {"Reshape", reshape}, {"Squeeze", reshape}, {"Unsqueeze", reshape}, {"Flatten", flatten},
    {"Concat", concat},   {"Sum", concat},      {"Max", concat},        {"Min", concat},
    {"Mean", concat},     {"Pad", pad},         {"Slice", slice},       {"Expand", expand},
    {"Tile", expand},
};

static bool other_outputs_used(struct pass_ctx *c, const struct node *n)
{
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && edit_count(&c->edit, n->output[i]) > 0)
            return true;
    return false;
}

int pass_remove_noops(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    (void)err;
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        struct node *n = &m->nodes[id];
        if (!edit_node_is_live(&c->edit, id) || n->n_input < 1 || n->input[0] == VALUE_NONE || n->n_output < 1 ||
            n->output[0] == VALUE_NONE)
            continue;
        for (size_t i = 0; i < sizeof noops / sizeof noops[0]; i++) {
            if (!node_is(n, noops[i].op_type))
                continue;
            if (noops[i].is_noop(c, n) && !other_outputs_used(c, n) &&
                edit_bypass(&c->edit, id, n->input[0], n->output[0]))
                c->changes++;
            break;
        }
    }
    return 0;
}
