/* SPDX-License-Identifier: Apache-2.0
 * Attention of com.microsoft: one product gives Q, K and V side by side, [B, S, D] W[D, Hq + Hk + Hv] + bias; then the
 * attention core. past and present hold K and V of earlier steps as [2, B, N, T, H].
 * Masks      mask_index adds mask_filter_value where a key does not count (attention_common.h lists its forms); unidirectional
 *            hides later keys altogether.
 * Refused    do_rotary, and buffers shared between past and present: ONNX Runtime's CPU kernel has neither. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/gemm.h"
#include "core/ops/attention_common.h"

struct attention_attrs {
    struct op_ints qkv_hidden_sizes;
    int64_t num_heads, rotary_embedding_dim;
    bool do_rotary, past_present_share_buffer, unidirectional;
    float mask_filter_value, scale;
};
static const struct op_attr attention_attrs[] = {
    {OP_ATTR(attention_attrs, num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(attention_attrs, qkv_hidden_sizes), .kind = OP_INTS},
    {OP_ATTR(attention_attrs, unidirectional), .kind = OP_BOOL},
    {OP_ATTR(attention_attrs, mask_filter_value), .kind = OP_FLOAT, .def_f = -10000},
    {OP_ATTR(attention_attrs, scale), .kind = OP_FLOAT},
    {OP_ATTR(attention_attrs, do_rotary), .kind = OP_BOOL},
    {OP_ATTR(attention_attrs, rotary_embedding_dim), .kind = OP_INT},
    {OP_ATTR(attention_attrs, past_present_share_buffer), .kind = OP_BOOL},
    {NULL},
};
enum { INPUT, WEIGHTS, BIAS, MASK, PAST, ADD, PAST_LENGTH };

/* Sizes; -1 where not known. hidden[i]: columns of Q, K and V. */
struct sizes {
    int64_t batch, rows, depth, heads, past, total, hidden[3];
};

static int read_hidden(const struct attention_attrs *a, const struct shape *weights, struct sizes *s, struct err *err)
{
    const int64_t columns = weights->rank == 2 ? weights->dim[1] : -1;
    int64_t sum = 0;

    if (a->num_heads < 1 || a->num_heads > INT32_MAX)
        return err_set(err, ERR_MODEL, "attribute 'num_heads' is %" PRId64 "; it must be in [1, %d]", a->num_heads,
                       INT32_MAX);
    s->heads = a->num_heads;
    if (a->qkv_hidden_sizes.count != 0 && a->qkv_hidden_sizes.count != 3)
        return err_set(err, ERR_MODEL, "attribute 'qkv_hidden_sizes' has %d elements; it must have 3 (Q, K and V)",
                       a->qkv_hidden_sizes.count);
    if (weights->rank != SHAPE_UNKNOWN_RANK && weights->rank != 2)
        return err_set(err, ERR_SHAPE, "the weights have %d axes; they must be a matrix", weights->rank);
    for (int i = 0; i < 3; i++) {
        const bool given = a->qkv_hidden_sizes.count == 3;
        s->hidden[i] = given ? a->qkv_hidden_sizes.at[i] : columns < 0 ? -1 : columns / 3;
        if (given && (s->hidden[i] < 1 || s->hidden[i] > INT32_MAX))
            return err_set(err, ERR_MODEL, "attribute 'qkv_hidden_sizes' has %" PRId64 "; each size must be positive",
                           s->hidden[i]);
        if (s->hidden[i] > INT32_MAX || s->hidden[i] == 0 || (s->hidden[i] > 0 && s->hidden[i] % s->heads != 0))
            return err_set(err, ERR_SHAPE, "a hidden size of %" PRId64 " does not divide into %" PRId64 " heads",
                           s->hidden[i], s->heads);
        sum += i64_max(s->hidden[i], 0);
    }
    if (s->hidden[0] != s->hidden[1])
        return err_set(err, ERR_MODEL,
                       "the hidden sizes of Q and K are %" PRId64 " and %" PRId64 "; they must be equal", s->hidden[0],
                       s->hidden[1]);
    if (columns >= 0 && sum != columns)
        return err_set(err, ERR_SHAPE, "the weights have %" PRId64 " columns; Q, K and V need %" PRId64 " together",
                       columns, sum);
    return 0;
}

static int read_past(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const int64_t width = s->hidden[1] < 0 ? -1 : s->hidden[1] / s->heads;

    s->past = 0;
    if (!infer_has(c, PAST))
        return 0;
    if (s->hidden[1] != s->hidden[2])
        return err_set(err, ERR_SHAPE, "with a past, K and V must have the same hidden size");
    if (attention_shape(c, PAST, "past", SHAPE(2, s->batch, s->heads, DIM_UNKNOWN, width), err) < 0)
        return -1;
    s->past = infer_shape(c, PAST)->rank == 5 ? infer_shape(c, PAST)->dim[3] : DIM_UNKNOWN;
    return 0;
}

static int read_sizes(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const struct attention_attrs *a = c->attrs;
    const struct shape *x = infer_shape(c, INPUT), *w = infer_shape(c, WEIGHTS);

    *s = (struct sizes){.batch = -1, .rows = -1, .depth = -1};
    if (a->do_rotary)
        return err_set(err, ERR_OPERATOR, "attribute 'do_rotary' is 1; rotate with RotaryEmbedding before instead");
    if (a->past_present_share_buffer || infer_has(c, PAST_LENGTH))
        return err_set(err, ERR_OPERATOR, "a buffer shared by past and present is not supported; give 'past' as it is");
    if (attention_shape(c, INPUT, "input", SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN), err) < 0 ||
        read_hidden(a, w, s, err) < 0)
        return -1;
    if (x->rank == 3) {
        s->batch = x->dim[0];
        s->rows = x->dim[1];
        s->depth = x->dim[2];
    }
    if (s->depth >= 0 && w->rank == 2 && w->dim[0] >= 0 && w->dim[0] != s->depth)
        return err_set(err, ERR_SHAPE,
                       "the weights have %" PRId64 " rows but the input has %" PRId64 " columns; they must be equal",
                       w->dim[0], s->depth);
    if (read_past(c, s, err) < 0)
        return -1;
    s->total = dim_add(s->past, s->rows);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct sizes s;
    enum dtype dtype;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 ||
        read_sizes(c, &s, err) < 0)
        return -1;
    for (int i = PAST; i <= ADD; i++)
        if (op_dtype(c, i) != DTYPE_NONE && dtype != DTYPE_NONE && op_dtype(c, i) != dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s as the input", i, dtype_name(op_dtype(c, i)),
                           dtype_name(dtype));
    const int64_t columns = s.hidden[0] < 0 ? -1 : s.hidden[0] + s.hidden[1] + s.hidden[2];
    if (attention_shape(c, BIAS, "bias", SHAPE(columns), err) < 0 ||
        attention_mask_shape(c, MASK, s.batch, s.rows, s.total, err) < 0 ||
        attention_bias_shape(c, ADD, s.batch, s.heads, s.rows, s.total, err) < 0)
        return -1;
    if (c->n_out > 1 && s.hidden[1] != s.hidden[2])
        return err_set(err, ERR_SHAPE, "output 'present' needs K and V of the same hidden size");
    infer_out(c, 0, dtype, &SHAPE(s.batch, s.rows, s.hidden[2]));
    infer_out(c, 1, dtype, &SHAPE(2, s.batch, s.heads, s.total, s.hidden[1] < 0 ? -1 : s.hidden[1] / s.heads));
    return 0;
}

/* ---- running ---- */
static void sizes_now(struct run_ctx *c, struct sizes *s)
{
    const struct attention_attrs *a = c->attrs;
    const struct tensor *x = c->in[INPUT], *w = c->in[WEIGHTS], *past = run_in(c, PAST);

    *s = (struct sizes){.batch = x->shape.dim[0],
                        .rows = x->shape.dim[1],
                        .depth = x->shape.dim[2],
                        .heads = a->num_heads,
                        .past = past ? past->shape.dim[3] : 0};
    for (int i = 0; i < 3; i++)
        s->hidden[i] = a->qkv_hidden_sizes.count ? a->qkv_hidden_sizes.at[i] : w->shape.dim[1] / 3;
    s->total = s->past + s->rows;
}

/* [B, S, Hq + Hk + Hv] */
static float *project(struct run_ctx *c, const struct sizes *s, struct err *err)
{
    const int64_t columns = c->in[WEIGHTS]->shape.dim[1], rows = s->batch * s->rows;
    int64_t n;
    float *qkv = attention_floats(c, i64_mul(rows, columns, &n) ? n : -1, err);
    struct gemm g = gemm_plain(false, false, rows, columns, s->depth);

    if (!qkv)
        return NULL;
    if (run_in(c, BIAS)) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                qkv[i * columns + j] = ((const float *)c->in[BIAS]->data)[j];
        g.beta = 1;
    }
    gemm_f32(c->pool, &g, c->in[INPUT]->data, c->in[WEIGHTS]->data, qkv);
    return qkv;
}

/* K and V of earlier steps and of this one, in `present` or in scratch. */
static int join_past(struct run_ctx *c, const struct sizes *s, struct attention *a, struct err *err)
{
    const struct tensor *past = run_in(c, PAST);
    struct tensor *present = run_out(c, 1);
    const int64_t half = s->batch * s->heads * s->total * a->width;

    if (!past && !present)
        return 0;
    float *dst = present ? present->data : attention_floats(c, 2 * half, err);
    if (!dst)
        return present ? 0 : -1;
    for (int i = 0; i < 2; i++) {
        struct attention_view *v = i ? &a->v : &a->k;
        const struct attention_append append = {
            .batch = s->batch,
            .heads = s->heads,
            .width = a->width,
            .total = s->total,
            .past = s->past,
            .fresh = s->rows,
            .old_total = s->past,
            .v = *v,
            .dst = dst + i * half,
            .old = past ? (const float *)past->data + i * s->batch * s->heads * s->past * a->width : NULL};
        attention_append(&append);
        *v = attention_heads(append.dst, s->heads, s->total, a->width);
    }
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct attention_attrs *at = c->attrs;
    const struct tensor *mask = run_in(c, MASK), *add = run_in(c, ADD);
    struct tensor *y = run_out(c, 0);
    struct sizes s;

    if (c->in[INPUT]->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "attention of %s is not supported", dtype_name(c->in[INPUT]->dtype));
    sizes_now(c, &s);
    if (s.batch == 0)
        return 0;
    const int64_t columns = c->in[WEIGHTS]->shape.dim[1];
    float *qkv = project(c, &s, err);
    if (!qkv)
        return -1;
    struct attention a = {.batch = s.batch,
                          .heads = s.heads,
                          .kv_heads = s.heads,
                          .rows = s.rows,
                          .cols = s.total,
                          .width = s.hidden[0] / s.heads,
                          .v_width = s.hidden[2] / s.heads,
                          .past = s.past,
                          .left = -1,
                          .right = at->unidirectional ? 0 : -1,
                          .y = y ? y->data : NULL,
                          .y_batch = dim_mul(s.rows, s.hidden[2]),
                          .y_head = s.hidden[2] / s.heads,
                          .y_row = s.hidden[2]};
    a.q = attention_rows(qkv, s.rows, columns, a.width);
    a.k = attention_rows(qkv + s.hidden[0], s.rows, columns, a.width);
    a.v = attention_rows(qkv + s.hidden[0] + s.hidden[1], s.rows, columns, a.v_width);
    a.scale = at->scale != 0 ? (double)at->scale : 1 / sqrt((double)a.width);
    if (join_past(c, &s, &a, err) < 0 ||
        (mask && attention_mask(c, mask, &a, at->mask_filter_value, &a.bias[0], err) < 0))
        return -1;
    if (add)
        a.bias[1] = attention_bias_of(add);
    return attention_run(c, &a, err);
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    struct sizes s;
    cost->macs = -1;
    if (read_sizes(c, &s, NULL) < 0 || s.hidden[0] < 0 || s.hidden[1] < 0 || s.hidden[2] < 0)
        return;
    const int64_t columns = dim_add(dim_add(s.hidden[0], s.hidden[1]), s.hidden[2]);
    const int64_t projection = dim_mul(dim_mul(s.batch, s.rows), dim_mul(s.depth, columns));
    const int64_t core = attention_macs(s.batch, s.rows, 1, s.total, s.hidden[1], s.hidden[2]); /* over all heads */
    if (projection >= 0 && core >= 0)
        cost->macs = i64_max(dim_add(projection, core), -1);
}

/* ---- coupling ---- */
/* A head is its columns of Q, K and V. */
static struct attention_units units_of(const struct infer_ctx *c, struct sizes *s)
{
    struct attention_units none = {0};
    if (read_sizes(c, s, NULL) < 0 || s->hidden[0] < 0 || s->hidden[2] < 0)
        return none;
    return (struct attention_units){.units = s->heads, .width = s->hidden[2] / s->heads, .axis = 2};
}

static int couple(struct coupling *k, struct err *err)
{
    struct sizes s;
    const struct attention_units u = units_of(k->infer, &s);
    (void)err;
    if (u.units < 1)
        return 0;
    const int64_t width[] = {s.hidden[0] / s.heads, s.hidden[1] / s.heads, u.width};
    couple_axes(k, IN(INPUT), 2, IN(WEIGHTS), 0);
    couple_role(k, IN(INPUT), 2, COUPLE_CONSUMES);
    couple_role(k, IN(WEIGHTS), 0, COUPLE_CONSUMES);
    couple_role(k, IN(WEIGHTS), 1, COUPLE_PRODUCES);
    attention_couple(k, &u, OUT(0), 2, &u.width, 1);
    attention_couple(k, &u, IN(WEIGHTS), 1, width, 3);
    attention_couple(k, &u, IN(BIAS), 0, width, 3);
    attention_couple_one(k, &u, IN(PAST), 2, 1);
    attention_couple_one(k, &u, OUT(1), 2, 1);
    attention_couple_one(k, &u, IN(ADD), 1, 1);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct attention_attrs *a = s->infer->attrs;
    struct sizes z;
    const struct attention_units u = units_of(s->infer, &z);
    int64_t hidden[3];
    (void)err;
    if (u.units < 1 || !shrink_touched(s, OUT(0), 2))
        return 0;
    const int64_t left = attention_units_left(s, &u);
    for (int i = 0; i < 3; i++)
        hidden[i] = z.hidden[i] / z.heads * left;
    node_set_int(s->model, s->node, "num_heads", left);
    if (a->qkv_hidden_sizes.count == 3)
        node_set_ints(s->model, s->node, "qkv_hidden_sizes", hidden, 3);
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,5,8] !f32[8,24] !f32[24]", "num_heads=2"},
    {"f32[2,5,8] !f32[8,20] !f32[20]", "num_heads=2 qkv_hidden_sizes=8,8,4"},
    {"f32[2,5,8] !f32[8,24] !f32[24] i32[2]=5,3", "num_heads=2"},
    {"f32[2,5,8] !f32[8,24] !f32[24] i32[4]=5,4,0,1", "num_heads=2"},
    {"f32[2,5,8] !f32[8,24] !f32[24] i32[2,5]=1,1,1,0,0,1,0,1,1,1", "num_heads=2 unidirectional=1"},
    {"f32[1,3,8] !f32[8,24] !f32[24] i32[1,3,3]=1,0,0,1,1,0,0,1,1", "num_heads=4 scale=0.3f"},
    {"f32[2,3,8] !f32[8,24] !f32[24] none f32[2,2,2,4,4]", "num_heads=2 unidirectional=1", 2},
    {"f32[2,3,8] !f32[8,24] !f32[24] i32[2,7] f32[2,2,2,4,4]", "num_heads=2 mask_filter_value=-50f", 2},
    {NULL},
};

OP_CLASS(ms_attention) = {
    .type = "Attention",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Projection and multi-head self-attention. Refused: do_rotary, shared past and present buffers.",
    .in_min = 2,
    .in_max = 7,
    .out_min = 1,
    .out_max = 2,
    .attrs = attention_attrs,
    .attrs_size = sizeof(struct attention_attrs),
    .infer = infer,
    .forward = forward,
    .cost = cost,
    .couple = couple,
    .shrink = shrink,
    .samples = samples,
};
