/* SPDX-License-Identifier: Apache-2.0
 * ConvBlocked, made by fuse_conv only: Y = f(B + R + convolution of X by W), see kernels/conv_blocked.h.
 *   X   blocked [N, Cb, H, W, 8]; for algorithm "first" plain [N, C, H, W] or (channels_last) [N, H, W, C]
 *   W   packed weights, one axis;  B   [Mb * 8], optional;  R   of Y's shape, optional
 *   Y   blocked [N, Mb, OH, OW, 8] */
#include "core/kernels/conv_blocked.h"

#include <inttypes.h>

#include "core/ops/blocked_shape.h"
#include "core/ops/sliding.h"

struct conv_attrs {
    struct sliding_attrs s;
    int64_t channels_in, channels_out, group;
    int algorithm, activation;
    bool channels_last;
    float alpha, beta; /* the activation's a and b */
};
static const struct op_attr attr_rows[] = {
    SLIDING_ATTRS(conv_attrs),
    {OP_ATTR(conv_attrs, channels_in), .kind = OP_INT, .required = true},
    {OP_ATTR(conv_attrs, channels_out), .kind = OP_INT, .required = true},
    {OP_ATTR(conv_attrs, group), .kind = OP_INT, .def = 1},
    {OP_ATTR(conv_attrs, algorithm), .kind = OP_ENUM, .choices = conv_algorithm_names},
    {OP_ATTR(conv_attrs, activation), .kind = OP_ENUM, .choices = act_names},
    {OP_ATTR(conv_attrs, channels_last), .kind = OP_BOOL},
    {OP_ATTR(conv_attrs, alpha), .kind = OP_FLOAT},
    {OP_ATTR(conv_attrs, beta), .kind = OP_FLOAT},
    {NULL},
};

/* The input as [N, C, H, W]. */
static struct shape image_of(const struct conv_attrs *a, const struct shape *x)
{
    if (a->algorithm != CONV_FIRST)
        return blocked_image(x, a->channels_in);
    return a->channels_last ? SHAPE(x->dim[0], x->dim[3], x->dim[1], x->dim[2]) : *x;
}

static int resolve(const struct conv_attrs *a, const struct shape *x, struct conv_blocked *cv, struct err *err)
{
    const struct shape image = image_of(a, x);
    struct window w;
    if (sliding_resolve(&w, &a->s, &image, NULL, false, err) < 0)
        return -1;
    *cv = (struct conv_blocked){
        .algorithm = (enum conv_algorithm)a->algorithm, .channels_last = a->channels_last, .batch = image.dim[0],
        .c_in = a->channels_in, .c_out = a->channels_out, .groups = a->group,
        .act = {(enum act_kind)a->activation, a->alpha, a->beta},
    };
    for (int i = 0; i < 2; i++) {
        cv->in[i] = w.in[i];
        cv->out[i] = w.out[i];
        cv->kernel[i] = w.kernel[i];
        cv->stride[i] = w.stride[i];
        cv->dilation[i] = w.dilation[i];
        cv->pad[i] = w.pad[i];
    }
    if (!conv_blocked_fits(cv))
        return err_set(err, ERR_MODEL_TOO_LARGE,
                       "a convolution of %" PRId64 " x %" PRId64 " positions is beyond what blocked kernels address",
                       cv->in[0], cv->in[1]);
    return 0;
}

static int check_input(const struct infer_ctx *c, const struct conv_attrs *a, struct err *err)
{
    const struct shape *x = infer_shape(c, 0);
    char text[SHAPE_TEXT];
    if (a->channels_in < 1 || a->channels_out < 1 || a->channels_in > INT32_MAX || a->channels_out > INT32_MAX)
        return err_set(err, ERR_MODEL, "channels are %" PRId64 " and %" PRId64 "; they must be in [1, 2147483647]",
                       a->channels_in, a->channels_out);
    if (a->algorithm != CONV_FIRST)
        return blocked_check(c, 0, a->channels_in, err);
    const int64_t channels = x->rank == 4 ? x->dim[a->channels_last ? 3 : 1] : a->channels_in;
    if (x->rank != SHAPE_UNKNOWN_RANK && (x->rank != 4 || channels != a->channels_in))
        return err_set(err, ERR_SHAPE, "the input has shape %s; it must be a plain image of %" PRId64 " channels",
                       shape_text(x, text), a->channels_in);
    return 0;
}

static int check_weights(const struct infer_ctx *c, const struct conv_blocked *cv, const struct shape *out,
                         struct err *err)
{
    const int64_t wanted = conv_blocked_weights(cv), bias = blocked_count(cv->c_out) * BLOCK;
    char text[SHAPE_TEXT], want[SHAPE_TEXT];
    if (wanted < 0 || !shape_equal(infer_shape(c, 1), &SHAPE(wanted)))
        return err_set(err, ERR_SHAPE, "the packed weight has shape %s; it must be [%" PRId64 "]",
                       shape_text(infer_shape(c, 1), text), wanted);
    if (infer_has(c, 2) && !shape_equal(infer_shape(c, 2), &SHAPE(bias)))
        return err_set(err, ERR_SHAPE, "the bias has shape %s; it must be [%" PRId64 "]",
                       shape_text(infer_shape(c, 2), text), bias);
    if (infer_has(c, 3) && shape_known(infer_shape(c, 3)) && shape_known(out) && !shape_equal(infer_shape(c, 3), out))
        return err_set(err, ERR_SHAPE, "the residual has shape %s; it must be %s", shape_text(infer_shape(c, 3), text),
                       shape_text(out, want));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct conv_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    struct conv_blocked cv;
    enum dtype dtype;
    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0 || check_input(c, a, err) < 0)
        return -1;
    if (dtype != DTYPE_FLOAT && dtype != DTYPE_NONE)
        return err_set(err, ERR_OPERATOR, "blocked convolution of %s is not supported; float32 is", dtype_name(dtype));
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (resolve(a, x, &cv, err) < 0)
            return -1;
        out = SHAPE(x->dim[0], blocked_count(a->channels_out), cv.out[0], cv.out[1], BLOCK);
        if (check_weights(c, &cv, &out, err) < 0)
            return -1;
    }
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *bias = run_in(c, 2), *residual = run_in(c, 3);
    struct conv_blocked cv;
    size_t bytes;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    if (resolve(c->attrs, &x->shape, &cv, err) < 0)
        return -1;
    if (!conv_blocked_scratch(&cv, pool_threads(c->pool), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the convolution's working buffer would overflow the address space");
    void *scratch = bytes ? run_scratch(c, bytes, err) : NULL;
    if (bytes && !scratch)
        return -1;
    const struct conv_blocked_io io = {x->data, c->in[1]->data, bias ? bias->data : NULL,
                                       residual ? residual->data : NULL, y->data, scratch};
    conv_blocked_f32(c->pool, &cv, &io);
    return 0;
}

/* As Conv counts them: a product for each tap and channel, whatever the algorithm. */
static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct conv_attrs *a = c->attrs;
    const struct shape *y = &c->out[0].shape;
    cost->macs = -1;
    if (y->rank != 5 || a->s.kernel_shape.count != 2)
        return;
    const struct shape image = SHAPE(y->dim[0], a->channels_out, y->dim[2], y->dim[3]);
    int64_t taps = a->s.kernel_shape.at[0], outputs = shape_count(&image);
    if (outputs < 0 || !i64_mul(taps, a->s.kernel_shape.at[1], &taps) ||
        !i64_mul(taps, a->channels_in / a->group, &taps) || !i64_mul(taps, outputs, &cost->macs))
        cost->macs = -1;
}

OP_CLASS(conv_blocked) = {
    .type = "ConvBlocked", .domain = OP_DOMAIN_ENGINE, .since = 1,
    .doc = "Convolution of a blocked image with packed weights, a residual and an activation.",
    .in_min = 2, .in_max = 4, .out_min = 1, .out_max = 1,
    .attrs = attr_rows, .attrs_size = sizeof(struct conv_attrs),
    .infer = infer, .forward = forward, .cost = cost,
    .in_place = 1u << 3, .internal = true,
};
