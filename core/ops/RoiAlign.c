/* SPDX-License-Identifier: Apache-2.0
 * RoiAlign: X [N, C, H, W], rois [R, 4] as (x1, y1, x2, y2), batch_indices [R] -> [R, C, output_height, output_width].
 * A region, scaled by spatial_scale, is cut into bins; each bin is the average (or maximum) of X interpolated
 * bilinearly at a lattice of points in it: sampling_ratio an axis, or ceil(bin size) if that is 0.
 * Versions   From opset 16 on half_pixel shifts regions by half a cell; before, and with output_half_pixel, they are
 *            not shifted and are at least one cell wide.
 * Maximum    as ONNX defines it by its reference: over the four weighted corners of every point. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/widen.h"

enum mode { AVERAGE, MAXIMUM };
static const char *const modes[] = {"avg", "max", NULL};
static const char *const transforms[] = {"half_pixel", "output_half_pixel", NULL};
enum { POINTS = 65536 };

struct roi_attrs {
    int mode, coordinate_transformation_mode;
    int64_t output_height, output_width, sampling_ratio;
    float spatial_scale;
};
#define COMMON                                                                                                         \
    {OP_ATTR(roi_attrs, mode), .kind = OP_ENUM, .choices = modes},                                                     \
        {OP_ATTR(roi_attrs, output_height), .kind = OP_INT, .def = 1},                                                 \
        {OP_ATTR(roi_attrs, output_width), .kind = OP_INT, .def = 1},                                                  \
        {OP_ATTR(roi_attrs, sampling_ratio), .kind = OP_INT},                                                          \
    {                                                                                                                  \
        OP_ATTR(roi_attrs, spatial_scale), .kind = OP_FLOAT, .def_f = 1                                                \
    }
static const struct op_attr attrs_10[] = {COMMON, {NULL}};
static const struct op_attr attrs_16[] = {
    COMMON, {OP_ATTR(roi_attrs, coordinate_transformation_mode), .kind = OP_ENUM, .choices = transforms}, {NULL}};

static int check_size(int64_t value, const char *name, int64_t low, struct err *err)
{
    if (value >= low && value <= INT32_MAX)
        return 0;
    return err_set(err, ERR_MODEL, "attribute '%s' is %" PRId64 "; it must be in [%" PRId64 ", 2147483647]", name,
                   value, low);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct roi_attrs *a = c->attrs;
    char rois_text[SHAPE_TEXT], batch_text[SHAPE_TEXT];

    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || op_dtype_kinds(c, 1, "f", err) < 0 ||
        op_dtype_index(c, 2, err) < 0 || check_size(a->output_height, "output_height", 1, err) < 0 ||
        check_size(a->output_width, "output_width", 1, err) < 0 ||
        check_size(a->sampling_ratio, "sampling_ratio", 0, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *rois = infer_shape(c, 1), *batch = infer_shape(c, 2);
    if (x->rank >= 0 && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels, height, width]", x->rank);
    if ((rois->rank >= 0 && (rois->rank != 2 || (rois->dim[1] >= 0 && rois->dim[1] != 4))) ||
        (batch->rank >= 0 && batch->rank != 1) ||
        (rois->rank == 2 && batch->rank == 1 && rois->dim[0] >= 0 && batch->dim[0] >= 0 &&
         rois->dim[0] != batch->dim[0]))
        return err_set(err, ERR_SHAPE,
                       "rois have shape %s and batch_indices %s; they must be [regions, 4] and [regions]",
                       shape_text(rois, rois_text), shape_text(batch, batch_text));
    const int64_t regions = rois->rank == 2 && rois->dim[0] >= 0 ? rois->dim[0]
                            : batch->rank == 1                   ? batch->dim[0]
                                                                 : DIM_UNKNOWN;
    infer_out(c, 0, op_dtype(c, 0),
              &SHAPE(regions, x->rank >= 0 ? x->dim[1] : DIM_UNKNOWN, a->output_height, a->output_width));
    return 0;
}

/* A region on the image: where it starts, the size of a bin, points a bin, on both axes (y, x). */
struct region {
    double start[2], bin[2];
    int64_t points[2], batch;
};

static int read_region(const struct run_ctx *c, int64_t r, struct region *g, struct err *err)
{
    const struct roi_attrs *a = c->attrs;
    const struct tensor *x = c->in[0], *rois = c->in[1];
    const bool shifted = c->opset >= 16 && a->coordinate_transformation_mode == 0;
    const int64_t bins[2] = {a->output_height, a->output_width};
    const double most = fmax(POINTS, 4.0 * (double)x->shape.dim[2] * (double)x->shape.dim[3]);

    g->batch = op_index_at(c->in[2], r);
    if (g->batch < 0 || g->batch >= x->shape.dim[0])
        return err_set(err, ERR_MODEL,
                       "batch_indices has %" PRId64 " at position %" PRId64 "; it must be in [0, %" PRId64 ")",
                       g->batch, r, x->shape.dim[0]);
    for (int i = 0; i < 2; i++) {
        const double scale = (double)a->spatial_scale, low = dtype_get(rois->dtype, rois->data, r * 4 + 1 - i) * scale;
        double size = dtype_get(rois->dtype, rois->data, r * 4 + 3 - i) * scale - low;
        if (!shifted)
            size = fmax(size, 1);
        g->start[i] = low - (shifted ? 0.5 : 0);
        g->bin[i] = size / (double)bins[i];
        const double points = a->sampling_ratio ? (double)a->sampling_ratio : fmax(ceil(g->bin[i]), 0);
        if (!isfinite(low) || !(points <= most))
            return err_set(err, ERR_MODEL,
                           "region %" PRId64 " needs %g sampling points a bin on one axis; at most %g are allowed", r,
                           points, most);
        g->points[i] = (int64_t)points;
    }
    if ((double)g->points[0] * (double)g->points[1] > most)
        return err_set(err, ERR_MODEL,
                       "region %" PRId64 " needs %" PRId64 " x %" PRId64
                       " sampling points a bin; at most %g are allowed",
                       r, g->points[0], g->points[1], most);
    return 0;
}

/* The two cells next to a place on an axis of n cells, and the weight of the second; false: outside. */
struct between {
    int64_t low, high;
    double rest;
};

static bool between(double at, int64_t n, struct between *b)
{
    if (!(at >= -1 && at <= (double)n))
        return false;
    at = fmin(fmax(at, 0), (double)(n - 1));
    b->low = (int64_t)at;
    b->high = i64_min(b->low + 1, n - 1);
    b->rest = at - (double)b->low;
    return true;
}

static double bin_value(const struct tensor *x, int64_t plane, const struct region *g, int64_t by, int64_t bx, bool max)
{
    const int64_t h = x->shape.dim[2], w = x->shape.dim[3];
    double sum = 0, most = -INFINITY;
    struct between y, v;

    for (int64_t i = 0; i < g->points[0] * g->points[1]; i++) {
        const double iy = (double)(i / g->points[1]), ix = (double)(i % g->points[1]);
        const double at_y = g->start[0] + ((double)by + (iy + 0.5) / (double)g->points[0]) * g->bin[0];
        const double at_x = g->start[1] + ((double)bx + (ix + 0.5) / (double)g->points[1]) * g->bin[1];
        if (!between(at_y, h, &y) || !between(at_x, w, &v)) {
            most = fmax(most, 0);
            continue;
        }
        const int64_t top = plane + y.low * w, bottom = plane + y.high * w;
        const double a = (1 - y.rest) * (1 - v.rest) * dtype_get(x->dtype, x->data, top + v.low);
        const double b = (1 - y.rest) * v.rest * dtype_get(x->dtype, x->data, top + v.high);
        const double c = y.rest * (1 - v.rest) * dtype_get(x->dtype, x->data, bottom + v.low);
        const double d = y.rest * v.rest * dtype_get(x->dtype, x->data, bottom + v.high);
        sum += a + b + c + d;
        most = fmax(most, fmax(fmax(a, b), fmax(c, d)));
    }
    if (max)
        return most > -INFINITY ? most : 0;
    return sum / (double)i64_max(g->points[0] * g->points[1], 1);
}

struct job {
    const struct roi_attrs *attrs;
    const struct tensor *x;
    struct tensor *y;
    struct region *regions;
};

/* Planes (region, channel). */
static void planes(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    const struct shape *x = &k->x->shape;
    const int64_t bins = k->attrs->output_height * k->attrs->output_width;

    for (int64_t p = begin; p < end; p++) {
        const struct region *g = &k->regions[p / x->dim[1]];
        const int64_t plane = (g->batch * x->dim[1] + p % x->dim[1]) * x->dim[2] * x->dim[3];
        for (int64_t b = 0; b < bins; b++)
            dtype_set(k->y->dtype, k->y->data, p * bins + b,
                      bin_value(k->x, plane, g, b / k->attrs->output_width, b % k->attrs->output_width,
                                k->attrs->mode == MAXIMUM));
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    size_t bytes;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (x->shape.dim[2] == 0 || x->shape.dim[3] == 0)
        return err_set(err, ERR_SHAPE, "the input has no cells to sample from");
    struct job k = {c->attrs, x, y, NULL};
    const int64_t n = y->shape.dim[0];
    k.regions = size_mul((size_t)n, sizeof *k.regions, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!k.regions)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t r = 0; r < n; r++)
        if (read_region(c, r, &k.regions[r], err) < 0)
            return -1;
    op_parallel(c->pool, n * x->shape.dim[1], 4, planes, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static const struct op_sample samples[] = {
    {"f32[2,3,8,9] f32[3,4]=0,0,7,7,1.5,2.5,6,5,3,3,9,9 i64[3]=0,1,0", "output_height=3 output_width=2"},
    {"f32[1,2,8,8] f32[2,4]=1,1,6,7,0,0,15,15 i64[2]=0,0",
     "output_height=2 output_width=2 sampling_ratio=2 spatial_scale=0.5f"},
    {"f32[1,2,8,8] f32[1,4]=1,1,6,7 i64[1]=0", "mode=max output_height=2 output_width=3 sampling_ratio=2"},
    {NULL},
};

#define ROW(since_, until_, table)                                                                                     \
    {                                                                                                                  \
        .type = "RoiAlign", .domain = "", .since = since_, .until = until_,                                            \
        .doc = "Regions of an image, each resampled to one size.", .in_min = 3, .in_max = 3, .out_min = 1,             \
        .out_max = 1, .attrs = table, .attrs_size = sizeof(struct roi_attrs), .infer = infer, .forward = forward,      \
        .samples = samples                                                                                             \
    }
OP_CLASS(roi_align_10) = ROW(10, 15, attrs_10);
OP_CLASS(roi_align_16) = ROW(16, 0, attrs_16);
