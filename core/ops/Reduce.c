/* SPDX-License-Identifier: Apache-2.0
 * Reductions over a set of axes.
 *   ReduceSum  sum x          ReduceMean  sum x / n        ReduceProd  prod x       ReduceMax, ReduceMin
 *   ReduceL1   sum |x|        ReduceL2    sqrt(sum x^2)    ReduceSumSquare  sum x^2
 *   ReduceLogSum  log(sum x)  ReduceLogSumExp  m + log(sum exp(x - m)) with m = max x
 * Axes are an attribute, or from opset 13 (Sum) and 18 (the others) an input; none means all, unless
 * noop_with_empty_axes. Floats are summed in double, integers in 64 bits, wrapping. The order of summation is fixed:
 * four interleaved partial sums in a row. Idea: adjacent axes of one kind (kept or reduced) merge into groups. If the
 * last group is reduced, an output is a sum of rows; if it is kept, a tile of outputs accumulates rows side by side.
 * Nothing of an empty set: 0 for sums, 1 for products, the lowest or highest value. */
#include <math.h>
#include <string.h>

#include "core/kernels/rows.h"
#include "core/ops/couple_rules.h"
#include "core/ops/Reduce_grad.h"
#include "core/ops/op_util.h"

enum { TILE = 256, GRAIN = 1 << 14 };

/* ---- kernels: row: *acc takes n values. cols: acc[i] takes x[i]. `m` is the maximum already known (LogSumExp). ----
 */
typedef void row_fn(void *acc, const void *x, int64_t n, double m);
typedef void cols_fn(void *acc, const void *x, int64_t n, const double *m);
typedef void start_fn(void *acc, int64_t n);
struct reducer {
    row_fn *row;
    cols_fn *cols;
    start_fn *start;
};

#define TAKE(lane, at)                                                                                                 \
    {                                                                                                                  \
        const ACC s = lane, x = (ACC)p[at];                                                                            \
        lane = (ACC)(STEP(s, x));                                                                                      \
    }
#define ROW_BODY(name, T)                                                                                              \
    static void name##_row(void *av, const void *xv, int64_t n, double m)                                              \
    {                                                                                                                  \
        (void)m;                                                                                                       \
        ACC *acc = av;                                                                                                 \
        const T *p = xv;                                                                                               \
        ACC s0 = *acc, s1 = START, s2 = START, s3 = START;                                                             \
        int64_t i = 0;                                                                                                 \
        for (; i + 4 <= n; i += 4) {                                                                                   \
            TAKE(s0, i)                                                                                                \
            TAKE(s1, i + 1)                                                                                            \
            TAKE(s2, i + 2)                                                                                            \
            TAKE(s3, i + 3)                                                                                            \
        }                                                                                                              \
        for (; i < n; i++)                                                                                             \
            TAKE(s0, i)                                                                                                \
        s0 = (ACC)(JOIN(s0, s1));                                                                                      \
        s2 = (ACC)(JOIN(s2, s3));                                                                                      \
        *acc = (ACC)(JOIN(s0, s2));                                                                                    \
    }
#define COLS_BODY(name, T)                                                                                             \
    static void name##_cols(void *av, const void *xv, int64_t n, const double *ms)                                     \
    {                                                                                                                  \
        ACC *acc = av;                                                                                                 \
        const T *p = xv;                                                                                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const double m = ms ? ms[i] : 0;                                                                           \
            (void)m;                                                                                                   \
            TAKE(acc[i], i)                                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_start(void *av, int64_t n)                                                                      \
    {                                                                                                                  \
        ACC *acc = av;                                                                                                 \
        for (int64_t i = 0; i < n; i++)                                                                                \
            acc[i] = START;                                                                                            \
    }
#define REDUCER_BODY(name, T) ROW_BODY(name, T) COLS_BODY(name, T)
#define REDUCER(name)                                                                                                  \
    {                                                                                                                  \
        name##_row, name##_cols, name##_start                                                                          \
    }

/* Rows of float32 by vector code: pieces are summed in float, the pieces in double. */
enum { PIECE = 4096 };
#define PIECES(name, fn)                                                                                               \
    static void name##_row(void *av, const void *xv, int64_t n, double m)                                              \
    {                                                                                                                  \
        const float *x = xv;                                                                                           \
        double sum = 0;                                                                                                \
        (void)m;                                                                                                       \
        for (int64_t i = 0; i < n; i += PIECE)                                                                         \
            sum += (double)fn(x + i, i64_min(PIECE, n - i));                                                           \
        *(double *)av += sum;                                                                                          \
    }
PIECES(sum_f32, row_sum_f32)
PIECES(square_f32, row_square_sum_f32)

static void max_f32_row(void *av, const void *x, int64_t n, double m)
{
    double *acc = av;
    const double most = n > 0 ? (double)row_max_f32(x, n) : *acc;
    (void)m;
    *acc = most > *acc || isnan(most) ? most : *acc;
}
static void min_f32_row(void *av, const void *x, int64_t n, double m)
{
    double *acc = av;
    const double least = n > 0 ? (double)row_min_f32(x, n) : *acc;
    (void)m;
    *acc = least < *acc || isnan(least) ? least : *acc;
}

/* One block a formula; integers add unsigned so that they wrap. */
#define U(v) ((uint64_t)(v))
#define JOIN(s, t) (s + t)
#define START 0
#define ACC double
#define STEP(s, x) (s + x)
COLS_BODY(sum_f32, float)
REDUCER_BODY(sum_f64, double)
#undef STEP
#define STEP(s, x) (s + fabs(x))
REDUCER_BODY(l1_f32, float)
REDUCER_BODY(l1_f64, double)
#undef STEP
#define STEP(s, x) (s + x * x)
COLS_BODY(square_f32, float)
REDUCER_BODY(square_f64, double)
#undef STEP
#define STEP(s, x) (s + (x == m ? 1.0 : exp(x - m)))
REDUCER_BODY(sumexp_f32, float)
REDUCER_BODY(sumexp_f64, double)
#undef STEP
#undef ACC
#define ACC uint64_t
#define STEP(s, x) (s + x)
REDUCER_BODY(sum_i64, int64_t)
#undef STEP
#define STEP(s, x) (s + ((int64_t)x < 0 ? 0 - x : x))
REDUCER_BODY(l1_i64, int64_t)
#undef STEP
#define STEP(s, x) (s + x * x)
REDUCER_BODY(square_i64, int64_t)
#undef STEP
#undef JOIN
#undef START
#define START 1
#define JOIN(s, t) (s * t)
#define STEP(s, x) (s * x)
REDUCER_BODY(prod_i64, int64_t)
#undef ACC
#define ACC double
REDUCER_BODY(prod_f32, float)
REDUCER_BODY(prod_f64, double)
#undef STEP
#undef JOIN
#undef START
#define START (-HUGE_VAL)
#define JOIN(s, t) (t > s || isnan(t) ? t : s)
#define STEP(s, x) (x > s || isnan(x) ? x : s)
COLS_BODY(max_f32, float)
REDUCER_BODY(max_f64, double)
#undef STEP
#undef JOIN
#undef START
#define START HUGE_VAL
#define JOIN(s, t) (t < s || isnan(t) ? t : s)
#define STEP(s, x) (x < s || isnan(x) ? x : s)
COLS_BODY(min_f32, float)
REDUCER_BODY(min_f64, double)
#undef STEP
#undef JOIN
#undef START
#undef ACC
#define ACC int64_t
#define START INT64_MIN
#define JOIN(s, t) (t > s ? t : s)
#define STEP(s, x) JOIN(s, x)
REDUCER_BODY(max_i64, int64_t)
#undef START
#undef ACC
#define ACC uint64_t
#define START 0
REDUCER_BODY(max_u64, uint64_t)
#undef START
#undef JOIN
#define START UINT64_MAX
#define JOIN(s, t) (t < s ? t : s)
REDUCER_BODY(min_u64, uint64_t)
#undef START
#undef ACC
#define ACC int64_t
#define START INT64_MAX
REDUCER_BODY(min_i64, int64_t)

/* ---- kinds ---- */
struct kind {
    struct reducer f32, f64, i64, u64;
    double (*finish)(double acc, double n, double m); /* NULL: as it is */
    bool needs_max;                                   /* LogSumExp */
    bool in_double;                                   /* integers are computed in double */
    bool mean;
};

static double finish_mean(double acc, double n, double m)
{
    (void)m;
    return acc / n;
}
static double finish_root(double acc, double n, double m)
{
    (void)n, (void)m;
    return sqrt(acc);
}
static double finish_log(double acc, double n, double m)
{
    (void)n, (void)m;
    return log(acc);
}
static double finish_log_exp(double acc, double n, double m)
{
    (void)n;
    return isfinite(m) ? m + log(acc) : m;
}

#define FLOATS(name) .f32 = REDUCER(name##_f32), .f64 = REDUCER(name##_f64)
#define NUMBERS(name) FLOATS(name), .i64 = REDUCER(name##_i64), .u64 = REDUCER(name##_i64)
static const struct kind kind_sum = {NUMBERS(sum)};
static const struct kind kind_mean = {NUMBERS(sum), .finish = finish_mean, .mean = true};
static const struct kind kind_prod = {NUMBERS(prod)};
static const struct kind kind_l1 = {FLOATS(l1), .i64 = REDUCER(l1_i64), .u64 = REDUCER(sum_i64)};
static const struct kind kind_sum_square = {NUMBERS(square)};
static const struct kind kind_l2 = {FLOATS(square), .finish = finish_root, .in_double = true};
static const struct kind kind_log_sum = {FLOATS(sum), .finish = finish_log, .in_double = true};
static const struct kind kind_log_sum_exp = {FLOATS(sumexp), .finish = finish_log_exp, .needs_max = true,
                                             .in_double = true};
static const struct kind kind_max = {FLOATS(max), .i64 = REDUCER(max_i64), .u64 = REDUCER(max_u64)};
static const struct kind kind_min = {FLOATS(min), .i64 = REDUCER(min_i64), .u64 = REDUCER(min_u64)};

/* ---- shapes ---- */
static const struct op_attr axes_attrs[] = {{OP_ATTR(reduce_attrs, axes), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK},
                                            {OP_ATTR(reduce_attrs, keepdims), .kind = OP_BOOL, .def = 1},
                                            {0}};
static const struct op_attr input_attrs[] = {{OP_ATTR(reduce_attrs, keepdims), .kind = OP_BOOL, .def = 1},
                                             {OP_ATTR(reduce_attrs, noop_with_empty_axes), .kind = OP_BOOL},
                                             {0}};

int reduce_axes(const struct reduce_attrs *attrs, const struct tensor *list, int rank, bool mask[SHAPE_MAX_RANK],
                struct err *err)
{
    int64_t axes[SHAPE_MAX_RANK];
    int count = attrs->axes.count;
    if (list && op_read_ints(list, "axes", axes, SHAPE_MAX_RANK, &count, err) < 0)
        return -1;
    if (op_axes_mask(list ? axes : attrs->axes.at, count, rank, mask, err) < 0)
        return -1;
    for (int i = 0; i < rank && count == 0; i++)
        mask[i] = !attrs->noop_with_empty_axes;
    return 0;
}

/* Axes are an input whose value is not known yet. */
static void infer_unknown_axes(struct infer_ctx *c, const struct reduce_attrs *attrs)
{
    struct shape out = SHAPE_UNKNOWN;
    const struct shape *x = infer_shape(c, 0);
    int64_t n = op_list_length(c, 1);
    if (x->rank >= 0 && attrs->keepdims)
        out.rank = x->rank;
    else if (x->rank >= 0 && n > 0 && n <= x->rank)
        out.rank = x->rank - (int)n;
    for (int i = 0; i < out.rank; i++)
        out.dim[i] = DIM_UNKNOWN;
    infer_out(c, 0, op_dtype(c, 0), &out);
}

static int infer_reduce(struct infer_ctx *c, const char *kinds, struct err *err)
{
    const struct reduce_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, kinds, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const struct tensor *axes = op_value(c, 1);
    if ((infer_has(c, 1) && !axes) || x->rank < 0) {
        infer_unknown_axes(c, attrs);
        return 0;
    }
    bool mask[SHAPE_MAX_RANK];
    struct shape out = {0};
    if (reduce_axes(attrs, axes, x->rank, mask, err) < 0)
        return -1;
    for (int i = 0; i < x->rank; i++)
        if (!mask[i] || attrs->keepdims)
            out.dim[out.rank++] = mask[i] ? 1 : x->dim[i];
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* ---- loops ---- */
struct axis_group {
    int n;
    int64_t dim[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK];
};
struct reduce {
    struct axis_group kept, reduced; /* without the innermost group */
    bool rows;                       /* the innermost group is reduced */
    int64_t inner;                   /* its size */
    int64_t n_kept, n_reduced;       /* products of the groups above */
    const struct reducer *fn;
    const char *x;
    size_t elem;
    char *acc; /* 8 bytes an output */
    const double *m;
};

static int64_t group_offset(const struct axis_group *g, int64_t index)
{
    int64_t offset = 0;
    for (int i = g->n - 1; i >= 0; i--) {
        offset += index % g->dim[i] * g->stride[i];
        index /= g->dim[i];
    }
    return offset;
}

static void push_axis(struct axis_group *g, int64_t dim, int64_t stride)
{
    if (g->n && g->stride[g->n - 1] == dim * stride) {
        g->dim[g->n - 1] *= dim;
        g->stride[g->n - 1] = stride;
        return;
    }
    g->dim[g->n] = dim;
    g->stride[g->n++] = stride;
}

static int64_t group_size(const struct axis_group *g)
{
    int64_t n = 1;
    for (int i = 0; i < g->n; i++)
        n *= g->dim[i];
    return n;
}

static void reduce_plan(struct reduce *r, const struct shape *x, const bool mask[SHAPE_MAX_RANK])
{
    int64_t stride[SHAPE_MAX_RANK];
    shape_strides(x, false, stride);
    r->rows = true;
    r->inner = 1;
    int end = x->rank;
    for (bool first = true; end > 0; end--) {
        if (x->dim[end - 1] == 1)
            continue;
        if (first)
            r->rows = mask[end - 1];
        else if (mask[end - 1] != r->rows)
            break;
        first = false;
        r->inner *= x->dim[end - 1];
    }
    for (int i = 0; i < end; i++)
        if (x->dim[i] != 1)
            push_axis(mask[i] ? &r->reduced : &r->kept, x->dim[i], stride[i]);
    r->n_kept = group_size(&r->kept);
    r->n_reduced = group_size(&r->reduced);
}

static void reduce_rows(void *opaque, int64_t begin, int64_t end)
{
    const struct reduce *r = opaque;
    r->fn->start(r->acc + begin * 8, end - begin);
    for (int64_t o = begin; o < end; o++) {
        int64_t base = group_offset(&r->kept, o);
        for (int64_t k = 0; k < r->n_reduced; k++) {
            int64_t at = base + group_offset(&r->reduced, k);
            r->fn->row(r->acc + o * 8, r->x + (size_t)at * r->elem, r->inner, r->m ? r->m[o] : 0);
        }
    }
}

static void reduce_tiles(void *opaque, int64_t begin, int64_t end)
{
    const struct reduce *r = opaque;
    int64_t tiles = i64_ceil_div(r->inner, TILE);
    for (int64_t t = begin; t < end; t++) {
        int64_t o = t / tiles, col = t % tiles * TILE, n = i64_min(TILE, r->inner - col);
        int64_t out = o * r->inner + col, base = group_offset(&r->kept, o) + col;
        r->fn->start(r->acc + out * 8, n);
        for (int64_t k = 0; k < r->n_reduced; k++) {
            int64_t at = base + group_offset(&r->reduced, k);
            r->fn->cols(r->acc + out * 8, r->x + (size_t)at * r->elem, n, r->m ? r->m + out : NULL);
        }
    }
}

static void reduce_all(struct pool *pool, struct reduce *r, const struct reducer *fn)
{
    r->fn = fn;
    if (r->n_kept == 0)
        return;
    if (r->rows) {
        op_parallel(pool, r->n_kept, GRAIN / i64_max(1, i64_min(GRAIN, r->inner * r->n_reduced)), reduce_rows, r);
    } else {
        int64_t tiles = r->n_kept * i64_ceil_div(r->inner, TILE);
        op_parallel(pool, tiles, i64_max(1, GRAIN / i64_max(1, i64_min(GRAIN, TILE * i64_min(GRAIN, r->n_reduced)))),
                    reduce_tiles, r);
    }
}

static const struct reducer *pick(const struct kind *kind, enum dtype carrier)
{
    switch (carrier) {
    case DTYPE_FLOAT:
        return &kind->f32;
    case DTYPE_DOUBLE:
        return &kind->f64;
    case DTYPE_UINT64:
        return &kind->u64;
    default:
        return &kind->i64;
    }
}

static void finish(const struct kind *kind, struct reduce *r, enum dtype acc, int64_t n_out, int64_t n)
{
    for (int64_t i = 0; kind->finish && acc == DTYPE_DOUBLE && i < n_out; i++) {
        double *d = (double *)(void *)r->acc + i;
        *d = kind->finish(*d, (double)n, r->m ? r->m[i] : 0);
    }
    for (int64_t i = 0; kind->mean && acc == DTYPE_INT64 && i < n_out; i++)
        ((int64_t *)r->acc)[i] = n ? ((int64_t *)r->acc)[i] / n : 0;
    for (int64_t i = 0; kind->mean && acc == DTYPE_UINT64 && i < n_out; i++)
        ((uint64_t *)r->acc)[i] = n ? ((uint64_t *)r->acc)[i] / (uint64_t)n : 0;
}

/* The input's values as the kind computes them. */
static int load(struct run_ctx *c, const struct kind *kind, enum dtype *carrier, const void **data, struct err *err)
{
    const struct tensor *x = c->in[0];
    *carrier = op_carrier(x->dtype);
    if (!kind->in_double || dtype_is_float(*carrier))
        return op_to_carrier(c, x, data, err);
    *carrier = DTYPE_DOUBLE;
    size_t bytes;
    if (!dtype_bytes(DTYPE_DOUBLE, tensor_count(x), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    void *copy = run_scratch(c, bytes + 8, err);
    if (!copy)
        return -1;
    dtype_convert(DTYPE_DOUBLE, copy, x->dtype, x->data, tensor_count(x));
    *data = copy;
    return 0;
}

static int run_reduce(struct run_ctx *c, op_infer_fn *infer, const struct kind *kind, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    bool mask[SHAPE_MAX_RANK];
    if (!y)
        return 0;
    if (reduce_axes(c->attrs, run_in(c, 1), x->shape.rank, mask, err) < 0)
        return -1;
    int64_t n_out = tensor_count(y), n = 1;
    for (int i = 0; i < x->shape.rank; i++)
        if (mask[i] && !i64_mul(n, x->shape.dim[i], &n))
            n = 0; /* only where another axis is empty: nothing is summed */
    enum dtype carrier;
    const void *data;
    if (load(c, kind, &carrier, &data, err) < 0)
        return -1;
    enum dtype acc = dtype_is_float(carrier) ? DTYPE_DOUBLE : carrier;
    size_t acc_bytes;
    if (!size_mul((size_t)n_out, 8, &acc_bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output has too many elements");
    struct reduce r = {.x = data, .elem = carrier == DTYPE_FLOAT ? 4 : 8};
    reduce_plan(&r, &x->shape, mask);
    if (kind->needs_max) {
        r.acc = run_scratch(c, acc_bytes + 8, err);
        if (!r.acc)
            return -1;
        reduce_all(c->pool, &r, pick(&kind_max, carrier));
        r.m = (const double *)(const void *)r.acc;
    }
    r.acc = run_scratch(c, acc_bytes + 8, err);
    if (!r.acc)
        return -1;
    reduce_all(c->pool, &r, pick(kind, carrier));
    finish(kind, &r, acc, n_out, n);
    if (y->dtype == DTYPE_BOOL && n == 0) /* the lowest number of all stands for false */
        memset(y->data, kind == &kind_max ? 0 : 1, (size_t)n_out);
    else
        dtype_convert(y->dtype, y->data, acc, r.acc, n_out);
    return 0;
}

#define REDUCE_FNS(name, kinds)                                                                                        \
    static int infer_##name(struct infer_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return infer_reduce(c, kinds, err);                                                                            \
    }                                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return run_reduce(c, infer_##name, &kind_##name, err);                                                         \
    }
REDUCE_FNS(sum, "fiu")
REDUCE_FNS(mean, "fiu")
REDUCE_FNS(prod, "fiu")
REDUCE_FNS(max, "fiub")
REDUCE_FNS(min, "fiub")
REDUCE_FNS(l1, "fiu")
REDUCE_FNS(l2, "fiu")
REDUCE_FNS(log_sum, "fiu")
REDUCE_FNS(log_sum_exp, "fiu")
REDUCE_FNS(sum_square, "fiu")

/* ---- sizes ---- */
/* A list of sizes reduced to one number. */
typedef struct sym sym_fn(struct symbols *t, struct sym a, struct sym b);
static bool propagate(const struct infer_ctx *c, sym_fn *fn, struct sym_list *out)
{
    const struct sym_list *x = op_sizes(c, 0);
    if (!x || infer_shape(c, 0)->rank != 1 || x->count == 0 || shape_count(&c->out[0].shape) != 1)
        return false;
    out->count = 1;
    out->at[0] = x->at[0];
    for (int i = 1; i < x->count; i++)
        out->at[0] = fn(c->symbols, out->at[0], x->at[i]);
    return true;
}
static bool propagate_prod(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate(c, sym_mul, out);
}
static bool propagate_sum(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate(c, sym_add, out);
}

/* ---- pruning ---- */
static int couple(struct coupling *k, struct err *err)
{
    const struct reduce_attrs *attrs = couple_attrs(k);
    const struct infer_ctx *c = k->infer;
    const int rank = couple_rank(k, IN(0));
    bool mask[SHAPE_MAX_RANK];
    (void)err;
    if (rank < 0 || (infer_has(c, 1) && !op_value(c, 1)) || reduce_axes(attrs, op_value(c, 1), rank, mask, NULL) < 0) {
        couple_freeze_all(k, IN(0), "the axes it puts together are computed while running");
        couple_freeze_all(k, OUT(0), "the axes it puts together are computed while running");
        return 0;
    }
    couple_reduced(k, mask, rank, attrs->keepdims);
    return 0;
}

/* ---- rows ---- */
#define POSITIVE_24 "=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24"
static const struct op_sample by_attr[] = {{"f32[2,3,4]" POSITIVE_24, "axes=1 keepdims=0", 1, 11},
                                           {"f32[2,3,4]" POSITIVE_24, "", 1, 11},
                                           {"f32[2,3,4]" POSITIVE_24, "axes=0,2", 1, 11},
                                           {"f32[2,3,2,2]" POSITIVE_24, "axes=-1,-2 keepdims=0", 1, 12},
                                           {0}};
static const struct op_sample by_input[] = {{"f32[2,3,4]" POSITIVE_24 " !i64[1]=1", "keepdims=0"},
                                            {"f32[2,3,4]" POSITIVE_24, ""},
                                            {"f32[2,3,4]" POSITIVE_24 " !i64[2]=0,-1", ""},
                                            {"f64[2,3,4]" POSITIVE_24 " !i64[1]=0", ""},
                                            {"f32[2,3,4]" POSITIVE_24 " i64[1]=0", ""},
                                            {"i32[2,3] !i64[1]=1", ""},
                                            {0}};

#define REDUCE_ROW(type_, fn, doc_, ...)                                                                               \
    {                                                                                                                  \
        .type = type_, .domain = "", .doc = doc_, .in_min = 1, .out_min = 1, .out_max = 1,                             \
        .attrs_size = sizeof(struct reduce_attrs), .infer = infer_##fn, .forward = forward_##fn, .couple = couple,     \
        .backward = backward_reduce_##fn, .grad_reads = REDUCE_READS_##fn, .grad_inputs = 1, .grad_assigns = true,     \
        __VA_ARGS__                                                                                                    \
    }
#define BY_ATTR(last) .since = 1, .until = last, .in_max = 1, .attrs = axes_attrs, .samples = by_attr
#define BY_INPUT(first) .since = first, .in_max = 2, .attrs = input_attrs, .samples = by_input

OP_CLASS(reduce_sum_1) = REDUCE_ROW("ReduceSum", sum, "Sum over axes.", .propagate = propagate_sum, BY_ATTR(12));
OP_CLASS(reduce_sum_13) = REDUCE_ROW("ReduceSum", sum, "Sum over axes.", .propagate = propagate_sum, BY_INPUT(13));
OP_CLASS(reduce_mean_1) = REDUCE_ROW("ReduceMean", mean, "Mean over axes.", .quant = {QUANT_OPTIONAL, .inputs = 1},
                                     BY_ATTR(17));
OP_CLASS(reduce_mean_18) = REDUCE_ROW("ReduceMean", mean, "Mean over axes.", .quant = {QUANT_OPTIONAL, .inputs = 1},
                                      BY_INPUT(18));
OP_CLASS(reduce_prod_1) = REDUCE_ROW("ReduceProd", prod, "Product over axes.", .propagate = propagate_prod,
                                     BY_ATTR(17));
OP_CLASS(reduce_prod_18) = REDUCE_ROW("ReduceProd", prod, "Product over axes.", .propagate = propagate_prod,
                                      BY_INPUT(18));
OP_CLASS(reduce_max_1) = REDUCE_ROW("ReduceMax", max, "Largest over axes.", BY_ATTR(17));
OP_CLASS(reduce_max_18) = REDUCE_ROW("ReduceMax", max, "Largest over axes.", BY_INPUT(18));
OP_CLASS(reduce_min_1) = REDUCE_ROW("ReduceMin", min, "Smallest over axes.", BY_ATTR(17));
OP_CLASS(reduce_min_18) = REDUCE_ROW("ReduceMin", min, "Smallest over axes.", BY_INPUT(18));
OP_CLASS(reduce_l1_1) = REDUCE_ROW("ReduceL1", l1, "Sum of absolute values over axes.", BY_ATTR(17));
OP_CLASS(reduce_l1_18) = REDUCE_ROW("ReduceL1", l1, "Sum of absolute values over axes.", BY_INPUT(18));
OP_CLASS(reduce_l2_1) = REDUCE_ROW("ReduceL2", l2, "Euclidean norm over axes.", BY_ATTR(17));
OP_CLASS(reduce_l2_18) = REDUCE_ROW("ReduceL2", l2, "Euclidean norm over axes.", BY_INPUT(18));
OP_CLASS(reduce_log_sum_1) = REDUCE_ROW("ReduceLogSum", log_sum, "Logarithm of the sum over axes.", BY_ATTR(17));
OP_CLASS(reduce_log_sum_18) = REDUCE_ROW("ReduceLogSum", log_sum, "Logarithm of the sum over axes.", BY_INPUT(18));
OP_CLASS(reduce_log_sum_exp_1) = REDUCE_ROW("ReduceLogSumExp", log_sum_exp,
                                            "log(sum(exp(x))) over axes, without overflow.", BY_ATTR(17));
OP_CLASS(reduce_log_sum_exp_18) = REDUCE_ROW("ReduceLogSumExp", log_sum_exp,
                                             "log(sum(exp(x))) over axes, without overflow.", BY_INPUT(18));
OP_CLASS(reduce_sum_square_1) = REDUCE_ROW("ReduceSumSquare", sum_square, "Sum of squares over axes.", BY_ATTR(17));
OP_CLASS(reduce_sum_square_18) = REDUCE_ROW("ReduceSumSquare", sum_square, "Sum of squares over axes.", BY_INPUT(18));
