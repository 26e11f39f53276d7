/* SPDX-License-Identifier: Apache-2.0
 * MatMulNBits: Y[.., n] = sum over k of A[.., k] (q[n, k] - zero[n, k / block]) scale[n, k / block] + bias[n].
 * Packing    B is uint8 [N, blocks, block * bits / 8], blocks = ceil(K / block); value j of a block stands in its byte
 *            j * bits / 8, low bits first. Zero points stand the same way along the blocks, each of the N rows padded to whole
 *            bytes, or as numbers of A's type [N, blocks]; absent they are 2^(bits - 1).
 * Way        A tile of weight rows is dequantized in the lane's scratch and multiplied at once; the whole weight is never
 *            stored as floats. Few rows of A take the dot products of matmul_nbits.h instead.
 * Refused    g_idx (deprecated), weights prepacked for one GPU, bits other than 2, 4 and 8. accuracy_level allows int8
 *            arithmetic but asks for none: the product is float32. */
#include <inttypes.h>

#include "core/kernels/gemm.h"
#include "core/kernels/matmul_nbits.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

enum { TILE = 16, FEW_ROWS = 6, SMALL = 1 << 17 };

struct nbits_attrs {
    int64_t K, N, accuracy_level, bits, block_size, weight_prepacked;
};
static const struct op_attr nbits_attrs[] = {
    {OP_ATTR(nbits_attrs, K), .kind = OP_INT, .required = true},
    {OP_ATTR(nbits_attrs, N), .kind = OP_INT, .required = true},
    {OP_ATTR(nbits_attrs, accuracy_level), .kind = OP_INT},
    {OP_ATTR(nbits_attrs, bits), .kind = OP_INT, .def = 4},
    {OP_ATTR(nbits_attrs, block_size), .kind = OP_INT, .required = true},
    {OP_ATTR(nbits_attrs, weight_prepacked), .kind = OP_INT},
    {NULL},
};

/* ---- inference ---- */
static int check_attrs(const struct nbits_attrs *a, struct err *err)
{
    const int64_t most = INT32_MAX;

    if (a->bits != 2 && a->bits != 4 && a->bits != 8)
        return err_set(err, ERR_MODEL, "attribute 'bits' is %" PRId64 "; it must be 2, 4 or 8", a->bits);
    if (a->block_size < 16 || a->block_size > 1 << 20 || (a->block_size & (a->block_size - 1)) != 0)
        return err_set(err, ERR_MODEL, "attribute 'block_size' is %" PRId64 "; it must be a power of two, 16 or larger",
                       a->block_size);
    if (a->N < 1 || a->N > most)
        return err_set(err, ERR_MODEL, "attribute 'N' is %" PRId64 "; it must be in [1, %" PRId64 "]", a->N, most);
    if (a->K < 1 || a->K > most)
        return err_set(err, ERR_MODEL, "attribute 'K' is %" PRId64 "; it must be in [1, %" PRId64 "]", a->K, most);
    if (a->weight_prepacked != 0)
        return err_set(err, ERR_OPERATOR,
                       "attribute 'weight_prepacked' is %" PRId64
                       "; only 0 is supported, other layouts are for one GPU",
                       a->weight_prepacked);
    return 0;
}

/* Input i has shape `want`, or the same elements as one list where `flat` allows it. */
static int check_shape(const struct infer_ctx *c, int i, const char *name, const struct shape *want, bool flat,
                       struct err *err)
{
    char got_text[SHAPE_TEXT], want_text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, i);
    bool fits = s->rank == want->rank;
    for (int k = 0; fits && k < s->rank; k++)
        fits = s->dim[k] < 0 || s->dim[k] == want->dim[k];
    if (flat && s->rank == 1)
        fits = s->dim[0] < 0 || s->dim[0] == shape_count(want);
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must be %s for these K, N, bits and block_size",
                          name, shape_text(s, got_text), shape_text(want, want_text));
}

static int check_weights(const struct infer_ctx *c, struct err *err)
{
    const struct nbits_attrs *a = c->attrs;
    const int64_t blocks = i64_ceil_div(a->K, a->block_size);
    const struct shape codes = SHAPE(a->N, blocks, a->block_size * a->bits / 8), each = SHAPE(a->N, blocks);
    const struct shape packed = SHAPE(a->N, i64_ceil_div(blocks * a->bits, 8)), per_row = SHAPE(a->N);
    const bool bytes = op_dtype(c, 3) == DTYPE_UINT8;

    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_UINT8)
        return err_set(err, ERR_MODEL, "input 'B' is %s; it must be uint8", dtype_name(op_dtype(c, 1)));
    if (infer_has(c, 4))
        return err_set(err, ERR_OPERATOR, "input 'g_idx' is given; it is deprecated and not supported, leave it out");
    if (check_shape(c, 1, "B", &codes, false, err) < 0 || check_shape(c, 2, "scales", &each, true, err) < 0 ||
        check_shape(c, 5, "bias", &per_row, false, err) < 0)
        return -1;
    if (op_dtype(c, 3) != DTYPE_NONE && !bytes && op_dtype(c, 3) != op_dtype(c, 0) && op_dtype(c, 0) != DTYPE_NONE)
        return err_set(err, ERR_MODEL, "input 'zero_points' is %s; it must be uint8 (packed) or %s, the type of A",
                       dtype_name(op_dtype(c, 3)), dtype_name(op_dtype(c, 0)));
    return op_dtype(c, 3) == DTYPE_NONE ? 0 : check_shape(c, 3, "zero_points", bytes ? &packed : &each, true, err);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct nbits_attrs *a = c->attrs;
    enum dtype dtype = op_dtype(c, 0);

    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || check_attrs(a, err) < 0 ||
        check_weights(c, err) < 0)
        return -1;
    for (int i = 2; i < c->n_in; i += 3)
        if (op_dtype(c, i) != DTYPE_NONE && dtype != DTYPE_NONE && op_dtype(c, i) != dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s but A is %s; they must have the same type", i,
                           dtype_name(op_dtype(c, i)), dtype_name(dtype));
    struct shape out = *infer_shape(c, 0);
    if (out.rank == 0 || (out.rank > 0 && out.dim[out.rank - 1] >= 0 && out.dim[out.rank - 1] != a->K))
        return err_set(err, ERR_SHAPE, "A's last axis must have K = %" PRId64 " elements", a->K);
    if (out.rank > 0)
        out.dim[out.rank - 1] = a->N;
    infer_out(c, 0, dtype, &out);
    return 0;
}

/* ---- running ---- */
struct product {
    const struct nbits_attrs *attrs;
    int64_t rows, blocks, blob,
        zero_row; /* rows of A; blocks of a weight row; bytes of a block, of a row of zero points */
    const float *a, *scales, *zeros, *bias;
    const uint8_t *codes, *packed_zeros;
    float *y, *scratch;
    float *prepared; /* rows of A for matmul_nbits.h */
};

static void unpack_2(const uint8_t *q, int64_t n, float zero, float scale, float *restrict w)
{
    for (int64_t i = 0; i < n; i++)
        w[i] = ((float)(q[i / 4] >> (i % 4 * 2) & 3) - zero) * scale;
}

static float zero_of(const struct product *p, int64_t row, int64_t block)
{
    const int bits = (int)p->attrs->bits;

    if (p->zeros)
        return p->zeros[row * p->blocks + block];
    if (!p->packed_zeros)
        return (float)(1 << (bits - 1));
    const uint8_t byte = p->packed_zeros[row * p->zero_row + block * bits / 8];
    return (float)(byte >> (block * bits % 8) & ((1 << bits) - 1));
}

static void unpack_row(const struct product *p, int64_t row, float *w)
{
    for (int64_t b = 0; b < p->blocks; b++) {
        const uint8_t *q = p->codes + (row * p->blocks + b) * p->blob;
        const int64_t first = b * p->attrs->block_size, n = i64_min(p->attrs->block_size, p->attrs->K - first);
        const float zero = zero_of(p, row, b), scale = p->scales[row * p->blocks + b];
        if (p->attrs->bits >= 4)
            nbits_unpack((int)p->attrs->bits, q, n, zero, scale, w + first);
        else
            unpack_2(q, n, zero, scale, w + first);
    }
}

static void run_tile(void *arg, int64_t task, int lane)
{
    const struct product *p = arg;
    const int64_t k = p->attrs->K, n = p->attrs->N, first = task * TILE, count = i64_min(TILE, n - first);
    float *w = p->scratch + lane * TILE * k;

    for (int64_t i = 0; i < count; i++)
        unpack_row(p, first + i, w + i * k);
    const struct gemm g = {.trans_b = true, .m = p->rows, .n = count, .k = k, .lda = k, .ldb = k, .ldc = n, .alpha = 1};
    gemm_f32_tile(&g, p->a, w, p->y + first);
    for (int64_t r = 0; p->bias && r < p->rows; r++)
        for (int64_t i = 0; i < count; i++)
            p->y[r * n + first + i] += p->bias[first + i];
}

/* Few rows: every row of the weight is read once, in registers. */
static void run_dots(void *arg, int64_t task, int lane)
{
    const struct product *p = arg;
    const int64_t n = p->attrs->N, first = task * TILE, end = i64_min(first + TILE, n);
    float *zeros = p->scratch + lane * p->blocks;
    int64_t each = 0;

    if (!nbits_prepared_count(p->attrs->K, p->attrs->block_size, &each))
        return; /* checked before */
    for (int64_t i = first; i < end; i++) {
        for (int64_t b = 0; b < p->blocks; b++)
            zeros[b] = zero_of(p, i, b);
        const struct nbits_row row = {(int)p->attrs->bits,       p->blocks,
                                      p->attrs->block_size,      p->codes + i * p->blocks * p->blob,
                                      p->scales + i * p->blocks, zeros};
        for (int64_t r = 0; r < p->rows; r++)
            p->y[r * n + i] = nbits_dot(&row, p->prepared + r * each) + (p->bias ? p->bias[i] : 0);
    }
}

static int compute_few(struct run_ctx *c, struct product *p, struct err *err)
{
    const struct nbits_attrs *a = p->attrs;
    const int64_t lanes = c->pool ? pool_threads(c->pool) : 1;
    int64_t each, prepared, zeros, total;
    size_t bytes;

    if (!nbits_prepared_count(a->K, a->block_size, &each) || !i64_mul(each, p->rows, &prepared) ||
        !i64_mul(p->blocks, lanes, &zeros) || !i64_add(prepared, zeros, &total) ||
        !size_mul((size_t)total, sizeof(float), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the product's working buffer would overflow the address space");
    p->scratch = run_scratch(c, bytes, err);
    if (!p->scratch)
        return -1;
    p->prepared = p->scratch + zeros;
    for (int64_t r = 0; r < p->rows; r++)
        nbits_prepare((int)a->bits, a->K, a->block_size, p->a + r * a->K, p->prepared + r * each);
    pool_run((double)a->N * (double)a->K < SMALL ? NULL : c->pool, i64_ceil_div(a->N, TILE), run_dots, p);
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct nbits_attrs *a = c->attrs;
    const struct tensor *zeros = run_in(c, 3), *bias = run_in(c, 5);
    struct tensor *y = run_out(c, 0);
    size_t bytes;

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "A is %s; float32, float16 and bfloat16 are supported", dtype_name(y->dtype));
    struct product p = {.attrs = a,
                        .rows = tensor_count(y) / a->N,
                        .blocks = i64_ceil_div(a->K, a->block_size),
                        .blob = a->block_size * a->bits / 8,
                        .a = c->in[0]->data,
                        .scales = c->in[2]->data,
                        .bias = bias ? bias->data : NULL,
                        .codes = c->in[1]->data,
                        .y = y->data};
    p.zero_row = i64_ceil_div(p.blocks * a->bits, 8);
    if (zeros && zeros->dtype == DTYPE_UINT8)
        p.packed_zeros = zeros->data;
    else if (zeros)
        p.zeros = zeros->data;
    if (p.rows <= FEW_ROWS && a->bits >= 4)
        return compute_few(c, &p, err);
    if (!size_mul((size_t)a->K, TILE * sizeof(float), &bytes) ||
        !size_mul(bytes, (size_t)(c->pool ? pool_threads(c->pool) : 1), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the product's working buffer would overflow the address space");
    p.scratch = run_scratch(c, bytes, err);
    if (!p.scratch)
        return -1;
    pool_run(c->pool, i64_ceil_div(a->N, TILE), run_tile, &p);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (outputs < 0 || !i64_mul(((const struct nbits_attrs *)c->attrs)->K, outputs, &cost->macs))
        cost->macs = -1;
}

/* ---- coupling ---- */
/* Rows of the weight are packed apart from one another, so outputs can go. Along K a byte holds several values, a scale
 * a block. */
static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    (void)err;
    for (int i = 0; i + 1 < rank; i++)
        couple_axes(k, IN(0), i, OUT(0), i);
    couple_freeze(k, IN(0), -1, "the weight that sums over it is packed in blocks");
    couple_axes(k, IN(1), 0, OUT(0), -1);
    couple_role(k, IN(1), 0, COUPLE_PRODUCES);
    for (int i = 2; i < 4; i++) {
        const int64_t n = couple_size(k, OUT(0), -1), all = couple_size(k, IN(i), 0);
        if (couple_rank(k, IN(i)) != 1)
            couple_axes(k, IN(i), 0, OUT(0), -1);
        else if (n > 0 && all > 0)
            couple_blocks(k, OUT(0), -1, IN(i), 0, all / n);
    }
    couple_axes(k, IN(5), 0, OUT(0), -1);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    (void)err;
    if (shrink_touched(s, OUT(0), -1))
        node_set_int(s->model, s->node, "N", shrink_size(s, OUT(0), -1));
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[3,32] !u8[5,2,8] !f32[5,2]", "K=32 N=5 block_size=16"},
    {"f32[2,3,40] !u8[20,3,8] !f32[60] !u8[40]", "K=40 N=20 block_size=16"},
    {"f32[1,70] !u8[6,3,16] !f32[6,3] !f32[6,3]", "K=70 N=6 block_size=32 bits=4"},
    {"f32[4,48] !u8[7,2,32] !f32[7,2]", "K=48 N=7 block_size=32 bits=8"},
    {"f32[4,48] !u8[7,2,32] !f32[7,2] !u8[7,2]", "K=48 N=7 block_size=32 bits=8"},
    {"f32[4,48] !u8[7,3,4] !f32[7,3] !u8[7,1]", "K=48 N=7 block_size=16 bits=2"},
    {"f32[4,128] !u8[18,1,64] !f32[18,1] none none !f32[18]", "K=128 N=18 block_size=128 accuracy_level=1"},
    {NULL},
};

OP_CLASS(matmul_nbits) = {
    .type = "MatMulNBits",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Product with a weight of 2, 4 or 8 bits, scaled in blocks. Refused: g_idx, prepacked weights.",
    .in_min = 3,
    .in_max = 6,
    .out_min = 1,
    .out_max = 1,
    .attrs = nbits_attrs,
    .attrs_size = sizeof(struct nbits_attrs),
    .infer = infer,
    .forward = forward,
    .cost = cost,
    .couple = couple,
    .shrink = shrink,
    .samples = samples,
};
