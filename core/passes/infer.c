/* SPDX-License-Identifier: Apache-2.0
 * infer.c - one walk over the graphs in topological order: the operators' own inference for types, a table of small
 * evaluators for the contents of shape arithmetic. Nothing here fails on a strange model: what cannot be inferred stays
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

static struct content *const_content(struct infer *x, const struct tensor *t)
{
    if (!t || t->shape.rank > 1 || (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32))
        return NULL;
    int64_t n = tensor_count(t);
    if (n < 0 || n > INFER_CONTENT_MAX || (n > 0 && !t->data))
        return NULL;
    struct content *c = arena_alloc(x->arena, sizeof *c);
    if (!c)
        return NULL;
    c->count = (int)n;
    c->scalar = t->shape.rank == 0;
    for (int i = 0; i < c->count; i++) {
        c->number[i] = true;
        c->v[i] = dtype_get_i64(t->dtype, t->data, i);
    }
    return c;
}

/* What is known of input i: its constant bytes or followed contents. */
static const struct content *content_in(struct infer *x, const struct model *m, const struct node *n, int i)
{
    if (i >= n->n_input || n->input[i] == VALUE_NONE)
        return NULL;
    uint32_t v = n->input[i];
    if (v < x->n && !x->contents[v])
        x->contents[v] = const_content(x, value_const(m, v));
    return infer_content_of(x, v);
}

/* ---- evaluators: fill *out, return false when unknown ---- */
struct eval {
    struct infer *x;
    const struct model *m;
    const struct node *n;
};
typedef bool eval_fn(struct eval *e, struct content *out);

static bool eval_shape(struct eval *e, struct content *out)
{
    const struct shape *s = infer_shape_of(e->x, e->n->input[0]);
    if (s->rank < 0)
        return false;
    int64_t first = node_attr_int(e->n, "start", 0), last = node_attr_int(e->n, "end", s->rank);
    if (first < 0)
        first += s->rank;
    if (last < 0)
        last += s->rank;
    first = i64_max(0, i64_min(first, s->rank));
    last = i64_max(first, i64_min(last, s->rank));
    out->count = (int)(last - first);
    for (int i = 0; i < out->count; i++) {
        out->v[i] = s->dim[first + i];
        out->number[i] = out->v[i] >= 0;
    }
    return true;
}

static bool eval_copy(struct eval *e, struct content *out)
{
    const struct content *in = content_in(e->x, e->m, e->n, 0);
    if (in)
        *out = *in;
    return in != NULL;
}

static bool eval_cast(struct eval *e, struct content *out)
{
    int64_t to = node_attr_int(e->n, "to", 0);
    return (to == DTYPE_INT64 || to == DTYPE_INT32) && eval_copy(e, out);
}

static bool eval_vector(struct eval *e, struct content *out) /* Unsqueeze of a scalar */
{
    const struct content *in = content_in(e->x, e->m, e->n, 0);
    if (!in || !in->scalar)
        return false;
    *out = *in;
    out->scalar = false;
    return true;
}

static bool eval_scalar(struct eval *e, struct content *out) /* Squeeze of [1] */
{
    const struct content *in = content_in(e->x, e->m, e->n, 0);
    if (!in || in->count != 1)
        return false;
    *out = *in;
    out->scalar = true;
    return true;
}

static bool eval_gather(struct eval *e, struct content *out)
{
    const struct content *in = content_in(e->x, e->m, e->n, 0), *index = content_in(e->x, e->m, e->n, 1);
    if (!in || !index || in->scalar || node_attr_int(e->n, "axis", 0) != 0)
        return false;
    out->count = index->count;
    out->scalar = index->scalar;
    for (int i = 0; i < index->count; i++) {
        if (!index->number[i])
            return false;
        int64_t k = index->v[i] < 0 ? index->v[i] + in->count : index->v[i];
        if (k < 0 || k >= in->count)
            return false;
        out->v[i] = in->v[k];
        out->number[i] = in->number[k];
    }
    return true;
}

static bool eval_concat(struct eval *e, struct content *out)
{
    out->count = 0;
    for (int i = 0; i < e->n->n_input; i++) {
        const struct content *in = content_in(e->x, e->m, e->n, i);
        if (!in || in->scalar || out->count + in->count > INFER_CONTENT_MAX)
            return false;
        for (int k = 0; k < in->count; k++, out->count++) {
            out->v[out->count] = in->v[k];
            out->number[out->count] = in->number[k];
        }
    }
    return true;
}

/* A one-element integer list: attribute (opset < 10) or constant input. */
static bool one_int(struct eval *e, const char *name, int slot, int64_t fallback, int64_t *out)
{
    const struct attr *a = node_attr(e->n, name);
    if (a && a->type == ATTR_INTS && a->count == 1) {
        *out = a->ints[0];
        return true;
    }
    if (a)
        return false;
    if (slot >= e->n->n_input || e->n->input[slot] == VALUE_NONE) {
        *out = fallback;
        return fallback != INT64_MIN;
    }
    const struct content *c = content_in(e->x, e->m, e->n, slot);
    if (!c || c->count != 1 || !c->number[0])
        return false;
    *out = c->v[0];
    return true;
}

static bool eval_slice(struct eval *e, struct content *out)
{
    const struct content *in = content_in(e->x, e->m, e->n, 0);
    int64_t first, last, axis, step;
    if (!in || in->scalar || !one_int(e, "starts", 1, INT64_MIN, &first) || !one_int(e, "ends", 2, INT64_MIN, &last) ||
        !one_int(e, "axes", 3, 0, &axis) || !one_int(e, "steps", 4, 1, &step) || (axis != 0 && axis != -1) || step != 1)
        return false;
    if (first < 0)
        first += in->count;
    if (last < 0)
        last += in->count;
    first = i64_max(0, i64_min(first, in->count));
    last = i64_max(first, i64_min(last, in->count));
    out->count = (int)(last - first);
    memcpy(out->v, in->v + first, (size_t)out->count * sizeof out->v[0]);
    memcpy(out->number, in->number + first, (size_t)out->count * sizeof out->number[0]);
    return true;
}

static bool eval_binary(struct eval *e, struct content *out)
{
    const struct content *a = content_in(e->x, e->m, e->n, 0), *b = content_in(e->x, e->m, e->n, 1);
    if (!a || !b || (a->count != b->count && a->count != 1 && b->count != 1))
        return false;
    char op = e->n->op_type[0]; /* Add, Sub, Mul, Div */
    out->count = a->count > b->count ? a->count : b->count;
    if (a->count == 0 || b->count == 0)
        return false;
    out->scalar = a->scalar && b->scalar;
    for (int i = 0; i < out->count; i++) {
        int ia = a->count == 1 ? 0 : i, ib = b->count == 1 ? 0 : i;
        int64_t va = a->v[ia], vb = b->v[ib], r = DIM_UNKNOWN;
        bool known = a->number[ia] && b->number[ib];
        if (known && op == 'A')
            known = i64_add(va, vb, &r);
        else if (known && op == 'S')
            known = !__builtin_sub_overflow(va, vb, &r);
        else if (known && op == 'M')
            known = i64_mul(va, vb, &r);
        else if (known)
            known = vb > 0 && va >= 0, r = known ? va / vb : DIM_UNKNOWN;
        else if (op == 'M' && b->number[ib] && vb == 1)
            r = va;
        else if (op == 'D' && b->number[ib] && vb == 1)
            r = va;
        out->number[i] = known;
        out->v[i] = known || r < DIM_UNKNOWN ? r : DIM_UNKNOWN;
    }
    return true;
}

static const struct {
    const char *op_type;
    eval_fn *eval;
} evaluators[] = {
    {"Shape", eval_shape}, {"Gather", eval_gather}, {"Concat", eval_concat},    {"Slice", eval_slice},
    {"Cast", eval_cast},   {"Identity", eval_copy}, {"Unsqueeze", eval_vector}, {"Squeeze", eval_scalar},
    {"Add", eval_binary},  {"Sub", eval_binary},    {"Mul", eval_binary},       {"Div", eval_binary},
};

static void follow_content(struct infer *x, const struct model *m, const struct node *n)
{
    if (n->n_output != 1 || n->output[0] == VALUE_NONE || n->n_input < 1 || n->input[0] == VALUE_NONE)
        return;
    for (size_t i = 0; i < sizeof evaluators / sizeof evaluators[0]; i++) {
        if (!node_is(n, evaluators[i].op_type))
            continue;
        struct eval e = {x, m, n};
        struct content out = {0};
        if (!evaluators[i].eval(&e, &out))
            return;
        enum dtype dtype = infer_dtype_of(x, n->output[0]);
        if (dtype != DTYPE_INT64 && dtype != DTYPE_INT32)
            return;
        x->contents[n->output[0]] = arena_memdup(x->arena, &out, sizeof out);
        return;
    }
}

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
    struct type *out = arena_calloc(x->arena, no + 1, sizeof *out);
    struct err ignored = {0};
    if (!attrs || !in || !value || !out || op_parse_attrs(op, m, n, attrs, x->arena, &ignored))
        return;
    for (size_t i = 0; i < ni; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        in[i] = &x->types[n->input[i]];
        value[i] = value_const(m, n->input[i]);
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
                          .out = out,
                          .arena = x->arena};
    if (op->infer(&c, &ignored))
        return;
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
        if (!n->op_type)
            continue;
        infer_node(x, m, n);
        follow_content(x, m, n);
    }
    return 0;
}

int infer_run(struct infer *x, const struct model *m, struct err *err)
{
    *x = (struct infer){.arena = arena_new(), .n = m->n_values};
    uint32_t *order = calloc(m->n_nodes ? m->n_nodes : 1, sizeof *order);
    int rc = -1;
    if (x->arena) {
        x->types = arena_calloc(x->arena, m->n_values ? m->n_values : 1, sizeof *x->types);
        x->contents = arena_calloc(x->arena, m->n_values ? m->n_values : 1, sizeof *x->contents);
    }
    if (!order || !x->types || !x->contents) {
        err_set(err, ERR_NOMEM, "out of memory while inferring types");
        goto out;
    }
    for (uint32_t v = 0; v < m->n_values; v++) {
        x->types[v] = type_unknown;
        if (m->values[v].weight)
            x->types[v] = tensor_type(&m->values[v].weight->tensor);
    }
    const struct graph *g = model_main(m);
    for (int i = 0; i < g->n_inputs; i++)
        if (g->inputs[i].has_type && g->inputs[i].type.kind == TYPE_TENSOR && !m->values[g->inputs[i].value].weight) {
            x->types[g->inputs[i].value] = g->inputs[i].type;
            if (!g->inputs[i].type.has_shape)
                x->types[g->inputs[i].value].shape = SHAPE_UNKNOWN;
        }
    rc = 0;
    for (uint32_t k = 0; k < m->n_graphs && rc == 0; k++) /* nested graphs come after the graph that holds them */
        rc = infer_graph(x, m, k, order, err);
out:
    free(order);
    if (rc)
        infer_fini(x);
    return rc;
}

void infer_fini(struct infer *x)
{
    if (x->arena)
        arena_free(x->arena);
    *x = (struct infer){0};
}
