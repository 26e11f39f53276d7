/* SPDX-License-Identifier: Apache-2.0
 * The GELU family of com.microsoft, and the sums that come with it. With s = x, or x + bias along the last axis:
 *   Gelu, BiasGelu  s Phi(s), Phi the normal distribution function
 *   FastGelu        s (1 + tanh(sqrt(2/pi) (s + 0.044715 s^3))) / 2
 *   QuickGelu       s / (1 + exp(-alpha s))
 *   BiasSplitGelu   left half of the last axis times Gelu of the right half
 *   BiasAdd         x + bias + skip
 * Each row of the last axis is one call of a kernel; bias may be absent. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"
#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

enum { GRAIN = 1 << 14 };

struct gelu_attrs {
    float alpha;
};
static const struct op_attr quick_attrs[] = {{OP_ATTR(gelu_attrs, alpha), .kind = OP_FLOAT, .def_f = 1.702f}, {NULL}};

typedef void row_fn(void *y, const void *x, const void *bias, int64_t n, double alpha);
struct family {
    row_fn *f32, *f64;
};

/* s: x plus the bias; a: alpha. */
#define LOOP(name, T, qualifier, expr)                                                                                 \
    qualifier static void name(void *yv, const void *xv, const void *bv, int64_t n, double alpha)                      \
    {                                                                                                                  \
        T *restrict y = yv;                                                                                            \
        const T *restrict x = xv, *restrict bias = bv;                                                                 \
        const T a = (T)alpha;                                                                                          \
        (void)a;                                                                                                       \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T s = bias ? x[i] + bias[i] : x[i];                                                                  \
            y[i] = (expr);                                                                                             \
        }                                                                                                              \
    }
#define KERNEL(name, expr32, expr64)                                                                                   \
    LOOP(name##_f32, float, KERNEL_CLONES, expr32)                                                                     \
    LOOP(name##_f64, double, , expr64)                                                                                 \
    static const struct family family_##name = {name##_f32, name##_f64};

/* tanh(u) = 2 / (1 + exp(-2u)) - 1, so the tanh form is s / (1 + exp(-2u)). */
KERNEL(gelu, 0.5f * s * (1 + erff(s * 0.70710678118654752f)), 0.5 * s * (1 + erf(s * 0.70710678118654752)))
KERNEL(fast_gelu, s / (1 + vmath_exp(-1.5957691216057308f * (s + 0.044715f * s * s * s))),
       s / (1 + exp(-1.5957691216057308 * (s + 0.044715 * s * s * s))))
KERNEL(quick_gelu, s / (1 + vmath_exp(-a * s)), s / (1 + exp(-a * s)))
KERNEL(sum, s, s)

struct loop {
    row_fn *fn;
    char *y;
    const char *x, *bias;
    int64_t row; /* elements of a row; 0: rows do not matter */
    size_t elem;
    double alpha;
};

static void run_rows(void *arg, int64_t begin, int64_t end)
{
    const struct loop *l = arg;
    for (int64_t i = begin; i < end; i++)
        l->fn(l->y + (size_t)(i * l->row) * l->elem, l->x + (size_t)(i * l->row) * l->elem, l->bias, l->row, l->alpha);
}

static void run_flat(void *arg, int64_t begin, int64_t end)
{
    const struct loop *l = arg;
    l->fn(l->y + (size_t)begin * l->elem, l->x + (size_t)begin * l->elem, NULL, end - begin, l->alpha);
}

static int run(struct run_ctx *c, const struct family *k, double alpha, struct err *err)
{
    const struct tensor *x = c->in[0], *bias = run_in(c, 1);
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(x) == 0)
        return 0;
    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s are not supported", dtype_name(x->dtype));
    const bool wide = x->dtype == DTYPE_DOUBLE;
    struct loop l = {.fn = wide ? k->f64 : k->f32,
                     .y = y->data,
                     .x = x->data,
                     .bias = bias ? bias->data : NULL,
                     .elem = wide ? sizeof(double) : sizeof(float),
                     .alpha = alpha};
    if (!bias) {
        op_parallel(c->pool, tensor_count(x), GRAIN, run_flat, &l);
        return 0;
    }
    l.row = x->shape.dim[x->shape.rank - 1];
    op_parallel(c->pool, tensor_count(x) / l.row, i64_max(1, GRAIN / l.row), run_rows, &l);
    return 0;
}

/* Input #1, if there, is a vector as long as the last axis of input #0. */
static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    char text[SHAPE_TEXT];

    if (op_need(c, 1, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    if (infer_has(c, 1) && infer_shape(c, 0)->rank >= 0 && infer_shape(c, 1)->rank >= 0) {
        const struct shape *x = infer_shape(c, 0), *b = infer_shape(c, 1);
        const int64_t want = x->rank ? x->dim[x->rank - 1] : 0;
        if (x->rank == 0)
            return err_set(err, ERR_SHAPE, "the input is a scalar; with a bias it must have a last axis");
        if (b->rank != 1 || (want >= 0 && b->dim[0] >= 0 && b->dim[0] != want))
            return err_set(err, ERR_SHAPE, "the bias has shape %s; it must be [%" PRId64 "], as the input's last axis",
                           shape_text(b, text), want);
    }
    return op_infer_same(c, err);
}

static int infer_bias(struct infer_ctx *c, struct err *err)
{
    return op_need(c, 2, err) < 0 ? -1 : infer(c, err);
}

/* ---- BiasAdd ---- */
static int infer_bias_add(struct infer_ctx *c, struct err *err)
{
    char x[SHAPE_TEXT], skip[SHAPE_TEXT];

    if (op_need(c, 3, err) < 0 || infer(c, err) < 0)
        return -1;
    const struct shape *a = infer_shape(c, 0), *b = infer_shape(c, 2);
    bool fits = a->rank < 0 || b->rank < 0 || a->rank == b->rank;
    for (int i = 0; fits && a->rank >= 0 && i < b->rank; i++)
        fits = a->dim[i] < 0 || b->dim[i] < 0 || a->dim[i] == b->dim[i];
    return fits ? 0
                : err_set(err, ERR_SHAPE, "the skip input has shape %s; it must be the input's %s", shape_text(b, skip),
                          shape_text(a, x));
}

static int compute_bias_add(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0);

    if (run(c, &family_sum, 0, err) < 0)
        return -1;
    for (int64_t i = 0, n = y ? tensor_count(y) : 0; i < n; i++) {
        if (y->dtype == DTYPE_FLOAT)
            ((float *)y->data)[i] += ((const float *)c->in[2]->data)[i];
        else
            ((double *)y->data)[i] += ((const double *)c->in[2]->data)[i];
    }
    return 0;
}

/* ---- BiasSplitGelu ---- */
static int infer_split(struct infer_ctx *c, struct err *err)
{
    if (infer_bias(c, err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    if (out.rank > 0 && out.dim[out.rank - 1] >= 0 && out.dim[out.rank - 1] % 2 != 0)
        return err_set(err, ERR_SHAPE, "the last axis has %" PRId64 " elements; it must be even to be split in two",
                       out.dim[out.rank - 1]);
    if (out.rank > 0)
        out.dim[out.rank - 1] = out.dim[out.rank - 1] < 0 ? DIM_UNKNOWN : out.dim[out.rank - 1] / 2;
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int compute_split(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *bias = c->in[1];
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(y) == 0)
        return 0;
    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s are not supported", dtype_name(x->dtype));
    const int64_t half = y->shape.dim[y->shape.rank - 1], rows = tensor_count(y) / half;
    for (int64_t i = 0; i < rows * half; i++) {
        const int64_t r = i / half, j = i % half;
        const double left = dtype_get(x->dtype, x->data, r * 2 * half + j) + dtype_get(x->dtype, bias->data, j);
        const double right =
            dtype_get(x->dtype, x->data, (r * 2 + 1) * half + j) + dtype_get(x->dtype, bias->data, half + j);
        dtype_set(y->dtype, y->data, i, left * (0.5 * right * (1 + erf(right * 0.70710678118654752))));
    }
    return 0;
}

#define FORWARD(name, infer_fn, expr)                                                                                  \
    static int compute_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return expr;                                                                                                   \
    }                                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return op_run_widened(c, infer_fn, compute_##name, err);                                                       \
    }
FORWARD(gelu, infer, run(c, &family_gelu, 0, err))
FORWARD(bias_gelu, infer_bias, run(c, &family_gelu, 0, err))
FORWARD(fast_gelu, infer, run(c, &family_fast_gelu, 0, err))
FORWARD(quick_gelu, infer, run(c, &family_quick_gelu, (double)((const struct gelu_attrs *)c->attrs)->alpha, err))

static int forward_bias_add(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_bias_add, compute_bias_add, err);
}

static int forward_split(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_split, compute_split, err);
}

/* ---- gradients: g f'(s), the bias's summed over the rows ---- */
static inline double slope_gelu(double s)
{
    return 0.5 * (1 + erf(s * 0.70710678118654752)) + s * 0.39894228040143268 * exp(-0.5 * s * s);
}

/* s sigmoid(u(s)) has the slope sigma + s sigma (1 - sigma) u'. */
static inline double slope_gated(double s, double u, double du)
{
    const double sigma = 1 / (1 + exp(-u));
    return sigma + s * sigma * (1 - sigma) * du;
}

static inline double slope_fast(double s)
{
    const double k = 1.5957691216057308;
    return slope_gated(s, k * (s + 0.044715 * s * s * s), k * (1 + 3 * 0.044715 * s * s));
}

/* In the terms a is x, b the bias. */
GRAD_TERM(gelu, void, (double)g *slope_gelu((double)a))
GRAD_TERM(bias_gelu, void, (double)g *slope_gelu((double)a + (double)b))
GRAD_TERM(fast, void, (double)g *slope_fast((double)a))
GRAD_TERM(bias_fast, void, (double)g *slope_fast((double)a + (double)b))
GRAD_TERM(quick, struct gelu_attrs, (double)g *slope_gated((double)a, (double)p->alpha *(double)a, (double)p->alpha))

/* Terms of x and, where there is a bias, of both. */
static int back(struct grad_ctx *c, const struct grad_term *plain, const struct grad_term *biased, struct err *err)
{
    const struct tensor *g = grad_of(c, 0), *bias = c->n_in > 1 ? c->in[1] : NULL;
    for (int i = 0; i < c->n_in && g; i++) {
        const struct grad_broadcast sum = {.over = &g->shape,
                                           .dst = c->grad_in[i],
                                           .assign = grad_assign(c, i),
                                           .src = {g, plain ? c->in[0] : NULL, plain ? bias : NULL},
                                           .term = bias ? biased : plain,
                                           .arg = c->attrs};
        if (c->grad_in[i] && grad_sum_broadcast(c->pool, &sum, err) < 0)
            return -1;
    }
    return 0;
}

#define BACKWARD(name, plain, biased)                                                                                  \
    static int backward_##name(struct grad_ctx *c, struct err *err)                                                    \
    {                                                                                                                  \
        return back(c, plain, biased, err);                                                                            \
    }
BACKWARD(gelu, &grad_gelu, &grad_bias_gelu)
BACKWARD(fast_gelu, &grad_fast, &grad_bias_fast)
BACKWARD(quick_gelu, &grad_quick, NULL)
BACKWARD(bias_add, NULL, NULL)
#define GRADIENT(name, reads) .backward = backward_##name, .grad_reads = reads, .grad_inputs = 7, .grad_assigns = true
#define READS_BOTH (GRAD_READS_IN(0) | GRAD_READS_IN(1))

#define ROW(type_, min_, max_, rule_, infer_, forward_, ...)                                                           \
    {                                                                                                                  \
        .type = type_, .domain = "com.microsoft", .since = 1, .in_min = min_, .in_max = max_, .out_min = 1,            \
        .out_max = 1, .couple = couple_##rule_, .infer = infer_, .forward = forward_, __VA_ARGS__                      \
    }
#define SAMPLES(...)                                                                                                   \
    .samples = (const struct op_sample[])                                                                              \
    {                                                                                                                  \
        __VA_ARGS__,                                                                                                   \
        {                                                                                                              \
            NULL                                                                                                       \
        }                                                                                                              \
    }

OP_CLASS(ms_gelu) = ROW("Gelu", 1, 1, elementwise, infer, forward_gelu, GRADIENT(gelu, READS_BOTH), .in_place = 1,
                        .quant = {QUANT_OPTIONAL}, .doc = "x times the normal distribution function.",
                        SAMPLES({"f32[2,3,40]"}, {"f32[]"}, {"f32[6]=nan,inf,-30,0,1e30,-0.0"}));
OP_CLASS(bias_gelu) = ROW("BiasGelu", 2, 2, elementwise, infer_bias, forward_bias_gelu, GRADIENT(gelu, READS_BOTH),
                          .doc = "Gelu of x + bias.", SAMPLES({"f32[2,3,40] !f32[40]"}, {"f32[5] f32[5]"}));
OP_CLASS(fast_gelu) = ROW("FastGelu", 1, 2, elementwise, infer, forward_fast_gelu, GRADIENT(fast_gelu, READS_BOTH),
                          .doc = "Gelu in its tanh form, of x + bias.",
                          SAMPLES({"f32[2,3,40] !f32[40]"}, {"f32[7,9]"}, {"f32[4]=nan,30,0,1e30"}));
OP_CLASS(quick_gelu) = ROW("QuickGelu", 1, 1, elementwise, infer, forward_quick_gelu, GRADIENT(quick_gelu, READS_BOTH),
                           .doc = "x sigmoid(alpha x).", .attrs = quick_attrs, .attrs_size = sizeof(struct gelu_attrs),
                           .in_place = 1, SAMPLES({"f32[2,3,40]"}, {"f32[7,9]", "alpha=0.5f"}));
OP_CLASS(bias_add) = ROW("BiasAdd", 3, 3, elementwise, infer_bias_add, forward_bias_add, GRADIENT(bias_add, 0),
                         .doc = "x + bias + skip.", SAMPLES({"f32[2,3,8] !f32[8] f32[2,3,8]"}));
/* y[i] from x[i] and x[i + n]. */
static int couple_split(struct coupling *k, struct err *err)
{
    (void)err;
    couple_same_but(k, IN(0), OUT(0), -1);
    couple_strided(k, OUT(0), -1, IN(0), -1);
    if (couple_size(k, OUT(0), -1) <= 1)
        couple_freeze(k, IN(0), -1, "both halves make one element");
    couple_axes(k, IN(1), -1, IN(0), -1);
    return 0;
}

OP_CLASS(bias_split_gelu) = ROW("BiasSplitGelu", 2, 2, split, infer_split, forward_split,
                                .doc = "Left half of x + bias times Gelu of the right half.",
                                SAMPLES({"f32[2,3,8] !f32[8]"}));
