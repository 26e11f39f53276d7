/* SPDX-License-Identifier: Apache-2.0
 * inspect_layers.c - what can be done to a layer. It is asked where the methods ask: product_weight says which weight
 * they would take, or why none. */
#include "cli/inspect.h"
#include "core/model/inspect.h"
#include "core/passes/weights.h"

static json_t *verdict(const char *why)
{
    return why ? json_pack("{s:b, s:s}", "possible", 0, "why", why) : json_pack("{s:b}", "possible", 1);
}

static bool reads_dequantized(const struct model *m, const struct node *n)
{
    for (int i = 1; i < n->n_input; i++) {
        uint32_t p = n->input[i] == VALUE_NONE ? NODE_NONE : m->values[n->input[i]].producer;
        if (p != NODE_NONE && m->nodes[p].op_type && node_is(&m->nodes[p], "DequantizeLinear"))
            return true;
    }
    return false;
}

static void add_verdicts(const struct model *m, uint32_t id, json_t *row)
{
    const struct node *n = &m->nodes[id];
    struct weight_ref ref = {.value = VALUE_NONE};
    const char *why = NULL, *no_quantize;
    if (!node_is_rewritable(m, id))
        why = "it belongs to a function that several places may call";
    else if (!node_class(m, n))
        why = "the operator is not known";
    else if (!product_weight(m, id, &ref, &why))
        why = "the operator is no product with a weight";
    else if (why && reads_dequantized(m, n))
        why = "its weight is already quantized";
    else if (!why && !dtype_is_float(ref.tensor->dtype))
        why = "its weight is not floating point";
    no_quantize = why ? why : ref.tensor->dtype == DTYPE_FLOAT ? NULL : "its weight is not float32";
    json_object_set_new(row, "prune", verdict(why));
    json_object_set_new(row, "quantize", verdict(no_quantize));
}

struct layers {
    const struct model *m;
    const struct plan *plan;
};

static bool add_to_row(void *arg, uint32_t id, json_t *row)
{
    const struct layers *l = arg;
    int64_t macs = l->plan ? plan_macs(l->plan, id) : -1;
    bool known = node_class(l->m, &l->m->nodes[id]) != NULL;
    if (json_array_size(json_object_get(row, "weights")) == 0 && macs <= 0 && known)
        return false;
    if (macs >= 0)
        json_object_set_new(row, "macs", json_integer(macs));
    add_verdicts(l->m, id, row);
    return true;
}

json_t *inspect_layers_json(const struct model *m, const struct plan *plan)
{
    struct layers l = {m, plan};
    json_t *rows = model_layers_with(m, INSPECT_MAX_ROWS, add_to_row, &l);
    return rows ? json_pack("{s:o}", "data", rows) : NULL;
}
