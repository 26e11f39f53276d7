/* SPDX-License-Identifier: Apache-2.0
 * factor_build.c - stages become nodes of the model (factor.h): new ones before the layer's own, which is the last of
 * them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/factor/factor.h"
#include "core/factor/linear.h"

struct building {
    struct edit *e;
    const struct layer *l;
    const char *base; /* of the names of nodes and values */
    struct err *err;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while writing factors");
}

/* A weight of this shape from doubles; VALUE_NONE with err. */
static uint32_t add_weight(const struct building *b, const char *suffix, const struct shape *shape, const double *v)
{
    struct model *m = b->e->m;
    struct tensor t = {0};
    uint32_t id = VALUE_NONE;
    const char *name = model_printf(m, "%s.%s", m->values[b->l->weight].name, suffix);
    if (!name || tensor_from_doubles(&t, b->l->dtype, shape, v, b->err))
        return VALUE_NONE;
    id = edit_add_weight(b->e, 0, name, &t);
    tensor_fini(&t);
    return id;
}

static const char *node_name(const struct building *b, const char *suffix)
{
    struct model *m = b->e->m;
    const char *name = model_printf(m, "%s.%s", b->base, suffix);
    for (int i = 2; name && model_find_node(m, name) != NODE_NONE; i++)
        name = model_printf(m, "%s.%s_%d", b->base, suffix, i);
    return name;
}

/* A node before the layer's own; returns what it makes. */
static uint32_t add_node(const struct building *b, const char *op, const char *suffix, const uint32_t in[2],
                         uint32_t *node)
{
    const char *name = model_printf(b->e->m, "%s.%s", b->base, suffix), *label = node_name(b, suffix);
    const uint32_t out = name && label ? edit_add_value(b->e, 0, name) : VALUE_NONE;
    if (out == VALUE_NONE)
        return out;
    *node = edit_add_node(b->e, 0, op, label, in, 2, &out, 1);
    if (*node == NODE_NONE)
        return VALUE_NONE;
    model_move_node(b->e->m, *node, b->l->node, false);
    return out;
}

/* ---- convolutions ---- */
struct window_attrs {
    int64_t stride[SHAPE_MAX_RANK], dilation[SHAPE_MAX_RANK], pad[2 * SHAPE_MAX_RANK];
    const char *auto_pad;
};

static void read_ints(const struct node *n, const char *name, int count, int64_t fallback, int64_t *out)
{
    const struct attr *a = node_attr(n, name);
    for (int i = 0; i < count; i++)
        out[i] = a && a->type == ATTR_INTS && a->count == count ? a->ints[i] : fallback;
}

static void read_window(const struct node *n, int spatial, struct window_attrs *w)
{
    const struct attr *a = node_attr(n, "auto_pad");
    read_ints(n, "strides", spatial, 1, w->stride);
    read_ints(n, "dilations", spatial, 1, w->dilation);
    read_ints(n, "pads", 2 * spatial, 0, w->pad);
    w->auto_pad = a && a->type == ATTR_STRING && a->count == 1 && strcmp(a->strings[0].data, "NOTSET")
                      ? a->strings[0].data
                      : NULL;
}

/* The part of the layer's window that a stage has. The rule of auto_pad works on each axis alone, and adds nothing to
 * an axis of kernel 1 and stride 1. */
static void write_window(struct model *m, uint32_t node, const struct layer *l, const struct stage *s,
                         const struct window_attrs *from)
{
    int64_t kernel[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK], dilation[SHAPE_MAX_RANK], pad[2 * SHAPE_MAX_RANK];
    const int n = l->spatial;
    for (int a = 0; a < n; a++) {
        const bool mine = s->axes >> a & 1;
        kernel[a] = mine ? l->kernel[a] : 1;
        stride[a] = mine ? from->stride[a] : 1;
        dilation[a] = mine ? from->dilation[a] : 1;
        pad[a] = mine ? from->pad[a] : 0;
        pad[n + a] = mine ? from->pad[n + a] : 0;
    }
    node_set_int(m, node, "group", l->groups * s->split);
    node_set_ints(m, node, "kernel_shape", kernel, n);
    node_set_ints(m, node, "strides", stride, n);
    node_set_ints(m, node, "dilations", dilation, n);
    if (from->auto_pad && s->axes) {
        node_remove_attr(m, node, "pads");
        node_set_string(m, node, "auto_pad", from->auto_pad);
    } else {
        node_remove_attr(m, node, "auto_pad");
        node_set_ints(m, node, "pads", pad, 2 * n);
    }
}

static uint32_t conv_weight(const struct building *b, const struct stage *s)
{
    struct shape shape = {.rank = b->l->spatial + 2, .dim = {b->l->groups * s->out, s->in / s->split}};
    for (int a = 0; a < b->l->spatial; a++)
        shape.dim[2 + a] = s->axes >> a & 1 ? b->l->kernel[a] : 1;
    return add_weight(b, s->suffix, &shape, s->w);
}

static int build_conv(const struct building *b, const struct stage *stage, int n)
{
    struct model *m = b->e->m;
    struct window_attrs window;
    uint32_t at = m->nodes[b->l->node].input[0];
    read_window(&m->nodes[b->l->node], b->l->spatial, &window);
    for (int i = 0; i < n; i++) {
        uint32_t node = b->l->node;
        const uint32_t w = conv_weight(b, &stage[i]);
        if (w == VALUE_NONE)
            return nomem(b->err);
        if (i + 1 < n && (at = add_node(b, "Conv", stage[i].suffix, (uint32_t[]){at, w}, &node)) == VALUE_NONE)
            return nomem(b->err);
        if (i + 1 == n) {
            edit_set_input(b->e, node, 0, at);
            edit_set_input(b->e, node, 1, w);
        }
        write_window(m, node, b->l, &stage[i], &window);
    }
    return 0;
}

/* ---- matrices ---- */
/* [rows][cols] as it is, or transposed. VALUE_NONE with err. */
static uint32_t matrix_weight(const struct building *b, const struct stage *s, bool transposed, int ones)
{
    const int64_t rows = s->out, cols = s->in;
    struct shape shape = {.rank = ones + 2};
    double *v = doubles_new(rows, cols, b->err);
    if (!v)
        return VALUE_NONE;
    for (int i = 0; i < ones; i++)
        shape.dim[i] = 1;
    shape.dim[ones] = transposed ? cols : rows;
    shape.dim[ones + 1] = transposed ? rows : cols;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            v[transposed ? c * rows + r : r * cols + c] = s->w[r * cols + c];
    const uint32_t id = add_weight(b, s->suffix, &shape, v);
    free(v);
    return id;
}

/* Leading axes of size 1 that the weight of a MatMul has. */
static int leading_ones(const struct model *m, const struct layer *l)
{
    const struct tensor *t = value_const(m, l->weight);
    return t && t->shape.rank > 2 ? t->shape.rank - 2 : 0;
}

static int build_matmul(const struct building *b, const struct stage *stage)
{
    struct model *m = b->e->m;
    const bool right = b->l->kind == LAYER_MATMUL_RIGHT;
    const int ones = leading_ones(m, b->l), slot = b->l->slot;
    const uint32_t x = m->nodes[b->l->node].input[1 - slot], w0 = matrix_weight(b, &stage[0], right, 0),
                   w1 = matrix_weight(b, &stage[1], right, ones);
    uint32_t node, in[2];
    if (w0 == VALUE_NONE || w1 == VALUE_NONE)
        return nomem(b->err);
    in[slot] = w0;
    in[1 - slot] = x;
    const uint32_t mid = add_node(b, "MatMul", stage[0].suffix, in, &node);
    if (mid == VALUE_NONE)
        return nomem(b->err);
    edit_set_input(b->e, b->l->node, slot, w1);
    edit_set_input(b->e, b->l->node, 1 - slot, mid);
    return 0;
}

static int build_gemm(const struct building *b, const struct stage *stage)
{
    struct model *m = b->e->m;
    const struct node *n = &m->nodes[b->l->node];
    const bool trans_a = node_attr_int(n, "transA", 0) != 0, trans_b = node_attr_int(n, "transB", 0) != 0;
    const bool gemm = model_opset(m, "") >= 11; /* before, it must have a third input */
    const uint32_t x = n->input[0], w0 = matrix_weight(b, &stage[0], !(gemm && trans_b), 0),
                   w1 = matrix_weight(b, &stage[1], !trans_b, 0);
    uint32_t node;
    if (w0 == VALUE_NONE || w1 == VALUE_NONE)
        return nomem(b->err);
    const uint32_t mid = add_node(b, gemm ? "Gemm" : "MatMul", stage[0].suffix, (uint32_t[]){x, w0}, &node);
    if (mid == VALUE_NONE)
        return nomem(b->err);
    if (gemm && trans_a)
        node_set_int(m, node, "transA", 1);
    if (gemm && trans_b)
        node_set_int(m, node, "transB", 1);
    if (trans_a)
        node_set_int(m, b->l->node, "transA", 0);
    edit_set_input(b->e, b->l->node, 0, mid);
    edit_set_input(b->e, b->l->node, 1, w1);
    return 0;
}

/* ---- bias ---- */
bool layer_takes_shift(const struct model *m, const struct layer *l)
{
    const struct node *n = &m->nodes[l->node];
    const bool gemm = l->kind == LAYER_GEMM;
    if ((l->kind != LAYER_CONV && !gemm) || l->dtype != DTYPE_FLOAT)
        return false;
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return !gemm || model_opset(m, "") >= 7;
    const struct tensor *t = value_const(m, n->input[2]);
    return t && t->dtype == DTYPE_FLOAT && t->data && tensor_count(t) == l->groups * l->out && t->shape.rank >= 1 &&
           t->shape.dim[t->shape.rank - 1] == l->groups * l->out && (!gemm || node_attr_float(n, "beta", 1) == 1.0f);
}

static int add_shift(const struct building *b, const double *shift)
{
    struct model *m = b->e->m;
    const struct node *n = &m->nodes[b->l->node];
    const int64_t count = b->l->groups * b->l->out;
    const uint32_t old = n->n_input > 2 ? n->input[2] : VALUE_NONE;
    const struct tensor *was = old == VALUE_NONE ? NULL : value_const(m, old);
    const struct shape shape = was ? was->shape : SHAPE(count);
    const double alpha = b->l->kind == LAYER_GEMM ? (double)node_attr_float(n, "alpha", 1) : 1;
    struct tensor t = {0};
    if (tensor_alloc(&t, DTYPE_FLOAT, &shape, b->err))
        return -1;
    for (int64_t i = 0; i < count; i++)
        tensor_f32(&t)[i] = (float)((was ? (double)tensor_f32(was)[i] : 0) + alpha * shift[i]);
    const char *name = was ? m->values[old].name : model_printf(m, "%s.bias", b->base);
    const uint32_t id = name ? edit_add_weight(b->e, 0, name, &t) : VALUE_NONE;
    tensor_fini(&t);
    if (id == VALUE_NONE)
        return nomem(b->err);
    if (!was && b->l->kind == LAYER_GEMM)
        node_remove_attr(m, b->l->node, "beta");
    edit_set_input(b->e, b->l->node, 2, id);
    return 0;
}

int stages_build(struct edit *e, const struct layer *l, const struct stage *stage, int n, const double *shift,
                 struct err *err)
{
    struct model *m = e->m;
    const struct node *own = &m->nodes[l->node];
    const struct building b = {e, l, own->name && *own->name ? own->name : m->values[own->output[0]].name, err};
    double size = 0;
    for (int64_t i = 0; shift && i < l->groups * l->out; i++)
        size += fabs(shift[i]);
    int rc = l->kind == LAYER_CONV   ? build_conv(&b, stage, n)
             : l->kind == LAYER_GEMM ? build_gemm(&b, stage)
                                     : build_matmul(&b, stage);
    if (rc == 0 && size > 0)
        rc = add_shift(&b, shift);
    return rc;
}
