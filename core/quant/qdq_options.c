/* SPDX-License-Identifier: Apache-2.0
 * qdq_options.c - the parameters of a step and its overrides, resolved for every node and value.
 *
 * A value has one type, whoever reads it. The type an override gives a node holds for what the node reads and makes;
 * where two overridden nodes meet, the wider type wins, and an override of the tensor itself beats both. */
#include <stdlib.h>

#include "core/quant/qdq.h"

enum { LABEL = 200 };

static void set_weights(struct node_options *n, const struct override *o)
{
    if (o->weights != DTYPE_NONE)
        n->weight = o->weights;
    if (o->per_channel >= 0)
        n->per_channel = o->per_channel;
    if (o->keep_float >= 0)
        n->keep_float = (signed char)o->keep_float;
}

/* Activations of one node: what overrides say of them. */
struct said {
    enum dtype dtype;
    int symmetric;
};

static void say(struct value_options *v, struct said *so_far, const struct said *s)
{
    if (s->dtype != DTYPE_NONE &&
        (so_far->dtype == DTYPE_NONE || dtype_bits(s->dtype) > dtype_bits(so_far->dtype))) {
        so_far->dtype = s->dtype;
        v->dtype = s->dtype;
    }
    if (s->symmetric >= 0 && so_far->symmetric < 0) {
        so_far->symmetric = s->symmetric;
        v->symmetric = s->symmetric;
    }
}

/* The overrides of one node, in their order of precedence. */
static void node_overrides(struct qdq *q, uint32_t id, const struct overrides *list, bool *used, struct said *by_value)
{
    const struct node *n = &q->m->nodes[id];
    struct said s = {.symmetric = -1};
    char text[LABEL];
    const char *label = node_label(q->m, id, text, sizeof text);
    for (int i = 0; i < list->count; i++) {
        const struct override *o = &list->at[i];
        if (o->kind == OVERRIDE_TENSOR || !override_matches(o, label, n->op_type, NULL))
            continue;
        used[i] = true;
        set_weights(&q->node[id], o);
        s.dtype = o->activations != DTYPE_NONE ? o->activations : s.dtype;
        s.symmetric = o->symmetric >= 0 ? o->symmetric : s.symmetric;
    }
    for (int k = 0; k < n->n_input + n->n_output; k++) {
        const uint32_t v = k < n->n_input ? n->input[k] : n->output[k - n->n_input];
        if (v != VALUE_NONE)
            say(&q->value[v], &by_value[v], &s);
    }
}

/* The caller's choice of 16 bits for what a node reads and makes, and for its weight. */
static void make_wide(struct qdq *q, uint32_t id, struct said *by_value)
{
    const struct node *n = &q->m->nodes[id];
    const bool is_signed = dtype_kind(override_activations[q->opts->activations]) == 'i';
    const struct said s = {.dtype = is_signed ? DTYPE_INT16 : DTYPE_UINT16, .symmetric = -1};
    q->node[id].weight = DTYPE_INT16;
    for (int k = 0; k < n->n_input + n->n_output; k++) {
        const uint32_t v = k < n->n_input ? n->input[k] : n->output[k - n->n_input];
        if (v != VALUE_NONE)
            say(&q->value[v], &by_value[v], &s);
    }
}

static void value_overrides(struct qdq *q, uint32_t v, const struct overrides *list, bool *used)
{
    struct value_options *at = &q->value[v];
    for (int i = 0; i < list->count; i++) {
        const struct override *o = &list->at[i];
        if (o->kind != OVERRIDE_TENSOR || !override_matches(o, NULL, NULL, q->m->values[v].name))
            continue;
        used[i] = true;
        at->dtype = o->activations != DTYPE_NONE ? o->activations : at->dtype;
        at->symmetric = o->symmetric >= 0 ? o->symmetric : at->symmetric;
        at->keep_float = o->keep_float >= 0 ? (signed char)o->keep_float : at->keep_float;
        if (o->has_range) {
            at->ranged = true;
            at->lo = o->lo;
            at->hi = o->hi;
        }
    }
}

static void resolve(struct qdq *q, const struct overrides *list, bool *used, struct said *by_value)
{
    const struct quantize_static_params *o = q->opts;
    for (uint32_t v = 0; v < q->n_values; v++) {
        q->value[v] = (struct value_options){
            .dtype = override_activations[o->activations], .symmetric = o->symmetric, .keep_float = -1};
        by_value[v] = (struct said){.symmetric = -1};
    }
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        q->node[id] = (struct node_options){.weight = override_weights[o->weights],
                                            .per_channel = o->per_channel,
                                            .symmetric_weights = o->symmetric_weights,
                                            .keep_float = -1};
        if (edit_node_is_live(&q->edit, id))
            node_overrides(q, id, list, used, by_value);
        if (edit_node_is_live(&q->edit, id) && q->choice && q->choice->wide && q->choice->wide[id])
            make_wide(q, id, by_value);
    }
    for (uint32_t id = 0; id < q->n_nodes && model_opset(q->m, "") < 13; id++)
        q->node[id].per_channel = false; /* DequantizeLinear has no axis */
    for (uint32_t v = 0; v < q->n_values; v++)
        if (q->m->values[v].name)
            value_overrides(q, v, list, used);
}

int qdq_options(struct qdq *q, struct err *err)
{
    struct overrides list;
    int rc = -1;
    if (overrides_parse(q->opts->overrides, &list, err))
        return -1;
    bool *used = calloc((size_t)list.count + 1, sizeof *used);
    struct said *by_value = calloc(q->n_values + (size_t)1, sizeof *by_value);
    if (!used || !by_value) {
        err_set(err, ERR_NOMEM, "out of memory for the overrides");
        goto out;
    }
    resolve(q, &list, used, by_value);
    for (int i = 0; i < list.count && q->warnings; i++)
        if (!used[i])
            warnings_add(q->warnings, "the override of %s '%s' matches nothing in the model",
                         list.at[i].kind == OVERRIDE_TENSOR ? "tensor"
                         : list.at[i].kind == OVERRIDE_OP   ? "operator"
                                                            : "node",
                         list.at[i].pattern);
    rc = 0;
out:
    free(used);
    free(by_value);
    overrides_fini(&list);
    return rc;
}
