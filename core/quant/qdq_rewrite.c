/* SPDX-License-Identifier: Apache-2.0
 * qdq_rewrite.c - the planned quantization written into the model:
 *   value    v -> QuantizeLinear -> DequantizeLinear -> readers; equal scales and zero points are one initializer
 *   operand  a constant of an integer operator: codes -> DequantizeLinear
 *   product  weight and bias as qdq_products.c has it */
#include <stdlib.h>

#include "core/quant/qdq_writer.h"

static void remove_absorbed(struct qdq *q, uint32_t node)
{
    uint32_t x = q->m->nodes[node].input[0], y = q->m->nodes[node].output[0];
    uint32_t p = q->m->values[x].producer;
    int slot = q->m->values[x].slot;
    edit_remove_node(&q->edit, node);
    edit_move_output(&q->edit, y, p, slot);
}

static void write_operands(struct writer *w, uint32_t node)
{
    const struct qdq *q = w->q;
    for (int i = 0; i < q->m->nodes[node].n_input; i++) {
        const uint32_t v = q->m->nodes[node].input[i];
        if (v != VALUE_NONE && value_const(q->m, v) && qdq_is_data(q, &q->m->nodes[node], i))
            writer_operand(w, node, i);
    }
}

static int write_all(struct writer *w, uint32_t *x, struct err *err)
{
    struct qdq *q = w->q;
    for (uint32_t id = 0; id < q->n_nodes; id++)
        if (q->decision[id] == QDQ_PRODUCT)
            x[id] = q->m->nodes[id].input[0];
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (q->decision[id] == QDQ_ABSORBED)
            remove_absorbed(q, id);
        if (q->decision[id] == QDQ_OUTPUT)
            write_operands(w, id);
    }
    for (uint32_t v = 0; v < q->n_values; v++)
        if (q->quantized[v] && q->placed[v])
            writer_pair(w, v);
    for (uint32_t id = 0; id < q->n_nodes; id++)
        if (q->decision[id] == QDQ_PRODUCT && writer_product(w, id, x[id], err))
            return -1;
    return q->edit.failed ? err_set(err, ERR_NOMEM, "out of memory while quantizing") : 0;
}

int qdq_rewrite(struct qdq *q, struct err *err)
{
    struct writer w = {.q = q, .stored = calloc(q->n_nodes ? q->n_nodes : 1, sizeof *w.stored)};
    uint32_t *x = calloc(q->n_nodes ? q->n_nodes : 1, sizeof *x); /* what products read before pairs come between */
    int rc = -1;
    if (!w.stored || !x)
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    else
        rc = write_all(&w, x, err);
    free(w.scalars);
    free(w.stored);
    free(x);
    return rc;
}
