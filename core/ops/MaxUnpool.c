/* SPDX-License-Identifier: Apache-2.0
 * MaxUnpool: zeros, with the values of X at the places that MaxPool's second output named (flat over the whole pooled
 * tensor).
 * Size       (in - 1) * stride + kernel - pads by default; output_shape, when given, is the size instead, and the
 *            places still count in the default one. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/grad_util.h"
#include "core/ops/sliding.h"

struct unpool_attrs {
    struct sliding_attrs s;
};
static const struct op_attr unpool_attrs[] = {{SLIDING_ATTR(unpool_attrs, kernel_shape, OP_INTS), .required = true},
                                              {SLIDING_ATTR(unpool_attrs, strides, OP_INTS)},
                                              {SLIDING_ATTR(unpool_attrs, pads, OP_INTS)},
                                              {NULL}};

/* The size that undoes the pool. */
static int natural_size(const struct unpool_attrs *a, const struct shape *x, struct shape *out, struct err *err)
{
    struct window w;

    *out = *x;
    if (sliding_read(&w, &a->s, x->rank - 2, NULL, err) < 0)
        return -1;
    for (int i = 0; i < w.rank; i++) {
        int64_t reach = DIM_UNKNOWN;
        if (x->dim[i + 2] >= 0 &&
            (x->dim[i + 2] < 1 || !i64_mul(x->dim[i + 2] - 1, w.stride[i], &reach) || reach > INT64_MAX / 4))
            return err_set(err, ERR_SHAPE, "spatial axis %d has size %" PRId64 ", which gives no valid output size", i,
                           x->dim[i + 2]);
        out->dim[i + 2] = reach < 0 ? DIM_UNKNOWN : reach + w.kernel[i] - w.pad[i] - w.pad_end[i];
        if (reach >= 0 && out->dim[i + 2] < 1)
            return err_set(err, ERR_SHAPE, "the pads leave no output at spatial axis %d", i);
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    int64_t dims[SHAPE_MAX_RANK];
    struct shape out = SHAPE_UNKNOWN;
    int count;

    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || sliding_rank(c, 0, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "the places are %s; they must be int64", dtype_name(op_dtype(c, 1)));
    if (shape_known(x) && shape_known(infer_shape(c, 1)) && !shape_equal(x, infer_shape(c, 1)))
        return err_set(err, ERR_SHAPE, "values and places have different shapes; they must be equal");
    if (x->rank != SHAPE_UNKNOWN_RANK && natural_size(c->attrs, x, &out, err) < 0)
        return -1;
    if (infer_has(c, 2)) {
        const struct tensor *shape = op_value(c, 2);
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = DIM_UNKNOWN;
        if (shape) {
            if (op_read_ints(shape, "output_shape", dims, SHAPE_MAX_RANK, &count, err) < 0)
                return -1;
            if (out.rank >= 0 && count != out.rank)
                return err_set(err, ERR_SHAPE, "output_shape has %d values; the output has %d axes", count, out.rank);
            out.rank = count;
            for (int i = 0; i < count; i++) {
                if (dims[i] < 0)
                    return err_set(err, ERR_MODEL,
                                   "output_shape has %" PRId64 " at position %d; it must not be negative", dims[i], i);
                out.dim[i] = dims[i];
            }
        }
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

/* A flat place in `from`, as a flat place in `to`; -1 when it lies outside. */
static int64_t translate(int64_t place, const struct shape *from, const struct shape *to)
{
    int64_t at = 0, scale = 1;
    for (int i = from->rank - 1; i >= 0; i--) {
        const int64_t index = place % from->dim[i];
        if (index >= to->dim[i])
            return -1;
        at += index * scale;
        scale *= to->dim[i];
        place /= from->dim[i];
    }
    return place == 0 ? at : -1;
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *places = c->in[1];
    struct tensor *y = run_out(c, 0);
    const size_t elem = op_elem(x->dtype, err);
    struct shape natural;

    if (!y)
        return 0;
    if (elem == 0 || natural_size(c->attrs, &x->shape, &natural, err) < 0)
        return -1;
    if (y->bytes)
        memset(y->data, 0, y->bytes);
    for (int64_t i = 0, n = tensor_count(x); i < n; i++) {
        const int64_t place = tensor_i64(places)[i], at = place < 0 ? -1 : translate(place, &natural, &y->shape);
        if (at < 0)
            return err_set(err, ERR_MODEL, "place #%" PRId64 " is %" PRId64 "; it must lie inside the output", i,
                           place);
        memcpy((char *)y->data + (size_t)at * elem, (const char *)x->data + (size_t)i * elem, elem);
    }
    return 0;
}

/* A place that two values name holds the last of them, which alone gets its gradient. All lie inside: forward refuses
 * others, also when the output is empty. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0), *places = c->in[1];
    struct tensor *dst = grad_wanted(c, 0);
    struct shape natural;

    if (!g || !dst || tensor_count(dst) == 0)
        return 0;
    struct tensor left = {.dtype = g->dtype, .shape = g->shape};
    if (grad_type(dst, err) < 0 || natural_size(c->attrs, &dst->shape, &natural, err) < 0 ||
        !(left.data = grad_scratch(c, g->bytes + 1, err)))
        return -1;
    memcpy(left.data, g->data, g->bytes);
    for (int64_t i = tensor_count(dst) - 1; i >= 0; i--) {
        const int64_t at = translate(tensor_i64(places)[i], &natural, &g->shape);
        grad_add_run(dst, i, &left, at, 1);
        dtype_set(left.dtype, left.data, at, 0);
    }
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[1,2,2,2] i64[1,2,2,2]=0,3,9,10,16,18,25,31", "kernel_shape=2,2 strides=2,2"},
    {"f32[1,1,2,2] i64[1,1,2,2]=5,7,13,15 i64[4]=1,1,4,4", "kernel_shape=2,2 strides=2,2"},
    {NULL},
};

OP_CLASS(max_unpool) = {.type = "MaxUnpool",
                        .domain = "",
                        .since = 9,
                        .doc = "Values back to the places their maximum came from.",
                        .in_min = 2,
                        .in_max = 3,
                        .out_min = 1,
                        .out_max = 1,
                        .attrs = unpool_attrs,
                        .attrs_size = sizeof(struct unpool_attrs),
                        .infer = infer,
                        .forward = forward,
                        .backward = backward,
                        .grad_reads = GRAD_READS_IN(1),
                        .grad_inputs = 1,
                        .samples = samples};
