/* SPDX-License-Identifier: Apache-2.0
 * weights.c - see weights.h. */
#include "core/passes/weights.h"

#include <string.h>

bool node_is_rewritable(const struct model *m, uint32_t node)
{
    if (node >= m->n_nodes || !m->nodes[node].op_type)
        return false;
    uint32_t g = m->nodes[node].graph;
    for (uint32_t depth = 0; g < m->n_graphs && depth <= m->n_graphs; depth++) {
        if (g == 0)
            return true;
        g = m->graphs[g].parent;
    }
    return false;
}

const struct op_class *node_class(const struct model *m, const struct node *n)
{
    const char *domain = n->domain ? n->domain : "";
    return op_find(n->op_type, domain, model_opset(m, domain));
}

static struct weight *bytes_of(const struct model *m, uint32_t value)
{
    const struct value *v = &m->values[value];
    if (v->weight)
        return v->weight;
    if (v->producer == NODE_NONE || !m->nodes[v->producer].op_type || !node_is(&m->nodes[v->producer], "Constant"))
        return NULL;
    const struct attr *a = node_attr(&m->nodes[v->producer], "value");
    return a && a->type == ATTR_TENSOR && a->count == 1 ? a->tensors[0] : NULL;
}

/* A weight that is trained as it will be quantized (FakeQuantize.c): its floats are the weight. */
static bool is_fake(const struct node *n)
{
    return n->domain && !strcmp(n->domain, OP_DOMAIN_ENGINE) && !strcmp(n->op_type, "FakeQuantize");
}

uint32_t weight_source(const struct model *m, uint32_t value)
{
    for (int depth = 0; depth < 64 && value != VALUE_NONE && value < m->n_values; depth++) {
        if (bytes_of(m, value))
            return value;
        uint32_t p = m->values[value].producer;
        if (p == NODE_NONE || !m->nodes[p].op_type || m->nodes[p].n_input < 1)
            return VALUE_NONE;
        if (!node_is(&m->nodes[p], "Identity") && !node_is(&m->nodes[p], "Transpose") && !is_fake(&m->nodes[p]))
            return VALUE_NONE;
        value = m->nodes[p].input[0];
    }
    return VALUE_NONE;
}

bool product_weight(const struct model *m, uint32_t node, struct weight_ref *ref, const char **why)
{
    const struct node *n = &m->nodes[node];
    const struct op_class *op = node_class(m, n);
    if (!op || op->quant.kind != QUANT_COMPUTE || op->quant.weight < 1)
        return false;
    *why = NULL;
    *ref = (struct weight_ref){.node = node, .value = VALUE_NONE, .slot = op->quant.weight};
    if (op->quant.weight < n->n_input)
        ref->value = weight_source(m, n->input[op->quant.weight]);
    if (ref->value == VALUE_NONE && node_is(n, "MatMul") && n->n_input == 2) { /* constant on the left */
        ref->slot = 0;
        ref->value = weight_source(m, n->input[0]);
    }
    if (ref->value == VALUE_NONE) {
        *why = "its weight is not a constant";
        return true;
    }
    ref->tensor = &bytes_of(m, ref->value)->tensor;
    if (bytes_of(m, ref->value)->opaque.len)
        *why = "its weight is stored in a way this version does not know";
    else if (!dtype_is_float(ref->tensor->dtype))
        *why = "its weight is not floating-point";
    else if (tensor_count(ref->tensor) == 0)
        *why = "its weight is empty";
    else if (!ref->tensor->data)
        *why = "its weight's external data file is missing";
    return true;
}

int weight_replace(struct model *m, uint32_t value, const struct tensor *t, struct err *err)
{
    int rc;
    if (m->values[value].weight) {
        rc = value_set_weight(m, value, t);
    } else {
        struct weight *w = bytes_of(m, value);
        struct tensor fresh = {0};
        tensor_ref(&fresh, t);
        tensor_fini(&w->tensor);
        w->tensor = fresh;
        w->storage = STORAGE_RAW;
        w->typed = (struct bytes){0};
        w->external = (struct entries){0};
        rc = 0;
    }
    return rc ? err_set(err, ERR_NOMEM, "out of memory while replacing weight '%s'", m->values[value].name) : 0;
}
