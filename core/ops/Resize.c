/* SPDX-License-Identifier: Apache-2.0
 * Resize and its ancestor Upsample: every axis is resampled on its own.
 * Idea       For an axis, each output index takes a few input indices with weights ("taps"): one for nearest, two for
 *            linear, four for cubic, more when antialiased. An N-d resize is one pass an axis, [outer, in, inner] ->
 *            [outer, out, inner]; axes that keep their size and positions are skipped. Nearest needs no arithmetic
 *            and is done in one pass for every element type.
 * Positions  coordinate_transformation_mode, computed in float32 like ONNX Runtime, so that ties of `nearest` fall
 *            the same way.
 * Old forms  Upsample and Resize 10 use x / scale; their nearest is the floor when enlarging and the ceiling when
 *            shrinking.
 * Outside    tf_crop_and_resize may point outside the image: those outputs take extrapolation_value. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

enum mode { NEAREST, LINEAR, CUBIC };
enum transform {
    HALF_PIXEL,
    HALF_PIXEL_SYMMETRIC,
    PYTORCH_HALF_PIXEL,
    ALIGN_CORNERS,
    ASYMMETRIC,
    TF_HALF_PIXEL_FOR_NN,
    TF_CROP_AND_RESIZE
};
enum nearest { ROUND_PREFER_FLOOR, ROUND_PREFER_CEIL, FLOOR, CEIL, SIMPLE };
enum policy { STRETCH, NOT_LARGER, NOT_SMALLER };
static const char *const modes[] = {"nearest", "linear", "cubic", NULL};
static const char *const modes_1[] = {"nearest", "bilinear", NULL};
static const char *const modes_7[] = {"nearest", "linear", NULL};
static const char *const transforms[] = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
                                         "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize", NULL};
static const char *const nearests[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil", NULL};
static const char *const policies[] = {"stretch", "not_larger", "not_smaller", NULL};

struct resize_attrs {
    int mode, coordinate_transformation_mode, nearest_mode, keep_aspect_ratio_policy;
    float cubic_coeff_a, extrapolation_value, height_scale, width_scale;
    bool exclude_outside, antialias;
    struct op_ints axes;
    struct op_floats scales;
};
#define MODE(table) {OP_ATTR(resize_attrs, mode), .kind = OP_ENUM, .choices = table}
#define SINCE_11                                                                                                     \
    MODE(modes), {OP_ATTR(resize_attrs, coordinate_transformation_mode), .kind = OP_ENUM, .choices = transforms},    \
        {OP_ATTR(resize_attrs, nearest_mode), .kind = OP_ENUM, .choices = nearests},                                 \
        {OP_ATTR(resize_attrs, cubic_coeff_a), .kind = OP_FLOAT, .def_f = -0.75f},                                   \
        {OP_ATTR(resize_attrs, extrapolation_value), .kind = OP_FLOAT},                                              \
        {OP_ATTR(resize_attrs, exclude_outside), .kind = OP_BOOL}
static const struct op_attr upsample_1[] = {MODE(modes_1),
                                            {OP_ATTR(resize_attrs, height_scale), .kind = OP_FLOAT, .required = true},
                                            {OP_ATTR(resize_attrs, width_scale), .kind = OP_FLOAT, .required = true},
                                            {NULL}};
static const struct op_attr upsample_7[] = {
    MODE(modes_7), {OP_ATTR(resize_attrs, scales), .kind = OP_FLOATS, .required = true}, {NULL}};
static const struct op_attr attrs_10[] = {MODE(modes_7), {NULL}};
static const struct op_attr attrs_11[] = {SINCE_11, {NULL}};
static const struct op_attr attrs_18[] = {
    SINCE_11,
    {OP_ATTR(resize_attrs, antialias), .kind = OP_BOOL},
    {OP_ATTR(resize_attrs, axes), .kind = OP_INTS},
    {OP_ATTR(resize_attrs, keep_aspect_ratio_policy), .kind = OP_ENUM, .choices = policies},
    {NULL}};

/* ---- what is asked for ---- */
struct geometry {
    int rank;
    float scale[SHAPE_MAX_RANK], start[SHAPE_MAX_RANK],
        end[SHAPE_MAX_RANK]; /* region of interest, in [0, 1] of the axis */
    int64_t out[SHAPE_MAX_RANK];
};

/* Which inputs hold what, by version: -1 = none. */
struct places {
    int roi, scales, sizes;
};
static struct places places_of(bool upsample, int opset)
{
    if (upsample)
        return (struct places){-1, opset >= 9 ? 1 : -1, -1};
    return opset < 11 ? (struct places){-1, 1, -1} : (struct places){1, 2, 3};
}

/* The axes the lists speak of. */
static int chosen_axes(const struct resize_attrs *a, const struct shape *x, int *axes, int *count, struct err *err)
{
    bool mask[SHAPE_MAX_RANK];

    *count = x->rank;
    for (int i = 0; i < x->rank; i++)
        axes[i] = i;
    if (a->axes.count == 0)
        return 0;
    if (op_axes_mask(a->axes.at, a->axes.count, x->rank, mask, err) < 0)
        return -1;
    *count = a->axes.count;
    for (int i = 0; i < *count; i++)
        axes[i] = shape_axis(x, a->axes.at[i]);
    return 0;
}

static int set_scale(struct geometry *g, const struct shape *x, int axis, float scale, struct err *err)
{
    if (!(scale > 0) || !isfinite(scale))
        return err_set(err, ERR_MODEL, "the scale of axis %d is %g; it must be a positive number", axis, (double)scale);
    const float size = scale * (float)x->dim[axis];
    if (size > 1e15f)
        return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d would become %g long", axis, (double)size);
    g->scale[axis] = scale;
    g->out[axis] = x->dim[axis] < 0 ? (scale == 1 ? x->dim[axis] : DIM_UNKNOWN) : (int64_t)size;
    return 0;
}

static int from_scales(struct geometry *g, const struct shape *x, const int *axes, int count, const struct tensor *t,
                       struct err *err)
{
    if (tensor_count(t) != count)
        return err_set(err, ERR_SHAPE, "'scales' has %" PRId64 " values; it must have one for each of the %d axes",
                       tensor_count(t), count);
    for (int i = 0; i < count; i++)
        if (set_scale(g, x, axes[i], (float)dtype_get(t->dtype, t->data, i), err) < 0)
            return -1;
    return 0;
}

static int from_sizes(struct geometry *g, const struct resize_attrs *a, const struct shape *x, const int *axes,
                      int count, const struct tensor *t, struct err *err)
{
    int64_t sizes[SHAPE_MAX_RANK];
    int given;
    float common = 0;

    if (op_read_ints(t, "'sizes'", sizes, SHAPE_MAX_RANK, &given, err) < 0)
        return -1;
    if (given != count)
        return err_set(err, ERR_SHAPE, "'sizes' has %d values; it must have one for each of the %d axes", given, count);
    for (int i = 0; i < count; i++) {
        const int64_t in = x->dim[axes[i]];
        if (sizes[i] < 1)
            return err_set(err, ERR_MODEL, "'sizes' has %" PRId64 " at position %d; it must be at least 1", sizes[i],
                           i);
        if (in == 0)
            return err_set(err, ERR_SHAPE, "axis %d has size 0 and cannot be resized", axes[i]);
        g->out[axes[i]] = sizes[i];
        g->scale[axes[i]] = in < 0 ? 1 : (float)sizes[i] / (float)in;
        const float s = g->scale[axes[i]];
        common = i == 0 ? s : a->keep_aspect_ratio_policy == NOT_LARGER ? fminf(common, s) : fmaxf(common, s);
    }
    for (int i = 0; i < count && a->keep_aspect_ratio_policy != STRETCH; i++) {
        const int64_t in = x->dim[axes[i]];
        if (in >= 0 && !(common * (float)in < 1e15f))
            return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d would become %g long", axes[i],
                           (double)(common * (float)in));
        g->scale[axes[i]] = common;
        g->out[axes[i]] = in < 0 ? DIM_UNKNOWN : (int64_t)floorf(common * (float)in + 0.5f);
    }
    return 0;
}

static int from_attributes(struct geometry *g, const struct resize_attrs *a, const struct shape *x, bool first,
                           struct err *err)
{
    if (first && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels, height, width]", x->rank);
    if (!first && a->scales.count != x->rank)
        return err_set(err, ERR_MODEL, "attribute 'scales' has %d elements; it must have one for each of the %d axes",
                       a->scales.count, x->rank);
    const float hw[4] = {1, 1, a->height_scale, a->width_scale};
    for (int i = 0; i < x->rank; i++)
        if (set_scale(g, x, i, first ? hw[i] : a->scales.at[i], err) < 0)
            return -1;
    return 0;
}

static bool given(const struct tensor *t)
{
    return t && tensor_count(t) > 0 && t->data;
}

/* in[i]: constant contents of the inputs, NULL where absent or unknown. *known: whether the sizes could be told. */
static int geometry_of(struct geometry *g, const struct resize_attrs *a, bool upsample, int opset,
                       const struct shape *x, const struct tensor *const *in, int n_in, bool *known, struct err *err)
{
    const struct places at = places_of(upsample, opset);
    const struct tensor *roi = at.roi >= 0 && at.roi < n_in && in ? in[at.roi] : NULL;
    const struct tensor *scales = at.scales >= 0 && at.scales < n_in && in ? in[at.scales] : NULL;
    const struct tensor *sizes = at.sizes >= 0 && at.sizes < n_in && in ? in[at.sizes] : NULL;
    int axes[SHAPE_MAX_RANK], count;

    *known = true;
    g->rank = x->rank;
    for (int i = 0; i < x->rank; i++) {
        g->scale[i] = g->end[i] = 1;
        g->start[i] = 0;
        g->out[i] = x->dim[i];
    }
    if (chosen_axes(a, x, axes, &count, err) < 0)
        return -1;
    if (given(roi) && a->coordinate_transformation_mode == TF_CROP_AND_RESIZE) {
        if (tensor_count(roi) != 2 * count)
            return err_set(err, ERR_SHAPE,
                           "'roi' has %" PRId64 " values; it must have a start and an end for each of the %d axes",
                           tensor_count(roi), count);
        for (int i = 0; i < count; i++) {
            g->start[axes[i]] = (float)dtype_get(roi->dtype, roi->data, i);
            g->end[axes[i]] = (float)dtype_get(roi->dtype, roi->data, count + i);
        }
    }
    if (at.scales < 0)
        return from_attributes(g, a, x, opset < 7, err);
    if (given(sizes) && given(scales))
        return err_set(err, ERR_MODEL, "both 'scales' and 'sizes' are given; only one of them may be");
    if (given(sizes))
        return from_sizes(g, a, x, axes, count, sizes, err);
    if (given(scales))
        return from_scales(g, x, axes, count, scales, err);
    *known = false;
    return 0;
}

/* Sizes of which only some are numbers, and whole scales of sizes that are not known yet. */
static void partly_known(struct infer_ctx *c, const struct resize_attrs *a, const struct places *at, bool known,
                         struct shape *out)
{
    const struct shape *x = infer_shape(c, 0);
    const struct sym_list *sizes = at->sizes >= 0 ? op_sizes(c, at->sizes) : NULL;
    const struct tensor *scales = at->scales >= 0 ? op_value(c, at->scales) : NULL;
    if (a->axes.count || a->coordinate_transformation_mode == TF_CROP_AND_RESIZE || a->keep_aspect_ratio_policy)
        return;
    for (int i = 0; !known && sizes && sizes->count == x->rank && i < x->rank; i++)
        out->dim[i] = sym_dim(sizes->at[i]);
    for (int i = 0; known && given(scales) && tensor_count(scales) == x->rank && i < x->rank; i++) {
        const double scale = dtype_get(scales->dtype, scales->data, i);
        if (out->dim[i] < 0 && scale >= 1 && scale < 1e6 && scale == floor(scale))
            out->dim[i] = sym_dim(sym_mul(c->symbols, sym_of_dim(x->dim[i]), sym_number((int64_t)scale)));
    }
}

static int infer_any(struct infer_ctx *c, bool upsample, struct err *err)
{
    const struct resize_attrs *a = c->attrs;
    const struct places at = places_of(upsample, c->opset);
    struct shape out = SHAPE_UNKNOWN;
    struct geometry g;
    bool known;

    if (op_need(c, 1, err) < 0)
        return -1;
    if (at.scales >= 0 && !infer_has(c, at.scales) && (at.sizes < 0 || !infer_has(c, at.sizes)))
        return err_set(err, ERR_MODEL, "neither 'scales' nor 'sizes' is given; one of them must be");
    const struct shape *x = infer_shape(c, 0);
    for (int i = 1; i < c->n_in; i++)
        op_value(c, i); /* what is not there yet is asked for */
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (geometry_of(&g, a, upsample, c->opset, x, c->in_value, c->n_in, &known, err) < 0)
            return -1;
        out.rank = x->rank;
        for (int i = 0; i < x->rank; i++)
            out.dim[i] = known ? g.out[i] : DIM_UNKNOWN;
        if (!known || !shape_known(&out))
            partly_known(c, a, &at, known, &out);
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int infer_resize(struct infer_ctx *c, struct err *err)
{
    return infer_any(c, false, err);
}

static int infer_upsample(struct infer_ctx *c, struct err *err)
{
    return infer_any(c, true, err);
}

/* ---- taps of one axis ---- */
struct taps {
    int64_t in, out, count; /* taps of each output */
    int64_t *index;         /* [out * count], inside the image */
    float *weight;          /* [out * count] */
    bool *outside;          /* [out]: takes the extrapolation value */
    bool any_outside, identity;
};

struct rules {
    enum mode mode;
    enum transform transform;
    enum nearest nearest;
    float a, extrapolation;
    bool exclude_outside, antialias;
};

static float position(const struct rules *r, const struct geometry *g, int axis, int64_t in, int64_t out, int64_t j)
{
    const float x = (float)j, scale = g->scale[axis];

    switch (r->transform) {
    case HALF_PIXEL_SYMMETRIC: {
        const float adjustment = (float)out / (scale * (float)in);
        return (float)in / 2 * (1 - adjustment) + (x + 0.5f) / scale - 0.5f;
    }
    case PYTORCH_HALF_PIXEL:
        return out > 1 ? (x + 0.5f) / scale - 0.5f : 0;
    case ALIGN_CORNERS:
        return out > 1 ? x * (float)(in - 1) / (float)(out - 1) : 0;
    case ASYMMETRIC:
        return x / scale;
    case TF_HALF_PIXEL_FOR_NN:
        return (x + 0.5f) / scale;
    case TF_CROP_AND_RESIZE:
        return out > 1 ? g->start[axis] * (float)(in - 1) +
                             x * (g->end[axis] - g->start[axis]) * (float)(in - 1) / (float)(out - 1)
                       : 0.5f * (g->start[axis] + g->end[axis]) * (float)(in - 1);
    default:
        return (x + 0.5f) / scale - 0.5f;
    }
}

static int64_t nearest_index(enum nearest mode, float x, float scale)
{
    switch (mode) {
    case ROUND_PREFER_FLOOR:
        return (int64_t)ceilf(x - 0.5f);
    case ROUND_PREFER_CEIL:
        return (int64_t)floorf(x + 0.5f);
    case FLOOR:
        return (int64_t)floorf(x);
    case CEIL:
        return (int64_t)ceilf(x);
    default: /* before opset 11 */
        return scale < 1 ? (int64_t)ceilf(x) : (int64_t)floorf(x);
    }
}

/* Keys' cubic kernel with parameter a, or the triangle of linear interpolation. */
static float kernel(const struct rules *r, float x)
{
    const float d = fabsf(x), a = r->a;
    if (r->mode == LINEAR)
        return d < 1 ? 1 - d : 0;
    if (d <= 1)
        return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/* Half width of the kernel in input cells, and its compression. */
static float stretch_of(const struct rules *r, float scale)
{
    return r->antialias && scale < 1 ? scale : 1;
}

static int64_t taps_of(const struct rules *r, float scale, int64_t in)
{
    const float stretch = stretch_of(r, scale), support = fminf((r->mode == CUBIC ? 2 : 1) / stretch, 1e9f);
    if (r->mode == NEAREST)
        return 1;
    return stretch < 1 ? i64_min(2 * (int64_t)ceilf(support), 4 * in + 4) : 2 * (int64_t)support;
}

static void fill_taps(struct taps *t, const struct rules *r, float scale, float x, int64_t j)
{
    const int64_t first = (int64_t)floorf(x) - t->count / 2 + 1;
    const float stretch = stretch_of(r, scale);
    const bool scale_up = r->exclude_outside || stretch < 1; /* weights have to be brought back to sum 1 */
    float *weight = t->weight + j * t->count, sum = 0;
    int64_t *index = t->index + j * t->count;

    for (int64_t k = 0; k < t->count; k++) {
        const int64_t i = first + k;
        const bool out = i < 0 || i >= t->in;
        weight[k] = out && r->exclude_outside ? 0 : kernel(r, ((float)i - x) * stretch);
        index[k] = i64_max(0, i64_min(i, t->in - 1));
        sum += weight[k];
    }
    for (int64_t k = 0; k < t->count && scale_up && sum != 0; k++)
        weight[k] /= sum;
}

static int make_taps(const struct op_memory *m, struct taps *t, const struct rules *r, const struct geometry *g,
                     int axis, int64_t in, struct err *err)
{
    size_t cells, bytes;

    *t = (struct taps){.in = in, .out = g->out[axis], .count = taps_of(r, g->scale[axis], in)};
    t->identity = in == t->out;
    if (!size_mul((size_t)t->out, (size_t)t->count, &cells) || !size_mul(cells, sizeof *t->index, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d would need too many taps", axis);
    t->index = op_memory(m, bytes + 1, err);
    t->weight = t->index ? op_memory(m, bytes + 1, err) : NULL;
    t->outside = t->weight ? op_memory(m, (size_t)t->out + 1, err) : NULL;
    if (!t->outside)
        return -1;
    for (int64_t j = 0; j < t->out; j++) {
        const float x = position(r, g, axis, in, t->out, j);
        const float held = fminf(fmaxf(x, -1e9f), 2e9f); /* hostile regions stay in the range of int64 */
        t->identity = t->identity && x == (float)j;
        t->outside[j] = r->transform == TF_CROP_AND_RESIZE && (x < 0 || x > (float)(in - 1));
        t->any_outside = t->any_outside || t->outside[j];
        if (r->mode == NEAREST)
            t->index[j] = i64_max(0, i64_min(nearest_index(r->nearest, held, g->scale[axis]), in - 1));
        else
            fill_taps(t, r, g->scale[axis], held, j);
    }
    return 0;
}

/* ---- passes ---- */
struct pass {
    const struct taps *t;
    const void *x;
    void *y;
    int64_t inner;
    bool wide; /* double */
};

#define DEFINE_PASS(name, T)                                                                                         \
    static void name(const struct pass *k, int64_t row)                                                              \
    {                                                                                                                \
        const struct taps *t = k->t;                                                                                 \
        const int64_t o = row / t->out, j = row % t->out, inner = k->inner;                                          \
        const T *x = (const T *)k->x + o * t->in * inner;                                                            \
        T *restrict y = (T *)k->y + row * inner;                                                                     \
        for (int64_t i = 0; i < inner; i++)                                                                          \
            y[i] = 0;                                                                                                \
        for (int64_t s = 0; s < t->count; s++) {                                                                     \
            const T *restrict src = x + t->index[j * t->count + s] * inner;                                          \
            const T weight = (T)t->weight[j * t->count + s];                                                         \
            for (int64_t i = 0; i < inner; i++)                                                                      \
                y[i] += weight * src[i];                                                                             \
        }                                                                                                            \
    }
DEFINE_PASS(row_f32, float)
DEFINE_PASS(row_f64, double)

/* The innermost axis: outputs [begin, end) of all rows, each a sum of its own taps. */
#define DEFINE_LINE(name, T)                                                                                         \
    static void name(const struct pass *k, int64_t begin, int64_t end)                                               \
    {                                                                                                                \
        const struct taps *t = k->t;                                                                                 \
        const int64_t count = t->count;                                                                              \
        T *restrict y = (T *)k->y;                                                                                   \
        while (begin < end) {                                                                                        \
            const int64_t o = begin / t->out, first = begin % t->out, n = i64_min(t->out - first, end - begin);      \
            const T *restrict x = (const T *)k->x + o * t->in;                                                       \
            const int64_t *index = t->index + first * count;                                                         \
            const float *weight = t->weight + first * count;                                                         \
            for (int64_t j = 0; j < n && count == 2; j++)                                                            \
                y[begin + j] = (T)weight[2 * j] * x[index[2 * j]] + (T)weight[2 * j + 1] * x[index[2 * j + 1]];      \
            for (int64_t j = 0; j < n && count != 2; j++) {                                                          \
                T sum = 0;                                                                                           \
                for (int64_t s = 0; s < count; s++)                                                                  \
                    sum += (T)weight[j * count + s] * x[index[j * count + s]];                                       \
                y[begin + j] = sum;                                                                                  \
            }                                                                                                        \
            begin += n;                                                                                              \
        }                                                                                                            \
    }
DEFINE_LINE(line_f32, float)
DEFINE_LINE(line_f64, double)

static void run_rows(void *arg, int64_t begin, int64_t end)
{
    const struct pass *k = arg;
    if (k->inner == 1) {
        (k->wide ? line_f64 : line_f32)(k, begin, end);
        return;
    }
    for (int64_t row = begin; row < end; row++) {
        if (k->wide)
            row_f64(k, row);
        else
            row_f32(k, row);
    }
}

/* Interpolate axis after axis; the last pass writes into y. */
static int interpolate(struct run_ctx *c, const struct taps *taps, const void *x, const struct shape *x_shape, void *y,
                       bool wide, struct err *err)
{
    struct shape shape = *x_shape;
    const size_t elem = wide ? sizeof(double) : sizeof(float);
    int last = -1;

    for (int a = 0; a < shape.rank; a++)
        last = taps[a].identity ? last : a;
    if (last < 0) {
        memcpy(y, x, (size_t)shape_count(&shape) * elem);
        return 0;
    }
    for (int a = 0; a <= last; a++) {
        if (taps[a].identity)
            continue;
        size_t bytes;
        shape.dim[a] = taps[a].out;
        const int64_t count = shape_count(&shape), inner = shape_product(&shape, a + 1, shape.rank);
        if (count < 0 || !size_mul((size_t)count, elem, &bytes))
            return err_set(err, ERR_MODEL_TOO_LARGE, "the resized tensor would be too large");
        struct pass k = {
            .t = &taps[a], .x = x, .y = a == last ? y : run_scratch(c, bytes + 1, err), .inner = inner, .wide = wide};
        if (!k.y)
            return -1;
        op_parallel(c->pool, count / inner, i64_max(1, 16384 / inner), run_rows, &k);
        x = k.y;
    }
    return 0;
}

struct gather {
    const struct taps *taps;
    const struct shape *x, *y;
    const char *src;
    char *dst;
    size_t elem;
    bool doubled;
};

#define GATHER(T)                                                                                                    \
    for (int64_t j = 0; j < last->out; j++)                                                                          \
        ((T *)(void *)dst)[j] = ((const T *)(const void *)src)[last->index[j]];

static void gather_rows(void *arg, int64_t begin, int64_t end)
{
    const struct gather *k = arg;
    const int rank = k->y->rank;
    const struct taps *last = &k->taps[rank - 1];
    const char *before = NULL; /* source of the row before */
    const size_t row_bytes = (size_t)last->out * k->elem;

    int64_t at[SHAPE_MAX_RANK] = {0}, rest = begin;
    for (int a = rank - 2; a >= 0; a--) { /* where row `begin` is; from there on counted, not divided */
        at[a] = rest % k->y->dim[a];
        rest /= k->y->dim[a];
    }
    for (int64_t row = begin; row < end; row++) {
        int64_t offset = 0, scale = k->x->dim[rank - 1];
        for (int a = rank - 2; a >= 0; a--) {
            offset += k->taps[a].index[at[a]] * scale;
            scale *= k->x->dim[a];
        }
        for (int a = rank - 2; a >= 0 && ++at[a] == k->y->dim[a]; a--)
            at[a] = 0;
        const char *src = k->src + (size_t)offset * k->elem;
        char *dst = k->dst + (size_t)(row * last->out) * k->elem;
        if (src == before) {
            memcpy(dst, dst - row_bytes, row_bytes);
        } else if (k->elem == 4 && k->doubled) {
            uint32_t *restrict to = (uint32_t *)(void *)dst;
            const uint32_t *restrict from = (const uint32_t *)(const void *)src;
            for (int64_t j = 0; j < last->in; j++)
                to[2 * j] = to[2 * j + 1] = from[j];
        } else if (k->elem == 4) {
            GATHER(uint32_t)
        } else if (k->elem == 1) {
            GATHER(uint8_t)
        } else {
            for (int64_t j = 0; j < last->out; j++)
                memcpy(dst + (size_t)j * k->elem, src + (size_t)last->index[j] * k->elem, k->elem);
        }
        before = src;
    }
}

/* Every cell of the innermost axis stands twice in the output. */
static bool is_doubled(const struct taps *t)
{
    bool doubled = t->out == 2 * t->in;
    for (int64_t j = 0; j < t->out && doubled; j++)
        doubled = t->index[j] == j / 2;
    return doubled;
}

/* Outputs whose position lies outside the image along some axis. */
static void extrapolate(const struct taps *taps, struct tensor *y, float value)
{
    for (int a = 0; a < y->shape.rank; a++) {
        const int64_t inner = shape_product(&y->shape, a + 1, y->shape.rank);
        for (int64_t i = 0, rows = taps[a].any_outside ? tensor_count(y) / inner : 0; i < rows; i++)
            for (int64_t j = 0; taps[a].outside[i % taps[a].out] && j < inner; j++)
                dtype_set(y->dtype, y->data, i * inner + j, (double)value);
    }
}

static struct rules rules_of(const struct resize_attrs *a, bool old)
{
    return (struct rules){.mode = (enum mode)a->mode,
                          .transform = old ? ASYMMETRIC : (enum transform)a->coordinate_transformation_mode,
                          .nearest = old ? SIMPLE : (enum nearest)a->nearest_mode,
                          .a = a->cubic_coeff_a, .extrapolation = a->extrapolation_value,
                          .exclude_outside = a->exclude_outside && a->mode == CUBIC, .antialias = a->antialias};
}

static int compute_any(struct run_ctx *c, bool upsample, struct err *err)
{
    const struct rules r = rules_of(c->attrs, upsample || c->opset < 11);
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    struct taps taps[SHAPE_MAX_RANK];
    struct geometry g;
    bool known;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (geometry_of(&g, c->attrs, upsample, c->opset, &x->shape, c->in, c->n_in, &known, err) < 0)
        return -1;
    for (int i = 0; i < x->shape.rank; i++)
        if (make_taps(&(struct op_memory){.run = c}, &taps[i], &r, &g, i, x->shape.dim[i], err) < 0)
            return -1;
    if (r.mode == NEAREST) {
        struct gather k = {taps, &x->shape, &y->shape, x->data, y->data, op_elem(x->dtype, err)};
        if (k.elem == 0)
            return -1;
        if (x->shape.rank == 0)
            memcpy(y->data, x->data, k.elem);
        else {
            k.doubled = is_doubled(&taps[x->shape.rank - 1]);
            op_parallel(c->pool, tensor_count(y) / y->shape.dim[y->shape.rank - 1],
                        i64_max(1, 16384 / y->shape.dim[y->shape.rank - 1]), gather_rows, &k);
        }
    } else if (x->dtype == DTYPE_FLOAT || x->dtype == DTYPE_DOUBLE) {
        if (interpolate(c, taps, x->data, &x->shape, y->data, x->dtype == DTYPE_DOUBLE, err) < 0)
            return -1;
    } else { /* integers: by way of float, cut off as ONNX Runtime does */
        size_t in_bytes, out_bytes;
        if (!dtype_bytes(DTYPE_FLOAT, tensor_count(x), &in_bytes) ||
            !dtype_bytes(DTYPE_FLOAT, tensor_count(y), &out_bytes))
            return err_set(err, ERR_MODEL_TOO_LARGE, "the resized tensor would be too large");
        float *in = run_scratch(c, in_bytes + 1, err), *out = in ? run_scratch(c, out_bytes + 1, err) : NULL;
        if (!out)
            return -1;
        if (!dtype_convert(DTYPE_FLOAT, in, x->dtype, x->data, tensor_count(x)))
            return err_set(err, ERR_OPERATOR, "interpolation of %s is not supported", dtype_name(x->dtype));
        if (interpolate(c, taps, in, &x->shape, out, false, err) < 0)
            return -1;
        dtype_convert(y->dtype, y->data, DTYPE_FLOAT, out, tensor_count(y));
    }
    if (r.transform == TF_CROP_AND_RESIZE)
        extrapolate(taps, y, r.extrapolation);
    return 0;
}

static int compute_resize(struct run_ctx *c, struct err *err)
{
    return compute_any(c, false, err);
}

static int compute_upsample(struct run_ctx *c, struct err *err)
{
    return compute_any(c, true, err);
}

static int forward_resize(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_resize, compute_resize, err);
}

static int forward_upsample(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer_upsample, compute_upsample, err);
}

/* ---- gradient: the passes back, the last axis first; what was extrapolated gives nothing ---- */
static void drop_outside(const struct taps *taps, struct tensor *g)
{
    for (int a = 0; a < g->shape.rank; a++) {
        const int64_t inner = shape_product(&g->shape, a + 1, g->shape.rank);
        for (int64_t i = 0, rows = taps[a].any_outside ? tensor_count(g) / inner : 0; i < rows; i++)
            for (int64_t j = 0; taps[a].outside[i % taps[a].out] && j < inner; j++)
                dtype_set(g->dtype, g->data, i * inner + j, 0);
    }
}

static int fold_axes(struct grad_ctx *c, const struct taps *taps, bool weighted, struct tensor *g, struct err *err)
{
    for (int a = g->shape.rank - 1; a >= 0; a--) {
        const struct taps *t = &taps[a];
        const struct grad_taps back = {t->in, t->out, t->count, t->index, weighted ? t->weight : NULL};
        size_t bytes;
        if (t->identity)
            continue;
        g->shape.dim[a] = t->in;
        if (!dtype_bytes(g->dtype, shape_count(&g->shape), &bytes))
            return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
        void *to = grad_scratch(c, bytes + 1, err);
        if (!to)
            return -1;
        grad_fold_axis(c->pool, g->dtype, &back, g->data, to, shape_product(&g->shape, 0, a),
                       shape_product(&g->shape, a + 1, g->shape.rank));
        g->data = to;
    }
    return 0;
}

static int backward_any(struct grad_ctx *c, bool upsample, struct err *err)
{
    const struct rules r = rules_of(c->attrs, upsample || c->opset < 11);
    const struct op_memory memory = {.grad = c};
    const struct tensor *grad = grad_of(c, 0), *dst = grad_wanted(c, 0);
    struct taps taps[SHAPE_MAX_RANK];
    struct geometry g;
    bool known, outside = false;

    if (!grad || !dst || tensor_count(grad) == 0)
        return 0;
    if (grad_type(dst, err) < 0 ||
        geometry_of(&g, c->attrs, upsample, c->opset, &dst->shape, c->in, c->n_in, &known, err) < 0)
        return -1;
    for (int i = 0; i < dst->shape.rank; i++) {
        if (make_taps(&memory, &taps[i], &r, &g, i, dst->shape.dim[i], err) < 0)
            return -1;
        outside = outside || taps[i].any_outside;
    }
    struct tensor left = {.dtype = grad->dtype, .shape = grad->shape, .data = grad->data, .bytes = grad->bytes};
    if (outside) {
        left.data = grad_scratch(c, grad->bytes + 1, err);
        if (!left.data)
            return -1;
        memcpy(left.data, grad->data, grad->bytes);
        drop_outside(taps, &left);
    }
    return fold_axes(c, taps, r.mode != NEAREST, &left, err) < 0 ? -1 : grad_add_whole(c, 0, &left, err);
}

static int backward_resize(struct grad_ctx *c, struct err *err)
{
    return backward_any(c, false, err);
}

static int backward_upsample(struct grad_ctx *c, struct err *err)
{
    return backward_any(c, true, err);
}

/* ---- pruning ---- */
/* Every output element is the input element at its place, now and after a cut. */
static bool leaves_axis(const struct resize_attrs *a, const struct geometry *g, const struct shape *x, int axis,
                        bool known)
{
    if (a->coordinate_transformation_mode == TF_HALF_PIXEL_FOR_NN)
        return false;
    if (!known)
        return a->keep_aspect_ratio_policy == STRETCH && a->coordinate_transformation_mode != TF_CROP_AND_RESIZE;
    return g->scale[axis] == 1 && g->start[axis] == 0 && g->end[axis] == 1 && g->out[axis] == x->dim[axis];
}

static int couple_any(struct coupling *k, bool upsample)
{
    const struct resize_attrs *a = couple_attrs(k);
    const struct infer_ctx *c = k->infer;
    const struct places at = places_of(upsample, c->opset);
    const int rank = couple_rank(k, IN(0));
    int axes[SHAPE_MAX_RANK], count;
    bool known, chosen[SHAPE_MAX_RANK] = {false};
    struct geometry g;

    if (rank < 0 || couple_rank(k, OUT(0)) != rank)
        return 0;
    const struct shape *x = infer_shape(c, 0);
    if (geometry_of(&g, a, upsample, c->opset, x, c->in_value, c->n_in, &known, NULL) < 0 ||
        chosen_axes(a, x, axes, &count, NULL) < 0)
        return 0;
    for (int i = 0; i < count; i++)
        chosen[axes[i]] = true;
    const bool sizes = at.sizes >= 0 && infer_has(c, at.sizes) && op_list_length(c, at.sizes) != 0;
    for (int i = 0; i < rank; i++) {
        const bool told = chosen[i] && sizes && !sizes_writable(c, at.sizes, count);
        couple_axes(k, IN(0), i, OUT(0), i);
        if (told || (chosen[i] && !leaves_axis(a, &g, x, i, known)))
            couple_freeze(k, IN(0), i, told ? "its sizes are computed while running" : "it is resampled");
        if (told || couple_size(k, IN(0), i) != couple_size(k, OUT(0), i))
            couple_freeze(k, OUT(0), i, "it is resampled");
    }
    return 0;
}

static int couple_resize(struct coupling *k, struct err *err)
{
    (void)err;
    return couple_any(k, false);
}

static int couple_upsample(struct coupling *k, struct err *err)
{
    (void)err;
    return couple_any(k, true);
}

/* Scales and regions of an axis that keeps its size stay what they are. */
static int shrink_resize(struct shrink *s, struct err *err)
{
    const struct infer_ctx *c = s->infer;
    const struct places at = places_of(false, c->opset);
    int64_t v[SHAPE_MAX_RANK];
    int axes[SHAPE_MAX_RANK], count;
    if (at.sizes < 0 || !infer_has(c, at.sizes) || infer_shape(c, 0)->rank < 0 ||
        chosen_axes(c->attrs, infer_shape(c, 0), axes, &count, NULL) < 0 || op_list_length(c, at.sizes) != count)
        return 0;
    for (int i = 0; i < count; i++)
        v[i] = shrink_touched(s, IN(0), axes[i]) ? shrink_size(s, IN(0), axes[i]) : SIZES_LEFT;
    return shrink_sizes(s, at.sizes, v, count, err);
}
#define shrink_upsample NULL

/* ---- rows ---- */
static const struct op_sample samples_upsample_1[] = {
    {"f32[1,2,4,5]", "mode=nearest height_scale=2f width_scale=3f"}, {NULL}};
static const struct op_sample samples_upsample_7[] = {
    {"f32[1,2,4,5]", "mode=nearest scales=1f,1f,2f,3f"}, {"f32[1,2,4,5]", "mode=linear scales=1f,1f,2f,2f"}, {NULL}};
static const struct op_sample samples_upsample_9[] = {
    {"f32[1,2,4,5] f32[4]=1,1,2,3", "mode=nearest", 1, 9},
    {"f32[1,2,4,5] f32[4]=1,1,2,2", "mode=linear", 1, 9},
    {"f32[1,4,4,5] !f32[4]=1,1,2,3", "mode=nearest", 1, 9},
    {NULL},
};
static const struct op_sample samples_10[] = {{"f32[1,4,4,5] !f32[4]=1,1,2,3", "mode=nearest"},
                                              {"f32[1,2,4,5] f32[4]=1,1,2,3", "mode=nearest"},
                                              {"f32[1,2,4,5] f32[4]=1,1,2,2", "mode=linear"},
                                              {NULL}};
static const struct op_sample samples_11[] = {
    {"f32[1,2,4,5] f32[0] f32[4]=1,1,2,3", "mode=nearest"},
    {"f32[1,2,4,5] f32[0] f32[0] i64[4]=1,2,7,3", "mode=linear coordinate_transformation_mode=align_corners"},
    {"f32[1,2,6,7] f32[0] f32[0] i64[4]=1,2,9,4", "mode=cubic"},
    {"f32[1,1,6,7] f32[8]=0,0,0.2,0.1,1,1,0.9,1.2 f32[0] i64[4]=1,1,4,5",
     "mode=linear coordinate_transformation_mode=tf_crop_and_resize extrapolation_value=9f"},
    {NULL},
};
static const struct op_sample samples[] = {
    {"f32[1,2,4,5] none f32[4]=1,1,2,3", "mode=nearest"},
    {"f32[1,2,4,5] none f32[4]=1,1,0.6,1.7",
     "mode=nearest coordinate_transformation_mode=asymmetric nearest_mode=floor"},
    {"f32[1,2,4,5] none f32[4]=1,1,2,2", "mode=linear"},
    {"f32[1,2,4,5] none none i64[4]=1,2,7,3", "mode=linear coordinate_transformation_mode=align_corners"},
    {"f32[1,2,6,7] none none i64[4]=1,2,9,4", "mode=cubic"},
    {"f32[1,2,6,7] none none i64[4]=1,2,3,14",
     "mode=cubic coordinate_transformation_mode=pytorch_half_pixel cubic_coeff_a=-0.5f exclude_outside=1"},
    {"f32[1,1,8,8] none none i64[4]=1,1,3,5", "mode=linear antialias=1"},
    {NULL},
};

#define ROW(type_, since_, until_, inputs_min, inputs_max, table, name, ...)                                         \
    {                                                                                                                \
        .type = type_, .domain = "", .since = since_, .until = until_,                                               \
        .doc = "Resamples axes: nearest, linear or cubic.", .in_min = inputs_min, .in_max = inputs_max, .out_min = 1, \
        .out_max = 1, .attrs = table, .attrs_size = sizeof(struct resize_attrs), .infer = infer_##name,              \
        .forward = forward_##name, .backward = backward_##name, .grad_inputs = 1,                                    \
        .couple = couple_##name, .shrink = shrink_##name,                                                            \
        .grad_reads = GRAD_READS_IN(1) | GRAD_READS_IN(2) | GRAD_READS_IN(3), .quant = {QUANT_PASS}, __VA_ARGS__     \
    }
OP_CLASS(upsample_1) = ROW("Upsample", 1, 6, 1, 1, upsample_1, upsample, .samples = samples_upsample_1);
OP_CLASS(upsample_7) = ROW("Upsample", 7, 8, 1, 1, upsample_7, upsample, .samples = samples_upsample_7);
OP_CLASS(upsample_9) = ROW("Upsample", 9, 0, 2, 2, attrs_10, upsample, .samples = samples_upsample_9);
OP_CLASS(resize_10) = ROW("Resize", 10, 10, 2, 2, attrs_10, resize, .samples = samples_10);
OP_CLASS(resize_11) = ROW("Resize", 11, 17, 1, 4, attrs_11, resize, .samples = samples_11);
OP_CLASS(resize_18) = ROW("Resize", 18, 0, 1, 4, attrs_18, resize, .samples = samples);
