/* SPDX-License-Identifier: Apache-2.0
 * MeanVarianceNormalization: y = (x - mean) / (std + 1e-9), both over `axes` (0, 2 and 3 unless given). */
#include <math.h>

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

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    struct walk w = {.x = &x->shape};
    const int64_t n = tensor_count(x);
    bool mask[SHAPE_MAX_RANK];
    int64_t groups = 1;
    size_t bytes;

    if (!y || n == 0)
        return 0;
    if (mask_of(c->attrs, x->shape.rank, mask, err) < 0)
        return -1;
    for (int d = x->shape.rank - 1; d >= 0; d--) {
        w.stride[d] = mask[d] ? 0 : groups;
        groups *= mask[d] ? 1 : x->shape.dim[d];
    }
    double *mean = size_mul((size_t)groups, 2 * sizeof *mean, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!mean)
        return err_set(err, ERR_NOMEM, "out of memory");
    double *square = mean + groups;
    const double share = (double)groups / (double)n;
    for (int64_t g = 0; g < 2 * groups; g++)
        mean[g] = 0;
    for (int64_t i = 0; i < n; i++, walk_next(&w))
        mean[w.group] += dtype_get(x->dtype, x->data, i) * share;
    for (int64_t i = 0; i < n; i++, walk_next(&w)) {
        const double d = dtype_get(x->dtype, x->data, i) - mean[w.group];
        square[w.group] += d * d * share;
    }
    for (int64_t i = 0; i < n; i++, walk_next(&w))
        dtype_set(y->dtype, y->data, i,
                  (dtype_get(x->dtype, x->data, i) - mean[w.group]) / (sqrt(square[w.group]) + 1e-9));
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static const struct op_sample samples[] = {
    {"f32[2,3,4,5]", NULL}, {"f32[3,4]", "axes=1"}, {"f32[2,3,4]", "axes=0,2"}, {NULL}};

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
                                         .infer = infer,
                                         .forward = forward,
                                         .samples = samples};
