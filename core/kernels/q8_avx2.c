/* SPDX-License-Identifier: Apache-2.0
 * q8_avx2.c - the loops of q8_line.h as the compiler vectorises them for AVX2 and FMA. */
#if defined(__x86_64__)
#include "core/kernels/q8_line.h"

void q8_line_add_avx2(const struct q8_line *k, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n)
{
    q8_line_add(k, a, b, y, n);
}

void q8_line_scale_avx2(const struct q8_line *k, const uint8_t *a, uint8_t *y, int64_t n)
{
    q8_line_scale(k, a, y, n);
}

void q8_line_channels_avx2(const struct q8_line *k, const float *factor, const float *offset, const uint8_t *a,
                           uint8_t *y, int64_t n)
{
    q8_line_channels(k, factor, offset, a, y, n);
}
#endif
