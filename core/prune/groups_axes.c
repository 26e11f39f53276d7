/* SPDX-License-Identifier: Apache-2.0
 * groups_axes.c - the rows of a solver: every axis of every tensor of the main graph, joined by union-find (the
 * smaller row becomes the root, paths are halved: near constant time, and the same roots whatever the order of
 * joins), and the reasons why axes are frozen. A reason is a few numbers until somebody asks for its sentence: most
 * are never read. */
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/groups_impl.h"

void *list_add(struct solver *s, struct list *l, size_t width)
{
    if (l->n == l->cap) {
        const int cap = l->cap ? l->cap * 2 : 64;
        void *grown = l->cap > INT32_MAX / 4 ? NULL : arena_calloc(s->arena, (size_t)cap, width);
        if (!grown)
            return NULL;
        if (l->n)
            memcpy(grown, l->at, (size_t)l->n * width);
        l->at = grown;
        l->cap = cap;
    }
    return (char *)l->at + (size_t)l->n++ * width;
}

/* ---- joining ---- */
int axis_root(const struct solver *s, int row)
{
    struct axis *a = s->axis;
    while (a[row].parent != row) {
        a[row].parent = a[a[row].parent].parent;
        row = a[row].parent;
    }
    return row;
}

static int first_reason(int a, int b)
{
    return a && b ? (int)i64_min(a, b) : a + b;
}

void axis_join(struct solver *s, int a, int b)
{
    a = axis_root(s, a);
    b = axis_root(s, b);
    if (a == b)
        return;
    struct axis *root = &s->axis[a < b ? a : b], *other = &s->axis[a < b ? b : a];
    other->parent = a < b ? a : b;
    root->frozen = first_reason(root->frozen, other->frozen);
    root->approximate = first_reason(root->approximate, other->approximate);
    root->batch = root->batch || other->batch;
    root->heads = root->heads || other->heads;
    root->heads = root->heads || other->heads;
}

void axis_freeze(struct solver *s, int row, int reason)
{
    struct axis *root = root_of(s, row);
    root->frozen = first_reason(root->frozen, reason);
}

void axis_approximate(struct solver *s, int row, int reason)
{
    struct axis *root = root_of(s, row);
    root->approximate = first_reason(root->approximate, reason);
}

uint32_t end_value(const struct node *n, struct end e)
{
    if (e.slot < 0 || e.slot >= (e.out ? n->n_output : n->n_input))
        return VALUE_NONE;
    return e.out ? n->output[e.slot] : n->input[e.slot];
}

/* ---- reasons ---- */
int reason_add(struct solver *s, struct reason r)
{
    struct reason *own = list_add(s, &s->reasons, sizeof *own);
    if (!own)
        return 0;
    *own = r;
    return s->reasons.n - 1;
}

static const char *value_text(const struct solver *s, const struct reason *r)
{
    const char *name = r->value != VALUE_NONE ? s->m->values[r->value].name : NULL;
    return name ? name : "";
}

static const char *why_text(const struct solver *s, const struct reason *r)
{
    const char *op = s->m->nodes[r->node].op_type;
    switch (r->kind) {
    case REASON_RULE:
        return r->text;
    case REASON_UNKNOWN:
        return arena_printf(s->arena, "%s is not known", op);
    case REASON_NO_RULE:
        return arena_printf(s->arena, "%s has no rule for pruning", op);
    case REASON_GRAPHS:
        return arena_printf(s->arena, "%s runs nested graphs", op);
    case REASON_ATTRS:
        return arena_printf(s->arena, "its attributes or inputs are not those of a valid %s", op);
    case REASON_SHAPE:
        return arena_printf(s->arena, "the shape of '%s' is not known", value_text(s, r));
    case REASON_NEEDS:
        return arena_printf(s->arena, "%s needs all of axis %d of its %s #%d", op, r->axis, r->out ? "output" : "input",
                            r->slot);
    case REASON_FOLD:
        return arena_printf(s->arena, "%s splits or joins channels, and another axis of them is the one that can go",
                            op);
    default:
        return "its rule does not fit its shapes";
    }
}

const char *reason_text(const struct solver *s, int reason)
{
    static const char *const of_values[REASON_COUNT] = {
        [REASON_OUTPUT] = "output '%s' of the model",
        [REASON_INPUT] = "input '%s' of the model",
        [REASON_WEIGHT] = "weight '%s' cannot be cut: its bytes are missing or of a kind that is only carried",
        [REASON_NESTED] = "value '%s' is read by a nested graph",
        [REASON_LONG] = "value '%s' has an axis of too many elements",
    };
    if (reason <= 0 || reason >= s->reasons.n)
        return NULL;
    const struct reason *r = (const struct reason *)s->reasons.at + reason;
    char label[256];
    const char *text;
    if (of_values[r->kind]) {
        char line[400];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(line, sizeof line, of_values[r->kind], value_text(s, r));
#pragma GCC diagnostic pop
        text = arena_strdup(s->arena, line);
    } else {
        const char *why = why_text(s, r);
        text = arena_printf(s->arena, "node '%s': %s", node_label(s->m, r->node, label, sizeof label), why ? why : "");
    }
    return text ? text : "out of memory";
}

/* ---- rows ---- */
static int rank_of(const struct solver *s, uint32_t v)
{
    const struct value *value = &s->m->values[v];
    const struct type *t = &s->infer.types[v];
    return value->name && value->graph == 0 && t->kind == TYPE_TENSOR ? t->shape.rank : -1;
}

static int freeze_value(struct solver *s, uint32_t v, enum reason_kind kind, struct err *err)
{
    const int reason = reason_add(s, (struct reason){.kind = kind, .value = v, .node = NODE_NONE});
    for (int row = s->first[v]; row < s->first[v + 1]; row++)
        axis_freeze(s, row, reason);
    return reason ? 0 : err_set(err, ERR_NOMEM, "out of memory while building groups");
}

/* The bytes of a constant that can be cut. */
static const struct tensor *cuttable(const struct model *m, uint32_t v)
{
    const struct tensor *t = value_const(m, v);
    const struct weight *w = m->values[v].weight;
    if (!t || (w && w->opaque.len) || t->dtype == DTYPE_STRING || dtype_bits(t->dtype) == 0)
        return NULL;
    return t->data || tensor_count(t) == 0 ? t : NULL;
}

static int freeze_ends(struct solver *s, struct err *err)
{
    const struct graph *g = model_main(s->m);
    for (int i = 0; i < g->n_outputs; i++)
        if (freeze_value(s, g->outputs[i].value, REASON_OUTPUT, err))
            return -1;
    for (int i = 0; i < g->n_inputs; i++)
        if (!s->constant[g->inputs[i].value] && freeze_value(s, g->inputs[i].value, REASON_INPUT, err))
            return -1;
    for (uint32_t v = 0; v < s->m->n_values; v++)
        if (s->first[v + 1] > s->first[v] && s->m->values[v].weight && !s->constant[v] &&
            freeze_value(s, v, REASON_WEIGHT, err))
            return -1;
    for (uint32_t k = 1; k < s->m->n_graphs; k++) {
        const struct graph *nested = &s->m->graphs[k];
        for (int i = 0; i < nested->n_outputs; i++)
            if (s->m->values[nested->outputs[i].value].graph == 0 &&
                freeze_value(s, nested->outputs[i].value, REASON_NESTED, err))
                return -1;
    }
    for (uint32_t n = 0; n < s->m->n_nodes; n++) {
        const struct node *node = &s->m->nodes[n];
        for (int i = 0; node->op_type && node->graph != 0 && i < node->n_input; i++)
            if (node->input[i] != VALUE_NONE && s->m->values[node->input[i]].graph == 0 &&
                freeze_value(s, node->input[i], REASON_NESTED, err))
                return -1;
    }
    return 0;
}

int solver_axes(struct solver *s, struct err *err)
{
    const uint32_t n = s->m->n_values;
    int64_t rows = 0;
    s->first = arena_calloc(s->arena, (size_t)n + 2, sizeof *s->first);
    s->constant = arena_calloc(s->arena, (size_t)n + 1, sizeof *s->constant);
    if (!s->first || !s->constant)
        return err_set(err, ERR_NOMEM, "out of memory while building groups");
    for (uint32_t v = 0; v < n; v++) {
        s->first[v] = (int)rows;
        rows += rank_of(s, v) > 0 ? rank_of(s, v) : 0;
        if (rows > INT32_MAX / 2)
            return err_set(err, ERR_MODEL_TOO_LARGE, "the model has more than %d axes", INT32_MAX / 2);
        if (rank_of(s, v) >= 0)
            s->constant[v] = cuttable(s->m, v);
    }
    s->first[n] = s->n_axes = (int)rows;
    s->axis = arena_calloc(s->arena, (size_t)rows + 1, sizeof *s->axis);
    struct reason *none = list_add(s, &s->reasons, sizeof *none);
    if (!s->axis || !none)
        return err_set(err, ERR_NOMEM, "out of memory while building groups");
    for (uint32_t v = 0; v < n; v++)
        for (int row = s->first[v]; row < s->first[v + 1]; row++) {
            const int i = row - s->first[v];
            const int64_t size = s->infer.types[v].shape.dim[i];
            s->axis[row] = (struct axis){
                .value = v, .parent = row, .size = size < 0 ? -1 : size, .base = -1, .index = (uint8_t)i};
        }
    return freeze_ends(s, err);
}
