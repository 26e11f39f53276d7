/* SPDX-License-Identifier: Apache-2.0
 * LpNormalization: each line along `axis` divided by its 1- or 2-norm; a line of zeros stays zero. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/couple.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

struct lp_attrs {
    int64_t axis, p;
};
static const struct op_attr lp_attrs[] = {{OP_ATTR(lp_attrs, axis), .kind = OP_INT, .def = -1},
                                          {OP_ATTR(lp_attrs, p), .kind = OP_INT, .def = 2},
                                          {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct lp_attrs *a = c->attrs;
    int axis;

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    if (a->p != 1 && a->p != 2)
        return err_set(err, ERR_MODEL, "attribute 'p' is %" PRId64 "; it must be 1 or 2", a->p);
    if (infer_shape(c, 0)->rank >= 0 && op_axis(infer_shape(c, 0), a->axis, &axis, err) < 0)
        return -1;
    return op_infer_same(c, err);
}

struct job {
    const struct tensor *x;
    struct tensor *y;
    int64_t n, inner, p;
};

static void lines(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    const enum dtype dtype = k->x->dtype;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i / k->inner * k->n * k->inner + i % k->inner;
        double sum = 0;
        for (int64_t j = 0; j < k->n; j++) {
            const double v = dtype_get(dtype, k->x->data, at + j * k->inner);
            sum += k->p == 1 ? fabs(v) : v * v;
        }
        const double norm = k->p == 1 ? sum : sqrt(sum);
        for (int64_t j = 0; j < k->n; j++) {
            const double v = dtype_get(dtype, k->x->data, at + j * k->inner);
            dtype_set(dtype, k->y->data, at + j * k->inner, norm == 0 ? 0 : v / norm);
        }
    }
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct lp_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    const int axis = shape_axis(&x->shape, a->axis);

    if (!run_out(c, 0) || tensor_count(x) == 0)
        return 0;
    struct job k = {x, c->out[0], x->shape.dim[axis], shape_product(&x->shape, axis + 1, x->shape.rank), a->p};
    op_parallel(c->pool, tensor_count(x) / k.n, i64_max(1, 2048 / k.n), lines, &k);
    return 0;
}

/* dL/dx = (g - n' sum(g y)) / n with n' = y for the 2-norm, sign x for the 1-norm; lines of zeros pass nothing. */
struct back {
    const struct tensor *x, *g;
    struct tensor *dx;
    int64_t n, inner, p;
};

static void back_lines(void *arg, int64_t begin, int64_t end)
{
    const struct back *k = arg;
    const enum dtype dtype = k->x->dtype;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i / k->inner * k->n * k->inner + i % k->inner;
        double sum = 0, dot = 0;
        for (int64_t j = 0; j < k->n; j++) {
            const double v = dtype_get(dtype, k->x->data, at + j * k->inner);
            sum += k->p == 1 ? fabs(v) : v * v;
            dot += v * dtype_get(dtype, k->g->data, at + j * k->inner);
        }
        const double norm = k->p == 1 ? sum : sqrt(sum);
        for (int64_t j = 0; j < k->n && norm > 0; j++) {
            const int64_t e = at + j * k->inner;
            const double v = dtype_get(dtype, k->x->data, e), slope = k->p == 2 ? v / norm : (v > 0) - (v < 0);
            const double d = (dtype_get(dtype, k->g->data, e) - slope * dot / norm) / norm;
            dtype_set(dtype, k->dx->data, e, dtype_get(dtype, k->dx->data, e) + d);
        }
    }
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct lp_attrs *a = c->attrs;
    struct back k = {.x = c->in[0], .g = grad_of(c, 0), .dx = grad_wanted(c, 0), .p = a->p};

    if (!k.g || !k.dx || tensor_count(k.dx) == 0)
        return 0;
    if (grad_type(k.dx, err) < 0)
        return -1;
    const int axis = shape_axis(&k.x->shape, a->axis);
    k.n = k.x->shape.dim[axis];
    k.inner = shape_product(&k.x->shape, axis + 1, k.x->shape.rank);
    op_parallel(c->pool, tensor_count(k.x) / k.n, i64_max(1, 2048 / k.n), back_lines, &k);
    return 0;
}

static const struct op_sample samples[] = {{"f32[2,3,4]", NULL}, {"f32[2,3,4]", "axis=1 p=1"}, {NULL}};

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    couple_same(k, IN(0), OUT(0));
    couple_approximate(k, IN(0), (int)((const struct lp_attrs *)couple_attrs(k))->axis,
                       "it is divided by the norm along this axis, which changes");
    return 0;
}

OP_CLASS(lp_normalization) = {.type = "LpNormalization",
                              .domain = "",
                              .since = 1,
                              .doc = "Lines divided by their norm.",
                              .in_min = 1,
                              .in_max = 1,
                              .out_min = 1,
                              .out_max = 1,
                              .couple = couple,
                              .attrs = lp_attrs,
                              .attrs_size = sizeof(struct lp_attrs),
                              .infer = infer,
                              .forward = forward,
                              .backward = backward,
                              .grad_reads = GRAD_READS_IN(0),
                              .grad_inputs = 1,
                              .samples = samples};
