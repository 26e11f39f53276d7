/* SPDX-License-Identifier: Apache-2.0
 * MaxRoiPool: x [N, C, H, W], rois [R, 5] = (batch, x1, y1, x2, y2) -> y [R, C, ph, pw]: a region, scaled and
 * rounded to pixels (its far corner included), cut into ph by pw bins, the maximum of each (Girshick 2015). An empty
 * bin gives 0. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/couple_rules.h"
#include "core/ops/widen.h"

struct roi_attrs {
    struct op_ints pooled_shape;
    float spatial_scale;
};
static const struct op_attr roi_attrs[] = {{OP_ATTR(roi_attrs, pooled_shape), .kind = OP_INTS, .required = true},
                                           {OP_ATTR(roi_attrs, spatial_scale), .kind = OP_FLOAT, .def_f = 1},
                                           {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct roi_attrs *a = c->attrs;
    char x_text[SHAPE_TEXT], roi_text[SHAPE_TEXT];
    enum dtype dtype;
    if (op_need(c, 2, err) < 0 || op_dtype_real(c, 0, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0)
        return -1;
    const struct op_ints *p = &a->pooled_shape;
    if (p->count != 2 || p->at[0] < 1 || p->at[1] < 1 || p->at[0] > 65536 || p->at[1] > 65536)
        return err_set(err, ERR_MODEL, "attribute 'pooled_shape' must be two sizes in [1, 65536]");
    if (!(a->spatial_scale > 0) || isinf(a->spatial_scale))
        return err_set(err, ERR_MODEL, "attribute 'spatial_scale' is %g; it must be positive",
                       (double)a->spatial_scale);
    const struct shape *x = infer_shape(c, 0), *r = infer_shape(c, 1);
    if ((x->rank >= 0 && x->rank != 4) || (r->rank >= 0 && (r->rank != 2 || (r->dim[1] >= 0 && r->dim[1] != 5))))
        return err_set(err, ERR_SHAPE,
                       "the input is %s and the regions %s; they must be [batch, channels, height, "
                       "width] and [regions, 5]",
                       shape_text(x, x_text), shape_text(r, roi_text));
    infer_out(
        c, 0, dtype,
        &SHAPE(r->rank == 2 ? r->dim[0] : DIM_UNKNOWN, x->rank == 4 ? x->dim[1] : DIM_UNKNOWN, p->at[0], p->at[1]));
    return 0;
}

struct regions {
    const struct roi_attrs *a;
    const struct shape *x;
    const void *data, *rois;
    void *y;
};

/* Pixels [from, to) of bin i of n of an extent that starts at `start`. */
static void bin(int64_t start, int64_t extent, int64_t i, int64_t n, int64_t limit, int64_t *from, int64_t *to)
{
    const double size = (double)extent / (double)n;
    *from = i64_min(i64_max((int64_t)floor((double)i * size) + start, 0), limit);
    *to = i64_min(i64_max((int64_t)ceil((double)(i + 1) * size) + start, 0), limit);
}

/* A corner in pixels; regions far outside, infinite or NaN end at a bound that arithmetic stands. */
static int64_t corner(double at)
{
    const double bound = 1e9;
    return at > bound ? (int64_t)bound : at > -bound ? (int64_t)round(at) : at <= -bound ? -(int64_t)bound : 0;
}

#define POOL(name, T)                                                                                                  \
    static void name(void *arg, int64_t begin, int64_t end)                                                            \
    {                                                                                                                  \
        const struct regions *p = arg;                                                                                 \
        const int64_t c = p->x->dim[1], h = p->x->dim[2], w = p->x->dim[3];                                            \
        const int64_t ph = p->a->pooled_shape.at[0], pw = p->a->pooled_shape.at[1];                                    \
        const double scale = (double)p->a->spatial_scale;                                                              \
        for (int64_t k = begin; k < end; k++) {                                                                        \
            const T *roi = (const T *)p->rois + k / c * 5;                                                             \
            const T *x = (const T *)p->data + ((int64_t)roi[0] * c + k % c) * h * w;                                   \
            const int64_t x1 = corner((double)roi[1] * scale), y1 = corner((double)roi[2] * scale);                    \
            const int64_t wide = i64_max(corner((double)roi[3] * scale) - x1 + 1, 1);                                  \
            const int64_t high = i64_max(corner((double)roi[4] * scale) - y1 + 1, 1);                                  \
            T *y = (T *)p->y + k * ph * pw;                                                                            \
            for (int64_t b = 0; b < ph * pw; b++) {                                                                    \
                int64_t top, bottom, left, right;                                                                      \
                bin(y1, high, b / pw, ph, h, &top, &bottom);                                                           \
                bin(x1, wide, b % pw, pw, w, &left, &right);                                                           \
                T most = top < bottom && left < right ? x[top * w + left] : 0;                                         \
                for (int64_t i = top; i < bottom; i++)                                                                 \
                    for (int64_t j = left; j < right; j++)                                                             \
                        most = x[i * w + j] > most ? x[i * w + j] : most;                                              \
                y[b] = most;                                                                                           \
            }                                                                                                          \
        }                                                                                                              \
    }
POOL(pool_f32, float)
POOL(pool_f64, double)

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *rois = c->in[1];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(y->dtype));
    for (int64_t i = 0; i < tensor_count(rois); i++) {
        const double v = dtype_get(rois->dtype, rois->data, i), most = i % 5 ? 1e9 : (double)x->shape.dim[0] - 1;
        if (!(v >= (i % 5 ? -1e9 : 0) && v <= most))
            return err_set(err, ERR_MODEL, "region %" PRId64 " holds %g as its %s", i / 5, v,
                           i % 5 ? "corner" : "place in the batch, which is outside of it");
    }
    struct regions p = {c->attrs, &x->shape, x->data, rois->data, y->data};
    op_parallel(c->pool, y->shape.dim[0] * y->shape.dim[1], 1, y->dtype == DTYPE_FLOAT ? pool_f32 : pool_f64, &p);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

OP_CLASS(max_roi_pool) = {
    .type = "MaxRoiPool",
    .domain = "",
    .since = 1,
    .doc = "Maxima over bins of regions.",
    .in_min = 2,
    .in_max = 2,
    .out_min = 1,
    .out_max = 1,
    .attrs = roi_attrs,
    .attrs_size = sizeof(struct roi_attrs),
    .infer = infer,
    .forward = forward,
    .couple = couple_regions,
    .samples = (const struct op_sample[]){
        {"f32[2,3,8,9] f32[3,5]=0,1,1,5,6,1,0,0,8,7,1,2,3,4,4", "pooled_shape=2,3", 1, 21},
        {"f32[1,2,8,8] f32[2,5]=0,2,4,12,14,0,0,0,6,6", "pooled_shape=3,2 spatial_scale=0.5f", 1, 21},
        {0}}};
