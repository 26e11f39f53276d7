/* SPDX-License-Identifier: Apache-2.0
 * vmath.h - elementary functions for vector loops: no table, no branch, no call, so a loop over them vectorises.
 * Accuracy   vmath_exp: within 2e-7 relative of e^x where the result is normal, 0 and infinity beyond the range, NaN
 *            stays NaN. The bits are the same for every vector width. vmath_f32: see vmath_vec.h, which has the same
 *            functions for one vector; its last bits depend on the instruction set, never on n or the alignment. */
#ifndef PARED_KERNELS_VMATH_H
#define PARED_KERNELS_VMATH_H

#include <stdint.h>
#include <string.h>

enum vmath_kind {
    VMATH_EXP,
    VMATH_EXPM1, /* e^x - 1 */
    VMATH_LOG,
    VMATH_TANH,
    VMATH_ERF,
    VMATH_SIGMOID,
    VMATH_SOFTPLUS, /* ln(1 + e^x) */
    VMATH_MISH,     /* x tanh(softplus(x)) */
    VMATH_KINDS
};
/* y[i] = f(x[i]); y may be x. */
void vmath_f32(enum vmath_kind kind, const float *x, int64_t n, float *y);

/* 2^n for n in [-126, 127], by its exponent bits. */
static inline float vmath_pow2(int32_t n)
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

/* e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln 2 / 2; e^r by a Taylor sum of degree 7 (its error there is
 * 5e-9), and the power of two in two factors so that neither overflows nor becomes subnormal on its own. */
static inline float vmath_exp(float x)
{
    const float clamped = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x; /* NaN passes through */
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const float n = clamped * 1.44269504f + magic - magic;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const int32_t whole = (int32_t)(n == n ? n : 0), half = whole / 2;
    return p * vmath_pow2(half) * vmath_pow2(whole - half);
}

#endif
