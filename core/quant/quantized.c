/* SPDX-License-Identifier: Apache-2.0
 * quantized.c - is a model quantized? Its structure says so, not the presence of a name: a float model may take an
 * image
 * as bytes through a DequantizeLinear, or give bytes through a QuantizeLinear, and stays a float model. It is quantized
 * where
 *   - an operator stands that only quantized models have (QLinearConv, MatMulInteger, MatMulNBits, ...: the operators
 *     quantize.dequantize knows),
 *   - the codes of a QuantizeLinear come back to float, or to such an operator, perhaps moved about on the way,
 *   - a DequantizeLinear makes a weight: it reads a constant of more than one element.
 * Zeros of a pruned model, float16 and codebooks of few values are no quantization. */
#include "core/quant/quantized.h"

#include <stdlib.h>

#include "core/quant/dequantize_forms.h"

static bool is_coded_weight(const struct model *m, const struct node *n)
{
    const struct tensor *t = n->n_input > 0 && n->input[0] != VALUE_NONE ? value_const(m, n->input[0]) : NULL;
    return t && tensor_count(t) > 1;
}

/* Do the codes of this QuantizeLinear reach an operator that takes them for numbers? seen: by value, false. */
static bool comes_back(const struct model *m, const struct uses *uses, uint32_t codes, bool *seen, uint32_t *stack)
{
    uint32_t depth = 0;
    stack[depth++] = codes;
    seen[codes] = true;
    while (depth > 0) {
        const uint32_t v = stack[--depth];
        for (uint32_t u = uses->first[v]; u < uses->first[v + 1]; u++) {
            const uint32_t reader = uses->all[u].node;
            if (reader == NODE_NONE)
                continue;
            const struct node *n = &m->nodes[reader];
            if (!n->op_type)
                continue;
            if (is_dequantize(n) || undo_of(n))
                return true;
            const bool moves = mover_of(n) || node_is(n, "Clip") || node_is(n, "Concat");
            for (int i = 0; moves && i < n->n_output; i++)
                if (n->output[i] != VALUE_NONE && !seen[n->output[i]]) {
                    seen[n->output[i]] = true;
                    stack[depth++] = n->output[i];
                }
        }
    }
    return false;
}

uint32_t quantized_node(const struct model *m)
{
    const size_t n_values = m->n_values ? m->n_values : 1;
    struct uses uses = {0};
    bool indexed = false;
    bool *seen = NULL;
    uint32_t *stack = NULL, found = NODE_NONE;
    for (uint32_t id = 0; id < m->n_nodes && found == NODE_NONE; id++) {
        const struct node *n = &m->nodes[id];
        if (!n->op_type)
            continue;
        if (undo_of(n) || (is_dequantize(n) && is_coded_weight(m, n)))
            found = id;
        if (!is_quantize(n) || n->n_output < 1 || n->output[0] == VALUE_NONE)
            continue;
        if (!indexed) {
            indexed = true;
            seen = calloc(n_values, sizeof *seen);
            stack = calloc(n_values, sizeof *stack);
            if (!seen || !stack || uses_build(&uses, m, NULL)) {
                found = id; /* no memory to look closer: the cautious answer */
                break;
            }
        }
        /* what another QuantizeLinear's codes have reached in vain leads nowhere from here either */
        if (!seen[n->output[0]] && comes_back(m, &uses, n->output[0], seen, stack))
            found = id;
    }
    uses_fini(&uses);
    free(seen);
    free(stack);
    return found;
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
