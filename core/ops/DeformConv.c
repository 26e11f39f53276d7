/* SPDX-License-Identifier: Apache-2.0
 * DeformConv: a convolution whose taps stand where an input says (Dai et al. 2017, with modulation Zhu et al. 2018).
 *   y[n, o, p] = b[o] + sum_{c, k} w[o, c, k] mask[n, g, k, p] X(n, c, p stride - pad + k dilation + offset[n, g, k,
 *   :, p])
 * X(.) interpolates between four pixels; outside of the image is zero. Two spatial axes. Channel c belongs to offset
 * group c / (C / offset_group).
 * Shapes     x [N, C, H, W], w [O, C / group, kh, kw], offset [N, offset_group 2 kh kw, oh, ow], b [O], mask [N,
 *            offset_group kh kw, oh, ow] -> y [N, O, oh, ow].
 * Method     for each image: the interpolated columns [C kh kw, oh ow], then one matrix product a group. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/gemm.h"
#include "core/ops/product_coupling.h"
#include "core/ops/widen.h"

enum { X, W, OFFSET, B, MASK };

struct deform_attrs {
    struct op_ints dilations, kernel_shape, pads, strides;
    int64_t group, offset_group;
};
static const struct op_attr deform_attrs[] = {{OP_ATTR(deform_attrs, dilations), .kind = OP_INTS},
                                              {OP_ATTR(deform_attrs, kernel_shape), .kind = OP_INTS},
                                              {OP_ATTR(deform_attrs, pads), .kind = OP_INTS},
                                              {OP_ATTR(deform_attrs, strides), .kind = OP_INTS},
                                              {OP_ATTR(deform_attrs, group), .kind = OP_INT, .def = 1},
                                              {OP_ATTR(deform_attrs, offset_group), .kind = OP_INT, .def = 1},
                                              {0}};

struct geometry {
    int64_t n, c, h, w, out_c, kh, kw, oh, ow, group, offset_group;
    int64_t stride[2], dilation[2], pad[4];
};

static int output_size(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pads, int64_t *out,
                       struct err *err)
{
    int64_t reach = 0, room = 0;
    if (!i64_mul(dilation, kernel - 1, &reach) || !i64_add(in, pads - reach - 1, &room) || room < 0 || kernel < 1)
        return err_set(err, ERR_SHAPE,
                       "a kernel of %" PRId64 " with dilation %" PRId64 " does not fit into %" PRId64
                       " pixels with pads",
                       kernel, dilation, in);
    *out = room / stride + 1;
    return 0;
}

/* x and w have known shapes of rank 4. */
static int read_geometry(const struct deform_attrs *a, const struct shape *x, const struct shape *w, struct geometry *g,
                         struct err *err)
{
    int64_t kernel[2] = {1, 1};
    *g = (struct geometry){.n = x->dim[0],
                           .c = x->dim[1],
                           .h = x->dim[2],
                           .w = x->dim[3],
                           .out_c = w->dim[0],
                           .kh = w->dim[2],
                           .kw = w->dim[3],
                           .group = a->group,
                           .offset_group = a->offset_group};
    if (op_int_list(&a->strides, "strides", 2, 1, 1, g->stride, err) < 0 ||
        op_int_list(&a->dilations, "dilations", 2, 1, 1, g->dilation, err) < 0 ||
        op_int_list(&a->pads, "pads", 4, 0, 0, g->pad, err) < 0 ||
        op_int_list(&a->kernel_shape, "kernel_shape", 2, 1, 1, kernel, err) < 0)
        return -1;
    if (a->kernel_shape.count && (kernel[0] != g->kh || kernel[1] != g->kw))
        return err_set(err, ERR_SHAPE,
                       "kernel_shape is %" PRId64 "x%" PRId64 " but the weight's is %" PRId64 "x%" PRId64, kernel[0],
                       kernel[1], g->kh, g->kw);
    if (g->group < 1 || g->c % g->group || g->out_c % g->group || w->dim[1] != g->c / g->group)
        return err_set(err, ERR_SHAPE,
                       "%" PRId64 " channels in %" PRId64 " groups do not fit a weight of %" PRId64
                       " outputs and %" PRId64 " channels a group",
                       g->c, g->group, g->out_c, w->dim[1]);
    if (g->offset_group < 1 || g->c % g->offset_group)
        return err_set(err, ERR_SHAPE, "%" PRId64 " channels do not divide into %" PRId64 " offset groups", g->c,
                       g->offset_group);
    if (output_size(g->h, g->kh, g->stride[0], g->dilation[0], g->pad[0] + g->pad[2], &g->oh, err) < 0)
        return -1;
    return output_size(g->w, g->kw, g->stride[1], g->dilation[1], g->pad[1] + g->pad[3], &g->ow, err);
}

static int check_input(const struct infer_ctx *c, int i, const char *name, struct shape want, struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    if (!infer_has(c, i) || !shape_known(infer_shape(c, i)) || shape_equal(infer_shape(c, i), &want))
        return 0;
    return err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must be %s", name, shape_text(infer_shape(c, i), text),
                   shape_text(&want, want_text));
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape out = {.rank = 4, .dim = {-1, -1, -1, -1}};
    if (op_need(c, 3, err) < 0 || op_dtype_real(c, X, err) < 0 || op_same_dtype(c, 0, 5, &dtype, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, X), *w = infer_shape(c, W);
    if ((x->rank >= 0 && x->rank != 4) || (w->rank >= 0 && w->rank != 4))
        return err_set(err, ERR_OPERATOR, "the input has %d axes and the weight %d; both must have 4", x->rank,
                       w->rank);
    if (shape_known(x) && shape_known(w)) {
        struct geometry g;
        if (read_geometry(c->attrs, x, w, &g, err) < 0)
            return -1;
        const int64_t taps = dim_mul(g.offset_group, dim_mul(g.kh, g.kw));
        if (check_input(c, OFFSET, "offset", SHAPE(g.n, dim_mul(taps, 2), g.oh, g.ow), err) < 0 ||
            check_input(c, B, "B", SHAPE(g.out_c), err) < 0 ||
            check_input(c, MASK, "mask", SHAPE(g.n, taps, g.oh, g.ow), err) < 0)
            return -1;
        out = SHAPE(g.n, g.out_c, g.oh, g.ow);
    }
    infer_out(c, 0, dtype, &out);
    return 0;
}

struct columns {
    const struct geometry *g;
    const void *x, *offset, *mask; /* of one image */
    void *col;                     /* [C, kh kw, oh ow] */
};

#define DEFORM(suffix, T, FLOOR)                                                                                       \
    static T pixel_##suffix(const T *x, const struct geometry *g, int64_t i, int64_t j)                                \
    {                                                                                                                  \
        return i >= 0 && i < g->h && j >= 0 && j < g->w ? x[i * g->w + j] : 0;                                         \
    }                                                                                                                  \
    static T sample_##suffix(const T *x, const struct geometry *g, T y, T z)                                           \
    {                                                                                                                  \
        if (!(y > -1 && y < (T)g->h && z > -1 && z < (T)g->w))                                                         \
            return 0;                                                                                                  \
        const T y0 = FLOOR(y), z0 = FLOOR(z), dy = y - y0, dz = z - z0;                                                \
        const int64_t i = (int64_t)y0, j = (int64_t)z0;                                                                \
        return (1 - dy) * ((1 - dz) * pixel_##suffix(x, g, i, j) + dz * pixel_##suffix(x, g, i, j + 1)) +              \
               dy * ((1 - dz) * pixel_##suffix(x, g, i + 1, j) + dz * pixel_##suffix(x, g, i + 1, j + 1));             \
    }                                                                                                                  \
    static void columns_##suffix(void *arg, int64_t begin, int64_t end)                                                \
    {                                                                                                                  \
        const struct columns *k = arg;                                                                                 \
        const struct geometry *g = k->g;                                                                               \
        const int64_t taps = g->kh * g->kw, places = g->oh * g->ow;                                                    \
        for (int64_t row = begin; row < end; row++) {                                                                  \
            const int64_t c = row / taps, tap = row % taps, og = c / (g->c / g->offset_group);                         \
            const T *x = (const T *)k->x + c * g->h * g->w;                                                            \
            const T *at = (const T *)k->offset + (og * taps + tap) * 2 * places;                                       \
            const T *mask = k->mask ? (const T *)k->mask + (og * taps + tap) * places : NULL;                          \
            T *col = (T *)k->col + row * places;                                                                       \
            for (int64_t p = 0; p < places; p++) {                                                                     \
                const int64_t i = p / g->ow * g->stride[0] - g->pad[0] + tap / g->kw * g->dilation[0];                 \
                const int64_t j = p % g->ow * g->stride[1] - g->pad[1] + tap % g->kw * g->dilation[1];                 \
                col[p] = sample_##suffix(x, g, (T)i + at[p], (T)j + at[places + p]) * (mask ? mask[p] : 1);            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void image_##suffix(struct pool *pool, const struct columns *k, const T *w, const T *bias, T *y)            \
    {                                                                                                                  \
        const struct geometry *g = k->g;                                                                               \
        const int64_t depth = g->c / g->group * g->kh * g->kw, places = g->oh * g->ow, rows = g->out_c / g->group;     \
        op_parallel(pool, g->c * g->kh * g->kw, i64_max(1, (1 << 12) / places), columns_##suffix, (void *)k);          \
        struct gemm product = gemm_plain(false, false, rows, places, depth);                                           \
        for (int64_t o = 0; o < g->out_c * places; o++)                                                                \
            y[o] = bias ? bias[o / places] : 0;                                                                        \
        product.beta = 1;                                                                                              \
        for (int64_t i = 0; i < g->group; i++)                                                                         \
            gemm_##suffix(pool, &product, w + i * rows * depth, (const T *)k->col + i * depth * places,                \
                          y + i * rows * places);                                                                      \
    }
DEFORM(f32, float, floorf)
DEFORM(f64, double, floor)

static int compute(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0);
    const struct tensor *x = c->in[X], *w = c->in[W], *mask = run_in(c, MASK), *bias = run_in(c, B);
    struct geometry g;
    size_t bytes;
    int64_t n = 0;
    if (!y || tensor_count(y) == 0)
        return 0;
    if (read_geometry(c->attrs, &x->shape, &w->shape, &g, err) < 0)
        return -1;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(y->dtype));
    if (!i64_mul(g.c, g.kh * g.kw, &n) || !i64_mul(n, g.oh * g.ow, &n) || !dtype_bytes(y->dtype, n, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the columns of an image are too large");
    struct columns k = {.g = &g, .col = run_scratch(c, bytes ? bytes : 1, err)};
    if (!k.col)
        return -1;
    const size_t elem = y->dtype == DTYPE_FLOAT ? 4 : 8;
    const size_t image = (size_t)(g.c * g.h * g.w) * elem, out = (size_t)(g.out_c * g.oh * g.ow) * elem;
    const size_t taps = (size_t)(g.offset_group * g.kh * g.kw * g.oh * g.ow) * elem;
    for (int64_t i = 0; i < g.n; i++) {
        k.x = (const char *)x->data + (size_t)i * image;
        k.offset = (const char *)c->in[OFFSET]->data + (size_t)i * taps * 2;
        k.mask = mask ? (const char *)mask->data + (size_t)i * taps : NULL;
        void *to = (char *)y->data + (size_t)i * out;
        if (y->dtype == DTYPE_FLOAT)
            image_f32(c->pool, &k, w->data, bias ? bias->data : NULL, to);
        else
            image_f64(c->pool, &k, w->data, bias ? bias->data : NULL, to);
    }
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *w = infer_shape(c, W);
    int64_t macs = dim_mul(shape_count(&c->out[0].shape), shape_product(w, 1, 4));
    cost->macs = macs < 0 ? 0 : macs;
}

/* As Conv; the channels of an offset group share their offsets, so the same place of each goes. */
static int couple(struct coupling *k, struct err *err)
{
    const struct deform_attrs *a = couple_attrs(k);
    (void)err;
    couple_conv(k, IN(X), IN(W), a->group);
    couple_places(k, IN(X), 1, a->offset_group);
    couple_vector(k, B, OUT(0), 1);
    couple_axes(k, IN(OFFSET), 0, OUT(0), 0);
    couple_axes(k, IN(MASK), 0, OUT(0), 0);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    return shrink_conv_group(s, IN(X), ((const struct deform_attrs *)s->infer->attrs)->group, err);
}

OP_CLASS(deform_conv) = {.type = "DeformConv",
                         .domain = "",
                         .since = 19,
                         .doc = "Convolution with taps at places an input gives. Refused: other than 2 spatial axes.",
                         .in_min = 3,
                         .in_max = 5,
                         .out_min = 1,
                         .out_max = 1,
                         .attrs = deform_attrs,
                         .attrs_size = sizeof(struct deform_attrs),
                         .infer = infer,
                         .forward = forward,
                         .cost = cost,
                         .couple = couple,
                         .shrink = shrink,
                         .samples = (const struct op_sample[]){
                             {"f32[1,1,3,3] f32[1,1,2,2] f32[1,8,4,4]", "kernel_shape=2,2 pads=1,1,1,1", 1, 19},
                             {"f32[2,4,5,6] f32[6,2,3,3] f32[2,36,2,3] f32[6] f32[2,18,2,3]",
                              "group=2 offset_group=2 strides=2,2 pads=0,1,0,1", 1, 19},
                             {"f64[1,2,5,5] f64[2,2,2,2] f64[1,8,3,3]", "dilations=2,2", 1, 22},
                             {0}}};
