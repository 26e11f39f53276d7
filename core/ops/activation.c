/* SPDX-License-Identifier: Apache-2.0
 * Activations: y[i] = f(x[i]) with at most three constants from attributes. One kernel for float32 and one for
 * float64 each; halves go by way of float32. The formulas stand in the KERNEL rows, in the words of the ONNX
 * standard. */
#include <math.h>

#include "core/kernels/act.h"
#include "core/kernels/act_grad.h"
#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"
#include "core/ops/couple_rules.h"
#include "core/ops/widen.h"

enum { GRAIN = 1 << 13, PIECE = 256 };

struct activation_attrs {
    float alpha, beta, gamma;
    int approximate;
};
typedef void activation_fn(void *y, const void *x, int64_t n, const struct activation_attrs *at);
struct activation {
    activation_fn *f32, *f64;
};

/* x: the element; a, b, g: alpha, beta, gamma; expr32 and expr64 give y. */
#define LOOP(name, T, qualifier, expr)                                                                                 \
    qualifier static void name(void *yv, const void *xv, int64_t n, const struct activation_attrs *at)                 \
    {                                                                                                                  \
        T *y = yv;                                                                                                     \
        const T *src = xv;                                                                                             \
        const T a = (T)at->alpha, b = (T)at->beta, g = (T)at->gamma;                                                   \
        (void)a, (void)b, (void)g;                                                                                     \
        _Pragma("GCC ivdep") /* y may be x */                                                                          \
            for (int64_t i = 0; i < n; i++)                                                                            \
        {                                                                                                              \
            const T x = src[i];                                                                                        \
            y[i] = (expr);                                                                                             \
        }                                                                                                              \
    }
#define KERNEL(name, expr32, expr64)                                                                                   \
    LOOP(name##_f32, float, KERNEL_CLONES, expr32)                                                                     \
    LOOP(name##_f64, double, , expr64)                                                                                 \
    static const struct activation activation_##name = {name##_f32, name##_f64};

static inline double softplus64(double x)
{
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

/* float32 by a kernel of its own, float64 by the formula. */
#define VECTOR_KERNEL(name, call, expr64)                                                                              \
    static void name##_f32(void *y, const void *x, int64_t n, const struct activation_attrs *at)                       \
    {                                                                                                                  \
        (void)at;                                                                                                      \
        call;                                                                                                          \
    }                                                                                                                  \
    LOOP(name##_f64, double, , expr64)                                                                                 \
    static const struct activation activation_##name = {name##_f32, name##_f64};
#define ACT(kind, a, b) act_f32(&(const struct act){kind, a, b}, x, n, y)

/* y = gain x where positive, gain alpha (e^(x / width) - 1) elsewhere. */
KERNEL_CLONES static void exponential_units(const float *x, const float *e, int64_t n, float gain, float alpha,
                                            float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gain * (x[i] < 0 ? alpha * e[i] : x[i]);
}

static void exponential(float *y, const float *x, int64_t n, float gain, float alpha, float width)
{
    float e[PIECE], scaled[PIECE];
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = i64_min(PIECE, n - at);
        for (int64_t i = 0; i < m; i++)
            scaled[i] = x[at + i] / width;
        vmath_f32(VMATH_EXPM1, scaled, m, e);
        exponential_units(x + at, e, m, gain, alpha, y + at);
    }
}

KERNEL(relu, x < 0 ? 0 : x, x < 0 ? 0 : x)
VECTOR_KERNEL(leaky_relu, ACT(ACT_LEAKY_RELU, at->alpha, 0), x < 0 ? a * x : x)
KERNEL(thresholded_relu, x > a ? x : 0, x > a ? x : 0)
KERNEL(shrink, x<-a ? x + b : x> a ? x - b : 0, x<-a ? x + b : x> a ? x - b : 0)
VECTOR_KERNEL(elu, exponential(y, x, n, 1, at->alpha, 1), x < 0 ? a * expm1(x) : x)
VECTOR_KERNEL(celu, exponential(y, x, n, 1, at->alpha, at->alpha), x < 0 ? a * expm1(x / a) : x)
VECTOR_KERNEL(selu, exponential(y, x, n, at->gamma, at->alpha, 1), g *(x > 0 ? x : a * expm1(x)))
VECTOR_KERNEL(sigmoid, vmath_f32(VMATH_SIGMOID, x, n, y), 1 / (1 + exp(-x)))
VECTOR_KERNEL(swish, ACT(ACT_SWISH, at->alpha, 0), x / (1 + exp(-a * x)))
VECTOR_KERNEL(tanh, vmath_f32(VMATH_TANH, x, n, y), tanh(x))
VECTOR_KERNEL(erf, vmath_f32(VMATH_ERF, x, n, y), erf(x))
VECTOR_KERNEL(softplus, vmath_f32(VMATH_SOFTPLUS, x, n, y), softplus64(x))
KERNEL(softsign, x / (1 + fabsf(x)), x / (1 + fabs(x)))
VECTOR_KERNEL(mish, vmath_f32(VMATH_MISH, x, n, y), x *tanh(softplus64(x)))
VECTOR_KERNEL(gelu_erf, ACT(ACT_GELU_ERF, 0, 0), 0.5 * x * (1 + erf(x * 0.70710678118654752)))
VECTOR_KERNEL(gelu_tanh, ACT(ACT_GELU_TANH, 0, 0),
              0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))))

static inline double hard_sigmoid64(double x, double a, double b)
{
    const double v = a * x + b;
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

VECTOR_KERNEL(hard_sigmoid, ACT(ACT_HARD_SIGMOID, at->alpha, at->beta), hard_sigmoid64(x, a, b))
VECTOR_KERNEL(hard_swish, ACT(ACT_HARD_SWISH, 0, 0), x *hard_sigmoid64(x, 1.0 / 6, 0.5))

/* ---- running ---- */
struct loop {
    activation_fn *fn;
    const struct activation_attrs *attrs;
    char *y;
    const char *x;
    size_t elem;
};

static void run_piece(void *arg, int64_t begin, int64_t end)
{
    const struct loop *l = arg;
    l->fn(l->y + (size_t)begin * l->elem, l->x + (size_t)begin * l->elem, end - begin, l->attrs);
}

static int run(struct run_ctx *c, const struct activation *k, struct err *err)
{
    static const struct activation_attrs none = {0};
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);

    if (!y)
        return 0;
    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR,
                       "elements of type %s are not supported; float32, float64, float16 and bfloat16 are",
                       dtype_name(x->dtype));
    struct loop l = {x->dtype == DTYPE_FLOAT ? k->f32 : k->f64, c->attrs ? c->attrs : &none, y->data, x->data,
                     x->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double)};
    op_parallel(c->pool, tensor_count(x), GRAIN, run_piece, &l);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    return op_infer_same(c, err);
}

/* Relu takes signed integers since opset 14. */
static int infer_relu(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, c->opset >= 14 ? "fi" : "f", err) < 0)
        return -1;
    return op_infer_same(c, err);
}

static int infer_celu(struct infer_ctx *c, struct err *err)
{
    const struct activation_attrs *a = c->attrs;
    if (a->alpha == 0)
        return err_set(err, ERR_MODEL, "attribute 'alpha' is 0; it divides, so it must be another number");
    return infer(c, err);
}

#define FORWARD(name, infer)                                                                                           \
    static int compute_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return run(c, &activation_##name, err);                                                                        \
    }                                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return op_run_widened(c, infer, compute_##name, err);                                                          \
    }
FORWARD(leaky_relu, infer)
FORWARD(thresholded_relu, infer)
FORWARD(shrink, infer)
FORWARD(elu, infer)
FORWARD(celu, infer_celu)
FORWARD(selu, infer)
FORWARD(sigmoid, infer)
FORWARD(swish, infer)
FORWARD(tanh, infer)
FORWARD(erf, infer)
FORWARD(softplus, infer)
FORWARD(softsign, infer)
FORWARD(mish, infer)
FORWARD(hard_sigmoid, infer)
FORWARD(hard_swish, infer)

static int compute_relu(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);

    if (!y || dtype_is_float(x->dtype))
        return run(c, &activation_relu, err);
    for (int64_t i = 0, n = tensor_count(x); i < n; i++) {
        const int64_t v = dtype_get_i64(x->dtype, x->data, i), positive = v < 0 ? 0 : v;
        dtype_convert(y->dtype, (char *)y->data + (size_t)i * (size_t)(dtype_bits(y->dtype) / 8), DTYPE_INT64,
                      &positive, 1);
    }
    return 0;
}

static int forward_relu(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_relu, compute_relu, err);
}

static int compute_gelu(struct run_ctx *c, struct err *err)
{
    const struct activation_attrs *a = c->attrs;
    return run(c, a->approximate ? &activation_gelu_tanh : &activation_gelu_erf, err);
}

static int forward_gelu(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute_gelu, err);
}

/* ---- backward: dx = dy f'(x); the formulas stand in act_grad.c ---- */
struct slope {
    act_grad_fn *fn;
    struct act_grad_attrs attrs;
    const char *x, *y, *dy;
    char *dx;
    size_t elem;
    bool add;
};

static void slope_piece(void *arg, int64_t begin, int64_t end)
{
    const struct slope *l = arg;
    const size_t at = (size_t)begin * l->elem;
    l->fn(&l->attrs, l->x ? l->x + at : NULL, l->y ? l->y + at : NULL, l->dy + at, l->dx + at, end - begin, l->add);
}

static int back(struct grad_ctx *c, const struct act_grad *k)
{
    const struct activation_attrs *a = c->attrs;
    const struct tensor *dy = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0);

    if (!dy || !dx)
        return 0;
    struct slope l = {.fn = dx->dtype == DTYPE_FLOAT ? k->f32 : k->f64,
                      .x = k->from_y ? NULL : c->in[0]->data,
                      .y = k->from_y ? c->out[0]->data : NULL,
                      .dy = dy->data,
                      .dx = dx->data,
                      .elem = dx->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double),
                      .add = !c->assign[0]};
    if (a)
        l.attrs = (struct act_grad_attrs){(double)a->alpha, (double)a->beta, (double)a->gamma};
    op_parallel(c->pool, tensor_count(dx), GRAIN, slope_piece, &l);
    return 0;
}

#define BACKWARD(name)                                                                                                 \
    static int backward_##name(struct grad_ctx *c, struct err *err)                                                    \
    {                                                                                                                  \
        (void)err;                                                                                                     \
        return back(c, &act_grad_##name);                                                                              \
    }
BACKWARD(relu)
BACKWARD(leaky_relu)
BACKWARD(thresholded_relu)
BACKWARD(shrink)
BACKWARD(elu)
BACKWARD(celu)
BACKWARD(selu)
BACKWARD(sigmoid)
BACKWARD(swish)
BACKWARD(tanh)
BACKWARD(erf)
BACKWARD(softplus)
BACKWARD(softsign)
BACKWARD(mish)
BACKWARD(hard_sigmoid)
BACKWARD(hard_swish)

static int backward_gelu(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back(c, ((const struct activation_attrs *)c->attrs)->approximate ? &act_grad_gelu_tanh : &act_grad_gelu_erf);
}

#define GRADIENT(name, reads) .backward = backward_##name, .grad_reads = reads, .grad_assigns = true, .grad_inputs = 1u
#define FROM_X GRAD_READS_IN(0)
#define FROM_Y GRAD_READS_OUT(0)

/* ---- rows ---- */
#define NO_ATTRS .attrs = NULL, .attrs_size = sizeof(struct activation_attrs) /* zeros, which the kernels do not use */
#define ATTRS(table) .attrs = table, .attrs_size = sizeof(struct activation_attrs)
#define ALPHA(value)                                                                                                   \
    {                                                                                                                  \
        OP_ATTR(activation_attrs, alpha), .kind = OP_FLOAT, .def_f = (value)                                           \
    }
#define BETA(value)                                                                                                    \
    {                                                                                                                  \
        OP_ATTR(activation_attrs, beta), .kind = OP_FLOAT, .def_f = (value)                                            \
    }
#define GAMMA(value)                                                                                                   \
    {                                                                                                                  \
        OP_ATTR(activation_attrs, gamma), .kind = OP_FLOAT, .def_f = (value)                                           \
    }

static const char *const approximations[] = {"none", "tanh", NULL};
static const struct op_attr leaky_attrs[] = {ALPHA(0.01f), {NULL}};
static const struct op_attr one_attrs[] = {ALPHA(1.0f), {NULL}};
static const struct op_attr selu_attrs_1[] = {ALPHA(1.6732f), GAMMA(1.0507f), {NULL}};
static const struct op_attr selu_attrs_6[] = {
    ALPHA(1.67326319217681884765625f), GAMMA(1.05070102214813232421875f), {NULL}};
static const struct op_attr hard_sigmoid_attrs[] = {ALPHA(0.2f), BETA(0.5f), {NULL}};
static const struct op_attr shrink_attrs[] = {
    {.name = "lambd", .kind = OP_FLOAT, .offset = offsetof(struct activation_attrs, alpha), .def_f = 0.5f},
    {.name = "bias", .kind = OP_FLOAT, .offset = offsetof(struct activation_attrs, beta)},
    {NULL}};
static const struct op_attr gelu_attrs[] = {
    {OP_ATTR(activation_attrs, approximate), .kind = OP_ENUM, .choices = approximations}, {NULL}};

static const struct op_sample plain_samples[] = {{"f32[2,3,5]", NULL}, {"f32[4096]", NULL}, {NULL}};
static const struct op_sample relu_samples[] = {
    {"f32[2,3,5]", NULL}, {"f32[40000]", NULL}, {"f64[2,3]", NULL}, {"f16[2,3]", NULL}, {NULL}};
static const struct op_sample alpha_samples[] = {{"f32[2,3,5]", NULL}, {"f32[2,3,5]", "alpha=0.3f"}, {NULL}};
static const struct op_sample selu_samples[] = {{"f32[2,3,5]", NULL}, {"f32[2,3,5]", "alpha=1.5f gamma=1.2f"}, {NULL}};
static const struct op_sample hard_sigmoid_samples[] = {
    {"f32[2,3,5]", NULL}, {"f32[2,3,5]", "alpha=0.5f beta=0.4f"}, {NULL}};
static const struct op_sample shrink_samples[] = {{"f32[2,3,5]", NULL}, {"f32[2,3,5]", "lambd=0.8f bias=0.3f"}, {NULL}};
static const struct op_sample gelu_samples[] = {{"f32[2,3,5]", NULL}, {"f32[2,3,5]", "approximate=tanh"}, {NULL}};

#define ACTIVATION(type_, since_, name, attrs_, ...)                                                                   \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1, attrs_,    \
        .in_place = 1, .infer = infer, .forward = forward_##name, .couple = couple_elementwise, __VA_ARGS__            \
    }

OP_CLASS(relu) = {.type = "Relu",
                  .domain = "",
                  .since = 1,
                  .in_min = 1,
                  .in_max = 1,
                  .out_min = 1,
                  .out_max = 1,
                  .doc = "max(x, 0).",
                  NO_ATTRS,
                  .infer = infer_relu,
                  .in_place = 1,
                  .forward = forward_relu,
                  .couple = couple_elementwise,
                  GRADIENT(relu, FROM_Y),
                  .quant = {QUANT_ABSORB},
                  .samples = relu_samples};
OP_CLASS(leaky_relu) = ACTIVATION("LeakyRelu", 1, leaky_relu, ATTRS(leaky_attrs), GRADIENT(leaky_relu, FROM_X),
                                  .doc = "x, or alpha x where negative.", .quant = {QUANT_OUTPUT},
                                  .samples = alpha_samples);
OP_CLASS(thresholded_relu) = ACTIVATION("ThresholdedRelu", 10, thresholded_relu, ATTRS(one_attrs),
                                        GRADIENT(thresholded_relu, FROM_X), .doc = "x where above alpha, else 0.",
                                        .samples = alpha_samples);
OP_CLASS(shrink) = ACTIVATION("Shrink", 9, shrink, ATTRS(shrink_attrs), GRADIENT(shrink, FROM_X),
                              .doc = "x moved towards 0 by bias, or 0 within [-lambd, lambd].",
                              .samples = shrink_samples);
OP_CLASS(elu) = ACTIVATION("Elu", 1, elu, ATTRS(one_attrs), GRADIENT(elu, FROM_X),
                           .doc = "x, or alpha (e^x - 1) where negative.", .samples = alpha_samples);
OP_CLASS(celu) = {.type = "Celu",
                  .domain = "",
                  .since = 12,
                  .in_min = 1,
                  .in_max = 1,
                  .out_min = 1,
                  .out_max = 1,
                  .in_place = 1,
                  ATTRS(one_attrs),
                  .doc = "x, or alpha (e^(x / alpha) - 1) where negative.",
                  .infer = infer_celu,
                  .forward = forward_celu,
                  .couple = couple_elementwise,
                  GRADIENT(celu, FROM_X),
                  .samples = alpha_samples};
OP_CLASS(selu_1) = ACTIVATION("Selu", 1, selu, ATTRS(selu_attrs_1), GRADIENT(selu, FROM_X), .until = 5,
                              .doc = "gamma times an Elu.", .samples = selu_samples);
OP_CLASS(selu_6) = ACTIVATION("Selu", 6, selu, ATTRS(selu_attrs_6), GRADIENT(selu, FROM_X),
                              .doc = "gamma times an Elu.", .samples = selu_samples);
OP_CLASS(sigmoid) = ACTIVATION("Sigmoid", 1, sigmoid, NO_ATTRS, GRADIENT(sigmoid, FROM_Y), .doc = "1 / (1 + e^-x).",
                               .quant = {QUANT_OUTPUT, .low = 0, .high = 1}, .samples = plain_samples);
OP_CLASS(swish) = ACTIVATION("Swish", 24, swish, ATTRS(one_attrs), GRADIENT(swish, FROM_X),
                             .doc = "x times the sigmoid of alpha x.", .samples = alpha_samples);
OP_CLASS(tanh) = ACTIVATION("Tanh", 1, tanh, NO_ATTRS, GRADIENT(tanh, FROM_Y), .doc = "Hyperbolic tangent.",
                            .quant = {QUANT_OPTIONAL, .low = -1, .high = 1}, .samples = plain_samples);
OP_CLASS(erf) = ACTIVATION("Erf", 9, erf, NO_ATTRS, GRADIENT(erf, FROM_X), .doc = "Error function.",
                           .samples = plain_samples);
OP_CLASS(softplus) = ACTIVATION("Softplus", 1, softplus, NO_ATTRS, GRADIENT(softplus, FROM_X), .doc = "log(1 + e^x).",
                                .samples = plain_samples);
OP_CLASS(softsign) = ACTIVATION("Softsign", 1, softsign, NO_ATTRS, GRADIENT(softsign, FROM_X), .doc = "x / (1 + |x|).",
                                .samples = plain_samples);
OP_CLASS(mish) = ACTIVATION("Mish", 18, mish, NO_ATTRS, GRADIENT(mish, FROM_X), .doc = "x tanh(softplus(x)).",
                            .samples = plain_samples);
OP_CLASS(hard_sigmoid) = ACTIVATION("HardSigmoid", 1, hard_sigmoid, ATTRS(hard_sigmoid_attrs),
                                    GRADIENT(hard_sigmoid, FROM_X), .doc = "alpha x + beta, held in [0, 1].",
                                    .quant = {QUANT_OPTIONAL, .low = 0, .high = 1}, .samples = hard_sigmoid_samples);
OP_CLASS(hard_swish) = ACTIVATION("HardSwish", 14, hard_swish, NO_ATTRS, GRADIENT(hard_swish, FROM_X),
                                  .doc = "x times the HardSigmoid with 1/6 and 1/2.", .quant = {QUANT_OPTIONAL},
                                  .samples = plain_samples);
OP_CLASS(gelu) = ACTIVATION("Gelu", 20, gelu, ATTRS(gelu_attrs), GRADIENT(gelu, FROM_X),
                            .doc = "x times the normal distribution function.", .quant = {QUANT_OPTIONAL},
                            .samples = gelu_samples);
