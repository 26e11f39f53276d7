/* SPDX-License-Identifier: Apache-2.0
 * Products of 8-bit matrices that end in float, domain com.microsoft:
 *   MatMulIntegerToFloat   y = (A - a_zero)(B - b_zero) * a_scale * b_scale + bias
 *   DynamicQuantizeMatMul  the same, A a float matrix quantized to uint8 by its own range first
 *   QGemm                  y = alpha * a_scale * b_scale * ((A' - a_zero)(B' - b_zero) + C); quantized to 8 bits when
 *                          y_zero_point is given
 * Sums are exact in int32. b_scale, b_zero: one value, or one for each column of B. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/gemm_i8.h"
#include "core/ops/matmul_shape.h"
#include "core/ops/product_coupling.h"
#include "core/ops/quantize.h"

static int want_float(const struct infer_ctx *c, int i, struct err *err)
{
    const enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || d == DTYPE_FLOAT)
        return 0;
    return err_set(err, ERR_OPERATOR, "input #%d is %s; it must be float32", i, dtype_name(d));
}

/* Scale and zero point of the right side, and a bias: by column. */
static int check_columns(const struct infer_ctx *c, int b_scale, int b_zero, int bias, int64_t columns, struct err *err)
{
    if (want_float(c, b_scale, err) < 0 || want_float(c, bias, err) < 0 || quantize_want_8bit(c, b_zero, err) < 0 ||
        quantize_check_count(c, b_scale, "b_scale", columns, err) < 0 ||
        quantize_check_count(c, b_zero, "b_zero_point", columns, err) < 0)
        return -1;
    if (infer_has(c, bias) && shape_known(infer_shape(c, bias)) && columns >= 0 &&
        shape_count(infer_shape(c, bias)) != columns)
        return err_set(err, ERR_SHAPE, "the bias has %" PRId64 " values; it must have one for each of the %" PRId64
                       " columns", shape_count(infer_shape(c, bias)), columns);
    return 0;
}

static int64_t last_dim(const struct shape *s)
{
    return s->rank >= 2 ? s->dim[s->rank - 1] : s->rank == 1 ? 1 : DIM_UNKNOWN;
}

static void *sums_of(struct run_ctx *c, int64_t count, size_t elem, struct err *err)
{
    size_t bytes;
    if (count < 0 || !size_mul((size_t)count, elem, &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the integer sums would overflow the address space");
        return NULL;
    }
    return run_scratch(c, bytes ? bytes : 1, err);
}

/* y[r, j] = sum[r, j] * scale[j] + bias[j]; scale or bias may be one value (step 0). */
struct finish_job {
    const int32_t *sum;
    float *y;
    const float *scale, *bias;
    float factor;
    int64_t n, step;
};

static void finish_rows(void *arg, int64_t begin, int64_t end)
{
    const struct finish_job *k = arg;
    for (int64_t r = begin; r < end; r++)
        for (int64_t j = 0; j < k->n; j++) {
            const float v = (float)k->sum[r * k->n + j] * (k->factor * k->scale[j * k->step]);
            k->y[r * k->n + j] = k->bias ? v + k->bias[j] : v;
        }
}

/* What the two MatMul forms have in common once A is 8 bits. */
struct right_side {
    const struct tensor *b, *scale, *zero, *bias;
};

static int product(struct run_ctx *c, const struct shape *a_shape, const void *a, bool a_signed, int32_t a_zero,
                   float a_scale, const struct right_side *right, struct err *err)
{
    struct tensor *y = run_out(c, 0);
    struct matmul_plan p;
    int64_t zeros;

    if (matmul_plan(c, a_shape, &right->b->shape, true, &p, err) < 0)
        return -1;
    const int32_t *b_zero = quantize_zeros(c, right->zero, &zeros, err);
    int32_t *sum = sums_of(c, tensor_count(y), sizeof *sum, err);
    if (!b_zero || !sum)
        return -1;
    const struct gemm_i8 g = {.m = p.m, .n = p.n, .k = p.k, .lda = p.k, .ldb = p.n, .ldc = p.n, .a_signed = a_signed,
                              .b_signed = right->b->dtype == DTYPE_INT8, .a_zero = &a_zero, .b_zero = b_zero,
                              .b_zero_columns = zeros > 1};
    for (int64_t i = 0; i < p.count; i++)
        gemm_i8(c->pool, &g, (const char *)a + p.a_at[i], (const char *)right->b->data + p.b_at[i],
                sum + i * p.m * p.n);
    struct finish_job k = {.sum = sum, .y = y->data, .scale = right->scale->data, .factor = a_scale, .n = p.n,
                           .bias = right->bias ? right->bias->data : NULL, .step = tensor_count(right->scale) > 1};
    op_parallel(c->pool, tensor_count(y) / p.n, i64_max(1, 16384 / p.n), finish_rows, &k);
    return 0;
}

/* ---- MatMulIntegerToFloat: A, B, a_scale, b_scale, a_zero, b_zero, bias ---- */
static int infer_to_float(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 4, err) < 0 || quantize_want_8bit(c, 0, err) < 0 || quantize_want_8bit(c, 1, err) < 0 ||
        quantize_check_param(c, 2, 4, true, err) < 0 ||
        check_columns(c, 3, 5, 6, last_dim(infer_shape(c, 1)), err) < 0 ||
        matmul_output(infer_shape(c, 0), infer_shape(c, 1), &out, err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

static int forward_to_float(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_to_float, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    const struct tensor *a = c->in[0];
    const struct q8 param = quantize_param(c, 2, 4, a->dtype);
    const struct right_side right = {c->in[1], c->in[3], run_in(c, 5), run_in(c, 6)};
    return product(c, &a->shape, a->data, param.is_signed, param.zero, param.scale, &right, err);
}

/* ---- DynamicQuantizeMatMul: A, B, b_scale, b_zero, bias ---- */
static int infer_dynamic(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    if (op_need(c, 3, err) < 0 || want_float(c, 0, err) < 0 || quantize_want_8bit(c, 1, err) < 0 ||
        check_columns(c, 2, 3, 4, last_dim(infer_shape(c, 1)), err) < 0 ||
        matmul_output(infer_shape(c, 0), infer_shape(c, 1), &out, err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

static int forward_dynamic(struct run_ctx *c, struct err *err)
{
    struct q8 param;
    if (op_outputs(c, infer_dynamic, err) < 0)
        return -1;
    if (!run_out(c, 0) || tensor_count(c->out[0]) == 0)
        return 0;
    const struct tensor *a = c->in[0];
    uint8_t *bytes = sums_of(c, tensor_count(a), 1, err);
    if (!bytes)
        return -1;
    quantize_dynamic(c->pool, a->data, tensor_count(a), bytes, &param);
    const struct right_side right = {c->in[1], c->in[2], run_in(c, 3), run_in(c, 4)};
    return product(c, &a->shape, bytes, false, param.zero, param.scale, &right, err);
}

/* ---- QGemm: A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero ---- */
struct gemm_attrs {
    float alpha;
    bool transA, transB;
};
static const struct op_attr gemm_attrs[] = {{OP_ATTR(gemm_attrs, alpha), .kind = OP_FLOAT, .def_f = 1},
                                            {OP_ATTR(gemm_attrs, transA), .kind = OP_BOOL},
                                            {OP_ATTR(gemm_attrs, transB), .kind = OP_BOOL},
                                            {NULL}};

static int check_addend(const struct infer_ctx *c, const struct shape *out, struct err *err)
{
    if (!infer_has(c, 6))
        return 0;
    if (op_dtype(c, 6) != DTYPE_NONE && op_dtype(c, 6) != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "C is %s; it must be int32", dtype_name(op_dtype(c, 6)));
    const struct shape *s = infer_shape(c, 6);
    bool fits = s->rank <= 2;
    for (int i = 1; fits && i <= s->rank; i++) {
        const int64_t d = s->dim[s->rank - i], o = out->dim[2 - i];
        fits = d == o || d < 0 || o < 0 || d == 1;
    }
    return fits ? 0 : err_set(err, ERR_SHAPE, "C does not broadcast to the product's shape");
}

static int infer_gemm(struct infer_ctx *c, struct err *err)
{
    const struct gemm_attrs *a = c->attrs;
    struct shape out = SHAPE(DIM_UNKNOWN, DIM_UNKNOWN);
    int64_t inner[2] = {DIM_UNKNOWN, DIM_UNKNOWN};

    if (op_need(c, 6, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        const struct shape *s = infer_shape(c, i * 3);
        const bool turned = i ? a->transB : a->transA;
        if (quantize_want_8bit(c, i * 3, err) < 0)
            return -1;
        if (s->rank == SHAPE_UNKNOWN_RANK)
            continue;
        if (s->rank != 2)
            return err_set(err, ERR_SHAPE, "input #%d has %d axes; it must be a matrix", i * 3, s->rank);
        out.dim[i] = s->dim[turned ? 1 - i : i];
        inner[i] = s->dim[turned ? i : 1 - i];
    }
    if (inner[0] >= 0 && inner[1] >= 0 && inner[0] != inner[1])
        return err_set(err, ERR_SHAPE, "A has %" PRId64 " columns but B has %" PRId64 " rows; they must be equal",
                       inner[0], inner[1]);
    if (quantize_check_param(c, 1, 2, false, err) < 0 || check_columns(c, 4, 5, -1, out.dim[1], err) < 0 ||
        check_addend(c, &out, err) < 0)
        return -1;
    if (infer_has(c, 8) && quantize_check_param(c, 7, 8, false, err) < 0)
        return -1;
    infer_out(c, 0, infer_has(c, 8) ? c->in[8]->dtype : DTYPE_FLOAT, &out);
    return 0;
}

/* The matrix as [rows, cols] when it is stored the other way round. */
static const uint8_t *straight(struct run_ctx *c, const struct tensor *t, bool turned, struct err *err)
{
    const int64_t cols = t->shape.dim[0], rows = t->shape.dim[1];
    if (!turned)
        return t->data;
    uint8_t *out = sums_of(c, tensor_count(t), 1, err);
    if (out)
        op_copy_strided(c->pool, 1, out, t->data, 2, (const int64_t[]){rows, cols}, (const int64_t[]){1, rows});
    return out;
}

static void scale_gemm(const struct run_ctx *c, const int32_t *sum, int64_t m, int64_t n)
{
    const struct tensor *b_scale = c->in[4], *addend = run_in(c, 6);
    struct tensor *y = c->out[0];
    const float factor = ((const struct gemm_attrs *)c->attrs)->alpha * tensor_f32(c->in[1])[0];
    const bool quantized = run_in(c, 8) != NULL;
    const struct q8 out = quantized ? quantize_param(c, 7, 8, y->dtype) : (struct q8){.scale = 1};
    const struct q8 unit = {.scale = 1, .zero = out.zero, .is_signed = out.is_signed};
    const struct shape *s = addend ? &addend->shape : NULL;
    const int64_t cols = s && s->rank >= 1 ? s->dim[s->rank - 1] : 1, rows = s && s->rank == 2 ? s->dim[0] : 1;

    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            uint32_t v = (uint32_t)sum[i * n + j];
            if (addend)
                v += (uint32_t)((const int32_t *)addend->data)[(rows == 1 ? 0 : i) * cols + (cols == 1 ? 0 : j)];
            const float scale = factor * tensor_f32(b_scale)[tensor_count(b_scale) > 1 ? j : 0];
            if (quantized)
                ((uint8_t *)y->data)[i * n + j] = q8_bits(&unit, (float)(int32_t)v * (scale / out.scale));
            else
                tensor_f32(y)[i * n + j] = (float)(int32_t)v * scale;
        }
}

static int forward_gemm(struct run_ctx *c, struct err *err)
{
    const struct gemm_attrs *attrs = c->attrs;
    int64_t zeros;

    if (op_outputs(c, infer_gemm, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct tensor *a = c->in[0], *b = c->in[3];
    const int64_t m = y->shape.dim[0], n = y->shape.dim[1], k = a->shape.dim[attrs->transA ? 0 : 1];
    const struct q8 param = quantize_param(c, 1, 2, a->dtype);
    const uint8_t *left = straight(c, a, attrs->transA, err), *right = left ? straight(c, b, attrs->transB, err) : NULL;
    const int32_t *b_zero = right ? quantize_zeros(c, c->in[5], &zeros, err) : NULL;
    int32_t *sum = b_zero ? sums_of(c, m * n, sizeof *sum, err) : NULL;
    if (!sum)
        return err->code ? -1 : 0; /* an operand without bytes has no elements */
    const struct gemm_i8 g = {.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n, .a_signed = param.is_signed,
                              .b_signed = b->dtype == DTYPE_INT8, .a_zero = &param.zero, .b_zero = b_zero,
                              .b_zero_columns = zeros > 1};
    gemm_i8(c->pool, &g, left, right, sum);
    scale_gemm(c, sum, m, n);
    return 0;
}

/* ---- coupling ---- */
static int couple_to_float(struct coupling *k, struct err *err)
{
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), false, false}, (struct couple_operand){IN(1), false, false});
    for (int i = 3; i < 7; i++)
        if (i != 4)
            couple_vector(k, i, IN(1), -1);
    return 0;
}

/* A's range over all of its elements is its scale: without some of them it is another. */
static int couple_dynamic(struct coupling *k, struct err *err)
{
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), false, false}, (struct couple_operand){IN(1), false, false});
    for (int i = 2; i < 5; i++)
        couple_vector(k, i, IN(1), -1);
    for (int i = 0; i < couple_rank(k, IN(0)); i++)
        couple_approximate(k, IN(0), i, "it is quantized by its range, which changes");
    return 0;
}

static int couple_gemm(struct coupling *k, struct err *err)
{
    const struct gemm_attrs *a = couple_attrs(k);
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), a->transA, false},
                  (struct couple_operand){IN(3), a->transB, false});
    couple_vector(k, 4, OUT(0), -1);
    couple_vector(k, 5, OUT(0), -1);
    couple_broadcast(k, IN(6), OUT(0));
    return 0;
}

/* ---- rows ---- */
static void cost_of(const struct infer_ctx *c, const struct shape *a, bool turned, struct op_cost *cost)
{
    const int64_t depth = a->rank < 1 ? DIM_UNKNOWN : a->dim[turned && a->rank == 2 ? 0 : a->rank - 1];
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (depth < 0 || outputs < 0 || !i64_mul(depth, outputs, &cost->macs))
        cost->macs = -1;
}
static void cost_matmul(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_of(c, infer_shape(c, 0), false, cost);
}
static void cost_gemm(const struct infer_ctx *c, struct op_cost *cost)
{
    cost_of(c, infer_shape(c, 0), ((const struct gemm_attrs *)c->attrs)->transA, cost);
}

static const struct op_sample to_float_samples[] = {
    {"u8[3,5] !i8[5,4] f32[]=0.1 f32[4]=0.1,0.2,0.3,0.4 u8[]=3 i8[4]=0,1,2,3 f32[4]", NULL},
    {"i8[2,3,5] !i8[5,4] f32[]=0.1 f32[]=0.2", NULL},
    {NULL}};
static const struct op_sample dynamic_samples[] = {
    {"f32[3,5] !i8[5,4] f32[4]=0.1,0.2,0.3,0.4 i8[4]=0,0,0,0 f32[4]", NULL},
    {"f32[2,3,5] !u8[5,4] f32[]=0.2 u8[]=3", NULL},
    {NULL}};
static const struct op_sample gemm_samples[] = {
    {"u8[3,5] f32[]=0.1 u8[]=3 !i8[5,4] f32[4]=0.1,0.2,0.3,0.4 i8[4]=0,0,0,0 !i32[4] f32[]=0.3 u8[]=100", NULL},
    {"i8[3,5] f32[]=0.1 i8[]=3 !i8[4,5] f32[]=0.1 i8[]=0", "transB=1 alpha=0.5f"},
    {"u8[5,3] f32[]=0.1 u8[]=3 !u8[5,4] f32[]=0.1 u8[]=7 !i32[1,4] f32[]=0.3 u8[]=100", "transA=1"},
    {NULL}};

#define ROW(type_, doc_, min_, max_, name, ...)                                                                        \
    {                                                                                                                  \
        .type = type_, .domain = "com.microsoft", .since = 1, .doc = doc_, .in_min = min_, .in_max = max_,             \
        .out_min = 1, .out_max = 1, .infer = infer_##name, .forward = forward_##name, .samples = name##_samples,       \
        .couple = couple_##name,                                                                                       \
        __VA_ARGS__                                                                                                    \
    }
OP_CLASS(matmul_integer_to_float) = ROW("MatMulIntegerToFloat", "Product of 8-bit matrices, scaled to float.", 4, 7,
                                        to_float, .cost = cost_matmul);
OP_CLASS(dynamic_quantize_matmul) = ROW("DynamicQuantizeMatMul",
                                        "Product of a float matrix, quantized by its range, and an 8-bit matrix.", 3, 5,
                                        dynamic, .cost = cost_matmul);
OP_CLASS(qgemm) = ROW("QGemm", "Product of 8-bit matrices plus C, to 8 bits or float.", 6, 9, gemm, .cost = cost_gemm,
                      .attrs = gemm_attrs, .attrs_size = sizeof(struct gemm_attrs));
