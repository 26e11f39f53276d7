/* SPDX-License-Identifier: Apache-2.0
 * BatchNormalization: y = (x - mean) / sqrt(var + epsilon) * scale + bias, statistics a channel (axis 1).
 * Versions   Up to opset 8 spatial = 0 asks for statistics a single activation (all axes but the batch). From 14 on,
 *            training_mode = 1 normalizes by the batch's own moments (population variance) and gives the moving
 *            averages running = running * momentum + batch * (1 - momentum). Before 14 only the form for inference is
 *            run; its further outputs are the statistics it was given. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/norm.h"
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

static struct geometry geometry_of(const struct run_ctx *c)
{
    const struct shape *x = &c->in[0]->shape;
    const struct bn_attrs *a = c->attrs;
    struct geometry g = {x->dim[0], x->rank > 1 ? x->dim[1] : 1, x->rank > 2 ? shape_product(x, 2, x->rank) : 1};

    if (c->opset < 9 && !a->spatial) {
        g.channels *= g.cells;
        g.cells = 1;
    }
    return g;
}

static void batch_moments(const struct tensor *x, const struct geometry *g, int64_t channel, double *mean,
                          double *variance)
{
    const double count = (double)(g->batch * g->cells);
    double sum = 0, squares = 0;

    for (int64_t n = 0; n < g->batch; n++)
        for (int64_t i = 0; i < g->cells; i++)
            sum += dtype_get(x->dtype, x->data, (n * g->channels + channel) * g->cells + i);
    for (int64_t n = 0; n < g->batch; n++)
        for (int64_t i = 0; i < g->cells; i++) {
            const double d = dtype_get(x->dtype, x->data, (n * g->channels + channel) * g->cells + i) - sum / count;
            squares += d * d;
        }
    *mean = sum / count;
    *variance = squares / count;
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

static int compute(struct run_ctx *c, struct err *err)
{
    const struct bn_attrs *a = c->attrs;
    const struct tensor *x = c->in[0], *const *in = c->in;
    struct tensor *y = run_out(c, 0);
    const struct geometry g = geometry_of(c);
    size_t bytes;

    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "normalization of %s is not supported", dtype_name(x->dtype));
    double *factor = size_mul((size_t)g.channels, 2 * sizeof *factor, &bytes) ? run_scratch(c, bytes + 1, err) : NULL;
    if (!factor)
        return err_set(err, ERR_NOMEM, "out of memory");
    double *shift = factor + g.channels;
    for (int64_t i = 0; i < g.channels; i++) {
        const double old_mean = dtype_get(in[3]->dtype, in[3]->data, i),
                     old_var = dtype_get(in[4]->dtype, in[4]->data, i);
        double mean = old_mean, variance = old_var;
        if (a->training_mode) {
            const double keep = (double)a->momentum;
            batch_moments(x, &g, i, &mean, &variance);
            put_statistics(c, i, old_mean * keep + mean * (1 - keep), old_var * keep + variance * (1 - keep));
        } else {
            put_statistics(c, i, mean, variance);
        }
        factor[i] = dtype_get(in[1]->dtype, in[1]->data, i) / sqrt(variance + (double)a->epsilon);
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
     .infer = infer, .forward = forward, __VA_ARGS__}

OP_CLASS(batch_normalization_1) = ROW(1, 6, bn_1, 5, .samples = samples_1);
OP_CLASS(batch_normalization_7) = ROW(7, 8, bn_7, 5, .samples = samples_7);
OP_CLASS(batch_normalization_9) = ROW(9, 13, bn_9, 5, .samples = samples);
OP_CLASS(batch_normalization_14) = ROW(14, 0, bn_14, 3, .samples = samples);
