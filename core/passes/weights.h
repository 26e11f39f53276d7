/* SPDX-License-Identifier: Apache-2.0
 * weights.h - finding and replacing the weights of products (Conv, Gemm, MatMul, ... : operators whose row says
 * QUANT_COMPUTE). A weight may be an initializer (also one the graph lists among its inputs), or the tensor of a
 * Constant node, and may stand behind Identity, Cast-to-itself or Transpose; it may be read by several nodes. */
#ifndef PARED_PASSES_WEIGHTS_H
#define PARED_PASSES_WEIGHTS_H

#include "core/model/model.h"
#include "core/ops/op.h"

/* True for nodes of the main graph and the graphs nested in it; bodies of functions are shared by their callers and
 * left alone. */
bool node_is_rewritable(const struct model *m, uint32_t node);
/* The operator's row, NULL if unknown at the model's opset. */
const struct op_class *node_class(const struct model *m, const struct node *n);

/* A convolution of one input channel each, w its weight. */
static inline bool conv_is_depthwise(const struct node *n, const struct tensor *w)
{
    const int64_t group = node_is(n, "Conv") ? node_attr_int(n, "group", 1) : 1;
    return group > 1 && w->shape.rank > 2 && w->shape.dim[1] == 1 && w->shape.dim[0] == group;
}

/* A weight and the first product that reads it. */
struct weight_ref {
    uint32_t node, value; /* value: where the bytes are */
    int slot;
    const struct tensor *tensor; /* borrowed until the bytes are replaced */
};
/* The weight of a product. False if the node is no product at all; otherwise *why is NULL and *ref filled, or *why says
 * why the weight cannot be touched. */
bool product_weight(const struct model *m, uint32_t node, struct weight_ref *ref, const char **why);
/* The bytes behind a value: itself or its source through Identity and Transpose (and
 * the internal FakeQuantize); VALUE_NONE if there is none. */
uint32_t weight_source(const struct model *m, uint32_t value);
/* Give a constant (initializer or Constant node) other bytes. */
int weight_replace(struct model *m, uint32_t value, const struct tensor *t, struct err *err);

#endif
