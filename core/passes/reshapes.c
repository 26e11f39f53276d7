/* SPDX-License-Identifier: Apache-2.0
 * reshapes.c - the arithmetic around Reshape that exporters leave behind.
 *   targets   a computed shape whose elements are all proven becomes a constant; one that is a symbol equal to the
 * input's dim at that place is 0 (copy), and one element may stay open as -1. So "Shape, Gather, Unsqueeze, Concat"
 * dies; chains    of Reshape, Flatten, Squeeze, Unsqueeze become one Reshape. */
#include <string.h>

#include "core/passes/pass.h"

static bool reshapes_only(const struct node *n)
{
    return node_is(n, "Reshape") || node_is(n, "Flatten") || node_is(n, "Squeeze") || node_is(n, "Unsqueeze");
}

/* Reshape's target from what is known of its elements. False: more than one would stay open. */
static bool target_of(const struct content *k, const struct shape *in, int64_t *target)
{
    int open = 0;
    for (int i = 0; i < k->count; i++) {
        target[i] = k->v[i];
        if (k->number[i] && k->v[i] > 0)
            continue;
        if (k->number[i] && k->v[i] == 0)
            return false; /* copies a dim: as it is */
        if (!k->number[i] && k->v[i] != DIM_UNKNOWN && i < in->rank && in->dim[i] == k->v[i]) {
            target[i] = 0;
            continue;
        }
        target[i] = -1;
        if (++open > 1)
            return false;
    }
    return true;
}

static void constant_target(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    const struct node *n = &m->nodes[node];
    int64_t target[INFER_CONTENT_MAX];
    if (!node_is(n, "Reshape") || n->n_input != 2 || n->input[1] == VALUE_NONE || value_const(m, n->input[1]))
        return;
    const struct content *k = infer_content_of(&c->infer, n->input[1]);
    if (!k || k->scalar || node_attr_int(n, "allowzero", 0) != 0)
        return;
    if (!target_of(k, infer_shape_of(&c->infer, n->input[0]), target))
        return;
    edit_set_input(&c->edit, node, 1, edit_add_ints(&c->edit, n->graph, m->values[n->input[1]].name, target, k->count));
    c->changes++;
}

/* The output's shape as a Reshape target without 0: numbers above zero and at most one -1. */
static bool target_from_output(const struct shape *s, int64_t *target)
{
    int open = 0;
    if (s->rank < 0)
        return false;
    for (int i = 0; i < s->rank; i++) {
        target[i] = s->dim[i] < 0 ? -1 : s->dim[i];
        if (s->dim[i] == 0 || (s->dim[i] < 0 && ++open > 1))
            return false;
    }
    return true;
}

static void merge(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    int64_t target[SHAPE_MAX_RANK];
    uint32_t first = edit_producer(&c->edit, n->input[0], NULL);
    if (c->opset < 5 || first == NODE_NONE || !reshapes_only(&m->nodes[first]) || m->nodes[first].graph != n->graph)
        return;
    if (m->nodes[first].n_input < 1 || m->nodes[first].input[0] == VALUE_NONE)
        return;
    int count = node_is(n, "Reshape") && n->n_input == 2 ? const_ints(m, n->input[1], target, SHAPE_MAX_RANK) : -1;
    bool zeros = false;
    for (int i = 0; i < count; i++)
        zeros = zeros || target[i] == 0;
    if (count < 0 || zeros) {
        if (edit_only_reader(&c->edit, n->input[0]) != node ||
            !target_from_output(infer_shape_of(&c->infer, n->output[0]), target))
            return;
        count = infer_rank_of(&c->infer, n->output[0]);
        uint32_t shape = edit_add_ints(&c->edit, n->graph, "shape", target, count);
        if (shape == VALUE_NONE)
            return;
        n->op_type = "Reshape";
        n->n_attr = 0;
        edit_set_input(&c->edit, node, 1, shape);
    }
    edit_set_input(&c->edit, node, 0, m->nodes[first].input[0]);
    c->changes++;
}

int pass_reshapes(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    (void)err;
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        struct node *n = &m->nodes[id];
        if (!edit_node_is_live(&c->edit, id) || !reshapes_only(n) || n->n_input < 1 || n->n_output != 1 ||
            n->input[0] == VALUE_NONE)
            continue;
        constant_target(c, id);
        merge(c, id);
    }
    return 0;
}
