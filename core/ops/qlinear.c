/* SPDX-License-Identifier: Apache-2.0
 * Operators of domain com.microsoft on affine 8-bit values: QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu,
 * QLinearWhere, QLinearConcat, QLinearSoftmax. What they compute is y = quantize(f(dequantize(x))).
 * Idea       a function of one 8-bit value is a table of 256; sums and products of two are one float expression on the
 *            stored values (kernels/q8.h).
 * Softmax    exp((x - max) * scale) has 256 possible values too: a table, a sum of its entries, a quotient. */
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/elementwise.h"
#include "core/ops/quantize.h"

#define MICROSOFT .domain = "com.microsoft", .since = 1, .out_min = 1, .out_max = 1

/* The first of the listed inputs says the type; the others must agree with it. */
static int agree_8bit(const struct infer_ctx *c, const int *at, int n, enum dtype *dtype, struct err *err)
{
    *dtype = DTYPE_NONE;
    for (int i = 0; i < n; i++) {
        if (quantize_want_8bit(c, at[i], err) < 0)
            return -1;
        const enum dtype d = op_dtype(c, at[i]);
        if (*dtype != DTYPE_NONE && d != DTYPE_NONE && d != *dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s but an input before it is %s; they must have the same type",
                           at[i], dtype_name(d), dtype_name(*dtype));
        *dtype = d != DTYPE_NONE ? d : *dtype;
    }
    return 0;
}

/* ---- Add, Mul ---- */
static int infer_binary(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    enum dtype dtype;

    if (!infer_has(c, 0) || !infer_has(c, 3))
        return err_set(err, ERR_MODEL, "inputs #0 and #3 are required");
    if (agree_8bit(c, (const int[]){0, 3}, 2, &dtype, err) < 0 || quantize_check_param(c, 1, 2, true, err) < 0 ||
        quantize_check_param(c, 4, 5, true, err) < 0 || quantize_check_param(c, 6, 7, true, err) < 0 ||
        binary_shape(infer_shape(c, 0), infer_shape(c, 3), &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

typedef void q8_binary_fn(const struct q8_binary *op, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n,
                          int64_t step_a, int64_t step_b);
struct binary_job {
    q8_binary_fn *fn;
    struct q8_binary op;
    struct op_walk walk;
    const uint8_t *a, *b;
    uint8_t *y;
    int64_t piece, pieces; /* long rows are cut */
};

static void binary_pieces(void *arg, int64_t begin, int64_t end)
{
    const struct binary_job *k = arg;
    int64_t at[OP_WALK_MAX];

    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / k->pieces, from = i % k->pieces * k->piece;
        const int64_t *step = k->walk.step;
        op_walk_at(&k->walk, row, at);
        k->fn(&k->op, k->a + at[0] + from * step[0], k->b + at[1] + from * step[1], k->y + row * k->walk.row + from,
              i64_min(k->piece, k->walk.row - from), step[0], step[1]);
    }
}

static int forward_binary(struct run_ctx *c, q8_binary_fn *fn, struct err *err)
{
    if (op_outputs(c, infer_binary, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    struct binary_job k = {.fn = fn, .a = c->in[0]->data, .b = c->in[3]->data, .y = y->data, .piece = 1 << 15};
    k.op = (struct q8_binary){.a = quantize_param(c, 1, 2, y->dtype),
                              .b = quantize_param(c, 4, 5, y->dtype),
                              .y = quantize_param(c, 6, 7, y->dtype)};
    k.op.low = q8_low(&k.op.y);
    k.op.high = q8_high(&k.op.y);
    op_walk_init(&k.walk, 2, (const struct shape *const[]){&c->in[0]->shape, &c->in[3]->shape}, &y->shape);
    k.pieces = i64_max(1, i64_ceil_div(k.walk.row, k.piece));
    op_parallel(c->pool, k.walk.rows * k.pieces, i64_max(1, k.piece / i64_max(k.walk.row, 1)), binary_pieces, &k);
    return 0;
}

static int forward_add(struct run_ctx *c, struct err *err)
{
    return forward_binary(c, q8_add, err);
}
static int forward_mul(struct run_ctx *c, struct err *err)
{
    return forward_binary(c, q8_mul, err);
}

/* ---- Sigmoid, LeakyRelu ---- */
struct alpha_attrs {
    float alpha;
};
static const struct op_attr leaky_attrs[] = {{OP_ATTR(alpha_attrs, alpha), .kind = OP_FLOAT, .def_f = 0.01f}, {NULL}};

static int infer_unary(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 2, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || quantize_check_param(c, 1, 2, true, err) < 0 ||
        quantize_check_param(c, 3, 4, true, err) < 0)
        return -1;
    infer_out(c, 0, c->in[0]->dtype, infer_shape(c, 0));
    return 0;
}

static int forward_unary(struct run_ctx *c, q8_function *f, float alpha, struct err *err)
{
    uint8_t table[256];

    if (op_outputs(c, infer_unary, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct q8 x_param = quantize_param(c, 1, 2, y->dtype), y_param = quantize_param(c, 3, 4, y->dtype);
    q8_table(&x_param, &y_param, f, alpha, table);
    quantize_map(c->pool, table, c->in[0]->data, y->data, tensor_count(y));
    return 0;
}

static float sigmoid(float x, float alpha)
{
    (void)alpha;
    return 1 / (1 + expf(-x));
}
static float leaky_relu(float x, float alpha)
{
    return x >= 0 ? x : alpha * x;
}
static int forward_sigmoid(struct run_ctx *c, struct err *err)
{
    return forward_unary(c, sigmoid, 0, err);
}
static int forward_leaky(struct run_ctx *c, struct err *err)
{
    return forward_unary(c, leaky_relu, ((const struct alpha_attrs *)c->attrs)->alpha, err);
}

/* ---- Where ---- */
static int infer_where(struct infer_ctx *c, struct err *err)
{
    struct shape both, out;
    enum dtype dtype;

    if (op_need(c, 9, err) < 0 || agree_8bit(c, (const int[]){1, 4}, 2, &dtype, err) < 0 ||
        quantize_check_param(c, 2, 3, false, err) < 0 || quantize_check_param(c, 5, 6, false, err) < 0 ||
        quantize_check_param(c, 7, 8, false, err) < 0 || op_dtype_kinds(c, 0, "b", err) < 0 ||
        binary_shape(infer_shape(c, 1), infer_shape(c, 4), &both, err) < 0 ||
        binary_shape(infer_shape(c, 0), &both, &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int forward_where(struct run_ctx *c, struct err *err)
{
    uint8_t table_x[256], table_y[256];
    int64_t at[OP_WALK_MAX];
    struct op_walk walk;

    if (op_outputs(c, infer_where, err) < 0)
        return -1;
    struct tensor *z = run_out(c, 0);
    if (!z || tensor_count(z) == 0)
        return 0;
    const struct q8 x_param = quantize_param(c, 2, 3, z->dtype), y_param = quantize_param(c, 5, 6, z->dtype),
                    z_param = quantize_param(c, 7, 8, z->dtype);
    q8_table(&x_param, &z_param, q8_identity, 0, table_x);
    q8_table(&y_param, &z_param, q8_identity, 0, table_y);
    const uint8_t *condition = c->in[0]->data, *x = c->in[1]->data, *y = c->in[4]->data;
    uint8_t *out = z->data;
    op_walk_init(&walk, 3, (const struct shape *const[]){&c->in[0]->shape, &c->in[1]->shape, &c->in[4]->shape},
                 &z->shape);
    for (int64_t row = 0; row < walk.rows; row++, out += walk.row) {
        op_walk_at(&walk, row, at);
        for (int64_t i = 0; i < walk.row; i++)
            out[i] = condition[at[0] + i * walk.step[0]] ? table_x[x[at[1] + i * walk.step[1]]]
                                                         : table_y[y[at[2] + i * walk.step[2]]];
    }
    return 0;
}

/* ---- Concat: (scale, zero) of y, then (x, scale, zero) for each input ---- */
struct axis_attrs {
    int64_t axis, opset;
};
static const struct op_attr concat_attrs[] = {{OP_ATTR(axis_attrs, axis), .kind = OP_INT, .required = true}, {NULL}};

static int infer_concat(struct infer_ctx *c, struct err *err)
{
    const struct axis_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    bool known = true;
    int axis = -1;

    if (op_need(c, c->n_in, err) < 0 || quantize_check_param(c, 0, 1, false, err) < 0)
        return -1;
    if (c->n_in < 5 || (c->n_in - 2) % 3)
        return err_set(err, ERR_MODEL, "there are %d inputs; after two there must be three for each joined tensor",
                       c->n_in);
    for (int i = 2; i < c->n_in; i += 3) {
        const struct shape *x = infer_shape(c, i);
        if (quantize_want_8bit(c, i, err) < 0 || quantize_check_param(c, i + 1, i + 2, false, err) < 0)
            return -1;
        if (x->rank < 0) {
            known = false;
            continue;
        }
        if (out.rank < 0) {
            if (op_axis(x, a->axis, &axis, err) < 0)
                return -1;
            out = *x;
            continue;
        }
        bool fits = x->rank == out.rank;
        for (int d = 0; fits && d < out.rank; d++) {
            if (d == axis)
                out.dim[d] = dim_add(out.dim[d], x->dim[d]);
            else if (out.dim[d] < 0)
                out.dim[d] = x->dim[d];
            else
                fits = x->dim[d] < 0 || x->dim[d] == out.dim[d];
        }
        if (!fits)
            return err_set(err, ERR_SHAPE, "input #%d does not fit the inputs before it; only axis %d may differ", i,
                           axis);
    }
    if (!known && axis >= 0)
        out.dim[axis] = DIM_UNKNOWN;
    infer_out(c, 0, c->in[1]->dtype, &out);
    return 0;
}

static int forward_concat(struct run_ctx *c, struct err *err)
{
    uint8_t table[256];

    if (op_outputs(c, infer_concat, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const int axis = shape_axis(&y->shape, ((const struct axis_attrs *)c->attrs)->axis);
    const int64_t outer = shape_product(&y->shape, 0, axis), inner = shape_product(&y->shape, axis + 1, y->shape.rank);
    const struct q8 y_param = quantize_param(c, 0, 1, y->dtype);
    uint8_t *dst = y->data;
    for (int i = 2; i < c->n_in; i += 3) {
        const struct q8 x_param = quantize_param(c, i + 1, i + 2, c->in[i]->dtype);
        const int64_t part = c->in[i]->shape.dim[axis] * inner, step = y->shape.dim[axis] * inner;
        const uint8_t *src = c->in[i]->data;
        const bool same = x_param.is_signed == y_param.is_signed && x_param.zero == y_param.zero &&
                          memcmp(&x_param.scale, &y_param.scale, sizeof(float)) == 0;
        q8_table(&x_param, &y_param, q8_identity, 0, table);
        for (int64_t o = 0; o < outer && part > 0; o++) {
            if (same)
                memcpy(dst + o * step, src + o * part, (size_t)part);
            else
                q8_map(table, src + o * part, dst + o * step, part);
        }
        dst += part;
    }
    return 0;
}

/* ---- Softmax ---- */
static const struct op_attr softmax_attrs[] = {{OP_ATTR(axis_attrs, axis), .kind = OP_INT, .def = -1},
                                               {OP_ATTR(axis_attrs, opset), .kind = OP_INT, .required = true},
                                               {NULL}};

static int infer_softmax(struct infer_ctx *c, struct err *err)
{
    const struct axis_attrs *a = c->attrs;
    int axis;

    if (op_need(c, 2, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || quantize_check_param(c, 1, 2, true, err) < 0 ||
        quantize_check_param(c, 3, 4, false, err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank > 0 && op_axis(infer_shape(c, 0), a->axis, &axis, err) < 0)
        return -1;
    infer_out(c, 0, c->in[0]->dtype, infer_shape(c, 0));
    return 0;
}

struct softmax_job {
    float table[256]; /* exp of minus i steps */
    struct q8 x, y;
    const uint8_t *in;
    uint8_t *out;
    int64_t n, inner;
};

/* A contiguous line: entries of the table in pieces, then one vectorised quantization. */
static void softmax_line(const struct softmax_job *k, const uint8_t *x, uint8_t *y)
{
    enum { PIECE = 256 };
    const uint8_t flip = q8_flip(&k->x);
    double sum[4] = {0};
    float piece[PIECE];
    const int most = q8_max(x, k->n, flip);

    for (int64_t i = 0; i < k->n; i++)
        sum[i % 4] += (double)k->table[most - (x[i] ^ flip)];
    struct q8 out = k->y; /* e / sum in steps of the output */
    out.scale = (float)(((sum[0] + sum[1]) + (sum[2] + sum[3])) * (double)k->y.scale);
    for (int64_t at = 0; at < k->n; at += PIECE) {
        const int64_t n = i64_min(PIECE, k->n - at);
        for (int64_t i = 0; i < n; i++)
            piece[i] = k->table[most - (x[at + i] ^ flip)];
        q8_quantize(&out, piece, y + at, n);
    }
}

static void softmax_lines(void *arg, int64_t begin, int64_t end)
{
    const struct softmax_job *k = arg;
    const uint8_t flip = q8_flip(&k->x);

    for (int64_t line = begin; line < end; line++) {
        const int64_t at = line / k->inner * k->n * k->inner + line % k->inner;
        const uint8_t *x = k->in + at;
        if (k->inner == 1) {
            softmax_line(k, x, k->out + at);
            continue;
        }
        int most = 0;
        double sum = 0;
        for (int64_t i = 0; i < k->n; i++)
            most = (x[i * k->inner] ^ flip) > most ? x[i * k->inner] ^ flip : most;
        for (int64_t i = 0; i < k->n; i++)
            sum += (double)k->table[most - (x[i * k->inner] ^ flip)];
        for (int64_t i = 0; i < k->n; i++)
            k->out[at + i * k->inner] =
                q8_bits(&k->y, (float)((double)k->table[most - (x[i * k->inner] ^ flip)] / sum));
    }
}

static int forward_softmax(struct run_ctx *c, struct err *err)
{
    const struct axis_attrs *a = c->attrs;
    if (op_outputs(c, infer_softmax, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const int rank = y->shape.rank, axis = rank ? shape_axis(&y->shape, a->axis) : 0;
    struct softmax_job k = {.x = quantize_param(c, 1, 2, y->dtype), .y = quantize_param(c, 3, 4, y->dtype),
                            .in = c->in[0]->data, .out = y->data};
    /* before opset 13 the lines are all axes from `axis` on */
    k.n = a->opset < 13 ? shape_product(&y->shape, axis, rank) : rank ? y->shape.dim[axis] : 1;
    k.inner = a->opset < 13 || rank == 0 ? 1 : shape_product(&y->shape, axis + 1, rank);
    if (k.y.scale > 0 && k.y.scale <= 1) /* a whole number of steps to 1, rounded down: as ONNX Runtime counts them */
        k.y.scale = 1 / floorf(1 / k.y.scale);
    for (int i = 0; i < 256; i++)
        k.table[i] = expf((float)-i * k.x.scale);
    op_parallel(c->pool, tensor_count(y) / k.n, i64_max(1, 4096 / k.n), softmax_lines, &k);
    return 0;
}

/* ---- rows ---- */
/* ---- coupling: scales and zero points are of whole tensors ---- */
static int couple_binary(struct coupling *k, struct err *err)
{
    (void)err;
    couple_broadcast(k, IN(0), OUT(0));
    couple_broadcast(k, IN(3), OUT(0));
    return 0;
}

static int couple_unary(struct coupling *k, struct err *err)
{
    (void)err;
    couple_same(k, IN(0), OUT(0));
    return 0;
}

static int couple_where(struct coupling *k, struct err *err)
{
    static const int inputs[] = {0, 1, 4};
    (void)err;
    for (int i = 0; i < 3; i++)
        couple_broadcast(k, IN(inputs[i]), OUT(0));
    return 0;
}

static int couple_concat(struct coupling *k, struct err *err)
{
    static const char why[] = "it joins inputs of sizes that are not fixed";
    const int rank = couple_rank(k, OUT(0)), axis = (int)((const struct axis_attrs *)couple_attrs(k))->axis;
    int64_t from = 0;
    (void)err;
    for (int i = 2; rank >= 0 && i < k->infer->n_in; i += 3) {
        const int64_t n = couple_size(k, IN(i), axis);
        couple_same_but(k, IN(i), OUT(0), axis);
        if (n < 0 || from < 0) {
            couple_freeze(k, IN(i), axis, why);
            couple_freeze(k, OUT(0), axis, why);
            from = -1;
        } else {
            couple_part(k, IN(i), axis, 0, OUT(0), axis, from, n);
            from += n;
        }
    }
    return 0;
}

static int couple_softmax(struct coupling *k, struct err *err)
{
    const struct axis_attrs *a = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(a->axis < 0 ? a->axis + rank : a->axis);
    (void)err;
    couple_same(k, IN(0), OUT(0));
    for (int i = 0; i < rank; i++)
        if (a->opset < 13 ? i >= axis : i == axis)
            couple_freeze(k, IN(0), i, "a softmax goes over it");
    return 0;
}

static const struct op_sample binary_samples[] = {
    {"u8[2,3,4] f32[]=0.1 u8[]=3 u8[2,3,4] f32[]=0.07 u8[]=2 f32[]=0.13 u8[]=1", NULL},
    {"i8[2,3,4] f32[]=0.1 i8[]=3 i8[4] f32[]=0.07 i8[]=2 f32[]=0.03 i8[]=1", NULL},
    {"u8[3,1] f32[]=0.1 u8[]=0 !u8[1,5] f32[]=0.07 u8[]=9 f32[]=0.23", NULL},
    {NULL}};
static const struct op_sample unary_samples[] = {{"u8[2,3,4] f32[]=0.3 u8[]=5 f32[]=0.004 u8[]=0", NULL},
                                                 {"i8[2,12] f32[]=0.3 i8[]=5 f32[]=0.008 i8[]=-4", NULL},
                                                 {NULL}};
static const struct op_sample where_samples[] = {
    {"b[2,3] u8[2,3] f32[]=0.1 u8[]=3 u8[3] f32[]=0.07 u8[]=2 f32[]=0.05 u8[]=1", NULL}, {NULL}};
static const struct op_sample concat_samples[] = {
    {"f32[]=0.1 u8[]=3 u8[2,3] f32[]=0.07 u8[]=2 u8[2,4] f32[]=0.1 u8[]=3", "axis=1"},
    {"f32[]=0.1 i8[]=3 i8[2,3] f32[]=0.07 i8[]=2 i8[1,3] f32[]=0.31 i8[]=3", "axis=0"},
    {NULL}};
static const struct op_sample softmax_samples[] = {
    {"u8[3,7] f32[]=0.3 u8[]=2 f32[]=0.00390625 u8[]=0", "opset=13 axis=-1"},
    {"i8[2,3,5] f32[]=0.3 i8[]=2 f32[]=0.00390625 i8[]=-128", "opset=13 axis=1"},
    {"u8[2,3,5] f32[]=0.3 u8[]=2 f32[]=0.00390625 u8[]=0", "opset=11 axis=1"},
    {NULL}};

OP_CLASS(qlinear_add) = {.type = "QLinearAdd", MICROSOFT, .doc = "Sum of two affine 8-bit tensors.", .in_min = 7,
                         .in_max = 8, .infer = infer_binary, .couple = couple_binary, .forward = forward_add,
                         .samples = binary_samples};
OP_CLASS(qlinear_mul) = {.type = "QLinearMul", MICROSOFT, .doc = "Product of two affine 8-bit tensors.", .in_min = 7,
                         .in_max = 8, .infer = infer_binary, .couple = couple_binary, .forward = forward_mul,
                         .samples = binary_samples};
OP_CLASS(qlinear_sigmoid) = {.type = "QLinearSigmoid", MICROSOFT, .doc = "Sigmoid of affine 8-bit values.",
                             .in_min = 4, .in_max = 5, .infer = infer_unary, .forward = forward_sigmoid,
                             .couple = couple_unary, .samples = unary_samples};
OP_CLASS(qlinear_leaky_relu) = {.type = "QLinearLeakyRelu", MICROSOFT, .doc = "LeakyRelu of affine 8-bit values.",
                                .in_min = 4, .in_max = 5, .attrs = leaky_attrs,
                                .attrs_size = sizeof(struct alpha_attrs), .infer = infer_unary,
                                .couple = couple_unary, .forward = forward_leaky, .samples = unary_samples};
OP_CLASS(qlinear_where) = {.type = "QLinearWhere", MICROSOFT, .doc = "Choice between two affine 8-bit tensors.",
                           .in_min = 9, .in_max = 9, .infer = infer_where, .forward = forward_where,
                           .couple = couple_where, .samples = where_samples};
OP_CLASS(qlinear_concat) = {.type = "QLinearConcat", MICROSOFT,
                            .doc = "Affine 8-bit tensors joined along an axis, each rescaled.", .in_min = 5,
                            .in_max = -1, .attrs = concat_attrs, .attrs_size = sizeof(struct axis_attrs),
                            .infer = infer_concat, .couple = couple_concat,
                            .forward = forward_concat, .samples = concat_samples};
OP_CLASS(qlinear_softmax) = {.type = "QLinearSoftmax", MICROSOFT, .doc = "Softmax of affine 8-bit values.",
                             .in_min = 5, .in_max = 5, .attrs = softmax_attrs,
                             .attrs_size = sizeof(struct axis_attrs), .infer = infer_softmax,
                             .couple = couple_softmax, .forward = forward_softmax, .samples = softmax_samples};
