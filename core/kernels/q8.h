/* SPDX-License-Identifier: Apache-2.0
 * q8.h - element-wise arithmetic of affine 8-bit values, real = (q - zero) * scale.
 * Signs      int8 and uint8 go through the same loops: an int8 value with its top bit flipped is a uint8 value with
 *            its zero point raised by 128.
 * Rounding   saturate(round_half_even(real / scale) + zero), in float32.
 * Threads    none inside: callers cut long arrays into pieces. */
#ifndef PARED_KERNELS_Q8_H
#define PARED_KERNELS_Q8_H

#include <stdbool.h>
#include <stdint.h>

struct q8 {
    float scale;
    int32_t zero; /* as stored: -128..127 or 0..255 */
    bool is_signed;
};
static inline uint8_t q8_flip(const struct q8 *q) { return q->is_signed ? 0x80 : 0; }
static inline int32_t q8_low(const struct q8 *q) { return q->is_signed ? -128 : 0; }
static inline int32_t q8_high(const struct q8 *q) { return q->is_signed ? 127 : 255; }
/* The value that the byte `bits` stands for, and back. */
float q8_real(const struct q8 *q, uint8_t bits);
uint8_t q8_bits(const struct q8 *q, float real);

/* y = a op b. low, high: bounds of the stored result, inside its type (an activation's range). Strides 0 or 1. */
struct q8_binary {
    struct q8 a, b, y;
    int32_t low, high;
};
void q8_add(const struct q8_binary *op, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n, int64_t step_a,
            int64_t step_b);
void q8_mul(const struct q8_binary *op, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n, int64_t step_a,
            int64_t step_b);

/* y[r, c] = saturate(round(x[r, c] * factor[c] + offset[c])) on stored values, the zero points being in `offset`. */
void q8_channels(const struct q8 *in, const struct q8 *out, const float *factor, const float *offset, int64_t rows,
                 int64_t n, const uint8_t *x, uint8_t *y);
/* y[i] = saturate(round_half_even(x[i] / scale) + zero); NaN gives the lowest value. */
void q8_quantize(const struct q8 *q, const float *x, uint8_t *y, int64_t n);

/* Functions of one value are tables. */
typedef float q8_function(float x, float alpha);
void q8_table(const struct q8 *x, const struct q8 *y, q8_function *f, float alpha, uint8_t table[256]);
float q8_identity(float x, float alpha);
void q8_map(const uint8_t table[256], const uint8_t *x, uint8_t *y, int64_t n);

/* The largest of n flipped bytes; 0 for none. */
uint8_t q8_max(const uint8_t *x, int64_t n, uint8_t flip);
/* sum[j] (0..n) += bytes of x (flipped to unsigned) over `rows` rows, `stride` apart. */
void q8_sum_rows(const uint8_t *x, int64_t rows, int64_t stride, int64_t n, uint8_t flip, int32_t *sum);
/* y[j] = saturate(round((sum[j] + bias) * multiplier) + zero of y), sums of flipped bytes. */
void q8_scale_sums(const int32_t *sum, int64_t n, int32_t bias, float multiplier, const struct q8 *out, uint8_t *y);

#endif
