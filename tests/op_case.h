/* SPDX-License-Identifier: Apache-2.0
 * op_case.h - an operator's sample line (op.h: struct op_sample) as a one-node model with inputs.
 * Inputs     "f32[2,3] !i64[1]=4 none": dtype, shape, values after '='; '!' makes an initializer, "none" is an absent
 * input. Without values floats are seeded random in [-2, 2], integers 0..9, bools 0 or 1. Values are numbers, inf,
 * -inf, nan. Attributes "axis=1 alpha=0.5 mode=edge pads=1,1 value=f32[2]=1,2": kinds come from the row's attribute
 * table. Life cycle op_case_build -> op_case_free. Tests only: memory that runs out ends the program. */
#ifndef PARED_TESTS_OP_CASE_H
#define PARED_TESTS_OP_CASE_H

#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/model/model.h"
#include "core/ops/op.h"

enum { OP_CASE_INPUTS = 16, OP_CASE_OUTPUTS = 8 };

struct op_case {
    struct model *m;
    uint32_t node;
    int n_in, n_fed, n_out;
    struct tensor in[OP_CASE_INPUTS]; /* in the node's order; absent ones are empty */
    bool absent[OP_CASE_INPUTS], weight[OP_CASE_INPUTS];
    struct tensor fed[OP_CASE_INPUTS]; /* borrowed views of those that must be fed */
    int fed_slot[OP_CASE_INPUTS];      /* and their place at the node */
    uint32_t out[OP_CASE_OUTPUTS];
    int opset;
};

static const struct {
    const char *name;
    enum dtype dtype;
} op_case_dtypes[] = {{"f32", DTYPE_FLOAT}, {"f64", DTYPE_DOUBLE}, {"f16", DTYPE_FLOAT16}, {"bf16", DTYPE_BFLOAT16},
                      {"i8", DTYPE_INT8},   {"u8", DTYPE_UINT8},   {"i16", DTYPE_INT16},   {"u16", DTYPE_UINT16},
                      {"i32", DTYPE_INT32}, {"u32", DTYPE_UINT32}, {"i64", DTYPE_INT64},   {"u64", DTYPE_UINT64},
                      {"b", DTYPE_BOOL},    {"i4", DTYPE_INT4},    {"u4", DTYPE_UINT4},    {"f8", DTYPE_FLOAT8E4M3FN}};

static int op_case_bad(const char *text, const char *what, struct err *err)
{
    return err_set(err, ERR_USAGE, "sample '%s': %s", text, what);
}

static void op_case_random(struct tensor *t, struct rng *rng)
{
    int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        double v = dtype_is_float(t->dtype) ? rng_uniform(rng) * 4 - 2
                                            : (double)rng_below(rng, t->dtype == DTYPE_BOOL     ? 2
                                                                     : dtype_bits(t->dtype) < 8 ? 7
                                                                                                : 10);
        dtype_set(t->dtype, t->data, i, v);
    }
}

/* "f32[2,3]=1,2": one token into a tensor. */
static int op_case_tensor(const char *text, struct rng *rng, struct tensor *t, struct err *err)
{
    size_t len = strcspn(text, "[");
    enum dtype dtype = DTYPE_NONE;
    for (size_t i = 0; i < sizeof op_case_dtypes / sizeof op_case_dtypes[0]; i++)
        if (strlen(op_case_dtypes[i].name) == len && strncmp(op_case_dtypes[i].name, text, len) == 0)
            dtype = op_case_dtypes[i].dtype;
    if (dtype == DTYPE_NONE || text[len] != '[')
        return op_case_bad(text, "unknown dtype, or no shape", err);
    struct shape shape = {0};
    const char *at = text + len + 1;
    while (*at != ']') {
        char *end;
        shape.dim[shape.rank++] = strtoll(at, &end, 10);
        if (end == at || shape.rank == SHAPE_MAX_RANK)
            return op_case_bad(text, "bad shape", err);
        at = *end == ',' ? end + 1 : end;
    }
    if (tensor_alloc(t, dtype, &shape, err) < 0)
        return -1;
    if (at[1] != '=') {
        op_case_random(t, rng);
        return 0;
    }
    at += 2;
    int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        char *end;
        double v = strtod(at, &end);
        if (end == at)
            return op_case_bad(text, "too few values", err);
        dtype_set(dtype, t->data, i, v);
        at = *end == ',' ? end + 1 : end;
    }
    return *at && *at != ' ' ? op_case_bad(text, "too many values", err) : 0;
}

static int op_case_count(const char *text)
{
    int n = *text ? 1 : 0;
    for (; *text; text++)
        n += *text == ',';
    return n;
}

static int op_case_attr(struct model *m, struct attr *a, const struct op_attr *row, const char *text, struct err *err)
{
    static const enum attr_type types[] = {
        [OP_INT] = ATTR_INT,       [OP_FLOAT] = ATTR_FLOAT,     [OP_STRING] = ATTR_STRING, [OP_INTS] = ATTR_INTS,
        [OP_FLOATS] = ATTR_FLOATS, [OP_STRINGS] = ATTR_STRINGS, [OP_TENSOR] = ATTR_TENSOR, [OP_GRAPH] = ATTR_GRAPH,
        [OP_BOOL] = ATTR_INT,      [OP_ENUM] = ATTR_STRING};
    struct rng rng;
    rng_init(&rng, 1, 1);
    *a = (struct attr){.name = model_strdup(m, row->name), .type = types[row->kind], .has_type = true, .count = 1};
    bool list = row->kind == OP_INTS || row->kind == OP_FLOATS || row->kind == OP_STRINGS;
    a->count = list ? op_case_count(text) : 1;
    size_t n = (size_t)a->count + 1;
    if (a->type == ATTR_TENSOR) {
        a->tensors = model_alloc(m, 1, sizeof *a->tensors);
        a->tensors[0] = model_new_weight(m);
        return op_case_tensor(text, &rng, &a->tensors[0]->tensor, err);
    }
    const char *at = text;
    if (a->type == ATTR_INT || a->type == ATTR_INTS)
        a->ints = model_alloc(m, n, sizeof *a->ints);
    else if (a->type == ATTR_FLOAT || a->type == ATTR_FLOATS)
        a->floats = model_alloc(m, n, sizeof *a->floats);
    else
        a->strings = model_alloc(m, n, sizeof *a->strings);
    for (int i = 0; i < a->count; i++) {
        size_t len = list ? strcspn(at, ",") : strlen(at);
        if (a->type == ATTR_INT || a->type == ATTR_INTS)
            a->ints[i] = strtoll(at, NULL, 10);
        else if (a->type == ATTR_FLOAT || a->type == ATTR_FLOATS)
            a->floats[i] = strtof(at, NULL);
        else
            a->strings[i] = (struct attr_string){model_printf(m, "%.*s", (int)len, at), len};
        at += len + (at[len] == ',');
    }
    return 0;
}

static int op_case_attrs(struct op_case *c, const struct op_class *op, const char *text, struct err *err)
{
    struct node *node = &c->m->nodes[c->node];
    char *copy = strdup(text ? text : ""), *save = NULL;
    node->attr = model_alloc(c->m, 32, sizeof *node->attr);
    int rc = 0;
    for (char *word = strtok_r(copy, " ", &save); word && !rc; word = strtok_r(NULL, " ", &save)) {
        char *value = strchr(word, '=');
        const struct op_attr *row = op->attrs;
        if (value)
            *value++ = 0;
        while (row && row->name && strcmp(row->name, word) != 0)
            row++;
        if (!value || !row || !row->name || node->n_attr == 32)
            rc = op_case_bad(text, "an attribute the row does not have", err);
        else
            rc = op_case_attr(c->m, &node->attr[node->n_attr++], row, value, err);
    }
    free(copy);
    return rc;
}

/* Values and tensors of all inputs. */
static int op_case_inputs(struct op_case *c, const char *text, uint32_t *ids, struct err *err)
{
    struct rng rng;
    uint64_t seed = 14695981039346656037u;
    for (const char *p = text; *p; p++)
        seed = (seed ^ (unsigned char)*p) * 1099511628211u;
    rng_init(&rng, seed, 0);
    char *copy = strdup(text), *save = NULL;
    int rc = 0;
    struct graph *g = model_main(c->m);
    g->inputs = model_alloc(c->m, OP_CASE_INPUTS, sizeof *g->inputs);
    for (char *word = strtok_r(copy, " ", &save); word && !rc; word = strtok_r(NULL, " ", &save)) {
        int i = c->n_in++;
        ids[i] = VALUE_NONE;
        c->absent[i] = strcmp(word, "none") == 0;
        if (c->absent[i])
            continue;
        c->weight[i] = *word == '!';
        rc = op_case_tensor(word + c->weight[i], &rng, &c->in[i], err);
        if (rc)
            break;
        const char *name = model_printf(c->m, "x%d", i);
        if (c->weight[i]) {
            ids[i] = model_add_weight(c->m, 0, name, &c->in[i]);
            continue;
        }
        ids[i] = model_add_value(c->m, 0, name, false);
        struct value_info *info = &model_main(c->m)->inputs[model_main(c->m)->n_inputs++];
        info->value = ids[i];
        info->has_type = true;
        info->type = (struct type){.kind = TYPE_TENSOR,
                                   .dtype = c->in[i].dtype,
                                   .has_dtype = true,
                                   .has_shape = true,
                                   .shape = c->in[i].shape};
        c->fed_slot[c->n_fed] = i;
        c->fed[c->n_fed++] = c->in[i];
    }
    free(copy);
    return rc;
}

static inline void op_case_free(struct op_case *c)
{
    for (int i = 0; i < OP_CASE_INPUTS; i++)
        tensor_fini(&c->in[i]);
    model_free(c->m);
    memset(c, 0, sizeof *c);
}

/* The opset a sample runs at: its own, else the newest of the row. */
static int op_case_opset(const struct op_class *op, const struct op_sample *s)
{
    bool plain = !op->domain || !*op->domain;
    /* ONNX Runtime 1.31 takes models up to opset 26 */
    int newest = op->since > 26 ? op->since : 26;
    return s->opset ? s->opset : op->until && op->until < newest ? op->until : plain ? newest : op->since;
}

static inline int op_case_build(struct op_case *c, const struct op_class *op, const struct op_sample *s, struct err *err)
{
    uint32_t ids[OP_CASE_INPUTS];
    memset(c, 0, sizeof *c);
    c->m = model_new();
    c->opset = op_case_opset(op, s);
    bool plain = !op->domain || !*op->domain;
    c->m->has_ir_version = true;
    c->m->ir_version = c->opset < 3 ? 3 : c->opset <= 13 ? 7 : c->opset <= 18 ? 8 : c->opset <= 20 ? 9 : 10;
    model_set_opset(c->m, "", plain ? c->opset : 17);
    if (!plain)
        model_set_opset(c->m, op->domain, c->opset);
    model_main(c->m)->name = "sample";
    if (op_case_inputs(c, s->inputs, ids, err) < 0)
        return -1;
    c->n_out = s->outputs ? s->outputs : 1;
    struct graph *g = model_main(c->m);
    g->outputs = model_alloc(c->m, OP_CASE_OUTPUTS, sizeof *g->outputs);
    for (int i = 0; i < c->n_out; i++) {
        c->out[i] = model_add_value(c->m, 0, model_printf(c->m, "y%d", i), false);
        g = model_main(c->m);
        g->outputs[g->n_outputs++] = (struct value_info){.value = c->out[i]};
    }
    c->node = model_add_node(c->m, 0, op->type, plain ? "" : op->domain, "node", ids, c->n_in, c->out, c->n_out);
    return op_case_attrs(c, op, s->attrs, err);
}

#endif
