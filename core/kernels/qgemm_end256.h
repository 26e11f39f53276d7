/* SPDX-License-Identifier: Apache-2.0
 * qgemm_end256.h - what integer products do with 8 or 16 neighbouring sums in 256-bit vectors: requantize to bytes,
 * scale to floats, or store. Included by the kernels of each instruction set. */
#ifndef PARED_KERNELS_QGEMM_END256_H
#define PARED_KERNELS_QGEMM_END256_H

#include <immintrin.h>
#include <string.h>

#include "core/kernels/qgemm.h"

#define INLINE static inline __attribute__((always_inline))

/* What every row needs, loaded once a tile: stores of bytes may alias anything, so the compiler would load it again. */
struct end_bytes {
    __m256i bias[2], zero;
    __m256 multiplier[2], low, high;
};

INLINE struct end_bytes prepare(const struct qgemm_out *o, int vecs)
{
    struct end_bytes e;
    e.low = _mm256_set1_ps((float)(o->low - o->zero));
    e.high = _mm256_set1_ps((float)(o->high - o->zero));
    e.zero = _mm256_set1_epi16((int16_t)o->zero);
    for (int v = 0; v < vecs; v++) {
        e.bias[v] = o->bias ? _mm256_loadu_si256((const __m256i *)(const void *)o->bias + v) : _mm256_setzero_si256();
        e.multiplier[v] = _mm256_loadu_ps(o->multiplier + 8 * v);
    }
    return e;
}

/* One row's sums to words, columns in order, not yet cut to a byte. */
INLINE __m256i words_of(const struct end_bytes *e, int vecs, const __m256i *sum)
{
    __m256i word[2];
    for (int v = 0; v < vecs; v++) {
        __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sum[v], e->bias[v])), e->multiplier[v]);
        f = _mm256_min_ps(_mm256_max_ps(f, e->low), e->high); /* NaN: the low bound */
        word[v] = _mm256_cvtps_epi32(f);                      /* to nearest, halves to even */
    }
    const __m256i both = _mm256_packs_epi32(word[0], word[vecs - 1]);
    return _mm256_and_si256(_mm256_add_epi16(both, e->zero), _mm256_set1_epi16(0xFF));
}

INLINE void store_bytes(__m128i bytes, int vecs, int columns, uint8_t *y)
{
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

/* Two rows at once: four groups of four columns of each come out as 0 2 of both, then 1 3 of both. */
INLINE void finish_two(const struct end_bytes *e, int vecs, const __m256i *one, const __m256i *two, int columns,
                       uint8_t *y_one, uint8_t *y_two)
{
    __m256i bytes = _mm256_packus_epi16(words_of(e, vecs, one), words_of(e, vecs, two));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    store_bytes(_mm256_castsi256_si128(bytes), vecs, columns, y_one);
    store_bytes(_mm256_extracti128_si256(bytes, 1), vecs, columns, y_two);
}

INLINE void finish_one(const struct end_bytes *e, int vecs, const __m256i *sum, int columns, uint8_t *y)
{
    const __m256i word = _mm256_permute4x64_epi64(words_of(e, vecs, sum), 0xD8);
    store_bytes(_mm_packus_epi16(_mm256_castsi256_si128(word), _mm256_extracti128_si256(word, 1)), vecs, columns, y);
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
        int32_t whole[16] = {0};
        for (int v = 0; v < vecs; v++)
            _mm256_storeu_si256((__m256i *)(void *)whole + v, part[v]);
        memcpy(y, whole, (size_t)columns * sizeof *whole);
    }
}

/* All rows of a tile, y_step bytes apart. */
INLINE void finish(const struct qgemm_out *o, int rows, int vecs, __m256i sum[][2], int columns, char *y, int64_t y_step)
{
    if (o->end == QGEMM_BYTES) {
        const struct end_bytes e = prepare(o, vecs);
#pragma GCC unroll 3
        for (int r = 0; r + 1 < rows; r += 2)
            finish_two(&e, vecs, sum[r], sum[r + 1], columns, (uint8_t *)y + r * y_step,
                       (uint8_t *)y + (r + 1) * y_step);
        if (rows % 2)
            finish_one(&e, vecs, sum[rows - 1], columns, (uint8_t *)y + (rows - 1) * y_step);
    } else {
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            finish_words(o, vecs, sum[r], columns, y + r * y_step);
    }
}

#endif
