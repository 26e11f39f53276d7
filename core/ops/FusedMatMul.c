/* SPDX-License-Identifier: Apache-2.0
 * FusedMatMul (and TransposeMatMul, its older name): Y = alpha * op(A) op(B), with numpy's broadcasting of what op leaves.
 * op         transBatch first: [d0, b..., n] is read as [b..., d0, n] (the first axis becomes the rows); then trans: the
 *            last two axes are exchanged. Both are strides of the product: nothing is moved. Vectors stay as they are. */
#include "core/kernels/gemm.h"
#include "core/ops/matmul_shape.h"
#include "core/ops/product_coupling.h"
#include "core/ops/widen.h"

struct fused_attrs {
    float alpha;
    bool transA, transB, transBatchA, transBatchB;
};
#define TRANS                                                                                                          \
    {OP_ATTR(fused_attrs, alpha), .kind = OP_FLOAT, .def_f = 1}, {OP_ATTR(fused_attrs, transA), .kind = OP_BOOL},      \
    {                                                                                                                  \
        OP_ATTR(fused_attrs, transB), .kind = OP_BOOL                                                                  \
    }
static const struct op_attr fused_attrs[] = {TRANS,
                                             {OP_ATTR(fused_attrs, transBatchA), .kind = OP_BOOL},
                                             {OP_ATTR(fused_attrs, transBatchB), .kind = OP_BOOL},
                                             {NULL}};
static const struct op_attr transpose_attrs[] = {TRANS, {NULL}};

/* The shape the product sees. */
static struct shape seen(const struct shape *s, bool trans, bool batch)
{
    struct shape out = *s;

    if (s->rank < 2)
        return out;
    if (batch) {
        for (int i = 0; i + 2 < s->rank; i++)
            out.dim[i] = s->dim[i + 1];
        out.dim[s->rank - 2] = s->dim[0];
    }
    if (trans) {
        const int64_t rows = out.dim[s->rank - 2];
        out.dim[s->rank - 2] = out.dim[s->rank - 1];
        out.dim[s->rank - 1] = rows;
    }
    return out;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct fused_attrs *at = c->attrs;
    enum dtype dtype;
    struct shape out;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape a = seen(infer_shape(c, 0), at->transA, at->transBatchA);
    const struct shape b = seen(infer_shape(c, 1), at->transB, at->transBatchB);
    if (matmul_output(&a, &b, &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

/* Row stride of one stored matrix, and offsets in units of the plan's matrices turned into elements. */
static int64_t place(const struct shape *s, bool batch, int64_t *at, int64_t count, int64_t matrix)
{
    const int64_t cols = s->dim[s->rank - 1], between = s->rank > 2 ? shape_product(s, 1, s->rank - 1) : 1;

    if (!batch || s->rank < 3)
        return cols;
    for (int64_t i = 0; i < count; i++)
        at[i] = at[i] / matrix * cols;
    return between * cols;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct fused_attrs *at = c->attrs;
    const struct tensor *a = c->in[0], *b = c->in[1];
    const struct shape a_seen = seen(&a->shape, at->transA, at->transBatchA);
    const struct shape b_seen = seen(&b->shape, at->transB, at->transBatchB);
    const bool flat = !at->transBatchA && !at->transBatchB && !at->transA;
    struct tensor *y = run_out(c, 0);
    struct matmul_plan p;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (matmul_plan(c, &a_seen, &b_seen, flat, &p, err) < 0)
        return -1;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "products of %s are not supported", dtype_name(y->dtype));
    struct gemm g = gemm_plain(at->transA && a->shape.rank > 1, at->transB && b->shape.rank > 1, p.m, p.n, p.k);
    if (p.k > 0) {
        g.lda = a->shape.rank > 1 ? place(&a->shape, at->transBatchA, p.a_at, p.count, p.m * p.k) : g.lda;
        g.ldb = b->shape.rank > 1 ? place(&b->shape, at->transBatchB, p.b_at, p.count, p.n * p.k) : g.ldb;
    }
    g.alpha = (double)at->alpha;
    const struct gemm_batch batch = {p.count, p.a_at, p.b_at, p.m * p.n};
    if (y->dtype == DTYPE_FLOAT)
        gemm_batch_f32(c->pool, &g, &batch, a->data, b->data, y->data);
    else
        gemm_batch_f64(c->pool, &g, &batch, a->data, b->data, y->data);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct fused_attrs *at = c->attrs;
    const struct shape a = seen(infer_shape(c, 0), at->transA, at->transBatchA);
    matmul_cost(&a, &c->out[0].shape, cost);
}

static int channel_axis(const void *attrs, int rank)
{
    return ((const struct fused_attrs *)attrs)->transB ? rank - 2 : rank - 1;
}

static int couple(struct coupling *k, struct err *err)
{
    const struct fused_attrs *a = couple_attrs(k);
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), a->transA, a->transBatchA},
                  (struct couple_operand){IN(1), a->transB, a->transBatchB});
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[3,4] !f32[4,5]", "alpha=0.5f"},
    {"f32[2,4,3] f32[2,5,4]", "transA=1 transB=1"},
    {"f32[3,2,4] f32[2,4,5]", "transBatchA=1"},
    {"f32[4,2,3] f32[2,4,5]", "transBatchA=1 transA=1"},
    {"f32[2,3,4] f32[4,2,5]", "transBatchB=1"},
    {"f32[3,2,6,4] f32[5,2,6,4]", "transBatchA=1 transBatchB=1 transB=1 alpha=0.125f"},
    {"f32[2,3,4] f32[4]", "transB=1"},
    {"f32[4] f32[5,4]", "transA=1 transB=1"},
    {"f64[2,1,3,4] f64[3,2,4]", "transB=1"},
    {NULL},
};
static const struct op_sample transpose_samples[] = {{"f32[2,4,3] f32[2,4,5]", "transA=1"}, {NULL}};

#define ROW                                                                                                            \
    .domain = "com.microsoft", .since = 1, .doc = "alpha * op(A) op(B), axes exchanged on the way.", .in_min = 2,      \
    .in_max = 2, .out_min = 1, .out_max = 1, .attrs_size = sizeof(struct fused_attrs), .infer = infer,                 \
    .forward = forward, .couple = couple, .cost = cost,                                                                \
    .quant = {QUANT_COMPUTE, .weight = 1, .channel_axis_of = channel_axis}

OP_CLASS(fused_matmul) = {ROW, .type = "FusedMatMul", .attrs = fused_attrs, .samples = samples};
OP_CLASS(transpose_matmul) = {ROW, .type = "TransposeMatMul", .attrs = transpose_attrs, .samples = transpose_samples};
