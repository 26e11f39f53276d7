/* SPDX-License-Identifier: Apache-2.0
 * matmul_nbits.c - preparing rows, and the portable dot product; see matmul_nbits.h. */
#include "core/kernels/matmul_nbits.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/isa.h"

bool nbits_prepared_count(int64_t k, int64_t block, int64_t *count)
{
    return i64_mul(i64_ceil_div(k, block), block + 1, count);
}

void nbits_prepare(int bits, int64_t k, int64_t block, const float *a, float *prepared)
{
    const int64_t blocks = i64_ceil_div(k, block), half = block / 2;
    float *sums = prepared + blocks * block;

    memset(prepared, 0, (size_t)(blocks * block) * sizeof *prepared);
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t n = i64_min(block, k - b * block);
        const float *from = a + b * block;
        float *to = prepared + b * block, lane[8] = {0};
        for (int64_t i = 0; i < n; i++) {
            to[bits == 4 ? i / 2 + (i % 2 ? half : 0) : i] = from[i];
            lane[i % 8] += from[i];
        }
        sums[b] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
}

/* Codes of one block times its elements. */
static float block_8(const uint8_t *q, const float *a, int64_t block)
{
    float lane[4] = {0};
    for (int64_t i = 0; i < block; i += 4)
        for (int l = 0; l < 4; l++)
            lane[l] += (float)q[i + l] * a[i + l];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

static float block_4(const uint8_t *q, const float *a, int64_t block)
{
    const int64_t half = block / 2;
    float lane[4] = {0};
    for (int64_t i = 0; i < half; i += 4)
        for (int l = 0; l < 4; l++)
            lane[l] += (float)(q[i + l] & 15) * a[i + l] + (float)(q[i + l] >> 4) * a[half + i + l];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

float nbits_dot(const struct nbits_row *w, const float *prepared)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        return nbits_dot_avx2(w, prepared);
#endif
    const float *sums = prepared + w->blocks * w->block;
    const int64_t blob = w->block * w->bits / 8;
    float sum = 0;
    for (int64_t b = 0; b < w->blocks; b++) {
        const float *a = prepared + b * w->block;
        const float product = (w->bits == 4 ? block_4 : block_8)(w->codes + b * blob, a, w->block);
        sum += w->scales[b] * (product - w->zeros[b] * sums[b]);
    }
    return sum;
}

void nbits_unpack(int bits, const uint8_t *codes, int64_t n, float zero, float scale, float *w)
{
    int64_t i = 0;
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        i = nbits_unpack_avx2(bits, codes, n, zero, scale, w);
#endif
    for (; i < n; i++) {
        const int code = bits == 8 ? codes[i] : i % 2 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
        w[i] = ((float)code - zero) * scale;
    }
}
