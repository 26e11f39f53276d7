/* SPDX-License-Identifier: Apache-2.0
 * Images of bytes with their channels last, made by fuse_qlayout only:
 *   ToChannelsLast, FromChannelsLast            [N, C, H, W] <-> [N, H, W, C]
 *   QuantizeToChannelsLast                      float [N, C, H, W], scale, zero point -> bytes [N, H, W, C]
 *   DequantizeFromChannelsLast                  bytes [N, H, W, C], scale, zero point -> float [N, C, H, W]
 *   MaxPoolChannelsLast                         MaxPool of [N, H, W, C]
 *   ScaleChannelsLast                           bytes [N, H, W, C], factor [C], offset [C], zero point of the result:
 *                                               saturate(round(x * factor + offset)), the zero points being in offset */
#include "core/kernels/channels_last.h"
#include "core/ops/quantize.h"
#include "core/ops/sliding.h"

static int turned(struct infer_ctx *c, bool to_last, enum dtype dtype, struct err *err)
{
    const struct shape *x = infer_shape(c, 0);
    char text[SHAPE_TEXT];
    struct shape out = SHAPE_UNKNOWN;

    if (x->rank != SHAPE_UNKNOWN_RANK && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has shape %s; it must have four axes", shape_text(x, text));
    if (x->rank == 4)
        out = to_last ? SHAPE(x->dim[0], x->dim[2], x->dim[3], x->dim[1])
                      : SHAPE(x->dim[0], x->dim[3], x->dim[1], x->dim[2]);
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int infer_to(struct infer_ctx *c, struct err *err)
{
    return op_need(c, 1, err) < 0 || quantize_want_8bit(c, 0, err) < 0 ? -1 : turned(c, true, op_dtype(c, 0), err);
}
static int infer_from(struct infer_ctx *c, struct err *err)
{
    return op_need(c, 1, err) < 0 || quantize_want_8bit(c, 0, err) < 0 ? -1 : turned(c, false, op_dtype(c, 0), err);
}
static int want_float(const struct infer_ctx *c, struct err *err)
{
    if (op_dtype(c, 0) == DTYPE_NONE || op_dtype(c, 0) == DTYPE_FLOAT)
        return 0;
    return err_set(err, ERR_OPERATOR, "the input is %s; it must be float32", dtype_name(op_dtype(c, 0)));
}
static int infer_quantize(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 3, err) < 0 || want_float(c, err) < 0 || quantize_check_param(c, 1, 2, false, err) < 0)
        return -1;
    return turned(c, true, op_dtype(c, 2), err);
}
static int infer_dequantize(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 3, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || quantize_check_param(c, 1, 2, false, err) < 0)
        return -1;
    return turned(c, false, DTYPE_FLOAT, err);
}

/* The image whose channels-first side is t. */
static struct channels_image image_of(const struct tensor *t)
{
    return (struct channels_image){t->shape.dim[0], t->shape.dim[1], t->shape.dim[2] * t->shape.dim[3]};
}

#define DEFINE_FORWARD(name, first, call)                                                                              \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        if (op_outputs(c, infer_##name, err) < 0)                                                                      \
            return -1;                                                                                                 \
        struct tensor *y = run_out(c, 0);                                                                              \
        if (!y || tensor_count(y) == 0)                                                                                \
            return 0;                                                                                                  \
        const struct channels_image im = image_of(first);                                                              \
        call;                                                                                                          \
        return 0;                                                                                                      \
    }
DEFINE_FORWARD(to, c->in[0], channels_last_bytes(c->pool, &im, c->in[0]->data, y->data))
DEFINE_FORWARD(from, y, channels_first_bytes(c->pool, &im, c->in[0]->data, y->data))
DEFINE_FORWARD(quantize, c->in[0],
               const struct q8 q = quantize_param(c, 1, 2, y->dtype);
               channels_last_quantize(c->pool, &im, &q, c->in[0]->data, y->data))
DEFINE_FORWARD(dequantize, y,
               const struct q8 q = quantize_param(c, 1, 2, c->in[0]->dtype);
               channels_first_dequantize(c->pool, &im, &q, c->in[0]->data, y->data))

/* ---- MaxPool ---- */
struct pool_attrs {
    struct sliding_attrs s;
    bool ceil_mode;
    int64_t storage_order; /* of places, which nobody asks for here */
};
static const struct op_attr max_attrs[] = {SLIDING_ATTRS(pool_attrs),
                                           {OP_ATTR(pool_attrs, ceil_mode), .kind = OP_BOOL},
                                           {OP_ATTR(pool_attrs, storage_order), .kind = OP_INT},
                                           {NULL}};

static int resolve(const struct pool_attrs *a, const struct shape *x, struct window *w, struct err *err)
{
    const struct shape image = SHAPE(x->dim[0], x->dim[3], x->dim[1], x->dim[2]);
    return sliding_resolve(w, &a->s, &image, NULL, a->ceil_mode, err);
}

static int infer_max(struct infer_ctx *c, struct err *err)
{
    struct shape out = SHAPE_UNKNOWN;
    struct window w;

    if (op_need(c, 1, err) < 0 || quantize_want_8bit(c, 0, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (x->rank != 4)
            return err_set(err, ERR_SHAPE, "the input has %d axes; it must have four", x->rank);
        if (resolve(c->attrs, x, &w, err) < 0)
            return -1;
        out = SHAPE(x->dim[0], w.out[0], w.out[1], x->dim[3]);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_max(struct run_ctx *c, struct err *err)
{
    struct window w;
    if (op_outputs(c, infer_max, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct tensor *x = c->in[0];
    if (resolve(c->attrs, &x->shape, &w, err) < 0)
        return -1;
    channels_last_max(c->pool, &w, x->shape.dim[0], x->shape.dim[3], x->dtype == DTYPE_INT8, x->data, y->data);
    return 0;
}

/* ---- ScaleChannelsLast ---- */
static int infer_scale(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 4, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || quantize_want_8bit(c, 3, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    for (int i = 1; i < 3; i++) {
        const struct shape *s = infer_shape(c, i);
        if (op_dtype(c, i) != DTYPE_FLOAT || s->rank != 1 || (x->rank > 0 && x->dim[x->rank - 1] != s->dim[0]))
            return err_set(err, ERR_SHAPE, "input #%d must be float32, one value for each index of the last axis", i);
    }
    infer_out(c, 0, op_dtype(c, 3), x);
    return 0;
}

struct scale_job {
    struct q8 in, out;
    const float *factor, *offset;
    int64_t n;
    const uint8_t *x;
    uint8_t *y;
};

static void scale_rows(void *arg, int64_t begin, int64_t end)
{
    const struct scale_job *k = arg;
    q8_channels(&k->in, &k->out, k->factor, k->offset, end - begin, k->n, k->x + begin * k->n, k->y + begin * k->n);
}

static int forward_scale(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_scale, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    struct scale_job k = {.in = {.is_signed = c->in[0]->dtype == DTYPE_INT8}, .x = c->in[0]->data, .y = y->data,
                          .out = {.is_signed = y->dtype == DTYPE_INT8}, .factor = tensor_f32(c->in[1]),
                          .offset = tensor_f32(c->in[2]), .n = tensor_count(c->in[1])};
    op_parallel(c->pool, tensor_count(y) / k.n, i64_max(1, (1 << 15) / k.n), scale_rows, &k);
    return 0;
}

/* ---- rows ---- */
#define ROW(type_, doc_, inputs, name, ...)                                                                            \
    {                                                                                                                  \
        .type = type_, .domain = OP_DOMAIN_ENGINE, .since = 1, .doc = doc_, .in_min = inputs, .in_max = inputs,        \
        .out_min = 1, .out_max = 1, .infer = infer_##name, .forward = forward_##name, .internal = true, __VA_ARGS__    \
    }
OP_CLASS(engine_to_channels_last) = ROW("ToChannelsLast", "Bytes [N, C, H, W] as [N, H, W, C].", 1, to, .attrs = NULL);
OP_CLASS(engine_from_channels_last) = ROW("FromChannelsLast", "Bytes [N, H, W, C] as [N, C, H, W].", 1, from,
                                          .attrs = NULL);
OP_CLASS(engine_quantize_to_channels_last) = ROW("QuantizeToChannelsLast",
                                                 "QuantizeLinear into an image with its channels last.", 3, quantize,
                                                 .attrs = NULL);
OP_CLASS(engine_dequantize_from_channels_last) = ROW("DequantizeFromChannelsLast",
                                                     "DequantizeLinear of an image with its channels last.", 3,
                                                     dequantize, .attrs = NULL);
OP_CLASS(engine_max_pool_channels_last) = ROW("MaxPoolChannelsLast", "MaxPool of an image with its channels last.", 1,
                                              max, .attrs = max_attrs, .attrs_size = sizeof(struct pool_attrs));
OP_CLASS(engine_scale_channels_last) = ROW("ScaleChannelsLast", "BatchNormalization of bytes with their channels last.",
                                           4, scale, .attrs = NULL);
