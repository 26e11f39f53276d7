/* SPDX-License-Identifier: Apache-2.0
 * qconv_avx2.c - depthwise rows for AVX2. Sixteen channels of two kernel cells are interleaved, so that one vpmaddwd
 * multiplies both cells and adds; four neighbouring pixels share each vector of weights. */
#if defined(__x86_64__)
#include "core/kernels/qconv.h"
#include "core/kernels/qgemm_end256.h"

INLINE __m256i load(const int16_t *x)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

INLINE void cells(const struct qdepthwise_row *k, int pixels, const int16_t *x, const int16_t *w, int columns,
                  const struct qgemm_out *out, char *y, int64_t y_step)
{
    __m256i sum[4][2];
    const int64_t pairs = (k->cells + 1) / 2;

#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (int64_t p = 0; p < pairs; p++) {
        const int16_t *one = x + k->cell_at[2 * p];
        const int16_t *two = x + k->cell_at[2 * p + 1 < k->cells ? 2 * p + 1 : 2 * p]; /* the odd last weight is zero */
        const __m256i w_low = load(w + p * 32), w_high = load(w + p * 32 + 16);
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++) {
            const __m256i a = load(one + i * k->step), b = load(two + i * k->step);
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w_low));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w_high));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++) { /* channels in order */
        const __m256i low = sum[i][0], high = sum[i][1];
        sum[i][0] = _mm256_permute2x128_si256(low, high, 0x20);
        sum[i][1] = _mm256_permute2x128_si256(low, high, 0x31);
    }
    if (columns > 8)
        finish(out, pixels, 2, sum, columns, y, y_step);
    else
        finish(out, pixels, 1, sum, columns, y, y_step);
}

void qdepthwise_row_avx2(const struct qdepthwise_row *k, const int16_t *x, char *y)
{
    const int64_t elem = k->out.end == QGEMM_BYTES ? 1 : 4, y_step = k->channels * elem;
    const int64_t block_size = (k->cells + 1) / 2 * 32;

    for (int64_t c = 0; c < k->channels; c += 16) {
        const int16_t *w = k->w + c / 16 * block_size;
        const int columns = (int)(k->channels - c < 16 ? k->channels - c : 16);
        struct qgemm_out out = k->out;
        out.bias = out.bias ? out.bias + c : NULL;
        out.multiplier = out.multiplier ? out.multiplier + c : NULL;
        out.float_bias = out.float_bias ? out.float_bias + c : NULL;
        int64_t i = 0;
        for (; i + 4 <= k->pixels; i += 4)
            cells(k, 4, x + c + i * k->step, w, columns, &out, y + i * y_step + c * elem, y_step);
        for (; i < k->pixels; i++)
            cells(k, 1, x + c + i * k->step, w, columns, &out, y + i * y_step + c * elem, y_step);
    }
}
#endif
