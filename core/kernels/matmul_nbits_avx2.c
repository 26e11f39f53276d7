/* SPDX-License-Identifier: Apache-2.0
 * matmul_nbits_avx2.c - the dot product of matmul_nbits.h: sixteen codes become two vectors of floats, which are
 * multiplied into a block's sum; block sums are scaled into the row's sum without being joined first. */
#include "core/kernels/matmul_nbits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

static inline __m128i load_64(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}
static inline __m256 floats(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

static __m256 block_8(const uint8_t *q, const float *a, int64_t block)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    for (int64_t i = 0; i < block; i += 16) {
        s0 = _mm256_fmadd_ps(floats(load_64(q + i)), _mm256_loadu_ps(a + i), s0);
        s1 = _mm256_fmadd_ps(floats(load_64(q + i + 8)), _mm256_loadu_ps(a + i + 8), s1);
    }
    return _mm256_add_ps(s0, s1);
}

static __m256 block_4(const uint8_t *q, const float *a, int64_t block)
{
    const __m128i low = _mm_set1_epi8(15);
    const int64_t half = block / 2;
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    for (int64_t i = 0; i < half; i += 8) {
        const __m128i pairs = load_64(q + i);
        s0 = _mm256_fmadd_ps(floats(_mm_and_si128(pairs, low)), _mm256_loadu_ps(a + i), s0);
        s1 = _mm256_fmadd_ps(floats(_mm_and_si128(_mm_srli_epi16(pairs, 4), low)), _mm256_loadu_ps(a + half + i), s1);
    }
    return _mm256_add_ps(s0, s1);
}

static float joined(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

float nbits_dot_avx2(const struct nbits_row *w, const float *prepared)
{
    const float *sums = prepared + w->blocks * w->block;
    const int64_t blob = w->block * w->bits / 8;
    __m256 sum = _mm256_setzero_ps();
    float shift = 0;
    for (int64_t b = 0; b < w->blocks; b++) {
        const uint8_t *q = w->codes + b * blob;
        const float *a = prepared + b * w->block;
        const __m256 product = w->bits == 4 ? block_4(q, a, w->block) : block_8(q, a, w->block);
        _mm_prefetch((const char *)q + 512, _MM_HINT_T0);
        sum = _mm256_fmadd_ps(_mm256_set1_ps(w->scales[b]), product, sum);
        shift += w->scales[b] * w->zeros[b] * sums[b];
    }
    return joined(sum) - shift;
}

int64_t nbits_unpack_avx2(int bits, const uint8_t *codes, int64_t n, float zero, float scale, float *w)
{
    const __m256 z = _mm256_set1_ps(zero), s = _mm256_set1_ps(scale);
    const __m128i low = _mm_set1_epi8(15);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i bytes;
        if (bits == 4) { /* low and high nibbles in turn */
            const __m128i pairs = load_64(codes + i / 2);
            bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, low), _mm_and_si128(_mm_srli_epi16(pairs, 4), low));
        } else {
            bytes = _mm_loadu_si128((const __m128i *)(const void *)(codes + i));
        }
        _mm256_storeu_ps(w + i, _mm256_mul_ps(_mm256_sub_ps(floats(bytes), z), s));
        _mm256_storeu_ps(w + i + 8, _mm256_mul_ps(_mm256_sub_ps(floats(_mm_srli_si128(bytes, 8)), z), s));
    }
    return i;
}
#endif
