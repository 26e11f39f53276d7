/* SPDX-License-Identifier: Apache-2.0
 * DepthToSpace and SpaceToDepth: channels into blocks of pixels and back, as one strided copy of a rank-6 view.
 * DepthToSpace DCR: x [N, b1, b2, C', H, W] -> y [N, C', H, b1, W, b2]; CRD: x [N, C', b1, b2, H, W] -> the same y.
 * SpaceToDepth: x [N, C, H, b1, W, b2] -> y [N, b1, b2, C, H, W]; CRD (opset 28): y [N, C, b1, b2, H, W]. */
#include <inttypes.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

struct depth_attrs {
    int64_t blocksize;
    int mode;
};
enum { MODE_DCR, MODE_CRD };
static const char *const modes[] = {"DCR", "CRD", NULL};
#define BLOCKSIZE                                                                                                      \
    {                                                                                                                  \
        OP_ATTR(depth_attrs, blocksize), .kind = OP_INT, .required = true                                              \
    }
static const struct op_attr attrs_1[] = {BLOCKSIZE, {NULL}};
static const struct op_attr attrs_11[] = {
    BLOCKSIZE, {OP_ATTR(depth_attrs, mode), .kind = OP_ENUM, .choices = modes}, {NULL}};

static int check(const struct infer_ctx *c, struct err *err)
{
    const struct depth_attrs *a = c->attrs;
    char text[SHAPE_TEXT];

    if (op_need(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has shape %s; it must be [batch, channels, height, width]",
                       shape_text(x, text));
    if (a->blocksize < 1 || a->blocksize > 65536)
        return err_set(err, ERR_MODEL, "attribute 'blocksize' is %" PRId64 "; it must be in [1, 65536]", a->blocksize);
    return 0;
}

static int64_t divided(int64_t dim, int64_t by)
{
    return dim < 0 ? DIM_UNKNOWN : dim / by;
}

static int infer_to_space(struct infer_ctx *c, struct err *err)
{
    if (check(c, err) < 0)
        return -1;
    const int64_t b = ((const struct depth_attrs *)c->attrs)->blocksize;
    const struct shape *x = infer_shape(c, 0);
    struct shape out = SHAPE_UNKNOWN;
    if (x->rank == 4) {
        if (x->dim[1] >= 0 && x->dim[1] % (b * b) != 0)
            return err_set(err, ERR_SHAPE,
                           "the input has %" PRId64 " channels; they must be a multiple of blocksize squared, %" PRId64,
                           x->dim[1], b * b);
        out = SHAPE(x->dim[0], divided(x->dim[1], b * b), dim_mul(x->dim[2], b), dim_mul(x->dim[3], b));
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int infer_to_depth(struct infer_ctx *c, struct err *err)
{
    if (check(c, err) < 0)
        return -1;
    const int64_t b = ((const struct depth_attrs *)c->attrs)->blocksize;
    const struct shape *x = infer_shape(c, 0);
    struct shape out = SHAPE_UNKNOWN;
    if (x->rank == 4) {
        if ((x->dim[2] >= 0 && x->dim[2] % b) || (x->dim[3] >= 0 && x->dim[3] % b))
            return err_set(err, ERR_SHAPE,
                           "the image is %" PRId64 " x %" PRId64 "; both must be multiples of blocksize %" PRId64,
                           x->dim[2], x->dim[3], b);
        out = SHAPE(x->dim[0], dim_mul(x->dim[1], b * b), divided(x->dim[2], b), divided(x->dim[3], b));
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int copy(struct run_ctx *c, const int64_t dims[6], const int64_t strides[6], struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    const size_t elem = op_elem(x->dtype, err);

    if (elem == 0)
        return -1;
    if (y)
        op_copy_strided(c->pool, elem, y->data, x->data, 6, dims, strides);
    return 0;
}

/* y's six axes and where they step in x. */
struct view {
    int64_t dims[6], strides[6];
};

static struct view view_to_space(const struct depth_attrs *a, const struct shape *x)
{
    const int64_t *d = x->dim, b = a->blocksize, h = d[2], w = d[3], n = d[0], ch = d[1] / (b * b);
    const int64_t plane = h * w, block = a->mode == MODE_CRD ? plane : ch * plane,
                  channel = a->mode == MODE_CRD ? b * b * plane : plane;
    return (struct view){{n, ch, h, b, w, b}, {d[1] * plane, channel, w, b * block, 1, block}};
}

static struct view view_to_depth(const struct depth_attrs *a, const struct shape *x)
{
    const int64_t *d = x->dim, b = a->blocksize, plane = d[2] * d[3];
    if (a->mode == MODE_CRD)
        return (struct view){{d[0], d[1], b, b, d[2] / b, d[3] / b}, {d[1] * plane, plane, d[3], 1, b * d[3], b}};
    return (struct view){{d[0], b, b, d[1], d[2] / b, d[3] / b}, {d[1] * plane, d[3], 1, plane, b * d[3], b}};
}

static int forward_to_space(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_to_space, err) < 0)
        return -1;
    const struct view v = view_to_space(c->attrs, &c->in[0]->shape);
    return copy(c, v.dims, v.strides, err);
}

static int forward_to_depth(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_to_depth, err) < 0)
        return -1;
    const struct view v = view_to_depth(c->attrs, &c->in[0]->shape);
    return copy(c, v.dims, v.strides, err);
}

static int backward(struct grad_ctx *c, struct view (*view)(const struct depth_attrs *, const struct shape *),
                    struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);

    if (!g || !dst)
        return grad_add_whole(c, 0, NULL, err);
    if (grad_type(dst, err) < 0)
        return -1;
    const struct view v = view(c->attrs, &dst->shape);
    struct grad_loop l = {.dtype = dst->dtype,
                          .rank = 6,
                          .dst = dst->data,
                          .sources = 1,
                          .src[0].data = g->data,
                          .assign = grad_assign(c, 0)};
    int64_t stride = 1;
    for (int i = 5; i >= 0; i--) {
        l.dim[i] = v.dims[i];
        l.dst_stride[i] = v.strides[i];
        l.src[0].stride[i] = stride;
        stride *= v.dims[i];
    }
    grad_sum(c->pool, &l);
    return 0;
}

static int backward_to_space(struct grad_ctx *c, struct err *err)
{
    return backward(c, view_to_space, err);
}

static int backward_to_depth(struct grad_ctx *c, struct err *err)
{
    return backward(c, view_to_depth, err);
}

/* The channel of few stands for one of each block (CRD) or for the same place in every run of `few` (DCR). */
static int couple(struct coupling *k, struct end few, struct end many)
{
    const struct depth_attrs *a = couple_attrs(k);
    couple_axes(k, few, 0, many, 0);
    if (a->mode == MODE_CRD)
        couple_blocks(k, few, 1, many, 1, a->blocksize * a->blocksize);
    else
        couple_strided(k, few, 1, many, 1);
    if (couple_size(k, few, 1) <= 1)
        couple_freeze(k, many, 1, "all of it makes one channel");
    for (int i = 2; i < couple_rank(k, few); i++) {
        couple_freeze(k, few, i, "it is cut into blocks");
        couple_freeze(k, many, i, "it is cut into blocks");
    }
    return 0;
}

static int couple_to_space(struct coupling *k, struct err *err)
{
    (void)err;
    return couple(k, OUT(0), IN(0));
}

static int couple_to_depth(struct coupling *k, struct err *err)
{
    (void)err;
    return couple(k, IN(0), OUT(0));
}

static const struct op_sample to_space_samples[] = {
    {"f32[2,8,2,3]", "blocksize=2"}, {"f32[2,8,2,3]", "blocksize=2 mode=CRD"}, {NULL}};
static const struct op_sample to_space_1_samples[] = {{"f32[2,8,2,3]", "blocksize=2"}, {NULL}};
static const struct op_sample to_depth_samples[] = {{"f32[2,3,4,6]", "blocksize=2"}, {NULL}};

#define ROW(type_, since_, until_, table, name, ...)                                                                   \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .until = until_, .in_min = 1, .in_max = 1, .out_min = 1,         \
        .out_max = 1, .attrs = table, .attrs_size = sizeof(struct depth_attrs), .infer = infer_##name,                 \
        .forward = forward_##name, .couple = couple_##name, .backward = backward_##name, .grad_inputs = 1,             \
        .grad_assigns = true, .quant = {QUANT_PASS}, __VA_ARGS__                                                       \
    }
OP_CLASS(depth_to_space_1) = ROW("DepthToSpace", 1, 10, attrs_1, to_space, .doc = "Channels into blocks of pixels.",
                                 .samples = to_space_1_samples);
OP_CLASS(depth_to_space_11) = ROW("DepthToSpace", 11, 0, attrs_11, to_space, .doc = "Channels into blocks of pixels.",
                                  .samples = to_space_samples);
OP_CLASS(space_to_depth) = ROW("SpaceToDepth", 1, 27, attrs_1, to_depth, .doc = "Blocks of pixels into channels.",
                               .samples = to_depth_samples);
OP_CLASS(space_to_depth_28) = ROW("SpaceToDepth", 28, 0, attrs_11, to_depth, .doc = "Blocks of pixels into channels.",
                                  .samples = (const struct op_sample[]){{"f32[1,2,4,6]", "blocksize=2 mode=CRD"},
                                                                        {"f32[1,2,4,6]", "blocksize=2 mode=DCR"},
                                                                        {NULL}});
