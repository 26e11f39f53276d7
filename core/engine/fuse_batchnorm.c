/* SPDX-License-Identifier: Apache-2.0
 * fuse_batchnorm.c - what only multiplies and adds per channel goes into the weight and bias of the product before it.
 *
 *   BatchNormalization, Mul, Div, Add, Sub with constants per output channel, any number of them one after the other
 *
 * Products: Conv, ConvTranspose, Gemm, MatMul with constant weights. A MatMul becomes a Gemm where a bias is needed and
 * its operands are matrices, but only for a scale's sake: added constants alone are fuse_matmul's business. A weight
 * that is only shifted keeps its bytes. The arithmetic is channel_affine.h's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/optimize.h"
#include "core/kernels/channel_affine.h"

/* The product and what follows it so far: y = scale (W x + bias) + shift. */
struct chain {
    struct optimize *o;
    uint32_t product, last; /* last: the node whose output the chain makes */
    int rank, axis;         /* of the product's output; axis of its channels */
    struct channel_layout layout;
    const struct tensor *weight;
    double *scale, *shift; /* [channels] */
    double *a, *b;         /* [channels] of one more node */
    int links;
    bool scales; /* some scale is not 1 */
};

static bool starts(struct chain *c, uint32_t id)
{
    const struct model *m = c->o->m;
    const struct node *n = &m->nodes[id];
    const bool conv = node_is(n, "Conv"), transposed = node_is(n, "ConvTranspose"), gemm = node_is(n, "Gemm");
    if ((!conv && !transposed && !gemm && !node_is(n, "MatMul")) || n->n_input < 2 || n->graph != 0)
        return false;
    const struct tensor *w = value_const(m, n->input[1]);
    if (!w || !dtype_is_float(w->dtype) || (w->bytes && !w->data))
        return false;
    c->weight = w;
    c->product = c->last = id;
    c->axis = 1;
    if (conv || transposed) {
        c->rank = w->shape.rank;
        return !channel_layout_conv(&w->shape, node_attr_int(n, "group", 1), transposed, &c->layout);
    }
    const struct type *x = &c->o->type[n->input[0]];
    c->rank = gemm ? 2 : x->shape.rank;
    c->axis = c->rank - 1;
    return c->rank >= 2 && !channel_layout_matrix(&w->shape, gemm && node_attr_int(n, "transB", 0) != 0, &c->layout);
}

/* values[k] of a constant that is one number or one a channel, broadcast against the product's output. */
static bool per_channel(const struct chain *c, uint32_t value, double *values)
{
    const struct tensor *t = value == VALUE_NONE ? NULL : value_const(c->o->m, value);
    if (!t || t->dtype != c->weight->dtype || t->shape.rank > c->rank || (t->bytes && !t->data))
        return false;
    for (int i = 0; i < t->shape.rank; i++)
        if (t->shape.dim[i] != 1 &&
            (i + c->rank - t->shape.rank != c->axis || t->shape.dim[i] != c->layout.channels))
            return false;
    const bool one = tensor_count(t) == 1;
    for (int64_t k = 0; k < c->layout.channels; k++)
        values[k] = dtype_get(t->dtype, t->data, one ? 0 : k);
    return true;
}

/* a, b of a BatchNormalization. */
static bool read_norm(struct chain *c, const struct node *n)
{
    const struct model *m = c->o->m;
    const int64_t opset = model_opset(m, "");
    double *p[4] = {0};
    bool ok = n->n_input == 5 && c->axis == 1 && node_attr_int(n, "training_mode", 0) == 0 &&
              node_attr_int(n, "spatial", 1) == 1 && (opset >= 7 || node_attr_int(n, "is_test", 0) != 0);
    for (int i = 1; i < n->n_output; i++)
        ok = ok && (n->output[i] == VALUE_NONE || uses_count(&c->o->uses, n->output[i]) == 0);
    for (int i = 0; i < 4 && ok; i++) {
        const struct tensor *t = value_const(m, n->input[i + 1]);
        ok = t && tensor_count(t) == c->layout.channels && (p[i] = tensor_doubles(t));
    }
    ok = ok && channel_affine_norm(c->layout.channels, (double)node_attr_float(n, "epsilon", 1e-5f), p[0], p[1], p[2],
                                   p[3], c->a, c->b);
    for (int i = 0; i < 4; i++)
        free(p[i]);
    return ok;
}

/* a, b of an arithmetic node that reads the chain at input `slot`. */
static bool read_arithmetic(struct chain *c, const struct node *n, int slot)
{
    const bool mul = node_is(n, "Mul"), div = node_is(n, "Div"), add = node_is(n, "Add"), sub = node_is(n, "Sub");
    if ((!mul && !div && !add && !sub) || n->n_input != 2 || node_attr(n, "axis") || node_attr(n, "broadcast") ||
        (slot == 1 && (div || sub)) || !per_channel(c, n->input[1 - slot], c->a))
        return false;
    for (int64_t k = 0; k < c->layout.channels; k++) {
        const double v = c->a[k];
        c->a[k] = mul ? v : div ? 1 / v : 1;
        c->b[k] = add ? v : sub ? -v : 0;
        if (!isfinite(c->a[k]) || !isfinite(c->b[k]))
            return false;
    }
    return true;
}

/* Take in the only reader of the chain's output, if it is one of ours. */
static bool extend(struct chain *c)
{
    const struct model *m = c->o->m;
    const uint32_t out = m->nodes[c->last].output[0], reader = optimize_single_reader(c->o, out);
    if (reader == NODE_NONE)
        return false;
    const struct node *n = &m->nodes[reader];
    const int slot = n->n_input > 0 && n->input[0] == out ? 0 : 1;
    if (!(node_is(n, "BatchNormalization") && slot == 0 ? read_norm(c, n) : read_arithmetic(c, n, slot)))
        return false;
    for (int64_t k = 0; k < c->layout.channels; k++) {
        c->scales = c->scales || c->a[k] != 1;
        c->scale[k] *= c->a[k];
        c->shift[k] = c->a[k] * c->shift[k] + c->b[k];
    }
    c->last = reader;
    c->links++;
    return true;
}

static bool shifts(const struct chain *c)
{
    for (int64_t k = 0; k < c->layout.channels; k++)
        if (c->shift[k] != 0)
            return true;
    return false;
}

/* The product's own bias, times Gemm's beta, into values; absent: zeros. */
static bool old_bias(struct chain *c, double *values)
{
    const struct node *n = &c->o->m->nodes[c->product];
    memset(values, 0, (size_t)c->layout.channels * sizeof *values);
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return true;
    const struct tensor *t = value_const(c->o->m, n->input[2]);
    if (!t || t->dtype != c->weight->dtype)
        return false;
    if (!node_is(n, "Gemm")) { /* [channels] counts from the front here */
        if (tensor_count(t) != c->layout.channels)
            return false;
        for (int64_t k = 0; k < c->layout.channels; k++)
            values[k] = dtype_get(t->dtype, t->data, k);
        return true;
    }
    const double beta = (double)node_attr_float(n, "beta", 1);
    if (!per_channel(c, n->input[2], values))
        return false;
    for (int64_t k = 0; k < c->layout.channels; k++)
        values[k] *= beta;
    return true;
}

static int set_weight(struct chain *c, struct err *err)
{
    struct model *m = c->o->m;
    struct tensor t = {0};
    if (!c->scales)
        return 0;
    if (channel_affine_weight(&c->layout, c->scale, c->weight, &t, err))
        return -1;
    const uint32_t old = m->nodes[c->product].input[1];
    uint32_t v = optimize_add_weight(c->o, m->values[old].name, &t, err);
    if (v == VALUE_NONE)
        return -1;
    m->nodes[c->product].input[1] = v;
    return 0;
}

static int set_bias(struct chain *c, enum dtype dtype, struct err *err)
{
    struct model *m = c->o->m;
    struct tensor t = {0};
    for (int64_t k = 0; k < c->layout.channels; k++)
        c->a[k] = c->scale[k] * c->a[k] + c->shift[k];
    if (tensor_from_doubles(&t, dtype, &SHAPE(c->layout.channels), c->a, err))
        return -1;
    uint32_t v = optimize_add_weight(c->o, m->values[m->nodes[c->product].output[0]].name, &t, err);
    if (v == VALUE_NONE)
        return -1;
    if (node_set_input(m, c->product, 2, v))
        return err_set(err, ERR_NOMEM, "out of memory");
    if (node_is(&m->nodes[c->product], "MatMul"))
        m->nodes[c->product].op_type = "Gemm";
    if (node_attr(&m->nodes[c->product], "beta"))
        node_set_float(m, c->product, "beta", 1);
    return 0;
}

/* The product makes what the last node of the chain made; the nodes between go. */
static int rewrite(struct chain *c, bool bias, struct err *err)
{
    struct model *m = c->o->m;
    const enum dtype dtype = c->weight->dtype;
    if (set_weight(c, err) || (bias && set_bias(c, dtype, err)))
        return -1;
    const uint32_t out = m->nodes[c->last].output[0];
    for (uint32_t at = optimize_single_reader(c->o, m->nodes[c->product].output[0]); at != NODE_NONE;) {
        const uint32_t next = at == c->last ? NODE_NONE : optimize_single_reader(c->o, m->nodes[at].output[0]);
        model_remove_node(m, at);
        at = next;
    }
    m->nodes[c->product].output[0] = out;
    m->values[out].producer = c->product;
    m->values[out].slot = 0;
    return 0;
}

/* A bias is possible, or none is needed. */
static bool fits(struct chain *c, bool *bias)
{
    const struct node *n = &c->o->m->nodes[c->product];
    const bool matmul = node_is(n, "MatMul");
    *bias = shifts(c) || (n->n_input > 2 && n->input[2] != VALUE_NONE && c->scales);
    if (matmul && (!c->scales || (*bias && (c->rank != 2 || model_opset(c->o->m, "") < 7))))
        return false;
    return !*bias || old_bias(c, c->a);
}

static int fuse(struct optimize *o, uint32_t id, struct err *err)
{
    struct chain c = {.o = o};
    bool bias;
    int rc = 0;
    if (!starts(&c, id) || optimize_single_reader(o, o->m->nodes[id].output[0]) == NODE_NONE)
        return 0;
    const size_t n = (size_t)c.layout.channels;
    double *rows = calloc(n, 4 * sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "out of memory");
    c.scale = rows;
    c.shift = rows + n;
    c.a = rows + 2 * n;
    c.b = rows + 3 * n;
    for (size_t k = 0; k < n; k++)
        c.scale[k] = 1;
    while (extend(&c))
        ;
    if (c.links && fits(&c, &bias))
        rc = rewrite(&c, bias, err);
    free(rows);
    return rc;
}

int fuse_batchnorm(struct optimize *o, struct err *err)
{
    const uint32_t n = o->m->n_nodes;
    for (uint32_t id = 0; id < n; id++)
        if (o->m->nodes[id].op_type && fuse(o, id, err))
            return -1;
    return 0;
}
