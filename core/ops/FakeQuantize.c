/* SPDX-License-Identifier: Apache-2.0
 * FakeQuantize, put into a model while it is trained with simulated quantization, never into a file:
 *   y = DequantizeLinear(QuantizeLinear(x, s, zero), s, zero) with s = scale * ratio, codes within [low, high]
 * x, y      float32 or float64
 * scale     as QuantizeLinear's: one, one for each index of `axis`, or one for each block; zero integers of its
 *           count, or absent (0)
 * ratio     of scale's shape, or absent (1): what learning moves. It starts at 1 whatever the scale is, so that
 *           optimizers which move every number by steps of one size (Adam) suit scales of any size
 * Gradient  fake_quant.h: straight through to x, LSQ's to s. To ratio goes LSQ's in the form
 *           dL/d(ratio) = g / scale sum dy ds,   g = 1 / sqrt(n max|code|)
 *           so that a step of SGD on ratio is, times scale, the step the paper takes on s. n: numbers that share the
 *           scale; of one sample when `samples` says that axis 0 is the batch. With lsq=0 it is the plain derivative,
 *           scale sum dy ds.
 * Refused   in a file, as all internal rows: only a node whose output has the note "training" runs
 *           (engine_missing_ops). */
#include <math.h>

#include "core/kernels/fake_quant.h"
#include "core/ops/grad_util.h"
#include "core/ops/quantize.h"

enum { GRAIN = 1 << 14, COLUMNS = 64, CODE_MAX = 1 << 20 };

struct fake_attrs {
    int64_t low, high, axis, block_size;
    bool lsq, samples;
};
static const struct op_attr fake_attrs[] = {
    {OP_ATTR(fake_attrs, low), .kind = OP_INT, .def = -128},
    {OP_ATTR(fake_attrs, high), .kind = OP_INT, .def = 127},
    {OP_ATTR(fake_attrs, axis), .kind = OP_INT, .def = 1},
    {OP_ATTR(fake_attrs, block_size), .kind = OP_INT},
    {OP_ATTR(fake_attrs, lsq), .kind = OP_BOOL, .def = 1},
    {OP_ATTR(fake_attrs, samples), .kind = OP_BOOL},
    {0},
};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct fake_attrs *a = c->attrs;
    struct quantize_layout l;
    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || op_dtype_kinds(c, 2, "iu", err) < 0)
        return -1;
    const enum dtype dtype = op_dtype(c, 0);
    if (dtype != DTYPE_NONE && dtype != DTYPE_FLOAT && dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "input #0 is %s; float32 and float64 can be trained", dtype_name(dtype));
    if (a->low >= a->high || a->low < -CODE_MAX || a->high > CODE_MAX)
        return err_set(err, ERR_MODEL, "codes from %lld to %lld are not supported", (long long)a->low,
                       (long long)a->high);
    for (int i = 1; i < 4; i++) {
        if (!infer_has(c, i))
            continue;
        if (i != 2 && op_dtype(c, i) != DTYPE_NONE && dtype != DTYPE_NONE && op_dtype(c, i) != dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s and x is %s; they must be of one type", i,
                           dtype_name(op_dtype(c, i)), dtype_name(dtype));
        if (i > 1 && shape_known(infer_shape(c, i)) && shape_known(infer_shape(c, 1)) &&
            shape_count(infer_shape(c, i)) != shape_count(infer_shape(c, 1)))
            return err_set(err, ERR_SHAPE, "input #%d must have as many values as the scale", i);
    }
    if (quantize_layout_make(a->axis, a->block_size, infer_shape(c, 0), infer_shape(c, 1), &l, err) < 0)
        return -1;
    infer_out(c, 0, dtype, infer_shape(c, 0));
    return 0;
}

/* ---- pieces: runs of numbers that one task does ---- */
struct piece {
    int64_t start, rows, stride, n; /* of x */
    int64_t scale;                  /* first */
    bool each;                      /* element i of a row has scale + i */
};
struct work {
    struct quantize_layout l;
    int64_t count, scales, pieces;
    enum dtype dtype;
    void *s, *low, *high; /* [scales] of dtype: scale, bounds of the code less its zero point */
    const void *x, *dy;
    void *y; /* dx in backward; may be NULL there */
    bool add;
    double *sum; /* [pieces] with one scale, else [scales] */
};

static int64_t count_pieces(const struct work *w)
{
    const struct quantize_layout *l = &w->l;
    if (l->kind == QUANTIZE_PER_TENSOR)
        return i64_ceil_div(w->count, GRAIN);
    if (l->kind == QUANTIZE_PER_AXIS)
        return l->inner > 1 ? l->length : i64_ceil_div(l->length, COLUMNS);
    return l->outer * l->scales;
}

static struct piece piece_at(const struct work *w, int64_t p)
{
    const struct quantize_layout *l = &w->l;
    if (l->kind == QUANTIZE_PER_TENSOR)
        return (struct piece){.start = p * GRAIN, .rows = 1, .n = i64_min(GRAIN, w->count - p * GRAIN)};
    if (l->kind == QUANTIZE_PER_AXIS && l->inner > 1)
        return (struct piece){p * l->inner, l->outer, l->length * l->inner, l->inner, p, false};
    if (l->kind == QUANTIZE_PER_AXIS)
        return (struct piece){p * COLUMNS, l->outer, l->length, i64_min(COLUMNS, l->length - p * COLUMNS),
                              p * COLUMNS, true};
    const int64_t o = p / l->scales, b = p % l->scales, rows = i64_min(l->block, l->length - b * l->block);
    const int64_t start = (o * l->length + b * l->block) * l->inner;
    if (l->inner == 1)
        return (struct piece){start, 1, 0, rows, p, false};
    return (struct piece){start, rows, l->inner, l->inner, p * l->inner, true};
}

#define AT(T, p, i) ((T *)(p) + (i))
#define DEFINE(T, bits)                                                                                                \
    static void forward_f##bits(const struct work *w, const struct piece *p)                                           \
    {                                                                                                                  \
        const T *s = AT(const T, w->s, p->scale), *low = AT(const T, w->low, p->scale);                                \
        const T *high = AT(const T, w->high, p->scale);                                                                \
        for (int64_t r = 0; r < p->rows; r++) {                                                                        \
            const int64_t at = p->start + r * p->stride;                                                               \
            if (p->each)                                                                                               \
                fake_quant_each_f##bits(AT(const T, w->x, at), AT(T, w->y, at), p->n, s, low, high);                   \
            else                                                                                                       \
                fake_quant_f##bits(AT(const T, w->x, at), AT(T, w->y, at), p->n, *s, *low, *high);                     \
        }                                                                                                              \
    }                                                                                                                  \
    static void backward_f##bits(const struct work *w, const struct piece *p, double *sum)                             \
    {                                                                                                                  \
        const T *s = AT(const T, w->s, p->scale), *low = AT(const T, w->low, p->scale);                                \
        const T *high = AT(const T, w->high, p->scale);                                                                \
        for (int64_t r = 0; r < p->rows; r++) {                                                                        \
            const int64_t at = p->start + r * p->stride;                                                               \
            const T *x = AT(const T, w->x, at), *dy = AT(const T, w->dy, at);                                          \
            T *dx = w->y ? AT(T, w->y, at) : NULL;                                                                     \
            if (p->each)                                                                                               \
                fake_quant_grad_each_f##bits(x, dy, dx, w->add, p->n, s, low, high, sum);                              \
            else                                                                                                       \
                *sum += fake_quant_grad_f##bits(x, dy, dx, w->add, p->n, *s, *low, *high);                             \
        }                                                                                                              \
    }                                                                                                                  \
    static void scales_f##bits(const struct work *w, const struct fake_attrs *a, const struct tensor *scale,           \
                               const struct tensor *zero, const struct tensor *ratio)                                  \
    {                                                                                                                  \
        for (int64_t i = 0; i < w->scales; i++) {                                                                      \
            const T z = zero ? (T)dtype_get(zero->dtype, zero->data, i) : 0;                                           \
            *AT(T, w->s, i) = *AT(const T, scale->data, i) * (ratio ? *AT(const T, ratio->data, i) : 1);               \
            *AT(T, w->low, i) = (T)a->low - z;                                                                         \
            *AT(T, w->high, i) = (T)a->high - z;                                                                       \
        }                                                                                                              \
    }
DEFINE(float, 32)
DEFINE(double, 64)

static void forward_pieces(void *arg, int64_t begin, int64_t end)
{
    const struct work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        const struct piece p = piece_at(w, i);
        (w->dtype == DTYPE_FLOAT ? forward_f32 : forward_f64)(w, &p);
    }
}

static void backward_pieces(void *arg, int64_t begin, int64_t end)
{
    const struct work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        const struct piece p = piece_at(w, i);
        double *sum = w->sum + (w->l.kind == QUANTIZE_PER_TENSOR ? i : p.scale);
        (w->dtype == DTYPE_FLOAT ? backward_f32 : backward_f64)(w, &p, sum);
    }
}

static int64_t grain(const struct work *w)
{
    return i64_max(1, GRAIN / i64_max(1, w->count / i64_max(w->pieces, 1)));
}

/* Everything but scratch; false: nothing to do. */
static bool work_begin(struct work *w, const struct fake_attrs *a, const struct tensor *const *in, int n_in,
                       size_t *bytes, struct err *err)
{
    w->count = tensor_count(in[0]);
    w->scales = tensor_count(in[1]);
    w->dtype = in[0]->dtype;
    *bytes = 0;
    if (w->count == 0 || quantize_layout_make(a->axis, a->block_size, &in[0]->shape, &in[1]->shape, &w->l, err) < 0)
        return false;
    w->pieces = count_pieces(w);
    for (int i = 1; i < 4 && i < n_in; i++)
        if (in[i] && (tensor_count(in[i]) != w->scales || w->scales < 1)) {
            err_set(err, ERR_SHAPE, "scale, zero point and ratio must hold the same number of values, at least one");
            return false;
        }
    const size_t sums = (size_t)(w->l.kind == QUANTIZE_PER_TENSOR ? w->pieces : w->scales);
    size_t scales;
    if (!size_mul((size_t)w->scales, 3 * sizeof(double), &scales) || !size_mul(sums, sizeof(double), bytes) ||
        !size_add(*bytes, scales, bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "%lld scales are too many", (long long)w->scales);
        return false;
    }
    return true;
}

static void work_scales(struct work *w, double *scratch, const struct fake_attrs *a, const struct tensor *const *in,
                        int n_in)
{
    w->s = scratch;
    w->low = scratch + w->scales;
    w->high = scratch + 2 * w->scales;
    w->sum = scratch + 3 * w->scales;
    (w->dtype == DTYPE_FLOAT ? scales_f32 : scales_f64)(w, a, in[1], n_in > 2 ? in[2] : NULL, n_in > 3 ? in[3] : NULL);
}

static int forward(struct run_ctx *c, struct err *err)
{
    struct work w = {0};
    size_t bytes;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    if (!run_out(c, 0))
        return 0;
    if (!work_begin(&w, c->attrs, c->in, c->n_in, &bytes, err))
        return w.count == 0 ? 0 : -1;
    double *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    work_scales(&w, scratch, c->attrs, c->in, c->n_in);
    w.x = c->in[0]->data;
    w.y = run_out(c, 0)->data;
    op_parallel(c->pool, w.pieces, grain(&w), forward_pieces, &w);
    return 0;
}

/* ---- backward ---- */
static void add_ratio(const struct work *w, const struct fake_attrs *a, const struct grad_ctx *c)
{
    struct tensor *t = grad_wanted(c, 3);
    const bool assign = grad_assign(c, 3);
    const int64_t batch = a->samples && c->in[0]->shape.rank > 0 ? i64_max(1, c->in[0]->shape.dim[0]) : 1;
    const double n = (double)i64_max(1, w->count / w->scales / batch);
    if (w->l.kind == QUANTIZE_PER_TENSOR)
        for (int64_t i = 1; i < w->pieces; i++)
            w->sum[0] += w->sum[i];
    for (int64_t i = 0; i < w->scales; i++) {
        const double scale = dtype_get(c->in[1]->dtype, c->in[1]->data, i);
        const double most = fmax(fabs(dtype_get(w->dtype, w->low, i)), fabs(dtype_get(w->dtype, w->high, i)));
        const double d = w->sum[i] * (a->lsq ? 1 / (scale * sqrt(n * fmax(most, 1))) : scale);
        dtype_set(t->dtype, t->data, i, assign ? d : dtype_get(t->dtype, t->data, i) + d);
    }
}

static int backward(struct grad_ctx *c, struct err *err)
{
    struct work w = {0};
    size_t bytes;
    if (!grad_of(c, 0) || !work_begin(&w, c->attrs, c->in, c->n_in, &bytes, err)) {
        grad_zero(c, 0);
        if (c->n_in > 3)
            grad_zero(c, 3);
        return !grad_of(c, 0) || w.count == 0 ? 0 : -1;
    }
    double *scratch = grad_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    work_scales(&w, scratch, c->attrs, c->in, c->n_in);
    for (int64_t i = 0; i < (w.l.kind == QUANTIZE_PER_TENSOR ? w.pieces : w.scales); i++)
        w.sum[i] = 0;
    w.x = c->in[0]->data;
    w.dy = grad_of(c, 0)->data;
    w.y = grad_wanted(c, 0) ? grad_wanted(c, 0)->data : NULL;
    w.add = !grad_assign(c, 0);
    op_parallel(c->pool, w.pieces, grain(&w), backward_pieces, &w);
    if (grad_wanted(c, 3))
        add_ratio(&w, c->attrs, c);
    return 0;
}

OP_CLASS(fake_quantize) = {.type = "FakeQuantize",
                           .domain = OP_DOMAIN_ENGINE,
                           .since = 1,
                           .doc = "QuantizeLinear and DequantizeLinear in one, with a straight-through gradient.",
                           .in_min = 2,
                           .in_max = 4,
                           .out_min = 1,
                           .out_max = 1,
                           .attrs = fake_attrs,
                           .attrs_size = sizeof(struct fake_attrs),
                           .infer = infer,
                           .forward = forward,
                           .backward = backward,
                           .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(2) | GRAD_READS_IN(3),
                           .grad_inputs = 1u << 0 | 1u << 3,
                           .grad_assigns = true,
                           .in_place = 1u << 0,
                           .internal = true};
