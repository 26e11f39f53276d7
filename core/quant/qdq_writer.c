/* SPDX-License-Identifier: Apache-2.0
 * qdq_writer.c - see qdq_writer.h. */
#include "core/quant/qdq_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MICROSOFT "com.microsoft"

uint32_t writer_constant(struct writer *w, const char *prefix, const struct tensor *t)
{
    char name[32];
    if (w->q->edit.failed)
        return VALUE_NONE;
    snprintf(name, sizeof name, "%s%u", prefix, w->names++);
    return edit_add_weight(&w->q->edit, 0, name, t);
}

uint32_t writer_scalar(struct writer *w, enum dtype dtype, double v)
{
    struct tensor t = {0};
    for (int i = 0; i < w->n_scalars; i++)
        if (w->scalars[i].dtype == dtype && w->scalars[i].v == v)
            return w->scalars[i].id;
    if (w->n_scalars == w->cap_scalars) {
        int cap = w->cap_scalars * 2 + 16;
        struct scalar *grown = realloc(w->scalars, (size_t)cap * sizeof *grown);
        if (!grown) {
            w->q->edit.failed = true;
            return VALUE_NONE;
        }
        w->scalars = grown;
        w->cap_scalars = cap;
    }
    if (tensor_alloc(&t, dtype, &SHAPE_SCALAR, NULL)) {
        w->q->edit.failed = true;
        return VALUE_NONE;
    }
    dtype_set(dtype, t.data, 0, v);
    uint32_t id = writer_constant(w, dtype == DTYPE_FLOAT ? "s" : "z", &t);
    tensor_fini(&t);
    w->scalars[w->n_scalars++] = (struct scalar){dtype, v, id};
    return id;
}

static uint32_t new_value(struct writer *w, const char *prefix)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, w->names++);
    return edit_add_value(&w->q->edit, 0, name);
}

/* The node belongs to com.microsoft if the default domain has no such codes yet. */
static void choose_domain(struct writer *w, uint32_t node, enum dtype dtype)
{
    struct model *m = w->q->m;
    if (node == NODE_NONE || dtype_is_8bit(dtype) || dtype == DTYPE_INT32 || model_opset(m, "") >= 21)
        return;
    m->nodes[node].domain = MICROSOFT;
    if (model_opset(m, MICROSOFT) == 0)
        model_set_opset(m, MICROSOFT, 1);
}

uint32_t writer_dequantize(struct writer *w, enum dtype dtype, uint32_t codes, uint32_t scale, uint32_t zero, int axis)
{
    struct qdq *q = w->q;
    uint32_t in[3] = {codes, scale, zero}, out = new_value(w, "d");
    if (q->edit.failed)
        return VALUE_NONE;
    uint32_t node = edit_add_node(&q->edit, 0, "DequantizeLinear", NULL, in, zero == VALUE_NONE ? 2 : 3, &out, 1);
    if (node != NODE_NONE && axis >= 0 && axis != 1)
        node_set_int(q->m, node, "axis", axis); /* 1 is the default */
    choose_domain(w, node, dtype);
    return out;
}

void writer_pair(struct writer *w, uint32_t v)
{
    struct qdq *q = w->q;
    const enum dtype dtype = q->value[v].dtype;
    const struct qparams p = q->params[v];
    uint32_t scale = writer_scalar(w, DTYPE_FLOAT, (double)p.scale), zero = writer_scalar(w, dtype, p.zero);
    uint32_t codes = new_value(w, "q"), in[3] = {v, scale, zero};
    if (q->edit.failed)
        return;
    uint32_t d = writer_dequantize(w, dtype, codes, scale, zero, -1);
    edit_replace_reads(&q->edit, v, d);
    choose_domain(w, edit_add_node(&q->edit, 0, "QuantizeLinear", NULL, in, 3, &codes, 1), dtype);
}

void writer_operand(struct writer *w, uint32_t node, int slot)
{
    struct qdq *q = w->q;
    const struct node *n = &q->m->nodes[node];
    const struct tensor *t = value_const(q->m, n->input[slot]);
    const struct value_options *o = &q->value[n->output[0]];
    struct tensor codes = {0};
    double lo = INFINITY, hi = -INFINITY;
    for (int64_t i = 0; t->data && i < tensor_count(t); i++) {
        lo = fmin(lo, (double)tensor_f32(t)[i]);
        hi = fmax(hi, (double)tensor_f32(t)[i]);
        if (!isfinite(tensor_f32(t)[i]))
            return; /* stays in float */
    }
    if (!(lo <= hi))
        return;
    const struct qparams p = affine_params(lo, hi, o->dtype, o->symmetric);
    if (tensor_alloc(&codes, o->dtype, &t->shape, NULL)) {
        q->edit.failed = true;
        return;
    }
    for (int64_t i = 0; i < tensor_count(t); i++)
        dtype_set(o->dtype, codes.data, i,
                  affine_quantize((double)tensor_f32(t)[i], p, (int32_t)dtype_min(o->dtype),
                                  (int32_t)dtype_max(o->dtype)));
    const uint32_t c = writer_constant(w, "c", &codes), scale = writer_scalar(w, DTYPE_FLOAT, (double)p.scale);
    tensor_fini(&codes);
    const uint32_t d = writer_dequantize(w, o->dtype, c, scale, writer_scalar(w, o->dtype, p.zero), -1);
    if (!q->edit.failed)
        edit_set_input(&q->edit, node, slot, d);
}
