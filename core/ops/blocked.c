/* SPDX-License-Identifier: Apache-2.0
 * Layout and pools of blocked images (kernels/blocked.h), made by fuse_conv only. Blocked images are ordinary values
 * of shape [N, Cb, H, W, 8]; images of one axis have H = 1.
 *   ToBlocked          [N, C, H, W] or (channels_last) [N, H, W, C] or [N, C, W] -> blocked
 *   FromBlocked        blocked -> the same three, by `channels`, `channels_last` and `rank`
 *   MaxPoolBlocked, AveragePoolBlocked, GlobalAveragePoolBlocked   blocked -> blocked */
#include "core/kernels/blocked.h"

#include <inttypes.h>

#include "core/kernels/pool_blocked.h"
#include "core/ops/blocked_shape.h"
#include "core/ops/sliding.h"

/* ---- layout ---- */
struct layout_attrs {
    int64_t channels, rank;
    bool channels_last;
};
static const struct op_attr to_attrs[] = {{OP_ATTR(layout_attrs, channels_last), .kind = OP_BOOL}, {NULL}};
static const struct op_attr from_attrs[] = {
    {OP_ATTR(layout_attrs, channels), .kind = OP_INT, .required = true},
    {OP_ATTR(layout_attrs, rank), .kind = OP_INT, .def = 4},
    {OP_ATTR(layout_attrs, channels_last), .kind = OP_BOOL},
    {NULL},
};

static int infer_to(struct infer_ctx *c, struct err *err)
{
    const struct layout_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    char text[SHAPE_TEXT];
    if (op_need(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (x->rank != 4 && (x->rank != 3 || a->channels_last))
            return err_set(err, ERR_SHAPE, "the input has shape %s; a plain image has 4 axes, or 3",
                           shape_text(x, text));
        const int64_t channels = x->dim[a->channels_last ? 3 : 1];
        const int first = a->channels_last ? 1 : 2;
        out = SHAPE(x->dim[0], channels < 0 ? DIM_UNKNOWN : blocked_count(channels),
                    x->rank == 4 ? x->dim[first] : 1, x->dim[x->rank == 4 ? first + 1 : 2], BLOCK);
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int infer_from(struct infer_ctx *c, struct err *err)
{
    const struct layout_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 1, err) < 0 || blocked_check(c, 0, a->channels, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK && a->rank == 3)
        out = SHAPE(x->dim[0], a->channels, x->dim[3]);
    else if (x->rank != SHAPE_UNKNOWN_RANK && a->channels_last)
        out = SHAPE(x->dim[0], x->dim[2], x->dim[3], a->channels);
    else if (x->rank != SHAPE_UNKNOWN_RANK)
        out = SHAPE(x->dim[0], a->channels, x->dim[2], x->dim[3]);
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int layout_elem(const struct run_ctx *c, bool channels_last, int *elem, struct err *err)
{
    const size_t size = op_elem(c->in[0]->dtype, err);
    if (!size)
        return -1;
    if ((size != 1 && size != 4) || (channels_last && c->in[0]->dtype != DTYPE_FLOAT))
        return err_set(err, ERR_OPERATOR, "images of %s have no blocked layout", dtype_name(c->in[0]->dtype));
    *elem = (int)size;
    return 0;
}

static int forward_to(struct run_ctx *c, struct err *err)
{
    const struct layout_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    int elem;
    if (op_outputs(c, infer_to, err) < 0 || layout_elem(c, a->channels_last, &elem, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const int64_t plane = y->shape.dim[2] * y->shape.dim[3];
    if (a->channels_last)
        channels_last_to_blocked(c->pool, x->shape.dim[0], x->shape.dim[3], plane, x->data, y->data);
    else
        to_blocked(c->pool, elem, x->shape.dim[0], x->shape.dim[1], plane, x->data, y->data);
    return 0;
}

static int forward_from(struct run_ctx *c, struct err *err)
{
    const struct layout_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    int elem;
    if (op_outputs(c, infer_from, err) < 0 || layout_elem(c, a->channels_last, &elem, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const int64_t plane = x->shape.dim[2] * x->shape.dim[3];
    if (a->channels_last)
        channels_last_from_blocked(c->pool, x->shape.dim[0], a->channels, plane, x->data, y->data);
    else
        from_blocked(c->pool, elem, x->shape.dim[0], a->channels, plane, x->data, y->data);
    return 0;
}

/* ---- pools ---- */
struct pool_attrs {
    struct sliding_attrs s;
    bool ceil_mode, count_include_pad;
};
static const struct op_attr pool_attr_rows[] = {
    SLIDING_ATTRS(pool_attrs),
    {OP_ATTR(pool_attrs, ceil_mode), .kind = OP_BOOL},
    {OP_ATTR(pool_attrs, count_include_pad), .kind = OP_BOOL},
    {NULL},
};

static int infer_pool(struct infer_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    struct window w;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || blocked_check(c, 0, -1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        const struct shape image = blocked_image(x, x->dim[1]);
        if (sliding_resolve(&w, &a->s, &image, NULL, a->ceil_mode, err) < 0)
            return -1;
        if (w.kernel[0] > POOL_BLOCKED_ROWS)
            return err_set(err, ERR_MODEL, "attribute 'kernel_shape' has %" PRId64 " rows; at most %d are supported",
                           w.kernel[0], POOL_BLOCKED_ROWS);
        out = SHAPE(x->dim[0], x->dim[1], w.out[0], w.out[1], BLOCK);
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int run_pool(struct run_ctx *c, bool average, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct pool_blocked g = {.average = average, .include_pad = a->count_include_pad};
    if (op_outputs(c, infer_pool, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct shape image = blocked_image(&x->shape, x->shape.dim[1]);
    if (sliding_resolve(&g.w, &a->s, &image, NULL, a->ceil_mode, err) < 0)
        return -1;
    g.planes = x->shape.dim[0] * x->shape.dim[1];
    const size_t bytes = (size_t)pool_blocked_scratch(&g) * sizeof(float);
    float *scratch = bytes ? run_scratch(c, bytes, err) : NULL;
    if (bytes && !scratch)
        return -1;
    pool_blocked_f32(c->pool, &g, x->data, y->data, scratch);
    return 0;
}

static int forward_max(struct run_ctx *c, struct err *err)
{
    return run_pool(c, false, err);
}

static int forward_average(struct run_ctx *c, struct err *err)
{
    return run_pool(c, true, err);
}

static int infer_global(struct infer_ctx *c, struct err *err)
{
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || blocked_check(c, 0, -1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (x->dim[2] == 0 || x->dim[3] == 0)
            return err_set(err, ERR_SHAPE, "the image has no cells; a pool over none has no value");
        out = SHAPE(x->dim[0], x->dim[1], 1, 1, BLOCK);
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int forward_global(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    if (op_outputs(c, infer_global, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (y && tensor_count(y) > 0)
        global_average_blocked_f32(c->pool, x->shape.dim[0] * x->shape.dim[1], x->shape.dim[2] * x->shape.dim[3],
                                   x->data, y->data);
    return 0;
}

#define ROW(type_, doc_, table, size, infer_, forward_)                                                               \
    {                                                                                                                 \
        .type = type_, .domain = OP_DOMAIN_ENGINE, .since = 1, .doc = doc_, .in_min = 1, .in_max = 1, .out_min = 1,   \
        .out_max = 1, .attrs = table, .attrs_size = size, .infer = infer_, .forward = forward_, .internal = true      \
    }
OP_CLASS(to_blocked) = ROW("ToBlocked", "A plain image into the channel-blocked layout.", to_attrs,
                           sizeof(struct layout_attrs), infer_to, forward_to);
OP_CLASS(from_blocked) = ROW("FromBlocked", "A channel-blocked image into a plain one.", from_attrs,
                             sizeof(struct layout_attrs), infer_from, forward_from);
OP_CLASS(max_pool_blocked) = ROW("MaxPoolBlocked", "MaxPool of a blocked image.", pool_attr_rows,
                                 sizeof(struct pool_attrs), infer_pool, forward_max);
OP_CLASS(average_pool_blocked) = ROW("AveragePoolBlocked", "AveragePool of a blocked image.", pool_attr_rows,
                                     sizeof(struct pool_attrs), infer_pool, forward_average);
OP_CLASS(global_average_pool_blocked) = ROW("GlobalAveragePoolBlocked", "GlobalAveragePool of a blocked image.", NULL,
                                            0, infer_global, forward_global);
