/* SPDX-License-Identifier: Apache-2.0
 * BatchNormalization: y = (x - mean) / sqrt(var + epsilon) * scale + bias, statistics a channel (axis 1).
 * Versions   Up to opset 8 spatial = 0 asks for statistics a single activation (all axes but the batch). From 14 on,
 *            training_mode = 1 normalizes by the batch's own moments (population variance) and gives the moving
 *            averages running = running * momentum + batch * (1 - momentum). Before 14 only the form for inference is
 *            run; its further outputs are the statistics it was given. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/batchnorm.h"
#include "core/kernels/norm.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

struct bn_attrs {
    float epsilon, momentum;
    bool is_test, spatial, training_mode;
};

#define BN_COMMON                                                                                                    \
    {OP_ATTR(bn_attrs, epsilon), .kind = OP_FLOAT, .def_f = 1e-5f},                                                  \
        {OP_ATTR(bn_attrs, momentum), .kind = OP_FLOAT, .def_f = 0.9f}
#define BN_SPATIAL {OP_ATTR(bn_attrs, spatial), .kind = OP_BOOL, .def = 1}

static const struct op_attr bn_1[] = {BN_COMMON, BN_SPATIAL, {OP_ATTR(bn_attrs, is_test), .kind = OP_BOOL}, {NULL}};
static const struct op_attr bn_7[] = {BN_COMMON, BN_SPATIAL, {NULL}};
static const struct op_attr bn_9[] = {BN_COMMON, {NULL}};
static const struct op_attr bn_14[] = {BN_COMMON, {OP_ATTR(bn_attrs, training_mode), .kind = OP_BOOL}, {NULL}};

static bool is_spatial(const struct infer_ctx *c)
{
    return c->opset >= 9 || ((const struct bn_attrs *)c->attrs)->spatial;
}

static const char *const statistic[] = {"X", "scale", "B", "mean", "var"};

/* Inputs 1 to 4 hold one value a statistic. */
static int check_statistics(const struct infer_ctx *c, const struct shape *x, struct err *err)
{
    char text[SHAPE_TEXT];
    const int64_t want = x->rank == SHAPE_UNKNOWN_RANK ? DIM_UNKNOWN
                         : is_spatial(c)               ? (x->rank > 1 ? x->dim[1] : 1)
                                                       : shape_product(x, 1, x->rank);
    for (int i = 1; i < 5; i++) {
        const struct shape *s = infer_shape(c, i);
        const int64_t got = s->rank == SHAPE_UNKNOWN_RANK ? DIM_UNKNOWN : shape_count(s);
        if (op_dtype_kinds(c, i, "f", err) < 0)
            return -1;
        if ((is_spatial(c) && s->rank != SHAPE_UNKNOWN_RANK && s->rank != 1) || (got >= 0 && want >= 0 && got != want))
            return err_set(err, ERR_SHAPE,
                           "input '%s' has shape %s; it must hold one value for each of the %" PRId64 " channels",
                           statistic[i], shape_text(s, text), want);
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct bn_attrs *a = c->attrs;

    if (op_need(c, 5, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank == 0)
        return err_set(err, ERR_SHAPE, "the input is a scalar; it must be [batch, channels, ...]");
    if (check_statistics(c, x, err) < 0)
        return -1;
    if (a->training_mode && shape_known(x) && shape_count(x) == 0)
        return err_set(err, ERR_SHAPE, "the batch is empty; training_mode needs at least one value a channel");
    infer_out(c, 0, c->in[0]->dtype, x);
    for (int i = 1; i < c->n_out; i++)
        infer_out(c, i, c->in[3]->dtype, infer_shape(c, 3));
    return 0;
}

struct geometry {
    int64_t batch, channels, cells;
};

static struct geometry geometry_of(const struct shape *x, const struct bn_attrs *a, int opset)
{
    struct geometry g = {x->dim[0], x->rank > 1 ? x->dim[1] : 1, x->rank > 2 ? shape_product(x, 2, x->rank) : 1};

    if (opset < 9 && !a->spatial) {
        g.channels *= g.cells;
        g.cells = 1;
    }
    return g;
}

struct moments {
    const struct tensor *x;
    struct geometry g;
    double *mean, *variance; /* [channels] */
};

static void find_moments(void *arg, int64_t begin, int64_t end)
{
    const struct moments *k = arg;
    const struct bn_planes planes = {k->g.batch, k->g.cells, k->g.channels * k->g.cells};
    for (int64_t i = begin; i < end; i++) {
        if (k->x->dtype == DTYPE_FLOAT)
            bn_moments_f32(&planes, (const float *)k->x->data + i * k->g.cells, &k->mean[i], &k->variance[i]);
        else
            bn_moments_f64(&planes, (const double *)k->x->data + i * k->g.cells, &k->mean[i], &k->variance[i]);
    }
}

/* y = x * factor[channel] + shift[channel] */
struct apply {
    const struct tensor *x;
    struct tensor *y;
    struct geometry g;
    const double *factor, *shift;
};

static void apply_planes(void *arg, int64_t begin, int64_t end)
{
    const struct apply *k = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i * k->g.cells, channel = i % k->g.channels;
        if (k->x->dtype == DTYPE_FLOAT)
            norm_affine_f32((const float *)k->x->data + at, k->g.cells, (float)k->factor[channel],
                            (float)k->shift[channel], (float *)k->y->data + at);
        else
            norm_affine_f64((const double *)k->x->data + at, k->g.cells, k->factor[channel], k->shift[channel],
                            (double *)k->y->data + at);
    }
}

/* Statistics of channel i into the further outputs. */
static void put_statistics(struct run_ctx *c, int64_t i, double mean, double variance)
{
    const double value[] = {0, mean, variance, mean, variance};
    for (int o = 1; o < c->n_out && o < 5; o++)
        if (run_out(c, o))
            dtype_set(c->out[o]->dtype, c->out[o]->data, i, value[o]);
}

/* Mean and variance of every channel to normalize by: the given ones, or the batch's, which the trainer is told. */
static int statistics_of(struct run_ctx *c, const struct geometry *g, double *mean, double *variance, struct err *err)
{
    const struct bn_attrs *a = c->attrs;
    const struct tensor *const *in = c->in;
    const bool batch = (a->training_mode || c->training) && tensor_count(in[0]) > 0;
    const double keep = (double)a->momentum;

    if (batch) {
        struct moments k = {in[0], *g, mean, variance};
        op_parallel(c->pool, g->channels, i64_max(1, 16384 / (g->batch * g->cells)), find_moments, &k);
    }
    for (int64_t i = 0; i < g->channels; i++) {
        const double old_mean = dtype_get(in[3]->dtype, in[3]->data, i),
                     old_var = dtype_get(in[4]->dtype, in[4]->data, i);
        if (batch) {
            put_statistics(c, i, old_mean * keep + mean[i] * (1 - keep), old_var * keep + variance[i] * (1 - keep));
            continue;
        }
        mean[i] = old_mean;
        variance[i] = old_var;
        put_statistics(c, i, old_mean, old_var);
    }
    const struct batch_stats stats = {.mean_input = 3, .var_input = 4, .momentum = keep, .channels = g->channels,
                                      .count = g->batch * g->cells, .mean = mean, .variance = variance};
    if (batch && c->training && run_stats(c, &stats, err))
        return -1;
    if (!batch || !c->saved)
        return 0;
    double *saved = run_save(c, (size_t)g->channels * 2 * sizeof *saved, err);
    for (int64_t i = 0; saved && i < g->channels; i++) {
        saved[i] = mean[i];
        saved[g->channels + i] = variance[i];
    }
    return saved ? 0 : -1;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *const *in = c->in;
    struct tensor *y = run_out(c, 0);
    const struct geometry g = geometry_of(&x->shape, c->attrs, c->opset);
    size_t bytes;

    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "normalization of %s is not supported", dtype_name(x->dtype));
    double *factor = size_mul((size_t)g.channels, 2 * sizeof *factor, &bytes) ? run_scratch(c, bytes + 1, err) : NULL;
    if (!factor)
        return err_set(err, ERR_NOMEM, "out of memory");
    double *shift = factor + g.channels;
    if (statistics_of(c, &g, shift, factor, err) < 0)
        return -1;
    for (int64_t i = 0; i < g.channels; i++) {
        const double mean = shift[i], variance = factor[i];
        factor[i] = dtype_get(in[1]->dtype, in[1]->data, i) /
                    sqrt(variance + (double)((const struct bn_attrs *)c->attrs)->epsilon);
        shift[i] = dtype_get(in[2]->dtype, in[2]->data, i) - mean * factor[i];
    }
    if (!y || tensor_count(y) == 0)
        return 0;
    struct apply k = {x, y, g, factor, shift};
    op_parallel(c->pool, g.batch * g.channels, i64_max(1, 16384 / g.cells), apply_planes, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward: the formulas stand in batchnorm.h ---- */
struct back {
    struct grad_ctx *c;
    struct geometry g;
    const struct tensor *x, *dy;
    struct tensor *dx, *dscale, *dbias;
};

/* One channel; `saved` are the batch's moments, NULL: frozen ones. */
static void back_channel(const struct back *k, int64_t i)
{
    struct grad_ctx *c = k->c;
    const struct bn_planes planes = {k->g.batch, k->g.cells, k->g.channels * k->g.cells};
    const double *saved = c->saved, count = (double)(k->g.batch * k->g.cells);
    const double mean = saved ? saved[i] : dtype_get(c->in[3]->dtype, c->in[3]->data, i);
    const double variance = saved ? saved[k->g.channels + i] : dtype_get(c->in[4]->dtype, c->in[4]->data, i);
    const double r = 1 / sqrt(variance + (double)((const struct bn_attrs *)c->attrs)->epsilon);
    const double factor = r * dtype_get(c->in[1]->dtype, c->in[1]->data, i);
    const bool f32 = k->x->dtype == DTYPE_FLOAT;
    const void *x = f32 ? (const void *)((const float *)k->x->data + i * k->g.cells)
                        : (const void *)((const double *)k->x->data + i * k->g.cells);
    const void *dy = f32 ? (const void *)((const float *)k->dy->data + i * k->g.cells)
                         : (const void *)((const double *)k->dy->data + i * k->g.cells);
    double sum = 0, dot = 0;

    if (f32)
        bn_grad_sums_f32(&planes, x, dy, mean, &sum, &dot);
    else
        bn_grad_sums_f64(&planes, x, dy, mean, &sum, &dot);
    if (k->dscale)
        dtype_set(k->dscale->dtype, k->dscale->data, i,
                  r * dot + (c->assign[1] ? 0 : dtype_get(k->dscale->dtype, k->dscale->data, i)));
    if (k->dbias)
        dtype_set(k->dbias->dtype, k->dbias->data, i,
                  sum + (c->assign[2] ? 0 : dtype_get(k->dbias->dtype, k->dbias->data, i)));
    if (!k->dx)
        return;
    const double b = saved ? -factor * r * r * dot / count : 0;
    const double shift = saved ? -factor * sum / count - b * mean : 0;
    if (f32)
        bn_grad_data_f32(&planes, x, dy, factor, b, shift, (float *)k->dx->data + i * k->g.cells, !c->assign[0]);
    else
        bn_grad_data_f64(&planes, x, dy, factor, b, shift, (double *)k->dx->data + i * k->g.cells, !c->assign[0]);
}

static void back_channels(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        back_channel(arg, i);
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *x = c->in[0];
    struct back k = {.c = c, .x = x, .dy = dy, .dx = grad_wanted(c, 0), .dscale = grad_wanted(c, 1),
                     .dbias = grad_wanted(c, 2), .g = geometry_of(&x->shape, c->attrs, c->opset)};
    (void)err;

    if (!dy)
        return 0;
    op_parallel(c->pool, k.g.channels, i64_max(1, 16384 / i64_max(k.g.batch * k.g.cells, 1)), back_channels, &k);
    return 0;
}

/* Fixed statistics: element-wise. Those of the batch are taken a channel, so that channels stay independent. */
static int couple(struct coupling *k, struct err *err)
{
    const struct bn_attrs *a = couple_attrs(k);
    (void)err;
    if (!is_spatial(k->infer))
        return 0;
    if (a->training_mode)
        couple_axes(k, IN(0), 1, OUT(0), 1);
    else
        couple_same(k, IN(0), OUT(0));
    for (int i = 1; i < 5; i++) {
        couple_axes(k, IN(i), 0, IN(0), 1);
        couple_axes(k, OUT(i), 0, IN(0), 1);
    }
    return 0;
}

static const struct op_sample samples_1[] = {
    {"f32[2,3,4,5] !f32[3] !f32[3] !f32[3] !f32[3]=0.5,1.5,2", "is_test=1 epsilon=0.01f"}, {NULL}};
static const struct op_sample samples_7[] = {
    {"f32[2,3,4,5] !f32[3] !f32[3] !f32[3] !f32[3]=0.5,1.5,2", NULL}, {NULL}};
static const struct op_sample samples[] = {
    {"f32[2,3,4,5] !f32[3] !f32[3] !f32[3] !f32[3]=0.5,1.5,2", NULL},
    {"f32[2,3] !f32[3] !f32[3] !f32[3] !f32[3]=0.5,1.5,2", "epsilon=0.01f"},
    {NULL},
};

#define ROW(since_, until_, table, outputs, ...)                                                                     \
    {.type = "BatchNormalization", .domain = "", .since = since_, .until = until_,                                   \
     .doc = "Normalizes each channel by its statistics.",                                                            \
     .in_min = 5, .in_max = 5, .out_min = 1, .out_max = outputs, .attrs = table,                                     \
     .attrs_size = sizeof(struct bn_attrs),                                                                          \
     .couple = couple,                                                                                               \
     .infer = infer, .forward = forward, .backward = backward, .grad_assigns = true, .grad_inputs = 7u,              \
     .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(3) | GRAD_READS_IN(4), __VA_ARGS__}

OP_CLASS(batch_normalization_1) = ROW(1, 6, bn_1, 5, .samples = samples_1);
OP_CLASS(batch_normalization_7) = ROW(7, 8, bn_7, 5, .samples = samples_7);
OP_CLASS(batch_normalization_9) = ROW(9, 13, bn_9, 5, .samples = samples);
OP_CLASS(batch_normalization_14) = ROW(14, 0, bn_14, 3, .samples = samples);
