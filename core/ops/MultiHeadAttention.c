/* SPDX-License-Identifier: Apache-2.0
 * MultiHeadAttention of com.microsoft: attention on projected Q, K and V, with the projections' bias still to be added.
 * Layouts    query [B, S, N H] with key [B, L, N H] and value [B, L, Hv]; key packed with value [B, L, N, 2, H]; all packed in
 *            query [B, S, N, 3, H]; key and value of another network [B, N, L, H], which take no past. All are strides of
 *            one kernel; only a bias or a past makes copies.
 * Masks      key_padding_mask as [B], [B, T] or [B, S, T] adds mask_filter_value where a key does not count.
 * Refused    past_sequence_length and cache_indirection (shared buffers and beams): no CPU kernel has them. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/attention_common.h"

struct mha_attrs {
    int64_t num_heads;
    bool unidirectional;
    float mask_filter_value, scale;
};
static const struct op_attr mha_attrs[] = {
    {OP_ATTR(mha_attrs, num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(mha_attrs, unidirectional), .kind = OP_BOOL},
    {OP_ATTR(mha_attrs, mask_filter_value), .kind = OP_FLOAT, .def_f = -10000},
    {OP_ATTR(mha_attrs, scale), .kind = OP_FLOAT},
    {NULL},
};
enum { MOST = 1 << 20 }; /* heads, and elements of a head */
enum { QUERY, KEY, VALUE, BIAS, MASK, ADD, PAST_KEY, PAST_VALUE, PAST_LENGTH, CACHE };

/* Sizes; -1 where not known. */
struct sizes {
    int64_t batch, rows, keys, heads, width, v_width, past, total;
};

static void merge(int64_t *into, int64_t dim)
{
    if (*into < 0)
        *into = dim;
}

/* A hidden size split into heads. */
static int per_head(int64_t hidden, int64_t heads, const char *name, int64_t *width, struct err *err)
{
    if (hidden == 0 || (hidden > 0 && hidden % heads != 0))
        return err_set(err, ERR_SHAPE, "the hidden size of '%s' is %" PRId64 "; it must divide into %" PRId64 " heads",
                       name, hidden, heads);
    merge(width, hidden < 0 ? -1 : hidden / heads);
    return 0;
}

static int rank_of(const struct infer_ctx *c, int i)
{
    return infer_has(c, i) ? infer_shape(c, i)->rank : -2;
}

static int read_query(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const struct shape *q = infer_shape(c, QUERY);

    if (q->rank != SHAPE_UNKNOWN_RANK && q->rank != 3 && q->rank != 5)
        return err_set(err, ERR_SHAPE, "input 'query' has %d axes; it must have 3, or 5 with key and value packed",
                       q->rank);
    if (q->rank == 5 && (infer_has(c, KEY) || infer_has(c, VALUE)))
        return err_set(err, ERR_SHAPE, "input 'query' is packed with key and value; these must be absent");
    if (q->rank == 5 &&
        attention_shape(c, QUERY, "query", SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, s->heads, 3, DIM_UNKNOWN), err) < 0)
        return -1;
    if (q->rank < 0)
        return 0;
    s->batch = q->dim[0];
    s->rows = q->dim[1];
    if (q->rank == 3)
        return per_head(q->dim[2], s->heads, "query", &s->width, err);
    s->keys = s->rows;
    s->width = s->v_width = q->dim[4];
    return s->width == 0 ? err_set(err, ERR_SHAPE, "the heads of 'query' have no elements") : 0;
}

static int read_key(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const int rank = rank_of(c, KEY), value = rank_of(c, VALUE);
    const struct shape *k = infer_has(c, KEY) ? infer_shape(c, KEY) : NULL;

    if (!k)
        return rank_of(c, QUERY) == 3 ? err_set(err, ERR_MODEL, "input 'key' is missing; only a packed query has none")
                                      : 0;
    if (rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if ((rank == 5) != (value == -2) || (rank != 5 && value >= 0 && value != rank) || rank < 3 || rank > 5)
        return err_set(err, ERR_SHAPE,
                       "inputs 'key' and 'value' must both be [batch, keys, hidden] or [batch, heads, keys, width], or "
                       "the key packed as [batch, keys, heads, 2, width] without a value");
    const struct shape want[] = {SHAPE(s->batch, DIM_UNKNOWN, s->width < 0 ? -1 : s->width * s->heads),
                                 SHAPE(s->batch, s->heads, DIM_UNKNOWN, s->width),
                                 SHAPE(s->batch, DIM_UNKNOWN, s->heads, 2, s->width)};
    if (attention_shape(c, KEY, "key", want[rank - 3], err) < 0)
        return -1;
    s->keys = k->dim[rank == 4 ? 2 : 1];
    merge(&s->batch, k->dim[0]);
    if (rank == 5)
        s->v_width = k->dim[4];
    else if (rank == 4)
        merge(&s->width, k->dim[3]);
    else if (per_head(k->dim[2], s->heads, "key", &s->width, err) < 0)
        return -1;
    if (value < 0)
        return 0;
    const struct shape *v = infer_shape(c, VALUE);
    if (attention_shape(c, VALUE, "value",
                        value == 3 ? SHAPE(s->batch, s->keys, DIM_UNKNOWN)
                                   : SHAPE(s->batch, s->heads, s->keys, DIM_UNKNOWN),
                        err) < 0)
        return -1;
    if (value == 3)
        return per_head(v->dim[2], s->heads, "value", &s->v_width, err);
    s->v_width = v->dim[3];
    return s->v_width == 0 || s->width == 0 ? err_set(err, ERR_SHAPE, "the heads of 'key' or 'value' have no elements")
                                            : 0;
}

static int read_past(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    s->past = 0;
    if (infer_has(c, PAST_KEY) != infer_has(c, PAST_VALUE))
        return err_set(err, ERR_MODEL, "one of 'past_key' and 'past_value' is given; both or none must be");
    if (!infer_has(c, PAST_KEY))
        return 0;
    if (rank_of(c, KEY) == 4)
        return err_set(err, ERR_SHAPE, "key and value of rank 4 are a whole cache already; they take no past");
    s->past = rank_of(c, PAST_KEY) == 4 ? infer_shape(c, PAST_KEY)->dim[2] : DIM_UNKNOWN;
    if (attention_shape(c, PAST_KEY, "past_key", SHAPE(s->batch, s->heads, DIM_UNKNOWN, s->width), err) < 0)
        return -1;
    return attention_shape(c, PAST_VALUE, "past_value", SHAPE(s->batch, s->heads, s->past, s->v_width), err);
}

static int read_sizes(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const struct mha_attrs *a = c->attrs;

    *s = (struct sizes){-1, -1, -1, a->num_heads, -1, -1, 0, -1};
    if (a->num_heads < 1 || a->num_heads > MOST)
        return err_set(err, ERR_MODEL, "attribute 'num_heads' is %" PRId64 "; it must be in [1, %d]", a->num_heads,
                       MOST);
    if (infer_has(c, PAST_LENGTH) || infer_has(c, CACHE))
        return err_set(err, ERR_OPERATOR,
                       "shared buffers and beams (past_sequence_length, cache_indirection) are not supported");
    if (read_query(c, s, err) < 0 || read_key(c, s, err) < 0 || read_past(c, s, err) < 0)
        return -1;
    if (s->width > MOST || s->v_width > MOST)
        return err_set(err, ERR_SHAPE,
                       "heads of %" PRId64 " and %" PRId64 " elements are too wide; at most %d are allowed", s->width,
                       s->v_width, MOST);
    s->total = dim_add(s->past, s->keys);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct sizes s;
    enum dtype dtype = op_dtype(c, QUERY);

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, QUERY, "f", err) < 0 || read_sizes(c, &s, err) < 0)
        return -1;
    for (int i = KEY; i <= PAST_VALUE; i++)
        if (i != MASK && op_dtype(c, i) != DTYPE_NONE && dtype != DTYPE_NONE && op_dtype(c, i) != dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s as the query", i, dtype_name(op_dtype(c, i)),
                           dtype_name(dtype));
    if (rank_of(c, MASK) == 4)
        return err_set(err, ERR_SHAPE, "input 'key_padding_mask' has 4 axes; it may have 1, 2 or 3");
    const int64_t hidden = dim_mul(s.width, s.heads), v_hidden = dim_mul(s.v_width, s.heads);
    if (attention_shape(c, BIAS, "bias", SHAPE(dim_add(dim_mul(hidden, 2), v_hidden)), err) < 0 ||
        attention_mask_shape(c, MASK, s.batch, s.rows, s.total, err) < 0 ||
        attention_bias_shape(c, ADD, s.batch, s.heads, s.rows, s.total, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &SHAPE(s.batch, s.rows, v_hidden));
    infer_out(c, 1, dtype, &SHAPE(s.batch, s.heads, s.total, s.width));
    infer_out(c, 2, dtype, &SHAPE(s.batch, s.heads, s.total, s.v_width));
    infer_out(c, 3, dtype, &SHAPE(s.batch, s.heads, s.rows, s.total));
    return 0;
}

/* ---- running ---- */
static void sizes_now(const struct run_ctx *c, struct sizes *s)
{
    const struct shape *q = &c->in[QUERY]->shape;
    const struct tensor *k = run_in(c, KEY), *v = run_in(c, VALUE), *past = run_in(c, PAST_KEY);

    *s = (struct sizes){.batch = q->dim[0],
                        .rows = q->dim[1],
                        .keys = q->dim[1],
                        .heads = ((const struct mha_attrs *)c->attrs)->num_heads,
                        .past = past ? past->shape.dim[2] : 0};
    s->width = s->v_width = q->rank == 5 ? q->dim[4] : q->dim[2] / s->heads;
    if (k)
        s->keys = k->shape.dim[k->shape.rank == 4 ? 2 : 1];
    if (v)
        s->v_width = v->shape.rank == 4 ? v->shape.dim[3] : v->shape.dim[2] / s->heads;
    s->total = s->past + s->keys;
}

/* Where each layout keeps Q, K and V. */
static void view(const struct run_ctx *c, const struct sizes *s, struct attention *a)
{
    const struct tensor *q = c->in[QUERY], *k = run_in(c, KEY), *v = run_in(c, VALUE);
    const int parts = q->shape.rank == 5 ? 3 : 2;
    const float *packed = q->shape.rank == 5 ? q->data : k->data;
    const int64_t row = parts * s->heads * s->width;

    a->q = attention_rows(q->data, s->rows, s->heads * s->width, s->width);
    if (q->shape.rank == 5)
        a->q = attention_rows(q->data, s->rows, row, parts * s->width);
    if (q->shape.rank == 5 || k->shape.rank == 5) {
        a->k = attention_rows(packed + (parts - 2) * s->width, s->keys, row, parts * s->width);
        a->v = attention_rows(packed + (parts - 1) * s->width, s->keys, row, parts * s->width);
    } else if (k->shape.rank == 4) {
        a->k = attention_heads(k->data, s->heads, s->keys, s->width);
        a->v = attention_heads(v->data, s->heads, s->keys, s->v_width);
    } else {
        a->k = attention_rows(k->data, s->keys, s->heads * s->width, s->width);
        a->v = attention_rows(v->data, s->keys, s->heads * s->v_width, s->v_width);
    }
}

static int add_biases(struct run_ctx *c, const struct sizes *s, struct attention *a, struct err *err)
{
    const struct tensor *bias = run_in(c, BIAS), *k = run_in(c, KEY);
    const int64_t hidden = s->heads * s->width;

    if (!bias)
        return 0;
    const float *b = bias->data;
    if (attention_add_bias(c, &a->q, s->batch, s->heads, s->rows, s->width, b, err) < 0)
        return -1;
    if (k && k->shape.rank == 4) /* projected elsewhere, with their bias */
        return 0;
    if (attention_add_bias(c, &a->k, s->batch, s->heads, s->keys, s->width, b + hidden, err) < 0)
        return -1;
    return attention_add_bias(c, &a->v, s->batch, s->heads, s->keys, s->v_width, b + 2 * hidden, err);
}

/* K (or V) with its past, in the output that asks for it or in scratch. */
static int join_past(struct run_ctx *c, const struct sizes *s, int past_input, int output, int64_t width,
                     struct attention_view *v, struct err *err)
{
    const struct tensor *past = run_in(c, past_input);
    struct tensor *present = run_out(c, output);
    int64_t n = 0;
    const bool fits = i64_mul(s->batch * s->heads, s->total, &n) && i64_mul(n, width, &n);

    if (!past && !present)
        return 0;
    float *dst = present ? present->data : attention_floats(c, fits ? n : -1, err);
    if (!dst)
        return present ? 0 : -1;
    const struct attention_append append = {.batch = s->batch,
                                            .heads = s->heads,
                                            .width = width,
                                            .total = s->total,
                                            .past = s->past,
                                            .fresh = s->keys,
                                            .old_total = s->past,
                                            .old = past ? past->data : NULL,
                                            .v = *v,
                                            .dst = dst};
    attention_append(&append);
    *v = attention_heads(dst, s->heads, s->total, width);
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct mha_attrs *at = c->attrs;
    const struct tensor *mask = run_in(c, MASK), *add = run_in(c, ADD);
    struct tensor *y = run_out(c, 0), *weights = run_out(c, 3);
    struct sizes s;

    if (c->in[QUERY]->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "attention of %s is not supported", dtype_name(c->in[QUERY]->dtype));
    sizes_now(c, &s);
    if (s.batch == 0)
        return 0;
    struct attention a = {.batch = s.batch,
                          .heads = s.heads,
                          .kv_heads = s.heads,
                          .rows = s.rows,
                          .cols = s.total,
                          .width = s.width,
                          .v_width = s.v_width,
                          .past = s.past,
                          .left = -1,
                          .right = at->unidirectional ? 0 : -1,
                          .y = y ? y->data : NULL,
                          .y_batch = dim_mul(s.rows, s.heads * s.v_width),
                          .y_head = s.v_width,
                          .y_row = s.heads * s.v_width,
                          .scale = at->scale != 0 ? (double)at->scale : 1 / sqrt((double)s.width)};
    if (weights) {
        a.probe_kind = ATTENTION_BIASED;
        a.probe = weights->data;
    }
    view(c, &s, &a);
    if (add_biases(c, &s, &a, err) < 0 || join_past(c, &s, PAST_KEY, 1, s.width, &a.k, err) < 0 ||
        join_past(c, &s, PAST_VALUE, 2, s.v_width, &a.v, err) < 0 ||
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
    cost->macs =
        read_sizes(c, &s, NULL) < 0 ? -1 : attention_macs(s.batch, s.rows, s.heads, s.total, s.width, s.v_width);
}

/* ---- coupling ---- */
static struct attention_units units_of(const struct infer_ctx *c, struct sizes *s)
{
    struct attention_units none = {0};
    if (read_sizes(c, s, NULL) < 0 || s->width < 1 || s->v_width < 1)
        return none;
    return (struct attention_units){.units = s->heads, .width = s->v_width, .axis = 2};
}

/* Heads have an axis of their own in packed and in projected layouts, else a stretch of the last. */
static void couple_operand(struct coupling *k, const struct attention_units *u, int slot, int64_t width)
{
    static const int heads_axis[] = {[3] = 2, [4] = 1, [5] = 2};
    const int rank = couple_rank(k, IN(slot));
    attention_couple_one(k, u, IN(slot), rank >= 3 && rank <= 5 ? heads_axis[rank] : 2, rank == 3 ? width : 1);
}

static int couple(struct coupling *k, struct err *err)
{
    static const int inputs[] = {ADD, PAST_KEY, PAST_VALUE};
    struct sizes s;
    const struct attention_units u = units_of(k->infer, &s);
    const int64_t width[] = {s.width, s.width, s.v_width};
    (void)err;
    if (u.units < 1)
        return 0;
    attention_couple_one(k, &u, OUT(0), 2, u.width);
    for (int i = 0; i < 3; i++) {
        couple_operand(k, &u, QUERY + i, width[i]);
        attention_couple_one(k, &u, IN(inputs[i]), 1, 1);
        attention_couple_one(k, &u, OUT(i + 1), 1, 1);
    }
    attention_couple(k, &u, IN(BIAS), 0, width, 3);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    struct sizes z;
    const struct attention_units u = units_of(s->infer, &z);
    (void)err;
    if (u.units > 0 && shrink_touched(s, OUT(0), 2))
        node_set_int(s->model, s->node, "num_heads", attention_units_left(s, &u));
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,5,8] f32[2,6,8] f32[2,6,4]", "num_heads=2"},
    {"f32[2,5,8] f32[2,5,8] f32[2,5,8] !f32[24]", "num_heads=2 unidirectional=1"},
    {"f32[2,5,8] f32[2,6,8] f32[2,6,8] none i32[2]=6,3", "num_heads=2"},
    {"f32[2,5,8] f32[2,3,8] f32[2,3,8] none i32[2,3]=1,0,1,1,1,0", "num_heads=2 scale=0.4f"},
    {"f32[2,5,8] f32[2,3,8] f32[2,3,8] none i32[2,5,3]", "num_heads=2 mask_filter_value=-20f"},
    {"f32[2,5,8] f32[2,3,8] f32[2,3,8] none none f32[1,2,5,3]", "num_heads=2"},
    {"f32[2,3,8] f32[2,3,8] f32[2,3,8] !f32[24] i32[2,7] none f32[2,2,4,4] f32[2,2,4,4]", "num_heads=2", 3},
    {"f32[2,5,8] f32[2,2,6,4] f32[2,2,6,4]", "num_heads=2"},
    {NULL},
};

OP_CLASS(multi_head_attention) = {
    .type = "MultiHeadAttention",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Multi-head attention on projected inputs. Refused: shared buffers and beams.",
    .in_min = 1,
    .in_max = 10,
    .out_min = 1,
    .out_max = 4,
    .attrs = mha_attrs,
    .attrs_size = sizeof(struct mha_attrs),
    .infer = infer,
    .forward = forward,
    .cost = cost,
    .couple = couple,
    .shrink = shrink,
    .samples = samples,
};
