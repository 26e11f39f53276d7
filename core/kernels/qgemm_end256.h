/* SPDX-License-Identifier: Apache-2.0
 * qgemm_end256.h - what integer products do with 8 or 16 neighbouring sums in 256-bit vectors: requantize to bytes,
 * scale to floats, or store. Included by the kernels of each instruction set. */
#ifndef PARED_KERNELS_QGEMM_END256_H
#define PARED_KERNELS_QGEMM_END256_H

#include <immintrin.h>
#include <string.h>

#include "core/kernels/qgemm.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void finish_bytes(const struct qgemm_out *o, int vecs, const __m256i *sum, int columns, uint8_t *y)
{
    const __m256 low = _mm256_set1_ps((float)(o->low - o->zero)), high = _mm256_set1_ps((float)(o->high - o->zero));
    __m256i word[2];

    for (int v = 0; v < vecs; v++) {
        __m256i s = sum[v];
        if (o->bias)
            s = _mm256_add_epi32(s, _mm256_loadu_si256((const __m256i *)(const void *)o->bias + v));
        __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(s), _mm256_loadu_ps(o->multiplier + 8 * v));
        f = _mm256_min_ps(_mm256_max_ps(f, low), high); /* NaN: the low bound */
        word[v] = _mm256_cvtps_epi32(f);                /* to nearest, halves to even */
    }
    __m256i both = _mm256_packs_epi32(word[0], word[vecs - 1]);
    both = _mm256_permute4x64_epi64(both, 0xD8); /* columns in order */
    both = _mm256_and_si256(_mm256_add_epi16(both, _mm256_set1_epi16((int16_t)o->zero)), _mm256_set1_epi16(0xFF));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    if (vecs == 2 && columns == 16) {
        _mm_storeu_si128((__m128i *)(void *)y, bytes);
    } else if (vecs == 1 && columns == 8) {
        _mm_storel_epi64((__m128i *)(void *)y, bytes);
    } else {
        uint8_t part[16];
        _mm_storeu_si128((__m128i *)(void *)part, bytes);
        memcpy(y, part, (size_t)columns);
    }
}

/* Float or int32 results. */
INLINE void finish_words(const struct qgemm_out *o, int vecs, const __m256i *sum, int columns, void *y)
{
    __m256i part[2];

    for (int v = 0; v < vecs; v++) {
        part[v] = sum[v];
        if (o->bias)
            part[v] = _mm256_add_epi32(part[v], _mm256_loadu_si256((const __m256i *)(const void *)o->bias + v));
        if (o->end == QGEMM_FLOAT) {
            __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(part[v]), _mm256_loadu_ps(o->multiplier + 8 * v));
            if (o->float_bias)
                f = _mm256_add_ps(f, _mm256_loadu_ps(o->float_bias + 8 * v));
            part[v] = _mm256_castps_si256(f);
        }
    }
    if (columns == 8 * vecs) {
        for (int v = 0; v < vecs; v++)
            _mm256_storeu_si256((__m256i *)y + v, part[v]);
    } else {
        int32_t whole[16];
        for (int v = 0; v < vecs; v++)
            _mm256_storeu_si256((__m256i *)(void *)whole + v, part[v]);
        memcpy(y, whole, (size_t)columns * sizeof *whole);
    }
}

INLINE void finish(const struct qgemm_out *o, int vecs, const __m256i *sum, int columns, void *y)
{
    if (o->end == QGEMM_BYTES)
        finish_bytes(o, vecs, sum, columns, y);
    else
        finish_words(o, vecs, sum, columns, y);
}

#endif
