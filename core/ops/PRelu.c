/* SPDX-License-Identifier: Apache-2.0
 * PRelu: y = x, or slope * x where x is negative.
 * Slope      Since opset 7 it broadcasts to x one way. Before, it is one value, or one a channel (axis 1). */
#include "core/kernels/simd.h"
#include "core/ops/couple_rules.h"
#include "core/ops/elementwise.h"
#include "core/ops/widen.h"

/* The slope's shape as it broadcasts: before opset 7 a vector [C] stands for axis 1. */
static struct shape slope_shape(int opset, const struct shape *x, const struct shape *slope)
{
    struct shape s = *slope;
    if (opset < 7 && slope->rank == 1 && slope->dim[0] != 1 && x->rank > 2) {
        s = (struct shape){.rank = x->rank - 1};
        for (int i = 1; i < s.rank; i++)
            s.dim[i] = 1;
        s.dim[0] = slope->dim[0];
    }
    return s;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape both;
    char x_text[SHAPE_TEXT], s_text[SHAPE_TEXT];

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *s = infer_shape(c, 1);
    if (x->rank != SHAPE_UNKNOWN_RANK && s->rank != SHAPE_UNKNOWN_RANK) {
        const struct shape slope = slope_shape(c->opset, x, s);
        if (!shape_broadcast(x, &slope, &both) || (shape_known(x) && shape_known(s) && !shape_equal(&both, x)))
            return err_set(err, ERR_SHAPE, "the slope has shape %s; it must broadcast to the input's %s",
                           shape_text(s, s_text), shape_text(x, x_text));
    }
    infer_out(c, 0, dtype, x);
    return 0;
}

#define SLOPES(name, T)                                                                                                \
    KERNEL_CLONES static void name(void *dv, const void *xv, const void *sv, int64_t n, int64_t sx, int64_t ss)        \
    {                                                                                                                  \
        T *d = dv;                                                                                                     \
        const T *x = xv, *slope = sv;                                                                                  \
        if (sx && !ss) {                                                                                               \
            const T one = slope[0];                                                                                    \
            _Pragma("GCC ivdep") /* d may be x */                                                                      \
                for (int64_t i = 0; i < n; i++)                                                                        \
            {                                                                                                          \
                const T down = x[i] * one;                                                                             \
                d[i] = x[i] < 0 ? down : x[i];                                                                         \
            }                                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T v = x[i * sx];                                                                                     \
            d[i] = v < 0 ? v * slope[i * ss] : v;                                                                      \
        }                                                                                                              \
    }
SLOPES(slopes_f32, float)
SLOPES(slopes_f64, double)
static const struct binary slopes = {.f32 = slopes_f32, .f64 = slopes_f64};

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *s = c->in[1];
    struct tensor *y = run_out(c, 0);
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};

    if (!y)
        return 0;
    const struct shape slope = slope_shape(c->opset, &x->shape, &s->shape);
    const int rank = x->shape.rank, skip = rank - slope.rank;
    const int64_t count = tensor_count(x);
    if (dtype_bits(x->dtype) < 8)
        return err_set(err, ERR_OPERATOR, "PRelu of %s is not supported", dtype_name(x->dtype));
    if (x->dtype == DTYPE_FLOAT || x->dtype == DTYPE_DOUBLE) {
        const struct binary_call call = {&slopes, x->dtype, x->dtype,  s->dtype, y->dtype, x->data,
                                         s->data, y->data,  &x->shape, &slope,   &y->shape};
        return binary_apply(c->pool, &call, err);
    }
    shape_strides(&slope, true, stride);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 0;
        for (int a = skip; a < rank; a++)
            at += index[a] * stride[a - skip];
        const double v = dtype_get(x->dtype, x->data, i);
        dtype_set(y->dtype, y->data, i, v < 0 ? v * dtype_get(s->dtype, s->data, at) : v);
        for (int a = rank - 1; a >= 0 && ++index[a] == x->shape.dim[a]; a--)
            index[a] = 0;
    }
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* dx = dy, or slope dy where x is negative; dslope = sum of x dy there, over the axes the slope was spread along. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *s = c->in[1], *dy = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0), *ds = grad_wanted(c, 1);
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};

    if (!dy)
        return 0;
    const struct shape slope = slope_shape(c->opset, &x->shape, &s->shape);
    const int rank = x->shape.rank, skip = rank - slope.rank;
    size_t bytes;
    double *sum = size_mul((size_t)tensor_count(s), sizeof *sum, &bytes) ? grad_scratch(c, bytes + 1, err) : NULL;
    if (!sum)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0, n = tensor_count(s); i < n; i++)
        sum[i] = 0;
    shape_strides(&slope, true, stride);
    for (int64_t i = 0, n = tensor_count(x); i < n; i++) {
        const bool f32 = x->dtype == DTYPE_FLOAT;
        const double v = f32 ? (double)tensor_f32(x)[i] : ((const double *)x->data)[i];
        const double d = f32 ? (double)tensor_f32(dy)[i] : ((const double *)dy->data)[i];
        int64_t at = 0;
        for (int a = skip; a < rank; a++)
            at += index[a] * stride[a - skip];
        const double factor = !(v < 0) ? 1 : f32 ? (double)tensor_f32(s)[at] : ((const double *)s->data)[at];
        if (dx && f32)
            tensor_f32(dx)[i] = (float)(d * factor) + (c->assign[0] ? 0 : tensor_f32(dx)[i]);
        else if (dx)
            ((double *)dx->data)[i] = d * factor + (c->assign[0] ? 0 : ((double *)dx->data)[i]);
        if (v < 0)
            sum[at] += v * d;
        for (int a = rank - 1; a >= 0 && ++index[a] == x->shape.dim[a]; a--)
            index[a] = 0;
    }
    for (int64_t i = 0, n = ds ? tensor_count(ds) : 0; i < n; i++)
        dtype_set(ds->dtype, ds->data, i, sum[i] + (c->assign[1] ? 0 : dtype_get(ds->dtype, ds->data, i)));
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,3,4,5] !f32[3,1,1]", NULL}, {"f32[2,3] !f32[1]", NULL}, {"f32[2,3,4] f32[2,3,4]", NULL}, {NULL}};

OP_CLASS(prelu) = {.type = "PRelu",
                   .domain = "",
                   .since = 1,
                   .in_place = 1,
                   .doc = "x, or a learned slope times x where negative.",
                   .in_min = 2,
                   .in_max = 2,
                   .out_min = 1,
                   .out_max = 1,
                   .infer = infer,
                   .forward = forward,
                   .couple = couple_elementwise,
                   .backward = backward,
                   .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1),
                   .grad_assigns = true,
                   .grad_inputs = 3u,
                   .quant = {QUANT_OPTIONAL, .inputs = 1},
                   .samples = samples};
