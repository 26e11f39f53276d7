/* SPDX-License-Identifier: Apache-2.0
 * q8_line.h - the loops of 8-bit sums, for the files that compile them for an instruction set each: see q8.h.
 * Rounding   y = round(fma(a, ra, fma(b, rb, offset))): the order and the fused operations are part of the result, the
 *            same on every set, and the same as ONNX Runtime's where a result lies half way. */
#ifndef PARED_KERNELS_Q8_LINE_H
#define PARED_KERNELS_Q8_LINE_H

#include <math.h>
#include <stdint.h>

/* Everything a loop needs. Stored values are (bits ^ flip) - lift. */
struct q8_line {
    float a, b, offset, low, high;
    uint8_t flip_a, flip_b;
    int32_t lift_a, lift_b;
};
#define Q8_MAGIC 12582912.0f
#define Q8_STORE(k, y, value)                                                                                          \
    do {                                                                                                               \
        float v_ = (value);                                                                                            \
        v_ = v_ > (k)->low ? v_ : (k)->low;                                                                            \
        v_ = v_ < (k)->high ? v_ : (k)->high;                                                                          \
        (y) = (uint8_t)(int32_t)(v_ + Q8_MAGIC - Q8_MAGIC);                                                            \
    } while (0)

static inline void q8_line_add(const struct q8_line *line, const uint8_t *restrict a, const uint8_t *restrict b,
                               uint8_t *restrict y, int64_t n)
{
    const struct q8_line k = *line; /* stores of bytes may alias the caller's */
    for (int64_t i = 0; i < n; i++)
        Q8_STORE(&k, y[i], fmaf((float)((a[i] ^ k.flip_a) - k.lift_a), k.a,
                                fmaf((float)((b[i] ^ k.flip_b) - k.lift_b), k.b, k.offset)));
}

static inline void q8_line_scale(const struct q8_line *line, const uint8_t *restrict a, uint8_t *restrict y, int64_t n)
{
    const struct q8_line k = *line;
    for (int64_t i = 0; i < n; i++)
        Q8_STORE(&k, y[i], fmaf((float)((a[i] ^ k.flip_a) - k.lift_a), k.a, k.offset));
}

/* Every value of a row of n channels with its own factor and offset. */
static inline void q8_line_channels(const struct q8_line *line, const float *restrict factor,
                                    const float *restrict offset, const uint8_t *restrict a, uint8_t *restrict y,
                                    int64_t n)
{
    const struct q8_line k = *line;
    for (int64_t i = 0; i < n; i++)
        Q8_STORE(&k, y[i], fmaf((float)((a[i] ^ k.flip_a) - k.lift_a), factor[i], offset[i]));
}

void q8_line_add_avx2(const struct q8_line *k, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n);
void q8_line_scale_avx2(const struct q8_line *k, const uint8_t *a, uint8_t *y, int64_t n);
void q8_line_channels_avx2(const struct q8_line *k, const float *factor, const float *offset, const uint8_t *a,
                           uint8_t *y, int64_t n);

#endif
