/* SPDX-License-Identifier: Apache-2.0
 * fuse_matmul.c - a product with constant right side and what follows it become one node with a packed weight:
 *
 *   MatMul | Gemm   [Add constant per column]   [Add tensor of the same shape]   [activation]   ->   MatMulPacked
 *
 * in float32. Every step is optional, each must be the only reader of the one before. Gemm's alpha goes into the
 * weight, beta C into the bias. An Identity-like chain of several biases is added up. */
#include <stdlib.h>
#include <string.h>

#include "core/engine/fuse_util.h"
#include "core/kernels/gemm_packed.h"

/* Weights packed so far: several products may share one. */
struct packed {
    uint32_t weight, value;
    bool trans_b;
    float alpha;
};
struct packed_list {
    struct packed *at;
    size_t count, cap;
};

struct product {
    struct optimize *o;
    struct packed_list *list;
    uint32_t id, last; /* the product; the node whose output the fused one makes */
    const struct tensor *weight;
    bool trans_a, trans_b;
    float alpha;
    int64_t k, n;
    float *bias; /* [n] */
    bool has_bias;
    uint32_t residual;
    struct act act;
};

static bool starts(struct product *p, uint32_t id)
{
    const struct model *m = p->o->m;
    const struct node *n = &m->nodes[id];
    const bool gemm = node_is(n, "Gemm");
    if (n->graph != 0 || (!gemm && !node_is(n, "MatMul")) || n->n_input < 2 || !fuse_is_f32(p->o, n->input[0]) ||
        !fuse_is_f32(p->o, n->output[0]) || value_const(m, n->input[0]))
        return false;
    const struct tensor *w = value_const(m, n->input[1]);
    if (!w || w->dtype != DTYPE_FLOAT || w->shape.rank != 2 || tensor_count(w) == 0 || !w->data)
        return false;
    const int rank = p->o->type[n->input[0]].shape.rank;
    p->weight = w;
    p->id = p->last = id;
    p->trans_a = gemm && node_attr_int(n, "transA", 0) != 0;
    p->trans_b = gemm && node_attr_int(n, "transB", 0) != 0;
    p->alpha = gemm ? node_attr_float(n, "alpha", 1) : 1;
    p->k = w->shape.dim[p->trans_b ? 1 : 0];
    p->n = w->shape.dim[p->trans_b ? 0 : 1];
    p->residual = VALUE_NONE;
    return gemm ? rank == 2 : rank >= 2;
}

/* A constant with one value, or one a column, is added to the bias. */
static bool add_columns(struct product *p, uint32_t value, float factor)
{
    const struct tensor *t = value == VALUE_NONE ? NULL : value_const(p->o->m, value);
    const int rank = p->o->type[p->o->m->nodes[p->id].output[0]].shape.rank;
    if (!t || t->dtype != DTYPE_FLOAT || !t->data || t->shape.rank > rank)
        return false;
    const int64_t count = tensor_count(t);
    if (count != 1 && (count != p->n || t->shape.dim[t->shape.rank - 1] != p->n))
        return false;
    for (int64_t j = 0; j < p->n; j++)
        p->bias[j] += factor * tensor_f32(t)[count == 1 ? 0 : j];
    p->has_bias = true;
    return true;
}

/* Gemm's own addend. */
static bool own_addend(struct product *p)
{
    const struct node *n = &p->o->m->nodes[p->id];
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return true;
    const float beta = node_attr_float(n, "beta", 1);
    if (add_columns(p, n->input[2], beta))
        return true;
    if (beta != 1 || !fuse_is_f32(p->o, n->input[2]) || !fuse_same_shape(p->o, n->input[2], n->output[0]))
        return false;
    p->residual = n->input[2];
    return true;
}

/* Take in the only reader, if it is one of ours; nothing comes after an activation. */
static bool extend(struct product *p)
{
    const struct optimize *o = p->o;
    const uint32_t out = o->m->nodes[p->last].output[0], reader = optimize_single_reader(o, out);
    if (reader == NODE_NONE || p->act.kind != ACT_NONE)
        return false;
    const struct node *n = &o->m->nodes[reader];
    const bool plain = !node_attr(n, "axis") && !node_attr(n, "broadcast");
    if (node_is(n, "Add") && plain) {
        const uint32_t other = fuse_other(n, out);
        if (!add_columns(p, other, 1)) {
            if (other == VALUE_NONE || p->residual != VALUE_NONE || value_const(o->m, other) ||
                !fuse_is_f32(o, other) || !fuse_same_shape(o, other, out))
                return false;
            p->residual = other;
        }
    } else if (n->n_input < 1 || n->input[0] != out || !fuse_read_act(o, reader, &p->act)) {
        return false;
    }
    p->last = reader;
    return true;
}

static int remember(struct packed_list *list, struct packed entry, struct err *err)
{
    if (list->count == list->cap) {
        const size_t cap = list->cap * 2 + 16;
        struct packed *grown = realloc(list->at, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        list->at = grown;
        list->cap = cap;
    }
    list->at[list->count++] = entry;
    return 0;
}

static int pack_weight(struct product *p, uint32_t *value, struct err *err)
{
    int64_t count;
    struct tensor t = {0};
    const int64_t b_row = p->trans_b ? 1 : p->n, b_col = p->trans_b ? p->k : 1;
    const uint32_t weight = p->o->m->nodes[p->id].input[1];
    for (size_t i = 0; i < p->list->count; i++) {
        const struct packed *old = &p->list->at[i];
        if (old->weight == weight && old->trans_b == p->trans_b && old->alpha == p->alpha) {
            *value = old->value;
            return 0;
        }
    }
    if (!gemm_packed_count(p->k, p->n, &count))
        return err_set(err, ERR_MODEL_TOO_LARGE, "a weight of %lld x %lld is too large", (long long)p->k,
                       (long long)p->n);
    if (tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(count / GEMM_PANEL / p->k, p->k, GEMM_PANEL), err))
        return -1;
    gemm_pack_b(p->k, p->n, p->weight->data, b_row, b_col, p->alpha, t.data);
    tensor_release_pages(p->weight);
    *value = optimize_add_weight(p->o, p->o->m->values[weight].name, &t, err);
    return *value == VALUE_NONE ? -1 : remember(p->list, (struct packed){weight, *value, p->trans_b, p->alpha}, err);
}

static int bias_value(struct product *p, uint32_t *value, struct err *err)
{
    struct tensor t = {0};
    *value = VALUE_NONE;
    if (!p->has_bias)
        return 0;
    if (tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(p->n), err))
        return -1;
    memcpy(t.data, p->bias, (size_t)p->n * sizeof *p->bias);
    *value = optimize_add_weight(p->o, p->o->m->values[p->o->m->nodes[p->id].output[0]].name, &t, err);
    return *value == VALUE_NONE ? -1 : 0;
}

/* The last node of the chain becomes the fused one; the driver removes what nobody reads any more. */
static int rewrite(struct product *p, struct err *err)
{
    struct model *m = p->o->m;
    uint32_t in[4] = {m->nodes[p->id].input[0], VALUE_NONE, VALUE_NONE, p->residual};
    if (pack_weight(p, &in[1], err) || bias_value(p, &in[2], err))
        return -1;
    const int n_in = in[3] != VALUE_NONE ? 4 : in[2] != VALUE_NONE ? 3 : 2;
    if (fuse_become(m, p->last, "MatMulPacked", OP_DOMAIN_ENGINE, in, n_in, err))
        return -1;
    node_set_int(m, p->last, "n", p->n);
    node_set_int(m, p->last, "trans_a", p->trans_a);
    fuse_set_act(m, p->last, &p->act);
    return 0;
}

static int fuse(struct optimize *o, uint32_t id, struct packed_list *list, struct err *err)
{
    struct product p = {.o = o, .list = list};
    int rc = 0;
    if (!starts(&p, id))
        return 0;
    p.bias = calloc((size_t)p.n, sizeof *p.bias);
    if (!p.bias)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (own_addend(&p)) {
        while (extend(&p))
            ;
        rc = rewrite(&p, err);
    }
    free(p.bias);
    return rc;
}

int fuse_matmul(struct optimize *o, struct err *err)
{
    const uint32_t n = o->m->n_nodes;
    struct packed_list list = {0};
    int rc = 0;
    for (uint32_t id = 0; id < n && !rc; id++)
        if (o->m->nodes[id].op_type)
            rc = fuse(o, id, &list, err);
    free(list.at);
    return rc;
}
