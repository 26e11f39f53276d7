/* SPDX-License-Identifier: Apache-2.0
 * Gather, GatherElements, GatherND: elements picked by indices; negative indices count from the end, others out of
 * range are refused. Gather:         y[o, k..., i] = x[o, index[k...], i] GatherElements: y[i0, .., ia, ..] = x[i0, ..,
 * index[i0, .., ia, ..], ..] GatherND:       y[b, k..., :] = x[b, index[b, k..., 0], ..., index[b, k..., m-1], :] */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/index_places.h"

struct gather_attrs {
    int64_t axis;
};
static const struct op_attr gather_attrs[] = {{OP_ATTR(gather_attrs, axis), .kind = OP_INT}, {0}};

static int bad_index(int64_t index, int64_t n, int64_t at, struct err *err)
{
    return err_set(err, ERR_MODEL,
                   "index %" PRId64 " (element %" PRId64 ") is out of range; the axis has %" PRId64 " elements", index,
                   at, n);
}

/* All indices in [-n, n), checked before anything is copied. */
static int check_indices(const struct tensor *index, int64_t n, struct err *err)
{
    int64_t count = tensor_count(index);
    for (int64_t i = 0; i < count; i++)
        if (op_wrap_index(op_index_at(index, i), n) < 0)
            return bad_index(op_index_at(index, i), n, i, err);
    return 0;
}

/* ---- Gather ---- */
static int infer_gather(struct infer_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 2, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *index = infer_shape(c, 1);
    int axis = 0;
    if (x->rank >= 0 && op_axis(x, attrs->axis, &axis, err) < 0)
        return -1;
    if (x->rank >= 0 && index->rank >= 0) {
        if (op_rank_fits(x->rank - 1 + index->rank, err) < 0)
            return -1;
        out.rank = x->rank - 1 + index->rank;
        memcpy(out.dim, x->dim, (size_t)axis * sizeof *out.dim);
        memcpy(out.dim + axis, index->dim, (size_t)index->rank * sizeof *out.dim);
        memcpy(out.dim + axis + index->rank, x->dim + axis + 1, (size_t)(x->rank - axis - 1) * sizeof *out.dim);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static bool propagate_gather(const struct infer_ctx *c, struct sym_list *out)
{
    const struct sym_list *x = op_sizes(c, 0), *index = op_sizes(c, 1);
    if (!x || !index || infer_shape(c, 0)->rank != 1)
        return false;
    out->count = index->count;
    for (int i = 0; i < index->count; i++) {
        const int64_t k = index->at[i].known ? op_wrap_index(index->at[i].n, x->count) : -1;
        out->at[i] = k < 0 ? SYM_UNKNOWN : x->at[k];
    }
    return true;
}

struct gather_loop {
    const struct tensor *index;
    const char *src;
    char *dst;
    int64_t n, count; /* of the axis, of the indices */
    size_t bytes;     /* of one slice behind the axis */
};

static void gather_slices(void *opaque, int64_t begin, int64_t end)
{
    const struct gather_loop *l = opaque;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = op_wrap_index(op_index_at(l->index, i % l->count), l->n);
        memcpy(l->dst + (size_t)i * l->bytes, l->src + (size_t)(i / l->count * l->n + at) * l->bytes, l->bytes);
    }
}

static int forward_gather(struct run_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_gather, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *index = c->in[1];
    struct tensor *y = run_out(c, 0);
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    int axis = shape_axis(&x->shape, attrs->axis);
    if (check_indices(index, x->shape.dim[axis], err) < 0)
        return -1;
    if (!y || tensor_count(y) == 0)
        return 0;
    int64_t outer = shape_product(&x->shape, 0, axis), inner = shape_product(&x->shape, axis + 1, x->shape.rank);
    struct gather_loop l = {index, x->data, y->data, x->shape.dim[axis], tensor_count(index), (size_t)inner * elem};
    op_parallel(c->pool, outer * l.count, i64_max(1, (1 << 16) / (int64_t)l.bytes), gather_slices, &l);
    return 0;
}

/* dL/dx[o, index[k], i] += g[o, k, i]. Pieces of the inner run are tasks: repeated indices meet in one of them. */
struct spread_loop {
    const struct tensor *index, *g;
    struct tensor *dst;
    int64_t n, count, inner, cells;
};
enum { SPREAD_CELL = 256 };

static void spread_cells(void *opaque, int64_t begin, int64_t end)
{
    const struct spread_loop *l = opaque;
    for (int64_t t = begin; t < end; t++) {
        const int64_t o = t / l->cells, from = t % l->cells * SPREAD_CELL, n = i64_min(SPREAD_CELL, l->inner - from);
        for (int64_t k = 0; k < l->count; k++) {
            const int64_t at = op_wrap_index(op_index_at(l->index, k), l->n);
            grad_add_run(l->dst, (o * l->n + at) * l->inner + from, l->g, (o * l->count + k) * l->inner + from, n);
        }
    }
}

static int backward_gather(struct grad_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0), *index = c->in[1];
    struct tensor *dst = grad_wanted(c, 0);

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    const int axis = shape_axis(&dst->shape, attrs->axis);
    if (grad_type(dst, err) < 0 || check_indices(index, dst->shape.dim[axis], err) < 0)
        return -1;
    struct spread_loop l = {.index = index,
                            .g = g,
                            .dst = dst,
                            .n = dst->shape.dim[axis],
                            .count = tensor_count(index),
                            .inner = shape_product(&dst->shape, axis + 1, dst->shape.rank)};
    l.cells = i64_ceil_div(l.inner, SPREAD_CELL);
    const int64_t each = i64_max(1, i64_min(l.inner, SPREAD_CELL) * l.count);
    op_parallel(c->pool, shape_product(&dst->shape, 0, axis) * l.cells, i64_max(1, (1 << 14) / each), spread_cells, &l);
    return 0;
}

/* Constant 1-D indices: which element of the axis each output element is. Otherwise the axis cannot be followed, the others can. */
static int couple_gather(struct coupling *k, struct err *err)
{
    const struct gather_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), more = couple_rank(k, IN(1)) - 1;
    const int axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    const int64_t n = couple_size(k, IN(0), axis);
    const int64_t *index;
    (void)err;
    if (rank < 0 || more < -1)
        return 0;
    for (int i = 0; i < rank; i++) {
        if (i == axis)
            continue;
        couple_axes(k, IN(0), i, OUT(0), i < axis ? i : i + more);
        if (couple_constant(k, 0) && i > axis)
            couple_role(k, IN(0), i, COUPLE_PRODUCES);
    }
    const int count = more == 0 && n > 0 ? couple_ints(k, 1, &index, INT32_MAX) : -1;
    if (count < 0) {
        for (int i = 0; i <= more; i++)
            couple_axes(k, IN(1), i, OUT(0), axis + i);
        couple_freeze(k, IN(0), axis, more ? "its elements are looked up" : "its elements are looked up while running");
        return 0;
    }
    int64_t *table = arena_calloc(k->arena, (size_t)count + 1, sizeof *table);
    if (!table)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < count; i++)
        table[i] = op_wrap_index(index[i], n);
    couple_table(k, OUT(0), axis, IN(0), axis, table, count);
    return 0;
}

static int shrink_gather(struct shrink *s, struct err *err)
{
    const struct gather_attrs *attrs = s->infer->attrs;
    const struct tensor *index = op_value(s->infer, 1);
    const struct shape *x = infer_shape(s->infer, 0);
    const int axis = x->rank < 0 ? 0 : shape_axis(x, attrs->axis);
    int64_t count;
    if (x->rank < 0 || !index || index->shape.rank != 1 || !shrink_touched(s, IN(0), axis))
        return 0;
    const int64_t *kept = s->kept(s, OUT(0), axis, &count);
    count = kept ? count : tensor_count(index);
    int64_t *v = arena_calloc(s->infer->arena, (size_t)count + 1, sizeof *v);
    if (!v)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting indices");
    for (int64_t i = 0; i < count; i++)
        v[i] = shrink_kept_below(s, IN(0), axis, op_wrap_index(op_index_at(index, kept ? kept[i] : i), x->dim[axis]));
    return shrink_set_input(s, 1, v, (int)count, err);
}

OP_CLASS(gather) = {.type = "Gather",
                    .domain = "",
                    .since = 1,
                    .doc = "Slices of an axis, picked by indices.",
                    .in_min = 2,
                    .in_max = 2,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = gather_attrs,
                    .attrs_size = sizeof(struct gather_attrs),
                    .infer = infer_gather,
                    .propagate = propagate_gather,
                    .forward = forward_gather,
                    .couple = couple_gather,
                    .shrink = shrink_gather,
                    .backward = backward_gather,
                    .grad_reads = GRAD_READS_IN(1),
                    .grad_inputs = 1,
                    .quant = {QUANT_PASS},
                    .samples = (const struct op_sample[]){{"f32[5,3] i64[2,2]=0,4,-1,2", ""},
                                                          {"f32[2,5,3] !i64[3]=1,0,-5", "axis=1"},
                                                          {"f32[2,5] i32[]=2", "axis=-1"},
                                                          {"i64[3] !i64[1]=1", ""},
                                                          {"f32[2,3] i64[0]", ""},
                                                          {0}}};

/* ---- GatherElements ---- */
static int infer_elements(struct infer_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    int axis;
    if (op_need(c, 2, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *index = infer_shape(c, 1);
    if (x->rank >= 0) {
        if (op_axis(x, attrs->axis, &axis, err) < 0)
            return -1;
        if (index->rank >= 0 && index->rank != x->rank)
            return err_set(err, ERR_SHAPE, "the input has %d axes but the indices %d; they must agree", x->rank,
                           index->rank);
        for (int i = 0; index->rank >= 0 && i < x->rank; i++)
            if (i != axis && x->dim[i] >= 0 && index->dim[i] > x->dim[i])
                return err_set(err, ERR_SHAPE,
                               "axis %d of the indices has %" PRId64 " elements; the input has only %" PRId64, i,
                               index->dim[i], x->dim[i]);
    }
    infer_out(c, 0, op_dtype(c, 0), index);
    return 0;
}

/* y's slices from the places, in order. */
struct pick_loop {
    struct places p;
    const char *src;
    char *dst;
    size_t elem;
};

static void pick_range(void *opaque, int64_t begin, int64_t end)
{
    const struct pick_loop *l = opaque;
    const size_t bytes = (size_t)l->p.slice * l->elem;
    for (int64_t i = begin; i < end; i++)
        memcpy(l->dst + (size_t)i * bytes, l->src + (size_t)l->p.at[i] * l->elem, bytes);
}

static void pick(struct run_ctx *c, struct places p, size_t elem)
{
    struct pick_loop l = {p, c->in[0]->data, c->out[0]->data, elem};
    op_parallel(c->pool, p.count, i64_max(1, (1 << 14) / i64_max(p.slice, 1)), pick_range, &l);
}

/* The gradient goes back to the places, repeated ones added in order. */
static int backward_elements(struct grad_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0), *index = c->in[1];
    struct tensor *dst = grad_wanted(c, 0);
    struct places p = places_elements(index);
    size_t bytes;

    if (!g || !dst)
        return 0;
    if (grad_type(dst, err) < 0 || places_bytes(&p, &bytes, err) < 0 || !(p.at = grad_scratch(c, bytes, err)) ||
        places_fill_elements(&p, index, &dst->shape, shape_axis(&dst->shape, attrs->axis), err) < 0)
        return -1;
    places_spread(&p, dst, g);
    return 0;
}

static int forward_elements(struct run_ctx *c, struct err *err)
{
    const struct gather_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_elements, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *index = c->in[1];
    struct places p = places_elements(index);
    size_t elem = op_elem(x->dtype, err), bytes;
    if (!elem || places_bytes(&p, &bytes, err) < 0 || !(p.at = run_scratch(c, bytes, err)) ||
        places_fill_elements(&p, index, &x->shape, shape_axis(&x->shape, attrs->axis), err) < 0)
        return -1;
    if (run_out(c, 0))
        pick(c, p, elem);
    return 0;
}

/* Along the axis places are looked up; on the others output and indices stand over the first elements of the data. */
static int couple_elements(struct coupling *k, struct err *err)
{
    const struct gather_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    (void)err;
    couple_same(k, IN(1), OUT(0));
    couple_freeze(k, IN(0), axis, "its elements are looked up");
    for (int i = 0; i < rank; i++)
        if (i != axis)
            couple_equal_axes(k, IN(0), i, IN(1), i, "only a part of it is looked up");
    return 0;
}

OP_CLASS(gather_elements) = {.type = "GatherElements",
                             .domain = "",
                             .since = 11,
                             .doc = "Elements of an axis, one index each.",
                             .in_min = 2,
                             .in_max = 2,
                             .out_min = 1,
                             .out_max = 1,
                             .attrs = gather_attrs,
                             .attrs_size = sizeof(struct gather_attrs),
                             .infer = infer_elements,
                             .forward = forward_elements,
                             .couple = couple_elements,
                             .backward = backward_elements,
                             .grad_reads = GRAD_READS_IN(1),
                             .grad_inputs = 1,
                             .quant = {QUANT_PASS},
                             .samples = (const struct op_sample[]){{"f32[3,3] i64[2,3]=1,2,0,2,0,0", ""},
                                                                   {"f32[2,3] !i64[2,2]=0,-1,1,0", "axis=1"},
                                                                   {"f32[2,3,2] i32[2,1,2]=0,2,-3,1", "axis=1"},
                                                                   {0}}};

/* ---- GatherND ---- */
struct nd_attrs {
    int64_t batch_dims;
};
static const struct op_attr nd_attrs[] = {{OP_ATTR(nd_attrs, batch_dims), .kind = OP_INT}, {0}};

static int infer_nd(struct infer_ctx *c, struct err *err)
{
    const struct nd_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 2, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *index = infer_shape(c, 1);
    if (x->rank < 0 || index->rank < 0) {
        infer_out(c, 0, op_dtype(c, 0), &out);
        return 0;
    }
    int64_t b = attrs->batch_dims;
    if (x->rank < 1 || index->rank < 1 || b < 0 || b >= x->rank || b >= index->rank)
        return err_set(err, ERR_MODEL, "batch_dims is %" PRId64 "; it must be below the ranks %d and %d", b, x->rank,
                       index->rank);
    for (int i = 0; i < (int)b; i++)
        if (x->dim[i] >= 0 && index->dim[i] >= 0 && x->dim[i] != index->dim[i])
            return err_set(err, ERR_SHAPE,
                           "batch axis %d has %" PRId64 " elements in the input but %" PRId64 " in the indices", i,
                           x->dim[i], index->dim[i]);
    int64_t m = index->dim[index->rank - 1];
    if (m >= 0) {
        if (m > x->rank - b)
            return err_set(err, ERR_SHAPE,
                           "the indices name %" PRId64 " axes but the input has %d behind the batch axes", m,
                           x->rank - (int)b);
        int from = (int)(b + m);
        if (op_rank_fits(index->rank - 1 + x->rank - from, err) < 0)
            return -1;
        out.rank = index->rank - 1 + x->rank - from;
        memcpy(out.dim, index->dim, (size_t)(index->rank - 1) * sizeof *out.dim);
        memcpy(out.dim + index->rank - 1, x->dim + from, (size_t)(x->rank - from) * sizeof *out.dim);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_nd(struct run_ctx *c, struct err *err)
{
    const int batch = (int)((const struct nd_attrs *)c->attrs)->batch_dims;
    if (op_outputs(c, infer_nd, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *index = c->in[1];
    struct places p = places_tuples(index, &x->shape, batch);
    size_t elem = op_elem(x->dtype, err), bytes;
    if (!elem || places_bytes(&p, &bytes, err) < 0 || !(p.at = run_scratch(c, bytes, err)) ||
        places_fill_tuples(&p, index, &x->shape, batch, err) < 0)
        return -1;
    if (run_out(c, 0) && p.slice)
        pick(c, p, elem);
    return 0;
}

static int backward_nd(struct grad_ctx *c, struct err *err)
{
    const int batch = (int)((const struct nd_attrs *)c->attrs)->batch_dims;
    const struct tensor *g = grad_of(c, 0), *index = c->in[1];
    struct tensor *dst = grad_wanted(c, 0);
    size_t bytes;

    if (!g || !dst)
        return 0;
    struct places p = places_tuples(index, &dst->shape, batch);
    if (grad_type(dst, err) < 0 || places_bytes(&p, &bytes, err) < 0 || !(p.at = grad_scratch(c, bytes, err)) ||
        places_fill_tuples(&p, index, &dst->shape, batch, err) < 0)
        return -1;
    places_spread(&p, dst, g);
    return 0;
}

static int couple_nd(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0)), tuples = couple_rank(k, IN(1)) - 1;
    const int batch = (int)((const struct nd_attrs *)couple_attrs(k))->batch_dims;
    const int64_t m = tuples < 0 ? -1 : couple_size(k, IN(1), tuples);
    (void)err;
    if (rank < 0 || m < 0 || couple_rank(k, OUT(0)) < 0)
        return 0;
    for (int i = 0; i < tuples; i++)
        couple_axes(k, IN(1), i, OUT(0), i);
    for (int i = 0; i < rank; i++) {
        if (i < batch)
            couple_axes(k, IN(0), i, OUT(0), i);
        else if (i < batch + m)
            couple_freeze(k, IN(0), i, "its elements are looked up");
        else
            couple_axes(k, IN(0), i, OUT(0), tuples + i - batch - (int)m);
        if (i >= batch + m && couple_constant(k, 0))
            couple_role(k, IN(0), i, COUPLE_PRODUCES);
    }
    return 0;
}

OP_CLASS(gather_nd) = {.type = "GatherND",
                       .domain = "",
                       .since = 11,
                       .doc = "Slices picked by tuples of indices.",
                       .in_min = 2,
                       .in_max = 2,
                       .out_min = 1,
                       .out_max = 1,
                       .attrs = nd_attrs,
                       .attrs_size = sizeof(struct nd_attrs),
                       .infer = infer_nd,
                       .forward = forward_nd,
                       .couple = couple_nd,
                       .backward = backward_nd,
                       .grad_reads = GRAD_READS_IN(1),
                       .grad_inputs = 1,
                       .quant = {QUANT_PASS},
                       .samples = (const struct op_sample[]){{"f32[2,2] i64[2,2]=0,0,1,1", ""},
                                                             {"f32[2,3] !i64[2,1]=1,-2", ""},
                                                             {"f32[2,2,3] i64[2,1]=1,0", "batch_dims=1"},
                                                             {"i32[2,2,2] i64[2,1,2]=0,1,1,0", ""},
                                                             {0}}};

static const struct op_attr ms_nd_attrs[] = {{0}}; /* batch_dims stays 0 */
OP_CLASS(ms_gather_nd) = {.type = "GatherND",
                          .domain = "com.microsoft",
                          .since = 1,
                          .doc = "Slices picked by tuples of indices.",
                          .in_min = 2,
                          .in_max = 2,
                          .out_min = 1,
                          .out_max = 1,
                          .attrs = ms_nd_attrs,
                          .attrs_size = sizeof(struct nd_attrs),
                          .infer = infer_nd,
                          .forward = forward_nd,
                          .couple = couple_nd,
                          .backward = backward_nd,
                          .grad_reads = GRAD_READS_IN(1),
                          .grad_inputs = 1,
                          .quant = {QUANT_PASS},
                          .samples = (const struct op_sample[]){{"f32[2,3,2] i32[2,2]=0,1,1,2", ""}, {0}}};
