/* SPDX-License-Identifier: Apache-2.0
 * Nodes that work on blocked images as on plain ones: element-wise operators, pools, concatenation of channels. A node
 * follows the layout when its images have twins already; constants of one value a channel get the blocked form.
 * Lanes      beyond the last channel must stay finite (blocked.h), so operators that make infinities or NaN of ordinary
 *            numbers (Log, Reciprocal, Div by an image, ...) are not here. */
#include <string.h>

#include "core/engine/fuse_conv.h"
#include "core/kernels/blocked.h"
#include "core/kernels/pool_blocked.h"

static const char *const unary[] = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish", "Clip",
                                    "Elu", "Selu", "Celu", "Softplus", "Softsign", "Abs", "Neg", "Erf", "Gelu", "Mish",
                                    "ThresholdedRelu", "Identity", NULL};
/* Operators of two images; `rest` is what a constant's unused lanes hold. */
static const struct {
    const char *type;
    float rest;
    bool image_second; /* the second input may be an image too */
} binary[] = {{"Add", 0, true}, {"Sub", 0, true}, {"Mul", 0, true}, {"Div", 1, false},
              {"Max", 0, true}, {"Min", 0, true}, {"PRelu", 0, false}};

static bool is_one_of(const struct node *n, const char *const *names)
{
    for (; *names; names++)
        if (node_is(n, *names))
            return true;
    return false;
}

static const struct shape *shape_of(const struct fuse *f, uint32_t value)
{
    return &f->o->type[value].shape;
}

/* The node itself goes on, with other inputs and the twin of its output. */
static int move(struct fuse *f, uint32_t node, const uint32_t *in, int n_in, struct err *err)
{
    const struct node *n = &f->m->nodes[node];
    const uint32_t value = n->output[0], out = fuse_new_twin(f, value, err);
    const char *type = n->op_type, *domain = n->domain, *name = n->name;
    struct attr *attr = n->attr;
    const int n_attr = n->n_attr;
    if (out == VALUE_NONE)
        return -1;
    fuse_drop(f, node);
    const uint32_t id = model_add_node(f->m, 0, type, domain, name, in, n_in, &out, 1);
    if (id == NODE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory");
    f->m->nodes[id].attr = attr;
    f->m->nodes[id].n_attr = n_attr;
    return 1;
}

/* ---- element-wise ---- */
static int move_unary(struct fuse *f, uint32_t node, struct err *err)
{
    const struct node *n = &f->m->nodes[node];
    uint32_t in[3];
    struct act act;
    if (n->n_output != 1 || n->n_input < 1 || n->n_input > 3 || fuse_twin(f, n->input[0]) == VALUE_NONE ||
        !fuse_is_image(f, n->output[0]))
        return 0;
    if (!is_one_of(n, unary) && !fuse_read_act(f->o, node, &act))
        return 0;
    in[0] = f->twin[n->input[0]];
    for (int i = 1; i < n->n_input; i++)
        in[i] = n->input[i]; /* bounds of Clip: scalars */
    return move(f, node, in, n->n_input, err);
}

/* A constant that broadcasts against an image of this many channels and rank: one number, or one a channel. The value
 * to use instead; VALUE_NONE with *fits false: it is another constant. */
static uint32_t blocked_constant(struct fuse *f, uint32_t value, const struct shape *image, float rest, bool *fits,
                                 struct err *err)
{
    const struct tensor *t = value_const(f->m, value);
    *fits = false;
    if (!t || t->dtype != DTYPE_FLOAT || !t->data || t->shape.rank > image->rank)
        return VALUE_NONE;
    const int64_t count = tensor_count(t);
    const int axis = t->shape.rank - (image->rank - 1); /* of the channels */
    if (count != 1 && (axis < 0 || t->shape.dim[axis] != count || count != image->dim[1]))
        return VALUE_NONE;
    *fits = true;
    if (count == 1) {
        struct tensor one = {0};
        if (tensor_alloc(&one, DTYPE_FLOAT, &SHAPE(1), err))
            return VALUE_NONE;
        tensor_f32(&one)[0] = tensor_f32(t)[0];
        return optimize_add_weight(f->o, f->m->values[value].name, &one, err);
    }
    return fuse_channels(f, f->m->values[value].name, t->data, count, rest, 5, err);
}

/* Two images broadcast in blocked form as in plain form: same channels, other axes equal or 1. */
static bool broadcast_alike(const struct shape *a, const struct shape *b)
{
    return a->rank == b->rank && a->dim[1] == b->dim[1];
}

static int move_binary(struct fuse *f, uint32_t node, size_t row, struct err *err)
{
    const struct node *n = &f->m->nodes[node];
    uint32_t in[2];
    if (n->n_output != 1 || n->n_input != 2 || !fuse_is_image(f, n->output[0]))
        return 0;
    const uint32_t value[2] = {n->input[0], n->input[1]};
    const uint32_t twin[2] = {fuse_twin(f, value[0]), fuse_twin(f, value[1])};
    if (twin[0] != VALUE_NONE && twin[1] != VALUE_NONE) {
        if (!binary[row].image_second || !broadcast_alike(shape_of(f, value[0]), shape_of(f, value[1])))
            return 0;
        return move(f, node, twin, 2, err);
    }
    const int image = twin[0] != VALUE_NONE ? 0 : 1;
    if (twin[image] == VALUE_NONE || (image == 1 && !binary[row].image_second) ||
        !broadcast_alike(shape_of(f, value[image]), shape_of(f, n->output[0])))
        return 0;
    bool fits;
    in[image] = twin[image];
    in[!image] = blocked_constant(f, value[!image], shape_of(f, value[image]), binary[row].rest, &fits, err);
    if (!fits)
        return 0;
    return in[!image] == VALUE_NONE ? -1 : move(f, node, in, 2, err);
}

/* ---- concatenation ---- */
static int move_concat(struct fuse *f, uint32_t node, struct err *err)
{
    const struct node *n = &f->m->nodes[node];
    const int64_t axis = node_attr_int(n, "axis", 1);
    if (n->n_output != 1 || n->n_input < 1 || !fuse_is_image(f, n->output[0]) ||
        (axis != 1 && axis != 1 - shape_of(f, n->output[0])->rank))
        return 0;
    for (int i = 0; i < n->n_input; i++) {
        if (fuse_twin(f, n->input[i]) == VALUE_NONE ||
            (i + 1 < n->n_input && shape_of(f, n->input[i])->dim[1] % BLOCK != 0))
            return 0;
    }
    const int n_in = n->n_input;
    uint32_t *in = model_alloc(f->m, (size_t)n_in, sizeof *in);
    if (!in)
        return err_set(err, ERR_NOMEM, "out of memory");
    n = &f->m->nodes[node];
    for (int i = 0; i < n_in; i++)
        in[i] = f->twin[n->input[i]];
    const uint32_t value = n->output[0];
    if (move(f, node, in, n_in, err) < 0)
        return -1;
    node_set_int(f->m, f->m->values[f->twin[value]].producer, "axis", 1);
    return 1;
}

/* ---- pools ---- */
/* Two axes, every window has a cell inside: pads smaller than the kernel, no dilation. */
static bool pool_fits(const struct node *n)
{
    const struct attr *kernel = node_attr(n, "kernel_shape"), *pads = node_attr(n, "pads");
    const struct attr *dilations = node_attr(n, "dilations");
    if (!kernel || kernel->type != ATTR_INTS || kernel->count != 2 || kernel->ints[0] > POOL_BLOCKED_ROWS ||
        kernel->ints[0] < 1 || kernel->ints[1] < 1)
        return false;
    for (int i = 0; pads && i < pads->count; i++)
        if (pads->type != ATTR_INTS || pads->count != 4 || pads->ints[i] >= kernel->ints[i % 2])
            return false;
    for (int i = 0; dilations && i < dilations->count; i++)
        if (dilations->type != ATTR_INTS || dilations->ints[i] != 1)
            return false;
    return true;
}

static int move_pool(struct fuse *f, uint32_t node, const char *op_type, struct err *err)
{
    const struct node *n = &f->m->nodes[node];
    if (fuse_twin(f, n->input[0]) == VALUE_NONE || !fuse_is_image(f, n->output[0]) ||
        shape_of(f, n->output[0])->rank != 4)
        return 0;
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE)
            return 0;
    const bool global = strcmp(op_type, "GlobalAveragePoolBlocked") == 0;
    if (!global && !pool_fits(n))
        return 0;
    const uint32_t in = f->twin[n->input[0]], out = fuse_new_twin(f, n->output[0], err);
    if (out == VALUE_NONE)
        return -1;
    n = &f->m->nodes[node];
    struct attr *attr = n->attr;
    const int n_attr = n->n_attr;
    fuse_drop(f, node);
    const uint32_t id = fuse_add(f, op_type, &in, 1, out, err);
    if (id == NODE_NONE)
        return -1;
    if (!global) {
        f->m->nodes[id].attr = attr;
        f->m->nodes[id].n_attr = n_attr;
        node_remove_attr(f->m, id, "storage_order");
    }
    return 1;
}

/* The average over the two spatial axes, which stay. */
static bool is_spatial_mean(const struct fuse *f, const struct node *n)
{
    int64_t axes[2] = {0, 0};
    if (!node_is(n, "ReduceMean") || n->n_input < 1 || node_attr_int(n, "keepdims", 1) != 1)
        return false;
    const struct attr *a = node_attr(n, "axes");
    const struct tensor *t = n->n_input > 1 ? value_const(f->m, n->input[1]) : NULL;
    if (a && a->type == ATTR_INTS && a->count == 2)
        memcpy(axes, a->ints, sizeof axes);
    else if (t && t->dtype == DTYPE_INT64 && t->data && tensor_count(t) == 2)
        memcpy(axes, t->data, sizeof axes);
    else
        return false;
    for (int i = 0; i < 2; i++)
        axes[i] += axes[i] < 0 ? 4 : 0;
    return axes[0] + axes[1] == 5 && (axes[0] == 2 || axes[0] == 3);
}

int fuse_layout_node(struct fuse *f, uint32_t node, struct err *err)
{
    static const struct {
        const char *type, *blocked;
    } pools[] = {{"MaxPool", "MaxPoolBlocked"},
                 {"AveragePool", "AveragePoolBlocked"},
                 {"GlobalAveragePool", "GlobalAveragePoolBlocked"}};
    const struct node *n = &f->m->nodes[node];
    if (n->n_input < 1 || n->n_output < 1 || n->graph != 0)
        return 0;
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++)
        if (node_is(n, pools[i].type))
            return move_pool(f, node, pools[i].blocked, err);
    if (is_spatial_mean(f, n))
        return move_pool(f, node, "GlobalAveragePoolBlocked", err);
    for (size_t i = 0; i < sizeof binary / sizeof binary[0]; i++)
        if (node_is(n, binary[i].type))
            return move_binary(f, node, i, err);
    if (node_is(n, "Concat"))
        return move_concat(f, node, err);
    return move_unary(f, node, err);
}
