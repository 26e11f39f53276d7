/* SPDX-License-Identifier: Apache-2.0
 * vec8.h - eight floats, the unit of the blocked layout (blocked.h): one AVX register, or plain loops elsewhere.
 * One source makes the portable and the AVX2 kernel: <kernel>_loops.h is included by a file of each set. vec8_fma fuses
 * where the set has it; elsewhere it rounds twice, so the sets differ in last bits. */
#ifndef PARED_KERNELS_VEC8_H
#define PARED_KERNELS_VEC8_H

#include <stdint.h>

#define VEC8_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

typedef __m256 vec8;

VEC8_INLINE vec8 vec8_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VEC8_INLINE void vec8_store(float *p, vec8 v)
{
    _mm256_storeu_ps(p, v);
}
VEC8_INLINE vec8 vec8_set(float x)
{
    return _mm256_set1_ps(x);
}
/* One float in all lanes. */
VEC8_INLINE vec8 vec8_broadcast(const float *p)
{
    return _mm256_broadcast_ss(p);
}
VEC8_INLINE vec8 vec8_add(vec8 a, vec8 b)
{
    return _mm256_add_ps(a, b);
}
VEC8_INLINE vec8 vec8_sub(vec8 a, vec8 b)
{
    return _mm256_sub_ps(a, b);
}
VEC8_INLINE vec8 vec8_mul(vec8 a, vec8 b)
{
    return _mm256_mul_ps(a, b);
}
/* a b + c */
VEC8_INLINE vec8 vec8_fma(vec8 a, vec8 b, vec8 c)
{
    return _mm256_fmadd_ps(a, b, c);
}
/* The larger; b where one is NaN. */
VEC8_INLINE vec8 vec8_max(vec8 a, vec8 b)
{
    return _mm256_max_ps(a, b);
}
VEC8_INLINE vec8 vec8_min(vec8 a, vec8 b)
{
    return _mm256_min_ps(a, b);
}
#else
typedef struct vec8_lanes {
    float f[8];
} vec8;

#define VEC8_EACH(expression)                                                                                         \
    vec8 r;                                                                                                           \
    for (int i = 0; i < 8; i++)                                                                                       \
        r.f[i] = (expression);                                                                                        \
    return r
VEC8_INLINE vec8 vec8_load(const float *p)
{
    VEC8_EACH(p[i]);
}
VEC8_INLINE void vec8_store(float *p, vec8 v)
{
    for (int i = 0; i < 8; i++)
        p[i] = v.f[i];
}
VEC8_INLINE vec8 vec8_set(float x)
{
    VEC8_EACH(x);
}
VEC8_INLINE vec8 vec8_broadcast(const float *p)
{
    VEC8_EACH(*p);
}
VEC8_INLINE vec8 vec8_add(vec8 a, vec8 b)
{
    VEC8_EACH(a.f[i] + b.f[i]);
}
VEC8_INLINE vec8 vec8_sub(vec8 a, vec8 b)
{
    VEC8_EACH(a.f[i] - b.f[i]);
}
VEC8_INLINE vec8 vec8_mul(vec8 a, vec8 b)
{
    VEC8_EACH(a.f[i] * b.f[i]);
}
VEC8_INLINE vec8 vec8_fma(vec8 a, vec8 b, vec8 c)
{
    VEC8_EACH(a.f[i] * b.f[i] + c.f[i]);
}
VEC8_INLINE vec8 vec8_max(vec8 a, vec8 b)
{
    VEC8_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
VEC8_INLINE vec8 vec8_min(vec8 a, vec8 b)
{
    VEC8_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
#undef VEC8_EACH
#endif

#endif
