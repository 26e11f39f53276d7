/* SPDX-License-Identifier: Apache-2.0
 * Operators of one operand, element by element: y[i] = f(x[i]). Kernels exist for float32, double and int64; float16
 * and bfloat16 go through float32, other integers through int64, piece by piece on the stack. Integers wrap (Abs of
 * INT_MIN is INT_MIN). Round goes to the nearest even. Not, IsNaN, IsInf give bool. */
#include <tgmath.h>

#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"
#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

enum { GRAIN = 1 << 14, PIECE = 512 };

typedef void unary_fn(void *d, const void *s, int64_t n);
struct unary {
    unary_fn *f32, *f64, *i64;
    bool to_bool;
};

#define KERNEL(name, T, R, expr)                                                                                       \
    KERNEL_CLONES static void name(void *dv, const void *sv, int64_t n)                                                \
    {                                                                                                                  \
        R *d = dv;                                                                                                     \
        const T *s = sv;                                                                                               \
        _Pragma("GCC ivdep") /* d may be s */                                                                          \
            for (int64_t i = 0; i < n; i++)                                                                            \
        {                                                                                                              \
            const T x = s[i];                                                                                          \
            d[i] = (R)(expr);                                                                                          \
        }                                                                                                              \
    }
#define FLOATS(name, expr32, expr64)                                                                                   \
    KERNEL(name##_f32, float, float, expr32)                                                                           \
    KERNEL(name##_f64, double, double, expr64)                                                                         \
    static const struct unary unary_##name = {.f32 = name##_f32, .f64 = name##_f64};
#define NUMBERS(name, expr32, expr64, exprint)                                                                         \
    KERNEL(name##_f32, float, float, expr32)                                                                           \
    KERNEL(name##_f64, double, double, expr64)                                                                         \
    KERNEL(name##_i64, int64_t, int64_t, exprint)                                                                      \
    static const struct unary unary_##name = {.f32 = name##_f32, .f64 = name##_f64, .i64 = name##_i64};

/* float32 by a kernel of its own. */
#define VECTOR_FLOATS(name, kind, expr64)                                                                              \
    static void name##_f32(void *d, const void *s, int64_t n)                                                          \
    {                                                                                                                  \
        vmath_f32(kind, s, n, d);                                                                                      \
    }                                                                                                                  \
    KERNEL(name##_f64, double, double, expr64)                                                                         \
    static const struct unary unary_##name = {.f32 = name##_f32, .f64 = name##_f64};

VECTOR_FLOATS(exp, VMATH_EXP, exp(x))
VECTOR_FLOATS(log, VMATH_LOG, log(x))
FLOATS(sqrt, sqrtf(x), sqrt(x))
FLOATS(reciprocal, 1.0f / x, 1.0 / x)
FLOATS(floor, floorf(x), floor(x))
FLOATS(ceil, ceilf(x), ceil(x))
FLOATS(round, nearbyintf(x), nearbyint(x))
FLOATS(sin, sinf(x), sin(x))
FLOATS(cos, cosf(x), cos(x))
FLOATS(tan, tanf(x), tan(x))
FLOATS(asin, asinf(x), asin(x))
FLOATS(acos, acosf(x), acos(x))
FLOATS(atan, atanf(x), atan(x))
FLOATS(sinh, sinhf(x), sinh(x))
FLOATS(cosh, coshf(x), cosh(x))
FLOATS(asinh, asinhf(x), asinh(x))
FLOATS(acosh, acoshf(x), acosh(x))
FLOATS(atanh, atanhf(x), atanh(x))
NUMBERS(abs, fabsf(x), fabs(x), x < 0 ? 0 - (uint64_t)x : (uint64_t)x)
NUMBERS(neg, -x, -x, 0 - (uint64_t)x)
NUMBERS(sign, isnan(x) ? x : (float)((x > 0) - (x < 0)), isnan(x) ? x : (double)((x > 0) - (x < 0)), (x > 0) - (x < 0))
KERNEL(invert_i64, int64_t, int64_t, ~x)
static const struct unary unary_invert = {.i64 = invert_i64};
KERNEL(not_i64, int64_t, uint8_t, !x)
static const struct unary unary_not = {.i64 = not_i64, .to_bool = true};
KERNEL(isnan_f32, float, uint8_t, isnan(x))
KERNEL(isnan_f64, double, uint8_t, isnan(x))
static const struct unary unary_isnan = {.f32 = isnan_f32, .f64 = isnan_f64, .to_bool = true};
/* Bit 0: negative infinity counts, bit 1: positive. */
#define ISINF(which, expr)                                                                                             \
    KERNEL(isinf##which##_f32, float, uint8_t, expr)                                                                   \
    KERNEL(isinf##which##_f64, double, uint8_t, expr)
ISINF(0, ((void)x, 0))
ISINF(1, isinf(x) && x < 0)
ISINF(2, isinf(x) && x > 0)
ISINF(3, isinf(x))
static const struct unary unary_isinf[] = {{.f32 = isinf0_f32, .f64 = isinf0_f64, .to_bool = true},
                                           {.f32 = isinf1_f32, .f64 = isinf1_f64, .to_bool = true},
                                           {.f32 = isinf2_f32, .f64 = isinf2_f64, .to_bool = true},
                                           {.f32 = isinf3_f32, .f64 = isinf3_f64, .to_bool = true}};

/* ---- running ---- */
struct loop {
    unary_fn *fn;
    enum dtype from, carrier, to, carrier_to;
    const char *s;
    char *d;
    size_t elem_s, elem_d;
};

static void run_piece(void *opaque, int64_t begin, int64_t end)
{
    const struct loop *l = opaque;
    uint64_t buf_s[PIECE], buf_d[PIECE];
    if (l->from == l->carrier && l->to == l->carrier_to) {
        l->fn(l->d + (size_t)begin * l->elem_d, l->s + (size_t)begin * l->elem_s, end - begin);
        return;
    }
    for (int64_t at = begin; at < end; at += PIECE) {
        int64_t n = i64_min(PIECE, end - at);
        const void *s = l->s + (size_t)at * l->elem_s;
        void *d = l->d + (size_t)at * l->elem_d;
        if (l->from != l->carrier) {
            dtype_convert(l->carrier, buf_s, l->from, s, n);
            s = buf_s;
        }
        l->fn(l->to == l->carrier_to ? d : buf_d, s, n);
        if (l->to != l->carrier_to)
            dtype_convert(l->to, d, l->carrier_to, buf_d, n);
    }
}

static int run_unary(struct run_ctx *c, op_infer_fn *infer, const struct unary *op, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    enum dtype carrier = op_carrier(x->dtype);
    if (carrier == DTYPE_UINT64)
        carrier = DTYPE_INT64; /* same bits; only Abs and Sign care, which leave unsigned values alone (run_unsigned) */
    struct loop l = {.from = x->dtype, .carrier = carrier, .to = y->dtype, .s = x->data, .d = y->data};
    l.fn = carrier == DTYPE_FLOAT    ? op->f32
           : carrier == DTYPE_DOUBLE ? op->f64
           : carrier == DTYPE_INT64  ? op->i64
                                     : NULL;
    l.carrier_to = op->to_bool ? DTYPE_BOOL : carrier;
    l.elem_s = op_elem(x->dtype, err);
    l.elem_d = op_elem(y->dtype, err);
    if (!l.elem_s || !l.elem_d)
        return -1;
    if (!l.fn)
        return err_set(err, ERR_OPERATOR, "input #0 is %s; this type cannot be computed with", dtype_name(x->dtype));
    op_parallel(c->pool, tensor_count(x), GRAIN, run_piece, &l);
    return 0;
}

/* Values of uint64 above INT64_MAX are not negative. */
static int run_unsigned(struct run_ctx *c, bool sign, struct err *err)
{
    if (op_outputs(c, op_infer_same, err) < 0)
        return -1;
    const uint64_t *x = c->in[0]->data;
    struct tensor *y = run_out(c, 0);
    uint64_t *d = y ? y->data : NULL;
    for (int64_t i = 0; d && i < tensor_count(c->in[0]); i++)
        d[i] = sign ? x[i] != 0 : x[i];
    return 0;
}

static int infer_kinds(struct infer_ctx *c, const char *kinds, bool to_bool, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, kinds, err) < 0)
        return -1;
    infer_out(c, 0, to_bool ? DTYPE_BOOL : op_dtype(c, 0), infer_shape(c, 0));
    return 0;
}

#define UNARY_FNS(name, kinds)                                                                                         \
    static int infer_##name(struct infer_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return infer_kinds(c, kinds, unary_##name.to_bool, err);                                                       \
    }                                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return run_unary(c, infer_##name, &unary_##name, err);                                                         \
    }
UNARY_FNS(exp, "f")
UNARY_FNS(log, "f")
UNARY_FNS(sqrt, "f")
UNARY_FNS(reciprocal, "f")
UNARY_FNS(floor, "f")
UNARY_FNS(ceil, "f")
UNARY_FNS(round, "f")
UNARY_FNS(sin, "f")
UNARY_FNS(cos, "f")
UNARY_FNS(tan, "f")
UNARY_FNS(asin, "f")
UNARY_FNS(acos, "f")
UNARY_FNS(atan, "f")
UNARY_FNS(sinh, "f")
UNARY_FNS(cosh, "f")
UNARY_FNS(asinh, "f")
UNARY_FNS(acosh, "f")
UNARY_FNS(atanh, "f")
UNARY_FNS(neg, "fi")
UNARY_FNS(invert, "iu")
UNARY_FNS(not, "b")
UNARY_FNS(isnan, "f")

static int infer_number(struct infer_ctx *c, struct err *err)
{
    return infer_kinds(c, "fiu", false, err);
}
static int forward_abs(struct run_ctx *c, struct err *err)
{
    return c->in[0]->dtype == DTYPE_UINT64 ? run_unsigned(c, false, err) : run_unary(c, infer_number, &unary_abs, err);
}
static int forward_sign(struct run_ctx *c, struct err *err)
{
    return c->in[0]->dtype == DTYPE_UINT64 ? run_unsigned(c, true, err) : run_unary(c, infer_number, &unary_sign, err);
}

struct isinf_attrs {
    bool detect_negative, detect_positive;
};
static const struct op_attr isinf_attrs[] = {{OP_ATTR(isinf_attrs, detect_negative), .kind = OP_BOOL, .def = 1},
                                             {OP_ATTR(isinf_attrs, detect_positive), .kind = OP_BOOL, .def = 1},
                                             {0}};
static int infer_isinf(struct infer_ctx *c, struct err *err)
{
    return infer_kinds(c, "f", true, err);
}
static int forward_isinf(struct run_ctx *c, struct err *err)
{
    const struct isinf_attrs *attrs = c->attrs;
    return run_unary(c, infer_isinf, &unary_isinf[(attrs->detect_negative ? 1 : 0) + (attrs->detect_positive ? 2 : 0)],
                     err);
}

/* ---- gradients: of x, of y, or none, and zero ---- */
#define UNARY_GRAD_FN(name, source, term)                                                                              \
    static int backward_##name(struct grad_ctx *c, struct err *err)                                                    \
    {                                                                                                                  \
        return backward(c, source, term, err);                                                                         \
    }
#define GRAD_OF_X(name, expr)                                                                                          \
    GRAD_TERM(name, void, expr)                                                                                        \
    UNARY_GRAD_FN(name, c->in[0], &grad_##name)
#define GRAD_OF_Y(name, expr)                                                                                          \
    GRAD_TERM(name, void, expr)                                                                                        \
    UNARY_GRAD_FN(name, c->out[0], &grad_##name)

static int backward(struct grad_ctx *c, const struct tensor *source, const struct grad_term *term, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    if (!dst)
        return 0;
    if (!g) {
        grad_zero(c, 0);
        return 0;
    }
    const struct grad_broadcast sum = {
        .over = &g->shape, .src = {g, source}, .dst = dst, .term = term, .assign = grad_assign(c, 0)};
    return grad_sum_broadcast(c->pool, &sum, err);
}

/* In the terms a is x (GRAD_OF_X) or y (GRAD_OF_Y). */
GRAD_OF_Y(exp, g *a)
GRAD_OF_X(log, g / a)
GRAD_OF_Y(sqrt, g / (2 * a))
GRAD_OF_Y(reciprocal, -g *a *a)
GRAD_OF_X(sin, g *cos(a))
GRAD_OF_X(cos, -g *sin(a))
GRAD_OF_Y(tan, g *(1 + a * a))
GRAD_OF_X(asin, g / sqrt(1 - a * a))
GRAD_OF_X(acos, -g / sqrt(1 - a * a))
GRAD_OF_X(atan, g / (1 + a * a))
GRAD_OF_X(sinh, g *cosh(a))
GRAD_OF_X(cosh, g *sinh(a))
GRAD_OF_X(asinh, g / sqrt(a * a + 1))
GRAD_OF_X(acosh, g / sqrt(a * a - 1))
GRAD_OF_X(atanh, g / (1 - a * a))
GRAD_OF_X(abs, a > 0 ? g : a < 0 ? -g : 0)
GRAD_TERM(neg, void, -g)
UNARY_GRAD_FN(neg, NULL, &grad_neg)

/* Steps are flat everywhere but at their edges. */
static int backward_flat(struct grad_ctx *c, struct err *err)
{
    (void)err;
    grad_zero(c, 0);
    return 0;
}

/* ---- rows ---- */
static const struct op_sample any[] = {{"f32[2,3,4]", ""}, {"f32[]=0.5", ""}, {"f64[3]", ""}, {0}};
static const struct op_sample exact[] = {
    {"f32[2,3]", ""}, {"f64[3]", ""}, {"f16[5]=-1.5,0.5,1.5,2.5,-2.5", ""}, {"f32[0]", ""}, {0}};
static const struct op_sample positive[] = {{"f32[2,3]=0.1,0.5,1,2,3,40", ""}, {"f64[2]=1,2", ""}, {0}};
static const struct op_sample unit[] = {{"f32[2,3]=-0.9,-0.5,0,0.3,0.5,0.9", ""}, {0}};
static const struct op_sample above_one[] = {{"f32[4]=1,1.5,2,10", ""}, {0}};
static const struct op_sample integers[] = {
    {"f32[2,3]", ""}, {"i32[4]=-3,0,4,7", ""}, {"i64[3]=-9,8,0", ""}, {"i8[3]=-9,8,0", ""}, {0}};

#define UNARY(type_, since_, fn, infer_, samples_, doc_, ...)                                                          \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .doc = doc_, .in_min = 1, .in_max = 1, .out_min = 1,             \
        .out_max = 1, .infer = infer_, .forward = fn, .in_place = 1, .couple = couple_elementwise,                     \
        .samples = samples_, __VA_ARGS__                                                                               \
    }
#define UNARY_GRAD(name, reads) .backward = backward_##name, .grad_reads = reads, .grad_inputs = 1, .grad_assigns = true
enum { OF_X = GRAD_READS_IN(0), OF_Y = GRAD_READS_OUT(0) };

OP_CLASS(abs) = UNARY("Abs", 1, forward_abs, infer_number, integers, "Absolute value.", UNARY_GRAD(abs, OF_X));
OP_CLASS(neg) = UNARY("Neg", 1, forward_neg, infer_neg, integers, "The negative of x.", UNARY_GRAD(neg, 0));
OP_CLASS(sign) = UNARY("Sign", 9, forward_sign, infer_number, integers, "-1, 0 or 1.", UNARY_GRAD(flat, 0));
OP_CLASS(exp) = UNARY("Exp", 1, forward_exp, infer_exp, any, "e to the power x.", UNARY_GRAD(exp, OF_Y));
OP_CLASS(log) = UNARY("Log", 1, forward_log, infer_log, positive, "Natural logarithm.", UNARY_GRAD(log, OF_X));
OP_CLASS(sqrt) = UNARY("Sqrt", 1, forward_sqrt, infer_sqrt, positive, "Square root.", UNARY_GRAD(sqrt, OF_Y));
OP_CLASS(reciprocal) = UNARY("Reciprocal", 1, forward_reciprocal, infer_reciprocal, positive, "1 / x.",
                             UNARY_GRAD(reciprocal, OF_Y));
OP_CLASS(floor) = UNARY("Floor", 1, forward_floor, infer_floor, exact, "Largest integer not above x.",
                        .propagate = op_sizes_same, UNARY_GRAD(flat, 0));
OP_CLASS(ceil) = UNARY("Ceil", 1, forward_ceil, infer_ceil, exact, "Smallest integer not below x.",
                       .propagate = op_sizes_same, UNARY_GRAD(flat, 0));
OP_CLASS(round) = UNARY("Round", 11, forward_round, infer_round, exact, "Nearest integer, halves to even.",
                        UNARY_GRAD(flat, 0));
OP_CLASS(sin) = UNARY("Sin", 7, forward_sin, infer_sin, any, "Sine.", UNARY_GRAD(sin, OF_X));
OP_CLASS(cos) = UNARY("Cos", 7, forward_cos, infer_cos, any, "Cosine.", UNARY_GRAD(cos, OF_X));
OP_CLASS(tan) = UNARY("Tan", 7, forward_tan, infer_tan, unit, "Tangent.", UNARY_GRAD(tan, OF_Y));
OP_CLASS(asin) = UNARY("Asin", 7, forward_asin, infer_asin, unit, "Inverse sine.", UNARY_GRAD(asin, OF_X));
OP_CLASS(acos) = UNARY("Acos", 7, forward_acos, infer_acos, unit, "Inverse cosine.", UNARY_GRAD(acos, OF_X));
OP_CLASS(atan) = UNARY("Atan", 7, forward_atan, infer_atan, unit, "Inverse tangent.", UNARY_GRAD(atan, OF_X));
OP_CLASS(sinh) = UNARY("Sinh", 9, forward_sinh, infer_sinh, unit, "Hyperbolic sine.", UNARY_GRAD(sinh, OF_X));
OP_CLASS(cosh) = UNARY("Cosh", 9, forward_cosh, infer_cosh, unit, "Hyperbolic cosine.", UNARY_GRAD(cosh, OF_X));
OP_CLASS(asinh) = UNARY("Asinh", 9, forward_asinh, infer_asinh, unit, "Inverse hyperbolic sine.",
                        UNARY_GRAD(asinh, OF_X));
OP_CLASS(acosh) = UNARY("Acosh", 9, forward_acosh, infer_acosh, above_one, "Inverse hyperbolic cosine.",
                        UNARY_GRAD(acosh, OF_X));
OP_CLASS(atanh) = UNARY("Atanh", 9, forward_atanh, infer_atanh, unit, "Inverse hyperbolic tangent.",
                        UNARY_GRAD(atanh, OF_X));
OP_CLASS(logical_not) = UNARY("Not", 1, forward_not, infer_not, ((const struct op_sample[]){{"b[2,3]", ""}, {0}}),
                              "Logical not.", .backward = NULL);
OP_CLASS(bitwise_not) = UNARY("BitwiseNot", 18, forward_invert, infer_invert,
                              ((const struct op_sample[]){{"i32[3]=1,-2,3", ""}, {"u8[4]", ""}, {0}}),
                              "Every bit inverted.", .backward = NULL);
OP_CLASS(is_nan) = UNARY("IsNaN", 9, forward_isnan, infer_isnan,
                         ((const struct op_sample[]){{"f32[4]=nan,1,inf,-inf", ""}, {"f64[2]=nan,0", ""}, {0}}),
                         "x is not a number.", .backward = NULL);
OP_CLASS(is_inf) = {.type = "IsInf",
                    .domain = "",
                    .since = 10,
                    .doc = "x is infinite, of the signs asked for.",
                    .in_min = 1,
                    .in_max = 1,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = isinf_attrs,
                    .attrs_size = sizeof(struct isinf_attrs),
                    .infer = infer_isinf,
                    .forward = forward_isinf,
                    .couple = couple_elementwise,
                    .samples = (const struct op_sample[]){{"f32[4]=nan,1,inf,-inf", ""},
                                                          {"f32[4]=nan,1,inf,-inf", "detect_positive=0"},
                                                          {"f64[3]=inf,-inf,0", "detect_negative=0"},
                                                          {0}}};
