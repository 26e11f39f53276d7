/* SPDX-License-Identifier: Apache-2.0
 * ArgMax and ArgMin: the index of the extreme value along an axis, the first of equal ones, or with select_last_index
 * the last. x[outer, n, inner] -> y[outer, (1,) inner], int64. NaN never wins over a number that came first. */
#include "core/kernels/rows.h"
#include "core/kernels/simd.h"
#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct arg_attrs {
    int64_t axis;
    bool keepdims, select_last_index;
};
static const struct op_attr arg_attrs[] = {{OP_ATTR(arg_attrs, axis), .kind = OP_INT},
                                           {OP_ATTR(arg_attrs, keepdims), .kind = OP_BOOL, .def = 1},
                                           {OP_ATTR(arg_attrs, select_last_index), .kind = OP_BOOL},
                                           {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct arg_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    int axis;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0) {
        if (op_axis(x, attrs->axis, &axis, err) < 0)
            return -1;
        if (x->dim[axis] == 0)
            return err_set(err, ERR_SHAPE, "axis %d has no elements to choose from", axis);
        out.rank = 0;
        for (int i = 0; i < x->rank; i++)
            if (i != axis || attrs->keepdims)
                out.dim[out.rank++] = i == axis ? 1 : x->dim[i];
    }
    infer_out(c, 0, DTYPE_INT64, &out);
    return 0;
}

struct arg_loop {
    int64_t n, inner;
    const void *x;
    int64_t *y;
    enum dtype carrier;
    bool least, last;
};

#define FIND(T)                                                                                                        \
    for (int64_t o = begin; o < end; o++) {                                                                            \
        const T *x = (const T *)l->x + o / l->inner * l->n * l->inner + o % l->inner;                                  \
        int64_t best = 0;                                                                                              \
        for (int64_t i = 1; i < l->n; i++) {                                                                           \
            T a = x[i * l->inner], b = x[best * l->inner];                                                             \
            if (l->least ? a < b : a > b)                                                                              \
                best = i;                                                                                              \
            else if (l->last && a == b)                                                                                \
                best = i;                                                                                              \
        }                                                                                                              \
        l->y[o] = best;                                                                                                \
    }

/* A contiguous line: its extreme by vector code, then the place where it stands. A line that begins with NaN goes the
 * plain way. */
static int64_t find_in_line(const struct arg_loop *l, const float *x)
{
    const float best = l->least ? row_min_f32(x, l->n) : row_max_f32(x, l->n);
    if (l->last) {
        for (int64_t i = l->n - 1; i >= 0; i--)
            if (x[i] == best)
                return i;
    } else {
        for (int64_t i = 0; i < l->n; i++)
            if (x[i] == best)
                return i;
    }
    return -1; /* some value is NaN */
}

/* Lines `inner` apart: up to COLUMNS neighbours side by side. */
enum { COLUMNS = 64 };
KERNEL_CLONES static void find_columns(const struct arg_loop *l, const float *x, int64_t columns, int64_t *y)
{
    float best[COLUMNS];
    int32_t place[COLUMNS];
    const float sign = l->least ? -1.0f : 1.0f; /* the smallest is the largest of the negated */
    for (int64_t j = 0; j < columns; j++) {
        best[j] = sign * x[j];
        place[j] = 0;
    }
    for (int64_t i = 1; i < l->n; i++) {
        const float *row = x + i * l->inner;
        for (int64_t j = 0; j < columns; j++) {
            const float v = sign * row[j];
            const int32_t better = l->last ? v >= best[j] : v > best[j];
            place[j] = better ? (int32_t)i : place[j];
            best[j] = better ? v : best[j];
        }
    }
    for (int64_t j = 0; j < columns; j++)
        y[j] = place[j];
}

static void find_f32(const struct arg_loop *l, int64_t begin, int64_t end)
{
    const float *x = l->x;
    while (begin < end) {
        const int64_t o = begin / l->inner, j = begin % l->inner;
        const int64_t columns = i64_min(COLUMNS, i64_min(l->inner - j, end - begin));
        int64_t place = l->inner == 1 ? find_in_line(l, x + o * l->n) : -1;
        if (place >= 0)
            l->y[begin] = place;
        else
            find_columns(l, x + o * l->n * l->inner + j, columns, l->y + begin);
        begin += columns;
    }
}

static void find(void *opaque, int64_t begin, int64_t end)
{
    const struct arg_loop *l = opaque;
    if (l->carrier == DTYPE_FLOAT && l->n <= INT32_MAX)
        find_f32(l, begin, end);
    else if (l->carrier == DTYPE_FLOAT)
        FIND(float)
    else if (l->carrier == DTYPE_DOUBLE)
        FIND(double)
    else if (l->carrier == DTYPE_UINT64)
        FIND(uint64_t)
    else
        FIND(int64_t)
}

static int run(struct run_ctx *c, bool least, struct err *err)
{
    const struct arg_attrs *attrs = c->attrs;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    int axis = shape_axis(&x->shape, attrs->axis);
    struct arg_loop l = {.n = x->shape.dim[axis],
                         .inner = shape_product(&x->shape, axis + 1, x->shape.rank),
                         .y = y->data,
                         .carrier = op_carrier(x->dtype),
                         .least = least,
                         .last = attrs->select_last_index};
    if (op_to_carrier(c, x, &l.x, err) < 0)
        return -1;
    op_parallel(c->pool, tensor_count(y), i64_max(1, (1 << 14) / l.n), find, &l);
    return 0;
}

static int forward_max(struct run_ctx *c, struct err *err)
{
    return run(c, false, err);
}
static int forward_min(struct run_ctx *c, struct err *err)
{
    return run(c, true, err);
}

static int couple(struct coupling *k, struct err *err)
{
    const struct arg_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    (void)err;
    for (int i = 0; i < rank; i++)
        if (i != axis)
            couple_axes(k, IN(0), i, OUT(0), attrs->keepdims || i < axis ? i : i - 1);
    couple_freeze(k, IN(0), axis, "its elements are numbered by their places");
    couple_pass_all(k, OUT(0));
    return 0;
}

static const struct op_sample samples[] = {{"f32[2,3,4]", ""},       {"f32[2,3,4]", "axis=1 keepdims=0"},
                                           {"f32[5]=1,3,3,1,3", ""}, {"f32[5]=1,3,3,1,3", "select_last_index=1"},
                                           {"i32[2,5]", "axis=-1"},  {0}};
#define ARG(type_, fn, doc_)                                                                                           \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = 1, .doc = doc_, .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1,    \
        .attrs = arg_attrs, .attrs_size = sizeof(struct arg_attrs), .infer = infer, .forward = fn, .couple = couple,   \
        .samples = samples                                                                                             \
    }
OP_CLASS(arg_max) = ARG("ArgMax", forward_max, "Index of the largest value along an axis.");
OP_CLASS(arg_min) = ARG("ArgMin", forward_min, "Index of the smallest value along an axis.");
