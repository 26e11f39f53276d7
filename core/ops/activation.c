/* SPDX-License-Identifier: Apache-2.0
 * Activations: y[i] = f(x[i]) with at most three constants from attributes. One kernel for float32 and one for
 * float64 each; halves go by way of float32. The formulas stand in the KERNEL rows, in the words of the ONNX
 * standard. */
#include <math.h>

#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"
#include "core/ops/widen.h"

enum { GRAIN = 1 << 14 };

struct activation_attrs {
    float alpha, beta, gamma;
    int approximate;
};
typedef void activation_fn(void *y, const void *x, int64_t n, const struct activation_attrs *at);
struct activation {
    activation_fn *f32, *f64;
};

/* x: the element; a, b, g: alpha, beta, gamma; expr32 and expr64 give y. */
#define LOOP(name, T, qualifier, expr)                                                                               \
    qualifier static void name(void *yv, const void *xv, int64_t n, const struct activation_attrs *at)               \
    {                                                                                                                \
        T *restrict y = yv;                                                                                          \
        const T *restrict src = xv;                                                                                  \
        const T a = (T)at->alpha, b = (T)at->beta, g = (T)at->gamma;                                                 \
        (void)a, (void)b, (void)g;                                                                                   \
        for (int64_t i = 0; i < n; i++) {                                                                            \
            const T x = src[i];                                                                                      \
            y[i] = (expr);                                                                                           \
        }                                                                                                            \
    }
#define KERNEL(name, expr32, expr64)                                                                                 \
    LOOP(name##_f32, float, KERNEL_CLONES, expr32)                                                                   \
    LOOP(name##_f64, double, , expr64)                                                                               \
    static const struct activation activation_##name = {name##_f32, name##_f64};

static inline float softplus32(float x)
{
    return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
}

static inline double softplus64(double x)
{
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

KERNEL(relu, x < 0 ? 0 : x, x < 0 ? 0 : x)
KERNEL(leaky_relu, x < 0 ? a * x : x, x < 0 ? a * x : x)
KERNEL(thresholded_relu, x > a ? x : 0, x > a ? x : 0)
KERNEL(shrink, x < -a ? x + b : x > a ? x - b : 0, x < -a ? x + b : x > a ? x - b : 0)
KERNEL(elu, x < 0 ? a * expm1f(x) : x, x < 0 ? a * expm1(x) : x)
KERNEL(celu, x < 0 ? a * expm1f(x / a) : x, x < 0 ? a * expm1(x / a) : x)
KERNEL(selu, g * (x > 0 ? x : a * expm1f(x)), g * (x > 0 ? x : a * expm1(x)))
KERNEL(sigmoid, 1 / (1 + vmath_exp(-x)), 1 / (1 + exp(-x)))
KERNEL(swish, x / (1 + vmath_exp(-a * x)), x / (1 + exp(-a * x)))
KERNEL(tanh, tanhf(x), tanh(x))
KERNEL(erf, erff(x), erf(x))
KERNEL(softplus, softplus32(x), softplus64(x))
KERNEL(softsign, x / (1 + fabsf(x)), x / (1 + fabs(x)))
KERNEL(mish, x * tanhf(softplus32(x)), x * tanh(softplus64(x)))
KERNEL(gelu_erf, 0.5f * x * (1 + erff(x * 0.70710678118654752f)), 0.5 * x * (1 + erf(x * 0.70710678118654752)))
KERNEL(gelu_tanh, 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))),
       0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))))

static inline float hard_sigmoid32(float x, float a, float b)
{
    const float v = a * x + b;
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

static inline double hard_sigmoid64(double x, double a, double b)
{
    const double v = a * x + b;
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

KERNEL(hard_sigmoid, hard_sigmoid32(x, a, b), hard_sigmoid64(x, a, b))
KERNEL(hard_swish, x *hard_sigmoid32(x, 1.0f / 6, 0.5f), x *hard_sigmoid64(x, 1.0 / 6, 0.5))

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

#define FORWARD(name, infer)                                                                                         \
    static int compute_##name(struct run_ctx *c, struct err *err) { return run(c, &activation_##name, err); }        \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                    \
    {                                                                                                                \
        return op_run_widened(c, infer, compute_##name, err);                                                        \
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

/* ---- rows ---- */
#define NO_ATTRS .attrs = NULL
#define ATTRS(table) .attrs = table, .attrs_size = sizeof(struct activation_attrs)
#define ALPHA(value) {OP_ATTR(activation_attrs, alpha), .kind = OP_FLOAT, .def_f = (value)}
#define BETA(value) {OP_ATTR(activation_attrs, beta), .kind = OP_FLOAT, .def_f = (value)}
#define GAMMA(value) {OP_ATTR(activation_attrs, gamma), .kind = OP_FLOAT, .def_f = (value)}

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
static const struct op_sample shrink_samples[] = {
    {"f32[2,3,5]", NULL}, {"f32[2,3,5]", "lambd=0.8f bias=0.3f"}, {NULL}};
static const struct op_sample gelu_samples[] = {{"f32[2,3,5]", NULL}, {"f32[2,3,5]", "approximate=tanh"}, {NULL}};

#define ACTIVATION(type_, since_, name, attrs_, ...)                                                                 \
    {.type = type_, .domain = "", .since = since_, .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1, attrs_,     \
     .infer = infer, .forward = forward_##name, __VA_ARGS__}

OP_CLASS(relu) = {.type = "Relu",
                  .domain = "",
                  .since = 1,
                  .in_min = 1,
                  .in_max = 1,
                  .out_min = 1,
                  .out_max = 1,
                  .doc = "max(x, 0).",
                  .infer = infer_relu,
                  .forward = forward_relu,
                  .quant = {QUANT_ABSORB},
                  .samples = relu_samples};
OP_CLASS(leaky_relu) = ACTIVATION("LeakyRelu", 1, leaky_relu, ATTRS(leaky_attrs),
                                  .doc = "x, or alpha x where negative.", .quant = {QUANT_OUTPUT},
                                  .samples = alpha_samples);
OP_CLASS(thresholded_relu) = ACTIVATION("ThresholdedRelu", 10, thresholded_relu, ATTRS(one_attrs),
                                        .doc = "x where above alpha, else 0.", .samples = alpha_samples);
OP_CLASS(shrink) = ACTIVATION("Shrink", 9, shrink, ATTRS(shrink_attrs),
                              .doc = "x moved towards 0 by bias, or 0 within [-lambd, lambd].",
                              .samples = shrink_samples);
OP_CLASS(elu) = ACTIVATION("Elu", 1, elu, ATTRS(one_attrs), .doc = "x, or alpha (e^x - 1) where negative.",
                           .samples = alpha_samples);
OP_CLASS(celu) = {.type = "Celu", .domain = "", .since = 12, .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1,
                  ATTRS(one_attrs), .doc = "x, or alpha (e^(x / alpha) - 1) where negative.", .infer = infer_celu,
                  .forward = forward_celu, .samples = alpha_samples};
OP_CLASS(selu_1) = ACTIVATION("Selu", 1, selu, ATTRS(selu_attrs_1), .until = 5, .doc = "gamma times an Elu.",
                              .samples = selu_samples);
OP_CLASS(selu_6) = ACTIVATION("Selu", 6, selu, ATTRS(selu_attrs_6), .doc = "gamma times an Elu.",
                              .samples = selu_samples);
OP_CLASS(sigmoid) = ACTIVATION("Sigmoid", 1, sigmoid, NO_ATTRS, .doc = "1 / (1 + e^-x).", .quant = {QUANT_OUTPUT},
                               .samples = plain_samples);
OP_CLASS(swish) = ACTIVATION("Swish", 24, swish, ATTRS(one_attrs), .doc = "x times the sigmoid of alpha x.",
                              .samples = alpha_samples);
OP_CLASS(tanh) = ACTIVATION("Tanh", 1, tanh, NO_ATTRS, .doc = "Hyperbolic tangent.", .samples = plain_samples);
OP_CLASS(erf) = ACTIVATION("Erf", 9, erf, NO_ATTRS, .doc = "Error function.", .samples = plain_samples);
OP_CLASS(softplus) = ACTIVATION("Softplus", 1, softplus, NO_ATTRS, .doc = "log(1 + e^x).", .samples = plain_samples);
OP_CLASS(softsign) = ACTIVATION("Softsign", 1, softsign, NO_ATTRS, .doc = "x / (1 + |x|).", .samples = plain_samples);
OP_CLASS(mish) = ACTIVATION("Mish", 18, mish, NO_ATTRS, .doc = "x tanh(softplus(x)).", .samples = plain_samples);
OP_CLASS(hard_sigmoid) = ACTIVATION("HardSigmoid", 1, hard_sigmoid, ATTRS(hard_sigmoid_attrs),
                                    .doc = "alpha x + beta, held in [0, 1].", .samples = hard_sigmoid_samples);
OP_CLASS(hard_swish) = ACTIVATION("HardSwish", 14, hard_swish, NO_ATTRS,
                                  .doc = "x times the HardSigmoid with 1/6 and 1/2.", .samples = plain_samples);
OP_CLASS(gelu) = ACTIVATION("Gelu", 20, gelu, ATTRS(gelu_attrs), .doc = "x times the normal distribution function.",
                            .samples = gelu_samples);
