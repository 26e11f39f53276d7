/* SPDX-License-Identifier: Apache-2.0
 * gemm_i8_avx2.c - the inner kernel of 8-bit products for AVX2; compiled with -mavx2 and called only where the CPU
 * has it. Four rows times sixteen columns live in eight registers; each step loads sixteen pairs of B and broadcasts
 * one pair of A a row. */
#include "core/kernels/gemm_i8.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

static inline __m256i pair_of(const int16_t *a)
{
    int32_t both;
    memcpy(&both, a, sizeof both);
    return _mm256_set1_epi32(both);
}

void gemm_i8_block_avx2(const int16_t *a, const int16_t *b, int64_t pairs, int32_t c[GEMM_I8_ROWS * GEMM_I8_COLS])
{
    __m256i sum[GEMM_I8_ROWS][2];
    const int16_t *row[GEMM_I8_ROWS];

    for (int r = 0; r < GEMM_I8_ROWS; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
        row[r] = a + r * pairs * 2;
    }
    for (int64_t p = 0; p < pairs; p++, b += 2 * GEMM_I8_COLS) {
        const __m256i b0 = _mm256_load_si256((const __m256i *)(const void *)b);
        const __m256i b1 = _mm256_load_si256((const __m256i *)(const void *)(b + GEMM_I8_COLS));
#pragma GCC unroll 4
        for (int r = 0; r < GEMM_I8_ROWS; r++) {
            const __m256i pair = pair_of(row[r] + p * 2);
            sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pair, b0));
            sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pair, b1));
        }
    }
    for (int r = 0; r < GEMM_I8_ROWS; r++) {
        _mm256_storeu_si256((__m256i *)(void *)(c + r * GEMM_I8_COLS), sum[r][0]);
        _mm256_storeu_si256((__m256i *)(void *)(c + r * GEMM_I8_COLS + 8), sum[r][1]);
    }
}
#endif
