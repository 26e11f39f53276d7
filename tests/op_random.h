/* SPDX-License-Identifier: Apache-2.0
 * op_random.h - random single-node models: bytes are decoded into a registry row, an opset, inputs and attributes.
 * Idea       A case begins as one of the row's samples (or as inputs and attributes drawn from the row's tables) and is changed
 *            a few times. Changes keep to what may well be valid (`tame`: for comparisons with another runtime) or to anything
 *            at all. The bytes come from a fuzzer or from a seeded generator: both walk the same decoder.
 * Life cycle op_random -> op_case_free. Tests only: memory that runs out ends the program. */
#ifndef PARED_TESTS_OP_RANDOM_H
#define PARED_TESTS_OP_RANDOM_H

#include <math.h>

#include "tests/op_case.h"

struct op_bytes {
    const uint8_t *at, *end; /* when they end, zeros follow */
};

static uint64_t op_take(struct op_bytes *b, uint64_t n)
{
    uint64_t v = 0;
    for (uint64_t limit = n; limit > 1; limit = limit > 256 ? limit / 256 : 1)
        v = v << 8 | (b->at < b->end ? *b->at++ : 0);
    return n ? v % n : 0;
}

static int64_t op_random_int(struct op_bytes *b, bool tame)
{
    static const int64_t odd[] = {16,        17,         -17,       100,       INT32_MAX, INT32_MIN,  (1LL << 31), -(1LL << 31) - 1,
                                  INT64_MAX, INT64_MIN,  1LL << 62, 1LL << 40, 65536,     1LL << 33,  1000000007,  -1000000};
    const uint64_t kind = op_take(b, 8);
    if (tame || kind < 6)
        return (int64_t)op_take(b, 9) - 3;
    return odd[op_take(b, sizeof odd / sizeof odd[0])];
}

static double op_random_float(struct op_bytes *b)
{
    static const double odd[] = {0.0, -0.0, 1, -1, 0.5, INFINITY, -INFINITY, NAN, 1e30, -1e30, 1e-40, 3.4e38, 127.5, -128.5, 2147483648.0, 1e10};
    return op_take(b, 3) ? (double)op_take(b, 256) / 32 - 4 : odd[op_take(b, sizeof odd / sizeof odd[0])];
}

/* ---- tensors ---- */
static int64_t op_random_dim(struct op_bytes *b, bool tame)
{
    static const int64_t odd[] = {1LL << 31, 1LL << 40, INT64_MAX, 1LL << 62, 65537, 1LL << 16};
    const uint64_t kind = op_take(b, 16);
    if (!tame && kind == 15)
        return odd[op_take(b, sizeof odd / sizeof odd[0])];
    return kind < 2 ? 0 : kind < 5 ? 1 : (int64_t)op_take(b, tame ? 7 : 20);
}

/* New bytes for a dtype and shape; false if it would be large. */
static bool op_random_alloc(struct tensor *t, enum dtype dtype, const struct shape *shape)
{
    struct err err = {0};
    struct tensor made = {0};
    const int64_t n = shape_count(shape);
    if (n < 0 || n > 1 << 16 || dtype == DTYPE_STRING || dtype_kind(dtype) == 'c' || !dtype_bits(dtype) ||
        tensor_alloc(&made, dtype, shape, &err) < 0)
        return false;
    tensor_fini(t);
    *t = made;
    return true;
}

static void op_random_set(struct tensor *t, int64_t i, int64_t whole, double real)
{
    if (dtype_is_float(t->dtype))
        dtype_set(t->dtype, t->data, i, real);
    else if (t->dtype == DTYPE_BOOL)
        ((uint8_t *)t->data)[i] = whole & 1;
    else if (dtype_bits(t->dtype) < 8)
        dtype_set(t->dtype, t->data, i, (double)(whole & 1));
    else
        dtype_convert(t->dtype, (char *)t->data + (size_t)i * (size_t)(dtype_bits(t->dtype) / 8), DTYPE_INT64, &whole, 1);
}

static void op_random_fill(struct tensor *t, struct op_bytes *b, bool tame)
{
    struct rng rng;
    const int64_t n = tensor_count(t);
    const uint64_t style = op_take(b, 6);
    const int64_t whole = op_random_int(b, tame);
    const double real = op_random_float(b);
    rng_init(&rng, op_take(b, 65536), 3);
    for (int64_t i = 0; i < n; i++) {
        int64_t w = (int64_t)rng_below(&rng, 10);
        double r = rng_uniform(&rng) * 4 - 2;
        if (style == 1)
            w -= 5;
        else if (style == 2 && b->at < b->end && n < 64)
            w = op_random_int(b, tame), r = op_random_float(b);
        else if (style == 3)
            w = whole, r = real;
        else if (style == 4)
            w = i, r = (double)i;
        else if (style == 5 && rng_below(&rng, 4) == 0)
            w = whole, r = real;
        op_random_set(t, i, w, r);
    }
}

/* ---- the case ---- */
static enum dtype op_random_dtype(struct op_bytes *b, bool tame)
{
    static const enum dtype common[] = {DTYPE_FLOAT, DTYPE_DOUBLE, DTYPE_INT32, DTYPE_INT64, DTYPE_FLOAT16, DTYPE_UINT8,
                                        DTYPE_INT8,  DTYPE_BOOL,   DTYPE_INT16, DTYPE_UINT16, DTYPE_UINT32, DTYPE_UINT64};
    if (tame || op_take(b, 4))
        return common[op_take(b, sizeof common / sizeof common[0])];
    return (enum dtype)(1 + op_take(b, DTYPE_COUNT - 1));
}

static struct shape op_random_shape(struct op_bytes *b, bool tame)
{
    struct shape s = {.rank = (int)op_take(b, tame ? 5 : 7)};
    for (int i = 0; i < s.rank; i++)
        s.dim[i] = op_random_dim(b, tame);
    return s;
}

/* The inputs' declarations after they were changed. */
static void op_random_declare(struct op_case *c)
{
    struct node *node = &c->m->nodes[c->node];
    struct graph *g = model_main(c->m);
    g->n_inputs = c->n_fed = 0;
    for (int i = 0; i < c->n_in; i++) {
        const char *name = model_printf(c->m, "%c%d", c->weight[i] ? 'w' : 'a', i);
        if (c->absent[i]) {
            node->input[i] = VALUE_NONE;
            continue;
        }
        if (c->weight[i]) {
            node->input[i] = model_add_weight(c->m, 0, name, &c->in[i]);
            continue;
        }
        node->input[i] = model_add_value(c->m, 0, name, false);
        g = model_main(c->m);
        g->inputs[g->n_inputs++] = (struct value_info){
            .value = node->input[i], .has_type = true,
            .type = {.kind = TYPE_TENSOR, .dtype = c->in[i].dtype, .has_dtype = true, .has_shape = true, .shape = c->in[i].shape}};
        c->fed_slot[c->n_fed] = i;
        c->fed[c->n_fed++] = c->in[i];
    }
}

/* Extent `from` becomes `to` wherever it stands: sizes that had to agree still do. */
static void op_random_resize(struct op_case *c, int64_t from, int64_t to, struct op_bytes *b, bool tame)
{
    for (int i = 0; i < c->n_in; i++) {
        struct shape s = c->in[i].shape;
        bool changed = false;
        for (int a = 0; a < s.rank; a++)
            if (s.dim[a] == from) {
                s.dim[a] = to;
                changed = true;
            }
        if (changed && !c->absent[i] && op_random_alloc(&c->in[i], c->in[i].dtype, &s))
            op_random_fill(&c->in[i], b, tame);
    }
}

static void op_random_retype(struct op_case *c, enum dtype from, enum dtype to, struct op_bytes *b, bool tame)
{
    for (int i = 0; i < c->n_in; i++)
        if (!c->absent[i] && c->in[i].dtype == from) {
            const struct shape s = c->in[i].shape;
            if (op_random_alloc(&c->in[i], to, &s))
                op_random_fill(&c->in[i], b, tame);
        }
}

static void op_random_inputs(struct op_case *c, const struct op_class *op, struct op_bytes *b, bool tame)
{
    const uint64_t what = op_take(b, tame ? 5 : 9);
    const int i = c->n_in ? (int)op_take(b, (uint64_t)c->n_in) : 0;
    if (c->n_in == 0)
        return;
    struct shape s = c->in[i].shape;
    if (what == 0 && s.rank > 0) {
        const int64_t from = s.dim[op_take(b, (uint64_t)s.rank)];
        op_random_resize(c, from, op_random_dim(b, tame), b, tame);
    } else if (what == 1) {
        op_random_retype(c, c->in[i].dtype, op_random_dtype(b, tame), b, tame);
    } else if (what == 2 || what == 3) {
        if (c->in[i].data)
            op_random_fill(&c->in[i], b, tame && !dtype_is_float(c->in[i].dtype));
    } else if (what == 4) {
        c->weight[i] = !c->weight[i];
    } else if (what == 5) {
        c->absent[i] = !c->absent[i];
        if (!c->absent[i] && !c->in[i].dtype)
            c->absent[i] = true;
    } else if (what == 6) {
        const struct shape any = op_random_shape(b, tame);
        if (!c->absent[i] && op_random_alloc(&c->in[i], c->in[i].dtype, &any))
            op_random_fill(&c->in[i], b, tame);
    } else if (what == 7 && s.rank > 0) {
        s.dim[op_take(b, (uint64_t)s.rank)] = op_random_dim(b, tame);
        if (!c->absent[i] && op_random_alloc(&c->in[i], c->in[i].dtype, &s))
            op_random_fill(&c->in[i], b, tame);
    } else if (what == 8) {
        const int most = op->in_max < 0 ? 6 : op->in_max;
        c->n_in = (int)op_take(b, (uint64_t)(most < OP_CASE_INPUTS ? most + 1 : OP_CASE_INPUTS) + 1);
        c->n_in = c->n_in > OP_CASE_INPUTS ? OP_CASE_INPUTS : c->n_in;
        for (int k = 0; k < c->n_in; k++)
            if (!c->in[k].dtype)
                c->absent[k] = true;
    }
}

/* ---- attributes ---- */
static const char *op_random_text(const struct op_attr *row, struct op_bytes *b, bool tame)
{
    int n = 0;
    while (row->choices && row->choices[n])
        n++;
    if (n && (tame || op_take(b, 8)))
        return row->choices[op_take(b, (uint64_t)n)];
    return op_take(b, 2) ? "" : "ij,jk->ik";
}

static void op_random_attr(struct op_case *c, const struct op_attr *row, struct op_bytes *b, bool tame)
{
    struct node *node = &c->m->nodes[c->node];
    int at = 0;
    while (at < node->n_attr && strcmp(node->attr[at].name, row->name) != 0)
        at++;
    if (at < node->n_attr && op_take(b, 8) == 0) { /* leave it out */
        node->attr[at] = node->attr[--node->n_attr];
        return;
    }
    if (at == node->n_attr && (node->n_attr >= 31 || row->kind == OP_TENSOR || row->kind == OP_GRAPH))
        return;
    if (at < node->n_attr && (node->attr[at].type == ATTR_TENSOR || node->attr[at].type == ATTR_GRAPH))
        return;
    if (row->kind > OP_ENUM) /* a type: only samples say one */
        return;
    const int old = at < node->n_attr ? node->attr[at].count : 0;
    const bool list = row->kind == OP_INTS || row->kind == OP_FLOATS || row->kind == OP_STRINGS;
    char text[400] = "";
    const int n = !list ? 1 : old && op_take(b, 4) ? old : 1 + (int)op_take(b, 6);
    for (int i = 0; i < n; i++) {
        char *end = text + strlen(text);
        const size_t room = sizeof text - strlen(text);
        if (row->kind == OP_FLOAT || row->kind == OP_FLOATS)
            snprintf(end, room, "%s%.9g", i ? "," : "", tame ? (double)op_take(b, 9) / 4 : op_random_float(b));
        else if (row->kind == OP_BOOL && (tame || op_take(b, 8)))
            snprintf(end, room, "%d", (int)op_take(b, 2));
        else if (row->kind == OP_STRING || row->kind == OP_ENUM || row->kind == OP_STRINGS)
            snprintf(end, room, "%s%s", i ? "," : "", op_random_text(row, b, tame));
        else
            snprintf(end, room, "%s%lld", i ? "," : "", (long long)op_random_int(b, tame));
    }
    struct err err = {0};
    if (op_case_attr(c->m, &node->attr[at], row, text, &err) == 0 && at == node->n_attr)
        node->n_attr++;
}

static void op_random_attrs(struct op_case *c, const struct op_class *op, struct op_bytes *b, bool tame)
{
    int n = 0;
    while (op->attrs && op->attrs[n].name)
        n++;
    if (n)
        op_random_attr(c, &op->attrs[op_take(b, (uint64_t)n)], b, tame);
}

/* ---- rows ---- */
/* Rows a user's model may hold, without those whose attributes are graphs. */
static const struct op_class *op_random_row(struct op_bytes *b)
{
    const struct op_class *const *all = op_all();
    static int n;
    if (!n)
        while (all[n])
            n++;
    for (int at = (int)op_take(b, 65536) % n, k = 0; k < n; k++) {
        const struct op_class *op = all[(at + k) % n];
        bool graphs = op->internal;
        for (const struct op_attr *a = op->attrs; a && a->name; a++)
            graphs = graphs || a->kind == OP_GRAPH;
        if (!graphs)
            return op;
    }
    return all[0];
}

/* A sample drawn from the row's tables alone, for rows without samples. */
static const char *op_random_line(const struct op_class *op, struct op_bytes *b, char *line, size_t size)
{
    const int least = op->in_min < 0 ? 1 : op->in_min, most = op->in_max < 0 ? least + 3 : op->in_max;
    const int n = least + (int)op_take(b, (uint64_t)(most - least) + 1);
    *line = 0;
    for (int i = 0; i < n && i < OP_CASE_INPUTS; i++)
        snprintf(line + strlen(line), size - strlen(line), "%s%s[2,3]", i ? " " : "", op_take(b, 3) ? "f32" : "i64");
    return line;
}

static int op_random(struct op_case *c, const uint8_t *data, size_t size, bool tame)
{
    struct op_bytes b = {data, data + size};
    const struct op_class *op = op_random_row(&b);
    struct op_sample sample = {0};
    struct err err = {0};
    char line[400];
    int samples = 0;
    while (op->samples && op->samples[samples].inputs)
        samples++;
    if (samples && (tame || op_take(&b, 16)))
        sample = op->samples[op_take(&b, (uint64_t)samples)];
    else
        sample.inputs = op_random_line(op, &b, line, sizeof line);
    if (op_take(&b, 4) == 0 && (!op->domain || !*op->domain)) { /* another opset of the row */
        const int most = tame && OP_OPSET_NEWEST > 26 && op->since <= 26 ? 26 : OP_OPSET_NEWEST; /* other runtimes' newest */
        const int newest = op->until && op->until < most ? op->until : most;
        sample.opset = op->since + (int)op_take(&b, (uint64_t)(newest - op->since + 1));
    }
    if (op_case_build(c, op, &sample, &err) < 0)
        return -1;
    struct node *node = &c->m->nodes[c->node];
    uint32_t *input = model_alloc(c->m, OP_CASE_INPUTS, sizeof *input);
    memcpy(input, node->input, (size_t)node->n_input * sizeof *input);
    node->input = input;
    if (!node->attr)
        node->attr = model_alloc(c->m, 32, sizeof *node->attr);
    model_main(c->m)->inputs = model_alloc(c->m, OP_CASE_INPUTS, sizeof(struct value_info));
    for (int changes = (int)op_take(&b, tame ? 4 : 6); changes > 0; changes--) {
        if (op_take(&b, 3))
            op_random_inputs(c, op, &b, tame);
        else
            op_random_attrs(c, op, &b, tame);
    }
    model_main(c->m)->n_initializers = 0; /* what the sample had */
    op_random_declare(c);
    node->n_input = c->n_in;
    c->m->ir_version = 10;
    return 0;
}

#endif
