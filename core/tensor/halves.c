/* SPDX-License-Identifier: Apache-2.0
 * halves.c - eight at a time with F16C (x86 since 2013), asked for at run time; the rest one by one. */
#include "core/tensor/halves.h"

#include "core/tensor/dtype.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* Both return how many were converted: a multiple of eight. */
__attribute__((target("avx,f16c"))) static int64_t widen_eights(float *dst, const uint16_t *src, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + i))));
    return i;
}

__attribute__((target("avx,f16c"))) static int64_t narrow_eights(uint16_t *dst, const float *src, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return i;
}

/* Every CPU with AVX2 has F16C. It is not asked for by its own name: clang does not know that before version 16. */
static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
static int64_t widen_eights(float *dst, const uint16_t *src, int64_t n)
{
    (void)dst, (void)src, (void)n;
    return 0;
}

static int64_t narrow_eights(uint16_t *dst, const float *src, int64_t n)
{
    (void)dst, (void)src, (void)n;
    return 0;
}

static bool has_f16c(void)
{
    return false;
}
#endif

void halves_to_floats(float *dst, const uint16_t *src, int64_t n)
{
    for (int64_t i = has_f16c() ? widen_eights(dst, src, n) : 0; i < n; i++)
        dst[i] = dtype_f16_to_f32(src[i]);
}

void halves_from_floats(uint16_t *dst, const float *src, int64_t n)
{
    for (int64_t i = has_f16c() ? narrow_eights(dst, src, n) : 0; i < n; i++)
        dst[i] = dtype_f32_to_f16(src[i]);
}
