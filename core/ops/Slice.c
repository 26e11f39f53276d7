/* SPDX-License-Identifier: Apache-2.0
 * Slice: y[i] = x[start + i * step] on the axes named; starts and ends count from the end when negative and are clamped
 * to the axis. Opset 1 has them as attributes, opset 10 as inputs with steps, which may be negative. */
#include <inttypes.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

struct slice_attrs {
    struct op_ints starts, ends, axes;
};
static const struct op_attr slice_attrs[] = {
    {OP_ATTR(slice_attrs, starts), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK, .required = true},
    {OP_ATTR(slice_attrs, ends), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK, .required = true},
    {OP_ATTR(slice_attrs, axes), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK},
    {0},
};

/* What each axis takes. `known` is false where an input's value is not known yet. */
struct slice {
    int count; /* of starts, -1 unknown */
    int64_t starts[SHAPE_MAX_RANK], ends[SHAPE_MAX_RANK], axes[SHAPE_MAX_RANK], steps[SHAPE_MAX_RANK];
    bool bounds_known, axes_known;
};

static int read_list(const struct tensor *t, const char *what, int64_t *out, int *count, struct err *err)
{
    int n;
    if (op_read_ints(t, what, out, SHAPE_MAX_RANK, &n, err) < 0)
        return -1;
    if (*count >= 0 && n != *count)
        return err_set(err, ERR_MODEL, "%s has %d elements but the lists before it have %d; they must agree", what, n,
                       *count);
    *count = n;
    return 0;
}

static int read_attrs(const struct slice_attrs *attrs, struct slice *s, struct err *err)
{
    s->count = attrs->starts.count;
    s->bounds_known = s->axes_known = true;
    if (attrs->ends.count != s->count || (attrs->axes.count && attrs->axes.count != s->count))
        return err_set(err, ERR_MODEL, "starts, ends and axes have %d, %d and %d elements; they must agree", s->count,
                       attrs->ends.count, attrs->axes.count);
    for (int i = 0; i < s->count; i++) {
        s->starts[i] = attrs->starts.at[i];
        s->ends[i] = attrs->ends.at[i];
        s->axes[i] = attrs->axes.count ? attrs->axes.at[i] : i;
        s->steps[i] = 1;
    }
    return 0;
}

static int read_slice(const struct infer_ctx *c, struct slice *s, struct err *err)
{
    s->count = -1;
    if (c->opset < 10)
        return read_attrs(c->attrs, s, err);
    static const char *const names[] = {NULL, "starts", "ends", "axes", "steps"};
    int64_t *lists[] = {NULL, s->starts, s->ends, s->axes, s->steps};
    for (int i = 0; i < SHAPE_MAX_RANK; i++) {
        s->axes[i] = i;
        s->steps[i] = 1;
    }
    s->bounds_known = op_value(c, 1) && op_value(c, 2) && (!infer_has(c, 4) || op_value(c, 4));
    s->axes_known = !infer_has(c, 3) || op_value(c, 3);
    for (int i = 1; i <= 4; i++)
        if (op_value(c, i) && read_list(op_value(c, i), names[i], lists[i], &s->count, err) < 0)
            return -1;
    for (int i = 0; i < s->count; i++)
        if (s->steps[i] == 0)
            return err_set(err, ERR_MODEL, "step %d is 0; it must not be", i);
    return 0;
}

/* Bounds of one axis as a start inside it and a number of elements. */
static void clamp_axis(int64_t dim, int64_t step, int64_t *start, int64_t end, int64_t *count)
{
    int64_t first = *start < 0 ? *start + dim : *start, last = end < 0 ? end + dim : end;
    first = i64_max(0, i64_min(first, step > 0 ? dim : dim - 1));
    last = i64_max(step > 0 ? 0 : -1, i64_min(last, dim));
    *start = first;
    *count = 0;
    if (dim == 0)
        return;
    if (step > 0 && last > first)
        *count = (last - first - 1) / step + 1;
    else if (step < 0 && first > last)
        *count = (int64_t)((uint64_t)(first - last - 1) / (0 - (uint64_t)step)) + 1;
}

/* The whole of an axis whose size is not known. */
static bool takes_all(int64_t start, int64_t end, int64_t step)
{
    return start == 0 && end >= INT32_MAX && step == 1;
}

/* Output shape; first[] and step[] of each axis if wanted (known shapes). */
static int slice_shape(const struct slice *s, const struct shape *x, struct shape *out, int64_t *first, int64_t *step,
                       struct err *err)
{
    bool mask[SHAPE_MAX_RANK];
    *out = *x;
    if (!s->axes_known || s->count < 0) {
        for (int i = 0; i < out->rank; i++)
            out->dim[i] = DIM_UNKNOWN;
        return 0;
    }
    if (op_axes_mask(s->axes, s->count, x->rank, mask, err) < 0)
        return -1;
    for (int i = 0; i < s->count; i++) {
        int axis = shape_axis(x, s->axes[i]);
        int64_t start = s->starts[i], count;
        if (x->dim[axis] < 0 && s->bounds_known && takes_all(start, s->ends[i], s->steps[i]))
            continue;
        out->dim[axis] = DIM_UNKNOWN;
        if (!s->bounds_known || x->dim[axis] < 0)
            continue;
        clamp_axis(x->dim[axis], s->steps[i], &start, s->ends[i], &count);
        out->dim[axis] = count;
        if (first) {
            first[axis] = start;
            step[axis] = s->steps[i];
        }
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct slice s;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, c->opset < 10 ? 1 : 3, err) < 0 || read_slice(c, &s, err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank >= 0 && slice_shape(&s, infer_shape(c, 0), &out, NULL, NULL, err) < 0)
        return -1;
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static bool propagate(const struct infer_ctx *c, struct sym_list *out)
{
    struct slice s;
    const struct sym_list *x = op_sizes(c, 0);
    if (!x || infer_shape(c, 0)->rank != 1 || read_slice(c, &s, NULL) < 0 || !s.bounds_known || !s.axes_known ||
        s.count != 1)
        return false;
    int64_t start = s.starts[0], count;
    clamp_axis(x->count, s.steps[0], &start, s.ends[0], &count);
    out->count = (int)count;
    for (int i = 0; i < out->count; i++)
        out->at[i] = x->at[start + i * s.steps[0]];
    return true;
}

/* Where the output's elements lie in the input: strides of its axes, and the first element. */
struct view {
    int64_t stride[SHAPE_MAX_RANK], offset;
};

static int read_view(struct infer_ctx *c, const struct tensor *const *values, const struct shape *x, struct view *v,
                     struct err *err)
{
    struct slice s;
    struct shape out;
    int64_t first[SHAPE_MAX_RANK] = {0}, step[SHAPE_MAX_RANK];
    struct type types[5];
    const struct type *in[5] = {NULL};

    for (int i = 0; i < c->n_in && i < 5; i++)
        in[i] = values[i] ? &types[i] : NULL; /* only presence is asked for */
    c->in = in;
    c->in_value = values;
    for (int i = 0; i < SHAPE_MAX_RANK; i++)
        step[i] = 1;
    if (read_slice(c, &s, err) < 0 || slice_shape(&s, x, &out, first, step, err) < 0)
        return -1;
    shape_strides(x, false, v->stride);
    v->offset = 0;
    for (int i = 0; i < x->rank; i++) {
        v->offset += first[i] * v->stride[i];
        v->stride[i] = out.dim[i] == 1 ? 0 : v->stride[i] * step[i]; /* a huge step takes one element */
    }
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    struct view v;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    struct infer_ctx read = {.attrs = c->attrs, .opset = c->opset, .n_in = c->n_in};
    const size_t elem = op_elem(x->dtype, err);
    if (!elem || read_view(&read, c->in, &x->shape, &v, err) < 0)
        return -1;
    op_copy_strided(c->pool, elem, y->data, (const char *)x->data + (size_t)v.offset * elem, x->shape.rank,
                    y->shape.dim, v.stride);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    struct view v;

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    struct infer_ctx read = {.attrs = c->attrs, .opset = c->opset, .n_in = c->n_in};
    if (grad_type(dst, err) < 0 || read_view(&read, c->in, &dst->shape, &v, err) < 0)
        return -1;
    struct grad_loop l = {.dtype = dst->dtype, .rank = g->shape.rank, .sources = 1, .src[0].data = g->data};
    l.dst = (char *)dst->data + (size_t)v.offset * (dst->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double));
    shape_strides(&g->shape, false, l.src[0].stride);
    for (int i = 0; i < l.rank; i++) {
        l.dim[i] = g->shape.dim[i];
        l.dst_stride[i] = v.stride[i];
    }
    grad_sum(c->pool, &l);
    return 0;
}

/* ---- pruning ---- */
/* A range of an axis, forwards or backwards, is one again after the cut; other steps are not. */
static int couple(struct coupling *k, struct err *err)
{
    const struct infer_ctx *c = k->infer;
    const int rank = couple_rank(k, IN(0));
    struct slice s = {0};
    bool mask[SHAPE_MAX_RANK] = {false};
    (void)err;
    if (rank < 0 || couple_rank(k, OUT(0)) != rank || read_slice(c, &s, NULL) < 0 || !s.axes_known || s.count < 0 ||
        op_axes_mask(s.axes, s.count, rank, mask, NULL) < 0) {
        couple_freeze_all(k, IN(0), "the axes of its slice are computed while running");
        couple_freeze_all(k, OUT(0), "the axes of its slice are computed while running");
        return 0;
    }
    for (int i = 0; i < rank; i++)
        if (!mask[i])
            couple_axes(k, IN(0), i, OUT(0), i);
    for (int i = 0; i < s.count; i++) {
        const int axis = shape_axis(infer_shape(c, 0), s.axes[i]);
        const int64_t n = couple_size(k, IN(0), axis);
        int64_t start = s.starts[i], count;
        const char *why = !s.bounds_known                         ? "the bounds of its slice are computed while running"
                          : s.steps[i] != 1 && s.steps[i] != -1 ? "its slice takes steps"
                                                                  : NULL;
        if (why || n < 0) {
            couple_freeze(k, IN(0), axis, why);
            couple_freeze(k, OUT(0), axis, why);
            continue;
        }
        clamp_axis(n, s.steps[i], &start, s.ends[i], &count);
        if (s.steps[i] == 1) {
            couple_part(k, IN(0), axis, start, OUT(0), axis, 0, count);
            continue;
        }
        int64_t *table = arena_calloc(k->arena, (size_t)count + 1, sizeof *table);
        if (!table)
            return err_set(err, ERR_NOMEM, "out of memory");
        for (int64_t j = 0; j < count; j++)
            table[j] = start - j;
        couple_table(k, OUT(0), axis, IN(0), axis, table, count);
    }
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct infer_ctx *c = s->infer;
    const struct shape *x = infer_shape(c, 0);
    struct slice v = {0};
    bool changes = false;
    if (x->rank < 0 || read_slice(c, &v, NULL) < 0 || !v.axes_known || !v.bounds_known)
        return 0;
    for (int i = 0; i < v.count; i++) {
        const int axis = shape_axis(x, v.axes[i]);
        int64_t start = v.starts[i], count;
        if (!shrink_touched(s, IN(0), axis))
            continue;
        clamp_axis(x->dim[axis], v.steps[i], &start, v.ends[i], &count);
        const int64_t low = v.steps[i] > 0 ? start : start - count + 1; /* lowest index taken */
        const int64_t from = shrink_kept_below(s, IN(0), axis, low);
        const int64_t to = shrink_kept_below(s, IN(0), axis, low + count);
        v.starts[i] = v.steps[i] > 0 ? from : to - 1;
        v.ends[i] = v.steps[i] > 0 ? to : from > 0 ? from - 1 : -shrink_size(s, IN(0), axis) - 1;
        changes = true;
    }
    if (!changes)
        return 0;
    if (c->opset >= 10)
        return shrink_set_input(s, 1, v.starts, v.count, err) < 0 ? -1 : shrink_set_input(s, 2, v.ends, v.count, err);
    node_set_ints(s->model, s->node, "starts", v.starts, v.count);
    node_set_ints(s->model, s->node, "ends", v.ends, v.count);
    return 0;
}

OP_CLASS(slice_1) = {.type = "Slice",
                     .domain = "",
                     .since = 1,
                     .until = 9,
                     .doc = "A range of each axis.",
                     .in_min = 1,
                     .in_max = 1,
                     .out_min = 1,
                     .out_max = 1,
                     .attrs = slice_attrs,
                     .attrs_size = sizeof(struct slice_attrs),
                     .infer = infer,
                     .propagate = propagate,
                     .forward = forward,
                     .couple = couple,
                     .shrink = shrink,
                     .backward = backward,
                     .grad_inputs = 1,
                     .quant = {QUANT_PASS},
                     .samples = (const struct op_sample[]){{"f32[4,5]", "starts=1,0 ends=3,-1", 1, 9},
                                                           {"f32[4,5]", "starts=-3 ends=1000 axes=1", 1, 9},
                                                           {0}}};
OP_CLASS(slice_10) = {
    .type = "Slice",
    .domain = "",
    .since = 10,
    .doc = "A range of each axis, with steps.",
    .in_min = 3,
    .in_max = 5,
    .out_min = 1,
    .out_max = 1,
    .infer = infer,
    .propagate = propagate,
    .forward = forward,
    .couple = couple,
    .shrink = shrink,
    .backward = backward,
    .grad_reads = GRAD_READS_IN(1) | GRAD_READS_IN(2) | GRAD_READS_IN(3) | GRAD_READS_IN(4),
    .grad_inputs = 1,
    .quant = {QUANT_PASS},
    .samples = (const struct op_sample[]){{"f32[4,5] !i64[2]=1,0 !i64[2]=3,-1", ""},
                                          {"f32[4,5] i64[1]=1 i64[1]=4 i64[1]=-1 i64[1]=2", ""},
                                          {"f32[4,5] !i64[1]=-1 !i64[1]=-100 !i64[1]=1 !i64[1]=-2", ""},
                                          {"f32[20,10] !i64[2]=20,0 !i64[2]=0,9 none !i64[2]=-3,4", ""},
                                          {"i64[5] !i32[1]=3 !i32[1]=2", ""},
                                          {"f32[3,4] !i64[1]=100 !i64[1]=1000 !i64[1]=0", ""},
                                          {0}}};
