/* SPDX-License-Identifier: Apache-2.0
 * GridSample: X [N, C, in...], grid [N, out..., r] -> Y [N, C, out...] with r spatial axes (up to 3). A grid entry is a
 * place in [-1, 1] on every axis, the last axis first; X is interpolated there.
 * Places     g -> (g + 1) / 2 * (L - 1) with align_corners, else ((g + 1) * L - 1) / 2, in float32 where X is, so that
 *            ties of `nearest` fall as in ONNX Runtime.
 * Outside    each tap on its own: zeros; border (the nearest cell); reflection at the borders [0, L - 1]
 *            or [-1/2, L - 1/2].
 * Taps       an axis gives 1, 2 or 4 (nearest, linear, cubic with a = -0.75) indices and weights, computed once for
 *            all channels of a place. */
#include <math.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

enum mode { LINEAR, NEAREST, CUBIC };
enum padding { ZEROS, BORDER, REFLECTION };
enum { MAX_AXES = 3, MAX_TAPS = 4, MAX_CELLS = MAX_TAPS * MAX_TAPS * MAX_TAPS };
static const char *const modes_16[] = {"bilinear", "nearest", "bicubic", NULL};
static const char *const modes_20[] = {"linear", "nearest", "cubic", NULL};
static const char *const paddings[] = {"zeros", "border", "reflection", NULL};

struct grid_attrs {
    int mode, padding_mode;
    bool align_corners;
};
#define COMMON                                                                                                         \
    {OP_ATTR(grid_attrs, padding_mode), .kind = OP_ENUM, .choices = paddings},                                         \
    {                                                                                                                  \
        OP_ATTR(grid_attrs, align_corners), .kind = OP_BOOL                                                            \
    }
static const struct op_attr attrs_16[] = {
    {OP_ATTR(grid_attrs, mode), .kind = OP_ENUM, .choices = modes_16}, COMMON, {NULL}};
static const struct op_attr attrs_20[] = {
    {OP_ATTR(grid_attrs, mode), .kind = OP_ENUM, .choices = modes_20}, COMMON, {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    char x_text[SHAPE_TEXT], grid_text[SHAPE_TEXT];
    struct shape out = SHAPE_UNKNOWN;

    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || op_dtype_kinds(c, 1, "f", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *grid = infer_shape(c, 1);
    const int rank = x->rank >= 0 ? x->rank : grid->rank;
    if (rank >= 0 && (rank < 3 || rank > MAX_AXES + 2))
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels, 1 to %d spatial axes]",
                       rank, MAX_AXES);
    if (x->rank >= 0 && grid->rank >= 0) {
        const int64_t places = grid->rank > 0 ? grid->dim[grid->rank - 1] : -1;
        if (grid->rank != rank || (places >= 0 && places != rank - 2) ||
            (x->dim[0] >= 0 && grid->dim[0] >= 0 && x->dim[0] != grid->dim[0]))
            return err_set(err, ERR_SHAPE,
                           "the grid has shape %s for an input of %s; it must be [batch, one size a spatial axis, %d]",
                           shape_text(grid, grid_text), shape_text(x, x_text), rank - 2);
    }
    if (rank >= 0) {
        out = (struct shape){.rank = rank};
        for (int i = 0; i < rank; i++)
            out.dim[i] =
                i < 2 ? (x->rank >= 0 ? x->dim[i] : DIM_UNKNOWN) : (grid->rank >= 0 ? grid->dim[i - 1] : DIM_UNKNOWN);
        if (out.dim[0] < 0 && grid->rank >= 0)
            out.dim[0] = grid->dim[0];
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* ---- one axis ---- */
struct axis_taps {
    int count;
    int64_t index[MAX_TAPS]; /* -1: outside, counts as zero */
    double weight[MAX_TAPS];
    double slope[MAX_TAPS]; /* of the weights, by the grid entry */
};

static double place_of(double g, int64_t length, bool align, bool single)
{
    const float f = (float)g, n = (float)length;
    if (single)
        return (double)(align ? (f + 1) / 2 * (n - 1) : ((f + 1) * n - 1) / 2);
    return align ? (g + 1) / 2 * (double)(length - 1) : ((g + 1) * (double)length - 1) / 2;
}

/* x folded into [low, high] like a ray between two mirrors. */
static double reflect(double x, double low, double high)
{
    const double range = high - low, away = x < low ? low - x : x - high;
    if (x >= low && x <= high)
        return x;
    if (!(range > 0) || !(away < 1e15))
        return low;
    const double times = floor(away / range), rest = away - times * range;
    const bool same_side = fmod(times, 2) == 0;
    return (x < low) == same_side ? low + rest : high - rest;
}

/* x is whole, or not a number. */
static int64_t cell_of(double x, int64_t length, const struct grid_attrs *a)
{
    const double last = (double)(length - 1);

    if (x >= 0 && x <= last)
        return (int64_t)x;
    if (a->padding_mode == ZEROS)
        return -1;
    if (a->padding_mode == REFLECTION)
        x = a->align_corners ? reflect(x, 0, last) : reflect(x, -0.5, last + 0.5);
    return (int64_t)fmin(fmax(x, 0), last);
}

static void cubic_weights(double t, double *w)
{
    static const double a = -0.75;
    w[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    w[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    w[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
    w[3] = ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a;
}

/* Their derivatives by t. */
static void cubic_slopes(double t, double *w)
{
    static const double a = -0.75;
    w[0] = (3 * a * (t + 1) - 10 * a) * (t + 1) + 8 * a;
    w[1] = (3 * (a + 2) * t - 2 * (a + 3)) * t;
    w[2] = -(3 * (a + 2) * (1 - t) - 2 * (a + 3)) * (1 - t);
    w[3] = -((3 * a * (2 - t) - 10 * a) * (2 - t) + 8 * a);
}

static struct axis_taps taps_of(double g, int64_t length, const struct grid_attrs *a, bool single)
{
    static const int counts[] = {2, 1, 4};
    struct axis_taps t = {.count = counts[a->mode]};
    const double x = place_of(g, length, a->align_corners, single);
    const double base = a->mode == NEAREST ? nearbyint(x) : floor(x), rest = x - base;

    if (a->mode == NEAREST) {
        t.weight[0] = 1;
    } else if (a->mode == LINEAR) {
        t.weight[0] = 1 - rest;
        t.weight[1] = rest;
    } else {
        cubic_weights(rest, t.weight);
    }
    const double scale = a->align_corners ? (double)(length - 1) / 2 : (double)length / 2; /* d place / d g */
    if (a->mode == LINEAR) {
        t.slope[0] = -1;
        t.slope[1] = 1;
    } else if (a->mode == CUBIC) {
        cubic_slopes(rest, t.slope);
    }
    for (int i = 0; i < t.count; i++)
        t.slope[i] *= scale;
    for (int i = 0; i < t.count; i++)
        t.index[i] = cell_of(base + (a->mode == CUBIC ? i - 1 : i), length, a);
    return t;
}

/* ---- one place, all channels ---- */
struct job {
    const struct grid_attrs *attrs;
    const struct tensor *x, *grid;
    struct tensor *y;
    int axes;
    int64_t channels, plane, places; /* cells of an image of X and of Y */
};

/* Cells of a place and their weights; with `by` >= 0 the weights' derivatives by that axis' grid entry. */
static int cells_of(const struct job *k, int64_t place, int by, int64_t *index, double *weight)
{
    const int64_t *dim = k->x->shape.dim + 2;
    int count = 1;

    index[0] = 0;
    weight[0] = 1;
    for (int a = 0; a < k->axes; a++) {
        const double g = dtype_get(k->grid->dtype, k->grid->data, place * k->axes + k->axes - 1 - a);
        const struct axis_taps t = taps_of(g, dim[a], k->attrs, k->x->dtype == DTYPE_FLOAT);
        /* every cell so far becomes one a tap; written from the back, so in place */
        for (int c = count - 1; c >= 0; c--) {
            const int64_t at = index[c];
            const double w = weight[c];
            for (int i = t.count - 1; i >= 0; i--) {
                index[c * t.count + i] = at < 0 || t.index[i] < 0 ? -1 : at * dim[a] + t.index[i];
                weight[c * t.count + i] = w * (a == by ? t.slope[i] : t.weight[i]);
            }
        }
        count *= t.count;
    }
    return count;
}

static void sample_places(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    int64_t index[MAX_CELLS];
    double weight[MAX_CELLS];

    for (int64_t place = begin; place < end; place++) {
        const int cells = cells_of(k, place, -1, index, weight);
        const int64_t batch = place / k->places, at = place % k->places;
        for (int64_t c = batch * k->channels; c < (batch + 1) * k->channels; c++) {
            double sum = 0;
            for (int i = 0; i < cells; i++)
                sum += index[i] < 0 ? 0 : weight[i] * dtype_get(k->x->dtype, k->x->data, c * k->plane + index[i]);
            dtype_set(k->y->dtype, k->y->data, c * k->places + at, sum);
        }
    }
}

/* ---- gradients: g by the weights to X's cells, and X by the weights' slopes to the grid ---- */
struct back {
    struct job job;
    const struct tensor *g;
    struct tensor *dx, *dgrid; /* may be NULL */
};

static void back_to_cells(const struct back *b, int64_t place)
{
    const struct job *k = &b->job;
    int64_t index[MAX_CELLS];
    double weight[MAX_CELLS];
    const int cells = cells_of(k, place, -1, index, weight);
    const int64_t batch = place / k->places, at = place % k->places;

    for (int64_t c = batch * k->channels; c < (batch + 1) * k->channels; c++) {
        const double g = dtype_get(b->g->dtype, b->g->data, c * k->places + at);
        for (int i = 0; i < cells; i++)
            if (index[i] >= 0)
                dtype_set(b->dx->dtype, b->dx->data, c * k->plane + index[i],
                          dtype_get(b->dx->dtype, b->dx->data, c * k->plane + index[i]) + weight[i] * g);
    }
}

static void back_to_grid(const struct back *b, int64_t place)
{
    const struct job *k = &b->job;
    int64_t index[MAX_CELLS];
    double slope[MAX_CELLS];
    const int64_t batch = place / k->places, at = place % k->places;

    for (int axis = 0; axis < k->axes; axis++) {
        const int64_t entry = place * k->axes + k->axes - 1 - axis;
        const int cells = cells_of(k, place, axis, index, slope);
        double sum = dtype_get(b->dgrid->dtype, b->dgrid->data, entry);
        for (int64_t c = batch * k->channels; c < (batch + 1) * k->channels; c++) {
            const double g = dtype_get(b->g->dtype, b->g->data, c * k->places + at);
            for (int i = 0; i < cells; i++)
                sum += index[i] < 0 ? 0 : g * slope[i] * dtype_get(k->x->dtype, k->x->data, c * k->plane + index[i]);
        }
        dtype_set(b->dgrid->dtype, b->dgrid->data, entry, sum);
    }
}

/* An image is a task: places of one may share cells. */
static void back_images(void *arg, int64_t begin, int64_t end)
{
    const struct back *b = arg;
    for (int64_t place = begin * b->job.places; place < end * b->job.places; place++) {
        if (b->dx)
            back_to_cells(b, place);
        if (b->dgrid)
            back_to_grid(b, place);
    }
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    const int rank = x->shape.rank;
    struct back b = {.g = grad_of(c, 0), .dx = grad_wanted(c, 0), .dgrid = grad_wanted(c, 1)};

    if (!b.g || tensor_count(b.g) == 0 || tensor_count(x) == 0)
        return 0;
    if ((b.dx && grad_type(b.dx, err) < 0) || (b.dgrid && grad_type(b.dgrid, err) < 0))
        return -1;
    b.job = (struct job){c->attrs, x, c->in[1], NULL, rank - 2, x->shape.dim[1], shape_product(&x->shape, 2, rank),
                         shape_product(&b.g->shape, 2, rank)};
    op_parallel(c->pool, x->shape.dim[0], 1, back_images, &b);
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    const int rank = x->shape.rank;
    struct job k = {c->attrs, x, c->in[1], y, rank - 2, x->shape.dim[1], shape_product(&x->shape, 2, rank), 0};

    if (!y || tensor_count(y) == 0)
        return 0;
    if (k.plane == 0)
        return err_set(err, ERR_SHAPE, "the input has no cells to sample from");
    k.places = shape_product(&y->shape, 2, rank);
    op_parallel(c->pool, x->shape.dim[0] * k.places, i64_max(1, 4096 / k.channels), sample_places, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static const struct op_sample samples_16[] = {
    {"f32[2,3,4,5] f32[2,3,6,2]", NULL},
    {"f32[1,2,4,5] f32[1,4,4,2]", "mode=nearest padding_mode=border"},
    {"f32[1,2,4,5] f32[1,4,4,2]", "mode=bicubic padding_mode=zeros align_corners=1"},
    {"f32[1,2,4,5] f32[1,4,4,2]", "mode=bilinear padding_mode=reflection"},
    {"f32[1,2,4,5] f32[1,4,4,2]", "mode=bilinear padding_mode=border align_corners=1"},
    {NULL},
};
static const struct op_sample samples_20[] = {
    {"f32[2,3,4,5] f32[2,3,6,2]", "padding_mode=reflection align_corners=1"},
    {"f32[1,2,4,5] f32[1,4,4,2]", "mode=cubic padding_mode=border"},
    {"f32[1,2,3,4,5] f32[1,2,3,4,3]", "mode=linear"},
    {"f32[1,2,3,4,5] f32[1,2,3,4,3]", "mode=nearest padding_mode=reflection"},
    {NULL},
};

static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, OUT(0));
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    couple_axes(k, IN(1), 0, OUT(0), 0);
    couple_axes(k, IN(0), 1, OUT(0), 1);
    for (int i = 2; i < rank; i++) {
        couple_freeze(k, IN(0), i, "places on it are looked up");
        couple_axes(k, IN(1), i - 1, OUT(0), i);
    }
    return 0;
}

#define ROW(since_, until_, table, samples_)                                                                           \
    {                                                                                                                  \
        .type = "GridSample", .domain = "", .since = since_, .until = until_,                                          \
        .doc = "Interpolates an image at given places.", .in_min = 2, .in_max = 2, .out_min = 1, .out_max = 1,         \
        .attrs = table, .attrs_size = sizeof(struct grid_attrs), .infer = infer, .forward = forward, .couple = couple, \
        .backward = backward, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1), .grad_inputs = 3,                     \
        .samples = samples_                                                                                            \
    }
OP_CLASS(grid_sample_16) = ROW(16, 19, attrs_16, samples_16);
OP_CLASS(grid_sample_20) = ROW(20, 0, attrs_20, samples_20);
