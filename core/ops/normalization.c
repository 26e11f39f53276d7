/* SPDX-License-Identifier: Apache-2.0
 * Normalizations by the moments of contiguous rows: LayerNormalization (all axes from `axis` on),
 * InstanceNormalization (one image of one channel), GroupNormalization (the channels of a group together),
 * RMSNormalization (mean square instead of variance).
 * Common     y = (x - mean) / sqrt(variance + epsilon) * scale + bias. They differ in what a row is and how scale and
 *            bias are spread. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/norm.h"
#include "core/kernels/norm_grad.h"
#include "core/kernels/rows.h"
#include "core/ops/product_coupling.h"
#include "core/ops/widen.h"

struct norm_attrs {
    float epsilon;
    int64_t axis, num_groups, stash_type;
};

#define EPSILON {OP_ATTR(norm_attrs, epsilon), .kind = OP_FLOAT, .def_f = 1e-5f}
#define STASH {OP_ATTR(norm_attrs, stash_type), .kind = OP_INT, .def = 1}
#define AXIS {OP_ATTR(norm_attrs, axis), .kind = OP_INT, .def = -1}
#define GROUPS {OP_ATTR(norm_attrs, num_groups), .kind = OP_INT, .required = true}

static const struct op_attr instance_attrs[] = {EPSILON, {NULL}};
static const struct op_attr layer_attrs[] = {EPSILON, AXIS, STASH, {NULL}};
static const struct op_attr group_attrs_18[] = {EPSILON, GROUPS, {NULL}};
static const struct op_attr group_attrs_21[] = {EPSILON, GROUPS, STASH, {NULL}};

/* ---- running ---- Rows of `row` values; value j of row i takes scale[scale_at(i, j)]: `spread` values in a row
 * share one, starting at i % period * step. */
struct norm {
    const struct tensor *x, *scale, *bias; /* bias may be NULL */
    struct tensor *y, *mean, *inverse;     /* may be NULL */
    int64_t rows, row;
    int64_t period, step, spread;
    double epsilon;
    bool rms;
};

#define DEFINE_ROW(suffix, T)                                                                                        \
    static void normalize_##suffix(const struct norm *k, int64_t i)                                                  \
    {                                                                                                                \
        const T *x = (const T *)k->x->data + i * k->row;                                                             \
        const T *scale = (const T *)k->scale->data + i % k->period * k->step;                                        \
        const T *bias = k->bias ? (const T *)k->bias->data + i % k->period * k->step : NULL;                         \
        T *y = k->y ? (T *)k->y->data + i * k->row : NULL;                                                           \
        double mean = 0, variance;                                                                                   \
                                                                                                                     \
        if (k->rms)                                                                                                  \
            variance = norm_mean_square_##suffix(x, k->row);                                                         \
        else                                                                                                         \
            norm_moments_##suffix(x, k->row, &mean, &variance);                                                      \
        const double inverse = 1 / sqrt(variance + k->epsilon);                                                      \
        if (k->mean)                                                                                                 \
            dtype_set(k->mean->dtype, k->mean->data, i, mean);                                                       \
        if (k->inverse)                                                                                              \
            dtype_set(k->inverse->dtype, k->inverse->data, i, inverse);                                              \
        for (int64_t j = 0; y && j < k->row; j += k->spread, scale++) {                                              \
            const double factor = inverse * (double)*scale, shift = (bias ? (double)*bias++ : 0) - mean * factor;    \
            if (k->spread == 1)                                                                                      \
                y[j] = (T)((double)x[j] * factor + shift);                                                           \
            else                                                                                                     \
                norm_affine_##suffix(x + j, k->spread, (T)factor, (T)shift, y + j);                                  \
        }                                                                                                            \
    }
DEFINE_ROW(f32, float)
DEFINE_ROW(f64, double)

/* Rows with a scale for each value, short enough for sums in float. */
static bool is_plain(const struct norm *k)
{
    return k->x->dtype == DTYPE_FLOAT && k->spread == 1 && k->period == 1 && k->row <= ROW_SUM_MAX;
}

static void normalize_plain(const struct norm *k, int64_t i)
{
    const struct row_norm norm = {.scale = k->scale->data, .bias = k->bias ? k->bias->data : NULL,
                                  .epsilon = k->epsilon, .rms = k->rms};
    float mean, inverse;
    row_normalize_f32(&norm, (const float *)k->x->data + i * k->row, k->row,
                      k->y ? (float *)k->y->data + i * k->row : NULL, &mean, &inverse);
    if (k->mean)
        dtype_set(k->mean->dtype, k->mean->data, i, (double)mean);
    if (k->inverse)
        dtype_set(k->inverse->dtype, k->inverse->data, i, (double)inverse);
}

static void normalize_rows(void *arg, int64_t begin, int64_t end)
{
    const struct norm *k = arg;
    for (int64_t i = begin; i < end; i++) {
        if (is_plain(k))
            normalize_plain(k, i);
        else if (k->x->dtype == DTYPE_FLOAT)
            normalize_f32(k, i);
        else
            normalize_f64(k, i);
    }
}

static int run(struct run_ctx *c, struct norm *k, struct err *err)
{
    k->x = c->in[0];
    k->scale = k->scale ? k->scale : c->in[1];
    k->epsilon = (double)((const struct norm_attrs *)c->attrs)->epsilon;
    if (k->x->dtype != DTYPE_FLOAT && k->x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "normalization of %s is not supported", dtype_name(k->x->dtype));
    if (k->scale->dtype != k->x->dtype || (k->bias && k->bias->dtype != k->x->dtype))
        return err_set(err, ERR_OPERATOR,
                       "scale or bias is of another float type than the input; they must be the same");
    if (k->row > 0)
        op_parallel(c->pool, k->rows, i64_max(1, 16384 / k->row), normalize_rows, k);
    return 0;
}

/* ---- InstanceNormalization, GroupNormalization ---- */
static int check_vector(const struct infer_ctx *c, int i, const char *name, int64_t want, const char *of,
                        struct err *err)
{
    const struct shape *s = infer_shape(c, i);
    char text[SHAPE_TEXT];

    if (s->rank == SHAPE_UNKNOWN_RANK || (s->rank == 1 && (s->dim[0] < 0 || want < 0 || s->dim[0] == want)))
        return 0;
    return err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must hold one value for each of the %" PRId64 " %s",
                   name, shape_text(s, text), want, of);
}

static int infer_image(struct infer_ctx *c, int64_t per_channel, const char *of, struct err *err)
{
    enum dtype dtype;
    if (op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 ||
        check_vector(c, 1, "scale", per_channel, of, err) < 0 || check_vector(c, 2, "B", per_channel, of, err) < 0)
        return -1;
    infer_out(c, 0, dtype, infer_shape(c, 0));
    return 0;
}

static int need_image(const struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 3, err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank >= 0 && infer_shape(c, 0)->rank < 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels, ...]",
                       infer_shape(c, 0)->rank);
    return 0;
}

static int infer_instance(struct infer_ctx *c, struct err *err)
{
    if (need_image(c, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    return infer_image(c, x->rank > 1 ? x->dim[1] : DIM_UNKNOWN, "channels", err);
}

static int infer_group(struct infer_ctx *c, struct err *err)
{
    const struct norm_attrs *a = c->attrs;

    if (need_image(c, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const int64_t channels = x->rank > 1 ? x->dim[1] : DIM_UNKNOWN;
    if (a->num_groups < 1 || (channels >= 0 && channels % a->num_groups != 0))
        return err_set(err, ERR_MODEL,
                       "attribute 'num_groups' is %" PRId64 "; it must be positive and divide the %" PRId64 " channels",
                       a->num_groups, channels);
    if (c->opset >= 21)
        return infer_image(c, channels, "channels", err);
    return infer_image(c, a->num_groups, "groups", err);
}

static int compute_instance(struct run_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int64_t cells = shape_product(x, 2, x->rank);
    struct norm k = {.y = run_out(c, 0), .bias = c->in[2], .rows = x->dim[0] * x->dim[1], .row = cells,
                     .period = i64_max(x->dim[1], 1), .step = 1, .spread = cells};
    return run(c, &k, err);
}

static int compute_group(struct run_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int64_t groups = ((const struct norm_attrs *)c->attrs)->num_groups, cells = shape_product(x, 2, x->rank);
    const int64_t per_group = x->dim[1] / groups;
    struct norm k = {.y = run_out(c, 0), .bias = c->in[2], .rows = x->dim[0] * groups, .row = per_group * cells,
                     .period = groups, .step = c->opset >= 21 ? per_group : 1,
                     .spread = c->opset >= 21 ? cells : per_group * cells};
    return run(c, &k, err);
}

/* ---- LayerNormalization, RMSNormalization ---- */
static int infer_rows(struct infer_ctx *c, int inputs, struct err *err)
{
    const struct norm_attrs *a = c->attrs;
    char text[SHAPE_TEXT], want[SHAPE_TEXT];
    int axis;

    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    infer_out(c, 0, c->in[0]->dtype, x);
    if (x->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (op_axis(x, a->axis, &axis, err) < 0)
        return -1;
    struct shape row = {.rank = x->rank - axis}, moments = *x;
    for (int i = axis; i < x->rank; i++) {
        row.dim[i - axis] = x->dim[i];
        moments.dim[i] = 1;
    }
    for (int i = 1; i < inputs; i++) {
        struct shape both;
        if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
            continue;
        if (!shape_broadcast(infer_shape(c, i), &row, &both) || both.rank != row.rank ||
            (shape_known(&row) && shape_known(infer_shape(c, i)) && !shape_equal(&both, &row)))
            return err_set(err, ERR_SHAPE, "input #%d has shape %s; it must broadcast to the normalized axes %s", i,
                           shape_text(infer_shape(c, i), text), shape_text(&row, want));
    }
    for (int i = 1; i < c->n_out; i++)
        infer_out(c, i, c->in[0]->dtype == DTYPE_DOUBLE ? DTYPE_DOUBLE : DTYPE_FLOAT, &moments);
    return 0;
}

static int infer_layer(struct infer_ctx *c, struct err *err)
{
    return infer_rows(c, 3, err);
}

static int infer_rms(struct infer_ctx *c, struct err *err)
{
    return infer_rows(c, 2, err);
}

/* A scale or bias smaller than a row is spread to a whole one in scratch. */
static int full_row(struct run_ctx *c, const struct tensor *t, const struct shape *row, struct tensor *full,
                    const struct tensor **out, struct err *err)
{
    int64_t stride[SHAPE_MAX_RANK] = {0}, own[SHAPE_MAX_RANK];
    const int64_t count = shape_count(row);
    const size_t elem = t->dtype == DTYPE_DOUBLE ? sizeof(double) : sizeof(float);
    size_t bytes;

    *out = t;
    if (tensor_count(t) == count)
        return 0;
    void *data = size_mul((size_t)count, elem, &bytes) ? run_scratch(c, bytes + 1, err) : NULL;
    if (!data)
        return err_set(err, ERR_NOMEM, "out of memory");
    shape_strides(&t->shape, true, own);
    for (int i = 0; i < t->shape.rank; i++)
        stride[row->rank - t->shape.rank + i] = own[i];
    op_copy_strided(NULL, elem, data, t->data, row->rank, row->dim, stride);
    tensor_view(full, t->dtype, row, data, NULL);
    *out = full;
    return 0;
}

static int compute_rows(struct run_ctx *c, struct norm *k, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int axis = shape_axis(x, ((const struct norm_attrs *)c->attrs)->axis);
    struct shape row = {.rank = x->rank - axis};
    struct tensor full[2];

    for (int i = axis; i < x->rank; i++)
        row.dim[i - axis] = x->dim[i];
    if (full_row(c, c->in[1], &row, &full[0], &k->scale, err) < 0 ||
        (k->bias && full_row(c, k->bias, &row, &full[1], &k->bias, err) < 0))
        return -1;
    k->y = run_out(c, 0);
    k->rows = shape_product(x, 0, axis);
    k->row = shape_count(&row);
    k->period = k->spread = 1;
    return run(c, k, err);
}

static int compute_layer(struct run_ctx *c, struct err *err)
{
    struct norm k = {.bias = run_in(c, 2), .mean = run_out(c, 1), .inverse = run_out(c, 2)};
    return compute_rows(c, &k, err);
}

static int compute_rms(struct run_ctx *c, struct err *err)
{
    struct norm k = {.rms = true};
    return compute_rows(c, &k, err);
}

/* ---- backward: rows are taken in at most CHUNKS fixed pieces, each with sums of its own for scale and bias ---- */
enum { CHUNKS = 16 };

struct back {
    struct norm_grad k;
    enum dtype dtype;
    int64_t rows, per_chunk, chunks, count; /* count: values of scale, as `scale_at` counts them */
    double *sums; /* [chunks][2][count] */
    bool scale, bias;
};

static void back_chunk(void *arg, int64_t begin, int64_t end)
{
    const struct back *b = arg;
    for (int64_t c = begin; c < end; c++) {
        double *ds = b->sums + 2 * c * b->count, *db = ds + b->count;
        const int64_t from = c * b->per_chunk, to = i64_min(from + b->per_chunk, b->rows);
        for (int64_t i = 0; i < 2 * b->count; i++)
            ds[i] = 0;
        if (b->dtype == DTYPE_FLOAT)
            norm_grad_rows_f32(&b->k, from, to, b->scale ? ds : NULL, b->bias ? db : NULL);
        else
            norm_grad_rows_f64(&b->k, from, to, b->scale ? ds : NULL, b->bias ? db : NULL);
    }
}

/* The chunks' sums, in order, into the gradient of scale or bias. full: the axes that `count` spans; NULL: t has count
 * values. */
static void back_sum(const struct back *b, int which, struct tensor *t, bool add, const struct shape *full)
{
    int64_t own[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK] = {0}, index[SHAPE_MAX_RANK] = {0};

    shape_strides(&t->shape, true, own);
    for (int i = 0; full && i < t->shape.rank; i++)
        stride[full->rank - t->shape.rank + i] = own[i];
    for (int64_t i = 0, n = tensor_count(t); !add && i < n; i++)
        dtype_set(t->dtype, t->data, i, 0);
    for (int64_t i = 0; i < b->count; i++) {
        double sum = 0;
        int64_t at = full ? 0 : i;
        for (int64_t c = 0; c < b->chunks; c++)
            sum += b->sums[(2 * c + which) * b->count + i];
        for (int a = 0; full && a < full->rank; a++)
            at += index[a] * stride[a];
        for (int a = full ? full->rank - 1 : -1; a >= 0 && ++index[a] == full->dim[a]; a--)
            index[a] = 0;
        dtype_set(t->dtype, t->data, at, dtype_get(t->dtype, t->data, at) + sum);
    }
}

static int back(struct grad_ctx *c, struct back *b, const struct shape *full, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0), *ds = grad_wanted(c, 1), *db = grad_wanted(c, 2);
    size_t bytes;

    if (grad_of(c, 1) || grad_of(c, 2))
        return err_set(err, ERR_OPERATOR, "gradients through the outputs Mean and InvStdDev are not supported");
    if (!dy || b->k.row == 0)
        return 0;
    b->dtype = dy->dtype;
    b->k.x = c->in[0]->data;
    b->k.dy = dy->data;
    b->k.scale = b->k.scale ? b->k.scale : c->in[1]->data;
    b->k.epsilon = (double)((const struct norm_attrs *)c->attrs)->epsilon;
    b->k.dx = dx ? dx->data : NULL;
    b->k.add = dx && !c->assign[0];
    b->scale = ds != NULL;
    b->bias = db != NULL;
    b->per_chunk = i64_max(i64_ceil_div(b->rows, CHUNKS), 1);
    b->chunks = i64_ceil_div(b->rows, b->per_chunk);
    if (!size_mul((size_t)b->count, (size_t)(2 * CHUNKS) * sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the scale has too many values");
    b->sums = grad_scratch(c, bytes + 1, err);
    if (!b->sums)
        return -1;
    op_parallel(c->pool, b->chunks, 1, back_chunk, b);
    if (ds)
        back_sum(b, 0, ds, !c->assign[1], full);
    if (db)
        back_sum(b, 1, db, !c->assign[2], full);
    return 0;
}

static int backward_instance(struct grad_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int64_t cells = shape_product(x, 2, x->rank);
    struct back b = {.rows = x->dim[0] * x->dim[1], .count = x->dim[1],
                     .k = {.row = cells, .period = i64_max(x->dim[1], 1), .step = 1, .spread = cells}};
    return back(c, &b, NULL, err);
}

static int backward_group(struct grad_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int64_t groups = ((const struct norm_attrs *)c->attrs)->num_groups, cells = shape_product(x, 2, x->rank);
    const int64_t per_group = x->dim[1] / groups;
    struct back b = {.rows = x->dim[0] * groups, .count = c->opset >= 21 ? x->dim[1] : groups,
                     .k = {.row = per_group * cells, .period = groups, .step = c->opset >= 21 ? per_group : 1,
                           .spread = c->opset >= 21 ? cells : per_group * cells}};
    return back(c, &b, NULL, err);
}

static int back_rows(struct grad_ctx *c, bool rms, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    const int axis = shape_axis(x, ((const struct norm_attrs *)c->attrs)->axis);
    struct run_ctx run = {.host = c->host};
    struct shape row = {.rank = x->rank - axis};
    const struct tensor *scale;
    struct tensor full;

    for (int i = axis; i < x->rank; i++)
        row.dim[i - axis] = x->dim[i];
    if (full_row(&run, c->in[1], &row, &full, &scale, err) < 0)
        return -1;
    struct back b = {.rows = shape_product(x, 0, axis), .count = shape_count(&row),
                     .k = {.row = shape_count(&row), .period = 1, .spread = 1, .rms = rms, .scale = scale->data}};
    return back(c, &b, &row, err);
}

static int backward_layer(struct grad_ctx *c, struct err *err)
{
    return back_rows(c, false, err);
}

static int backward_rms(struct grad_ctx *c, struct err *err)
{
    return back_rows(c, true, err);
}

#define FORWARD(name)                                                                                                \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                    \
    {                                                                                                                \
        return op_run_widened(c, infer_##name, compute_##name, err);                                                 \
    }
FORWARD(instance)
FORWARD(group)
FORWARD(layer)
FORWARD(rms)

static int infer_simplified(struct infer_ctx *c, struct err *err) { return infer_rows(c, 2, err); }

static int compute_simplified(struct run_ctx *c, struct err *err)
{
    struct norm k = {.rms = true, .inverse = run_out(c, 1)};
    return compute_rows(c, &k, err);
}
FORWARD(simplified)

static int backward_simplified(struct grad_ctx *c, struct err *err)
{
    return back_rows(c, true, err);
}

/* ---- coupling ---- */
/* Images of channels are normalized one by one: batch and channels stay independent. */
static int couple_instance(struct coupling *k, struct err *err)
{
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    couple_axes(k, IN(0), 1, OUT(0), 1);
    couple_axes(k, IN(1), 0, OUT(0), 1);
    couple_axes(k, IN(2), 0, OUT(0), 1);
    return 0;
}

static const char row_statistics[] = "it is normalized over this axis, whose statistics change";

/* Groups of one channel go one by one, with num_groups. Else the same place in every group goes, so that groups stay of
 * one size. */
static int couple_group(struct coupling *k, struct err *err)
{
    const int64_t groups = ((const struct norm_attrs *)couple_attrs(k))->num_groups;
    const int64_t channels = couple_size(k, IN(0), 1);
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    if (channels < 0 || groups < 1 || channels % groups)
        return 0;
    couple_axes(k, IN(0), 1, OUT(0), 1);
    for (int i = 1; i < 3; i++)
        if (couple_size(k, IN(i), 0) == channels) /* before opset 21 one value a group */
            couple_axes(k, IN(i), 0, OUT(0), 1);
    if (groups == channels)
        return 0;
    couple_approximate(k, IN(0), 1, row_statistics);
    couple_places(k, IN(0), 1, groups);
    return 0;
}

static int shrink_group(struct shrink *s, struct err *err)
{
    const int64_t groups = ((const struct norm_attrs *)s->infer->attrs)->num_groups;
    (void)err;
    if (shrink_touched(s, IN(0), 1) && infer_shape(s->infer, 0)->dim[1] == groups)
        node_set_int(s->model, s->node, "num_groups", shrink_size(s, IN(0), 1));
    return 0;
}

static int couple_layer(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    const int64_t axis = ((const struct norm_attrs *)couple_attrs(k))->axis;
    (void)err;
    couple_same(k, IN(0), OUT(0));
    couple_broadcast(k, IN(1), OUT(0));
    couple_broadcast(k, IN(2), OUT(0));
    for (int i = 0; i < rank; i++) {
        if (i >= (axis < 0 ? axis + rank : axis)) {
            couple_approximate(k, IN(0), i, row_statistics);
            continue;
        }
        couple_axes(k, IN(0), i, OUT(1), i);
        couple_axes(k, IN(0), i, OUT(2), i);
    }
    return 0;
}
#define couple_rms couple_layer
#define couple_simplified couple_layer

static const struct op_sample instance_samples[] = {
    {"f32[2,3,4,5] !f32[3] !f32[3]", NULL}, {"f32[2,3,7] !f32[3] !f32[3]", NULL}, {NULL}};
static const struct op_sample group_samples[] = {{"f32[2,6,4,5] !f32[6] !f32[6]", "num_groups=2"}, {NULL}};
static const struct op_sample group_18_samples[] = {{"f32[2,6,4,5] !f32[2] !f32[2]", "num_groups=2"}, {NULL}};
static const struct op_sample rms_samples[] = {
    {"f32[2,3,8] !f32[8]", NULL}, {"f32[2,3,8] !f32[3,8]", "axis=1 epsilon=0.01f"}, {NULL}};
static const struct op_sample layer_samples[] = {{"f32[2,3,8] !f32[8] !f32[8]", NULL},
                                                 {"f32[2,3,8] !f32[3,8]", "axis=1", 3},
                                                 {"f64[2,8] !f64[8] !f64[8]", NULL},
                                                 {NULL}};

#define ROW(type_, since_, until_, inputs_min, inputs_max, outputs, table, name, ...)                                \
    {.type = type_, .domain = "", .since = since_, .until = until_, .in_min = inputs_min, .in_max = inputs_max,      \
     .out_min = 1, .out_max = outputs, .attrs = table, .attrs_size = sizeof(struct norm_attrs), .infer = infer_##name, \
     .couple = couple_##name,                                                                                        \
     .forward = forward_##name, .backward = backward_##name, .grad_assigns = true, .grad_inputs = 7u,                \
     .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1), __VA_ARGS__}

OP_CLASS(instance_normalization) = ROW("InstanceNormalization", 1, 0, 3, 3, 1, instance_attrs, instance,
                                       .doc = "Normalizes each image of each channel.", .samples = instance_samples,
                                       .quant = {QUANT_OPTIONAL, .inputs = 1});
OP_CLASS(group_normalization_18) = ROW("GroupNormalization", 18, 20, 3, 3, 1, group_attrs_18, group,
                                       .doc = "Normalizes groups of channels; scale and bias a group.",
                                       .samples = group_18_samples, .shrink = shrink_group);
OP_CLASS(group_normalization_21) = ROW("GroupNormalization", 21, 0, 3, 3, 1, group_attrs_21, group,
                                       .doc = "Normalizes groups of channels; scale and bias a channel.",
                                       .samples = group_samples, .shrink = shrink_group);
OP_CLASS(layer_normalization) = ROW("LayerNormalization", 17, 0, 2, 3, 3, layer_attrs, layer,
                                    .doc = "Normalizes the axes from `axis` on.", .samples = layer_samples,
                                    .quant = {QUANT_OPTIONAL, .inputs = 1});
OP_CLASS(engine_layer_normalization) = {
    .type = "LayerNormalization", .domain = OP_DOMAIN_ENGINE, .since = 1, .in_min = 2, .in_max = 3, .out_min = 1,
    .out_max = 1, .attrs = layer_attrs, .attrs_size = sizeof(struct norm_attrs), .infer = infer_layer,
    .forward = forward_layer, .internal = true, .doc = "LayerNormalization that stood in several nodes."};
OP_CLASS(simplified_layer_normalization) =
    ROW("SimplifiedLayerNormalization", 1, 0, 2, 2, 2, layer_attrs, simplified,
        .doc = "RMSNormalization by the name it has in ONNX Runtime; the second output is 1 / root mean square.",
        .samples = (const struct op_sample[]){{"f32[2,3,8] !f32[8]", NULL, 2, 17},
                                              {"f32[2,3,8] !f32[3,8]", "axis=1 epsilon=0.01f", 1, 17},
                                              {NULL}});
OP_CLASS(rms_normalization) = ROW("RMSNormalization", 23, 0, 2, 2, 1, layer_attrs, rms,
                                  .doc = "Divides the axes from `axis` on by their root mean square.",
                                  .samples = rms_samples);
