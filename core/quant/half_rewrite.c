/* SPDX-License-Identifier: Apache-2.0
 * half_rewrite.c - the casts and weights that the sides ask for (half_sides.c).
 *
 * A value read on the other side is cast once, in the graph that owns it, for all its readers. A weight is
 * converted once; where someone reads it in float as well, a Cast widens the stored one, so that it is in the file
 * once. Casts of the model itself that have nothing left to do go. Inputs and outputs of the model stay float32
 * unless keep_io=false; those of nested graphs always do. */
#include <math.h>
#include <stdio.h>

#include "core/passes/weights.h"
#include "core/quant/half.h"

/* Copied rather than cast where both sides read it: a Cast node takes more room. */
enum { SMALL_BYTES = 64 };

static uint32_t add_cast(struct half *h, uint32_t from, enum dtype to)
{
    char name[32];
    snprintf(name, sizeof name, "h%u", h->names++);
    const uint32_t graph = h->m->values[from].graph, out = edit_add_value(&h->edit, graph, name);
    const uint32_t cast = out == VALUE_NONE ? NODE_NONE : edit_add_node(&h->edit, graph, "Cast", NULL, &from, 1,
        &out, 1);
    if (cast == NODE_NONE)
        return VALUE_NONE;
    node_set_int(h->m, cast, "to", to);
    return out;
}

/* ---- weights ---- */
static uint32_t half_weight(struct half *h, uint32_t v, bool takes_name)
{
    struct tensor t = {0};
    if (tensor_convert(&t, value_const(h->m, v), h->dtype, NULL)) {
        h->edit.failed = true;
        return VALUE_NONE;
    }
    const char *name = h->m->values[v].name;
    if (takes_name) /* nobody reads the floats any more */
        h->m->values[v].name = NULL;
    const uint32_t w = edit_add_weight(&h->edit, h->m->values[v].graph, name, &t);
    h->m->values[v].name = name;
    tensor_fini(&t);
    if (w == VALUE_NONE)
        return w;
    for (const struct note *note = h->m->values[v].notes; note; note = note->next)
        value_set_note(h->m, w, note->key, note->text, note->tensor.data ? &note->tensor : NULL);
    return w;
}

static uint32_t weight_for(struct half *h, uint32_t v, bool wants_half)
{
    const bool stored = h->weight_side[v] == WEIGHT_HALF;
    if (!stored && !wants_half)
        return v;
    if (!h->other[v])
        h->other[v] = stored || value_const(h->m, v)->bytes <= SMALL_BYTES ? half_weight(h, v, stored)
                                                                           : add_cast(h, v, h->dtype);
    if (wants_half || h->edit.failed)
        return h->other[v];
    if (!h->widened[v])
        h->widened[v] = add_cast(h, h->other[v], DTYPE_FLOAT);
    return h->widened[v];
}

static void add_figures(const struct half *h, json_t *facts, uint32_t id)
{
    const struct node *n = &h->m->nodes[id];
    const struct half_seen *s = n->n_output > 0 ? half_ranges_get(h->seen, n->output[0]) : NULL;
    if (!facts || !s)
        return;
    json_object_set_new(facts, "activations_to", json_real((double)s->largest));
    json_object_set_new(facts, "overflow_share", json_real(half_share(s->overflow, s->count)));
    json_object_set_new(facts, "underflow_share", json_real(half_share(s->underflow, s->nonzero)));
}

/* Weights with rows and columns are layers; the first reader names them. */
static void report_weight(struct half *h, uint32_t id, uint32_t v)
{
    const struct tensor *t = value_const(h->m, v);
    struct layer_row row = {.node = id, .weight = v};
    if (h->reported[v] || t->shape.rank < 2 || h->weight_side[v] != WEIGHT_HALF)
        return;
    h->reported[v] = true;
    half_weight_refusal(h, t, &row.sqnr_db);
    row.before = json_pack("{s:s,s:I}", "dtype", "float32", "bytes", (json_int_t)t->bytes);
    row.after = json_pack("{s:s,s:I}", "dtype", dtype_name(h->dtype), "bytes", (json_int_t)(t->bytes / 2));
    if (row.after && !h->half_node[id])
        json_object_set_new(row.after, "form", json_string("stored, computes in float32"));
    add_figures(h, row.after, id);
    layer_report_add(h->c->layers, h->m, &row);
}

/* ---- nodes ---- */
/* The value as the other side wants it. */
static uint32_t other_side(struct half *h, uint32_t v)
{
    if (!h->other[v])
        h->other[v] = add_cast(h, v, h->half_value[v] ? DTYPE_FLOAT : h->dtype);
    return h->other[v];
}

static void rewrite_inputs(struct half *h, uint32_t id)
{
    for (int i = 0; i < h->m->nodes[id].n_input && !h->edit.failed; i++) {
        const struct node *n = &h->m->nodes[id];
        const uint32_t v = n->input[i];
        if (!half_is_float(h, v))
            continue;
        const bool wants_half = h->half_node[id] && !half_slot_stays_float(n, i),
                   weight = h->m->values[v].weight && value_const(h->m, v);
        uint32_t now = v;
        if (weight) {
            report_weight(h, id, v);
            now = weight_for(h, v, wants_half);
        } else if (wants_half != h->half_value[v]) {
            now = other_side(h, v);
        }
        if (now != v && !h->edit.failed)
            edit_set_input(&h->edit, id, i, now);
    }
}

static void rewrite_node(struct half *h, uint32_t id)
{
    rewrite_inputs(h, id);
    struct node *n = &h->m->nodes[id];
    if (!h->half_node[id])
        return;
    if (node_is(n, "Cast") && node_attr_int(n, "to", 0) == DTYPE_FLOAT)
        node_set_int(h->m, id, "to", h->dtype);
    const struct attr *value = node_is(n, "ConstantOfShape") ? node_attr(n, "value") : NULL;
    struct tensor t = {0};
    if (value && value->type == ATTR_TENSOR && value->tensors[0]->tensor.dtype == DTYPE_FLOAT &&
        tensor_convert(&t, &value->tensors[0]->tensor, h->dtype, NULL) == 0) {
        tensor_fini(&value->tensors[0]->tensor);
        value->tensors[0]->tensor = t;
        value->tensors[0]->storage = STORAGE_RAW;
        value->tensors[0]->typed = (struct bytes){0};
    }
}

/* An output of a graph that is declared as one type but made as the other: the node makes a new value, a Cast the
 * old one. Readers on the output's side take that cast. */
static void convert_output(struct half *h, uint32_t v, enum dtype to)
{
    char name[32];
    const uint32_t p = h->m->values[v].producer, cast_of = h->other[v];
    const int slot = h->m->values[v].slot;
    if (p == NODE_NONE)
        return;
    snprintf(name, sizeof name, "h%u", h->names++);
    const uint32_t raw = edit_add_value(&h->edit, h->m->values[v].graph, name);
    if (raw == VALUE_NONE)
        return;
    edit_move_output(&h->edit, raw, p, slot);
    edit_replace_reads(&h->edit, v, raw);
    if (cast_of) {
        const uint32_t old = h->m->values[cast_of].producer;
        edit_replace_reads(&h->edit, cast_of, v);
        if (old != NODE_NONE)
            edit_remove_node(&h->edit, old);
    }
    const uint32_t cast = edit_add_node(&h->edit, h->m->values[v].graph, "Cast", NULL, &raw, 1, &v, 1);
    if (cast != NODE_NONE)
        node_set_int(h->m, cast, "to", to);
}

/* What a value is in the result. */
static enum dtype dtype_now(const struct half *h, uint32_t v)
{
    if (v >= h->n_values)
        return DTYPE_NONE;
    return h->half_value[v] ? h->dtype : infer_dtype_of(&h->infer, v);
}

/* Casts of the model itself to the type that their input has now. */
static void drop_idle_casts(struct half *h)
{
    for (uint32_t id = 0; id < h->n_nodes; id++) {
        const struct node *n = &h->m->nodes[id];
        if (edit_node_is_live(&h->edit, id) && node_is(n, "Cast") && n->n_input == 1 && n->n_output == 1 &&
            n->input[0] != VALUE_NONE && dtype_now(h, n->input[0]) == (enum dtype)node_attr_int(n, "to", 0) &&
            h->m->values[n->input[0]].graph == n->graph)
            edit_bypass(&h->edit, id, n->input[0], n->output[0]);
    }
}

/* Declarations of values whose type changed go, or follow. */
static void declare(const struct half *h, struct value_info *infos, int *count, bool drop)
{
    int kept = 0;
    for (int i = 0; i < *count; i++) {
        const uint32_t v = infos[i].value;
        const bool half = v < h->n_values && h->half_value[v] && infos[i].type.dtype == DTYPE_FLOAT;
        if (half && !drop)
            infos[i].type.dtype = h->dtype;
        if (!half || !drop)
            infos[kept++] = infos[i];
    }
    *count = kept;
}

static void convert_outputs(struct half *h, uint32_t graph, bool to_half)
{
    for (int i = 0; i < h->m->graphs[graph].n_outputs && !h->edit.failed; i++) {
        const struct graph *g = &h->m->graphs[graph];
        const uint32_t v = g->outputs[i].value;
        bool again = v >= h->n_values || h->m->values[v].graph != graph;
        for (int k = 0; k < i; k++)
            again = again || g->outputs[k].value == v;
        if (again || !half_is_float(h, v) || h->half_value[v] == to_half)
            continue;
        convert_output(h, v, to_half ? h->dtype : DTYPE_FLOAT);
        if (to_half && h->m->values[v].producer != NODE_NONE)
            h->half_value[v] = true;
    }
}

/* A body whose output is an outer value that is now half: a Cast in the body makes the output. */
static void pass_on(struct half *h, uint32_t graph)
{
    for (int i = 0; i < h->m->graphs[graph].n_outputs && !h->edit.failed; i++) {
        const uint32_t v = h->m->graphs[graph].outputs[i].value;
        char name[32];
        if (v >= h->n_values || h->m->values[v].graph == graph || !h->half_value[v])
            continue;
        snprintf(name, sizeof name, "h%u", h->names++);
        const uint32_t out = edit_add_value(&h->edit, graph, name),
                       cast = out == VALUE_NONE ? NODE_NONE
                                                : edit_add_node(&h->edit, graph, "Cast", NULL, &v, 1, &out, 1);
        if (cast == NODE_NONE)
            return;
        node_set_int(h->m, cast, "to", DTYPE_FLOAT);
        h->m->graphs[graph].outputs[i].value = out;
    }
}

void half_rewrite(struct half *h)
{
    struct model *m = h->m;
    for (uint32_t id = 0; id < h->n_nodes && !h->edit.failed; id++)
        if (edit_node_is_live(&h->edit, id))
            rewrite_node(h, id);
    for (uint32_t g = 0; g < h->edit.n_graphs && !h->edit.failed; g++) {
        if (h->edit.state[g] != EDIT_LIVE)
            continue;
        declare(h, m->graphs[g].infos, &m->graphs[g].n_infos, true);
        if (g > 0)
            pass_on(h, g);
        if (h->opts->storage)
            continue;
        convert_outputs(h, g, g == 0 && !h->opts->keep_io);
    }
    if (!h->opts->keep_io && !h->opts->storage) {
        declare(h, model_main(m)->inputs, &model_main(m)->n_inputs, false);
        declare(h, model_main(m)->outputs, &model_main(m)->n_outputs, false);
    }
    if (!h->edit.failed)
        drop_idle_casts(h);
}
