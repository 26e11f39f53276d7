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
