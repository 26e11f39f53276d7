/* SPDX-License-Identifier: Apache-2.0
 * MatMulBnb4: Y = A W^T with W [N, K] in 4-bit codes of a table of 16 numbers times one absolute maximum a block.
 * Packing    W is flattened; code 2i stands in the high half of byte i, code 2i + 1 in the low half. Block b holds
 *            elements [b * block_size, (b + 1) * block_size) of the flat W.
 * Tables     quant_type 0: FP4 (sign, two bits of exponent, one of mantissa, of bitsandbytes); 1: NF4, quantiles of the
 *            normal distribution (Dettmers et al. 2023, appendix E).
 * transB     1: A [.., K] gives [.., N]. 0: A [.., N] times W gives [.., K]. */
#include <inttypes.h>

#include "core/kernels/gemm.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

struct bnb4_attrs {
    int64_t K, N, block_size, quant_type;
    bool training_mode, transB;
};
static const struct op_attr bnb4_attrs[] = {
    {OP_ATTR(bnb4_attrs, K), .kind = OP_INT, .required = true},
    {OP_ATTR(bnb4_attrs, N), .kind = OP_INT, .required = true},
    {OP_ATTR(bnb4_attrs, block_size), .kind = OP_INT, .required = true},
    {OP_ATTR(bnb4_attrs, quant_type), .kind = OP_INT, .required = true},
    {OP_ATTR(bnb4_attrs, training_mode), .kind = OP_BOOL},
    {OP_ATTR(bnb4_attrs, transB), .kind = OP_BOOL, .def = 1},
    {NULL},
};

static const float tables[2][16] = {
    {0, 5.208333333e-03f, 0.66666667f, 1, 0.33333333f, 0.5f, 0.16666667f, 0.25f, -0.0f, -5.208333333e-03f,
     -0.66666667f, -1, -0.33333333f, -0.5f, -0.16666667f, -0.25f},
    {-1, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1},
};

static int check_list(const struct infer_ctx *c, int i, const char *name, int64_t want, struct err *err)
{
    char text[SHAPE_TEXT];

    if (infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK || shape_count(infer_shape(c, i)) < 0 ||
        shape_count(infer_shape(c, i)) == want)
        return 0;
    return err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must hold %" PRId64 " elements for these K, N and "
                   "block_size", name, shape_text(infer_shape(c, i), text), want);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct bnb4_attrs *a = c->attrs;
    int64_t count;

    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    if (a->K < 1 || a->N < 1 || a->K > INT32_MAX || a->N > INT32_MAX || !i64_mul(a->K, a->N, &count))
        return err_set(err, ERR_MODEL, "attributes 'K' and 'N' are %" PRId64 " and %" PRId64 "; they must be positive",
                       a->K, a->N);
    if (a->block_size < 16 || a->block_size > INT32_MAX || (a->block_size & (a->block_size - 1)) != 0)
        return err_set(err, ERR_MODEL,
                       "attribute 'block_size' is %" PRId64 "; it must be a power of two, 16 or larger", a->block_size);
    if (a->quant_type != 0 && a->quant_type != 1)
        return err_set(err, ERR_MODEL, "attribute 'quant_type' is %" PRId64 "; it must be 0 (FP4) or 1 (NF4)",
                       a->quant_type);
    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_UINT8)
        return err_set(err, ERR_MODEL, "input 'B' is %s; it must be uint8", dtype_name(op_dtype(c, 1)));
    if (op_dtype(c, 2) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE && op_dtype(c, 2) != op_dtype(c, 0))
        return err_set(err, ERR_MODEL, "input 'absmax' is %s; it must be %s, the type of A", dtype_name(op_dtype(c, 2)),
                       dtype_name(op_dtype(c, 0)));
    if (check_list(c, 1, "B", i64_ceil_div(count, 2), err) < 0 ||
        check_list(c, 2, "absmax", i64_ceil_div(count, a->block_size), err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    const int64_t inner = a->transB ? a->K : a->N;
    if (out.rank == 0 || (out.rank > 0 && out.dim[out.rank - 1] >= 0 && out.dim[out.rank - 1] != inner))
        return err_set(err, ERR_SHAPE, "A's last axis must have %" PRId64 " elements", inner);
    if (out.rank > 0)
        out.dim[out.rank - 1] = a->transB ? a->N : a->K;
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

struct unpack {
    const struct bnb4_attrs *attrs;
    const uint8_t *codes;
    const float *absmax;
    float *w;
};

static void unpack(void *arg, int64_t begin, int64_t end)
{
    const struct unpack *u = arg;
    for (int64_t i = begin; i < end; i++)
        u->w[i] = tables[u->attrs->quant_type][i % 2 ? u->codes[i / 2] & 15 : u->codes[i / 2] >> 4] *
                  u->absmax[i / u->attrs->block_size];
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct bnb4_attrs *a = c->attrs;
    struct tensor *y = run_out(c, 0);
    size_t bytes;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "A is %s; float32, float16 and bfloat16 are supported", dtype_name(y->dtype));
    struct unpack u = {a, c->in[1]->data, c->in[2]->data, NULL};
    if (!dtype_bytes(DTYPE_FLOAT, a->N * a->K, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the weight would overflow the address space");
    u.w = run_scratch(c, bytes, err);
    if (!u.w)
        return -1;
    op_parallel(c->pool, a->N * a->K, 1 << 16, unpack, &u);
    const int64_t n = a->transB ? a->N : a->K, k = a->transB ? a->K : a->N;
    const struct gemm g = gemm_plain(false, a->transB, tensor_count(y) / n, n, k);
    gemm_f32(c->pool, &g, c->in[0]->data, u.w, y->data);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct bnb4_attrs *a = c->attrs;
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (outputs < 0 || !i64_mul(a->transB ? a->K : a->N, outputs, &cost->macs))
        cost->macs = -1;
}

/* The weight is one list of packed blocks, across rows: neither side of it can go. */
static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    (void)err;
    for (int i = 0; i + 1 < rank; i++)
        couple_axes(k, IN(0), i, OUT(0), i);
    couple_freeze(k, IN(0), -1, "the weight that sums over it is packed in blocks");
    couple_freeze(k, OUT(0), -1, "the weight that makes it is packed in blocks");
    couple_role(k, IN(1), 0, COUPLE_PRODUCES);
    couple_freeze(k, IN(1), 0, "it is packed in blocks");
    return 0;
}

OP_CLASS(matmul_bnb4) = {
    .type = "MatMulBnb4", .domain = "com.microsoft", .since = 1,
    .doc = "Product with a weight of 4-bit codes (FP4 or NF4), scaled in blocks.",
    .in_min = 3, .in_max = 3, .out_min = 1, .out_max = 1,
    .attrs = bnb4_attrs, .attrs_size = sizeof(struct bnb4_attrs),
    .infer = infer, .forward = forward, .cost = cost, .couple = couple,
    .samples = (const struct op_sample[]){{"f32[2,3,32] !u8[80] !f32[10]", "K=32 N=5 block_size=16 quant_type=1"},
                                          {"f32[3,32] !u8[80] !f32[3]", "K=32 N=5 block_size=64 quant_type=0"},
                                          {NULL}},
};
