/* SPDX-License-Identifier: Apache-2.0
 * GroupQueryAttention of com.microsoft: causal attention where groups of query heads share a key head, with a cache of keys
 * and values and rotary positions.
 * Lengths    seqlens_k[b] + 1 positions of batch b count. In the first step (as many queries as total_sequence_length) they
 *            begin at 0; later ones stand behind the seqlens_k[b] + 1 - S cached ones. present is as long as the larger of the
 *            past and total_sequence_length; what does not count is zero.
 * Options    rotary (position_ids, of which the first step uses only the first, or the positions above), local_window_size, softcap (before the bias), smooth_softmax and
 *            head_sink (a further logit in the softmax), attention_bias, qk_output.
 * Refused    quantized caches, window-sized caches, normalization of Q and K: GPU forms. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/kernels/rotary.h"
#include "core/ops/attention_common.h"

struct gqa_attrs {
    int64_t num_heads, kv_num_heads, local_window_size, qk_output, smooth_softmax, kv_cache_bit_width;
    bool causal, do_rotary, rotary_interleaved, sliding_window_cache;
    float scale, softcap, qk_norm_epsilon;
    const char *k_quant_type, *v_quant_type;
};
static const struct op_attr gqa_attrs[] = {
    {OP_ATTR(gqa_attrs, num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(gqa_attrs, kv_num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(gqa_attrs, local_window_size), .kind = OP_INT, .def = -1},
    {OP_ATTR(gqa_attrs, qk_output), .kind = OP_INT},
    {OP_ATTR(gqa_attrs, smooth_softmax), .kind = OP_INT, .def = -1},
    {OP_ATTR(gqa_attrs, kv_cache_bit_width), .kind = OP_INT},
    {OP_ATTR(gqa_attrs, causal), .kind = OP_BOOL, .def = 1},
    {OP_ATTR(gqa_attrs, do_rotary), .kind = OP_BOOL},
    {OP_ATTR(gqa_attrs, rotary_interleaved), .kind = OP_BOOL},
    {OP_ATTR(gqa_attrs, sliding_window_cache), .kind = OP_BOOL},
    {OP_ATTR(gqa_attrs, scale), .kind = OP_FLOAT},
    {OP_ATTR(gqa_attrs, softcap), .kind = OP_FLOAT},
    {OP_ATTR(gqa_attrs, qk_norm_epsilon), .kind = OP_FLOAT, .def_f = 1e-6f},
    {OP_ATTR(gqa_attrs, k_quant_type), .kind = OP_STRING, .def_s = "NONE"},
    {OP_ATTR(gqa_attrs, v_quant_type), .kind = OP_STRING, .def_s = "NONE"},
    {NULL},
};
enum { MOST = 1 << 20 }; /* heads, and elements of a head */
enum {
    QUERY,
    KEY,
    VALUE,
    PAST_KEY,
    PAST_VALUE,
    LENGTHS,
    TOTAL,
    COS,
    SIN,
    IDS,
    ADD,
    SINK,
    K_SCALE,
    V_SCALE,
    Q_NORM,
    K_NORM
};

/* Sizes; -1 where not known. */
struct sizes {
    int64_t batch, rows, heads, kv_heads, width, past, total, present;
};

static int check_attrs(const struct infer_ctx *c, struct err *err)
{
    const struct gqa_attrs *a = c->attrs;

    if (a->num_heads < 1 || a->num_heads > MOST || a->kv_num_heads < 1 || a->num_heads % a->kv_num_heads != 0)
        return err_set(err, ERR_MODEL,
                       "attributes 'num_heads' and 'kv_num_heads' are %" PRId64 " and %" PRId64
                       "; they must be positive, the first a multiple of the second and at most %d",
                       a->num_heads, a->kv_num_heads, MOST);
    if (a->local_window_size < -1 || (a->local_window_size >= 0 && !a->causal))
        return err_set(err, ERR_MODEL,
                       "attribute 'local_window_size' is %" PRId64 "; it must be -1, or a window of causal attention",
                       a->local_window_size);
    if (a->qk_output < 0 || a->qk_output > 2)
        return err_set(err, ERR_MODEL, "attribute 'qk_output' is %" PRId64 "; it must be 0, 1 or 2", a->qk_output);
    if (a->smooth_softmax < -1 || a->smooth_softmax > 1)
        return err_set(err, ERR_MODEL, "attribute 'smooth_softmax' is %" PRId64 "; it must be -1, 0 or 1",
                       a->smooth_softmax);
    if (!(a->softcap >= 0))
        return err_set(err, ERR_MODEL, "attribute 'softcap' is %g; it must not be negative", (double)a->softcap);
    if (strcmp(a->k_quant_type, "NONE") != 0 || strcmp(a->v_quant_type, "NONE") != 0 || a->kv_cache_bit_width != 0 ||
        infer_has(c, K_SCALE) || infer_has(c, V_SCALE))
        return err_set(err, ERR_OPERATOR, "a quantized cache of keys and values is not supported; only float ones are");
    if (a->sliding_window_cache)
        return err_set(err, ERR_OPERATOR, "attribute 'sliding_window_cache' is 1; only whole caches are supported");
    if (infer_has(c, Q_NORM) || infer_has(c, K_NORM))
        return err_set(err, ERR_OPERATOR,
                       "q_norm_weight and k_norm_weight are not supported; normalize before instead");
    return 0;
}

static int read_inputs(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const struct gqa_attrs *a = c->attrs;
    const struct shape *q = infer_shape(c, QUERY), *k = infer_has(c, KEY) ? infer_shape(c, KEY) : NULL;
    const int64_t parts = k ? s->heads : s->heads + 2 * s->kv_heads;

    if (infer_has(c, KEY) != infer_has(c, VALUE))
        return err_set(err, ERR_MODEL, "one of 'key' and 'value' is given; both must be, or none with a packed query");
    if (attention_shape(c, QUERY, "query", SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN), err) < 0)
        return -1;
    if (q->rank == 3) {
        s->batch = q->dim[0];
        s->rows = q->dim[1];
        if (q->dim[2] == 0 || (q->dim[2] > 0 && (q->dim[2] % parts != 0 || q->dim[2] / parts > MOST)))
            return err_set(err, ERR_SHAPE,
                           "the query's hidden size is %" PRId64 "; it must divide into %" PRId64 " heads", q->dim[2],
                           parts);
        s->width = q->dim[2] < 0 ? -1 : q->dim[2] / parts;
    }
    const int64_t hidden = dim_mul(s->width, s->kv_heads);
    if (attention_shape(c, KEY, "key", SHAPE(s->batch, s->rows, hidden), err) < 0 ||
        attention_shape(c, VALUE, "value", SHAPE(s->batch, s->rows, hidden), err) < 0)
        return -1;
    if (a->do_rotary && (!infer_has(c, COS) || !infer_has(c, SIN)))
        return err_set(err, ERR_MODEL, "attribute 'do_rotary' is 1; then 'cos_cache' and 'sin_cache' must be given");
    return 0;
}

static int read_past(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    if (infer_has(c, PAST_KEY) != infer_has(c, PAST_VALUE))
        return err_set(err, ERR_MODEL, "one of 'past_key' and 'past_value' is given; both or none must be");
    s->past = 0;
    if (infer_has(c, PAST_KEY))
        s->past = infer_shape(c, PAST_KEY)->rank == 4 ? infer_shape(c, PAST_KEY)->dim[2] : DIM_UNKNOWN;
    if (attention_shape(c, PAST_KEY, "past_key", SHAPE(s->batch, s->kv_heads, DIM_UNKNOWN, s->width), err) < 0 ||
        attention_shape(c, PAST_VALUE, "past_value", SHAPE(s->batch, s->kv_heads, s->past, s->width), err) < 0)
        return -1;
    s->total = DIM_UNKNOWN;
    if (op_value(c, TOTAL) && op_dtype(c, TOTAL) == DTYPE_INT32 && tensor_count(op_value(c, TOTAL)) == 1)
        s->total = ((const int32_t *)op_value(c, TOTAL)->data)[0];
    if (op_value(c, TOTAL) && (s->total < 0 || s->total < s->rows))
        return err_set(err, ERR_MODEL,
                       "input 'total_sequence_length' is %" PRId64 "; it must be one number, at least the %" PRId64
                       " queries",
                       s->total, s->rows);
    s->present = s->total >= 0 && s->past >= 0 ? i64_max(s->total, s->past) : DIM_UNKNOWN;
    return 0;
}

static int check_rest(const struct infer_ctx *c, const struct sizes *s, struct err *err)
{
    const enum dtype dtype = op_dtype(c, QUERY);
    static const int floats[] = {KEY, VALUE, PAST_KEY, PAST_VALUE, COS, SIN, ADD, SINK}, ints[] = {LENGTHS, TOTAL};

    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        if (op_dtype(c, floats[i]) != DTYPE_NONE && dtype != DTYPE_NONE && op_dtype(c, floats[i]) != dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s as the query", floats[i],
                           dtype_name(op_dtype(c, floats[i])), dtype_name(dtype));
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        if (op_dtype(c, ints[i]) != DTYPE_NONE && op_dtype(c, ints[i]) != DTYPE_INT32)
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be int32", ints[i],
                           dtype_name(op_dtype(c, ints[i])));
    if (op_dtype(c, IDS) != DTYPE_NONE && op_dtype(c, IDS) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "input 'position_ids' is %s; it must be int64", dtype_name(op_dtype(c, IDS)));
    if (infer_shape(c, LENGTHS)->rank >= 0 && shape_count(infer_shape(c, LENGTHS)) >= 0 && s->batch >= 0 &&
        shape_count(infer_shape(c, LENGTHS)) != s->batch)
        return err_set(err, ERR_SHAPE,
                       "input 'seqlens_k' holds %" PRId64 " lengths; it must hold one for each of %" PRId64 " batches",
                       shape_count(infer_shape(c, LENGTHS)), s->batch);
    if (attention_shape(c, COS, "cos_cache", SHAPE(DIM_UNKNOWN, DIM_UNKNOWN), err) < 0 ||
        attention_shape(c, IDS, "position_ids", SHAPE(s->batch, s->rows), err) < 0 ||
        attention_shape(c, SINK, "head_sink", SHAPE(s->heads), err) < 0)
        return -1;
    const struct shape *cosine = infer_has(c, COS) ? infer_shape(c, COS) : NULL;
    if (cosine && cosine->rank == 2 && attention_shape(c, SIN, "sin_cache", *cosine, err) < 0)
        return -1;
    if (cosine && cosine->rank == 2 && s->width >= 0 && cosine->dim[1] > s->width / 2)
        return err_set(err, ERR_SHAPE,
                       "input 'cos_cache' has %" PRId64 " columns; a head has %" PRId64
                       " elements, so at most half of that are allowed",
                       cosine->dim[1], s->width);
    return attention_bias_shape(c, ADD, s->batch, s->heads, s->rows, s->total, err);
}

static int read_sizes(const struct infer_ctx *c, struct sizes *s, struct err *err)
{
    const struct gqa_attrs *a = c->attrs;

    *s = (struct sizes){-1, -1, a->num_heads, a->kv_num_heads, -1, 0, -1, -1};
    return check_attrs(c, err) < 0 || read_inputs(c, s, err) < 0 || read_past(c, s, err) < 0 ? -1 : 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct sizes s;

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, QUERY, "f", err) < 0)
        return -1;
    if (!infer_has(c, LENGTHS) || !infer_has(c, TOTAL))
        return err_set(err, ERR_MODEL, "inputs 'seqlens_k' and 'total_sequence_length' must be given");
    if (read_sizes(c, &s, err) < 0 || check_rest(c, &s, err) < 0)
        return -1;
    infer_out(c, 0, op_dtype(c, QUERY), &SHAPE(s.batch, s.rows, dim_mul(s.width, s.heads)));
    infer_out(c, 1, op_dtype(c, QUERY), &SHAPE(s.batch, s.kv_heads, s.present, s.width));
    infer_out(c, 2, op_dtype(c, QUERY), &SHAPE(s.batch, s.kv_heads, s.present, s.width));
    infer_out(c, 3, op_dtype(c, QUERY), &SHAPE(s.batch, s.heads, s.rows, s.total));
    return 0;
}

/* ---- running ---- */
/* Where each batch's queries begin, and how many keys count: `past` and `length`, [batch] each. */
static int read_lengths(struct run_ctx *c, const struct sizes *s, int64_t **past, int64_t **length, struct err *err)
{
    const int32_t *last = c->in[LENGTHS]->data;
    int64_t *out = run_scratch(c, (size_t)s->batch * 2 * sizeof *out, err);

    if (!out)
        return -1;
    for (int64_t b = 0; b < s->batch; b++) {
        const int64_t count = (int64_t)last[b] + 1;
        if (count < 1 || count > s->present)
            return err_set(err, ERR_MODEL,
                           "seqlens_k has %" PRId64 " for batch %" PRId64 "; it must be in [0, %" PRId64
                           "], the length of the cache",
                           count - 1, b, s->present - 1);
        out[b] = s->rows == s->total ? 0 : count - s->rows;
        out[s->batch + b] = count;
        if (out[b] < 0 || out[b] > s->past)
            return err_set(err, ERR_MODEL,
                           "batch %" PRId64 " has %" PRId64 " positions before this step; the past holds %" PRId64, b,
                           out[b], s->past);
    }
    *past = out;
    *length = out + s->batch;
    return 0;
}

struct rotation {
    const struct sizes *s;
    int64_t heads, first; /* of Q or K; elements before them in a packed row */
    const int64_t *past;
    const int64_t *ids;
    const struct tensor *cosine, *sine;
    bool interleaved;
};

/* v turned, in scratch as [B, S, heads * width]. */
static int rotate(struct run_ctx *c, const struct rotation *r, struct attention_view *v, struct err *err)
{
    const struct sizes *s = r->s;
    const int64_t half = r->cosine->shape.dim[1], limit = r->cosine->shape.dim[0], row = r->heads * s->width;
    float *out = attention_floats(c, s->batch * s->rows * row, err);

    if (!out)
        return -1;
    for (int64_t i = 0; i < s->batch * s->rows; i++) {
        const int64_t b = i / s->rows, t = i % s->rows;
        int64_t at = r->ids ? r->ids[i] : r->past[b] + t;
        if (r->ids && s->rows == s->total && !i64_add(r->ids[0], t, &at))
            at = -1;
        if (at < 0 || at >= limit)
            return err_set(err, ERR_MODEL, "position %" PRId64 " is outside the caches, which have %" PRId64 " rows",
                           at, limit);
        for (int64_t h = 0; h < r->heads; h++)
            rotary_f32((const float *)v->data + b * v->batch + t * v->row + h * v->head, s->width, 2 * half,
                       r->interleaved, (const float *)r->cosine->data + at * half,
                       (const float *)r->sine->data + at * half, out + i * row + h * s->width);
    }
    *v = attention_rows(out, s->rows, row, s->width);
    return 0;
}

/* The cache with this step's keys (or values) in their places: the output, or scratch. */
static int fill_cache(struct run_ctx *c, const struct sizes *s, const int64_t *past, int past_input, int output,
                      struct attention_view *v, struct err *err)
{
    const struct tensor *old = run_in(c, past_input);
    struct tensor *present = run_out(c, output);
    const int64_t head = s->present * s->width;
    int64_t n = 0;
    const bool fits = i64_mul(s->batch * s->kv_heads, s->present, &n) && i64_mul(n, s->width, &n);
    float *dst = present ? present->data : attention_floats(c, fits ? n : -1, err);

    if (!dst)
        return -1;
    memset(dst, 0, (size_t)n * sizeof *dst);
    for (int64_t i = 0; i < s->batch * s->kv_heads; i++) {
        const int64_t b = i / s->kv_heads, h = i % s->kv_heads, fresh = i64_min(s->rows, s->present - past[b]);
        if (past[b] > 0)
            memcpy(dst + i * head, (const float *)old->data + i * s->past * s->width,
                   (size_t)(past[b] * s->width) * sizeof *dst);
        for (int64_t t = 0; t < fresh; t++)
            memcpy(dst + i * head + (past[b] + t) * s->width,
                   (const float *)v->data + b * v->batch + t * v->row + h * v->head, (size_t)s->width * sizeof *dst);
    }
    *v = attention_heads(dst, s->kv_heads, s->present, s->width);
    return 0;
}

static void sizes_now(const struct run_ctx *c, struct sizes *s)
{
    const struct gqa_attrs *a = c->attrs;
    const struct shape *q = &c->in[QUERY]->shape;
    const struct tensor *past = run_in(c, PAST_KEY);

    *s = (struct sizes){q->dim[0],
                        q->dim[1],
                        a->num_heads,
                        a->kv_num_heads,
                        0,
                        past ? past->shape.dim[2] : 0,
                        ((const int32_t *)c->in[TOTAL]->data)[0],
                        0};
    s->width = q->dim[2] / (run_in(c, KEY) ? s->heads : s->heads + 2 * s->kv_heads);
    s->present = i64_max(s->past, s->total);
}

/* Q, K and V as they come, then turned. */
static int view(struct run_ctx *c, const struct sizes *s, const int64_t *past, struct attention *a, struct err *err)
{
    const struct gqa_attrs *at = c->attrs;
    const float *q = c->in[QUERY]->data;
    const int64_t row = c->in[QUERY]->shape.dim[2], kv_row = s->kv_heads * s->width;
    const struct tensor *ids = run_in(c, IDS);

    a->q = attention_rows(q, s->rows, row, s->width);
    if (run_in(c, KEY)) {
        a->k = attention_rows(c->in[KEY]->data, s->rows, kv_row, s->width);
        a->v = attention_rows(c->in[VALUE]->data, s->rows, kv_row, s->width);
    } else {
        a->k = attention_rows(q + s->heads * s->width, s->rows, row, s->width);
        a->v = attention_rows(q + (s->heads + s->kv_heads) * s->width, s->rows, row, s->width);
    }
    if (!at->do_rotary)
        return 0;
    struct rotation r = {.s = s,
                         .heads = s->heads,
                         .past = past,
                         .ids = ids ? ids->data : NULL,
                         .cosine = c->in[COS],
                         .sine = c->in[SIN],
                         .interleaved = at->rotary_interleaved};
    if (rotate(c, &r, &a->q, err) < 0)
        return -1;
    r.heads = s->kv_heads;
    return rotate(c, &r, &a->k, err);
}

/* The further logit of each head: given, or 0. */
static int find_sink(struct run_ctx *c, const struct sizes *s, const void **out, struct err *err)
{
    const struct tensor *sink = run_in(c, SINK);

    *out = sink ? sink->data : NULL;
    if (sink || ((const struct gqa_attrs *)c->attrs)->smooth_softmax != 1)
        return 0;
    float *zero = attention_floats(c, s->heads, err);
    if (!zero)
        return -1;
    memset(zero, 0, (size_t)s->heads * sizeof *zero);
    *out = zero;
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct gqa_attrs *at = c->attrs;
    const struct tensor *add = run_in(c, ADD);
    struct tensor *y = run_out(c, 0), *probe = run_out(c, 3);
    int64_t *past = NULL, *length = NULL;
    struct sizes s;

    if (c->in[QUERY]->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "attention of %s is not supported", dtype_name(c->in[QUERY]->dtype));
    sizes_now(c, &s);
    if (s.batch == 0)
        return 0;
    if (read_lengths(c, &s, &past, &length, err) < 0)
        return -1;
    const int64_t hidden = s.heads * s.width;
    struct attention a = {.batch = s.batch,
                          .heads = s.heads,
                          .kv_heads = s.kv_heads,
                          .rows = s.rows,
                          .cols = s.total,
                          .width = s.width,
                          .v_width = s.width,
                          .past_of = past,
                          .length_of = length,
                          .left = at->local_window_size > 0 ? at->local_window_size - 1 : at->local_window_size,
                          .right = at->causal ? 0 : -1,
                          .y = y ? y->data : NULL,
                          .y_batch = dim_mul(s.rows, hidden),
                          .y_head = s.width,
                          .y_row = hidden,
                          .softcap = (double)at->softcap,
                          .scale = at->scale != 0 ? (double)at->scale : 1 / sqrt((double)s.width)};
    if (probe && at->qk_output) {
        a.probe_kind = at->qk_output == 1 ? ATTENTION_BIASED : ATTENTION_WEIGHTS;
        a.probe = probe->data;
    }
    if (view(c, &s, past, &a, err) < 0 || fill_cache(c, &s, past, PAST_KEY, 1, &a.k, err) < 0 ||
        fill_cache(c, &s, past, PAST_VALUE, 2, &a.v, err) < 0 || find_sink(c, &s, &a.sink, err) < 0)
        return -1;
    if (add)
        a.bias[0] = attention_bias_of(add);
    return attention_run(c, &a, err);
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    struct sizes s;
    cost->macs = read_sizes(c, &s, NULL) < 0 ? -1 : attention_macs(s.batch, s.rows, s.heads, s.total, s.width, s.width);
}

/* ---- coupling ---- */
static struct attention_units units_of(const struct infer_ctx *c, struct sizes *s)
{
    struct attention_units none = {0};
    if (read_sizes(c, s, NULL) < 0 || s->width < 1)
        return none;
    return (struct attention_units){s->kv_heads, dim_mul(s->heads / s->kv_heads, s->width), 2};
}

/* A key head goes with the query heads that read it. */
static int couple(struct coupling *k, struct err *err)
{
    struct sizes s;
    const struct attention_units u = units_of(k->infer, &s);
    (void)err;
    if (u.units < 1)
        return 0;
    const int64_t width[] = {u.width, s.width, s.width}, group = s.heads / s.kv_heads;
    const struct end of_key[] = {IN(PAST_KEY), IN(PAST_VALUE), OUT(1), OUT(2)};
    attention_couple_one(k, &u, OUT(0), 2, u.width);
    attention_couple(k, &u, IN(QUERY), 2, width, infer_has(k->infer, KEY) ? 1 : 3);
    attention_couple_one(k, &u, IN(KEY), 2, s.width);
    attention_couple_one(k, &u, IN(VALUE), 2, s.width);
    for (int i = 0; i < 4; i++)
        attention_couple_one(k, &u, of_key[i], 1, 1);
    attention_couple_one(k, &u, OUT(3), 1, group);
    attention_couple_one(k, &u, IN(ADD), 1, group);
    attention_couple_one(k, &u, IN(SINK), 0, group);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    struct sizes z;
    const struct attention_units u = units_of(s->infer, &z);
    (void)err;
    if (u.units < 1 || !shrink_touched(s, OUT(0), 2))
        return 0;
    const int64_t left = attention_units_left(s, &u);
    node_set_int(s->model, s->node, "num_heads", left * (z.heads / z.kv_heads));
    node_set_int(s->model, s->node, "kv_num_heads", left);
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,3,32] f32[2,3,16] f32[2,3,16] none none i32[2]=2,2 !i32[]=3", "num_heads=4 kv_num_heads=2", 3},
    {"f32[1,3,32] f32[1,3,16] f32[1,3,16] f32[1,2,5,8] f32[1,2,5,8] i32[1]=7 !i32[]=8", "num_heads=4 kv_num_heads=2",
     3},
    {"f32[2,1,64] f32[2,1,32] f32[2,1,32] f32[2,2,5,16] f32[2,2,5,16] i32[2]=5,5 !i32[]=6 !f32[9,8] !f32[9,8]",
     "num_heads=4 kv_num_heads=2 do_rotary=1", 3},
    {"f32[1,4,128] none none none none i32[1]=3 !i32[]=4 !f32[9,8] !f32[9,8]",
     "num_heads=4 kv_num_heads=2 do_rotary=1 rotary_interleaved=1", 3},
    {"f32[1,6,32] f32[1,6,16] f32[1,6,16] none none i32[1]=5 !i32[]=6",
     "num_heads=4 kv_num_heads=2 local_window_size=2 softcap=3f scale=0.8f", 3},
    {"f32[1,6,32] f32[1,6,16] f32[1,6,16] none none i32[1]=5 !i32[]=6 none none none f32[1,4,6,6]",
     "num_heads=4 kv_num_heads=2 smooth_softmax=1", 3},
    {NULL},
};

OP_CLASS(group_query_attention) = {
    .type = "GroupQueryAttention",
    .domain = "com.microsoft",
    .since = 1,
    .doc =
        "Causal attention with shared key heads, a cache and rotary positions. Refused: quantized or windowed caches, "
        "normalized Q and K.",
    .in_min = 7,
    .in_max = 16,
    .out_min = 1,
    .out_max = 4,
    .attrs = gqa_attrs,
    .attrs_size = sizeof(struct gqa_attrs),
    .infer = infer,
    .forward = forward,
    .cost = cost,
    .couple = couple,
    .shrink = shrink,
    .samples = samples,
};
