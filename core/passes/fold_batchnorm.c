/* SPDX-License-Identifier: Apache-2.0
 * fold_batchnorm.c - BatchNormalization with constant statistics into the product before it.
 *
 *   y = s (W x + b - mean) + beta,   s = gamma / sqrt(var + eps)   =   (s W) x + (s (b - mean) + beta)
 *
 * s scales the weight's slices along the output-channel axis: axis 0 of Conv, the groups' blocks of axis 1 of
 * ConvTranspose, the columns of Gemm and MatMul. In double, so that folding costs no more than one rounding. Only if
 * nobody else reads the product's output; a weight that others read too is duplicated. Padding is no obstacle: it pads
 * x, and b is added after. A MatMul becomes a Gemm to get a bias, so its operands must be matrices; channels of
 * BatchNormalization are axis 1 then too. */
#include <stdio.h>
#include <stdlib.h>

#include "core/kernels/channel_affine.h"
#include "core/passes/pass.h"

struct bn {
    int64_t channels;
    double *scale, *shift; /* y = scale x + shift */
};

static void bn_fini(struct bn *bn)
{
    free(bn->scale);
    free(bn->shift);
}

/* The statistics as one multiply-add per channel. NULL, or why not. */
static const char *read_bn(const struct pass_ctx *c, const struct node *n, struct bn *bn)
{
    const struct model *m = c->edit.m;
    if (n->n_input != 5)
        return "it has no constant statistics";
    if (node_attr_int(n, "training_mode", 0) != 0)
        return "it is in training mode";
    if (c->opset < 7 && node_attr_int(n, "is_test", 0) == 0)
        return "it is in training mode (is_test is 0)";
    if (c->opset < 9 && node_attr_int(n, "spatial", 1) != 1)
        return "its statistics are per element (spatial is 0)";
    double eps = (double)node_attr_float(n, "epsilon", 1e-5f);
    double *p[4] = {0};
    const char *why = NULL;
    for (int i = 0; i < 4 && !why; i++) {
        int64_t count = 0;
        p[i] = const_doubles(m, n->input[i + 1], &count);
        if (!p[i])
            why = "its scale, bias, mean or variance is not constant";
        else if (i > 0 && count != bn->channels)
            why = "its statistics differ in length";
        bn->channels = count;
    }
    if (!why) {
        if (!channel_affine_norm(bn->channels, eps, p[0], p[1], p[2], p[3], p[0], p[1]))
            why = "its statistics are not finite";
        bn->scale = p[0];
        bn->shift = p[1];
        p[0] = p[1] = NULL;
    }
    for (int i = 0; i < 4; i++)
        free(p[i]);
    return why;
}

static const char *product_layout(const struct pass_ctx *c, const struct node *n, const struct tensor *w,
                                  struct channel_layout *l)
{
    if (node_is(n, "Conv") || node_is(n, "ConvTranspose"))
        return channel_layout_conv(&w->shape, node_attr_int(n, "group", 1), node_is(n, "ConvTranspose"), l);
    if (node_is(n, "MatMul") && w->shape.rank == 2 && infer_rank_of(&c->infer, n->input[0]) != 2)
        return "the product's input is not known to be a matrix";
    return channel_layout_matrix(&w->shape, node_is(n, "Gemm") && node_attr_int(n, "transB", 0) != 0, l);
}

/* The old bias per channel, zeros if there is none; NULL: it is not constant or does not fit. */
static double *read_bias(const struct pass_ctx *c, const struct node *n, int64_t channels)
{
    double *b = calloc((size_t)channels, sizeof *b);
    if (!b || n->n_input < 3 || n->input[2] == VALUE_NONE)
        return b;
    int64_t count = 0;
    double *old = const_doubles(c->edit.m, n->input[2], &count);
    double beta = node_is(n, "Gemm") ? (double)node_attr_float(n, "beta", 1) : 1;
    const struct shape *shape = old ? &value_const(c->edit.m, n->input[2])->shape : NULL;
    bool fits =
        old && (count == 1 || (count == channels && shape->dim[shape->rank - 1] == channels)); /* not a column */
    if (!fits) {
        free(old);
        free(b);
        return NULL;
    }
    for (int64_t k = 0; k < channels; k++)
        b[k] = beta * old[count == 1 ? 0 : k];
    free(old);
    return b;
}

/* Weight and bias get their new values; the product makes the BatchNormalization's output. */
static int rewrite(struct pass_ctx *c, uint32_t bn_node, uint32_t node, const struct bn *bn, const struct channel_layout *l,
                   double *bias, struct err *err)
{
    struct model *m = c->edit.m;
    struct tensor nw = {0}, nb = {0};
    int rc = -1;
    uint32_t wv = pass_private_weight(c, node, 1), out = m->nodes[bn_node].output[0];
    if (wv == VALUE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory while folding BatchNormalization");
        goto out;
    }
    const enum dtype dtype = value_const(m, wv)->dtype;
    for (int64_t k = 0; k < l->channels; k++)
        bias[k] = bn->scale[k] * bias[k] + bn->shift[k];
    if (channel_affine_weight(l, bn->scale, value_const(m, wv), &nw, err) ||
        tensor_from_doubles(&nb, dtype, &SHAPE(l->channels), bias, err))
        goto out;
    if (value_set_weight(m, wv, &nw)) {
        err_set(err, ERR_NOMEM, "out of memory while folding BatchNormalization");
        goto out;
    }
    char name[256];
    snprintf(name, sizeof name, "%s_bias", m->values[wv].name);
    edit_set_input(&c->edit, node, 2, edit_add_weight(&c->edit, m->nodes[node].graph, name, &nb));
    if (node_is(&m->nodes[node], "MatMul"))
        m->nodes[node].op_type = "Gemm";
    if (node_attr(&m->nodes[node], "beta"))
        node_set_float(m, node, "beta", 1);
    pass_row_folded(c, bn_node, node, "fold_batchnorm");
    edit_remove_node(&c->edit, bn_node);
    edit_move_output(&c->edit, out, node, 0);
    c->changes++;
    rc = 0;
out:
    tensor_fini(&nw);
    tensor_fini(&nb);
    return rc;
}

static const char *outputs_used(struct pass_ctx *c, const struct node *n)
{
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && edit_count(&c->edit, n->output[i]) > 0)
            return "its running statistics are read";
    return NULL;
}

/* The product whose output only this BatchNormalization reads. */
static const char *find_product(struct pass_ctx *c, uint32_t node, uint32_t *product)
{
    static const char *const types[] = {"Conv", "ConvTranspose", "Gemm", "MatMul"};
    struct model *m = c->edit.m;
    uint32_t x = m->nodes[node].n_input ? m->nodes[node].input[0] : VALUE_NONE;
    *product = NODE_NONE;
    for (size_t i = 0; i < sizeof types / sizeof types[0] && *product == NODE_NONE; i++)
        *product = edit_producer(&c->edit, x, types[i]);
    if (*product == NODE_NONE)
        return "no Conv, ConvTranspose, Gemm or MatMul stands right before it";
    if (edit_only_reader(&c->edit, x) != node)
        return "the product's output is read elsewhere too";
    return NULL;
}

static int fold(struct pass_ctx *c, uint32_t node, struct err *err)
{
    struct model *m = c->edit.m;
    struct bn bn = {0};
    struct channel_layout l = {0};
    double *bias = NULL;
    uint32_t product = NODE_NONE;
    int rc = 0;
    const char *why = find_product(c, node, &product);
    if (!why)
        why = outputs_used(c, &m->nodes[node]);
    if (!why)
        why = read_bn(c, &m->nodes[node], &bn);
    const struct tensor *w = NULL;
    if (!why && (m->nodes[product].n_input < 2 || !(w = value_const(m, m->nodes[product].input[1])) ||
                 !dtype_is_float(w->dtype)))
        why = "the product's weight is not constant";
    if (!why)
        why = product_layout(c, &m->nodes[product], w, &l);
    if (!why && l.channels != bn.channels)
        why = "the product has another number of channels";
    if (!why && !(bias = read_bias(c, &m->nodes[product], l.channels)))
        why = "the product's bias is not a constant per channel";
    if (why)
        pass_row_skipped(c, node, why);
    else
        rc = rewrite(c, node, product, &bn, &l, bias, err);
    free(bias);
    bn_fini(&bn);
    return rc;
}

int pass_fold_batchnorm(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    for (uint32_t i = 0; i < m->n_nodes; i++)
        if (edit_node_is_live(&c->edit, i) && node_is(&m->nodes[i], "BatchNormalization") && fold(c, i, err))
            return -1;
    return 0;
}
