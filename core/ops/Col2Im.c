/* SPDX-License-Identifier: Apache-2.0
 * Col2Im: columns back into an image, overlaps summed; the inverse of cutting an image into blocks.
 *   y[n, c, l stride + k dilation - pad] += x[n, (c, k), l] for every block place l and block element k inside the
 *   image.
 * x [N, C prod(block), L], image_shape [r], block_shape [r] -> y [N, C, image...]. Integers wrap. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

enum { MAX_AXES = 8 };

struct col2im_attrs {
    struct op_ints dilations, pads, strides;
};
static const struct op_attr col2im_attrs[] = {{OP_ATTR(col2im_attrs, dilations), .kind = OP_INTS},
                                              {OP_ATTR(col2im_attrs, pads), .kind = OP_INTS},
                                              {OP_ATTR(col2im_attrs, strides), .kind = OP_INTS},
                                              {0}};

struct geometry {
    int axes;
    int64_t image[MAX_AXES], block[MAX_AXES], stride[MAX_AXES], dilation[MAX_AXES], pad[MAX_AXES], places[MAX_AXES];
    int64_t elements, all_places; /* of a block; of blocks */
};

static int axis_places(struct geometry *g, int i, int64_t end_pad, struct err *err)
{
    if (g->image[i] < 1 || g->image[i] > INT32_MAX || g->block[i] < 1 || g->block[i] > INT32_MAX)
        return err_set(err, ERR_MODEL, "axis %d of the image is %" PRId64 " and of a block %" PRId64
                                       "; both must be in [1, 2^31)", i, g->image[i], g->block[i]);
    int64_t reach = g->dilation[i] * (g->block[i] - 1) + 1, room = g->image[i] + g->pad[i] + end_pad - reach;
    if (room < 0)
        return err_set(err, ERR_SHAPE, "a block of %" PRId64 " with dilation does not fit into axis %d of the image, %"
                                       PRId64 " with pads", g->block[i], i, g->image[i] + g->pad[i] + end_pad);
    g->places[i] = room / g->stride[i] + 1;
    if (!i64_mul(g->elements, g->block[i], &g->elements) || !i64_mul(g->all_places, g->places[i], &g->all_places))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the blocks are too many or too large");
    return 0;
}

static int read_geometry(const struct col2im_attrs *a, const struct tensor *image, const struct tensor *block,
                         struct geometry *g, struct err *err)
{
    int64_t pads[2 * MAX_AXES];
    int count;
    *g = (struct geometry){.elements = 1, .all_places = 1};
    if (op_read_ints(image, "image_shape", g->image, MAX_AXES, &g->axes, err) < 0 ||
        op_read_ints(block, "block_shape", g->block, MAX_AXES, &count, err) < 0)
        return -1;
    if (count != g->axes || count < 1)
        return err_set(err, ERR_MODEL, "image_shape has %d sizes and block_shape %d; they must be as many, and some",
                       g->axes, count);
    if (op_int_list(&a->strides, "strides", count, 1, 1, g->stride, err) < 0 ||
        op_int_list(&a->dilations, "dilations", count, 1, 1, g->dilation, err) < 0 ||
        op_int_list(&a->pads, "pads", 2 * count, 0, 0, pads, err) < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        g->pad[i] = pads[i];
        if (axis_places(g, i, pads[count + i], err) < 0)
            return -1;
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    struct geometry g;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0 || op_dtype_index(c, 1, err) < 0 ||
        op_dtype_index(c, 2, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0 && x->rank != 3)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels * block, places]", x->rank);
    if (op_value(c, 1) && op_value(c, 2)) {
        if (read_geometry(c->attrs, op_value(c, 1), op_value(c, 2), &g, err) < 0)
            return -1;
        int64_t rows = x->rank == 3 ? x->dim[1] : DIM_UNKNOWN, places = x->rank == 3 ? x->dim[2] : DIM_UNKNOWN;
        if ((rows >= 0 && rows % g.elements != 0) || (places >= 0 && places != g.all_places))
            return err_set(err, ERR_SHAPE, "the input has %" PRId64 " rows and %" PRId64 " places; rows must be a "
                                           "multiple of %" PRId64 " and places %" PRId64, rows, places, g.elements,
                           g.all_places);
        out = (struct shape){.rank = 2 + g.axes};
        out.dim[0] = x->rank == 3 ? x->dim[0] : DIM_UNKNOWN;
        out.dim[1] = rows < 0 ? DIM_UNKNOWN : rows / g.elements;
        for (int i = 0; i < g.axes; i++)
            out.dim[2 + i] = g.image[i];
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

struct fold {
    struct geometry g;
    int64_t image_size;
    const void *x;
    void *y;
};

/* Where place l and block element k fall in the image; -1: in the padding. */
static int64_t target(const struct geometry *g, int64_t k, int64_t l)
{
    int64_t at = 0, size = 1;
    for (int i = g->axes - 1; i >= 0; i--) {
        int64_t p = l % g->places[i] * g->stride[i] + k % g->block[i] * g->dilation[i] - g->pad[i];
        if (p < 0 || p >= g->image[i])
            return -1;
        at += p * size;
        size *= g->image[i];
        k /= g->block[i];
        l /= g->places[i];
    }
    return at;
}

#define FOLD(name, T)                                                                                                  \
    static void name(void *arg, int64_t begin, int64_t end)                                                            \
    {                                                                                                                  \
        const struct fold *f = arg;                                                                                    \
        for (int64_t p = begin; p < end; p++) {                                                                        \
            T *y = (T *)f->y + p * f->image_size;                                                                      \
            const T *x = (const T *)f->x + p * f->g.elements * f->g.all_places;                                        \
            for (int64_t i = 0; i < f->image_size; i++)                                                                \
                y[i] = 0;                                                                                              \
            for (int64_t k = 0; k < f->g.elements; k++)                                                                \
                for (int64_t l = 0; l < f->g.all_places; l++) {                                                        \
                    int64_t at = target(&f->g, k, l);                                                                  \
                    if (at >= 0)                                                                                       \
                        y[at] += x[k * f->g.all_places + l];                                                           \
                }                                                                                                      \
        }                                                                                                              \
    }
FOLD(fold_f32, float)
FOLD(fold_f64, double)
FOLD(fold_u64, uint64_t)

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    struct fold f;
    size_t bytes;
    if (!y || tensor_count(y) == 0)
        return 0;
    const enum dtype carrier = op_carrier(y->dtype);
    if (read_geometry(c->attrs, c->in[1], c->in[2], &f.g, err) < 0 || op_to_carrier(c, c->in[0], &f.x, err) < 0)
        return -1;
    if (!dtype_bytes(carrier, tensor_count(y), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the image is too large");
    f.image_size = shape_product(&y->shape, 2, y->shape.rank);
    f.y = carrier == y->dtype ? y->data : run_scratch(c, bytes, err);
    if (!f.y)
        return -1;
    op_parallel(c->pool, y->shape.dim[0] * y->shape.dim[1], 1,
                carrier == DTYPE_FLOAT    ? fold_f32
                : carrier == DTYPE_DOUBLE ? fold_f64
                                          : fold_u64,
                &f);
    if (carrier != y->dtype)
        dtype_convert(y->dtype, y->data, carrier, f.y, tensor_count(y));
    return 0;
}

/* A channel is a block of rows of the columns. */
static int couple(struct coupling *k, struct err *err)
{
    const int64_t rows = couple_size(k, IN(0), 1), channels = couple_size(k, OUT(0), 1);
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    if (channels > 1 && rows % channels == 0)
        couple_blocks(k, OUT(0), 1, IN(0), 1, rows / channels);
    else
        couple_freeze(k, IN(0), 1, "its rows are parts of one channel");
    return 0;
}

OP_CLASS(col2im) = {.type = "Col2Im",
                    .domain = "",
                    .since = 18,
                    .doc = "Columns back into an image.",
                    .in_min = 3,
                    .in_max = 3,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = col2im_attrs,
                    .attrs_size = sizeof(struct col2im_attrs),
                    .infer = infer,
                    .forward = forward,
                    .couple = couple,
                    .samples = (const struct op_sample[]){
                        {"f32[1,5,5] !i64[2]=5,5 !i64[2]=1,5", ""},
                        {"f32[2,8,9] !i64[2]=4,4 !i64[2]=2,2", ""},
                        {"f32[1,9,4] !i64[2]=5,5 !i64[2]=3,3", "strides=2,2"},
                        {"f32[1,4,25] i64[2]=4,4 i64[2]=2,2", "pads=1,1,1,1"},
                        {"f32[1,4,9] !i64[2]=5,5 !i64[2]=2,2", "dilations=2,2"},
                        {0}}};
