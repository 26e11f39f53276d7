/* SPDX-License-Identifier: Apache-2.0
 * constant_inputs.c - from IR 4 on, an initializer that the graph also lists as an input is only a default that a
 * caller may override, so nothing may be folded into it, and runtimes optimize nothing either. Old exporters list every
 * weight. A floating-point initializer that is the weight, bias or statistic of a product or a normalization is no
 * input anyone feeds: it leaves the list. */
#include <string.h>

#include "core/ops/op.h"
#include "core/passes/pass.h"

static bool is_parameter(struct pass_ctx *c, uint32_t value)
{
    const struct model *m = c->edit.m;
    const struct reader_list *l = edit_readers(&c->edit, value);
    for (int i = 0; i < l->count; i++) {
        if (l->at[i].node == NODE_NONE || l->at[i].slot < 1)
            continue;
        const struct node *n = &m->nodes[l->at[i].node];
        const char *domain = n->domain ? n->domain : "";
        const struct op_class *op = op_find(n->op_type, domain, model_opset(m, domain));
        if ((op && op->quant.kind == QUANT_COMPUTE) || (n->op_type && strstr(n->op_type, "Normalization")))
            return true;
    }
    return false;
}

int pass_constant_inputs(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    struct graph *g = model_main(m);
    int kept = 0, before = c->changes;
    (void)err;
    if (!m->has_ir_version || m->ir_version < 4)
        return 0; /* initializers must be listed there, and are constants */
    for (int i = 0; i < g->n_inputs; i++) {
        const struct value *v = &m->values[g->inputs[i].value];
        bool drop = v->weight && dtype_is_float(v->weight->tensor.dtype) && is_parameter(c, g->inputs[i].value);
        if (!drop)
            g->inputs[kept++] = g->inputs[i];
        else
            c->changes++;
    }
    g->n_inputs = kept;
    if (c->changes > before && c->warnings)
        warnings_add(c->warnings,
                     "%d weights were listed among the model's inputs, where a caller could override them; they are "
                     "constants now",
                     c->changes - before);
    return 0;
}
