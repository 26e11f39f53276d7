/* SPDX-License-Identifier: Apache-2.0
 * MeanVarianceNormalization: y = (x - mean) / (std + 1e-9), both over `axes` (0, 2 and 3 unless given). */
#include <math.h>

#include "core/ops/couple.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

struct mvn_attrs {
    struct op_ints axes;
};
static const struct op_attr mvn_attrs[] = {{OP_ATTR(mvn_attrs, axes), .kind = OP_INTS}, {NULL}};
static const int64_t usual_axes[] = {0, 2, 3};

static int mask_of(const struct mvn_attrs *a, int rank, bool mask[SHAPE_MAX_RANK], struct err *err)
{
    return op_axes_mask(a->axes.count ? a->axes.at : usual_axes, a->axes.count ? a->axes.count : 3, rank, mask, err);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    bool mask[SHAPE_MAX_RANK];

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank >= 0 && mask_of(c->attrs, infer_shape(c, 0)->rank, mask, err) < 0)
        return -1;
    return op_infer_same(c, err);
}

/* Steps through x in order and tells to which group, a choice of indices on the other axes, an element belongs. */
struct walk {
    const struct shape *x;
    int64_t stride[SHAPE_MAX_RANK]; /* of the groups; 0 on the axes that are averaged over */
    int64_t at[SHAPE_MAX_RANK], group;
};

static void walk_next(struct walk *w)
{
    for (int d = w->x->rank - 1; d >= 0; d--) {
        w->group += w->stride[d];
        if (++w->at[d] < w->x->dim[d])
            return;
        w->group -= w->stride[d] * w->x->dim[d];
        w->at[d] = 0;
    }
}

static int walk_start(struct walk *w, const struct mvn_attrs *a, const struct shape *x, int64_t *groups,
                      struct err *err)
{
    bool mask[SHAPE_MAX_RANK];

    *w = (struct walk){.x = x};
    *groups = 1;
    if (mask_of(a, x->rank, mask, err) < 0)
        return -1;
    for (int d = x->rank - 1; d >= 0; d--) {
        w->stride[d] = mask[d] ? 0 : *groups;
        *groups *= mask[d] ? 1 : x->dim[d];
    }
    return 0;
}

/* Mean and variance of each group. The walk ends where it began. */
static void moments(struct walk *w, const struct tensor *x, double *mean, double *square, int64_t groups)
{
    const int64_t n = tensor_count(x);
    const double share = (double)groups / (double)n;

    for (int64_t g = 0; g < groups; g++)
        mean[g] = square[g] = 0;
    for (int64_t i = 0; i < n; i++, walk_next(w))
        mean[w->group] += dtype_get(x->dtype, x->data, i) * share;
    for (int64_t i = 0; i < n; i++, walk_next(w)) {
        const double d = dtype_get(x->dtype, x->data, i) - mean[w->group];
        square[w->group] += d * d * share;
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    struct walk w;
    const int64_t n = tensor_count(x);
    int64_t groups;
    size_t bytes;

    if (!y || n == 0)
        return 0;
    if (walk_start(&w, c->attrs, &x->shape, &groups, err) < 0)
        return -1;
    double *mean = size_mul((size_t)groups, 2 * sizeof *mean, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!mean)
        return err_set(err, ERR_NOMEM, "out of memory");
    double *square = mean + groups;
    moments(&w, x, mean, square, groups);
    for (int64_t i = 0; i < n; i++, walk_next(&w))
        dtype_set(y->dtype, y->data, i,
                  (dtype_get(x->dtype, x->data, i) - mean[w.group]) / (sqrt(square[w.group]) + 1e-9));
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* With d = x - mean, s the deviation, e = 1e-9: dL/dx = (g - mean g) / (s + e) - d mean(g d) / (s (s + e)^2). */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *g = grad_of(c, 0);
    struct tensor *dx = grad_wanted(c, 0);
    const int64_t n = tensor_count(x);
    struct walk w;
    int64_t groups;
    size_t bytes;

    if (!g || !dx || n == 0)
        return 0;
    if (grad_type(dx, err) < 0 || walk_start(&w, c->attrs, &x->shape, &groups, err) < 0)
        return -1;
    double *mean = size_mul((size_t)groups, 4 * sizeof *mean, &bytes) ? grad_scratch(c, bytes, err) : NULL;
    if (!mean)
        return err_set(err, ERR_NOMEM, "out of memory");
    double *square = mean + groups, *mean_g = square + groups, *mean_gd = mean_g + groups;
    const double share = (double)groups / (double)n;
    moments(&w, x, mean, square, groups);
    for (int64_t k = 0; k < groups; k++)
        mean_g[k] = mean_gd[k] = 0;
    for (int64_t i = 0; i < n; i++, walk_next(&w)) {
        const double v = dtype_get(g->dtype, g->data, i) * share;
        mean_g[w.group] += v;
        mean_gd[w.group] += v * (dtype_get(x->dtype, x->data, i) - mean[w.group]);
    }
    for (int64_t i = 0; i < n; i++, walk_next(&w)) {
        const double s = sqrt(square[w.group]), all = s + 1e-9, d = dtype_get(x->dtype, x->data, i) - mean[w.group];
        double slope = (dtype_get(g->dtype, g->data, i) - mean_g[w.group]) / all;
        slope -= s > 0 ? d * mean_gd[w.group] / (s * all * all) : 0;
        dtype_set(dx->dtype, dx->data, i, dtype_get(dx->dtype, dx->data, i) + slope);
    }
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[2,3,4,5]", NULL}, {"f32[3,4]", "axes=1"}, {"f32[2,3,4]", "axes=0,2"}, {NULL}};

static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    bool mask[SHAPE_MAX_RANK];
    struct err ignored = {0};
    (void)err;
    if (rank < 0 || mask_of(couple_attrs(k), rank, mask, &ignored) < 0)
        return 0;
    couple_same(k, IN(0), OUT(0));
    for (int i = 0; i < rank; i++)
        if (mask[i])
            couple_approximate(k, IN(0), i, "it is normalized over this axis, whose statistics change");
    return 0;
}

OP_CLASS(mean_variance_normalization) = {.type = "MeanVarianceNormalization",
                                         .domain = "",
                                         .since = 9,
                                         .doc = "Zero mean and unit variance over axes.",
                                         .in_min = 1,
                                         .in_max = 1,
                                         .out_min = 1,
                                         .out_max = 1,
                                         .attrs = mvn_attrs,
                                         .attrs_size = sizeof(struct mvn_attrs),
                                         .couple = couple,
                                         .infer = infer,
                                         .forward = forward,
                                         .backward = backward,
                                         .grad_reads = GRAD_READS_IN(0),
                                         .grad_inputs = 1,
                                         .samples = samples};
