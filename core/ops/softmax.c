/* SPDX-License-Identifier: Apache-2.0
 * Softmax, LogSoftmax, Hardmax. Before opset 13 the input is seen as a matrix whose columns are all axes from `axis`
 * (default 1) on; from 13 on each line along `axis` (default -1) stands for itself.
 * Stable     the largest value of a line is subtracted first, so no exponential overflows.
 * Layout     a line has `n` values `inner` apart; with inner > 1 whole rows of lines are handled together, so memory
 *            is read in order. */
#include <math.h>

#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"
#include "core/ops/widen.h"

struct softmax_attrs {
    int64_t axis;
};
static const struct op_attr attrs_1[] = {{OP_ATTR(softmax_attrs, axis), .kind = OP_INT, .def = 1}, {NULL}};
static const struct op_attr attrs_13[] = {{OP_ATTR(softmax_attrs, axis), .kind = OP_INT, .def = -1}, {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct softmax_attrs *a = c->attrs;
    int axis;

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const bool end = c->opset < 13 && x->rank >= 0 && a->axis == x->rank; /* a matrix of one column */
    if (x->rank > 0 && !end && op_axis(x, a->axis, &axis, err) < 0)
        return -1;
    return op_infer_same(c, err);
}

enum mode { SOFTMAX, LOG_SOFTMAX, HARDMAX };

struct job {
    enum mode mode;
    const void *x;
    void *y;
    int64_t n, inner;
};

KERNEL_CLONES static float exp_row(const float *restrict x, float *restrict y, int64_t n, float shift)
{
    float lane[8] = {0};
    for (int64_t i = 0; i < n; i++)
        y[i] = vmath_exp(x[i] - shift);
    for (int64_t i = 0; i < n; i++)
        lane[i % 8] += y[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* A contiguous line of floats: the common case. */
static void softmax_line(const float *x, float *y, int64_t n)
{
    float most = x[0];
    for (int64_t i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    const float inverse = 1 / exp_row(x, y, n, most);
    for (int64_t i = 0; i < n; i++)
        y[i] *= inverse;
}

#define DEFINE_LINE(suffix, T, expT, logT)                                                                           \
    static void line_##suffix(enum mode mode, const T *x, T *y, int64_t n, int64_t step)                             \
    {                                                                                                                \
        T most = x[0], sum = 0;                                                                                      \
        int64_t place = 0;                                                                                           \
        for (int64_t i = 1; i < n; i++)                                                                              \
            if (x[i * step] > most) {                                                                                \
                most = x[i * step];                                                                                  \
                place = i;                                                                                           \
            }                                                                                                        \
        if (mode == HARDMAX) {                                                                                       \
            for (int64_t i = 0; i < n; i++)                                                                          \
                y[i * step] = i == place ? 1 : 0;                                                                    \
            return;                                                                                                  \
        }                                                                                                            \
        for (int64_t i = 0; i < n; i++) {                                                                            \
            const T e = expT(x[i * step] - most);                                                                    \
            y[i * step] = mode == SOFTMAX ? e : x[i * step] - most;                                                  \
            sum += e;                                                                                                \
        }                                                                                                            \
        const T log_sum = logT(sum), inverse = 1 / sum;                                                              \
        for (int64_t i = 0; i < n; i++)                                                                              \
            y[i * step] = mode == SOFTMAX ? y[i * step] * inverse : y[i * step] - log_sum;                           \
    }
DEFINE_LINE(f32, float, vmath_exp, logf)
DEFINE_LINE(f64, double, exp, log)

static void lines_f32(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i / k->inner * k->n * k->inner + i % k->inner;
        if (k->mode == SOFTMAX && k->inner == 1)
            softmax_line((const float *)k->x + at, (float *)k->y + at, k->n);
        else
            line_f32(k->mode, (const float *)k->x + at, (float *)k->y + at, k->n, k->inner);
    }
}

static void lines_f64(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i / k->inner * k->n * k->inner + i % k->inner;
        line_f64(k->mode, (const double *)k->x + at, (double *)k->y + at, k->n, k->inner);
    }
}

static int run(struct run_ctx *c, enum mode mode, struct err *err)
{
    const struct softmax_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    const int rank = x->shape.rank;
    int axis = a->axis == rank ? rank : shape_axis(&x->shape, a->axis);

    if (!y || tensor_count(y) == 0)
        return 0;
    if (rank == 0)
        axis = 0;
    struct job k = {.mode = mode, .x = x->data, .y = y->data, .inner = 1, .n = shape_product(&x->shape, axis, rank)};
    if (c->opset >= 13 && rank > 0) {
        k.n = x->shape.dim[axis];
        k.inner = shape_product(&x->shape, axis + 1, rank);
    }
    const int64_t lines = tensor_count(x) / k.n;
    if (x->dtype == DTYPE_FLOAT)
        op_parallel(c->pool, lines, i64_max(1, 4096 / k.n), lines_f32, &k);
    else if (x->dtype == DTYPE_DOUBLE)
        op_parallel(c->pool, lines, i64_max(1, 4096 / k.n), lines_f64, &k);
    else
        return err_set(err, ERR_OPERATOR, "elements of type %s are not supported", dtype_name(x->dtype));
    return 0;
}

#define FORWARD(name, mode)                                                                                          \
    static int compute_##name(struct run_ctx *c, struct err *err) { return run(c, mode, err); }                      \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                    \
    {                                                                                                                \
        return op_run_widened(c, infer, compute_##name, err);                                                        \
    }
FORWARD(softmax, SOFTMAX)
FORWARD(log_softmax, LOG_SOFTMAX)
FORWARD(hardmax, HARDMAX)

static const struct op_sample old_samples[] = {
    {"f32[2,3,4]", NULL, 1, 11}, {"f32[2,3,4]", "axis=2", 1, 11}, {"f32[2,3,4]", "axis=0", 1, 11}, {NULL}};
static const struct op_sample samples[] = {
    {"f32[2,3,40]", NULL}, {"f32[2,30,4]", "axis=1"}, {"f32[5,3]", "axis=0"}, {"f64[2,3]", NULL}, {NULL}};

#define ROW(type_, since_, until_, table, name, doc_, cases)                                                         \
    {.type = type_, .domain = "", .since = since_, .until = until_, .doc = doc_, .in_min = 1, .in_max = 1,           \
     .out_min = 1,                                                                                                   \
     .out_max = 1, .attrs = table, .attrs_size = sizeof(struct softmax_attrs), .infer = infer,                       \
     .forward = forward_##name,                                                                                      \
     .samples = cases}
OP_CLASS(softmax_1) = ROW("Softmax", 1, 12, attrs_1, softmax, "e^x, scaled to sum 1.", old_samples);
OP_CLASS(softmax_13) = ROW("Softmax", 13, 0, attrs_13, softmax, "e^x, scaled to sum 1.", samples);
OP_CLASS(log_softmax_1) = ROW("LogSoftmax", 1, 12, attrs_1, log_softmax, "Logarithm of Softmax.", old_samples);
OP_CLASS(log_softmax_13) = ROW("LogSoftmax", 13, 0, attrs_13, log_softmax, "Logarithm of Softmax.", samples);
OP_CLASS(hardmax_1) = ROW("Hardmax", 1, 12, attrs_1, hardmax, "1 at the first maximum, 0 elsewhere.", old_samples);
OP_CLASS(hardmax_13) = ROW("Hardmax", 13, 0, attrs_13, hardmax, "1 at the first maximum, 0 elsewhere.", samples);
