/* SPDX-License-Identifier: Apache-2.0
 * Attention of ai.onnx (opset 23 to 25): Y = softmax(softcap(scale Q K^T) + mask) V over the keys a query may see.
 *   (Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen) -> (Y, present_key, present_value, qk_matmul_output)
 * Shapes     Q [B, N, S, H] or [B, S, N H]; K [B, M, L, H] or [B, L, M H]; V [B, M, L, W] or [B, L, M W]; N is a
 *            multiple of M. past [B, M, P, H or W]; T = P + L keys in all. The mask broadcasts to [B, N, S, T]; keys
 *            behind its last column are not seen. Y as Q, with W for H; present [B, M, T, H or W]; qk_matmul_output
 *            [B, N, S, T].
 * Place      Query i stands behind `offset` keys: P with a cache; nonpad_kv_seqlen - S with a cache outside; else 0.
 *            Causal attention sees keys up to its own place; a window (opset 25) so many to the left and right of it.
 * Core       kernels/attention.h; halves are computed in float32. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/kernels/attention_grad.h"
#include "core/ops/attention_common.h"
#include "core/ops/grad_util.h"

enum { Q, K, V, MASK, PAST_K, PAST_V, NONPAD };
enum { Y, PRESENT_K, PRESENT_V, PROBE };

struct attention_attrs {
    bool is_causal;
    int64_t q_num_heads, kv_num_heads, softmax_precision, qk_matmul_output_mode, left_window_size, right_window_size;
    float scale, softcap;
};
#define ATTRS_23                                                                                                       \
    {OP_ATTR(attention_attrs, is_causal), .kind = OP_BOOL}, {OP_ATTR(attention_attrs, q_num_heads), .kind = OP_INT},   \
        {OP_ATTR(attention_attrs, kv_num_heads), .kind = OP_INT},                                                      \
        {OP_ATTR(attention_attrs, softmax_precision), .kind = OP_INT, .def = DTYPE_FLOAT},                             \
        {OP_ATTR(attention_attrs, qk_matmul_output_mode), .kind = OP_INT},                                             \
        {OP_ATTR(attention_attrs, scale), .kind = OP_FLOAT, .def_f = NAN},                                             \
    {                                                                                                                  \
        OP_ATTR(attention_attrs, softcap), .kind = OP_FLOAT                                                            \
    }
static const struct op_attr attrs_23[] = {ATTRS_23, {0}};
static const struct op_attr attrs_25[] = {ATTRS_23,
                                          {OP_ATTR(attention_attrs, left_window_size), .kind = OP_INT, .def = -1},
                                          {OP_ATTR(attention_attrs, right_window_size), .kind = OP_INT, .def = -1},
                                          {0}};

/* Negative: not known. */
struct sizes {
    int64_t batch, heads, kv_heads, rows, keys, past, width, v_width;
};

/* *a becomes what is known of the two; false if they differ. */
static bool agree(int64_t *a, int64_t b)
{
    if (*a < 0)
        *a = b;
    return b < 0 || *a == b;
}

/* One of Q, K, V as [batch, heads, length, width]. */
static int read_stack(const struct infer_ctx *c, int i, int64_t heads, int64_t dim[4], struct err *err)
{
    static const char *const names[] = {"Q", "K", "V"};
    const struct shape *s = infer_shape(c, i);
    for (int d = 0; d < 4; d++)
        dim[d] = DIM_UNKNOWN;
    if (s->rank < 0)
        return 0;
    if (s->rank == 4) {
        for (int d = 0; d < 4; d++)
            dim[d] = s->dim[d];
        return 0;
    }
    if (s->rank != 3)
        return err_set(err, ERR_SHAPE, "%s has %d axes; it must have 3 or 4", names[i], s->rank);
    if (heads < 1)
        return err_set(err, ERR_MODEL, "attribute '%s' is %" PRId64 "; with 3 axes it must be positive",
                       i == Q ? "q_num_heads" : "kv_num_heads", heads);
    if (s->dim[2] >= 0 && s->dim[2] % heads != 0)
        return err_set(err, ERR_SHAPE,
                       "%s has %" PRId64 " elements a position, which do not divide into %" PRId64 " heads", names[i],
                       s->dim[2], heads);
    dim[0] = s->dim[0];
    dim[1] = heads;
    dim[2] = s->dim[1];
    dim[3] = s->dim[2] < 0 ? DIM_UNKNOWN : s->dim[2] / heads;
    return 0;
}

static int read_sizes(const struct infer_ctx *c, struct sizes *z, struct err *err)
{
    const struct attention_attrs *a = c->attrs;
    int64_t q[4], k[4], v[4];
    if (read_stack(c, Q, a->q_num_heads, q, err) < 0 || read_stack(c, K, a->kv_num_heads, k, err) < 0 ||
        read_stack(c, V, a->kv_num_heads, v, err) < 0)
        return -1;
    if (infer_shape(c, Q)->rank >= 0 && infer_shape(c, K)->rank >= 0 && infer_shape(c, V)->rank >= 0 &&
        (infer_shape(c, Q)->rank != infer_shape(c, K)->rank || infer_shape(c, Q)->rank != infer_shape(c, V)->rank))
        return err_set(err, ERR_SHAPE, "Q, K and V must have the same number of axes");
    *z = (struct sizes){q[0], q[1], k[1], q[2], k[2], 0, q[3], v[3]};
    if (!agree(&z->batch, k[0]) || !agree(&z->batch, v[0]))
        return err_set(err, ERR_SHAPE,
                       "Q, K and V have batches of %" PRId64 ", %" PRId64 " and %" PRId64 "; they must be equal", q[0],
                       k[0], v[0]);
    if (!agree(&z->kv_heads, v[1]) || !agree(&z->keys, v[2]))
        return err_set(err, ERR_SHAPE,
                       "K has %" PRId64 " heads of %" PRId64 " positions, V %" PRId64 " of %" PRId64
                       "; they must be equal",
                       k[1], k[2], v[1], v[2]);
    if (!agree(&z->width, k[3]))
        return err_set(err, ERR_SHAPE, "a head of Q has %" PRId64 " elements, of K %" PRId64 "; they must be equal",
                       q[3], k[3]);
    if (z->heads >= 0 && z->kv_heads >= 0 && (z->kv_heads == 0 || z->heads % z->kv_heads != 0))
        return err_set(err, ERR_SHAPE, "%" PRId64 " heads of Q are not a multiple of %" PRId64 " heads of K and V",
                       z->heads, z->kv_heads);
    return 0;
}

static int read_past(const struct infer_ctx *c, struct sizes *z, struct err *err)
{
    if (infer_has(c, PAST_K) != infer_has(c, PAST_V))
        return err_set(err, ERR_MODEL, "past_key and past_value go together; one of them is missing");
    if (!infer_has(c, PAST_K))
        return 0;
    if (infer_has(c, NONPAD))
        return err_set(err, ERR_MODEL, "nonpad_kv_seqlen cannot be given together with past_key and past_value");
    const struct shape *k = infer_shape(c, PAST_K), *v = infer_shape(c, PAST_V);
    z->past = k->rank == 4 ? k->dim[2] : v->rank == 4 ? v->dim[2] : DIM_UNKNOWN;
    if (attention_shape(c, PAST_K, "past_key", SHAPE(z->batch, z->kv_heads, z->past, z->width), err) < 0)
        return -1;
    return attention_shape(c, PAST_V, "past_value", SHAPE(z->batch, z->kv_heads, z->past, z->v_width), err);
}

static int check_mask(const struct infer_ctx *c, const struct sizes *z, int64_t total, struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    const struct shape want = SHAPE(z->batch, z->heads, z->rows, total);
    if (!infer_has(c, MASK))
        return 0;
    if (op_dtype_kinds(c, MASK, "fiub", err) < 0)
        return -1;
    const struct shape *s = infer_shape(c, MASK);
    bool fits = s->rank != 0 && s->rank <= 4;
    for (int i = 1; fits && i <= s->rank; i++) {
        int64_t d = s->dim[s->rank - i], w = want.dim[4 - i];
        fits = d < 0 || w < 0 || d == w || (i == 1 ? d < w : d == 1);
    }
    return fits ? 0
                : err_set(err, ERR_SHAPE, "attn_mask has shape %s, which does not broadcast to %s", shape_text(s, text),
                          shape_text(&want, want_text));
}

static int check_attrs(const struct attention_attrs *a, int opset, struct err *err)
{
    int64_t p = a->softmax_precision;
    if (p != DTYPE_FLOAT && p != DTYPE_FLOAT16 && p != DTYPE_DOUBLE && p != DTYPE_BFLOAT16)
        return err_set(err, ERR_MODEL, "attribute 'softmax_precision' is %" PRId64 "; it must be 1, 10, 11 or 16", p);
    if (a->qk_matmul_output_mode < 0 || a->qk_matmul_output_mode > 3)
        return err_set(err, ERR_MODEL, "attribute 'qk_matmul_output_mode' is %" PRId64 "; it must be 0 to 3",
                       a->qk_matmul_output_mode);
    if (opset >= 25 && (a->left_window_size < -1 || a->right_window_size < -1))
        return err_set(err, ERR_MODEL,
                       "a window of %" PRId64 " to the left and %" PRId64
                       " to the right; -1 is no bound, less is nothing",
                       a->left_window_size, a->right_window_size);
    return 0;
}

static int check_dtypes(const struct infer_ctx *c, struct err *err)
{
    static const int same[][2] = {{Q, K}, {Q, PAST_K}, {V, PAST_V}};
    for (int i = Q; i <= V; i++)
        if (op_dtype_real(c, i, err) < 0)
            return -1;
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        enum dtype a = op_dtype(c, same[i][0]), b = op_dtype(c, same[i][1]);
        if (a != DTYPE_NONE && b != DTYPE_NONE && a != b)
            return err_set(err, ERR_MODEL, "input #%d is %s but input #%d is %s; they must have the same type",
                           same[i][0], dtype_name(a), same[i][1], dtype_name(b));
    }
    if ((op_dtype(c, Q) == DTYPE_DOUBLE) != (op_dtype(c, V) == DTYPE_DOUBLE) && op_dtype(c, Q) != DTYPE_NONE &&
        op_dtype(c, V) != DTYPE_NONE)
        return err_set(err, ERR_OPERATOR, "Q is %s and V %s; double goes with double only", dtype_name(op_dtype(c, Q)),
                       dtype_name(op_dtype(c, V)));
    if (infer_has(c, NONPAD) && op_dtype(c, NONPAD) != DTYPE_NONE && op_dtype(c, NONPAD) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "nonpad_kv_seqlen is %s; it must be int64", dtype_name(op_dtype(c, NONPAD)));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct sizes z = {0};
    if (op_need(c, 3, err) < 0 || check_attrs(c->attrs, c->opset, err) < 0 || check_dtypes(c, err) < 0 ||
        read_sizes(c, &z, err) < 0 || read_past(c, &z, err) < 0)
        return -1;
    int64_t total = dim_add(z.past, z.keys);
    if (check_mask(c, &z, total, err) < 0 || attention_shape(c, NONPAD, "nonpad_kv_seqlen", SHAPE(z.batch), err) < 0)
        return -1;
    int rank = infer_shape(c, Q)->rank;
    struct shape y = rank < 0    ? SHAPE_UNKNOWN
                     : rank == 4 ? SHAPE(z.batch, z.heads, z.rows, z.v_width)
                                 : SHAPE(z.batch, z.rows, dim_mul(z.heads, z.v_width));
    infer_out(c, Y, op_dtype(c, Q), &y);
    infer_out(c, PRESENT_K, op_dtype(c, K), &SHAPE(z.batch, z.kv_heads, total, z.width));
    infer_out(c, PRESENT_V, op_dtype(c, V), &SHAPE(z.batch, z.kv_heads, total, z.v_width));
    infer_out(c, PROBE, op_dtype(c, Q), &SHAPE(z.batch, z.heads, z.rows, total));
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    struct sizes z = {0};
    cost->macs = -1;
    if (read_sizes(c, &z, NULL) == 0 && read_past(c, &z, NULL) == 0)
        cost->macs = attention_macs(z.batch, z.rows, z.heads, dim_add(z.past, z.keys), z.width, z.v_width);
}

/* ---- what forward and backward both describe ---- */
struct call {
    const struct attention_attrs *attrs;
    int opset, n_in;
    const struct tensor *const *in;
    struct op_memory memory;
};

static const struct tensor *given(const struct call *c, int i)
{
    return i < c->n_in ? c->in[i] : NULL;
}

static struct attention_view view_of(const struct tensor *t, int64_t heads)
{
    const int64_t *d = t->shape.dim;
    return t->shape.rank == 4 ? attention_heads(t->data, d[1], d[2], d[3])
                              : attention_rows(t->data, d[1], d[2], d[2] / heads);
}

/* K or V behind the past, as [B, M, T, width], if there is a past or the output is wanted. Elements of `elem` bytes. */
static int with_past(struct run_ctx *c, const struct sizes *z, int64_t width, int past, int out,
                     struct attention_view *v, struct err *err)
{
    struct tensor *present = run_out(c, out);
    const bool wide = c->in[Q]->dtype == DTYPE_DOUBLE;
    if (!run_in(c, past) && !present)
        return 0;
    int64_t total = z->past + z->keys, n = z->batch * z->kv_heads * total * width;
    float *dst = present ? present->data : attention_floats(c, wide ? n * 2 : n, err);
    if (!dst)
        return -1;
    struct attention_append a = {z->batch, z->kv_heads, width,   total,
                                 z->past,  z->keys,     z->past, run_in(c, past) ? c->in[past]->data : NULL,
                                 *v,       dst};
    if (wide) { /* a double moves as two floats */
        a.width *= 2;
        a.v.batch *= 2;
        a.v.head *= 2;
        a.v.row *= 2;
    }
    attention_append(&a);
    *v = attention_heads(dst, z->kv_heads, total, width);
    return 0;
}

/* The mask as an additive bias of the type computed in. */
static int read_mask(const struct call *c, struct attention_bias *bias, struct err *err)
{
    const struct tensor *m = given(c, MASK);
    const enum dtype to = c->in[Q]->dtype;
    const int64_t n = m ? tensor_count(m) : 0;
    size_t bytes;
    if (!m)
        return 0;
    if (!dtype_bytes(to, n, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "attn_mask is too large");
    void *sum = m->dtype == to ? m->data : op_memory(&c->memory, bytes ? bytes : 1, err);
    if (!sum)
        return -1;
    if (m->dtype == DTYPE_BOOL)
        for (int64_t i = 0; i < n; i++)
            dtype_set(to, sum, i, ((const uint8_t *)m->data)[i] ? 0 : -INFINITY);
    else if (m->dtype != to && !dtype_convert(to, sum, m->dtype, m->data, n))
        return err_set(err, ERR_OPERATOR, "attn_mask of %s cannot be added", dtype_name(m->dtype));
    int64_t dim[4] = {1, 1, 1, 1}, size = 1, stride[4];
    for (int i = 1; i <= m->shape.rank; i++)
        dim[4 - i] = m->shape.dim[m->shape.rank - i];
    for (int i = 3; i >= 0; i--) {
        stride[i] = dim[i] == 1 ? 0 : size;
        size *= dim[i];
    }
    *bias = (struct attention_bias){sum, stride[0], stride[1], stride[2], dim[3]};
    return 0;
}

/* Where query row 0 of each batch stands. */
static int read_places(const struct call *c, struct attention *a, struct err *err)
{
    const struct tensor *t = given(c, NONPAD);
    if (!t)
        return 0;
    int64_t *past = op_memory(&c->memory, ((size_t)a->batch + 1) * sizeof *past, err);
    if (!past)
        return -1;
    for (int64_t b = 0; b < a->batch; b++) {
        if (tensor_i64(t)[b] < 0 || tensor_i64(t)[b] > a->cols)
            return err_set(err, ERR_MODEL,
                           "nonpad_kv_seqlen of batch %" PRId64 " is %" PRId64 "; there are %" PRId64 " keys", b,
                           tensor_i64(t)[b], a->cols);
        past[b] = tensor_i64(t)[b] - a->rows;
    }
    a->past_of = past;
    a->length_of = tensor_i64(t);
    return 0;
}

static bool sizes_now(const struct call *c, struct sizes *z)
{
    const struct attention_attrs *a = c->attrs;
    const struct shape *q = &c->in[Q]->shape, *k = &c->in[K]->shape, *v = &c->in[V]->shape;
    const bool flat = q->rank == 3;
    *z = (struct sizes){.batch = q->dim[0],
                        .heads = flat ? a->q_num_heads : q->dim[1],
                        .kv_heads = flat ? a->kv_num_heads : k->dim[1],
                        .rows = q->dim[flat ? 1 : 2],
                        .keys = k->dim[flat ? 1 : 2],
                        .past = given(c, PAST_K) ? c->in[PAST_K]->shape.dim[2] : 0};
    z->width = flat ? q->dim[2] / z->heads : q->dim[3];
    z->v_width = flat ? v->dim[2] / z->kv_heads : v->dim[3];
    return flat;
}

/* Everything but outputs, mask, places and the cache. True: the heads lie side by side in rows. */
static bool describe(const struct call *c, struct sizes *z, struct attention *a)
{
    const struct attention_attrs *at = c->attrs;
    const bool flat = sizes_now(c, z);
    *a = (struct attention){.batch = z->batch,
                            .heads = z->heads,
                            .kv_heads = z->kv_heads,
                            .rows = z->rows,
                            .cols = z->past + z->keys,
                            .width = z->width,
                            .v_width = z->v_width,
                            .past = z->past,
                            .q = view_of(c->in[Q], z->heads),
                            .k = view_of(c->in[K], z->kv_heads),
                            .v = view_of(c->in[V], z->kv_heads),
                            .softcap = (double)at->softcap};
    a->scale = isnan(at->scale) ? 1 / sqrt((double)z->width) : (double)at->scale;
    a->left = c->opset >= 25 ? at->left_window_size : -1;
    a->right = at->is_causal ? 0 : c->opset >= 25 ? at->right_window_size : -1;
    return flat;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct call call = {c->attrs, c->opset, c->n_in, c->in, {.run = c}};
    const struct attention_attrs *at = c->attrs;
    struct tensor *y = run_out(c, Y), *probe = run_out(c, PROBE);
    struct sizes z;
    struct attention a;
    const bool flat = describe(&call, &z, &a);
    a.y = y ? y->data : NULL;
    a.y_row = flat ? z.heads * z.v_width : z.v_width;
    a.y_head = flat ? z.v_width : z.rows * z.v_width;
    a.y_batch = z.heads * z.rows * z.v_width;
    if (probe) {
        static const enum attention_probe kinds[] = {ATTENTION_PRODUCT, ATTENTION_CAPPED, ATTENTION_BIASED,
                                                     ATTENTION_WEIGHTS};
        a.probe_kind = kinds[at->qk_matmul_output_mode];
        a.probe = probe->data;
    }
    if (with_past(c, &z, z.width, PAST_K, PRESENT_K, &a.k, err) < 0 ||
        with_past(c, &z, z.v_width, PAST_V, PRESENT_V, &a.v, err) < 0 || read_mask(&call, &a.bias[0], err) < 0 ||
        read_places(&call, &a, err) < 0)
        return -1;
    if (c->in[Q]->dtype == DTYPE_FLOAT)
        return attention_run(c, &a, err);
    size_t bytes;
    if (!attention_scratch(&a, c->pool ? pool_threads(c->pool) : 1, sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the attention's working buffer would overflow the address space");
    void *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    attention_f64(c->pool, &a, scratch);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward ---- */
/* Element (b, h, i, j) of a stack to and from: strides of [batch, heads, length, width]. */
struct stack {
    void *data;
    int64_t stride[4];
};

static struct stack stack_of(const struct attention_view *v, int64_t row, size_t elem)
{
    return (struct stack){(char *)(uintptr_t)v->data + (size_t)(row * v->row) * elem, {v->batch, v->head, v->row, 1}};
}

static void sum_stack(struct grad_ctx *c, struct stack to, struct stack from, const int64_t dim[4], bool assign)
{
    struct grad_loop l = {
        .dtype = c->in[Q]->dtype, .rank = 4, .dst = to.data, .sources = 1, .src[0].data = from.data, .assign = assign};
    for (int i = 0; i < 4; i++) {
        l.dim[i] = dim[i];
        l.dst_stride[i] = to.stride[i];
        l.src[0].stride[i] = from.stride[i];
    }
    if (dim[0] && dim[1] && dim[2] && dim[3])
        grad_sum(c->pool, &l);
}

static void *numbers(struct grad_ctx *c, const int64_t dim[4], struct err *err)
{
    const struct shape s = SHAPE(dim[0], dim[1], dim[2], dim[3]);
    size_t bytes;
    if (shape_count(&s) < 0 || !dtype_bytes(c->in[Q]->dtype, shape_count(&s), &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the attention's scores are too large");
        return NULL;
    }
    void *data = grad_scratch(c, bytes + 1, err);
    if (data)
        memset(data, 0, bytes);
    return data;
}

/* K or V: all keys in one stack, and the gradient of that, which begins as that of `present`. */
struct cache {
    int64_t dim[4], past_dim[4], fresh_dim[4];
    struct attention_view values, grad;
};

static int gather_cache(struct grad_ctx *c, const struct sizes *z, int64_t width, int past, int out,
                        const struct attention_view *fresh, struct cache *k, struct err *err)
{
    const size_t elem = c->in[Q]->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    const int64_t total = z->past + z->keys;
    const struct tensor *old = past < c->n_in ? c->in[past] : NULL, *g = grad_of(c, out);
    *k = (struct cache){{z->batch, z->kv_heads, total, width},
                        {z->batch, z->kv_heads, z->past, width},
                        {z->batch, z->kv_heads, z->keys, width},
                        *fresh,
                        {0}};
    void *grad = numbers(c, k->dim, err), *all = old && grad ? numbers(c, k->dim, err) : NULL;
    if (!grad || (old && !all))
        return -1;
    k->grad = attention_heads(grad, z->kv_heads, total, width);
    if (g)
        memcpy(grad, g->data, g->bytes);
    if (!old)
        return 0;
    const struct attention_view before = attention_heads(old->data, z->kv_heads, z->past, width);
    k->values = attention_heads(all, z->kv_heads, total, width);
    sum_stack(c, stack_of(&k->values, 0, elem), stack_of(&before, 0, elem), k->past_dim, true);
    sum_stack(c, stack_of(&k->values, z->past, elem), stack_of(fresh, 0, elem), k->fresh_dim, true);
    return 0;
}

static void spread_cache(struct grad_ctx *c, const struct sizes *z, int fresh, int past, const struct cache *k)
{
    const size_t elem = c->in[Q]->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    const struct tensor *to = grad_wanted(c, fresh), *to_past = grad_wanted(c, past);
    if (to) {
        const struct attention_view v = view_of(to, z->kv_heads);
        sum_stack(c, stack_of(&v, 0, elem), stack_of(&k->grad, z->past, elem), k->fresh_dim, false);
    }
    if (to_past) {
        const struct attention_view v = attention_heads(to_past->data, z->kv_heads, z->past, k->dim[3]);
        sum_stack(c, stack_of(&v, 0, elem), stack_of(&k->grad, 0, elem), k->past_dim, false);
    }
}

/* The mask's gradient: the scores', summed where the mask was stretched. */
static void sum_mask(struct grad_ctx *c, const struct attention *a, void *scores)
{
    const struct tensor *dst = grad_wanted(c, MASK);
    const int64_t row = a->cols, head = a->rows * row, cols = a->bias[0].cols;
    const int64_t dim[4] = {a->batch, a->heads, a->rows, cols};
    const struct stack from = {scores, {a->heads * head, head, row, 1}};
    if (dst)
        sum_stack(c, (struct stack){dst->data, {a->bias[0].batch, a->bias[0].head, a->bias[0].row, cols == 1 ? 0 : 1}},
                  from, dim, false);
}

/* Runs forward again for what its probes see. */
static int probe(struct grad_ctx *c, struct attention *a, enum attention_probe kind, void **out, struct err *err)
{
    const int64_t scores[4] = {a->batch, a->heads, a->rows, a->cols}, y[4] = {a->batch, a->heads, a->rows, a->v_width};
    const bool wide = c->in[Q]->dtype == DTYPE_DOUBLE;
    size_t bytes;
    if (!attention_scratch(a, c->pool ? pool_threads(c->pool) : 1, wide ? sizeof(double) : sizeof(float), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the attention's working buffer would overflow the address space");
    void *scratch = grad_scratch(c, bytes, err);
    if (!scratch || !(*out = numbers(c, scores, err)) || !(a->y = numbers(c, y, err)))
        return -1;
    a->probe_kind = kind;
    a->probe = *out;
    a->y_row = a->v_width;
    a->y_head = a->rows * a->y_row;
    a->y_batch = a->heads * a->y_head;
    (wide ? attention_f64 : attention_f32)(c->pool, a, scratch);
    return 0;
}

static int back_scores(struct grad_ctx *c, struct attention *a, const struct sizes *z, const struct cache *k,
                       const struct cache *v, struct err *err)
{
    const int64_t scores[4] = {a->batch, a->heads, a->rows, a->cols};
    const bool wide = c->in[Q]->dtype == DTYPE_DOUBLE;
    void *weights, *product = NULL;
    if (probe(c, a, ATTENTION_WEIGHTS, &weights, err) < 0 ||
        (a->softcap != 0 && probe(c, a, ATTENTION_PRODUCT, &product, err) < 0))
        return -1;
    struct attention_grad g = {.a = a,
                               .weights = weights,
                               .product = product,
                               .dy = view_of(grad_of(c, Y), z->heads),
                               .scores = numbers(c, scores, err),
                               .dk = k->grad,
                               .dv = v->grad};
    if (!g.scores)
        return -1;
    if (grad_wanted(c, Q))
        g.dq = view_of(c->grad_in[Q], z->heads);
    (wide ? attention_grad_scores_f64 : attention_grad_scores_f32)(c->pool, &g);
    sum_mask(c, a, g.scores);
    (wide ? attention_grad_inputs_f64 : attention_grad_inputs_f32)(c->pool, &g);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct call call = {c->attrs, c->opset, c->n_in, c->in, {.grad = c}};
    struct sizes z;
    struct attention a;
    struct cache k, v;

    if (grad_of(c, PROBE))
        return err_set(err, ERR_OPERATOR, "no gradient passes through qk_matmul_output");
    if (!grad_of(c, Y) && !grad_of(c, PRESENT_K) && !grad_of(c, PRESENT_V))
        return 0;
    if (grad_type(c->in[Q], err) < 0)
        return -1;
    describe(&call, &z, &a);
    if (gather_cache(c, &z, z.width, PAST_K, PRESENT_K, &a.k, &k, err) < 0 ||
        gather_cache(c, &z, z.v_width, PAST_V, PRESENT_V, &a.v, &v, err) < 0 || read_mask(&call, &a.bias[0], err) < 0 ||
        read_places(&call, &a, err) < 0)
        return -1;
    a.k = k.values;
    a.v = v.values;
    if (grad_of(c, Y) && back_scores(c, &a, &z, &k, &v, err) < 0)
        return -1;
    spread_cache(c, &z, K, PAST_K, &k);
    spread_cache(c, &z, V, PAST_V, &v);
    return 0;
}

/* ---- coupling ---- */
/* Rows of heads side by side: a key head goes with the query heads that read it. Stacks have axes for heads and for
 * widths. */
static struct attention_units units_of(const struct infer_ctx *c, struct sizes *z)
{
    struct attention_units none = {0};
    if (read_sizes(c, z, NULL) < 0 || z->kv_heads < 1 || z->heads < 1 || z->width < 1 || z->v_width < 1)
        return none;
    const int64_t group = z->heads / z->kv_heads;
    const bool stacks = infer_shape(c, Q)->rank == 4;
    return (struct attention_units){z->kv_heads, stacks ? group : dim_mul(group, z->v_width), stacks ? 1 : 2};
}

static int couple(struct coupling *k, struct err *err)
{
    static const struct attention_stacks stacks = {PAST_K, PAST_V, PRESENT_K, PRESENT_V, true};
    struct sizes z = {0};
    const struct attention_units u = units_of(k->infer, &z);
    (void)err;
    if (u.units < 1)
        return 0;
    const int64_t group = z.heads / z.kv_heads;
    if (u.axis == 1) {
        attention_couple_stacks(k, &stacks);
    } else {
        const struct end of_key[] = {IN(PAST_K), IN(PAST_V), OUT(PRESENT_K), OUT(PRESENT_V)};
        attention_couple_one(k, &u, OUT(Y), 2, u.width);
        attention_couple_one(k, &u, IN(Q), 2, dim_mul(group, z.width));
        attention_couple_one(k, &u, IN(K), 2, z.width);
        attention_couple_one(k, &u, IN(V), 2, z.v_width);
        for (int i = 0; i < 4; i++)
            attention_couple_one(k, &u, of_key[i], 1, 1);
    }
    attention_couple_one(k, &u, OUT(PROBE), 1, group);
    attention_couple_one(k, &u, IN(MASK), -3, group);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct attention_attrs *a = s->infer->attrs;
    struct sizes z = {0};
    const struct attention_units u = units_of(s->infer, &z);
    (void)err;
    if (u.units < 1)
        return 0;
    const int64_t left = attention_units_left(s, &u);
    if (shrink_touched(s, OUT(Y), u.axis) && a->q_num_heads > 0)
        node_set_int(s->model, s->node, "q_num_heads", left * (z.heads / z.kv_heads));
    if (shrink_touched(s, OUT(Y), u.axis) && a->kv_num_heads > 0)
        node_set_int(s->model, s->node, "kv_num_heads", left);
    if (u.axis == 1)
        attention_keep_scale(s, isnan(a->scale));
    return 0;
}

static const struct op_sample samples_23[] = {
    {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8]", "", 1, 23},
    {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,10]", "scale=0.3f softcap=2.0f", 1, 23},
    {"f32[2,4,24] f32[2,6,12] f32[2,6,12]", "q_num_heads=6 kv_num_heads=3", 1, 23},
    {"f32[2,3,4,8] f32[2,3,4,8] f32[2,3,4,8] f32[4,4]", "is_causal=1", 1, 23},
    {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8] b[2,1,4,6]", "", 1, 23},
    {"f32[2,3,4,8] f32[2,3,2,8] f32[2,3,2,8] f32[4,5] f32[2,3,3,8] f32[2,3,3,8]", "qk_matmul_output_mode=0", 4, 23},
    {"f32[2,4,24] f32[2,6,12] f32[2,6,12] f32[2,1,1,4]", "q_num_heads=6 kv_num_heads=3 softcap=1.5f", 1, 23},
    {"f16[1,2,4,8] f16[1,2,4,8] f16[1,2,4,8]", "", 1, 23},
    {0}};
static const struct op_sample samples_24[] = {
    {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8] none none none i64[2]=5,6", "is_causal=1", 1, 24}, {0}};
static const struct op_sample samples_25[] = {
    {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8]", "left_window_size=2 right_window_size=1", 1, 25},
    {"f64[1,2,4,8] f64[1,2,3,8] f64[1,2,3,8] none f64[1,2,2,8] f64[1,2,2,8]", "is_causal=1 left_window_size=3", 3, 25},
    {0}};
#define ATTENTION(...)                                                                                                 \
    {                                                                                                                  \
        .type = "Attention", .domain = "", .doc = "Scaled dot-product attention.", .in_min = 3, .out_min = 1,          \
        .out_max = 4, .attrs_size = sizeof(struct attention_attrs), .infer = infer, .forward = forward,                \
        .couple = couple, .shrink = shrink, .cost = cost, .backward = backward, .grad_reads = 0x7f,                    \
        .grad_inputs = 0x3f, __VA_ARGS__                                                                               \
    }
OP_CLASS(attention_23) = ATTENTION(.since = 23, .until = 23, .in_max = 6, .attrs = attrs_23, .samples = samples_23);
OP_CLASS(attention_24) = ATTENTION(.since = 24, .until = 24, .in_max = 7, .attrs = attrs_23, .samples = samples_24);
OP_CLASS(attention_25) = ATTENTION(.since = 25, .in_max = 7, .attrs = attrs_25, .samples = samples_25);
