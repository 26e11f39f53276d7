/* SPDX-License-Identifier: Apache-2.0
 * q8.c - loops over 8-bit values, written so that the compiler makes vectors of them; see q8.h. Rounding is the
 * addition of 1.5 * 2^23, exact because values are clamped before; comparisons send NaN to the low bound. */
#include "core/kernels/q8.h"

#include <math.h>

#include "core/kernels/isa.h"
#include "core/kernels/q8_line.h"
#include "core/kernels/simd.h"

#define MAGIC Q8_MAGIC

float q8_real(const struct q8 *q, uint8_t bits)
{
    return (float)((q->is_signed ? (int32_t)(int8_t)bits : (int32_t)bits) - q->zero) * q->scale;
}

uint8_t q8_bits(const struct q8 *q, float real)
{
    const float low = (float)(q8_low(q) - q->zero), high = (float)(q8_high(q) - q->zero);
    float v = real / q->scale;
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (uint8_t)((int32_t)nearbyintf(v) + q->zero);
}

/* Everything a product needs, in the flipped (unsigned) domain. */
struct line {
    float a, offset, low, high;
    float zero_a, zero_b;
    uint8_t flip_a, flip_b, flip_y;
};

#define STORE(i, value)                                                                                                \
    do {                                                                                                               \
        float v_ = (value);                                                                                            \
        v_ = v_ > k->low ? v_ : k->low;                                                                                \
        v_ = v_ < k->high ? v_ : k->high;                                                                              \
        y[i] = (uint8_t)((uint8_t)(int32_t)(v_ + MAGIC - MAGIC) ^ k->flip_y);                                          \
    } while (0)
#define REAL_A(i) ((float)(a[i] ^ k->flip_a))
#define REAL_B(i) ((float)(b[i] ^ k->flip_b))

KERNEL_CLONES static void mul_both(const struct line *k, const uint8_t *restrict a, const uint8_t *restrict b,
                                   uint8_t *restrict y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        STORE(i, (REAL_A(i) - k->zero_a) * (REAL_B(i) - k->zero_b) * k->a + k->offset);
}

KERNEL_CLONES static void mul_one(const struct line *k, const uint8_t *restrict a, float b_real, uint8_t *restrict y,
                                  int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        STORE(i, (REAL_A(i) - k->zero_a) * b_real * k->a + k->offset);
}

static int32_t lifted(const struct q8 *q)
{
    return q->zero + (q->is_signed ? 128 : 0);
}

static struct line line_of(const struct q8_binary *op)
{
    const int32_t lift = op->y.is_signed ? 128 : 0;
    return (struct line){.flip_a = q8_flip(&op->a), .flip_b = q8_flip(&op->b), .flip_y = q8_flip(&op->y),
                         .low = (float)(op->low + lift), .high = (float)(op->high + lift),
                         .zero_a = (float)lifted(&op->a), .zero_b = (float)lifted(&op->b)};
}

static void add_line(const struct q8_line *k, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2)) {
        q8_line_add_avx2(k, a, b, y, n);
        return;
    }
#endif
    q8_line_add(k, a, b, y, n);
}

static void scale_line(const struct q8_line *k, const uint8_t *a, uint8_t *y, int64_t n)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2)) {
        q8_line_scale_avx2(k, a, y, n);
        return;
    }
#endif
    q8_line_scale(k, a, y, n);
}

void q8_add(const struct q8_binary *op, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n, int64_t step_a,
            int64_t step_b)
{
    struct q8_line k = {.a = op->a.scale / op->y.scale, .b = op->b.scale / op->y.scale, .flip_a = q8_flip(&op->a),
                        .flip_b = q8_flip(&op->b), .lift_a = q8_flip(&op->a), .lift_b = q8_flip(&op->b),
                        .low = (float)op->low, .high = (float)op->high};
    k.offset = (float)op->y.zero - fmaf(k.a, (float)op->a.zero, k.b * (float)op->b.zero);
    if (step_a == 0 && step_b != 0) { /* addition is symmetric: the constant goes to the right */
        const struct q8_binary turned = {op->b, op->a, op->y, op->low, op->high};
        q8_add(&turned, b, a, y, n, step_b, 0);
    } else if (step_b == 0 && n > 0) {
        k.offset = fmaf((float)((b[0] ^ k.flip_b) - k.lift_b), k.b, k.offset);
        scale_line(&k, a, y, step_a ? n : 1);
        for (int64_t i = 1; i < n && step_a == 0; i++)
            y[i] = y[0];
    } else {
        add_line(&k, a, b, y, n);
    }
}

void q8_channels(const struct q8 *in, const struct q8 *out, const float *factor, const float *offset, int64_t rows,
                 int64_t n, const uint8_t *x, uint8_t *y)
{
    const struct q8_line k = {.flip_a = q8_flip(in), .lift_a = q8_flip(in), .low = (float)q8_low(out),
                              .high = (float)q8_high(out)};
#if defined(__x86_64__)
    const bool fast = isa_has(ISA_AVX2);
#endif
    for (int64_t r = 0; r < rows; r++, x += n, y += n) {
#if defined(__x86_64__)
        if (fast) {
            q8_line_channels_avx2(&k, factor, offset, x, y, n);
            continue;
        }
#endif
        q8_line_channels(&k, factor, offset, x, y, n);
    }
}

void q8_mul(const struct q8_binary *op, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n, int64_t step_a,
            int64_t step_b)
{
    struct line k = line_of(op);
    k.a = op->a.scale * op->b.scale / op->y.scale;
    k.offset = (float)lifted(&op->y);
    if (step_a == 0 && n > 0) {
        const struct q8_binary turned = {op->b, op->a, op->y, op->low, op->high};
        if (step_b == 0) {
            q8_mul(op, a, b, y, 1, 1, 1);
            for (int64_t i = 1; i < n; i++)
                y[i] = y[0];
        } else {
            q8_mul(&turned, b, a, y, n, step_b, 0);
        }
    } else if (step_b == 0 && n > 0) {
        mul_one(&k, a, (float)(b[0] ^ k.flip_b) - k.zero_b, y, n);
    } else {
        mul_both(&k, a, b, y, n);
    }
}

float q8_identity(float x, float alpha)
{
    (void)alpha;
    return x;
}

void q8_table(const struct q8 *x, const struct q8 *y, q8_function *f, float alpha, uint8_t table[256])
{
    for (int i = 0; i < 256; i++)
        table[i] = q8_bits(y, f(q8_real(x, (uint8_t)i), alpha));
}

void q8_map(const uint8_t table[256], const uint8_t *x, uint8_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = table[x[i]];
}

KERNEL_CLONES void q8_sum_rows(const uint8_t *restrict x, int64_t rows, int64_t stride, int64_t n, uint8_t flip,
                               int32_t *restrict sum)
{
    for (int64_t r = 0; r < rows; r++, x += stride)
        for (int64_t j = 0; j < n; j++)
            sum[j] += x[j] ^ flip;
}

KERNEL_CLONES static void scale_sums(const int32_t *restrict sum, int64_t n, int32_t bias, float multiplier, float zero,
                                     uint8_t flip, uint8_t *restrict y)
{
    for (int64_t i = 0; i < n; i++) {
        float v = (float)(sum[i] + bias) * multiplier;
        v = v > 0.0f - zero ? v : 0.0f - zero;
        v = v < 255.0f - zero ? v : 255.0f - zero;
        y[i] = (uint8_t)((uint8_t)(int32_t)(v + MAGIC - MAGIC + zero) ^ flip);
    }
}

void q8_scale_sums(const int32_t *sum, int64_t n, int32_t bias, float multiplier, const struct q8 *out, uint8_t *y)
{
    scale_sums(sum, n, bias, multiplier, (float)lifted(out), q8_flip(out), y);
}

KERNEL_CLONES static void quantize(const float *restrict x, uint8_t *restrict y, int64_t n, float scale, float zero,
                                   uint8_t flip)
{
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] / scale;
        v = v > 0.0f - zero ? v : 0.0f - zero;
        v = v < 255.0f - zero ? v : 255.0f - zero;
        y[i] = (uint8_t)((uint8_t)(int32_t)(v + MAGIC - MAGIC + zero) ^ flip);
    }
}

void q8_quantize(const struct q8 *q, const float *x, uint8_t *y, int64_t n)
{
    quantize(x, y, n, q->scale, (float)lifted(q), q8_flip(q));
}

KERNEL_CLONES uint8_t q8_max(const uint8_t *x, int64_t n, uint8_t flip)
{
    uint8_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t v = x[i] ^ flip;
        most = v > most ? v : most;
    }
    return most;
}
