/* SPDX-License-Identifier: Apache-2.0
 * Products of 8-bit tensors. MatMulInteger and ConvInteger give exact int32 sums of (a - a_zero) * (b - b_zero).
 * QLinearMatMul and QLinearConv scale the sums back to 8 bits: y = saturate(round(sum * a_scale * b_scale / y_scale)
 * + y_zero), in float32 as ONNX Runtime does. Zero points and scales: one value, or one for each output channel of a
 * weight (conv: first axis; matmul: columns of B, rows of A). */
#include <inttypes.h>

#include "core/kernels/conv_i8.h"
#include "core/kernels/gemm_i8.h"
#include "core/ops/matmul_shape.h"
#include "core/ops/product_coupling.h"
#include "core/ops/quantize.h"
#include "core/ops/sliding.h"

struct conv_attrs {
    struct sliding_attrs s;
    int64_t group;
};
static const struct op_attr conv_attrs[] = {
    SLIDING_ATTRS(conv_attrs), {OP_ATTR(conv_attrs, group), .kind = OP_INT, .def = 1}, {NULL}};

/* ---- matmul ---- */
/* Where the operands stand: MatMulInteger (A, B, a_zero, b_zero), QLinearMatMul (a, a_scale, a_zero, b, b_scale,
 * b_zero, ...). */
struct places {
    int a, a_scale, a_zero, b, b_scale, b_zero;
};
static const struct places integer_places = {0, -1, 2, 1, -1, 3}, qlinear_places = {0, 1, 2, 3, 4, 5};

/* The per-row / per-column rule for a zero point or scale. */
static int check_line(const struct infer_ctx *c, int i, const char *name, const struct shape *of, int from_end,
                      struct err *err)
{
    const int64_t lines = of->rank >= from_end && of->rank > 0 ? of->dim[of->rank - from_end] : DIM_UNKNOWN;
    return i < 0 ? 0 : quantize_check_count(c, i, name, lines, err);
}

static int check_matmul(const struct infer_ctx *c, const struct places *p, struct shape *out, struct err *err)
{
    if (quantize_want_8bit(c, p->a, err) < 0 || quantize_want_8bit(c, p->b, err) < 0)
        return -1;
    const struct shape *a = infer_shape(c, p->a), *b = infer_shape(c, p->b);
    if (matmul_output(a, b, out, err) < 0 || check_line(c, p->a_zero, "a_zero_point", a, 2, err) < 0 ||
        check_line(c, p->a_scale, "a_scale", a, 2, err) < 0 ||
        check_line(c, p->b_zero, "b_zero_point", b, 1, err) < 0 || check_line(c, p->b_scale, "b_scale", b, 1, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        const int zero = i ? p->b_zero : p->a_zero, of = i ? p->b : p->a;
        if (infer_has(c, zero) && op_dtype(c, zero) != DTYPE_NONE && op_dtype(c, of) != DTYPE_NONE &&
            op_dtype(c, zero) != op_dtype(c, of))
            return err_set(err, ERR_MODEL, "input #%d is %s but its zero point is %s; they must have the same type", of,
                           dtype_name(op_dtype(c, of)), dtype_name(op_dtype(c, zero)));
    }
    return 0;
}

static int infer_matmul_integer(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 2, err) < 0 || check_matmul(c, &integer_places, &out, err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_INT32, &out);
    return 0;
}

static int infer_qlinear_matmul(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 8, err) < 0 || check_matmul(c, &qlinear_places, &out, err) < 0 ||
        quantize_want_8bit(c, 7, err) < 0 || quantize_check_count(c, 6, "y_scale", 1, err) < 0 ||
        quantize_check_count(c, 7, "y_zero_point", 1, err) < 0)
        return -1;
    infer_out(c, 0, c->in[7]->dtype, &out);
    return 0;
}

static int sums_of_matmul(struct run_ctx *c, const struct places *at, const struct matmul_plan *p, int32_t *sum,
                          struct err *err)
{
    const struct tensor *a = c->in[at->a], *b = c->in[at->b];
    int64_t a_zeros, b_zeros;
    const int32_t *a_zero = quantize_zeros(c, run_in(c, at->a_zero), &a_zeros, err);
    const int32_t *b_zero = quantize_zeros(c, run_in(c, at->b_zero), &b_zeros, err);

    if (!a_zero || !b_zero)
        return -1;
    const struct gemm_i8 g = {.m = p->m,
                              .n = p->n,
                              .k = p->k,
                              .lda = p->k,
                              .ldb = p->n,
                              .ldc = p->n,
                              .a_signed = a->dtype == DTYPE_INT8,
                              .b_signed = b->dtype == DTYPE_INT8,
                              .a_zero = a_zero,
                              .b_zero = b_zero,
                              .a_zero_rows = a_zeros > 1,
                              .b_zero_columns = b_zeros > 1};
    for (int64_t i = 0; i < p->count; i++)
        gemm_i8(c->pool, &g, (const char *)a->data + p->a_at[i], (const char *)b->data + p->b_at[i],
                sum + i * p->m * p->n);
    return 0;
}

static bool one_value(const struct run_ctx *c, int i)
{
    return i < 0 || !run_in(c, i) || tensor_count(c->in[i]) == 1;
}

static int forward_matmul_integer(struct run_ctx *c, struct err *err)
{
    struct matmul_plan p;

    if (op_outputs(c, infer_matmul_integer, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    if (matmul_plan(c, &c->in[0]->shape, &c->in[1]->shape, one_value(c, 2), &p, err) < 0)
        return -1;
    return sums_of_matmul(c, &integer_places, &p, c->out[0]->data, err);
}

static void *scratch_of(struct run_ctx *c, int64_t count, size_t elem, struct err *err)
{
    size_t bytes;
    if (count < 0 || !size_mul((size_t)count, elem, &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the integer sums would overflow the address space");
        return NULL;
    }
    return run_scratch(c, bytes ? bytes : 1, err);
}

static float scale_at(const struct tensor *t, int64_t i)
{
    return (float)dtype_get(t->dtype, t->data, tensor_count(t) > 1 ? i : 0);
}

/* Requantize a matrix whose columns may have scales of their own: column by column scales need one multiplier a
 * value, so the rows are handled as lines of length 1 then. */
static int forward_qlinear_matmul(struct run_ctx *c, struct err *err)
{
    struct matmul_plan p;

    if (op_outputs(c, infer_qlinear_matmul, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct tensor *a_scale = c->in[1], *b_scale = c->in[4], *y_scale = c->in[6], *y_zero = c->in[7];
    const bool flat = one_value(c, 1) && one_value(c, 2);
    if (matmul_plan(c, &c->in[0]->shape, &c->in[3]->shape, flat, &p, err) < 0)
        return -1;
    const bool by_value = tensor_count(b_scale) > 1;
    const int64_t cycle = by_value ? p.m * p.n : p.m, n = by_value ? 1 : p.n;
    int32_t *sum = scratch_of(c, tensor_count(y), sizeof *sum, err);
    float *multiplier = scratch_of(c, cycle, sizeof *multiplier, err);
    if (!sum || !multiplier || sums_of_matmul(c, &qlinear_places, &p, sum, err) < 0)
        return -1;
    for (int64_t i = 0; i < cycle; i++)
        multiplier[i] = scale_at(a_scale, by_value ? i / p.n : i) * scale_at(b_scale, by_value ? i % p.n : 0) /
                        scale_at(y_scale, 0);
    struct requantize q = {.sum = sum,
                           .out = y->data,
                           .out_signed = y->dtype == DTYPE_INT8,
                           .zero = (int32_t)dtype_get_i64(y_zero->dtype, y_zero->data, 0),
                           .multiplier = multiplier,
                           .rows = tensor_count(y) / n,
                           .cycle = cycle,
                           .n = n};
    quantize_sums(c->pool, &q);
    return 0;
}

static void cost_at(const struct infer_ctx *c, const struct shape *w, bool conv, struct op_cost *cost)
{
    const int64_t depth = conv ? shape_product(w, 1, w->rank) : w->dim[w->rank == 1 ? 0 : w->rank - 2];
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (depth < 0 || outputs < 0 || !i64_mul(depth, outputs, &cost->macs))
        cost->macs = -1;
}

static void cost_matmul_integer(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_at(c, infer_shape(c, 1), false, cost);
}

static void cost_qlinear_matmul(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_at(c, infer_shape(c, 3), false, cost);
}

/* ---- convolution ---- */
static int resolve(const struct conv_attrs *a, const struct shape *x, const struct shape *w, struct conv *cv,
                   struct err *err)
{
    int64_t channels;

    if (x->rank != w->rank)
        return err_set(err, ERR_SHAPE, "the input has %d axes and the weight %d; they must have the same number",
                       x->rank, w->rank);
    if (a->group < 1 || (w->dim[0] >= 0 && w->dim[0] % a->group))
        return err_set(err, ERR_MODEL,
                       "attribute 'group' is %" PRId64 "; it must be positive and divide the %" PRId64
                       " output channels",
                       a->group, w->dim[0]);
    if (x->dim[1] >= 0 && w->dim[1] >= 0 && (!i64_mul(w->dim[1], a->group, &channels) || channels != x->dim[1]))
        return err_set(err, ERR_SHAPE,
                       "the input has %" PRId64 " channels; the weight takes %" PRId64 " in each of %" PRId64 " groups",
                       x->dim[1], w->dim[1], a->group);
    *cv = (struct conv){.batch = x->dim[0], .c_in = x->dim[1], .c_out = w->dim[0], .groups = a->group};
    return sliding_resolve(&cv->w, &a->s, x, w->dim + 2, false, err);
}

static int check_conv(const struct infer_ctx *c, int xi, int wi, struct shape *out, struct err *err)
{
    struct conv cv;

    *out = SHAPE_UNKNOWN;
    if (quantize_want_8bit(c, xi, err) < 0 || quantize_want_8bit(c, wi, err) < 0 || sliding_rank(c, xi, err) < 0 ||
        sliding_rank(c, wi, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, xi), *w = infer_shape(c, wi);
    if (x->rank == SHAPE_UNKNOWN_RANK || w->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (resolve(c->attrs, x, w, &cv, err) < 0)
        return -1;
    *out = sliding_output(&cv.w, x->dim[0], w->dim[0]);
    return 0;
}

static int64_t output_channels(const struct infer_ctx *c, int wi)
{
    return infer_shape(c, wi)->rank > 0 ? infer_shape(c, wi)->dim[0] : DIM_UNKNOWN;
}

static int infer_conv_integer(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 2, err) < 0 || check_conv(c, 0, 1, &out, err) < 0 ||
        quantize_check_count(c, 2, "x_zero_point", 1, err) < 0 ||
        quantize_check_count(c, 3, "w_zero_point", output_channels(c, 1), err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_INT32, &out);
    return 0;
}

static int infer_qlinear_conv(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 8, err) < 0 || check_conv(c, 0, 3, &out, err) < 0 || quantize_want_8bit(c, 7, err) < 0)
        return -1;
    const int64_t channels = output_channels(c, 3);
    if (quantize_check_count(c, 1, "x_scale", 1, err) < 0 || quantize_check_count(c, 2, "x_zero_point", 1, err) < 0 ||
        quantize_check_count(c, 4, "w_scale", channels, err) < 0 ||
        quantize_check_count(c, 5, "w_zero_point", channels, err) < 0 ||
        quantize_check_count(c, 6, "y_scale", 1, err) < 0 || quantize_check_count(c, 7, "y_zero_point", 1, err) < 0)
        return -1;
    if (infer_has(c, 8) && op_dtype(c, 8) != DTYPE_NONE && op_dtype(c, 8) != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "the bias is %s; it must be int32", dtype_name(op_dtype(c, 8)));
    if (infer_has(c, 8) && shape_known(infer_shape(c, 8)) && channels >= 0 &&
        shape_count(infer_shape(c, 8)) != channels)
        return err_set(err, ERR_SHAPE,
                       "the bias has %" PRId64 " values; it must have one for each of the %" PRId64 " output channels",
                       shape_count(infer_shape(c, 8)), channels);
    infer_out(c, 0, c->in[7]->dtype, &out);
    return 0;
}

/* Sums of the convolution of inputs x, w with zero points xz, wz (input indices) into `sum`. */
static int sums_of_conv(struct run_ctx *c, int x, int xz, int w, int wz, int32_t *sum, struct err *err)
{
    struct conv_i8 cv = {.x_signed = c->in[x]->dtype == DTYPE_INT8, .w_signed = c->in[w]->dtype == DTYPE_INT8};
    int64_t x_zeros, w_zeros;
    size_t bytes;

    if (resolve(c->attrs, &c->in[x]->shape, &c->in[w]->shape, &cv.shape, err) < 0)
        return -1;
    const int32_t *x_zero = quantize_zeros(c, run_in(c, xz), &x_zeros, err);
    cv.w_zero = quantize_zeros(c, run_in(c, wz), &w_zeros, err);
    if (!x_zero || !cv.w_zero)
        return -1;
    cv.x_zero = x_zero[0];
    cv.w_zero_channels = w_zeros > 1;
    if (!conv_i8_scratch(&cv, c->pool ? pool_threads(c->pool) : 1, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the convolution's working buffer would overflow the address space");
    void *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    conv_i8(c->pool, &cv, c->in[x]->data, c->in[w]->data, sum, scratch);
    return 0;
}

static int forward_conv_integer(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_conv_integer, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    return sums_of_conv(c, 0, 2, 1, 3, c->out[0]->data, err);
}

static int forward_qlinear_conv(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_qlinear_conv, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    const struct tensor *bias = run_in(c, 8), *y_zero = c->in[7];
    if (!y || tensor_count(y) == 0)
        return 0;
    const int64_t channels = y->shape.dim[1], n = shape_product(&y->shape, 2, y->shape.rank);
    int32_t *sum = scratch_of(c, tensor_count(y), sizeof *sum, err);
    float *multiplier = scratch_of(c, channels, sizeof *multiplier, err);
    if (!sum || !multiplier || sums_of_conv(c, 0, 2, 3, 5, sum, err) < 0)
        return -1;
    for (int64_t i = 0; i < channels; i++)
        multiplier[i] = scale_at(c->in[1], 0) * scale_at(c->in[4], i) / scale_at(c->in[6], 0);
    struct requantize q = {.sum = sum,
                           .out = y->data,
                           .out_signed = y->dtype == DTYPE_INT8,
                           .zero = (int32_t)dtype_get_i64(y_zero->dtype, y_zero->data, 0),
                           .multiplier = multiplier,
                           .bias = bias ? bias->data : NULL,
                           .rows = y->shape.dim[0] * channels,
                           .cycle = channels,
                           .n = n};
    quantize_sums(c->pool, &q);
    return 0;
}

static void cost_conv_integer(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_at(c, infer_shape(c, 1), true, cost);
}

static void cost_qlinear_conv(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_at(c, infer_shape(c, 3), true, cost);
}

/* ---- coupling ---- */
static void couple_product(struct coupling *k, const struct places *p)
{
    const int of_a[] = {p->a_zero, p->a_scale}, of_b[] = {p->b_zero, p->b_scale};
    couple_matmul(k, (struct couple_operand){IN(p->a), false, false}, (struct couple_operand){IN(p->b), false, false});
    for (int i = 0; i < 2; i++) {
        if (of_a[i] >= 0)
            couple_vector(k, of_a[i], IN(p->a), -2);
        if (of_b[i] >= 0)
            couple_vector(k, of_b[i], IN(p->b), -1);
    }
}

static int couple_matmul_integer(struct coupling *k, struct err *err)
{
    (void)err;
    couple_product(k, &integer_places);
    return 0;
}

static int couple_qlinear_matmul(struct coupling *k, struct err *err)
{
    (void)err;
    couple_product(k, &qlinear_places);
    return 0;
}

static int couple_conv_integer(struct coupling *k, struct err *err)
{
    (void)err;
    couple_conv(k, IN(0), IN(1), ((const struct conv_attrs *)couple_attrs(k))->group);
    couple_vector(k, 3, OUT(0), 1);
    return 0;
}

static int couple_qlinear_conv(struct coupling *k, struct err *err)
{
    (void)err;
    couple_conv(k, IN(0), IN(3), ((const struct conv_attrs *)couple_attrs(k))->group);
    couple_vector(k, 4, OUT(0), 1);
    couple_vector(k, 5, OUT(0), 1);
    couple_vector(k, 8, OUT(0), 1);
    return 0;
}

static int shrink_conv(struct shrink *s, struct err *err)
{
    return shrink_conv_group(s, IN(0), ((const struct conv_attrs *)s->infer->attrs)->group, err);
}

/* ---- rows ---- */
static const struct op_sample matmul_integer_samples[] = {
    {"u8[3,5] u8[5,4]", NULL}, {"u8[2,3,5] !i8[5,4] u8[]=3 i8[]=1", NULL}, {NULL}};
static const struct op_sample qlinear_matmul_samples[] = {
    {"u8[3,5] f32[]=0.02 u8[]=3 !u8[5,4] f32[]=0.05 u8[]=4 f32[]=0.0317 u8[]=10", NULL},
    {"i8[2,3,5] f32[]=0.02 i8[]=3 !i8[5,4] f32[]=0.05 i8[]=4 f32[]=0.0317 i8[]=10", NULL},
    {NULL}};
static const struct op_sample conv_integer_samples[] = {
    {"u8[1,3,7,8] !u8[4,3,3,3] u8[]=3", "pads=1,1,1,1"},
    {"u8[2,4,7,8] !u8[6,2,3,3] u8[]=3 u8[]=2", "group=2 strides=2,2"},
    {NULL}};
static const struct op_sample qlinear_conv_samples[] = {
    {"u8[1,3,7,8] f32[]=0.02 u8[]=3 !i8[4,3,3,3] f32[4]=0.05,0.03,0.02,0.04 i8[4]=0,0,0,0 f32[]=0.0317 u8[]=10 !i32[4]",
     "pads=1,1,1,1"},
    {"u8[2,4,7,8] f32[]=0.02 u8[]=3 !u8[4,1,3,3] f32[]=0.05 u8[]=4 f32[]=0.0317 u8[]=10", "group=4 strides=2,2"},
    {NULL}};

OP_CLASS(matmul_integer) = {.type = "MatMulInteger",
                            .domain = "",
                            .since = 10,
                            .doc = "Exact product of 8-bit matrices in int32.",
                            .in_min = 2,
                            .in_max = 4,
                            .out_min = 1,
                            .out_max = 1,
                            .infer = infer_matmul_integer,
                            .couple = couple_matmul_integer,
                            .forward = forward_matmul_integer,
                            .cost = cost_matmul_integer,
                            .samples = matmul_integer_samples};
OP_CLASS(qlinear_matmul) = {.type = "QLinearMatMul",
                            .domain = "",
                            .since = 10,
                            .doc = "Product of 8-bit matrices, scaled back to 8 bits.",
                            .in_min = 8,
                            .in_max = 8,
                            .out_min = 1,
                            .out_max = 1,
                            .infer = infer_qlinear_matmul,
                            .couple = couple_qlinear_matmul,
                            .forward = forward_qlinear_matmul,
                            .cost = cost_qlinear_matmul,
                            .samples = qlinear_matmul_samples};
OP_CLASS(conv_integer) = {.type = "ConvInteger",
                          .domain = "",
                          .since = 10,
                          .doc = "Exact convolution of 8-bit tensors in int32.",
                          .in_min = 2,
                          .in_max = 4,
                          .out_min = 1,
                          .out_max = 1,
                          .attrs = conv_attrs,
                          .attrs_size = sizeof(struct conv_attrs),
                          .infer = infer_conv_integer,
                          .couple = couple_conv_integer,
                          .shrink = shrink_conv,
                          .forward = forward_conv_integer,
                          .cost = cost_conv_integer,
                          .samples = conv_integer_samples};
OP_CLASS(qlinear_conv) = {.type = "QLinearConv",
                          .domain = "",
                          .since = 10,
                          .doc = "Convolution of 8-bit tensors, scaled back to 8 bits.",
                          .in_min = 8,
                          .in_max = 9,
                          .out_min = 1,
                          .out_max = 1,
                          .attrs = conv_attrs,
                          .attrs_size = sizeof(struct conv_attrs),
                          .infer = infer_qlinear_conv,
                          .couple = couple_qlinear_conv,
                          .shrink = shrink_conv,
                          .forward = forward_qlinear_conv,
                          .cost = cost_qlinear_conv,
                          .samples = qlinear_conv_samples};
