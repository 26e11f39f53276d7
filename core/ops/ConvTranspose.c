/* SPDX-License-Identifier: Apache-2.0
 * ConvTranspose: X [N, C, D1...Dn], W [C, M/G, k1...kn], B [M], Y [N, M, O1...On].
 * Sizes      O = stride * (D - 1) + output_padding + (k - 1) * dilation + 1 - pads. With output_shape (or auto_pad
 *            SAME, where O = D * stride) the pads follow from the size; the odd one goes to the end for SAME_UPPER,
 *            else to the beginning. */
#include "core/kernels/conv_grad.h"
#include "core/kernels/conv_transpose.h"

#include <inttypes.h>

#include "core/ops/product_coupling.h"
#include "core/ops/sliding.h"
#include "core/ops/widen.h"

struct conv_transpose_attrs {
    struct sliding_attrs s;
    struct op_ints output_padding, output_shape;
    int64_t group;
};
static const struct op_attr conv_transpose_attrs[] = {
    SLIDING_ATTRS(conv_transpose_attrs),
    {OP_ATTR(conv_transpose_attrs, output_padding), .kind = OP_INTS},
    {OP_ATTR(conv_transpose_attrs, output_shape), .kind = OP_INTS},
    {OP_ATTR(conv_transpose_attrs, group), .kind = OP_INT, .def = 1},
    {NULL},
};

static int check_list(const struct op_ints *list, const char *name, int rank, struct err *err)
{
    if (list->count != 0 && list->count != rank)
        return err_set(err, ERR_MODEL,
                       "attribute '%s' has %d elements; the input has %d spatial axes, so it must have %d", name,
                       list->count, rank, rank);
    for (int i = 0; i < list->count; i++) {
        if (list->at[i] < 0 || list->at[i] > INT32_MAX)
            return err_set(err, ERR_MODEL,
                           "attribute '%s' has %" PRId64 " at position %d; it must be in [0, 2147483647]", name,
                           list->at[i], i);
    }
    return 0;
}

/* Output size and pads of one axis; w->out is the size of X there, w->in becomes the size of Y. */
static int resolve_axis(const struct conv_transpose_attrs *a, struct window *w, int axis, struct err *err)
{
    const int64_t extra = a->output_padding.count ? a->output_padding.at[axis] : 0;
    const bool same = a->s.auto_pad == AUTO_PAD_SAME_UPPER || a->s.auto_pad == AUTO_PAD_SAME_LOWER;
    int64_t reach, size;

    w->in[axis] = a->output_shape.count ? a->output_shape.at[axis] : DIM_UNKNOWN;
    if (w->out[axis] < 0 || w->kernel[axis] < 0)
        return 0;
    if (w->out[axis] == 0 || !i64_mul(w->out[axis] - 1, w->stride[axis], &reach) || reach > INT64_MAX / 4)
        return err_set(err, ERR_SHAPE, "spatial axis %d has size %" PRId64 ", which gives no valid output size", axis,
                       w->out[axis]);
    size = reach + extra + (w->kernel[axis] - 1) * w->dilation[axis] + 1;
    if (a->output_shape.count || same) {
        const int64_t want = a->output_shape.count ? a->output_shape.at[axis] : reach + w->stride[axis];
        const int64_t total = i64_max(size - want, 0), less = total / 2;
        w->pad[axis] = a->s.auto_pad == AUTO_PAD_SAME_UPPER ? less : total - less;
        w->pad_end[axis] = total - w->pad[axis];
        w->in[axis] = want;
    } else {
        w->in[axis] = size - w->pad[axis] - w->pad_end[axis];
    }
    if (w->in[axis] < 1)
        return err_set(err, ERR_SHAPE,
                       "the output would have size %" PRId64 " at spatial axis %d; pads %" PRId64 " and %" PRId64
                       " take away too much",
                       w->in[axis], axis, w->pad[axis], w->pad_end[axis]);
    return 0;
}

static int resolve(const struct conv_transpose_attrs *a, const struct shape *x, const struct shape *w, struct conv *cv,
                   struct err *err)
{
    const int rank = x->rank - 2;

    if (x->rank != w->rank)
        return err_set(err, ERR_SHAPE, "the input has %d axes and the weight %d; they must have the same number",
                       x->rank, w->rank);
    if (sliding_read(&cv->w, &a->s, rank, w->dim + 2, err) < 0 ||
        check_list(&a->output_padding, "output_padding", rank, err) < 0 ||
        check_list(&a->output_shape, "output_shape", rank, err) < 0)
        return -1;
    if (a->group < 1 || (x->dim[1] >= 0 && x->dim[1] % a->group != 0))
        return err_set(err, ERR_MODEL,
                       "attribute 'group' is %" PRId64 "; it must be positive and divide the %" PRId64
                       " input channels",
                       a->group, x->dim[1]);
    if (x->dim[1] >= 0 && w->dim[0] >= 0 && x->dim[1] != w->dim[0])
        return err_set(err, ERR_SHAPE,
                       "the input has %" PRId64 " channels but the weight takes %" PRId64 "; they must be equal",
                       x->dim[1], w->dim[0]);
    for (int i = 0; i < rank; i++) {
        cv->w.out[i] = x->dim[i + 2];
        if (resolve_axis(a, &cv->w, i, err) < 0)
            return -1;
    }
    cv->batch = x->dim[0];
    cv->c_in = x->dim[1];
    cv->c_out = dim_mul(w->dim[1], a->group);
    cv->groups = a->group;
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct conv cv;
    struct shape out = SHAPE_UNKNOWN;
    char text[SHAPE_TEXT];

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 ||
        sliding_rank(c, 0, err) < 0 || sliding_rank(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *w = infer_shape(c, 1);
    if (x->rank != SHAPE_UNKNOWN_RANK && w->rank != SHAPE_UNKNOWN_RANK) {
        if (resolve(c->attrs, x, w, &cv, err) < 0)
            return -1;
        out = (struct shape){.rank = x->rank, .dim = {x->dim[0], cv.c_out}};
        for (int i = 2; i < x->rank; i++)
            out.dim[i] = cv.w.in[i - 2];
        if (infer_has(c, 2) && shape_known(infer_shape(c, 2)) && cv.c_out >= 0 &&
            (infer_shape(c, 2)->rank != 1 || infer_shape(c, 2)->dim[0] != cv.c_out))
            return err_set(err, ERR_SHAPE,
                           "the bias has shape %s; it must be [%" PRId64 "], one value an output channel",
                           shape_text(infer_shape(c, 2), text), cv.c_out);
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
        return err_set(err, ERR_OPERATOR, "convolution of %s is not supported", dtype_name(x->dtype));
    if (!conv_transpose_scratch(&cv, x->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double),
                                c->pool ? pool_threads(c->pool) : 1, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the convolution's working buffer would overflow the address space");
    void *scratch = run_scratch(c, bytes ? bytes : 1, err);
    if (!scratch)
        return -1;
    if (x->dtype == DTYPE_FLOAT)
        conv_transpose_f32(c->pool, &cv, x->data, w->data, b ? b->data : NULL, y->data, scratch);
    else
        conv_transpose_f64(c->pool, &cv, x->data, w->data, b ? b->data : NULL, y->data, scratch);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward: dX is the convolution of dY by W, dW that convolution's weight gradient (conv_grad.h) ---- */
static void add_into(const struct tensor *to, const void *from)
{
    for (int64_t i = 0, n = tensor_count(to); i < n; i++) {
        if (to->dtype == DTYPE_FLOAT)
            ((float *)to->data)[i] += ((const float *)from)[i];
        else
            ((double *)to->data)[i] += ((const double *)from)[i];
    }
}

static int back_data(struct grad_ctx *c, const struct conv *cv, int lanes, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *w = c->in[1];
    struct tensor *dx = grad_wanted(c, 0);
    const bool single = dy->dtype == DTYPE_FLOAT;
    size_t bytes;

    if (!dx || tensor_count(dx) == 0)
        return 0;
    if (!conv_scratch(cv, single ? sizeof(float) : sizeof(double), lanes, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the gradient's working buffer would overflow the address space");
    void *scratch = grad_scratch(c, bytes + 1, err), *result = dx->data;
    if (!scratch || (!c->assign[0] && !(result = grad_scratch(c, dx->bytes + 1, err))))
        return -1;
    if (single)
        conv_f32(c->pool, cv, dy->data, w->data, NULL, result, scratch);
    else
        conv_f64(c->pool, cv, dy->data, w->data, NULL, result, scratch);
    if (result != dx->data)
        add_into(dx, result);
    return 0;
}

static int back_weight(struct grad_ctx *c, const struct conv *cv, int lanes, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *x = c->in[0];
    struct tensor *dw = grad_wanted(c, 1);
    const bool single = dy->dtype == DTYPE_FLOAT;
    size_t bytes;

    if (!dw || tensor_count(dw) == 0)
        return 0;
    if (!conv_weight_grad_scratch(cv, single ? sizeof(float) : sizeof(double), lanes, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the gradient's working buffer would overflow the address space");
    void *scratch = grad_scratch(c, bytes + 1, err);
    if (!scratch)
        return -1;
    if (single)
        conv_weight_grad_f32(c->pool, cv, dy->data, x->data, dw->data, !c->assign[1], scratch);
    else
        conv_weight_grad_f64(c->pool, cv, dy->data, x->data, dw->data, !c->assign[1], scratch);
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
    const struct conv mirror = {.w = cv.w, .batch = cv.batch, .groups = cv.groups, .c_in = cv.c_out, .c_out = cv.c_in};
    const int lanes = c->pool ? pool_threads(c->pool) : 1;
    const int64_t cells = window_count(cv.w.in, cv.w.rank);
    if (db && dy->dtype == DTYPE_FLOAT)
        conv_bias_grad_f32(c->pool, cv.batch, cv.c_out, cells, dy->data, db->data, !c->assign[2]);
    else if (db)
        conv_bias_grad_f64(c->pool, cv.batch, cv.c_out, cells, dy->data, db->data, !c->assign[2]);
    return back_weight(c, &mirror, lanes, err) < 0 || back_data(c, &mirror, lanes, err) < 0 ? -1 : 0;
}

/* Each value of X meets every tap of every output channel of its group. */
static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *w = infer_shape(c, 1);
    const int64_t taps = shape_product(w, 1, w->rank), values = shape_count(infer_shape(c, 0));

    if (taps < 0 || values < 0 || !i64_mul(taps, values, &cost->macs))
        cost->macs = -1;
}

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    couple_conv_transpose(k, IN(0), IN(1), ((const struct conv_transpose_attrs *)couple_attrs(k))->group);
    couple_vector(k, 2, OUT(0), 1);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    return shrink_conv_group(s, IN(0), ((const struct conv_transpose_attrs *)s->infer->attrs)->group, err);
}

static const struct op_sample samples[] = {
    {"f32[1,3,5,6] !f32[3,4,3,3] !f32[4]", "strides=2,2 pads=1,1,1,1 output_padding=1,1"},
    {"f32[2,4,5,6] !f32[4,3,3,2]", "group=2 dilations=2,1 strides=1,3"},
    {"f32[1,3,5,6] !f32[3,2,2,2] !f32[6]", "group=3"},
    {"f32[1,4,5,6] !f32[4,1,2,2]", "group=2"},
    {"f32[1,2,7] !f32[2,3,4]", "strides=2"},
    {"f32[1,2,3,4] !f32[2,2,3,3]", "strides=3,2 output_shape=10,8"},
    {"f32[1,2,3,4] !f32[2,2,3,3]", "strides=2,2 auto_pad=SAME_UPPER"},
    {"f32[1,2,3,4,5] !f32[2,2,2,3,3]", NULL},
    {NULL},
};

OP_CLASS(conv_transpose) = {
    .type = "ConvTranspose",
    .domain = "",
    .since = 1,
    .doc = "Transposed convolution with strides, dilations, padding and groups.",
    .in_min = 2,
    .in_max = 3,
    .out_min = 1,
    .out_max = 1,
    .attrs = conv_transpose_attrs,
    .attrs_size = sizeof(struct conv_transpose_attrs),
    .infer = infer,
    .forward = forward,
    .cost = cost,
    .couple = couple,
    .shrink = shrink,
    .backward = backward,
    .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1),
    .grad_assigns = true,
    .grad_inputs = 7u,
    .quant = {QUANT_COMPUTE, .weight = 1, .bias = 2, .channel_axis = 1},
    .samples = samples,
};
