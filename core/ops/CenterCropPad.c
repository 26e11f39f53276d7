/* SPDX-License-Identifier: Apache-2.0
 * CenterCropPad: axes of x cut or zero-padded to `shape` around their middle. Odd differences: cutting starts, and
 * padding ends, one element later on the right. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

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

/* The block that input and output share: where it starts in each, and how long it is. */
struct block {
    int64_t from[SHAPE_MAX_RANK], to[SHAPE_MAX_RANK], size[SHAPE_MAX_RANK];
    int64_t x_stride[SHAPE_MAX_RANK], y_stride[SHAPE_MAX_RANK];
};

static void common_block(const struct shape *x, const struct shape *y, struct block *k)
{
    shape_strides(x, false, k->x_stride);
    shape_strides(y, false, k->y_stride);
    for (int d = 0; d < x->rank; d++) {
        const int64_t more = x->dim[d] - y->dim[d];
        k->from[d] = more > 0 ? more / 2 : 0;
        k->to[d] = more < 0 ? -more / 2 : 0;
        k->size[d] = i64_min(x->dim[d], y->dim[d]);
    }
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
    struct block k;
    common_block(&x->shape, &y->shape, &k);
    const int rank = x->shape.rank;
    int64_t blocks = 1;
    for (int d = 0; d < rank - 1; d++)
        blocks *= k.size[d];
    const size_t row = rank ? (size_t)k.size[rank - 1] * elem : elem;
    for (int64_t i = 0; i < blocks && row; i++) {
        int64_t rest = i, src = rank ? k.from[rank - 1] : 0, dst = rank ? k.to[rank - 1] : 0;
        for (int d = rank - 2; d >= 0; d--) {
            src += (rest % k.size[d] + k.from[d]) * k.x_stride[d];
            dst += (rest % k.size[d] + k.to[d]) * k.y_stride[d];
            rest /= k.size[d];
        }
        memcpy((char *)y->data + (size_t)dst * elem, (const char *)x->data + (size_t)src * elem, row);
    }
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    struct block k;

    if (!g || !dst || tensor_count(g) == 0 || tensor_count(dst) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const int64_t elem = dst->dtype == DTYPE_FLOAT ? (int64_t)sizeof(float) : (int64_t)sizeof(double);
    struct grad_loop l = {.dtype = dst->dtype, .rank = dst->shape.rank, .sources = 1};
    int64_t from = 0, to = 0;
    common_block(&dst->shape, &g->shape, &k);
    for (int d = 0; d < l.rank; d++) {
        l.dim[d] = k.size[d];
        l.dst_stride[d] = k.x_stride[d];
        l.src[0].stride[d] = k.y_stride[d];
        to += k.from[d] * k.x_stride[d];
        from += k.to[d] * k.y_stride[d];
    }
    l.dst = (char *)dst->data + to * elem;
    l.src[0].data = (const char *)g->data + from * elem;
    grad_sum(c->pool, &l);
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    int axis[SHAPE_MAX_RANK], count = 0;
    bool told[SHAPE_MAX_RANK] = {false};
    (void)err;
    if (rank < 0 || (count = read_axes(couple_attrs(k), infer_shape(k->infer, 0), axis, NULL)) < 0)
        return 0;
    for (int i = 0; i < count; i++)
        told[axis[i]] = true;
    const bool writable = sizes_writable(k->infer, 1, count);
    for (int i = 0; i < rank; i++) {
        couple_equal_axes(k, IN(0), i, OUT(0), i, "it is cut or padded around its middle");
        if (told[i] && !writable)
            couple_freeze(k, OUT(0), i, "its shape is computed while running");
    }
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct shape *x = infer_shape(s->infer, 0);
    int64_t v[SHAPE_MAX_RANK];
    int axis[SHAPE_MAX_RANK];
    const int count = x->rank < 0 ? -1 : read_axes(s->infer->attrs, x, axis, NULL);
    for (int i = 0; i < count; i++)
        v[i] = shrink_touched(s, OUT(0), axis[i]) ? shrink_size(s, OUT(0), axis[i]) : SIZES_LEFT;
    return count < 0 ? 0 : shrink_sizes(s, 1, v, count, err);
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
                             .couple = couple,
                             .shrink = shrink,
                             .backward = backward,
                             .grad_inputs = 1,
                             .samples = (const struct op_sample[]){{"f32[7,5,2] !i64[3]=4,6,2", ""},
                                                                   {"f32[3,5,4] i64[2]=2,9", "axes=-1,1"},
                                                                   {"i32[5] !i32[1]=2", ""},
                                                                   {0}}};
