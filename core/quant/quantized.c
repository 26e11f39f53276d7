/* SPDX-License-Identifier: Apache-2.0
 * quantized.c - which operators only quantized models have (quantized.h). */
#include "core/quant/quantized.h"

#include <string.h>

/* Domain "" and com.microsoft alike. DequantizeLinear alone says little: weight-only models have it, and so have activations. */
static const char *const ops[] = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger",
    "ConvInteger", "QGemm", "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization",
};

uint32_t quantized_node(const struct model *m)
{
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        const struct node *n = &m->nodes[id];
        for (size_t i = 0; n->op_type && i < sizeof ops / sizeof ops[0]; i++)
            if (!strcmp(n->op_type, ops[i]) || !strncmp(n->op_type, "QLinear", 7))
                return id;
    }
    return NODE_NONE;
}

int quantized_refuse(const struct model *m, const char *method, struct err *err)
{
    const uint32_t id = quantized_node(m);
    char label[200];
    if (id == NODE_NONE)
        return 0;
    return err_set(err, ERR_MODEL,
                   "the model is quantized already: node '%s' is a %s; %s takes a model in floating point "
                   "(quantize.dequantize makes one of it)",
                   node_label(m, id, label, sizeof label), m->nodes[id].op_type, method);
}
