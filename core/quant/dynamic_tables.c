/* SPDX-License-Identifier: Apache-2.0
 * dynamic_tables.c - tables that Gather reads from (embeddings) for quantize.dynamic, in int8:
 *
 *   one scale for all     Gather(codes, i) -> DequantizeLinear
 *   one for each row      Gather(codes, i) -> Cast -> Mul(Gather(scales, i))      when rows are what is gathered
 *   (axis 0)
 *
 * Only the rows that were asked for are turned into floats. Codes are the nearest: rows are not summed, so no
 * errors cancel. */
#include <string.h>

#include "core/quant/dynamic.h"

enum { TABLE_BYTES = 90, ROWS_BYTES = 150 };
enum { FORM_TABLE = 16, FORM_ROWS };

static bool by_row(const struct dynamic *d, const struct node *n, const struct tensor *t)
{
    const int64_t axis = node_attr_int(n, "axis", 0);
    return d->opts->per_channel && t->shape.rank >= 2 && (axis == 0 || axis == -t->shape.rank);
}

const char *dynamic_refuse_table(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const struct tensor *t = dynamic_peek(d, n->input[0]);
    if (n->n_input < 2 || n->input[1] == VALUE_NONE)
        return "it has no indices";
    return by_row(d, n, t) ? dynamic_size_refusal(d, n->input[0], t->shape.dim[0], ROWS_BYTES)
                           : dynamic_size_refusal(d, n->input[0], 1, TABLE_BYTES);
}

static struct made_codes *codes_of(struct dynamic *d, uint32_t node, struct err *err)
{
    const struct node *n = &d->m->nodes[node];
    struct tensor t = {0};
    struct qweight q = {0};
    uint32_t source;
    struct made_codes *made = NULL;
    if (!dynamic_constant(d, n->input[0], &t, &source)) {
        dynamic_nomem(err);
        return NULL;
    }
    const bool rows = by_row(d, n, &t);
    const struct qweight_opts opts = {
        .dtype = DTYPE_INT8, .per_channel = rows, .axis = rows ? 0 : -1, .nearest = true, .isa = ISA_VNNI,
            .adds_in_32 = true};
    if (qweight_make(&q, &t, &opts, err) == 0) {
        for (int i = 1; rows && i < t.shape.rank; i++)
            q.scale.shape.dim[q.scale.shape.rank++] = 1;
        made = dynamic_find_codes(d, source, rows ? FORM_ROWS : FORM_TABLE, 1);
        if (!made)
            made = dynamic_keep_codes(d, source, rows ? FORM_ROWS : FORM_TABLE, 1, &q);
        if (!made)
            dynamic_nomem(err);
        else
            dynamic_report(d, node, source, &q, rows ? "int8 rows, Gather and Mul" :
                           "int8, Gather and DequantizeLinear", NULL,
                           false);
    }
    qweight_fini(&q);
    tensor_fini(&t);
    return made;
}

/* Gather of other data, with the attributes of this one. */
static uint32_t gather(struct dynamic *d, uint32_t node, uint32_t data, const char *name)
{
    struct model *m = d->m;
    const uint32_t graph = m->nodes[node].graph, in[2] = {data, m->nodes[node].input[1]}, out = dynamic_fresh(d,
        graph, "g");
    const uint32_t id = d->edit.failed ? NODE_NONE : edit_add_node(&d->edit, graph, "Gather", name, in, 2, &out, 1);
    if (id == NODE_NONE)
        return VALUE_NONE;
    m->nodes[id].attr = m->nodes[node].attr;
    m->nodes[id].n_attr = m->nodes[node].n_attr;
    return out;
}

int dynamic_convert_table(struct dynamic *d, uint32_t node, struct err *err)
{
    struct model *m = d->m;
    const struct made_codes *t = codes_of(d, node, err);
    if (!t)
        return -1;
    const bool rows = value_const(m, t->scale)->shape.rank > 0;
    const uint32_t graph = m->nodes[node].graph, y = m->nodes[node].output[0];
    uint32_t last[2] = {gather(d, node, t->codes, m->nodes[node].name), t->scale};
    if (rows && !d->edit.failed) {
        const uint32_t codes = last[0];
        last[1] = gather(d, node, t->scale, NULL);
        last[0] = dynamic_fresh(d, graph, "f");
        const uint32_t cast =
            d->edit.failed ? NODE_NONE : edit_add_node(&d->edit, graph, "Cast", NULL, &codes, 1, &last[0], 1);
        if (cast != NODE_NONE)
            node_set_int(m, cast, "to", DTYPE_FLOAT);
    }
    if (d->edit.failed)
        return dynamic_nomem(err);
    edit_remove_node(&d->edit, node);
    edit_add_node(&d->edit, graph, rows ? "Mul" : "DequantizeLinear", NULL, last, 2, &y, 1);
    return d->edit.failed ? dynamic_nomem(err) : 0;
}
