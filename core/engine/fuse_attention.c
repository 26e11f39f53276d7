/* SPDX-License-Identifier: Apache-2.0
 * fuse_attention.c - attention written out becomes FusedAttention, float32:
 *
 *   Q, K^T  [Mul / Div by a number, on either or on the scores]  MatMul  [Add mask]  Softmax  MatMul with V
 *
 * with the transposes that split heads before and join them after. K^T may be a transposed K, or one that a Reshape
 * gave its batch axis after it was transposed. When the heads are not where the kernel can read them the small nodes
 * stay. */
#include <string.h>

#include "core/engine/fuse_util.h"

struct side {
    uint32_t value;
    bool rows; /* [B, S, N, H] instead of [B, N, S, H] */
};
struct attention_match {
    struct side q, k, v;
    uint32_t mask, last;
    bool rows_out;
    float scale;
    int rank;
};

/* The node that makes `value` is a Transpose with these axes. */
static bool is_transposed(const struct optimize *o, uint32_t value, int rank, const int64_t *perm, uint32_t *from)
{
    const uint32_t id = fuse_maker(o, value, "Transpose");
    if (id == NODE_NONE)
        return false;
    const struct attr *a = node_attr(&o->m->nodes[id], "perm");
    if (!a || a->type != ATTR_INTS || a->count != rank || memcmp(a->ints, perm, (size_t)rank * sizeof *perm) != 0)
        return false;
    *from = o->m->nodes[id].input[0];
    return true;
}

/* value = from * factor: takes the factor out. */
static uint32_t unscaled(const struct optimize *o, uint32_t value, float *scale)
{
    for (;;) {
        const uint32_t mul = fuse_maker(o, value, "Mul"), div = fuse_maker(o, value, "Div");
        const uint32_t id = mul != NODE_NONE ? mul : div;
        float number;
        if (id == NODE_NONE || o->m->nodes[id].n_input != 2 || node_attr(&o->m->nodes[id], "axis"))
            return value;
        const struct node *n = &o->m->nodes[id];
        const int at = fuse_scalar(o, n->input[1], &number) ? 0 : 1;
        if (at == 1 && (div != NODE_NONE || !fuse_scalar(o, n->input[0], &number)))
            return value;
        if (!fuse_same_shape(o, n->input[at], value) || (div != NODE_NONE && number == 0))
            return value;
        *scale *= div != NODE_NONE ? 1 / number : number;
        value = n->input[at];
    }
}

static const int64_t swap_heads[] = {0, 2, 1, 3}, swap_last_4[] = {0, 1, 3, 2}, swap_last_3[] = {0, 2, 1},
                     keys_from_rows[] = {0, 2, 3, 1};

static int rank_of(const struct optimize *o, uint32_t value)
{
    return value < o->cap_type ? o->type[value].shape.rank : SHAPE_UNKNOWN_RANK;
}

/* [B, N, S, H], perhaps made from [B, S, N, H]. */
static struct side stack(const struct optimize *o, uint32_t value)
{
    struct side s = {value, false};
    uint32_t from;
    if (rank_of(o, value) == 4 && is_transposed(o, value, 4, swap_heads, &from)) {
        s.value = from;
        s.rows = true;
    }
    return s;
}

/* A Reshape that leaves the last two axes as they are. */
static uint32_t unbatched(const struct optimize *o, uint32_t value)
{
    const uint32_t id = fuse_maker(o, value, "Reshape");
    if (id == NODE_NONE || rank_of(o, value) != 4 || rank_of(o, o->m->nodes[id].input[0]) != 3)
        return VALUE_NONE;
    const struct shape *to = &o->type[value].shape, *from = &o->type[o->m->nodes[id].input[0]].shape;
    if (to->dim[2] < 0 || to->dim[3] < 0 || to->dim[2] != from->dim[1] || to->dim[3] != from->dim[2])
        return VALUE_NONE;
    return o->m->nodes[id].input[0];
}

/* The K of K^T. */
static bool keys(const struct optimize *o, uint32_t value, float *scale, struct side *k)
{
    uint32_t from;
    value = unscaled(o, value, scale);
    if (rank_of(o, value) == 4 && is_transposed(o, value, 4, keys_from_rows, &from)) {
        *k = (struct side){unscaled(o, from, scale), true};
        return true;
    }
    if (rank_of(o, value) == 4 && is_transposed(o, value, 4, swap_last_4, &from)) {
        *k = stack(o, unscaled(o, from, scale));
        return true;
    }
    const uint32_t flat = rank_of(o, value) == 3 ? value : unbatched(o, value);
    if (flat == VALUE_NONE || !is_transposed(o, flat, 3, swap_last_3, &from))
        return false;
    *k = (struct side){from, false};
    return true;
}

/* Scores of `value`: the product, with scale and mask taken off. */
static bool scores(const struct optimize *o, uint32_t value, struct attention_match *found)
{
    uint32_t product = unscaled(o, value, &found->scale), id = fuse_maker(o, product, "MatMul");
    found->mask = VALUE_NONE;
    if (id == NODE_NONE && product == value) { /* a mask is added last, to what has the shape already */
        const uint32_t add = fuse_maker(o, value, "Add");
        if (add == NODE_NONE || o->m->nodes[add].n_input != 2 || node_attr(&o->m->nodes[add], "axis"))
            return false;
        for (int i = 0; i < 2 && id == NODE_NONE; i++) {
            const uint32_t part = o->m->nodes[add].input[i];
            found->scale = 1;
            if (!fuse_same_shape(o, part, value))
                continue;
            product = unscaled(o, part, &found->scale);
            id = fuse_maker(o, product, "MatMul");
            found->mask = o->m->nodes[add].input[1 - i];
        }
    }
    if (id == NODE_NONE)
        return false;
    const uint32_t q = unscaled(o, o->m->nodes[id].input[0], &found->scale);
    found->q = stack(o, q);
    return keys(o, o->m->nodes[id].input[1], &found->scale, &found->k);
}

static bool mask_fits(const struct optimize *o, const struct attention_match *found, uint32_t scores_value)
{
    if (found->mask == VALUE_NONE)
        return true;
    if (!fuse_is_f32(o, found->mask) || found->rank != 4)
        return false;
    const struct shape *mask = &o->type[found->mask].shape, *s = &o->type[scores_value].shape;
    return mask->rank >= 1 && mask->rank <= 4 && mask->dim[mask->rank - 1] == s->dim[s->rank - 1] &&
           mask->dim[mask->rank - 1] != DIM_UNKNOWN;
}

/* Leading axes must be equal, not stretched: batch and heads of every side. */
static bool same_stacks(const struct optimize *o, const struct attention_match *found)
{
    const struct side *sides[] = {&found->q, &found->k, &found->v};
    int64_t lead[3][2];
    for (int i = 0; i < 3; i++) {
        const struct shape *s = &o->type[sides[i]->value].shape;
        if (!fuse_is_f32(o, sides[i]->value) || (s->rank != 3 && s->rank != 4) || (i != 1 && s->rank != found->rank))
            return false;
        lead[i][0] = s->dim[0];
        lead[i][1] = s->rank == 3 ? 1 : s->dim[sides[i]->rows ? 2 : 1];
    }
    const bool q_flat = o->type[found->q.value].shape.rank == 3, k_flat = o->type[found->k.value].shape.rank == 3;
    if (lead[0][0] != lead[2][0] || lead[0][1] != lead[2][1] || lead[0][0] == DIM_UNKNOWN || lead[0][1] == DIM_UNKNOWN)
        return false;
    if (q_flat == k_flat)
        return lead[0][0] == lead[1][0] && lead[0][1] == lead[1][1];
    return lead[0][0] >= 0 && lead[0][1] >= 0 && lead[1][0] == lead[0][0] * lead[0][1];
}

static bool find(const struct optimize *o, uint32_t id, struct attention_match *found)
{
    const struct node *n = &o->m->nodes[id];
    if (!node_is(n, "Softmax") || n->graph != 0 || !fuse_is_f32(o, n->output[0]))
        return false;
    found->rank = rank_of(o, n->output[0]);
    const int64_t axis = node_attr_int(n, "axis", model_opset(o->m, "") < 13 ? 1 : -1);
    if ((found->rank != 3 && found->rank != 4) || (axis != -1 && axis != found->rank - 1))
        return false;
    found->scale = 1;
    if (!scores(o, n->input[0], found) || !mask_fits(o, found, n->output[0]))
        return false;
    const uint32_t times = optimize_single_reader(o, n->output[0]);
    if (times == NODE_NONE || !node_is(&o->m->nodes[times], "MatMul") || o->m->nodes[times].input[0] != n->output[0])
        return false;
    found->v = stack(o, o->m->nodes[times].input[1]);
    found->last = times;
    const uint32_t after = optimize_single_reader(o, o->m->nodes[times].output[0]);
    uint32_t from;
    if (found->rank == 4 && after != NODE_NONE && node_is(&o->m->nodes[after], "Transpose") &&
        is_transposed(o, o->m->nodes[after].output[0], 4, swap_heads, &from)) {
        found->last = after;
        found->rows_out = true;
    }
    return same_stacks(o, found);
}

static int fuse(struct optimize *o, uint32_t id, struct err *err)
{
    struct attention_match found = {0};
    if (!find(o, id, &found))
        return 0;
    const uint32_t in[4] = {found.q.value, found.k.value, found.v.value, found.mask};
    if (fuse_become(o->m, found.last, "FusedAttention", OP_DOMAIN_ENGINE, in, found.mask == VALUE_NONE ? 3 : 4, err))
        return -1;
    node_set_string(o->m, found.last, "q_layout", found.q.rows ? "rows" : "heads");
    node_set_string(o->m, found.last, "k_layout", found.k.rows ? "rows" : "heads");
    node_set_string(o->m, found.last, "v_layout", found.v.rows ? "rows" : "heads");
    node_set_string(o->m, found.last, "y_layout", found.rows_out ? "rows" : "heads");
    node_set_float(o->m, found.last, "scale", found.scale);
    return 0;
}

int fuse_attention(struct optimize *o, struct err *err)
{
    const uint32_t n = o->m->n_nodes;
    for (uint32_t id = 0; id < n; id++)
        if (o->m->nodes[id].op_type && fuse(o, id, err))
            return -1;
    return 0;
}
