/* SPDX-License-Identifier: Apache-2.0
 * ScatterElements, Scatter (its old name) and ScatterND: a copy of the input with elements replaced, or combined by a
 * reduction, at indices. ScatterElements: y[i0, .., index[i], ..] = updates[i] ScatterND:       y[index[k..., 0], ...,
 * index[k..., m-1], :] = updates[k..., :] Repeated indices are applied in order; so the loop is serial and the result
 * does not depend on threads. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/index_places.h"

enum { REPLACE, ADD, MUL, MAX, MIN };
static const char *const reductions[] = {"none", "add", "mul", "max", "min", NULL};

struct scatter_attrs {
    int64_t axis;
    int reduction;
};
static const struct op_attr scatter_attrs[] = {{OP_ATTR(scatter_attrs, axis), .kind = OP_INT}, {0}};
static const struct op_attr scatter_16_attrs[] = {
    {OP_ATTR(scatter_attrs, axis), .kind = OP_INT},
    {OP_ATTR(scatter_attrs, reduction), .kind = OP_ENUM, .choices = reductions},
    {0}};
static const struct op_attr nd_attrs[] = {{0}};
static const struct op_attr nd_16_attrs[] = {
    {OP_ATTR(scatter_attrs, reduction), .kind = OP_ENUM, .choices = reductions}, {0}};

/* ---- combining runs of elements ---- */
typedef void combine_fn(void *dst, const void *src, int64_t n);
#define COMBINE(name, T, W, expr)                                                                                      \
    static void name(void *dst, const void *src, int64_t n)                                                            \
    {                                                                                                                  \
        T *d = dst;                                                                                                    \
        const T *s = src;                                                                                              \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const W x = (W)d[i], y = (W)s[i];                                                                          \
            d[i] = (T)(expr);                                                                                          \
        }                                                                                                              \
    }
/* Sums and products are computed in W: unsigned, so that integers wrap. */
#define COMBINE_ALL(t, T, W)                                                                                           \
    COMBINE(add_##t, T, W, x + y)                                                                                      \
    COMBINE(mul_##t, T, W, x *y)                                                                                       \
    COMBINE(max_##t, T, T, x > y ? x : y)                                                                              \
    COMBINE(min_##t, T, T, x < y ? x : y)
COMBINE_ALL(f32, float, float)
COMBINE_ALL(f64, double, double)
COMBINE_ALL(i8, int8_t, uint64_t)
COMBINE_ALL(u8, uint8_t, uint64_t)
COMBINE_ALL(i16, int16_t, uint64_t)
COMBINE_ALL(u16, uint16_t, uint64_t)
COMBINE_ALL(i32, int32_t, uint64_t)
COMBINE_ALL(u32, uint32_t, uint64_t)
COMBINE_ALL(i64, int64_t, uint64_t)
COMBINE_ALL(u64, uint64_t, uint64_t)
#define COMBINE_HALF(t, to_float, from_float)                                                                          \
    static void t##_run(void *dst, const void *src, int64_t n, combine_fn *fn)                                         \
    {                                                                                                                  \
        uint16_t *d = dst;                                                                                             \
        const uint16_t *s = src;                                                                                       \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            float a = to_float(d[i]), b = to_float(s[i]);                                                              \
            fn(&a, &b, 1);                                                                                             \
            d[i] = from_float(a);                                                                                      \
        }                                                                                                              \
    }
COMBINE_HALF(f16, dtype_f16_to_f32, dtype_f32_to_f16)
COMBINE_HALF(bf16, dtype_bf16_to_f32, dtype_f32_to_bf16)

#define FNS(t)                                                                                                         \
    {                                                                                                                  \
        NULL, add_##t, mul_##t, max_##t, min_##t                                                                       \
    }
static combine_fn *const combine_fns[DTYPE_COUNT][5] = {
    [DTYPE_FLOAT] = FNS(f32), [DTYPE_DOUBLE] = FNS(f64), [DTYPE_INT8] = FNS(i8),     [DTYPE_UINT8] = FNS(u8),
    [DTYPE_INT16] = FNS(i16), [DTYPE_UINT16] = FNS(u16), [DTYPE_INT32] = FNS(i32),   [DTYPE_UINT32] = FNS(u32),
    [DTYPE_INT64] = FNS(i64), [DTYPE_UINT64] = FNS(u64), [DTYPE_FLOAT16] = FNS(f32), [DTYPE_BFLOAT16] = FNS(f32),
};

struct target {
    enum dtype dtype;
    size_t elem;
    int reduction;
    char *dst;
};

/* y[offset, offset + n) takes n updates. */
static void apply(const struct target *t, int64_t offset, const char *src, int64_t n)
{
    char *d = t->dst + (size_t)offset * t->elem;
    if (t->reduction == REPLACE)
        memcpy(d, src, (size_t)n * t->elem);
    else if (t->dtype == DTYPE_FLOAT16)
        f16_run(d, src, n, combine_fns[t->dtype][t->reduction]);
    else if (t->dtype == DTYPE_BFLOAT16)
        bf16_run(d, src, n, combine_fns[t->dtype][t->reduction]);
    else
        combine_fns[t->dtype][t->reduction](d, src, n);
}

static int start_target(struct run_ctx *c, struct target *t, struct err *err)
{
    const struct scatter_attrs *attrs = c->attrs;
    const struct tensor *x = c->in[0];
    *t = (struct target){.dtype = x->dtype, .elem = op_elem(x->dtype, err), .reduction = attrs->reduction};
    if (!t->elem)
        return -1;
    if (t->reduction != REPLACE && !combine_fns[x->dtype][t->reduction])
        return err_set(err, ERR_OPERATOR, "reduction '%s' is not possible on %s", reductions[t->reduction],
                       dtype_name(x->dtype));
    t->dst = c->out[0]->data;
    if (tensor_count(x))
        memcpy(t->dst, x->data, (size_t)tensor_count(x) * t->elem);
    return 0;
}

/* ---- ScatterElements ---- */
static int infer_elements(struct infer_ctx *c, struct err *err)
{
    const struct scatter_attrs *attrs = c->attrs;
    const struct shape *x;
    enum dtype unused;
    int axis;
    if (op_need(c, 3, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    x = infer_shape(c, 0);
    if (x->rank >= 0 && op_axis(x, attrs->axis, &axis, err) < 0)
        return -1;
    for (int k = 1; k < 3; k++) {
        const struct shape *s = infer_shape(c, k);
        if (s->rank >= 0 && x->rank >= 0 && s->rank != x->rank)
            return err_set(err, ERR_SHAPE, "input #%d has %d axes; it must have %d as the data", k, s->rank, x->rank);
        for (int i = 0; s->rank >= 0 && i < x->rank; i++)
            if (i != axis && x->dim[i] >= 0 && s->dim[i] > x->dim[i])
                return err_set(err, ERR_SHAPE,
                               "axis %d of input #%d has %" PRId64 " elements; the data has only %" PRId64, i, k,
                               s->dim[i], x->dim[i]);
    }
    if (shape_known(infer_shape(c, 1)) && shape_known(infer_shape(c, 2)) &&
        !shape_equal(infer_shape(c, 1), infer_shape(c, 2)))
        return err_set(err, ERR_SHAPE, "indices and updates have different shapes; they must agree");
    struct infer_ctx pair = *c; /* data and updates have one type, the indices another */
    const struct type *const two[] = {c->in[0], c->in[2]};
    pair.in = two;
    pair.n_in = 2;
    if (op_same_dtype(&pair, 0, 2, &unused, err) < 0)
        return -1;
    return op_infer_same(c, err);
}

/* ---- ScatterND ---- */
static int infer_nd(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 3, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *index = infer_shape(c, 1), *updates = infer_shape(c, 2);
    if (op_dtype(c, 0) != DTYPE_NONE && op_dtype(c, 2) != DTYPE_NONE && op_dtype(c, 0) != op_dtype(c, 2))
        return err_set(err, ERR_MODEL, "the data is %s but the updates %s; they must have the same type",
                       dtype_name(op_dtype(c, 0)), dtype_name(op_dtype(c, 2)));
    if (!shape_known(x) || !shape_known(index) || !shape_known(updates))
        return op_infer_same(c, err);
    if (x->rank < 1 || index->rank < 1 || index->dim[index->rank - 1] > x->rank)
        return err_set(err, ERR_SHAPE, "the indices do not name axes of the data, which has %d", x->rank);
    int m = (int)index->dim[index->rank - 1];
    struct shape want = {.rank = index->rank - 1 + x->rank - m};
    if (op_rank_fits(want.rank, err) < 0)
        return -1;
    memcpy(want.dim, index->dim, (size_t)(index->rank - 1) * sizeof *want.dim);
    memcpy(want.dim + index->rank - 1, x->dim + m, (size_t)(x->rank - m) * sizeof *want.dim);
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    if (!shape_equal(&want, updates))
        return err_set(err, ERR_SHAPE, "the updates are %s; they must be %s", shape_text(updates, a),
                       shape_text(&want, b));
    return op_infer_same(c, err);
}

/* ---- running: the two forms differ only in their places ---- */
/* The indices' places in x; the memory comes from the context that is not NULL. */
static int find_places(const struct op_memory *memory, bool nd, const void *attrs, const struct tensor *index,
                       const struct shape *x, struct places *p, struct err *err)
{
    size_t bytes;
    *p = nd ? places_tuples(index, x, 0) : places_elements(index);
    if (places_bytes(p, &bytes, err) < 0 || !(p->at = op_memory(memory, bytes, err)))
        return -1;
    if (nd)
        return places_fill_tuples(p, index, x, 0, err);
    return places_fill_elements(p, index, x, shape_axis(x, ((const struct scatter_attrs *)attrs)->axis), err);
}

static int run(struct run_ctx *c, op_infer_fn *infer, bool nd, struct err *err)
{
    const struct op_memory memory = {.run = c};
    struct target t;
    struct places p;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    if (!run_out(c, 0))
        return 0;
    if (start_target(c, &t, err) < 0 || find_places(&memory, nd, c->attrs, c->in[1], &c->in[0]->shape, &p, err) < 0)
        return -1;
    const char *updates = c->in[2]->data;
    for (int64_t i = 0; i < p.count && p.slice; i++)
        apply(&t, p.at[i], updates + (size_t)(i * p.slice) * t.elem, p.slice);
    return 0;
}

static int forward_elements(struct run_ctx *c, struct err *err)
{
    return run(c, infer_elements, false, err);
}

static int forward_nd(struct run_ctx *c, struct err *err)
{
    return run(c, infer_nd, true, err);
}

/* ---- gradients ----
 * add      the data take g, each update the g of its place.
 * none     the data take g but where an update was written; the last update of a place takes its g.
 * mul      at a place, each factor takes g times the product of the others.
 * max, min those that are the result share g evenly. */
struct share_loop {
    int reduction;
    const struct places *p;
    const struct tensor *x, *updates, *y, *g;
    struct tensor *to_x, *to_updates; /* may be NULL */
    double *zeros, *product;          /* of each element's factors; for the extremes zeros counts the winners */
};

static double value(const struct tensor *t, int64_t i)
{
    return dtype_get(t->dtype, t->data, i);
}

static void increase(struct tensor *t, int64_t i, double by)
{
    if (t)
        dtype_set(t->dtype, t->data, i, value(t, i) + by);
}

static void note(const struct share_loop *l, int64_t place, double v)
{
    if (l->reduction != MUL)
        l->zeros[place] += v == value(l->y, place);
    else if (v == 0)
        l->zeros[place]++;
    else
        l->product[place] *= v;
}

/* dy/dv for a contribution v to this place. */
static double slope(const struct share_loop *l, int64_t place, double v)
{
    const double zeros = l->zeros[place];
    if (l->reduction != MUL)
        return v == value(l->y, place) ? 1 / zeros : 0;
    return zeros == 0 ? l->product[place] / v : zeros == 1 && v == 0 ? l->product[place] : 0;
}

static void share(const struct share_loop *l)
{
    const struct places *p = l->p;
    const int64_t n = tensor_count(l->x), m = p->count * p->slice;
    for (int64_t i = 0; i < n; i++) {
        l->zeros[i] = 0;
        l->product[i] = 1;
        note(l, i, value(l->x, i));
    }
    for (int64_t i = 0; i < m; i++)
        note(l, p->at[i / p->slice] + i % p->slice, value(l->updates, i));
    for (int64_t i = 0; i < n; i++)
        increase(l->to_x, i, value(l->g, i) * slope(l, i, value(l->x, i)));
    for (int64_t i = 0; i < m; i++) {
        const int64_t place = p->at[i / p->slice] + i % p->slice;
        increase(l->to_updates, i, value(l->g, place) * slope(l, place, value(l->updates, i)));
    }
}

/* Replaced elements: the last one counts; `left` is g without what the updates took. */
static int replace(struct grad_ctx *c, const struct places *p, const struct tensor *g, struct err *err)
{
    struct tensor left = {.dtype = g->dtype, .shape = g->shape, .data = grad_scratch(c, g->bytes + 1, err)};
    if (!left.data)
        return -1;
    memcpy(left.data, g->data, g->bytes);
    const size_t elem = g->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double), bytes = (size_t)p->slice * elem;
    for (int64_t i = p->count - 1; i >= 0; i--) {
        if (grad_wanted(c, 2))
            grad_add_run(c->grad_in[2], i * p->slice, &left, p->at[i], p->slice);
        memset((char *)left.data + (size_t)p->at[i] * elem, 0, bytes);
    }
    return grad_add_whole(c, 0, &left, err);
}

static int backward(struct grad_ctx *c, bool nd, struct err *err)
{
    const struct op_memory memory = {.grad = c};
    const struct tensor *g = grad_of(c, 0);
    const int reduction = ((const struct scatter_attrs *)c->attrs)->reduction;
    struct places p;
    size_t bytes;

    if (!g || tensor_count(g) == 0)
        return 0;
    if (grad_type(g, err) < 0 || find_places(&memory, nd, c->attrs, c->in[1], &g->shape, &p, err) < 0)
        return -1;
    if (reduction == REPLACE)
        return replace(c, &p, g, err);
    if (reduction == ADD) {
        if (grad_wanted(c, 2))
            places_collect(&p, c->grad_in[2], g);
        return grad_add_whole(c, 0, g, err);
    }
    struct share_loop l = {.reduction = reduction, .p = &p, .x = c->in[0], .updates = c->in[2], .y = c->out[0], .g = g,
                           .to_x = grad_wanted(c, 0), .to_updates = grad_wanted(c, 2)};
    if (!size_mul((size_t)tensor_count(g), 2 * sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the data have too many elements");
    l.zeros = grad_scratch(c, bytes, err);
    if (!l.zeros)
        return -1;
    l.product = l.zeros + tensor_count(g);
    share(&l);
    return 0;
}

static int backward_elements(struct grad_ctx *c, struct err *err)
{
    return backward(c, false, err);
}

static int backward_nd(struct grad_ctx *c, struct err *err)
{
    return backward(c, true, err);
}

/* ---- pruning ---- */
static int couple_elements(struct coupling *k, struct err *err)
{
    const struct scatter_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    (void)err;
    couple_along(k, IN(0), OUT(0), axis, "places on it are written to");
    couple_same(k, IN(1), IN(2));
    couple_freeze(k, IN(1), axis, "its elements are written to other places");
    for (int i = 0; i < rank; i++)
        if (i != axis)
            couple_equal_axes(k, IN(0), i, IN(1), i, "only a part of it is written to");
    return 0;
}

/* Indices [k.., m], updates [k.., the data's axes from m on]. */
static int couple_nd(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0)), tuples = couple_rank(k, IN(1)) - 1;
    const int64_t m = tuples < 0 ? -1 : couple_size(k, IN(1), tuples);
    (void)err;
    couple_same(k, IN(0), OUT(0));
    if (rank < 0 || m < 0 || couple_rank(k, IN(2)) != tuples + rank - (int)m) {
        couple_freeze_all(k, OUT(0), "places on it are written to");
        return 0;
    }
    for (int i = 0; i < tuples; i++)
        couple_freeze(k, IN(2), i, "its elements are written to other places");
    for (int i = 0; i < rank; i++)
        if (i < m)
            couple_freeze(k, OUT(0), i, "places on it are written to");
        else
            couple_axes(k, IN(2), tuples + i - (int)m, OUT(0), i);
    return 0;
}

#define READS (GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(2) | GRAD_READS_OUT(0))
#define SCATTER(type_, fn, doc_, ...)                                                                                  \
    {                                                                                                                  \
        .type = type_, .domain = "", .doc = doc_, .in_min = 3, .in_max = 3, .out_min = 1, .out_max = 1,                \
        .attrs_size = sizeof(struct scatter_attrs), .infer = infer_##fn, .forward = forward_##fn,                      \
        .couple = couple_##fn,                                                                                         \
        .backward = backward_##fn, .grad_inputs = 5, .grad_reads = READS, __VA_ARGS__                                  \
    }
#define DOC_ELEMENTS "A copy with elements replaced or combined at indices along an axis."
#define DOC_ND "A copy with slices replaced or combined at tuples of indices."
OP_CLASS(scatter_9) = SCATTER("Scatter", elements, DOC_ELEMENTS, .since = 9, .until = 10, .attrs = scatter_attrs,
                              .samples = (const struct op_sample[]){
                                  {"f32[3,3] i64[2,3]=1,0,2,0,2,1 f32[2,3]", "", 1, 9}, {0}});
OP_CLASS(scatter_elements_11) = SCATTER("ScatterElements", elements, DOC_ELEMENTS, .since = 11, .until = 15,
                                        .attrs = scatter_attrs,
                                        .samples = (const struct op_sample[]){
                                            {"f32[1,5] i64[1,2]=1,-2 f32[1,2]", "axis=1", 1, 13},
                                            {"f32[3,5] i64[3,2]=1,-2,0,4,3,2 f32[3,2]", "axis=1", 1, 13},
                                            {0}});
OP_CLASS(scatter_elements_16) = SCATTER("ScatterElements", elements, DOC_ELEMENTS, .since = 16,
                                        .attrs = scatter_16_attrs,
                                        .samples = (const struct op_sample[]){
                                            {"f32[1,5] i64[1,2]=1,1 f32[1,2]", "axis=1 reduction=add"},
                                            {"f32[3,3] !i64[2,3]=1,0,2,0,2,1 f32[2,3]", ""},
                                            {"f32[2,4] i32[2,2]=0,3,1,1 f32[2,2]", "axis=1 reduction=mul"},
                                            {"i64[4] i64[3]=0,0,3 i64[3]=5,7,9", "reduction=max"},
                                            {"f32[4] i64[3]=0,0,3 f32[3]=-5,7,9", "reduction=min"},
                                            {"f32[4] i64[3]=0,0,3 f32[3]=-5,7,9", "reduction=max"},
                                            {"f32[3,2] i64[3,2]=1,1,1,0,2,2 f32[3,2]", ""},
                                            {0}});
OP_CLASS(scatter_nd_11) = SCATTER("ScatterND", nd, DOC_ND, .since = 11, .until = 15, .attrs = nd_attrs,
                                  .samples = (const struct op_sample[]){{"f32[8] i64[4,1]=4,3,1,7 f32[4]", "", 1, 13},
                                                                        {"f32[4,3] i64[2,1]=2,0 f32[2,3]", "", 1, 13},
                                                                        {0}});
OP_CLASS(scatter_nd_16) = SCATTER("ScatterND", nd, DOC_ND, .since = 16, .attrs = nd_16_attrs,
                                  .samples = (const struct op_sample[]){
                                      {"f32[4,4,2] i64[2,1]=0,2 f32[2,4,2]", ""},
                                      {"f32[4,4] i64[2,2]=0,1,0,1 f32[2]", "reduction=add"},
                                      {"f32[4,2] !i64[2,1]=1,-1 f32[2,2]", "reduction=mul"},
                                      {0}});
