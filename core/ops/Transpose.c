/* SPDX-License-Identifier: Apache-2.0
 * Transpose: y[i_perm[0], ..., i_perm[n-1]] = x[i_0, ..., i_(n-1)]; without perm the axes are reversed. */
#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

struct transpose_attrs {
    struct op_ints perm;
};
static const struct op_attr transpose_attrs[] = {
    {OP_ATTR(transpose_attrs, perm), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK}, {0}};

static int read_perm(const struct transpose_attrs *attrs, int rank, int perm[SHAPE_MAX_RANK], struct err *err)
{
    bool used[SHAPE_MAX_RANK];
    struct shape s = {.rank = rank};
    for (int i = 0; i < rank; i++)
        perm[i] = rank - 1 - i;
    if (attrs->perm.count == 0)
        return 0;
    if (attrs->perm.count != rank)
        return err_set(err, ERR_MODEL, "perm has %d elements but the input has %d axes", attrs->perm.count, rank);
    if (op_axes_mask(attrs->perm.at, rank, rank, used, err) < 0)
        return err_wrap(err, "perm: ");
    for (int i = 0; i < rank; i++)
        perm[i] = shape_axis(&s, attrs->perm.at[i]);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct transpose_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    int perm[SHAPE_MAX_RANK];
    if (op_need(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0) {
        if (read_perm(attrs, x->rank, perm, err) < 0)
            return -1;
        out.rank = x->rank;
        for (int i = 0; i < x->rank; i++)
            out.dim[i] = x->dim[perm[i]];
    } else if (attrs->perm.count) {
        out.rank = attrs->perm.count;
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = DIM_UNKNOWN;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    int perm[SHAPE_MAX_RANK];
    int64_t stride[SHAPE_MAX_RANK], moved[SHAPE_MAX_RANK];
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    size_t elem = op_elem(x->dtype, err);
    if (!elem || read_perm(c->attrs, x->shape.rank, perm, err) < 0)
        return -1;
    shape_strides(&x->shape, false, stride);
    for (int i = 0; i < x->shape.rank; i++)
        moved[i] = stride[perm[i]];
    op_copy_strided(c->pool, elem, y->data, x->data, x->shape.rank, y->shape.dim, moved);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    int perm[SHAPE_MAX_RANK];
    int64_t stride[SHAPE_MAX_RANK];

    if (!g || !dst)
        return grad_add_whole(c, 0, NULL, err);
    struct grad_loop l = {.dtype = dst->dtype, .rank = dst->shape.rank, .dst = dst->data, .sources = 1,
                          .src[0].data = g->data, .assign = grad_assign(c, 0)};
    if (grad_type(dst, err) < 0 || read_perm(c->attrs, l.rank, perm, err) < 0)
        return -1;
    shape_strides(&dst->shape, false, l.dst_stride);
    shape_strides(&g->shape, false, stride);
    for (int i = 0; i < l.rank; i++) {
        l.dim[i] = dst->shape.dim[i];
        l.src[0].stride[perm[i]] = stride[i];
    }
    grad_sum(c->pool, &l);
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    int perm[SHAPE_MAX_RANK];
    (void)err;
    if (rank < 0 || read_perm(couple_attrs(k), rank, perm, NULL) < 0)
        return 0;
    for (int i = 0; i < rank; i++)
        couple_axes(k, IN(0), perm[i], OUT(0), i);
    return 0;
}

OP_CLASS(transpose) = {.type = "Transpose",
                       .domain = "",
                       .since = 1,
                       .doc = "Axes in another order.",
                       .in_min = 1,
                       .in_max = 1,
                       .out_min = 1,
                       .out_max = 1,
                       .attrs = transpose_attrs,
                       .attrs_size = sizeof(struct transpose_attrs),
                       .infer = infer,
                       .forward = forward,
                       .couple = couple,
                       .backward = backward,
                       .grad_inputs = 1,
                       .grad_assigns = true,
                       .quant = {QUANT_PASS},
                       .samples = (const struct op_sample[]){{"f32[2,3,4]", ""},
                                                             {"f32[2,3,4,5]", "perm=0,2,3,1"},
                                                             {"f32[2,3,4,5]", "perm=0,3,1,2"},
                                                             {"f32[70,50]", "perm=1,0"},
                                                             {"i64[2,3]", ""},
                                                             {"f16[5,6,7]", "perm=2,0,1"},
                                                             {"b[4,9]", ""},
                                                             {"f32[]", ""},
                                                             {0}}};
