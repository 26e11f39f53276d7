/* SPDX-License-Identifier: Apache-2.0
 * AffineGrid: theta [N, r, r + 1], size [N, C, spatial...] -> grid [N, spatial..., r]: theta times (x, y(, z), 1)
 * for every pixel, whose coordinates run over [-1, 1], x last axis first. align_corners: -1 and 1 are centers of the
 * corner pixels, else their outer edges. r = 2 or 3. */
#include <inttypes.h>

#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

struct affine_attrs {
    bool align_corners;
};
static const struct op_attr affine_attrs[] = {{OP_ATTR(affine_attrs, align_corners), .kind = OP_BOOL}, {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    char text[SHAPE_TEXT];
    struct shape out = SHAPE_UNKNOWN;
    int64_t size[5];
    int count;
    if (op_need(c, 2, err) < 0 || op_dtype_real(c, 0, err) < 0)
        return -1;
    const struct shape *t = infer_shape(c, 0);
    if (t->rank >= 0 && (t->rank != 3 || (t->dim[1] >= 0 && t->dim[1] != 2 && t->dim[1] != 3) ||
                         (t->dim[1] >= 0 && t->dim[2] >= 0 && t->dim[2] != t->dim[1] + 1)))
        return err_set(err, ERR_SHAPE, "theta has shape %s; it must be [batch,2,3] or [batch,3,4]",
                       shape_text(t, text));
    if (op_value(c, 1)) {
        if (op_read_ints(op_value(c, 1), "size", size, 5, &count, err) < 0)
            return -1;
        if (count < 4 || (t->rank == 3 && t->dim[1] >= 0 && t->dim[1] != count - 2))
            return err_set(err, ERR_SHAPE, "size has %d values; it must be [batch, channels, spatial axes], of which "
                                           "theta has as many as rows", count);
        if (t->rank == 3 && t->dim[0] >= 0 && t->dim[0] != size[0])
            return err_set(err, ERR_SHAPE, "theta has a batch of %" PRId64 " and size of %" PRId64, t->dim[0], size[0]);
        out = (struct shape){.rank = count};
        out.dim[0] = size[0];
        out.dim[count - 1] = count - 2;
        for (int i = 2; i < count; i++)
            out.dim[i - 1] = size[i];
        for (int i = 0; i < count; i++)
            if (size[i] < 0)
                return err_set(err, ERR_MODEL, "size %d is %" PRId64 "; it must not be negative", i, size[i]);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

struct affine {
    const struct shape *out;
    bool corners, wide;
    const void *theta;
    void *grid;
};

/* Coordinate of pixel i of n. */
static double place(const struct affine *a, int64_t i, int64_t n)
{
    if (a->corners)
        return n > 1 ? -1 + 2 * (double)i / (double)(n - 1) : 0;
    return -1 + (2 * (double)i + 1) / (double)n;
}

static double number(const struct affine *a, int64_t i)
{
    return a->wide ? ((const double *)a->theta)[i] : (double)((const float *)a->theta)[i];
}

/* (x, y(, z), 1) of pixel p, counted over all images; returns its image. */
static int64_t coordinates(const struct affine *a, int64_t p, double x[4])
{
    const int axes = a->out->rank - 2;
    for (int i = 0; i < axes; i++) {
        const int64_t n = a->out->dim[axes - i];
        x[i] = place(a, p % n, n);
        p /= n;
    }
    x[axes] = 1;
    return p;
}

static void fill(void *arg, int64_t begin, int64_t end)
{
    const struct affine *a = arg;
    const int axes = a->out->rank - 2;
    for (int64_t p = begin; p < end; p++) {
        double x[4];
        const int64_t rest = coordinates(a, p, x);
        for (int r = 0; r < axes; r++) {
            double sum = 0;
            for (int k = 0; k <= axes; k++)
                sum += number(a, (rest * axes + r) * (axes + 1) + k) * x[k];
            if (a->wide)
                ((double *)a->grid)[p * axes + r] = sum;
            else
                ((float *)a->grid)[p * axes + r] = (float)sum;
        }
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(y->dtype));
    struct affine a = {&y->shape, ((const struct affine_attrs *)c->attrs)->align_corners, y->dtype == DTYPE_DOUBLE,
                       c->in[0]->data, y->data};
    op_parallel(c->pool, tensor_count(y) / (y->shape.rank - 2), 1 << 11, fill, &a);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* dL/dtheta[r, k] = sum over the pixels of g[r] times the pixel's coordinate k. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const struct affine a = {.out = &g->shape, .corners = ((const struct affine_attrs *)c->attrs)->align_corners};
    const int axes = g->shape.rank - 2;
    const int64_t pixels = shape_product(&g->shape, 1, g->shape.rank - 1);
    for (int64_t image = 0; image < g->shape.dim[0]; image++) {
        double sum[3 * 4] = {0}, x[4];
        for (int64_t p = image * pixels; p < (image + 1) * pixels; p++) {
            coordinates(&a, p, x);
            for (int i = 0; i < axes * (axes + 1); i++)
                sum[i] += dtype_get(g->dtype, g->data, p * axes + i / (axes + 1)) * x[i % (axes + 1)];
        }
        for (int i = 0; i < axes * (axes + 1); i++) {
            const int64_t at = image * axes * (axes + 1) + i;
            dtype_set(dst->dtype, dst->data, at, dtype_get(dst->dtype, dst->data, at) + sum[i]);
        }
    }
    return 0;
}

OP_CLASS(affine_grid) = {.type = "AffineGrid",
                         .domain = "",
                         .since = 20,
                         .doc = "Sampling places of an affine map.",
                         .in_min = 2,
                         .in_max = 2,
                         .out_min = 1,
                         .out_max = 1,
                         .attrs = affine_attrs,
                         .attrs_size = sizeof(struct affine_attrs),
                         .infer = infer,
                         .forward = forward,
                         .backward = backward,
                         .grad_inputs = 1,
                         .samples = (const struct op_sample[]){
                             {"f32[2,2,3] !i64[4]=2,3,5,6", ""},
                             {"f32[2,2,3] i64[4]=2,3,5,6", "align_corners=1"},
                             {"f32[1,3,4] !i64[5]=1,2,3,4,5", ""},
                             {"f64[1,3,4] !i64[5]=1,2,3,4,5", "align_corners=1"},
                             {0}}};
