/* SPDX-License-Identifier: Apache-2.0
 * FusedGemm and FusedConv of com.microsoft, as ONNX Runtime's own optimizer writes them: Gemm, or Conv plus a tensor Z of the
 * output's shape, and an activation on the result.
 * Activation "Relu", "Sigmoid", "Tanh", "LeakyRelu" (a), "HardSigmoid" (a, b), "Clip" (a to b); none if absent. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/kernels/conv.h"
#include "core/kernels/gemm.h"
#include "core/ops/product_coupling.h"
#include "core/ops/sliding.h"
#include "core/ops/widen.h"

enum { NONE, RELU, SIGMOID, TANH, LEAKY, HARD_SIGMOID, CLIP };
static const char *const activations[] = {"", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Clip", NULL};

static void activate(int kind, float a, float b, float *y, int64_t n)
{
    for (int64_t i = 0; kind != NONE && i < n; i++) {
        const float x = y[i];
        switch (kind) {
        case RELU:
            y[i] = x < 0 ? 0 : x;
            break;
        case SIGMOID:
            y[i] = 1 / (1 + expf(-x));
            break;
        case TANH:
            y[i] = tanhf(x);
            break;
        case LEAKY:
            y[i] = x < 0 ? a * x : x;
            break;
        case HARD_SIGMOID:
            y[i] = fminf(fmaxf(a * x + b, 0), 1);
            break;
        default:
            y[i] = x < a ? a : x > b ? b : x;
        }
    }
}

/* ---- FusedGemm ---- */
struct fused_gemm_attrs {
    float alpha, beta, activation_alpha, activation_beta, activation_gamma;
    bool transA, transB;
    int activation;
};
static const struct op_attr fused_gemm_attrs[] = {
    {OP_ATTR(fused_gemm_attrs, alpha), .kind = OP_FLOAT, .def_f = 1},
    {OP_ATTR(fused_gemm_attrs, beta), .kind = OP_FLOAT, .def_f = 1},
    {OP_ATTR(fused_gemm_attrs, transA), .kind = OP_BOOL},
    {OP_ATTR(fused_gemm_attrs, transB), .kind = OP_BOOL},
    {OP_ATTR(fused_gemm_attrs, activation), .kind = OP_ENUM, .choices = activations},
    {OP_ATTR(fused_gemm_attrs, activation_alpha), .kind = OP_FLOAT},
    {OP_ATTR(fused_gemm_attrs, activation_beta), .kind = OP_FLOAT},
    {OP_ATTR(fused_gemm_attrs, activation_gamma), .kind = OP_FLOAT},
    {NULL},
};

static int infer_gemm(struct infer_ctx *c, struct err *err)
{
    const struct fused_gemm_attrs *at = c->attrs;
    char text[SHAPE_TEXT], want[SHAPE_TEXT];
    enum dtype dtype;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    struct shape out = SHAPE(DIM_UNKNOWN, DIM_UNKNOWN);
    int64_t inner[2] = {-1, -1};
    for (int i = 0; i < 2; i++) {
        const struct shape *s = infer_shape(c, i);
        const int rows = (i ? at->transB : at->transA) ? 1 : 0;
        if (s->rank == SHAPE_UNKNOWN_RANK)
            continue;
        if (s->rank != 2)
            return err_set(err, ERR_SHAPE, "input #%d has shape %s; it must be a matrix", i, shape_text(s, text));
        out.dim[i] = s->dim[i ? 1 - rows : rows];
        inner[i] = s->dim[i ? rows : 1 - rows];
    }
    if (inner[0] >= 0 && inner[1] >= 0 && inner[0] != inner[1])
        return err_set(err, ERR_SHAPE, "A has %" PRId64 " columns but B has %" PRId64 " rows; they must be equal",
                       inner[0], inner[1]);
    struct shape both;
    if (infer_has(c, 2) && infer_shape(c, 2)->rank >= 0 &&
        (infer_shape(c, 2)->rank > 2 || !shape_broadcast(infer_shape(c, 2), &out, &both) ||
         (shape_known(&out) && shape_known(infer_shape(c, 2)) && !shape_equal(&both, &out))))
        return err_set(err, ERR_SHAPE, "C has shape %s; it must broadcast to the product's %s",
                       shape_text(infer_shape(c, 2), text), shape_text(&out, want));
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int compute_gemm(struct run_ctx *c, struct err *err)
{
    const struct fused_gemm_attrs *at = c->attrs;
    const struct tensor *a = c->in[0], *add = run_in(c, 2);
    struct tensor *y = run_out(c, 0);
    int64_t stride[SHAPE_MAX_RANK] = {0}, own[SHAPE_MAX_RANK];

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "FusedGemm of %s is not supported", dtype_name(y->dtype));
    struct gemm g = gemm_plain(at->transA, at->transB, y->shape.dim[0], y->shape.dim[1], a->shape.dim[!at->transA]);
    g.alpha = (double)at->alpha;
    if (add && at->beta != 0) {
        g.beta = (double)at->beta;
        shape_strides(&add->shape, true, own);
        for (int i = 0; i < add->shape.rank; i++)
            stride[2 - add->shape.rank + i] = own[i];
        op_copy_strided(c->pool, sizeof(float), y->data, add->data, 2, y->shape.dim, stride);
    }
    gemm_f32(c->pool, &g, a->data, c->in[1]->data, y->data);
    activate(at->activation, at->activation_alpha, at->activation_beta, y->data, tensor_count(y));
    return 0;
}

static int forward_gemm(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_gemm, compute_gemm, err);
}

static void cost_gemm(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *a = infer_shape(c, 0);
    const int64_t k = a->rank == 2 ? a->dim[!((const struct fused_gemm_attrs *)c->attrs)->transA] : -1;
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (k < 0 || outputs < 0 || !i64_mul(k, outputs, &cost->macs))
        cost->macs = -1;
}

static int couple_gemm(struct coupling *k, struct err *err)
{
    const struct fused_gemm_attrs *a = couple_attrs(k);
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), a->transA, false},
                  (struct couple_operand){IN(1), a->transB, false});
    couple_broadcast(k, IN(2), OUT(0));
    return 0;
}

OP_CLASS(fused_gemm) = {
    .type = "FusedGemm",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Gemm and an activation.",
    .in_min = 2,
    .in_max = 3,
    .out_min = 1,
    .out_max = 1,
    .attrs = fused_gemm_attrs,
    .attrs_size = sizeof(struct fused_gemm_attrs),
    .infer = infer_gemm,
    .forward = forward_gemm,
    .cost = cost_gemm,
    .couple = couple_gemm,
    .quant = {QUANT_COMPUTE, .weight = 1, .bias = 2, .channel_axis = 1},
    .samples =
        (const struct op_sample[]){{"f32[3,5] !f32[5,4] !f32[4]", "activation=Relu"},
                                   {"f32[5,3] !f32[4,5] !f32[3,1]",
                                    "activation=LeakyRelu activation_alpha=0.1f transA=1 transB=1 alpha=0.5f beta=2f"},
                                   {"f32[3,5] !f32[5,4]", "activation=Sigmoid"},
                                   {"f32[3,5] !f32[5,4]", "activation=Tanh"},
                                   {NULL}},
};

/* ---- FusedConv ---- */
struct fused_conv_attrs {
    struct sliding_attrs s;
    int64_t group;
    int activation;
    struct op_floats activation_params;
};
static const struct op_attr fused_conv_attrs[] = {
    SLIDING_ATTRS(fused_conv_attrs),
    {OP_ATTR(fused_conv_attrs, group), .kind = OP_INT, .def = 1},
    {OP_ATTR(fused_conv_attrs, activation), .kind = OP_ENUM, .choices = activations},
    {OP_ATTR(fused_conv_attrs, activation_params), .kind = OP_FLOATS},
    {NULL},
};

static int geometry(const struct fused_conv_attrs *a, const struct shape *x, const struct shape *w, struct conv *cv,
                    struct err *err)
{
    char x_text[SHAPE_TEXT], w_text[SHAPE_TEXT];
    int64_t channels;

    if (x->rank != w->rank)
        return err_set(err, ERR_SHAPE,
                       "the input has shape %s and the weight %s; they must have the same number of axes",
                       shape_text(x, x_text), shape_text(w, w_text));
    if (a->group < 1 || (w->dim[0] >= 0 && w->dim[0] % a->group != 0) ||
        (x->dim[1] >= 0 && w->dim[1] >= 0 && (!i64_mul(w->dim[1], a->group, &channels) || channels != x->dim[1])))
        return err_set(err, ERR_SHAPE, "attribute 'group' is %" PRId64 "; it does not fit input %s and weight %s",
                       a->group, shape_text(x, x_text), shape_text(w, w_text));
    if (sliding_resolve(&cv->w, &a->s, x, w->dim + 2, false, err) < 0)
        return -1;
    cv->batch = x->dim[0];
    cv->c_in = x->dim[1];
    cv->c_out = w->dim[0];
    cv->groups = a->group;
    return 0;
}

static int infer_conv(struct infer_ctx *c, struct err *err)
{
    static const int needed[] = {0, 0, 0, 0, 1, 2, 2}; /* parameters of each activation */
    const struct fused_conv_attrs *a = c->attrs;
    char text[SHAPE_TEXT], want[SHAPE_TEXT];
    struct shape out = SHAPE_UNKNOWN;
    enum dtype dtype;
    struct conv cv;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 4, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 ||
        sliding_rank(c, 0, err) < 0 || sliding_rank(c, 1, err) < 0)
        return -1;
    if (a->activation_params.count < needed[a->activation])
        return err_set(err, ERR_MODEL, "attribute 'activation_params' has %d elements; %s needs %d",
                       a->activation_params.count, activations[a->activation], needed[a->activation]);
    const struct shape *x = infer_shape(c, 0), *w = infer_shape(c, 1);
    if (x->rank >= 0 && w->rank >= 0) {
        if (geometry(a, x, w, &cv, err) < 0)
            return -1;
        out = sliding_output(&cv.w, x->dim[0], w->dim[0]);
    }
    if (infer_has(c, 2) && infer_shape(c, 2)->rank >= 0 && w->rank >= 0 &&
        (infer_shape(c, 2)->rank != 1 ||
         (infer_shape(c, 2)->dim[0] >= 0 && w->dim[0] >= 0 && infer_shape(c, 2)->dim[0] != w->dim[0])))
        return err_set(err, ERR_SHAPE, "the bias has shape %s; it must be [%" PRId64 "], one value an output channel",
                       shape_text(infer_shape(c, 2), text), w->dim[0]);
    if (infer_has(c, 3) && shape_known(&out) && shape_known(infer_shape(c, 3)) && !shape_equal(infer_shape(c, 3), &out))
        return err_set(err, ERR_SHAPE, "input 'Z' has shape %s; it must be the output's %s",
                       shape_text(infer_shape(c, 3), text), shape_text(&out, want));
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int compute_conv(struct run_ctx *c, struct err *err)
{
    const struct fused_conv_attrs *a = c->attrs;
    const struct tensor *bias = run_in(c, 2), *z = run_in(c, 3);
    struct tensor *y = run_out(c, 0);
    struct conv cv;
    size_t bytes;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "FusedConv of %s is not supported", dtype_name(y->dtype));
    if (geometry(a, &c->in[0]->shape, &c->in[1]->shape, &cv, err) < 0)
        return -1;
    if (!conv_scratch(&cv, sizeof(float), c->pool ? pool_threads(c->pool) : 1, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the convolution's working buffer would overflow the address space");
    void *scratch = bytes ? run_scratch(c, bytes, err) : NULL;
    if (bytes && !scratch)
        return -1;
    conv_f32(c->pool, &cv, c->in[0]->data, c->in[1]->data, bias ? bias->data : NULL, y->data, scratch);
    for (int64_t i = 0; z && i < tensor_count(y); i++)
        ((float *)y->data)[i] += ((const float *)z->data)[i];
    const struct op_floats *p = &a->activation_params;
    activate(a->activation, p->count > 0 ? p->at[0] : 0, p->count > 1 ? p->at[1] : 0, y->data, tensor_count(y));
    return 0;
}

static int forward_conv(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_conv, compute_conv, err);
}

static void cost_conv(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *w = infer_shape(c, 1);
    const int64_t taps = w->rank > 1 ? shape_product(w, 1, w->rank) : -1, outputs = shape_count(&c->out[0].shape);
    if (taps < 0 || outputs < 0 || !i64_mul(taps, outputs, &cost->macs))
        cost->macs = -1;
}

static int couple_fused_conv(struct coupling *k, struct err *err)
{
    (void)err;
    couple_conv(k, IN(0), IN(1), ((const struct fused_conv_attrs *)couple_attrs(k))->group);
    couple_vector(k, 2, OUT(0), 1);
    couple_axes(k, IN(3), 0, OUT(0), 0);
    couple_axes(k, IN(3), 1, OUT(0), 1);
    return 0;
}

static int shrink_conv(struct shrink *s, struct err *err)
{
    return shrink_conv_group(s, IN(0), ((const struct fused_conv_attrs *)s->infer->attrs)->group, err);
}

OP_CLASS(fused_conv) = {
    .type = "FusedConv",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Conv, a tensor added, an activation.",
    .in_min = 2,
    .in_max = 4,
    .out_min = 1,
    .out_max = 1,
    .attrs = fused_conv_attrs,
    .attrs_size = sizeof(struct fused_conv_attrs),
    .infer = infer_conv,
    .forward = forward_conv,
    .cost = cost_conv,
    .couple = couple_fused_conv,
    .shrink = shrink_conv,
    .quant = {QUANT_COMPUTE, .weight = 1, .bias = 2, .channel_axis = 0},
    .samples = (const struct op_sample[]){{"f32[1,3,7,8] !f32[4,3,3,3] !f32[4]", "pads=1,1,1,1 activation=Relu"},
                                          {"f32[1,3,7,8] !f32[4,3,3,3] !f32[4] f32[1,4,5,6]", "activation=Relu"},
                                          {"f32[1,3,7,8] !f32[4,3,3,3]", "activation=LeakyRelu activation_params=0.1"},
                                          {"f32[1,3,7,8] !f32[4,3,3,3]", "activation=Clip activation_params=-0.5,0.5"},
                                          {"f32[1,3,7,8] !f32[4,3,3,3]",
                                           "activation=HardSigmoid activation_params=0.2,0.5"},
                                          {"f32[2,4,8] !f32[4,1,3] !f32[4]", "group=4 activation=Tanh"},
                                          {NULL}},
};
