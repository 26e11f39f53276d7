/* SPDX-License-Identifier: Apache-2.0
 * pass_util.c - what several passes need (pass.h): constants as plain numbers, private copies of shared weights, report
 * rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"

double *const_doubles(const struct model *m, uint32_t value, int64_t *count)
{
    const struct tensor *t = value == VALUE_NONE ? NULL : value_const(m, value);
    double *v = t ? tensor_doubles(t) : NULL;
    if (v)
        *count = tensor_count(t);
    return v;
}

int const_ints(const struct model *m, uint32_t value, int64_t *out, int max)
{
    const struct tensor *t = value == VALUE_NONE ? NULL : value_const(m, value);
    if (!t || (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32))
        return -1;
    int64_t n = tensor_count(t);
    if (n < 0 || n > max || (n > 0 && !t->data))
        return -1;
    for (int64_t i = 0; i < n; i++)
        out[i] = dtype_get_i64(t->dtype, t->data, i);
    return (int)n;
}

int node_ints(const struct model *m, const struct node *n, const char *name, int slot, int64_t *out, int max)
{
    const struct attr *a = node_attr(n, name);
    if (a && a->type == ATTR_INTS && a->count <= max && !a->ref_name) {
        for (int i = 0; i < a->count; i++)
            out[i] = a->ints[i];
        return a->count;
    }
    if (a || slot < 0 || slot >= n->n_input)
        return -1;
    return const_ints(m, n->input[slot], out, max);
}

uint32_t pass_private_weight(struct pass_ctx *c, uint32_t node, int slot)
{
    struct model *m = c->edit.m;
    uint32_t v = m->nodes[node].input[slot];
    if (edit_only_reader(&c->edit, v) == node && m->values[v].weight)
        return v;
    const struct tensor *t = value_const(m, v);
    if (!t)
        return VALUE_NONE;
    uint32_t copy = edit_add_weight(&c->edit, m->nodes[node].graph, m->values[v].name, t);
    if (copy == VALUE_NONE)
        return VALUE_NONE;
    for (const struct note *note = m->values[v].notes; note; note = note->next)
        value_set_note(m, copy, note->key, note->text, note->tensor.data ? &note->tensor : NULL);
    edit_set_input(&c->edit, node, slot, copy);
    return copy;
}

void pass_row_folded(struct pass_ctx *c, uint32_t node, uint32_t into, const char *pass)
{
    if (!c->layers)
        return;
    char label[200];
    json_t *after = json_pack("{s:s}", "pass", pass);
    if (after && into != NODE_NONE)
        json_object_set_new(after, "folded_into", json_string(node_label(c->edit.m, into, label, sizeof label)));
    layer_report_add(c->layers, c->edit.m,
                     &(struct layer_row){.node = node, .weight = VALUE_NONE, .after = after, .sqnr_db = NAN});
}

void pass_row_skipped(struct pass_ctx *c, uint32_t node, const char *why)
{
    if (!c->layers || !c->last)
        return;
    layer_report_add(c->layers, c->edit.m,
                     &(struct layer_row){.node = node, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = why});
}
