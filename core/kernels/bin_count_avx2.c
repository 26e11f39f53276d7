/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kernels/bin_count.h"

#include <immintrin.h>

static inline __m256i bins_of(__m256 x, __m256 scale, __m256 width)
{
    const __m256 half = _mm256_set1_ps((float)BIN_HALF), least = _mm256_set1_ps((float)-BIN_HALF);
    const __m256 v = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, scale), least), half);
    const __m256i whole = _mm256_cvttps_epi32(v);
    const __m256 below = _mm256_cmp_ps(x, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), width), _CMP_LT_OQ); /* -1 */
    const __m256i bin = _mm256_add_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(BIN_HALF)), _mm256_castps_si256(below));
    return _mm256_min_epi32(_mm256_max_epi32(bin, _mm256_setzero_si256()), _mm256_set1_epi32(BIN_COUNT - 1));
}

void bin_count_avx2(struct bin_tables *t, const float *x, int n, float width)
{
    enum { STEP = 16 };
    const __m256 w = _mm256_set1_ps(width), scale = _mm256_set1_ps(1 / width);
    _Alignas(32) int32_t bin[STEP];
    int i = 0;
    for (; i + STEP <= n; i += STEP) {
        _mm256_store_si256((__m256i *)bin, bins_of(_mm256_loadu_ps(x + i), scale, w));
        _mm256_store_si256((__m256i *)(bin + 8), bins_of(_mm256_loadu_ps(x + i + 8), scale, w));
        for (int k = 0; k < STEP; k += 4) {
            t->at[0][bin[k]]++;
            t->at[1][bin[k + 1]]++;
            t->at[2][bin[k + 2]]++;
            t->at[3][bin[k + 3]]++;
        }
    }
    bin_count_portable(t, x + i, n - i, width); /* i is a multiple of 4 */
}
