/* SPDX-License-Identifier: Apache-2.0
 * MatMulPacked, made by fuse_matmul only: Y = f(A B + bias + residual) for float32.
 *   A        [..., k], or [k, m] with trans_a
 *   B        packed as gemm_packed.h says, [ceil(n / 16), k, 16]
 *   bias     [n], optional;  residual: the shape of Y, optional
 *   Y        [..., n], or [m, n] with trans_a */
#include "core/kernels/gemm_packed.h"
#include "core/ops/op_util.h"

struct packed_attrs {
    int64_t n;
    bool trans_a;
    int activation;
    float alpha, beta; /* the activation's a and b */
};
static const struct op_attr packed_attrs[] = {
    {OP_ATTR(packed_attrs, n), .kind = OP_INT, .required = true},
    {OP_ATTR(packed_attrs, trans_a), .kind = OP_BOOL},
    {OP_ATTR(packed_attrs, activation), .kind = OP_ENUM, .choices = act_names},
    {OP_ATTR(packed_attrs, alpha), .kind = OP_FLOAT},
    {OP_ATTR(packed_attrs, beta), .kind = OP_FLOAT},
    {0},
};

static int check_addends(const struct infer_ctx *c, const struct shape *out, struct err *err)
{
    const struct packed_attrs *attrs = c->attrs;
    char text[SHAPE_TEXT], wanted[SHAPE_TEXT];
    if (infer_has(c, 2) && !shape_equal(infer_shape(c, 2), &SHAPE(attrs->n)))
        return err_set(err, ERR_SHAPE, "bias is %s, must be [%lld]", shape_text(infer_shape(c, 2), text),
                       (long long)attrs->n);
    if (infer_has(c, 3) && shape_known(infer_shape(c, 3)) && shape_known(out) && !shape_equal(infer_shape(c, 3), out))
        return err_set(err, ERR_SHAPE, "residual is %s, must be %s", shape_text(infer_shape(c, 3), text),
                       shape_text(out, wanted));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct packed_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    enum dtype dtype;
    char text[SHAPE_TEXT];
    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0)
        return -1;
    const struct shape *a = infer_shape(c, 0), *b = infer_shape(c, 1);
    if (dtype != DTYPE_FLOAT || b->rank != 3 || attrs->n < 1 || b->dim[0] != i64_ceil_div(attrs->n, GEMM_PANEL) ||
        b->dim[2] != GEMM_PANEL)
        return err_set(err, ERR_SHAPE, "the packed side is %s of %s, not float32 [%lld, k, %d]", shape_text(b, text),
                       dtype_name(dtype), (long long)i64_ceil_div(attrs->n, GEMM_PANEL), GEMM_PANEL);
    if (a->rank >= 0) {
        if (a->rank < 1 || (attrs->trans_a && a->rank != 2))
            return err_set(err, ERR_SHAPE, "the left side has %d axes", a->rank);
        const int64_t k = a->dim[attrs->trans_a ? 0 : a->rank - 1];
        if (k >= 0 && k != b->dim[1])
            return err_set(err, ERR_SHAPE, "inner sizes differ: %lld and %lld", (long long)k, (long long)b->dim[1]);
        out = *a;
        if (attrs->trans_a)
            out.dim[0] = a->dim[1];
        out.dim[out.rank - 1] = attrs->n;
    }
    if (check_addends(c, &out, err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct packed_attrs *attrs = c->attrs;
    const struct tensor *a = c->in[0], *b = c->in[1], *bias = run_in(c, 2), *residual = run_in(c, 3);
    struct tensor *y = run_out(c, 0);
    if (op_outputs(c, infer, err) < 0)
        return -1;
    if (!y || tensor_count(y) == 0)
        return 0;
    const int64_t k = b->shape.dim[1], m = tensor_count(y) / attrs->n;
    const struct gemm_packed g = {.m = m, .n = attrs->n, .k = k, .a = a->data, .a_row = attrs->trans_a ? 1 : k,
                                  .a_col = attrs->trans_a ? m : 1, .b = b->data, .packed = true,
                                  .bias = bias ? bias->data : NULL, .residual = residual ? residual->data : NULL,
                                  .residual_row = attrs->n,
                                  .act = {(enum act_kind)attrs->activation, attrs->alpha, attrs->beta},
                                  .c = y->data, .c_row = attrs->n};
    gemm_packed_f32(c->pool, &g);
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (outputs < 0 || !i64_mul(infer_shape(c, 1)->dim[1], outputs, &cost->macs))
        cost->macs = -1;
}

OP_CLASS(matmul_packed) = {.type = "MatMulPacked",
                           .domain = OP_DOMAIN_ENGINE,
                           .since = 1,
                           .doc = "f(A B + bias + residual) with B packed once.",
                           .in_min = 2,
                           .in_max = 4,
                           .out_min = 1,
                           .out_max = 1,
                           .attrs = packed_attrs,
                           .attrs_size = sizeof(struct packed_attrs),
                           .infer = infer,
                           .forward = forward,
                           .cost = cost,
                           .in_place = 1u << 3,
                           .internal = true};
