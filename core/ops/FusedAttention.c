/* SPDX-License-Identifier: Apache-2.0
 * FusedAttention, made by fuse_attention only, float32:
 *   Y = softmax(scale Q K^T + mask) V
 *   Q, K, V   stacks of heads: layout "heads" is [B, N, S, H] (or [B N, S, H]), layout "rows" is [B, S, N, H]
 *   mask      broadcasts to [B, N, S, keys]; its last axis is whole. A key at -infinity is not seen; a row that sees
 *             nothing gives zeros
 *   Y         like Q, with the width of V, in its own layout */
#include "core/kernels/attention.h"
#include "core/ops/op_util.h"

enum layout { HEADS, ROWS };
static const char *const layouts[] = {"heads", "rows", NULL};

struct fused_attrs {
    int q_layout, k_layout, v_layout, y_layout;
    float scale;
};
static const struct op_attr fused_attrs[] = {
    {OP_ATTR(fused_attrs, q_layout), .kind = OP_ENUM, .choices = layouts},
    {OP_ATTR(fused_attrs, k_layout), .kind = OP_ENUM, .choices = layouts},
    {OP_ATTR(fused_attrs, v_layout), .kind = OP_ENUM, .choices = layouts},
    {OP_ATTR(fused_attrs, y_layout), .kind = OP_ENUM, .choices = layouts},
    {OP_ATTR(fused_attrs, scale), .kind = OP_FLOAT, .def_f = 1},
    {0},
};

/* Batch, heads, rows, width; a stack of rank 3 has all its matrices in `batch`. */
struct extent {
    int64_t batch, heads, rows, width;
};

static struct extent extent_of(const struct shape *s, int layout)
{
    if (s->rank == 3)
        return (struct extent){s->dim[0], 1, s->dim[1], s->dim[2]};
    return (struct extent){s->dim[0], s->dim[layout == ROWS ? 2 : 1], s->dim[layout == ROWS ? 1 : 2], s->dim[3]};
}

static struct attention_view view_of(const struct tensor *t, int layout, int64_t heads)
{
    const struct extent e = extent_of(&t->shape, layout);
    if (layout == ROWS && t->shape.rank == 4)
        return (struct attention_view){t->data, e.rows * e.heads * e.width, e.width, e.heads * e.width};
    return (struct attention_view){t->data, heads * e.rows * e.width, e.rows * e.width, e.width};
}

static bool differ(int64_t a, int64_t b)
{
    return a >= 0 && b >= 0 && a != b;
}

static int check(const struct infer_ctx *c, const struct extent *q, const struct extent *k, const struct extent *v,
                 struct err *err)
{
    char text[3][SHAPE_TEXT];
    const int64_t stacks[3] = {dim_mul(q->batch, q->heads), dim_mul(k->batch, k->heads), dim_mul(v->batch, v->heads)};
    if (differ(stacks[0], stacks[1]) || differ(stacks[0], stacks[2]) || differ(q->width, k->width) ||
        differ(k->rows, v->rows))
        return err_set(err, ERR_SHAPE, "queries %s, keys %s and values %s do not fit",
                       shape_text(infer_shape(c, 0), text[0]), shape_text(infer_shape(c, 1), text[1]),
                       shape_text(infer_shape(c, 2), text[2]));
    if (!infer_has(c, 3) || infer_shape(c, 3)->rank < 0)
        return 0;
    const struct shape *mask = infer_shape(c, 3), scores = {4, {q->batch, q->heads, q->rows, k->rows}};
    struct shape both;
    if (mask->rank < 1 || mask->rank > 4 || differ(mask->dim[mask->rank - 1], k->rows) ||
        !shape_broadcast(&scores, mask, &both) ||
        (shape_known(&scores) && shape_known(mask) && !shape_equal(&both, &scores)))
        return err_set(err, ERR_SHAPE, "mask %s does not fit scores %s", shape_text(mask, text[0]),
                       shape_text(&scores, text[1]));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct fused_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    enum dtype dtype;
    if (op_need(c, 3, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0)
        return -1;
    for (int i = 0; i < 3; i++) {
        const int rank = infer_shape(c, i)->rank;
        if (dtype != DTYPE_FLOAT || (rank >= 0 && rank != 3 && rank != 4))
            return err_set(err, ERR_SHAPE, "input #%d has %d axes of %s; it must be float32 with 3 or 4", i, rank,
                           dtype_name(dtype));
    }
    if (infer_shape(c, 0)->rank >= 0 && infer_shape(c, 1)->rank >= 0 && infer_shape(c, 2)->rank >= 0) {
        const struct extent q = extent_of(infer_shape(c, 0), a->q_layout),
                            k = extent_of(infer_shape(c, 1), a->k_layout),
                            v = extent_of(infer_shape(c, 2), a->v_layout);
        if (check(c, &q, &k, &v, err) < 0)
            return -1;
        if (infer_shape(c, 0)->rank == 3)
            out = SHAPE(q.batch, q.rows, v.width);
        else if (a->y_layout == ROWS)
            out = SHAPE(q.batch, q.rows, q.heads, v.width);
        else
            out = SHAPE(q.batch, q.heads, q.rows, v.width);
    }
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

static struct attention_bias mask_of(const struct tensor *t, int64_t keys)
{
    struct attention_bias bias = {.data = t->data, .cols = keys};
    int64_t stride[SHAPE_MAX_RANK], *const at[3] = {&bias.row, &bias.head, &bias.batch};
    shape_strides(&t->shape, true, stride);
    for (int i = t->shape.rank - 2, n = 0; i >= 0 && n < 3; i--, n++)
        *at[n] = stride[i];
    return bias;
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct fused_attrs *attrs = c->attrs;
    size_t bytes;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *q = c->in[0], *k = c->in[1], *v = c->in[2], *mask = run_in(c, 3);
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct extent e = extent_of(&q->shape, attrs->q_layout), keys = extent_of(&k->shape, attrs->k_layout);
    struct attention a = {.batch = e.batch, .heads = e.heads, .kv_heads = e.heads, .rows = e.rows, .cols = keys.rows,
                          .width = e.width, .v_width = v->shape.dim[v->shape.rank - 1],
                          .q = view_of(q, attrs->q_layout, e.heads), .k = view_of(k, attrs->k_layout, e.heads),
                          .v = view_of(v, attrs->v_layout, e.heads), .y = y->data, .scale = (double)attrs->scale,
                          .left = -1, .right = -1};
    const struct attention_view out = view_of(y, attrs->y_layout, e.heads);
    a.y_batch = out.batch;
    a.y_head = out.head;
    a.y_row = out.row;
    if (mask)
        a.bias[0] = mask_of(mask, keys.rows);
    if (!attention_scratch(&a, pool_threads(c->pool), sizeof(float), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "%lld keys are too many", (long long)keys.rows);
    void *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    attention_f32(c->pool, &a, scratch);
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct fused_attrs *attrs = c->attrs;
    const int64_t scores = shape_count(infer_shape(c, 0)), outputs = shape_count(&c->out[0].shape);
    int64_t first, second;
    cost->macs = -1;
    if (infer_shape(c, 1)->rank < 3 || scores < 0 || outputs < 0)
        return;
    const int64_t keys = extent_of(infer_shape(c, 1), attrs->k_layout).rows;
    if (keys >= 0 && i64_mul(scores, keys, &first) && i64_mul(outputs, keys, &second))
        (void)i64_add(first, second, &cost->macs);
}

OP_CLASS(fused_attention) = {.type = "FusedAttention",
                             .domain = OP_DOMAIN_ENGINE,
                             .since = 1,
                             .doc = "softmax(scale Q K^T + mask) V, with the transposes around it.",
                             .in_min = 3,
                             .in_max = 4,
                             .out_min = 1,
                             .out_max = 1,
                             .attrs = fused_attrs,
                             .attrs_size = sizeof(struct fused_attrs),
                             .infer = infer,
                             .forward = forward,
                             .cost = cost,
                             .internal = true};
