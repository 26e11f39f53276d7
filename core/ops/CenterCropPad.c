/* SPDX-License-Identifier: Apache-2.0
 * CenterCropPad: axes of x cut or zero-padded to `shape` around their middle. Odd differences: cutting starts, and
 * padding ends, one element later on the right. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/op_util.h"

struct center_attrs {
    struct op_ints axes;
};
static const struct op_attr center_attrs[] = {{OP_ATTR(center_attrs, axes), .kind = OP_INTS}, {0}};

/* The axes named, in order; -1: the rank is not known. */
static int read_axes(const struct center_attrs *a, const struct shape *x, int axis[SHAPE_MAX_RANK], struct err *err)
{
    bool mask[SHAPE_MAX_RANK];
    if (a->axes.count == 0) {
        for (int i = 0; i < x->rank; i++)
            axis[i] = i;
        return x->rank;
    }
    if (op_axes_mask(a->axes.at, a->axes.count, x->rank, mask, err) < 0)
        return -1;
    for (int i = 0; i < a->axes.count; i++)
        axis[i] = shape_axis(x, a->axes.at[i]);
    return a->axes.count;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 2, err) < 0 || op_dtype_index(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const struct tensor *value = op_value(c, 1);
    int axis[SHAPE_MAX_RANK], count, n = 0;
    int64_t size[SHAPE_MAX_RANK];
    struct shape out = *x;
    if (x->rank >= 0 && (n = read_axes(c->attrs, x, axis, err)) < 0)
        return -1;
    if (value && op_read_ints(value, "shape", size, SHAPE_MAX_RANK, &count, err) < 0)
        return -1;
    if (value && x->rank >= 0 && count != n)
        return err_set(err, ERR_MODEL, "shape has %d sizes for %d axes", count, n);
    for (int i = 0; i < n; i++) {
        out.dim[axis[i]] = value ? size[i] : DIM_UNKNOWN;
        if (value && size[i] < 0)
            return err_set(err, ERR_MODEL, "size %d of shape is %" PRId64 "; it must not be negative", i, size[i]);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    const size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    if (!y || !y->bytes)
        return 0;
    memset(y->data, 0, y->bytes);
    /* the common block: where it starts in each, and how long it is */
    const int rank = x->shape.rank;
    int64_t from[SHAPE_MAX_RANK], to[SHAPE_MAX_RANK], size[SHAPE_MAX_RANK], blocks = 1;
    int64_t x_stride[SHAPE_MAX_RANK], y_stride[SHAPE_MAX_RANK];
    shape_strides(&x->shape, false, x_stride);
    shape_strides(&y->shape, false, y_stride);
    for (int d = 0; d < rank; d++) {
        const int64_t more = x->shape.dim[d] - y->shape.dim[d];
        from[d] = more > 0 ? more / 2 : 0;
        to[d] = more < 0 ? -more / 2 : 0;
        size[d] = i64_min(x->shape.dim[d], y->shape.dim[d]);
        blocks *= d < rank - 1 ? size[d] : 1;
    }
    const size_t row = rank ? (size_t)size[rank - 1] * elem : elem;
    for (int64_t i = 0; i < blocks && row; i++) {
        int64_t rest = i, src = rank ? from[rank - 1] : 0, dst = rank ? to[rank - 1] : 0;
        for (int d = rank - 2; d >= 0; d--) {
            src += (rest % size[d] + from[d]) * x_stride[d];
            dst += (rest % size[d] + to[d]) * y_stride[d];
            rest /= size[d];
        }
        memcpy((char *)y->data + (size_t)dst * elem, (const char *)x->data + (size_t)src * elem, row);
    }
    return 0;
}

OP_CLASS(center_crop_pad) = {.type = "CenterCropPad",
                             .domain = "",
                             .since = 18,
                             .doc = "Axes cut or padded around their middle.",
                             .in_min = 2,
                             .in_max = 2,
                             .out_min = 1,
                             .out_max = 1,
                             .attrs = center_attrs,
                             .attrs_size = sizeof(struct center_attrs),
                             .infer = infer,
                             .forward = forward,
                             .samples = (const struct op_sample[]){{"f32[7,5,2] !i64[3]=4,6,2", ""},
                                                                   {"f32[3,5,4] i64[2]=2,9", "axes=-1,1"},
                                                                   {"i32[5] !i32[1]=2", ""},
                                                                   {0}}};
