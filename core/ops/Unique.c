/* SPDX-License-Identifier: Apache-2.0
 * Outputs whose size depends on values: NonZero, Compress, Unique.
 *   NonZero:  [rank, count], the coordinates of elements that are not zero, in row-major order.
 *   Compress: the slices of an axis (or of the flattened input) where the condition is true.
 *   Unique:   distinct elements, or slices of an axis, ascending or in order of appearance, with the index of the first
 * of each, the inverse mapping and counts. */
#include <stdlib.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/order_keys.h"

/* ---- NonZero ---- */
static int infer_nonzero(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "fiub", err) < 0)
        return -1;
    struct shape out = SHAPE(infer_shape(c, 0)->rank < 0 ? DIM_UNKNOWN : infer_shape(c, 0)->rank, DIM_UNKNOWN);
    infer_out(c, 0, DTYPE_INT64, &out);
    return 0;
}

static int forward_nonzero(struct run_ctx *c, struct err *err)
{
    if (op_recheck(c, infer_nonzero, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    int64_t n = tensor_count(x), count = 0;
    int rank = x->shape.rank;
    for (int64_t i = 0; i < n; i++)
        count += dtype_get(x->dtype, x->data, i) != 0;
    if (!run_out(c, 0))
        return 0;
    if (run_alloc(c, 0, DTYPE_INT64, &SHAPE(rank, count), err) < 0)
        return -1;
    int64_t *y = tensor_i64(c->out[0]), found = 0;
    for (int64_t i = 0; i < n && rank; i++) {
        if (dtype_get(x->dtype, x->data, i) == 0)
            continue;
        int64_t rest = i;
        for (int d = rank - 1; d >= 0; d--) {
            y[d * count + found] = rest % x->shape.dim[d];
            rest /= x->shape.dim[d];
        }
        found++;
    }
    return 0;
}

OP_CLASS(non_zero) = {.type = "NonZero",
                      .domain = "",
                      .since = 9,
                      .doc = "Coordinates of the elements that are not zero.",
                      .in_min = 1,
                      .in_max = 1,
                      .out_min = 1,
                      .out_max = 1,
                      .infer = infer_nonzero,
                      .forward = forward_nonzero,
                      .samples = (const struct op_sample[]){
                          {"b[2,3]=1,0,0,1,1,0", ""}, {"f32[2,2]=0,1,2,0", ""}, {"i64[3]=0,0,0", ""}, {0}}};

/* ---- Compress ---- */
#define NO_AXIS INT64_MIN
struct axis_attrs {
    int64_t axis;
};
static const struct op_attr compress_attrs[] = {{OP_ATTR(axis_attrs, axis), .kind = OP_INT, .def = NO_AXIS}, {0}};

static int infer_compress(struct infer_ctx *c, struct err *err)
{
    const struct axis_attrs *attrs = c->attrs;
    struct shape out = SHAPE(DIM_UNKNOWN);
    int axis;
    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 1, "b", err) < 0)
        return -1;
    if (attrs->axis != NO_AXIS) {
        out = *infer_shape(c, 0);
        if (out.rank >= 0 && op_axis(&out, attrs->axis, &axis, err) < 0)
            return -1;
        if (out.rank >= 0)
            out.dim[axis] = DIM_UNKNOWN;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_compress(struct run_ctx *c, struct err *err)
{
    const struct axis_attrs *attrs = c->attrs;
    if (op_recheck(c, infer_compress, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    const uint8_t *cond = c->in[1]->data;
    struct shape flat = SHAPE(tensor_count(x)), shape = attrs->axis == NO_AXIS ? flat : x->shape;
    int axis = attrs->axis == NO_AXIS ? 0 : shape_axis(&shape, attrs->axis);
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    int64_t n = shape.dim[axis], outer = shape_product(&shape, 0, axis),
            inner = shape_product(&shape, axis + 1, shape.rank), count = 0;
    if (tensor_count(c->in[1]) > n)
        return err_set(err, ERR_SHAPE, "the condition has %lld elements but the axis only %lld",
                       (long long)tensor_count(c->in[1]), (long long)n);
    n = tensor_count(c->in[1]);
    for (int64_t i = 0; i < n; i++)
        count += cond[i] != 0;
    int64_t axis_size = shape.dim[axis];
    shape.dim[axis] = count;
    if (!run_out(c, 0))
        return 0;
    if (run_alloc(c, 0, x->dtype, &shape, err) < 0)
        return -1;
    size_t bytes = (size_t)inner * elem;
    char *dst = c->out[0]->data;
    for (int64_t o = 0; o < outer && bytes; o++)
        for (int64_t i = 0; i < n; i++)
            if (cond[i]) {
                memcpy(dst, (const char *)x->data + (size_t)(o * axis_size + i) * bytes, bytes);
                dst += bytes;
            }
    return 0;
}

static int backward_compress(struct grad_ctx *c, struct err *err)
{
    const struct axis_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    const uint8_t *cond = c->in[1]->data;

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const struct shape flat = SHAPE(tensor_count(dst)), shape = attrs->axis == NO_AXIS ? flat : dst->shape;
    const int axis = attrs->axis == NO_AXIS ? 0 : shape_axis(&shape, attrs->axis);
    const int64_t outer = shape_product(&shape, 0, axis), inner = shape_product(&shape, axis + 1, shape.rank);
    int64_t from = 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < tensor_count(c->in[1]); i++)
            if (cond[i]) {
                grad_add_run(dst, (o * shape.dim[axis] + i) * inner, g, from, inner);
                from += inner;
            }
    return 0;
}

static int couple_compress(struct coupling *k, struct err *err)
{
    const struct axis_attrs *attrs = couple_attrs(k);
    const char *why = "its elements are chosen while running";
    (void)err;
    if (attrs->axis == NO_AXIS)
        couple_freeze_all(k, IN(0), why);
    else
        couple_along(k, IN(0), OUT(0), (int)attrs->axis, why);
    return 0;
}

OP_CLASS(compress) = {
    .type = "Compress",
    .domain = "",
    .since = 9,
    .doc = "Slices where a condition is true.",
    .in_min = 2,
    .in_max = 2,
    .out_min = 1,
    .out_max = 1,
    .attrs = compress_attrs,
    .attrs_size = sizeof(struct axis_attrs),
    .infer = infer_compress,
    .forward = forward_compress,
    .couple = couple_compress,
    .backward = backward_compress,
    .grad_reads = GRAD_READS_IN(1),
    .grad_inputs = 1,
    .samples = (const struct op_sample[]){
        {"f32[3,2] b[3]=0,1,1", "axis=0"}, {"f32[3,2] b[2]=0,1", "axis=1"}, {"f32[3,2] b[5]=0,1,0,0,1", ""}, {0}}};

/* ---- Unique ---- */
struct unique_attrs {
    int64_t axis;
    bool sorted;
};
static const struct op_attr unique_attrs[] = {{OP_ATTR(unique_attrs, axis), .kind = OP_INT, .def = NO_AXIS},
                                              {OP_ATTR(unique_attrs, sorted), .kind = OP_BOOL, .def = 1},
                                              {0}};

static int infer_unique(struct infer_ctx *c, struct err *err)
{
    const struct unique_attrs *attrs = c->attrs;
    struct shape out = SHAPE(DIM_UNKNOWN), list = SHAPE(DIM_UNKNOWN);
    int axis;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "fiub", err) < 0)
        return -1;
    if (attrs->axis != NO_AXIS) {
        out = *infer_shape(c, 0);
        if (out.rank >= 0 && op_axis(&out, attrs->axis, &axis, err) < 0)
            return -1;
        if (out.rank >= 0)
            out.dim[axis] = DIM_UNKNOWN;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    for (int i = 1; i < 4; i++)
        infer_out(c, i, DTYPE_INT64, &list);
    return 0;
}

/* Items to compare: slice i of the axis is keys[outer, i, inner]. */
struct items {
    const uint64_t *keys;
    int64_t n, outer, inner;
};

static int compare_items(const struct items *it, int64_t a, int64_t b)
{
    for (int64_t o = 0; o < it->outer; o++)
        for (int64_t k = 0; k < it->inner; k++) {
            uint64_t x = it->keys[(o * it->n + a) * it->inner + k], y = it->keys[(o * it->n + b) * it->inner + k];
            if (x != y)
                return x < y ? -1 : 1;
        }
    return 0;
}

static int compare_order(const void *a, const void *b, void *items)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    int order = compare_items(items, x, y);
    return order ? order : (x > y) - (x < y);
}

static int compare_ints(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* group[i]: the first item equal to item i. first[]: those, in output order; returns their number. */
static int64_t find_groups(struct items *it, bool sorted, int64_t *order, int64_t *group, int64_t *first)
{
    int64_t count = 0;
    for (int64_t i = 0; i < it->n; i++)
        order[i] = i;
    qsort_r(order, (size_t)it->n, sizeof *order, compare_order, it);
    for (int64_t i = 0; i < it->n; i++) {
        bool same = i > 0 && compare_items(it, order[i - 1], order[i]) == 0;
        if (!same)
            first[count++] = order[i];
        group[order[i]] = first[count - 1];
    }
    if (!sorted)
        qsort(first, (size_t)count, sizeof *first, compare_ints);
    return count;
}

/* Outputs 1 to 3: first indices, inverse, counts. `place` has n entries of scratch. */
static int write_lists(struct run_ctx *c, int64_t n, int64_t count, const int64_t *first, const int64_t *group,
                       int64_t *place, struct err *err)
{
    const int64_t sizes[] = {0, count, n, count};
    for (int i = 1; i < 4; i++)
        if (run_out(c, i) && run_alloc(c, i, DTYPE_INT64, &SHAPE(sizes[i]), err) < 0)
            return -1;
    for (int64_t k = 0; k < count; k++) {
        place[first[k]] = k;
        if (run_out(c, 1))
            tensor_i64(c->out[1])[k] = first[k];
        if (run_out(c, 3))
            tensor_i64(c->out[3])[k] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        if (run_out(c, 2))
            tensor_i64(c->out[2])[i] = place[group[i]];
        if (run_out(c, 3))
            tensor_i64(c->out[3])[place[group[i]]]++;
    }
    return 0;
}

static int forward_unique(struct run_ctx *c, struct err *err)
{
    const struct unique_attrs *attrs = c->attrs;
    if (op_recheck(c, infer_unique, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct shape shape = attrs->axis == NO_AXIS ? SHAPE(tensor_count(x)) : x->shape;
    int axis = attrs->axis == NO_AXIS ? 0 : shape_axis(&shape, attrs->axis);
    size_t elem = op_elem(x->dtype, err), bytes;
    const uint64_t *keys = elem ? order_keys(c, x, err) : NULL;
    if (!keys)
        return -1;
    struct items it = {keys, shape.dim[axis], shape_product(&shape, 0, axis),
                       shape_product(&shape, axis + 1, shape.rank)};
    if (!size_mul((size_t)it.n, 4 * sizeof(int64_t), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    int64_t *work = run_scratch(c, bytes + 8, err);
    if (!work)
        return -1;
    int64_t *group = work + it.n, *first = work + 2 * it.n, *place = work + 3 * it.n;
    int64_t count = find_groups(&it, attrs->sorted, work, group, first);
    shape.dim[axis] = count;
    if (run_out(c, 0) && run_alloc(c, 0, x->dtype, &shape, err) < 0)
        return -1;
    size_t run = (size_t)it.inner * elem;
    for (int64_t o = 0; run_out(c, 0) && run && o < it.outer; o++)
        for (int64_t k = 0; k < count; k++)
            memcpy((char *)c->out[0]->data + (size_t)(o * count + k) * run,
                   (const char *)x->data + (size_t)(o * it.n + first[k]) * run, run);
    return write_lists(c, it.n, count, first, group, place, err);
}

OP_CLASS(unique) = {.type = "Unique",
                    .domain = "",
                    .since = 11,
                    .doc = "Distinct elements or slices.",
                    .in_min = 1,
                    .in_max = 1,
                    .out_min = 1,
                    .out_max = 4,
                    .attrs = unique_attrs,
                    .attrs_size = sizeof(struct unique_attrs),
                    .infer = infer_unique,
                    .forward = forward_unique,
                    .samples = (const struct op_sample[]){{"f32[6]=2,1,1,3,4,3", "", 4},
                                                          {"f32[6]=2,1,1,3,4,3", "sorted=0", 4},
                                                          {"f32[3,3]=1,0,0,1,0,0,2,3,4", "axis=0", 4},
                                                          {"i64[2,4]=1,1,2,1,1,1,3,1", "axis=1", 1},
                                                          {0}}};
