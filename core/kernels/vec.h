/* SPDX-License-Identifier: Apache-2.0
 * vec.h - a vector of floats of the width the file is compiled for, so that one source makes the portable and the
 * AVX2 kernel: <kernel>_loops.h is included by <kernel>.c and by <kernel>_avx2.c.
 * Width      8 with AVX2, else 4. vec_fma fuses where the set has it; elsewhere it rounds twice. So the sets differ in
 *            last bits, but the result of one set does not depend on how an array is cut: an incomplete vector goes
 *            through the same code as a full one. */
#ifndef PARED_KERNELS_VEC_H
#define PARED_KERNELS_VEC_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX2__)
enum { VEC = 8 };
#define VEC_BYTES 32
#else
enum { VEC = 4 };
#define VEC_BYTES 16
#endif
typedef float vec __attribute__((vector_size(VEC_BYTES)));
typedef int32_t vec_int __attribute__((vector_size(VEC_BYTES)));

static inline vec vec_load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vec_store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}
/* The first n < VEC elements; the others are 0 when loaded and left alone when stored. */
#if defined(__AVX2__)
static inline __m256i vec_part(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec vec_load_part(const float *p, int64_t n)
{
    return (vec)_mm256_maskload_ps(p, vec_part(n));
}
static inline void vec_store_part(float *p, vec v, int64_t n)
{
    _mm256_maskstore_ps(p, vec_part(n), (__m256)v);
}
#else
static inline vec vec_load_part(const float *p, int64_t n)
{
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
static inline void vec_store_part(float *p, vec v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}
#endif
static inline vec vec_set(float x)
{
#if defined(__AVX2__)
    return (vec)_mm256_set1_ps(x);
#else
    return (vec){x, x, x, x};
#endif
}
static inline vec_int vec_bits(vec v)
{
    return (vec_int)v;
}
static inline vec vec_of_bits(vec_int v)
{
    return (vec)v;
}
/* mask lanes are 0 or -1 */
static inline vec vec_select(vec_int mask, vec yes, vec no)
{
#if defined(__AVX2__)
    return (vec)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (vec)((mask & (vec_int)yes) | (~mask & (vec_int)no));
#endif
}
/* a * b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
#if defined(__FMA__) && defined(__AVX2__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
/* The larger and the smaller; b where either is NaN. */
static inline vec vec_max(vec a, vec b)
{
#if defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vec_select(a > b, a, b);
#endif
}
static inline vec vec_min(vec a, vec b)
{
#if defined(__AVX2__)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vec)_mm_min_ps((__m128)a, (__m128)b);
#else
    return vec_select(a < b, a, b);
#endif
}
static inline vec vec_abs(vec v)
{
    return vec_of_bits(vec_bits(v) & INT32_MAX);
}
/* |magnitude| with the sign of `sign`. */
static inline vec vec_copysign(vec magnitude, vec sign)
{
    return vec_of_bits((vec_bits(magnitude) & INT32_MAX) | (vec_bits(sign) & INT32_MIN));
}
/* Lanes joined in a fixed order. */
static inline float vec_sum(vec v)
{
#if defined(__AVX2__)
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
static inline float vec_largest(vec v)
{
    float most = v[0];
    for (int i = 1; i < VEC; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

#endif
