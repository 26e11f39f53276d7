/* SPDX-License-Identifier: Apache-2.0
 * MatMul: Y = A B with numpy's rules: stacks of matrices broadcast, a vector is a row (left) or a column (right)
 * whose axis vanishes from the result. */
#include <string.h>

#include "core/kernels/gemm.h"
#include "core/ops/matmul_shape.h"
#include "core/ops/product_coupling.h"
#include "core/ops/widen.h"

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape out;

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0 ||
        matmul_output(infer_shape(c, 0), infer_shape(c, 1), &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

/* Integers wrap around, as in numpy; rare, so plain loops. */
static void compute_integers(const struct run_ctx *c, const struct matmul_plan *p)
{
    const struct tensor *a = c->in[0], *b = c->in[1];
    struct tensor *y = c->out[0];

    for (int64_t i = 0; i < p->count * p->m * p->n; i++) {
        const int64_t item = i / (p->m * p->n), row = i / p->n % p->m, col = i % p->n;
        uint64_t sum = 0;
        for (int64_t q = 0; q < p->k; q++)
            sum += (uint64_t)dtype_get_i64(a->dtype, a->data, p->a_at[item] + row * p->k + q) *
                   (uint64_t)dtype_get_i64(b->dtype, b->data, p->b_at[item] + q * p->n + col);
        const int64_t value = (int64_t)sum;
        dtype_convert(y->dtype, (char *)y->data + (size_t)i * (size_t)(dtype_bits(y->dtype) / 8), DTYPE_INT64, &value,
                      1);
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct tensor *a = c->in[0], *b = c->in[1];
    struct tensor *y = run_out(c, 0);
    struct matmul_plan p;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (matmul_plan(c, &a->shape, &b->shape, true, &p, err) < 0)
        return -1;
    const struct gemm g = gemm_plain(false, false, p.m, p.n, p.k);
    const struct gemm_batch batch = {p.count, p.a_at, p.b_at, p.m * p.n};
    if (y->dtype == DTYPE_FLOAT)
        gemm_batch_f32(c->pool, &g, &batch, a->data, b->data, y->data);
    else if (y->dtype == DTYPE_DOUBLE)
        gemm_batch_f64(c->pool, &g, &batch, a->data, b->data, y->data);
    else if (dtype_is_float(y->dtype) || dtype_bits(y->dtype) < 8)
        return err_set(err, ERR_OPERATOR, "MatMul of %s is not supported", dtype_name(y->dtype));
    else
        compute_integers(c, &p);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward: for every pair of matrices dA += dY B^T, dB += A^T dY ---- */
struct product {
    struct gemm g;
    const struct tensor *a, *b;
    const int64_t *a_at, *b_at, *out_at;
    int64_t count;
};

static void multiply(struct grad_ctx *c, struct product p, int input)
{
    const struct tensor *out = grad_wanted(c, input);
    const int64_t size = p.g.m * p.g.n;
    bool apart = p.count > 0; /* every matrix of the result gets one product, in order */

    for (int64_t i = 0; i < p.count; i++)
        apart = apart && p.out_at[i] == i * size;
    if (!apart && c->assign[input])
        memset(out->data, 0, out->bytes);
    p.g.beta = apart && c->assign[input] ? 0 : 1;
    if (apart) {
        const struct gemm_batch batch = {p.count, p.a_at, p.b_at, size};
        if (out->dtype == DTYPE_FLOAT)
            gemm_batch_f32(c->pool, &p.g, &batch, p.a->data, p.b->data, out->data);
        else
            gemm_batch_f64(c->pool, &p.g, &batch, p.a->data, p.b->data, out->data);
        return;
    }
    for (int64_t i = 0; i < p.count; i++) {
        if (out->dtype == DTYPE_FLOAT)
            gemm_f32(c->pool, &p.g, (const float *)p.a->data + p.a_at[i], (const float *)p.b->data + p.b_at[i],
                     (float *)out->data + p.out_at[i]);
        else
            gemm_f64(c->pool, &p.g, (const double *)p.a->data + p.a_at[i], (const double *)p.b->data + p.b_at[i],
                     (double *)out->data + p.out_at[i]);
    }
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *a = c->in[0], *b = c->in[1];
    struct run_ctx run = {.host = c->host};
    struct matmul_plan p;
    size_t bytes;

    if (!dy)
        return 0;
    if (matmul_plan(&run, &a->shape, &b->shape, true, &p, err) < 0)
        return -1;
    int64_t *y_at = size_mul((size_t)p.count, sizeof *y_at, &bytes) ? grad_scratch(c, bytes + 1, err) : NULL;
    if (!y_at)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < p.count; i++)
        y_at[i] = i * p.m * p.n;
    if (grad_wanted(c, 0))
        multiply(c, (struct product){gemm_plain(false, true, p.m, p.k, p.n), dy, b, y_at, p.b_at, p.a_at, p.count}, 0);
    if (grad_wanted(c, 1))
        multiply(c, (struct product){gemm_plain(true, false, p.k, p.n, p.m), a, dy, p.a_at, y_at, p.b_at, p.count}, 1);
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    matmul_cost(infer_shape(c, 0), &c->out[0].shape, cost);
}

/* Output channels of B: its last axis; a vector has none of its own. */
static int channel_axis(const void *attrs, int rank)
{
    (void)attrs;
    return rank - 1;
}

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), false, false}, (struct couple_operand){IN(1), false, false});
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[3,4] !f32[4,5]", NULL},
    {"f32[2,3,4] f32[2,4,5]", NULL},
    {"f32[2,1,3,4] f32[3,4,2]", NULL},
    {"f32[2,3,4] !f32[4,5]", NULL},
    {"f32[4] f32[4,5]", NULL},
    {"f32[2,3,4] f32[4]", NULL},
    {"f32[4] f32[4]", NULL},
    {"f64[2,3,4] f64[4,5]", NULL},
    {"i32[2,3,4] i32[4,5]", NULL},
    {NULL},
};

OP_CLASS(matmul) = {
    .type = "MatMul", .domain = "", .since = 1,
    .doc = "Matrix product with numpy's broadcasting.",
    .in_min = 2, .in_max = 2, .out_min = 1, .out_max = 1,
    .infer = infer, .forward = forward, .cost = cost, .couple = couple,
    .backward = backward, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1), .grad_assigns = true, .grad_inputs = 3u,
    .quant = {QUANT_COMPUTE, .weight = 1, .channel_axis_of = channel_axis},
    .samples = samples,
};
