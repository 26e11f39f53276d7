/* SPDX-License-Identifier: Apache-2.0
 * Conv: Y[n, m, p] = B[m] + sum over c, k of W[m, c, k] * X[n, group(m) * C/G + c, p * stride + k * dilation - pad].
 * Shapes     X [N, C, D1...Dn], W [M, C/G, k1...kn], B [M], Y [N, M, O1...On]. */
#include "core/kernels/conv_grad.h"

#include <inttypes.h>

#include "core/ops/product_coupling.h"
#include "core/ops/sliding.h"
#include "core/ops/widen.h"

struct conv_attrs {
    struct sliding_attrs s;
    int64_t group;
};

static const struct op_attr conv_attrs[] = {
    SLIDING_ATTRS(conv_attrs),
    {OP_ATTR(conv_attrs, group), .kind = OP_INT, .def = 1},
    {NULL},
};

static int check_channels(const struct shape *x, const struct shape *w, int64_t group, struct err *err)
{
    if (group < 1)
        return err_set(err, ERR_MODEL, "attribute 'group' is %" PRId64 "; it must be at least 1", group);
    if (w->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (w->dim[0] >= 0 && w->dim[0] % group != 0)
        return err_set(err, ERR_SHAPE,
                       "the weight has %" PRId64 " output channels; they must be a multiple of the %" PRId64 " groups",
                       w->dim[0], group);
    int64_t channels;
    if (x->rank == SHAPE_UNKNOWN_RANK || x->dim[1] < 0 || w->dim[1] < 0)
        return 0;
    if (!i64_mul(w->dim[1], group, &channels) || channels != x->dim[1])
        return err_set(err, ERR_SHAPE,
                       "the input has %" PRId64 " channels; the weight takes %" PRId64 " in each of %" PRId64 " groups",
                       x->dim[1], w->dim[1], group);
    return 0;
}

static int check_bias(const struct infer_ctx *c, int64_t channels, struct err *err)
{
    if (!infer_has(c, 2) || infer_shape(c, 2)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *b = infer_shape(c, 2);
    char text[SHAPE_TEXT];
    if (b->rank != 1 || (b->dim[0] >= 0 && channels >= 0 && b->dim[0] != channels))
        return err_set(err, ERR_SHAPE, "the bias has shape %s; it must be [%" PRId64 "], one value an output channel",
                       shape_text(b, text), channels);
    return 0;
}

/* The geometry for known ranks. */
static int resolve(const struct conv_attrs *a, const struct shape *x, const struct shape *w, struct conv *cv,
                   struct err *err)
{
    char x_text[SHAPE_TEXT], w_text[SHAPE_TEXT];

    if (x->rank != w->rank)
        return err_set(err, ERR_SHAPE,
                       "the input has shape %s and the weight %s; they must have the same number of axes",
                       shape_text(x, x_text), shape_text(w, w_text));
    if (sliding_resolve(&cv->w, &a->s, x, w->dim + 2, false, err) < 0)
        return -1;
    cv->batch = x->dim[0];
    cv->c_in = x->dim[1];
    cv->c_out = w->dim[0];
    cv->groups = a->group;
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct conv_attrs *a = c->attrs;
    enum dtype dtype;
    struct conv cv;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 ||
        sliding_rank(c, 0, err) < 0 || sliding_rank(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *w = infer_shape(c, 1);
    struct shape out = SHAPE_UNKNOWN;
    if (check_channels(x, w, a->group, err) < 0 || check_bias(c, w->rank > 0 ? w->dim[0] : DIM_UNKNOWN, err) < 0)
        return -1;
    if (x->rank != SHAPE_UNKNOWN_RANK && w->rank != SHAPE_UNKNOWN_RANK) {
        if (resolve(a, x, w, &cv, err) < 0)
            return -1;
        out = sliding_output(&cv.w, x->dim[0], w->dim[0]);
        sliding_symbols(c->symbols, &cv.w, &a->s, false, &out);
    }
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *w = c->in[1], *b = run_in(c, 2);
    struct tensor *y = run_out(c, 0);
    struct conv cv;
    size_t bytes;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (resolve(c->attrs, &x->shape, &w->shape, &cv, err) < 0)
        return -1;
    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR,
                       "convolution of %s is not supported; float32, float64, float16 and bfloat16 are",
                       dtype_name(x->dtype));
    if (!conv_scratch(&cv, x->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double),
                      c->pool ? pool_threads(c->pool) : 1, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the convolution's working buffer would overflow the address space");
    void *scratch = bytes ? run_scratch(c, bytes, err) : NULL;
    if (bytes && !scratch)
        return -1;
    if (x->dtype == DTYPE_FLOAT)
        conv_f32(c->pool, &cv, x->data, w->data, b ? b->data : NULL, y->data, scratch);
    else
        conv_f64(c->pool, &cv, x->data, w->data, b ? b->data : NULL, y->data, scratch);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward ---- */
static int back_data(struct grad_ctx *c, const struct conv *cv, size_t elem, int lanes, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *w = c->in[1];
    struct tensor *dx = grad_wanted(c, 0);
    size_t bytes;

    if (!dx || tensor_count(dx) == 0)
        return 0;
    if (!conv_data_grad_scratch(cv, elem, lanes, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the gradient's working buffer would overflow the address space");
    void *scratch = grad_scratch(c, bytes + 1, err);
    if (!scratch)
        return -1;
    if (elem == sizeof(float))
        conv_data_grad_f32(c->pool, cv, dy->data, w->data, dx->data, !c->assign[0], scratch);
    else
        conv_data_grad_f64(c->pool, cv, dy->data, w->data, dx->data, !c->assign[0], scratch);
    return 0;
}

static int back_weight(struct grad_ctx *c, const struct conv *cv, size_t elem, int lanes, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *x = c->in[0];
    struct tensor *dw = grad_wanted(c, 1);
    size_t bytes;

    if (!dw || tensor_count(dw) == 0)
        return 0;
    if (!conv_weight_grad_scratch(cv, elem, lanes, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the gradient's working buffer would overflow the address space");
    void *scratch = grad_scratch(c, bytes + 1, err);
    if (!scratch)
        return -1;
    if (elem == sizeof(float))
        conv_weight_grad_f32(c->pool, cv, x->data, dy->data, dw->data, !c->assign[1], scratch);
    else
        conv_weight_grad_f64(c->pool, cv, x->data, dy->data, dw->data, !c->assign[1], scratch);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0);
    struct tensor *db = grad_wanted(c, 2);
    struct conv cv;

    if (!dy)
        return 0;
    if (resolve(c->attrs, &c->in[0]->shape, &c->in[1]->shape, &cv, err) < 0)
        return -1;
    const size_t elem = dy->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    const int lanes = c->pool ? pool_threads(c->pool) : 1;
    const int64_t cells = window_count(cv.w.out, cv.w.rank);
    if (db && elem == sizeof(float))
        conv_bias_grad_f32(c->pool, cv.batch, cv.c_out, cells, dy->data, db->data, !c->assign[2]);
    else if (db)
        conv_bias_grad_f64(c->pool, cv.batch, cv.c_out, cells, dy->data, db->data, !c->assign[2]);
    return back_weight(c, &cv, elem, lanes, err) < 0 || back_data(c, &cv, elem, lanes, err) < 0 ? -1 : 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *w = infer_shape(c, 1), *y = &c->out[0].shape;
    int64_t taps = shape_product(w, 1, w->rank), outputs = shape_count(y);

    if (taps < 0 || outputs < 0 || !i64_mul(taps, outputs, &cost->macs))
        cost->macs = -1;
}

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    couple_conv(k, IN(0), IN(1), ((const struct conv_attrs *)couple_attrs(k))->group);
    couple_vector(k, 2, OUT(0), 1);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    return shrink_conv_group(s, IN(0), ((const struct conv_attrs *)s->infer->attrs)->group, err);
}

static const struct op_sample conv_samples[] = {
    {"f32[1,3,7,8] !f32[4,3,3,3] !f32[4]", "kernel_shape=3,3 pads=1,1,1,1"},
    {"f32[2,4,9,7] !f32[6,2,3,2]", "group=2 strides=2,1 pads=1,0,2,1 dilations=1,2"},
    {"f32[2,6,8,8] !f32[6,1,3,3] !f32[6]", "group=6 pads=1,1,1,1 strides=2,2"},
    {"f32[1,4,5,5] !f32[8,1,3,3]", "group=4"},
    {"f32[1,6,5,5] !f32[3,2,3,3] !f32[3]", "group=3"},
    {"f32[1,5,6,6] !f32[7,5,1,1] !f32[7]", "kernel_shape=1,1"},
    {"f32[1,2,5,6] !f32[3,2,3,3]", "auto_pad=SAME_UPPER strides=2,2"},
    {"f32[1,2,5,6] !f32[3,2,2,3]", "auto_pad=SAME_LOWER strides=1,2"},
    {"f32[1,2,5,6] !f32[3,2,3,3]", "auto_pad=VALID"},
    {"f32[2,3,10] !f32[4,3,3] !f32[4]", "pads=2,1 strides=3"},
    {"f32[1,2,4,5,6] !f32[3,2,2,3,3] !f32[3]", "pads=0,1,1,1,1,0 strides=1,2,1"},
    {"f64[1,2,6,6] !f64[3,2,3,3] !f64[3]", "pads=1,1,1,1"},
    {NULL},
};

OP_CLASS(conv) = {
    .type = "Conv", .domain = "", .since = 1,
    .doc = "N-d convolution with strides, dilations, padding and groups.",
    .in_min = 2, .in_max = 3, .out_min = 1, .out_max = 1,
    .attrs = conv_attrs, .attrs_size = sizeof(struct conv_attrs),
    .infer = infer, .forward = forward, .cost = cost, .couple = couple, .shrink = shrink,
    .backward = backward, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1), .grad_assigns = true, .grad_inputs = 7u,
    .quant = {QUANT_COMPUTE, .weight = 1, .bias = 2, .channel_axis = 0},
    .samples = conv_samples,
};
