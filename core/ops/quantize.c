/* SPDX-License-Identifier: Apache-2.0
 * Shared pieces of the quantized operators: see quantize.h. */
#include "core/ops/quantize.h"

#include <inttypes.h>
#include <math.h>

#include "core/kernels/simd.h"

int32_t *quantize_zeros(struct run_ctx *c, const struct tensor *zero, int64_t *count, struct err *err)
{
    const int64_t n = zero ? tensor_count(zero) : 1;
    size_t bytes;

    *count = n;
    if (zero && (n < 1 || dtype_is_float(zero->dtype) || dtype_bits(zero->dtype) > 32)) {
        err_set(err, ERR_OPERATOR, "a zero point of type %s with %" PRId64 " values is not supported",
                dtype_name(zero->dtype), n);
        return NULL;
    }
    int32_t *out = size_mul((size_t)n, sizeof *out, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!out)
        return NULL;
    for (int64_t i = 0; i < n; i++)
        out[i] = zero ? (int32_t)dtype_get_i64(zero->dtype, zero->data, i) : 0;
    return out;
}

int quantize_check_count(const struct infer_ctx *c, int i, const char *name, int64_t channels, struct err *err)
{
    char text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const int64_t count = shape_count(infer_shape(c, i));
    if (count == 1 || count == -1 || channels < 0 || count == channels)
        return 0;
    return err_set(err, ERR_SHAPE,
                   "input '%s' has shape %s; it must hold one value, or one for each of the %" PRId64 " channels", name,
                   shape_text(infer_shape(c, i), text), channels);
}

/* Comparisons written so that NaN ends at the low bound. */
#define DEFINE_ROW(name, T, low, high)                                                                               \
    KERNEL_CLONES static void name(const int32_t *restrict sum, T *restrict out, int64_t n, int32_t bias,            \
                                   float multiplier, float zero)                                                     \
    {                                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                            \
            float v = (float)(int32_t)((uint32_t)sum[i] + (uint32_t)bias) * multiplier;                              \
            v = v > (low)-zero ? v : (low)-zero;                                                                     \
            v = v < (high)-zero ? v : (high)-zero;                                                                   \
            /* adding 1.5 * 2^23 rounds to the nearest integer, halves to even */                                    \
            out[i] = (T)((int32_t)(v + 12582912.0f - 12582912.0f) + (int32_t)zero);                                  \
        }                                                                                                            \
    }
DEFINE_ROW(row_i8, int8_t, -128.0f, 127.0f)
DEFINE_ROW(row_u8, uint8_t, 0.0f, 255.0f)

static void rows(void *arg, int64_t begin, int64_t end)
{
    const struct requantize *q = arg;
    for (int64_t r = begin; r < end; r++) {
        const int64_t at = r * q->n, channel = r % q->cycle;
        const int32_t bias = q->bias ? q->bias[channel] : 0;
        if (q->out_signed)
            row_i8(q->sum + at, (int8_t *)q->out + at, q->n, bias, q->multiplier[channel], (float)q->zero);
        else
            row_u8(q->sum + at, (uint8_t *)q->out + at, q->n, bias, q->multiplier[channel], (float)q->zero);
    }
}

void quantize_sums(struct pool *pool, struct requantize *q)
{
    op_parallel(pool, q->rows, i64_max(1, 16384 / i64_max(q->n, 1)), rows, q);
}

/* ---- where scales apply ---- */
static int scale_mismatch(const struct shape *x, const struct shape *scale, const char *want, struct err *err)
{
    char x_text[SHAPE_TEXT], s_text[SHAPE_TEXT];
    return err_set(err, ERR_SHAPE, "the scale has shape %s for an input of shape %s; it must be %s",
                   shape_text(scale, s_text), shape_text(x, x_text), want);
}

static int check_scale(const struct quantize_layout *l, int axis, const struct shape *x, const struct shape *scale,
                       struct err *err)
{
    if (l->kind == QUANTIZE_PER_AXIS) {
        if (scale->dim[0] >= 0 && l->length >= 0 && scale->dim[0] != l->length)
            return scale_mismatch(x, scale, "a vector with one value for each index of the axis", err);
        return 0;
    }
    if (scale->rank != x->rank)
        return scale_mismatch(x, scale, "of the same rank, because block_size is set", err);
    for (int i = 0; i < x->rank; i++) {
        const int64_t want = i == axis ? l->scales : x->dim[i];
        if (want >= 0 && scale->dim[i] >= 0 && scale->dim[i] != want)
            return scale_mismatch(x, scale, "the input's shape with the axis divided by block_size, rounded up", err);
    }
    return 0;
}

int quantize_layout_make(int64_t axis_given, int64_t block_size, const struct shape *x, const struct shape *scale,
                         struct quantize_layout *l, struct err *err)
{
    const bool has_axis = axis_given != QUANTIZE_NO_AXIS;
    int axis = 0;

    *l = (struct quantize_layout){
        .kind = QUANTIZE_PER_TENSOR, .outer = 1, .length = 1, .inner = shape_count(x), .block = 1, .scales = 1};
    if (block_size < 0)
        return err_set(err, ERR_MODEL, "attribute 'block_size' is %" PRId64 "; it must not be negative", block_size);
    if (x->rank == SHAPE_UNKNOWN_RANK || scale->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (block_size == 0 && (scale->rank == 0 || (scale->rank == 1 && scale->dim[0] == 1)))
        return 0;
    if (!has_axis || (block_size == 0 && scale->rank > 1))
        return scale_mismatch(x, scale, has_axis ? "a scalar, or a vector along the axis" : "a scalar", err);
    if (op_axis(x, axis_given, &axis, err) < 0)
        return -1;
    l->kind = block_size ? QUANTIZE_PER_BLOCK : QUANTIZE_PER_AXIS;
    l->outer = shape_product(x, 0, axis);
    l->length = x->dim[axis];
    l->inner = shape_product(x, axis + 1, x->rank);
    l->block = block_size ? block_size : 1;
    l->scales = l->length < 0 ? l->length : i64_ceil_div(l->length, l->block);
    return check_scale(l, axis, x, scale, err);
}

int quantize_want_8bit(const struct infer_ctx *c, int i, struct err *err)
{
    const enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || d == DTYPE_INT8 || d == DTYPE_UINT8)
        return 0;
    return err_set(err, ERR_OPERATOR, "input #%d is %s; only int8 and uint8 are supported", i, dtype_name(d));
}

static int check_single(const struct infer_ctx *c, int i, const char *what, struct err *err)
{
    char text[SHAPE_TEXT];
    const struct shape *s = infer_shape(c, i);
    if (!shape_known(s) || shape_count(s) == 1)
        return 0;
    return err_set(err, ERR_SHAPE, "input #%d, a %s, has shape %s; it must hold one value", i, what,
                   shape_text(s, text));
}

int quantize_check_param(const struct infer_ctx *c, int scale, int zero, bool optional, struct err *err)
{
    if (!infer_has(c, scale) || (!optional && !infer_has(c, zero)))
        return err_set(err, ERR_MODEL, "input #%d is missing; it is required", infer_has(c, scale) ? zero : scale);
    if (op_dtype(c, scale) != DTYPE_NONE && op_dtype(c, scale) != DTYPE_FLOAT)
        return err_set(err, ERR_MODEL, "input #%d, a scale, is %s; it must be float32", scale,
                       dtype_name(op_dtype(c, scale)));
    if (check_single(c, scale, "scale", err) < 0)
        return -1;
    if (!infer_has(c, zero))
        return 0;
    return quantize_want_8bit(c, zero, err) < 0 ? -1 : check_single(c, zero, "zero point", err);
}

struct q8 quantize_param(const struct run_ctx *c, int scale, int zero, enum dtype dtype)
{
    const struct tensor *z = run_in(c, zero);
    return (struct q8){.scale = tensor_f32(c->in[scale])[0],
                       .zero = z ? (int32_t)dtype_get_i64(z->dtype, z->data, 0) : 0,
                       .is_signed = dtype == DTYPE_INT8};
}

struct map_job {
    const uint8_t *table, *x;
    uint8_t *y;
};

static void map_piece(void *arg, int64_t begin, int64_t end)
{
    const struct map_job *k = arg;
    q8_map(k->table, k->x + begin, k->y + begin, end - begin);
}

void quantize_map(struct pool *pool, const uint8_t table[256], const void *x, void *y, int64_t n)
{
    struct map_job k = {table, x, y};
    op_parallel(pool, n, 1 << 16, map_piece, &k);
}

KERNEL_CLONES static void range_of(const float *restrict x, int64_t n, float *restrict low, float *restrict high)
{
    float least[8] = {0}, most[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) {
            least[j] = x[i + j] < least[j] ? x[i + j] : least[j];
            most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
        }
    for (; i < n; i++) {
        least[0] = x[i] < least[0] ? x[i] : least[0];
        most[0] = x[i] > most[0] ? x[i] : most[0];
    }
    for (int j = 0; j < 8; j++) {
        *low = least[j] < *low ? least[j] : *low;
        *high = most[j] > *high ? most[j] : *high;
    }
}

struct dynamic_job {
    const struct q8 *q;
    const float *x;
    uint8_t *y;
};

static void dynamic_piece(void *arg, int64_t begin, int64_t end)
{
    const struct dynamic_job *k = arg;
    q8_quantize(k->q, k->x + begin, k->y + begin, end - begin);
}

void quantize_dynamic(struct pool *pool, const float *x, int64_t n, uint8_t *y, struct q8 *param)
{
    float low = 0, high = 0;

    range_of(x, n, &low, &high);
    *param = (struct q8){.scale = low == high ? 1 : (high - low) / 255};
    const float zero = nearbyintf(-low / param->scale);
    param->zero = (int32_t)(zero > 0 ? (zero < 255 ? zero : 255) : 0);
    struct dynamic_job k = {param, x, y};
    if (y)
        op_parallel(pool, n, 1 << 15, dynamic_piece, &k);
}
