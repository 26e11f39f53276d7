/* SPDX-License-Identifier: Apache-2.0
 * CumSum and CumProd: running sum or product along an axis.
 *   y[i] = sum x[j], j <= i; `exclusive`: j < i; `reverse`: from the end. x[outer, n, inner]. Integers wrap. */
#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

struct cumsum_attrs {
    bool exclusive, reverse;
};
static const struct op_attr cumsum_attrs[] = {
    {OP_ATTR(cumsum_attrs, exclusive), .kind = OP_BOOL}, {OP_ATTR(cumsum_attrs, reverse), .kind = OP_BOOL}, {0}};

static int read_axis(const struct tensor *t, const struct shape *x, int *axis, struct err *err)
{
    int64_t value;
    int count;
    if (op_read_ints(t, "axis", &value, 1, &count, err) < 0)
        return -1;
    if (count != 1)
        return err_set(err, ERR_MODEL, "axis is empty; it must be one integer");
    return op_axis(x, value, axis, err);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    int axis;
    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0)
        return -1;
    if (op_value(c, 1) && infer_shape(c, 0)->rank >= 0 && read_axis(op_value(c, 1), infer_shape(c, 0), &axis, err) < 0)
        return -1;
    return op_infer_same(c, err);
}

#define SCAN(T, S, FIRST, OP)                                                                                          \
    for (int64_t o = 0; o < outer * inner; o++) {                                                                      \
        T *p = (T *)data + o / inner * n * inner + o % inner;                                                          \
        S sum = FIRST;                                                                                                 \
        for (int64_t k = 0; k < n; k++) {                                                                              \
            T *at = p + (attrs->reverse ? n - 1 - k : k) * inner;                                                      \
            S before = sum;                                                                                            \
            sum OP(S) * at;                                                                                            \
            *at = (T)(attrs->exclusive ? before : sum);                                                                \
        }                                                                                                              \
    }

static void scan(const struct cumsum_attrs *attrs, enum dtype carrier, void *data, int64_t outer, int64_t n,
                 int64_t inner)
{
    if (carrier == DTYPE_FLOAT)
        SCAN(float, double, 0, +=)
    else if (carrier == DTYPE_DOUBLE)
        SCAN(double, double, 0, +=)
    else
        SCAN(uint64_t, uint64_t, 0, +=)
}

static void scan_product(const struct cumsum_attrs *attrs, enum dtype carrier, void *data, int64_t outer, int64_t n,
                         int64_t inner)
{
    if (carrier == DTYPE_FLOAT)
        SCAN(float, double, 1, *=)
    else if (carrier == DTYPE_DOUBLE)
        SCAN(double, double, 1, *=)
    else
        SCAN(uint64_t, uint64_t, 1, *=)
}

typedef void scan_fn(const struct cumsum_attrs *attrs, enum dtype carrier, void *data, int64_t outer, int64_t n,
                     int64_t inner);

static int run(struct run_ctx *c, scan_fn *fn, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    int axis;
    size_t bytes;
    enum dtype carrier = op_carrier(x->dtype);
    if (!y || tensor_count(x) == 0)
        return 0;
    if (read_axis(c->in[1], &x->shape, &axis, err) < 0)
        return -1;
    if (!dtype_bytes(carrier, tensor_count(x), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    void *work = carrier == y->dtype ? y->data : run_scratch(c, bytes, err);
    if (!work)
        return -1;
    dtype_convert(carrier, work, x->dtype, x->data, tensor_count(x));
    fn(c->attrs, carrier, work, shape_product(&x->shape, 0, axis), x->shape.dim[axis],
       shape_product(&x->shape, axis + 1, x->shape.rank));
    if (work != y->data)
        dtype_convert(y->dtype, y->data, carrier, work, tensor_count(x));
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return run(c, scan, err);
}

static int forward_product(struct run_ctx *c, struct err *err)
{
    return run(c, scan_product, err);
}

/* The gradient is the running sum of g from the other end, added. */
#define ADD_SCAN(T)                                                                                                    \
    for (int64_t o = 0; o < outer * inner; o++) {                                                                      \
        const T *g = (const T *)src + o / inner * n * inner + o % inner;                                               \
        T *d = (T *)dst + o / inner * n * inner + o % inner;                                                           \
        double sum = 0;                                                                                                \
        for (int64_t k = 0; k < n; k++) {                                                                              \
            const int64_t at = (attrs->reverse ? k : n - 1 - k) * inner;                                               \
            const double before = sum;                                                                                 \
            sum += (double)g[at];                                                                                      \
            d[at] += (T)(attrs->exclusive ? before : sum);                                                             \
        }                                                                                                              \
    }

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct cumsum_attrs *attrs = c->attrs;
    const struct tensor *grad = grad_of(c, 0);
    struct tensor *want = grad_wanted(c, 0);
    int axis;

    if (!grad || !want || tensor_count(want) == 0)
        return 0;
    if (grad_type(want, err) < 0 || read_axis(c->in[1], &want->shape, &axis, err) < 0)
        return -1;
    const int64_t n = want->shape.dim[axis], outer = shape_product(&want->shape, 0, axis);
    const int64_t inner = shape_product(&want->shape, axis + 1, want->shape.rank);
    const void *src = grad->data;
    void *dst = want->data;
    if (want->dtype == DTYPE_FLOAT)
        ADD_SCAN(float)
    else
        ADD_SCAN(double)
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    const struct infer_ctx *c = k->infer;
    int axis;
    (void)err;
    if (couple_rank(k, IN(0)) < 0 || !op_value(c, 1) || read_axis(op_value(c, 1), infer_shape(c, 0), &axis, NULL) < 0) {
        couple_freeze_all(k, IN(0), "the axis it runs along is computed while running");
        couple_freeze_all(k, OUT(0), "the axis it runs along is computed while running");
        return 0;
    }
    couple_along(k, IN(0), OUT(0), axis, "its elements are added up one by one");
    return 0;
}

OP_CLASS(cum_sum) = {.type = "CumSum",
                     .domain = "",
                     .since = 11,
                     .doc = "Running sum along an axis.",
                     .in_min = 2,
                     .in_max = 2,
                     .out_min = 1,
                     .out_max = 1,
                     .attrs = cumsum_attrs,
                     .attrs_size = sizeof(struct cumsum_attrs),
                     .infer = infer,
                     .forward = forward,
                     .couple = couple,
                     .backward = backward,
                     .grad_reads = GRAD_READS_IN(1),
                     .grad_inputs = 1,
                     .samples = (const struct op_sample[]){{"f32[2,3] !i32[]=0", ""},
                                                           {"f32[2,3] !i64[]=-1", "exclusive=1"},
                                                           {"i32[5] i32[]=0", "reverse=1"},
                                                           {"f64[2,3,2] !i32[]=1", "reverse=1 exclusive=1"},
                                                           {0}}};
/* dL/dx[j] = sum over the outputs that x[j] is a factor of, of g times the other factors. Squared in the axis, but
 * right where factors are 0. */
static void product_line(const struct cumsum_attrs *attrs, const struct tensor *x, const struct tensor *g,
                         struct tensor *dst, int64_t from, int64_t step, int64_t n)
{
    double before = 1; /* product of the factors before j */
    for (int64_t j = 0; j < n; j++) {
        const int64_t at = from + j * step;
        double others = before, sum = attrs->exclusive ? 0 : dtype_get(g->dtype, g->data, at) * before;
        for (int64_t i = j + 1; i < n; i++) {
            const double factor = dtype_get(x->dtype, x->data, from + i * step);
            const double slope = dtype_get(g->dtype, g->data, from + i * step);
            sum += slope * (attrs->exclusive ? others : others * factor);
            others *= factor;
        }
        before *= dtype_get(x->dtype, x->data, at);
        dtype_set(dst->dtype, dst->data, at, dtype_get(dst->dtype, dst->data, at) + sum);
    }
}

static int backward_product(struct grad_ctx *c, struct err *err)
{
    const struct cumsum_attrs *attrs = c->attrs;
    const struct tensor *x = c->in[0], *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    int axis;

    if (!g || !dst || tensor_count(dst) == 0)
        return 0;
    if (grad_type(dst, err) < 0 || read_axis(c->in[1], &x->shape, &axis, err) < 0)
        return -1;
    const int64_t n = x->shape.dim[axis], inner = shape_product(&x->shape, axis + 1, x->shape.rank);
    for (int64_t o = 0; o < tensor_count(x) / n; o++) {
        const int64_t first = o / inner * n * inner + o % inner;
        product_line(attrs, x, g, dst, attrs->reverse ? first + (n - 1) * inner : first,
                     attrs->reverse ? -inner : inner, n);
    }
    return 0;
}

OP_CLASS(cum_prod) = {.type = "CumProd",
                      .domain = "",
                      .since = 26,
                      .doc = "Running product along an axis.",
                      .in_min = 2,
                      .in_max = 2,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = cumsum_attrs,
                      .attrs_size = sizeof(struct cumsum_attrs),
                      .infer = infer,
                      .forward = forward_product,
                      .couple = couple,
                      .backward = backward_product,
                      .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1),
                      .grad_inputs = 1,
                      .samples = (const struct op_sample[]){{"f32[2,3] !i32[]=0", ""},
                                                            {"f32[2,3] !i64[]=-1", "exclusive=1"},
                                                            {"i32[5] i32[]=0", "reverse=1"},
                                                            {"f64[2,3,2] !i32[]=1", "reverse=1 exclusive=1"},
                                                            {0}}};
