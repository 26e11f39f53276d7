/* SPDX-License-Identifier: Apache-2.0
 * QConv and QMatMul, made by fuse_qlayout only: integer products with packed constant weights (kernels/qconv.h).
 *   QConv    X [N, H, W, C] of bytes;  W packed;  B int32, optional;  M float32: what a sum is multiplied by
 *            Y [N, OH, OW, channels] of bytes
 *   QMatMul  X [..., depth] of bytes, or of floats that are quantized by their range first (`dynamic`: M is the weight's
 *            scale then);  W packed;  B;  M;  F float32, added to a float result, optional
 *            Y [..., columns] of bytes, or of floats (`to_float`)
 * B, M and F are spread and padded as qconv_spread does. Bytes are int8 where x_signed, y_signed say so. */
#include <inttypes.h>

#include "core/kernels/qconv.h"
#include "core/ops/quantize.h"
#include "core/ops/sliding.h"

struct q_attrs {
    struct sliding_attrs s;
    int64_t channels_in, channels_out, group, x_zero, y_zero, low, high;
    bool y_signed, to_float, dynamic;
};
#define Q_ATTRS                                                                                                        \
    {OP_ATTR(q_attrs, channels_in), .kind = OP_INT, .required = true},                                                 \
        {OP_ATTR(q_attrs, channels_out), .kind = OP_INT, .required = true},                                            \
        {OP_ATTR(q_attrs, x_zero), .kind = OP_INT}, {OP_ATTR(q_attrs, y_zero), .kind = OP_INT},                        \
        {OP_ATTR(q_attrs, low), .kind = OP_INT}, {OP_ATTR(q_attrs, high), .kind = OP_INT},                             \
    {                                                                                                                  \
        OP_ATTR(q_attrs, y_signed), .kind = OP_BOOL                                                                    \
    }
static const struct op_attr conv_attrs[] = {
    SLIDING_ATTRS(q_attrs), Q_ATTRS, {OP_ATTR(q_attrs, group), .kind = OP_INT, .def = 1}, {NULL}};
static const struct op_attr matmul_attrs[] = {Q_ATTRS,
                                              {OP_ATTR(q_attrs, to_float), .kind = OP_BOOL},
                                              {OP_ATTR(q_attrs, dynamic), .kind = OP_BOOL},
                                              {NULL}};

static struct qconv base_of(const struct q_attrs *a, enum dtype x, enum dtype w)
{
    return (struct qconv){.c_in = a->channels_in,
                          .c_out = a->channels_out,
                          .groups = 1,
                          .kernel_h = 1,
                          .kernel_w = 1,
                          .stride_h = 1,
                          .stride_w = 1,
                          .dilation_h = 1,
                          .dilation_w = 1,
                          .x_signed = x == DTYPE_INT8,
                          .x_zero = (int32_t)a->x_zero,
                          .wide = w == DTYPE_INT16,
                          .out = {.end = a->to_float ? QGEMM_FLOAT : QGEMM_BYTES,
                                  .is_signed = a->y_signed,
                                  .zero = (int32_t)a->y_zero,
                                  .low = (int32_t)a->low,
                                  .high = (int32_t)a->high}};
}

static int check_attrs(const struct q_attrs *a, struct err *err)
{
    const int64_t least = a->y_signed ? -128 : 0, most = least + 255;
    if (a->channels_in < 1 || a->channels_out < 1 || a->channels_in > INT32_MAX || a->channels_out > INT32_MAX)
        return err_set(err, ERR_MODEL, "channels are %" PRId64 " and %" PRId64 "; they must be in [1, 2147483647]",
                       a->channels_in, a->channels_out);
    if (a->x_zero < -128 || a->x_zero > 255 ||
        (!a->to_float && (a->y_zero < least || a->y_zero > most || a->low < least || a->high > most)))
        return err_set(err, ERR_MODEL, "a zero point or bound lies outside the 8-bit type");
    return 0;
}

/* The packed inputs have exactly the sizes the kernel reads. */
static int check_packed(const struct infer_ctx *c, const struct qconv *q, struct err *err)
{
    const int64_t want[] = {-1, qconv_packed_count(q), qconv_padded(q), qconv_padded(q), qconv_padded(q)};
    static const enum dtype dtypes[] = {DTYPE_NONE, DTYPE_NONE, DTYPE_INT32, DTYPE_FLOAT, DTYPE_FLOAT};
    char text[SHAPE_TEXT];

    if (!infer_has(c, 1) || !infer_has(c, 3) || want[1] < 0)
        return err_set(err, ERR_MODEL, "the packed weight or the multipliers are missing");
    const enum dtype w = op_dtype(c, 1);
    if (w != DTYPE_INT8 && w != DTYPE_INT16)
        return err_set(err, ERR_MODEL, "the packed weight is %s; it must be int8 or int16", dtype_name(w));
    if (qconv_is_depthwise(q) && w != DTYPE_INT16)
        return err_set(err, ERR_MODEL, "a depthwise weight must be packed as int16");
    for (int i = 1; i < 5 && i < c->n_in; i++) {
        if (!infer_has(c, i))
            continue;
        if ((i > 1 && op_dtype(c, i) != dtypes[i]) || !shape_equal(infer_shape(c, i), &SHAPE(want[i])))
            return err_set(err, ERR_SHAPE, "input #%d is %s %s; it must have %" PRId64 " values", i,
                           dtype_name(op_dtype(c, i)), shape_text(infer_shape(c, i), text), want[i]);
    }
    return 0;
}

static void connect(const struct run_ctx *c, struct qconv *q)
{
    const struct tensor *bias = run_in(c, 2), *float_bias = run_in(c, 4);
    q->out.bias = bias ? bias->data : NULL;
    q->out.multiplier = c->in[3]->data;
    q->out.float_bias = float_bias ? float_bias->data : NULL;
}

static int run(struct run_ctx *c, const struct qconv *q, const void *x, struct err *err)
{
    size_t bytes;
    if (!qconv_scratch(q, c->pool ? pool_threads(c->pool) : 1, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the product's working buffer would overflow the address space");
    void *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    qconv(c->pool, q, x, c->in[1]->data, c->out[0]->data, scratch);
    return 0;
}

/* ---- QConv ---- */
static int resolve(const struct q_attrs *a, const struct shape *x, struct qconv *q, struct err *err)
{
    const struct shape image = SHAPE(x->dim[0], x->dim[3], x->dim[1], x->dim[2]);
    struct window w;

    if (sliding_resolve(&w, &a->s, &image, NULL, false, err) < 0)
        return -1;
    q->batch = x->dim[0];
    q->groups = a->group;
    q->in_h = w.in[0], q->in_w = w.in[1], q->out_h = w.out[0], q->out_w = w.out[1];
    q->kernel_h = w.kernel[0], q->kernel_w = w.kernel[1];
    q->stride_h = w.stride[0], q->stride_w = w.stride[1];
    q->dilation_h = w.dilation[0], q->dilation_w = w.dilation[1];
    q->pad_top = w.pad[0], q->pad_left = w.pad[1];
    return 0;
}

static int infer_conv(struct infer_ctx *c, struct err *err)
{
    const struct q_attrs *a = c->attrs;
    struct shape out = SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN, a->channels_out);

    if (op_need(c, 2, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || check_attrs(a, err) < 0)
        return -1;
    if (a->group < 1 || a->channels_in % a->group || a->channels_out % a->group)
        return err_set(err, ERR_MODEL, "attribute 'group' is %" PRId64 "; it must divide both numbers of channels",
                       a->group);
    const struct shape *x = infer_shape(c, 0);
    struct qconv q = base_of(a, op_dtype(c, 0), op_dtype(c, 1));
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (x->rank != 4 || x->dim[3] != a->channels_in)
            return err_set(err, ERR_SHAPE, "the input must be an image with %" PRId64 " channels as its last axis",
                           a->channels_in);
        if (resolve(a, x, &q, err) < 0 || check_packed(c, &q, err) < 0)
            return -1;
        out = SHAPE(q.batch, q.out_h, q.out_w, a->channels_out);
    }
    infer_out(c, 0, a->y_signed ? DTYPE_INT8 : DTYPE_UINT8, &out);
    return 0;
}

static int forward_conv(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_conv, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    struct qconv q = base_of(c->attrs, c->in[0]->dtype, c->in[1]->dtype);
    if (resolve(c->attrs, &c->in[0]->shape, &q, err) < 0)
        return -1;
    connect(c, &q);
    return run(c, &q, c->in[0]->data, err);
}

/* As Conv counts them. */
static void cost_conv(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct q_attrs *a = c->attrs;
    const int64_t outputs = shape_count(&c->out[0].shape);
    cost->macs = -1;
    if (a->s.kernel_shape.count != 2 || outputs < 0)
        return;
    int64_t taps;
    if (!i64_mul(a->s.kernel_shape.at[0], a->s.kernel_shape.at[1], &taps) ||
        !i64_mul(taps, a->channels_in / a->group, &taps) || !i64_mul(taps, outputs, &cost->macs))
        cost->macs = -1;
}

/* ---- QMatMul ---- */
static int infer_matmul(struct infer_ctx *c, struct err *err)
{
    const struct q_attrs *a = c->attrs;

    if (op_need(c, 2, err) < 0 || check_attrs(a, err) < 0)
        return -1;
    if (!a->dynamic && quantize_want_8bit(c, 0, err) < 0)
        return -1;
    if (a->dynamic && op_dtype(c, 0) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_FLOAT)
        return err_set(err, ERR_MODEL, "the input is %s; it must be float32", dtype_name(op_dtype(c, 0)));
    struct shape out = *infer_shape(c, 0);
    const struct qconv q = base_of(a, op_dtype(c, 0), op_dtype(c, 1));
    if (out.rank == 0 || (out.rank > 0 && out.dim[out.rank - 1] >= 0 && out.dim[out.rank - 1] != a->channels_in))
        return err_set(err, ERR_SHAPE, "the input's last axis must have size %" PRId64, a->channels_in);
    if (check_packed(c, &q, err) < 0)
        return -1;
    if (out.rank > 0)
        out.dim[out.rank - 1] = a->channels_out;
    infer_out(c, 0, a->to_float ? DTYPE_FLOAT : a->y_signed ? DTYPE_INT8 : DTYPE_UINT8, &out);
    return 0;
}

/* The scale of x is known only now. */
static int quantize_input(struct run_ctx *c, struct qconv *q, const void **x, struct err *err)
{
    const int64_t n = tensor_count(c->in[0]), padded = qconv_padded(q);
    struct q8 param;
    size_t bytes;

    uint8_t *out = run_scratch(c, (size_t)n, err);
    float *multiplier =
        out && size_mul((size_t)padded, sizeof *multiplier, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!multiplier)
        return err->code ? -1 : err_set(err, ERR_MODEL_TOO_LARGE, "the multipliers overflow the address space");
    quantize_dynamic(c->pool, c->in[0]->data, n, out, &param);
    for (int64_t i = 0; i < padded; i++)
        multiplier[i] = q->out.multiplier[i] * param.scale;
    q->out.multiplier = multiplier;
    q->x_zero = param.zero;
    *x = out;
    return 0;
}

static int forward_matmul(struct run_ctx *c, struct err *err)
{
    const struct q_attrs *a = c->attrs;
    const void *x;

    if (op_outputs(c, infer_matmul, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    struct qconv q = base_of(a, c->in[0]->dtype, c->in[1]->dtype);
    q.batch = q.in_w = q.out_w = 1;
    q.in_h = q.out_h = tensor_count(c->in[0]) / a->channels_in;
    connect(c, &q);
    x = c->in[0]->data;
    if (a->dynamic && quantize_input(c, &q, &x, err) < 0)
        return -1;
    return run(c, &q, x, err);
}

static void cost_matmul(const struct infer_ctx *c, struct op_cost *cost)
{
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (outputs < 0 || !i64_mul(outputs, ((const struct q_attrs *)c->attrs)->channels_in, &cost->macs))
        cost->macs = -1;
}

#define ROW(type_, doc_, name, max_)                                                                                   \
    {                                                                                                                  \
        .type = type_, .domain = OP_DOMAIN_ENGINE, .since = 1, .doc = doc_, .in_min = 4, .in_max = max_, .out_min = 1, \
        .out_max = 1, .attrs = name##_attrs, .attrs_size = sizeof(struct q_attrs), .infer = infer_##name,              \
        .forward = forward_##name, .cost = cost_##name, .internal = true                                               \
    }
OP_CLASS(engine_qconv) = ROW("QConv", "Integer convolution of an image with its channels last, packed weights.", conv,
                             4);
OP_CLASS(engine_qmatmul) = ROW("QMatMul", "Integer matrix product with a packed right side.", matmul, 5);
