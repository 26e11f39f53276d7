/* SPDX-License-Identifier: Apache-2.0
 * SkipLayerNormalization and SkipSimplifiedLayerNormalization of com.microsoft: with s = input + skip + bias, along the last
 * axis of [.., H],
 *     (s - mean) / sqrt(variance + epsilon) * gamma + beta      or      s / sqrt(mean of squares + epsilon) * gamma.
 * Outputs    the result, mean, 1 / deviation (both [.., 1], float32), and s.
 * skip       may be [S, H] or [1, S, H]: repeated over the batch. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/norm.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

struct skip_attrs {
    float epsilon;
};
static const struct op_attr skip_attrs[] = {{OP_ATTR(skip_attrs, epsilon), .kind = OP_FLOAT, .def_f = 1e-12f}, {NULL}};
enum { INPUT, SKIP, GAMMA };

static int check_vector(const struct infer_ctx *c, int i, const char *name, int64_t want, struct err *err)
{
    char text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, i);
    if (s->rank == 1 && (s->dim[0] < 0 || want < 0 || s->dim[0] == want))
        return 0;
    return err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must be [%" PRId64 "], the input's last axis", name,
                   shape_text(s, text), want);
}

/* skip is the input's shape, with the first axis left out or 1. */
static int check_skip(const struct infer_ctx *c, const struct shape *x, struct err *err)
{
    const struct shape *s = infer_shape(c, SKIP);
    char text[SHAPE_TEXT], want[SHAPE_TEXT];

    if (s->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    bool fits = s->rank == x->rank || (x->rank == 3 && s->rank == 2);
    for (int i = 1; fits && i <= s->rank; i++) {
        const int64_t a = s->dim[s->rank - i], b = x->dim[x->rank - i];
        fits = a < 0 || b < 0 || a == b || (i == 3 && a == 1);
    }
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input 'skip' has shape %s; it must be the input's %s, or that of one batch",
                          shape_text(s, text), shape_text(x, want));
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;

    if (op_need(c, 3, err) < 0 || op_same_dtype(c, 0, 5, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, INPUT);
    struct shape moments = *x;
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (x->rank != 2 && x->rank != 3)
            return err_set(err, ERR_SHAPE, "the input has %d axes; it must have 2 or 3", x->rank);
        static const char *const names[] = {"gamma", "beta or bias", "bias"};
        /* inputs left out at the end may be more than the row has */
        for (int i = GAMMA; i < c->n_in && i < GAMMA + 3; i++)
            if (check_vector(c, i, names[i - GAMMA], x->dim[x->rank - 1], err) < 0)
                return -1;
        if (check_skip(c, x, err) < 0)
            return -1;
        moments.dim[x->rank - 1] = 1;
    }
    infer_out(c, 0, dtype, x);
    infer_out(c, 1, DTYPE_FLOAT, &moments);
    infer_out(c, 2, DTYPE_FLOAT, &moments);
    infer_out(c, 3, dtype, x);
    return 0;
}

struct skip {
    int64_t row, skip_rows; /* elements of a row; rows after which skip repeats */
    double epsilon;
    bool rms;
    const struct tensor *x, *skip, *gamma, *beta, *bias;
    struct tensor *y, *mean, *inverse, *sum;
    struct tensor own; /* the sum, where nobody wants it */
};

/* The sum goes where it is wanted; else into y, where it becomes the result. */
#define DEFINE_ROW(suffix, T)                                                                                          \
    static void row_##suffix(const struct skip *k, int64_t i)                                                          \
    {                                                                                                                  \
        const T *x = (const T *)k->x->data + i * k->row;                                                               \
        const T *add = (const T *)k->skip->data + i % k->skip_rows * k->row;                                           \
        const T *gamma = k->gamma->data, *beta = k->beta ? k->beta->data : NULL,                                       \
                *bias = k->bias ? k->bias->data : NULL;                                                                \
        T *y = k->y ? (T *)k->y->data + i * k->row : NULL, *s = k->sum ? (T *)k->sum->data + i * k->row : y;           \
        double mean = 0, variance;                                                                                     \
        for (int64_t j = 0; j < k->row; j++)                                                                           \
            s[j] = bias ? x[j] + add[j] + bias[j] : x[j] + add[j];                                                     \
        if (k->rms)                                                                                                    \
            variance = norm_mean_square_##suffix(s, k->row);                                                           \
        else                                                                                                           \
            norm_moments_##suffix(s, k->row, &mean, &variance);                                                        \
        const double inverse = 1 / sqrt(variance + k->epsilon);                                                        \
        if (k->mean)                                                                                                   \
            ((float *)k->mean->data)[i] = (float)mean;                                                                 \
        if (k->inverse)                                                                                                \
            ((float *)k->inverse->data)[i] = (float)inverse;                                                           \
        for (int64_t j = 0; y && j < k->row; j++)                                                                      \
            y[j] = (T)(((double)s[j] - mean) * inverse * (double)gamma[j] + (beta ? (double)beta[j] : 0));             \
    }
DEFINE_ROW(f32, float)
DEFINE_ROW(f64, double)

static void rows(void *arg, int64_t begin, int64_t end)
{
    const struct skip *k = arg;
    for (int64_t i = begin; i < end; i++) {
        if (k->x->dtype == DTYPE_FLOAT)
            row_f32(k, i);
        else
            row_f64(k, i);
    }
}

static int run(struct run_ctx *c, struct skip *k, struct err *err)
{
    k->x = c->in[INPUT];
    k->skip = c->in[SKIP];
    k->gamma = c->in[GAMMA];
    k->y = run_out(c, 0);
    k->mean = run_out(c, 1);
    k->inverse = run_out(c, 2);
    k->sum = run_out(c, 3);
    k->epsilon = (double)((const struct skip_attrs *)c->attrs)->epsilon;
    k->row = k->x->shape.dim[k->x->shape.rank - 1];
    if (k->x->dtype != DTYPE_FLOAT && k->x->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "normalization of %s is not supported", dtype_name(k->x->dtype));
    if (tensor_count(k->x) == 0)
        return 0;
    k->skip_rows = tensor_count(k->skip) / k->row;
    const int64_t count = tensor_count(k->x);
    if (!k->y && !k->sum) { /* only the moments are wanted */
        void *data = run_scratch(c, k->x->bytes, err);
        if (!data)
            return -1;
        tensor_view(&k->own, k->x->dtype, &k->x->shape, data, NULL);
        k->sum = &k->own;
    }
    op_parallel(c->pool, count / k->row, i64_max(1, 16384 / k->row), rows, k);
    return 0;
}

static int compute_layer(struct run_ctx *c, struct err *err)
{
    struct skip k = {.beta = run_in(c, 3), .bias = run_in(c, 4)};
    return run(c, &k, err);
}

static int compute_simplified(struct run_ctx *c, struct err *err)
{
    struct skip k = {.bias = run_in(c, 3), .rms = true};
    return run(c, &k, err);
}

static int forward_layer(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute_layer, err);
}

static int forward_simplified(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute_simplified, err);
}

static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(INPUT));
    (void)err;
    couple_same(k, IN(INPUT), OUT(0));
    couple_same(k, IN(INPUT), OUT(3));
    couple_broadcast(k, IN(SKIP), OUT(0));
    for (int i = GAMMA; i < GAMMA + 3; i++)
        couple_axes(k, IN(i), 0, OUT(0), -1);
    for (int i = 0; i + 1 < rank; i++) {
        couple_axes(k, IN(INPUT), i, OUT(1), i);
        couple_axes(k, IN(INPUT), i, OUT(2), i);
    }
    couple_approximate(k, IN(INPUT), -1, "it is normalized over this axis, whose statistics change");
    return 0;
}

#define ROW                                                                                                            \
    .domain = "com.microsoft", .since = 1, .in_min = 3, .out_min = 1, .out_max = 4, .attrs = skip_attrs,               \
    .attrs_size = sizeof(struct skip_attrs), .infer = infer, .couple = couple

OP_CLASS(skip_layer_normalization) = {
    ROW,
    .type = "SkipLayerNormalization",
    .in_max = 5,
    .forward = forward_layer,
    .doc = "LayerNormalization of input + skip + bias.",
    .samples = (const struct op_sample[]){{"f32[2,3,8] f32[2,3,8] !f32[8] !f32[8] !f32[8]", "epsilon=0.00001f"},
                                          {"f32[2,3,8] f32[1,3,8] !f32[8]", "epsilon=0.00001f"},
                                          {"f32[2,3,8] f32[3,8] !f32[8] none !f32[8]", ""},
                                          {NULL}}};
OP_CLASS(skip_simplified_layer_normalization) = {
    ROW,
    .type = "SkipSimplifiedLayerNormalization",
    .in_max = 4,
    .forward = forward_simplified,
    .doc = "RMSNormalization of input + skip + bias.",
    .samples = (const struct op_sample[]){{"f32[2,3,8] f32[2,3,8] !f32[8] !f32[8]", "epsilon=0.00001f"},
                                          {"f32[5,8] f32[5,8] !f32[8]", "epsilon=0.00001f"},
                                          {NULL}}};
