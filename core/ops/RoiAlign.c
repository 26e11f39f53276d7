/* SPDX-License-Identifier: Apache-2.0
 * RoiAlign: X [N, C, H, W], rois [R, 4] as (x1, y1, x2, y2), batch_indices [R] -> [R, C, output_height, output_width].
 * A region, scaled by spatial_scale, is cut into bins; each bin is the average (or maximum) of X interpolated
 * bilinearly at a lattice of points in it: sampling_ratio an axis, or ceil(bin size) if that is 0.
 * Versions   From opset 16 on half_pixel shifts regions by half a cell; before, and with output_half_pixel, they are
 *            not shifted and are at least one cell wide.
 * Maximum    as ONNX defines it by its reference: over the four weighted corners of every point. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
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

/* in: X (its shape), rois, batch_indices. */
static int read_region(const struct roi_attrs *a, int opset, const struct tensor *const *in, int64_t r,
                       struct region *g, struct err *err)
{
    const struct tensor *x = in[0], *rois = in[1];
    const bool shifted = opset >= 16 && a->coordinate_transformation_mode == 0;
    const int64_t bins[2] = {a->output_height, a->output_width};
    const double most = fmax(POINTS, 4.0 * (double)x->shape.dim[2] * (double)x->shape.dim[3]);

    g->batch = op_index_at(in[2], r);
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

/* The four cells around sampling point i of a bin, with their weights; false: the point lies outside. */
struct corners {
    int64_t at[4];
    double weight[4];
};

static bool corners_of(const struct shape *x, const struct region *g, int64_t by, int64_t bx, int64_t i,
                       struct corners *c)
{
    const int64_t h = x->dim[2], w = x->dim[3];
    const double iy = (double)(i / g->points[1]), ix = (double)(i % g->points[1]);
    const double at_y = g->start[0] + ((double)by + (iy + 0.5) / (double)g->points[0]) * g->bin[0];
    const double at_x = g->start[1] + ((double)bx + (ix + 0.5) / (double)g->points[1]) * g->bin[1];
    struct between y, v;

    if (!between(at_y, h, &y) || !between(at_x, w, &v))
        return false;
    *c = (struct corners){{y.low * w + v.low, y.low * w + v.high, y.high * w + v.low, y.high * w + v.high},
                          {(1 - y.rest) * (1 - v.rest), (1 - y.rest) * v.rest, y.rest * (1 - v.rest), y.rest * v.rest}};
    return true;
}

/* *best: the cell, from the start of X, of the largest weighted value, with its weight in *by_weight; -1 if none is. */
static double bin_value(const struct tensor *x, int64_t plane, const struct region *g, int64_t by, int64_t bx, bool max,
                        int64_t *best, double *by_weight)
{
    double sum = 0, most = -INFINITY;
    struct corners c;

    *best = -1;
    for (int64_t i = 0; i < g->points[0] * g->points[1]; i++) {
        if (!corners_of(&x->shape, g, by, bx, i, &c)) {
            *best = most < 0 ? -1 : *best;
            most = fmax(most, 0);
            continue;
        }
        double value[4];
        for (int k = 0; k < 4; k++) {
            value[k] = c.weight[k] * dtype_get(x->dtype, x->data, plane + c.at[k]);
            if (value[k] > most) {
                most = value[k];
                *best = plane + c.at[k];
                *by_weight = c.weight[k];
            }
        }
        sum += value[0] + value[1] + value[2] + value[3];
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
        int64_t best;
        double weight;
        for (int64_t b = 0; b < bins; b++)
            dtype_set(k->y->dtype, k->y->data, p * bins + b,
                      bin_value(k->x, plane, g, b / k->attrs->output_width, b % k->attrs->output_width,
                                k->attrs->mode == MAXIMUM, &best, &weight));
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
        if (read_region(c->attrs, c->opset, c->in, r, &k.regions[r], err) < 0)
            return -1;
    op_parallel(c->pool, n * x->shape.dim[1], 4, planes, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- gradient to X; the regions are treated as given ---- */
static void add_at(struct tensor *t, int64_t at, double v)
{
    dtype_set(t->dtype, t->data, at, dtype_get(t->dtype, t->data, at) + v);
}

static void back_bin(const struct roi_attrs *a, const struct tensor *x, struct tensor *dx, int64_t plane,
                     const struct region *g, int64_t bin, double grad)
{
    const int64_t points = g->points[0] * g->points[1], by = bin / a->output_width, bx = bin % a->output_width;
    int64_t best;
    double weight;
    struct corners c;

    if (a->mode == MAXIMUM) {
        bin_value(x, plane, g, by, bx, true, &best, &weight);
        if (best >= 0)
            add_at(dx, best, weight * grad);
        return;
    }
    for (int64_t i = 0; i < points; i++)
        for (int k = 0; corners_of(&dx->shape, g, by, bx, i, &c) && k < 4; k++)
            add_at(dx, plane + c.at[k], c.weight[k] * grad / (double)points);
}

/* Regions overlap, so they follow each other. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct roi_attrs *a = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0);
    const int64_t bins = a->output_height * a->output_width;

    if (!g || !dx || tensor_count(g) == 0 || tensor_count(dx) == 0)
        return 0;
    if (grad_type(dx, err) < 0)
        return -1;
    for (int64_t r = 0; r < g->shape.dim[0]; r++) {
        struct region region;
        if (read_region(a, c->opset, c->in, r, &region, err) < 0)
            return -1;
        for (int64_t ch = 0; ch < dx->shape.dim[1]; ch++) {
            const int64_t plane = (region.batch * dx->shape.dim[1] + ch) * dx->shape.dim[2] * dx->shape.dim[3];
            for (int64_t b = 0; b < bins; b++)
                back_bin(a, c->in[0], dx, plane, &region, b,
                         dtype_get(g->dtype, g->data, (r * dx->shape.dim[1] + ch) * bins + b));
        }
    }
    return 0;
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
        .couple = couple_regions,                                                                                              \
        .backward = backward, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(2),                    \
        .grad_inputs = 1, .samples = samples                                                                           \
    }
OP_CLASS(roi_align_10) = ROW(10, 15, attrs_10);
OP_CLASS(roi_align_16) = ROW(16, 0, attrs_16);
