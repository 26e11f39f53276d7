/* SPDX-License-Identifier: Apache-2.0
 * add_bias.c - a constant added (or subtracted) after a product becomes the product's bias.
 * The constant must be one number or one per output channel: broadcast against the product's output, all its dims are 1
 * but the channel's (axis 1 of Conv and ConvTranspose, the last of Gemm and MatMul). A MatMul becomes a Gemm, so it
 * must be 2-D. */
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"

static uint32_t find_product(struct pass_ctx *c, uint32_t value)
{
    static const char *const types[] = {"Conv", "ConvTranspose", "Gemm", "MatMul"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        uint32_t p = edit_producer(&c->edit, value, types[i]);
        if (p != NODE_NONE)
            return p;
    }
    return NODE_NONE;
}

/* Output channels of a product with a constant weight, the rank of its output and the channel axis; 0: not this kind.
 */
static int64_t channels_of(const struct pass_ctx *c, const struct node *n, int *rank, int *axis)
{
    const struct tensor *w = n->n_input > 1 && n->input[1] != VALUE_NONE ? value_const(c->edit.m, n->input[1]) : NULL;
    if (!w || !dtype_is_float(w->dtype))
        return 0;
    *rank = w->shape.rank;
    *axis = 1;
    if (node_is(n, "Conv"))
        return w->shape.rank >= 3 ? w->shape.dim[0] : 0;
    if (node_is(n, "ConvTranspose"))
        return w->shape.rank >= 3 ? w->shape.dim[1] * node_attr_int(n, "group", 1) : 0;
    if (w->shape.rank != 2 || (node_is(n, "MatMul") && infer_rank_of(&c->infer, n->input[0]) != 2))
        return 0;
    return w->shape.dim[node_is(n, "Gemm") && node_attr_int(n, "transB", 0) ? 0 : 1];
}

static bool is_per_channel(const struct shape *s, int rank, int axis, int64_t channels)
{
    if (s->rank > rank)
        return false;
    for (int i = 0; i < s->rank; i++) {
        int at = i + rank - s->rank;
        if (s->dim[i] != 1 && !(at == axis && s->dim[i] == channels))
            return false;
    }
    return true;
}

/* Old bias + sign * addend per channel; NULL: the old bias does not allow it. */
static double *new_bias(const struct pass_ctx *c, const struct node *n, int64_t channels, uint32_t addend, double sign)
{
    int64_t count = 0, old_count = 0;
    bool has_old = n->n_input > 2 && n->input[2] != VALUE_NONE;
    double *old = has_old ? const_doubles(c->edit.m, n->input[2], &old_count) : NULL;
    double *add = const_doubles(c->edit.m, addend, &count), *b = calloc((size_t)channels, sizeof *b);
    double beta = node_is(n, "Gemm") ? (double)node_attr_float(n, "beta", 1) : 1;
    bool fits =
        add && b && (!has_old || (old && is_per_channel(&value_const(c->edit.m, n->input[2])->shape, 2, 1, channels)));
    for (int64_t k = 0; fits && k < channels; k++)
        b[k] = sign * add[count == 1 ? 0 : k] + (has_old ? beta * old[old_count == 1 ? 0 : k] : 0);
    free(old);
    free(add);
    if (!fits) {
        free(b);
        b = NULL;
    }
    return b;
}

static int try_add(struct pass_ctx *c, uint32_t node, int slot, double sign, struct err *err)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    uint32_t x = n->input[slot], addend = n->input[1 - slot];
    int rank = 0, axis = 0;
    const struct tensor *t = addend == VALUE_NONE ? NULL : value_const(m, addend);
    uint32_t p = x == VALUE_NONE || !t ? NODE_NONE : find_product(c, x);
    if (p == NODE_NONE || edit_only_reader(&c->edit, x) != node)
        return 0;
    int64_t channels = channels_of(c, &m->nodes[p], &rank, &axis);
    if (channels < 1 || !is_per_channel(&t->shape, rank, axis, channels) ||
        t->dtype != value_const(m, m->nodes[p].input[1])->dtype)
        return 0;
    double *b = new_bias(c, &m->nodes[p], channels, addend, sign);
    if (!b)
        return 0;
    struct tensor bias = {0};
    int rc = tensor_from_doubles(&bias, t->dtype, &SHAPE(channels), b, err);
    free(b);
    if (rc)
        return -1;
    uint32_t out = n->output[0];
    edit_set_input(&c->edit, p, 2, edit_add_weight(&c->edit, m->nodes[p].graph, m->values[addend].name, &bias));
    tensor_fini(&bias);
    if (node_is(&m->nodes[p], "MatMul")) {
        m->nodes[p].op_type = "Gemm";
        if (c->opset < 7)
            node_set_int(m, p, "broadcast", 1);
    } else if (node_attr(&m->nodes[p], "beta")) {
        node_set_float(m, p, "beta", 1);
    }
    pass_row_folded(c, node, p, "add_bias");
    edit_remove_node(&c->edit, node);
    edit_move_output(&c->edit, out, p, 0);
    c->changes++;
    return 0;
}

int pass_add_bias(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        struct node *n = &m->nodes[id];
        bool add = edit_node_is_live(&c->edit, id) && node_is(n, "Add"), sub = n->op_type && node_is(n, "Sub");
        if (!edit_node_is_live(&c->edit, id) || (!add && !sub) || n->n_input != 2 || n->n_output != 1 ||
            node_attr(n, "axis") || node_attr(n, "broadcast"))
            continue;
        if (try_add(c, id, 0, sub ? -1 : 1, err))
            return -1;
        if (add && m->nodes[id].op_type && try_add(c, id, 1, 1, err))
            return -1;
    }
    return 0;
}
