/* SPDX-License-Identifier: Apache-2.0
 * infer.c - one walk over the graphs in topological order: the operators' own inference for types, their `propagate`
 * for the contents of shape arithmetic. Nothing here fails on a strange model: what cannot be inferred stays
 * unknown. */
#include "core/passes/infer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/ops/op.h"

static const struct type type_unknown = {.kind = TYPE_TENSOR, .shape = {.rank = SHAPE_UNKNOWN_RANK}};

const struct shape *infer_shape_of(const struct infer *x, uint32_t value)
{
    return value < x->n ? &x->types[value].shape : &type_unknown.shape;
}

enum dtype infer_dtype_of(const struct infer *x, uint32_t value)
{
    return value < x->n && x->types[value].kind == TYPE_TENSOR ? x->types[value].dtype : DTYPE_NONE;
}

const struct content *infer_content_of(const struct infer *x, uint32_t value)
{
    return value < x->n ? x->contents[value] : NULL;
}

static struct type tensor_type(const struct tensor *t)
{
    return (struct type){
        .kind = TYPE_TENSOR, .dtype = t->dtype, .has_dtype = true, .has_shape = true, .shape = t->shape};
}

/* ---- contents ---- */
/* What is known of a value's elements: its constant bytes or followed contents, as rules read them. NULL: nothing. */
static const struct sym_list *sizes_of(struct infer *x, const struct tensor *constant, uint32_t v)
{
    struct sym at[SYM_LIST_MAX];
    struct sym_list list = {.at = at}, *kept;
    const struct content *c = constant ? NULL : x->contents[v];
    if (!c && (!constant || !sym_list_of(constant, &list)))
        return NULL;
    if (c)
        list.count = c->count;
    for (int i = 0; c && i < c->count; i++)
        at[i] = c->number[i] ? sym_number(c->v[i]) : sym_of_dim(c->v[i]);
    kept = arena_alloc(x->arena, sizeof *kept);
    struct sym *own = arena_calloc(x->arena, (size_t)list.count + 1, sizeof *own);
    if (!kept || !own)
        return NULL;
    memcpy(own, at, (size_t)list.count * sizeof *own);
    *kept = (struct sym_list){list.count, own};
    return kept;
}

static struct content *keep_content(struct infer *x, const struct sym_list *list, bool scalar)
{
    struct content *c = arena_alloc(x->arena, sizeof *c);
    if (!c)
        return NULL;
    c->count = list->count;
    c->scalar = scalar;
    for (int i = 0; i < c->count; i++) {
        c->number[i] = list->at[i].known;
        c->v[i] = list->at[i].n;
    }
    return c;
}

/* Small tensors of whole numbers; a number that a float might not hold stays unknown. */
static void follow_content(struct infer *x, const struct op_class *op, struct infer_ctx *c, uint32_t v)
{
    struct sym at[SYM_LIST_MAX] = {{0}};
    struct sym_list list = {.at = at};
    struct type *t = &c->out[0];
    if (!op->propagate || t->kind != TYPE_TENSOR || t->shape.rank < 0 || t->shape.rank > 1 ||
        (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32 && t->dtype != DTYPE_FLOAT && t->dtype != DTYPE_BOOL) ||
        shape_count(&t->shape) > INFER_CONTENT_MAX || !op->propagate(c, &list) || list.count > INFER_CONTENT_MAX)
        return;
    const int64_t exact = (int64_t)1 << (t->dtype == DTYPE_FLOAT ? 24 : 53);
    bool any = false;
    for (int i = 0; i < list.count; i++) {
        if (at[i].known && (at[i].n <= -exact || at[i].n >= exact))
            at[i] = SYM_UNKNOWN;
        any = any || at[i].known || at[i].n != DIM_UNKNOWN;
    }
    if (shape_known(&t->shape) ? shape_count(&t->shape) != list.count : t->shape.rank != 1)
        return;
    if (t->shape.rank == 1)
        t->shape.dim[0] = list.count;
    if (any || list.count == 0)
        x->contents[v] = keep_content(x, &list, t->shape.rank == 0);
}

/* ---- types ---- */
static void infer_node(struct infer *x, const struct model *m, const struct node *n)
{
    int64_t opset = model_opset(m, n->domain ? n->domain : "");
    const struct op_class *op = op_find(n->op_type, n->domain ? n->domain : "", opset);
    if (!op || !op->infer || n->n_input < op->in_min || (op->in_max >= 0 && n->n_input > op->in_max))
        return;
    size_t ni = (size_t)n->n_input, no = (size_t)n->n_output;
    void *attrs = arena_alloc(x->arena, op->attrs_size ? op->attrs_size : 1);
    const struct type **in = arena_calloc(x->arena, ni + 1, sizeof *in);
    const struct tensor **value = arena_calloc(x->arena, ni + 1, sizeof *value);
    const struct sym_list **sizes = arena_calloc(x->arena, ni + 1, sizeof *sizes);
    struct type *out = arena_calloc(x->arena, no + 1, sizeof *out);
    struct err ignored = {0};
    if (!attrs || !in || !value || !sizes || !out || op_parse_attrs(op, m, n, attrs, x->arena, &ignored))
        return;
    for (size_t i = 0; i < ni; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        in[i] = &x->types[n->input[i]];
        value[i] = value_const(m, n->input[i]);
        sizes[i] = sizes_of(x, value[i], n->input[i]);
    }
    for (size_t i = 0; i < no; i++)
        out[i] = type_unknown;
    struct infer_ctx c = {.node = n,
                          .attrs = attrs,
                          .opset = (int)opset,
                          .n_in = n->n_input,
                          .n_out = n->n_output,
                          .in = in,
                          .in_value = value,
                          .in_sizes = sizes,
                          .symbols = x->symbols,
                          .out = out,
                          .arena = x->arena};
    if (op->infer(&c, &ignored))
        return;
    if (n->n_output == 1 && n->output[0] != VALUE_NONE)
        follow_content(x, op, &c, n->output[0]);
    for (size_t i = 0; i < no; i++)
        if (n->output[i] != VALUE_NONE)
            x->types[n->output[i]] = out[i];
}

static int infer_graph(struct infer *x, const struct model *m, uint32_t graph, uint32_t *order, struct err *err)
{
    const struct graph *g = &m->graphs[graph];
    if (model_toposort(m, graph, order, err))
        return -1;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &m->nodes[order[i]];
        if (n->op_type)
            infer_node(x, m, n);
    }
    return 0;
}

/* Declared types of what is fed. batch > 0: what their first axes are called is that number, wherever it stands. */
static void start_inputs(struct infer *x, const struct model *m, int64_t batch)
{
    const struct graph *g = model_main(m);
    bool *is_batch = arena_calloc(x->arena, (size_t)m->n_symbols + 1, sizeof *is_batch);
    for (int i = 0; i < g->n_inputs; i++) {
        struct type *t = &x->types[g->inputs[i].value];
        if (!g->inputs[i].has_type || g->inputs[i].type.kind != TYPE_TENSOR || m->values[g->inputs[i].value].weight)
            continue;
        *t = g->inputs[i].type;
        if (!t->has_shape)
            t->shape = SHAPE_UNKNOWN;
        if (batch <= 0 || t->shape.rank < 1 || t->shape.dim[0] >= 0)
            continue;
        if (is_batch && t->shape.dim[0] < DIM_UNKNOWN && DIM_SYMBOL_INDEX(t->shape.dim[0]) < m->n_symbols)
            is_batch[DIM_SYMBOL_INDEX(t->shape.dim[0])] = true;
        t->shape.dim[0] = batch;
    }
    for (int i = 0; is_batch && batch > 0 && i < g->n_inputs; i++) {
        struct shape *s = &x->types[g->inputs[i].value].shape;
        for (int k = 0; k < s->rank; k++)
            if (s->dim[k] < DIM_UNKNOWN && DIM_SYMBOL_INDEX(s->dim[k]) < m->n_symbols &&
                is_batch[DIM_SYMBOL_INDEX(s->dim[k])])
                s->dim[k] = batch;
    }
}

int infer_run_batch(struct infer *x, const struct model *m, int64_t batch, struct err *err)
{
    *x = (struct infer){.arena = arena_new(), .n = m->n_values};
    uint32_t *order = calloc(m->n_nodes ? m->n_nodes : 1, sizeof *order);
    int rc = -1;
    if (x->arena) {
        x->types = arena_calloc(x->arena, m->n_values ? m->n_values : 1, sizeof *x->types);
        x->contents = arena_calloc(x->arena, m->n_values ? m->n_values : 1, sizeof *x->contents);
        x->symbols = symbols_new(m->symbols, m->n_symbols);
    }
    if (!order || !x->types || !x->contents || !x->symbols) {
        err_set(err, ERR_NOMEM, "out of memory while inferring types");
        goto out;
    }
    for (uint32_t v = 0; v < m->n_values; v++) {
        x->types[v] = type_unknown;
        if (m->values[v].weight)
            x->types[v] = tensor_type(&m->values[v].weight->tensor);
    }
    start_inputs(x, m, batch);
    rc = 0;
    for (uint32_t k = 0; k < m->n_graphs && rc == 0; k++) /* nested graphs come after the graph that holds them */
        rc = infer_graph(x, m, k, order, err);
out:
    free(order);
    if (rc)
        infer_fini(x);
    return rc;
}

int infer_run(struct infer *x, const struct model *m, struct err *err)
{
    return infer_run_batch(x, m, 0, err);
}

void infer_fini(struct infer *x)
{
    symbols_free(x->symbols);
    if (x->arena)
        arena_free(x->arena);
    *x = (struct infer){0};
}
