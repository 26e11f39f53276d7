/* SPDX-License-Identifier: Apache-2.0
 * Softmax, LogSoftmax, Hardmax. Before opset 13 the input is seen as a matrix whose columns are all axes from `axis`
 * (default 1) on; from 13 on each line along `axis` (default -1) stands for itself.
 * Stable     the largest value of a line is subtracted first, so no exponential overflows.
 * Layout     a line has `n` values `inner` apart; with inner > 1 whole rows of lines are handled together, so memory
 *            is read in order. */
#include <math.h>
#include <string.h>

#include "core/kernels/rows.h"
#include "core/kernels/vmath.h"
#include "core/ops/couple_rules.h"
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

/* Softmax of up to COLUMNS neighbouring lines whose values are `inner` apart, row by row. */
enum { COLUMNS = 64 };
static void softmax_columns(const float *x, float *y, int64_t n, int64_t inner, int64_t columns)
{
    float most[COLUMNS], sum[COLUMNS] = {0};
    memcpy(most, x, (size_t)columns * sizeof *most);
    for (int64_t i = 1; i < n; i++)
        for (int64_t j = 0; j < columns; j++)
            most[j] = x[i * inner + j] > most[j] ? x[i * inner + j] : most[j];
    for (int64_t i = 0; i < n; i++) {
        float *row = y + i * inner;
        for (int64_t j = 0; j < columns; j++)
            row[j] = x[i * inner + j] - most[j];
        vmath_f32(VMATH_EXP, row, columns, row);
        for (int64_t j = 0; j < columns; j++)
            sum[j] += row[j];
    }
    for (int64_t j = 0; j < columns; j++)
        sum[j] = 1 / sum[j];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < columns; j++)
            y[i * inner + j] *= sum[j];
}

static void columns_f32(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    for (int64_t i = begin; i < end;) {
        const int64_t j = i % k->inner, at = i / k->inner * k->n * k->inner + j;
        const int64_t columns = i64_min(COLUMNS, i64_min(k->inner - j, end - i));
        softmax_columns((const float *)k->x + at, (float *)k->y + at, k->n, k->inner, columns);
        i += columns;
    }
}

static void lines_f32(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    if (k->mode == SOFTMAX && k->inner > 1) {
        columns_f32(arg, begin, end);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i / k->inner * k->n * k->inner + i % k->inner;
        if (k->mode == SOFTMAX && k->inner == 1)
            row_softmax_f32((const float *)k->x + at, k->n, (float *)k->y + at);
        else if (k->mode == LOG_SOFTMAX && k->inner == 1)
            row_log_softmax_f32((const float *)k->x + at, k->n, (float *)k->y + at);
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

/* Values of a line, and how far apart they lie. */
static void line_of(const struct shape *x, const struct softmax_attrs *a, int opset, int64_t *n, int64_t *inner)
{
    const int rank = x->rank, axis = rank == 0 ? 0 : a->axis == rank ? rank : shape_axis(x, a->axis);

    *inner = 1;
    *n = shape_product(x, axis, rank);
    if (opset >= 13 && rank > 0) {
        *n = x->dim[axis];
        *inner = shape_product(x, axis + 1, rank);
    }
}

static int run(struct run_ctx *c, enum mode mode, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(y) == 0)
        return 0;
    struct job k = {.mode = mode, .x = x->data, .y = y->data};
    line_of(&x->shape, c->attrs, c->opset, &k.n, &k.inner);
    const int64_t lines = tensor_count(x) / k.n;
    if (x->dtype == DTYPE_FLOAT)
        op_parallel(c->pool, lines, i64_max(1, 4096 / k.n), lines_f32, &k);
    else if (x->dtype == DTYPE_DOUBLE)
        op_parallel(c->pool, lines, i64_max(1, 4096 / k.n), lines_f64, &k);
    else
        return err_set(err, ERR_OPERATOR, "elements of type %s are not supported", dtype_name(x->dtype));
    return 0;
}

/* ---- backward: softmax dx = y (dy - sum of y dy), log softmax dx = dy - e^y sum of dy, over a line ---- */
struct back {
    enum mode mode;
    const void *y, *dy;
    void *dx;
    int64_t n, inner;
    bool add;
};

#define DEFINE_BACK(suffix, T, expT)                                                                                 \
    static void back_##suffix(void *arg, int64_t begin, int64_t end)                                                 \
    {                                                                                                                \
        const struct back *k = arg;                                                                                  \
        for (int64_t i = begin; i < end; i++) {                                                                      \
            const int64_t at = i / k->inner * k->n * k->inner + i % k->inner, step = k->inner;                       \
            const T *y = (const T *)k->y + at, *dy = (const T *)k->dy + at;                                          \
            T *dx = (T *)k->dx + at;                                                                                 \
            double total = 0;                                                                                        \
            for (int64_t j = 0; j < k->n; j++)                                                                       \
                total += k->mode == SOFTMAX ? (double)y[j * step] * (double)dy[j * step] : (double)dy[j * step];     \
            const T sum = (T)total;                                                                                  \
            for (int64_t j = 0; j < k->n; j++) {                                                                     \
                const T v = y[j * step], d = dy[j * step], g = k->mode == SOFTMAX ? v * (d - sum) : d - expT(v) * sum; \
                dx[j * step] = k->add ? dx[j * step] + g : g;                                                        \
            }                                                                                                        \
        }                                                                                                            \
    }
DEFINE_BACK(f32, float, vmath_exp)
DEFINE_BACK(f64, double, exp)

static int back(struct grad_ctx *c, enum mode mode)
{
    const struct tensor *dy = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0);

    if (!dy || !dx || tensor_count(dx) == 0)
        return 0;
    struct back k = {.mode = mode, .y = c->out[0]->data, .dy = dy->data, .dx = dx->data, .add = !c->assign[0]};
    line_of(&dx->shape, c->attrs, c->opset, &k.n, &k.inner);
    op_parallel(c->pool, tensor_count(dx) / k.n, i64_max(1, 4096 / k.n),
                dx->dtype == DTYPE_FLOAT ? back_f32 : back_f64, &k);
    return 0;
}

static int backward_softmax(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back(c, SOFTMAX);
}

static int backward_log_softmax(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back(c, LOG_SOFTMAX);
}

#define GRADIENT(name)                                                                                               \
    .backward = backward_##name, .grad_reads = GRAD_READS_OUT(0), .grad_assigns = true, .grad_inputs = 1u

#define FORWARD(name, mode)                                                                                          \
    static int compute_##name(struct run_ctx *c, struct err *err) { return run(c, mode, err); }                      \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                    \
    {                                                                                                                \
        return op_run_widened(c, infer, compute_##name, err);                                                        \
    }
FORWARD(softmax, SOFTMAX)
FORWARD(log_softmax, LOG_SOFTMAX)
FORWARD(hardmax, HARDMAX)

/* The lines cannot be cut: what is left of one would be scaled anew. */
static int couple(struct coupling *k, struct err *err)
{
    const struct softmax_attrs *a = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(a->axis < 0 ? a->axis + rank : a->axis);
    (void)err;
    for (int i = 0; i < rank; i++) {
        couple_axes(k, IN(0), i, OUT(0), i);
        if (k->infer->opset < 13 ? i >= axis : i == axis)
            couple_freeze(k, IN(0), i, "a softmax goes over it");
    }
    return 0;
}

static const struct op_sample old_samples[] = {
    {"f32[2,3,4]", NULL, 1, 11}, {"f32[2,3,4]", "axis=2", 1, 11}, {"f32[2,3,4]", "axis=0", 1, 11}, {NULL}};
static const struct op_sample samples[] = {
    {"f32[2,3,40]", NULL}, {"f32[2,30,4]", "axis=1"}, {"f32[5,3]", "axis=0"}, {"f64[2,3]", NULL}, {NULL}};

#define ROW(type_, since_, until_, table, name, doc_, cases, ...)                                                    \
    {.type = type_, .domain = "", .since = since_, .until = until_, .doc = doc_, .in_min = 1, .in_max = 1,           \
     .out_min = 1,                                                                                                   \
     .out_max = 1, .attrs = table, .attrs_size = sizeof(struct softmax_attrs), .infer = infer,                       \
     .forward = forward_##name, .couple = couple,                                                                    \
     .samples = cases, __VA_ARGS__}
#define SHARES .quant = {QUANT_OPTIONAL, .low = 0, .high = 1}
OP_CLASS(softmax_1) = ROW("Softmax", 1, 12, attrs_1, softmax, "e^x, scaled to sum 1.", old_samples, GRADIENT(softmax),
                          SHARES);
OP_CLASS(softmax_13) = ROW("Softmax", 13, 0, attrs_13, softmax, "e^x, scaled to sum 1.", samples, GRADIENT(softmax),
                           SHARES);
OP_CLASS(log_softmax_1) =
    ROW("LogSoftmax", 1, 12, attrs_1, log_softmax, "Logarithm of Softmax.", old_samples, GRADIENT(log_softmax));
OP_CLASS(log_softmax_13) =
    ROW("LogSoftmax", 13, 0, attrs_13, log_softmax, "Logarithm of Softmax.", samples, GRADIENT(log_softmax));
OP_CLASS(hardmax_1) =
    ROW("Hardmax", 1, 12, attrs_1, hardmax, "1 at the first maximum, 0 elsewhere.", old_samples, .backward = NULL);
OP_CLASS(hardmax_13) =
    ROW("Hardmax", 13, 0, attrs_13, hardmax, "1 at the first maximum, 0 elsewhere.", samples, .backward = NULL);
