/* SPDX-License-Identifier: Apache-2.0
 * LRN, local response normalization across channels: y[c] = x[c] / (bias + alpha / size * sum of x[i]^2)^beta over
 * the channels i in [c - floor((size - 1) / 2), c + ceil((size - 1) / 2)]. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/couple.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

struct lrn_attrs {
    float alpha, beta, bias;
    int64_t size;
};
static const struct op_attr lrn_attrs[] = {{OP_ATTR(lrn_attrs, alpha), .kind = OP_FLOAT, .def_f = 1e-4f},
                                           {OP_ATTR(lrn_attrs, beta), .kind = OP_FLOAT, .def_f = 0.75f},
                                           {OP_ATTR(lrn_attrs, bias), .kind = OP_FLOAT, .def_f = 1},
                                           {OP_ATTR(lrn_attrs, size), .kind = OP_INT, .required = true},
                                           {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct lrn_attrs *a = c->attrs;

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    if (a->size < 1)
        return err_set(err, ERR_MODEL, "attribute 'size' is %" PRId64 "; it must be at least 1", a->size);
    if (infer_shape(c, 0)->rank >= 0 && infer_shape(c, 0)->rank < 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, channels, ...]",
                       infer_shape(c, 0)->rank);
    return op_infer_same(c, err);
}

struct job {
    const struct lrn_attrs *attrs;
    const struct tensor *x;
    struct tensor *y;
    int64_t channels, cells;
};

/* One image of one channel: squares of the neighbours are summed into y, then y is finished. */
#define DEFINE_PLANE(suffix, T, power, root)                                                                         \
    static void plane_##suffix(const struct job *k, int64_t plane)                                                   \
    {                                                                                                                \
        const int64_t c = plane % k->channels, n = k->cells, size = k->attrs->size;                                  \
        const int64_t first = i64_max(0, c - (size - 1) / 2), last = i64_min(k->channels - 1, c + size / 2);         \
        const T *image = (const T *)k->x->data + (plane - c) * n, *x = image + c * n;                                \
        const T alpha = (T)k->attrs->alpha / (T)size, bias = (T)k->attrs->bias, beta = (T)k->attrs->beta;            \
        T *restrict y = (T *)k->y->data + plane * n;                                                                 \
                                                                                                                     \
        for (int64_t i = 0; i < n; i++)                                                                              \
            y[i] = 0;                                                                                                \
        for (int64_t j = first; j <= last; j++) {                                                                    \
            const T *restrict v = image + j * n;                                                                     \
            for (int64_t i = 0; i < n; i++)                                                                          \
                y[i] += v[i] * v[i];                                                                                 \
        }                                                                                                            \
        if (beta == (T)0.75) {                                                                                       \
            for (int64_t i = 0; i < n; i++) {                                                                        \
                const T r = root(bias + alpha * y[i]);                                                               \
                y[i] = x[i] / (r * root(r));                                                                         \
            }                                                                                                        \
        } else {                                                                                                     \
            for (int64_t i = 0; i < n; i++)                                                                          \
                y[i] = x[i] * power(bias + alpha * y[i], -beta);                                                     \
        }                                                                                                            \
    }
DEFINE_PLANE(f32, float, powf, sqrtf)
DEFINE_PLANE(f64, double, pow, sqrt)

static void planes(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    for (int64_t i = begin; i < end; i++) {
        if (k->x->dtype == DTYPE_FLOAT)
            plane_f32(k, i);
        else
            plane_f64(k, i);
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;

    if (!run_out(c, 0) || tensor_count(c->in[0]) == 0)
        return 0;
    if (c->in[0]->dtype != DTYPE_FLOAT && c->in[0]->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s are not supported", dtype_name(c->in[0]->dtype));
    struct job k = {c->attrs, c->in[0], c->out[0], x->dim[1], shape_product(x, 2, x->rank)};
    op_parallel(c->pool, x->dim[0] * x->dim[1], i64_max(1, 8192 / k.cells), planes, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- gradient ----
 * With s[c] = bias + alpha / size * sum of the squares: dL/dx[i] = g[i] s[i]^-beta - 2 alpha beta / size x[i] * sum of
 * g[c] x[c] s[c]^(-beta - 1) over the channels c whose window holds i. */
struct back {
    const struct lrn_attrs *attrs;
    const struct tensor *x, *g;
    struct tensor *dx;
    double *room; /* two images' worth for each of the batch */
    int64_t channels, cells;
};

static void back_image(const struct back *k, int64_t image)
{
    const int64_t n = k->cells, all = k->channels * n, size = k->attrs->size, base = image * all;
    const double alpha = (double)k->attrs->alpha / (double)size, bias = (double)k->attrs->bias;
    const double beta = (double)k->attrs->beta;
    double *s = k->room + 2 * base, *t = s + all;

    for (int64_t c = 0; c < k->channels; c++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t j = i64_max(0, c - (size - 1) / 2); j <= i64_min(k->channels - 1, c + size / 2); j++) {
                const double v = dtype_get(k->x->dtype, k->x->data, base + j * n + i);
                sum += v * v;
            }
            const double g = dtype_get(k->g->dtype, k->g->data, base + c * n + i);
            s[c * n + i] = g * pow(bias + alpha * sum, -beta);
            t[c * n + i] = s[c * n + i] * dtype_get(k->x->dtype, k->x->data, base + c * n + i) / (bias + alpha * sum);
        }
    for (int64_t c = 0; c < k->channels; c++)
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = base + c * n + i;
            double sum = 0; /* the windows that hold c begin size / 2 before it */
            for (int64_t j = i64_max(0, c - size / 2); j <= i64_min(k->channels - 1, c + (size - 1) / 2); j++)
                sum += t[j * n + i];
            const double d = s[c * n + i] - 2 * alpha * beta * dtype_get(k->x->dtype, k->x->data, at) * sum;
            dtype_set(k->dx->dtype, k->dx->data, at, dtype_get(k->dx->dtype, k->dx->data, at) + d);
        }
}

static void back_images(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        back_image(arg, i);
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct shape *x = &c->in[0]->shape;
    struct back k = {.attrs = c->attrs, .x = c->in[0], .g = grad_of(c, 0), .dx = grad_wanted(c, 0)};
    size_t bytes;

    if (!k.g || !k.dx || tensor_count(k.dx) == 0)
        return 0;
    if (grad_type(k.dx, err) < 0)
        return -1;
    if (!size_mul((size_t)tensor_count(k.dx), 2 * sizeof *k.room, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    k.room = grad_scratch(c, bytes, err);
    if (!k.room)
        return -1;
    k.channels = x->dim[1];
    k.cells = shape_product(x, 2, x->rank);
    op_parallel(c->pool, x->dim[0], 1, back_images, &k);
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    couple_same(k, IN(0), OUT(0));
    couple_approximate(k, IN(0), 1, "channels are normalized by their neighbours, which change");
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,7,4,5]", "size=3"}, {"f32[1,6,3,3]", "size=4 alpha=0.2f beta=0.5f bias=2f"}, {NULL}};

OP_CLASS(lrn) = {.type = "LRN", .domain = "", .since = 1, .doc = "Local response normalization across channels.",
                 .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1, .attrs = lrn_attrs,
                 .attrs_size = sizeof(struct lrn_attrs), .infer = infer, .forward = forward, .couple = couple,
                 .backward = backward, .grad_reads = GRAD_READS_IN(0), .grad_inputs = 1, .samples = samples};
