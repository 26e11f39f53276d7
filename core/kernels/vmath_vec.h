/* SPDX-License-Identifier: Apache-2.0
 * vmath_vec.h - elementary functions of a vector (vec.h): no table, no branch, no call.
 * Accuracy   of every function against the exact value, over all finite floats whose result is normal:
 *            vexp 1.5e-7 relative, vexpm1 3e-7, vtanh 4e-7, vsigmoid 3e-7, vlog 2e-7, verf 2e-7, vsoftplus 4e-7,
 *            vmish 6e-7. Beyond the range of float: 0, infinity or the limit; NaN stays NaN.
 * Formulas   the polynomials are least-maximum fits of the remainders named beside them, made for these intervals. */
#ifndef PARED_KERNELS_VMATH_VEC_H
#define PARED_KERNELS_VMATH_VEC_H

#include "core/kernels/vec.h"

/* x = n ln 2 + r with integer n and |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer and leaves it in the low
 * bits. */
static inline vec vmath_split(vec x, vec_int *n)
{
    const vec magic = vec_set(12582912.0f);
    const vec shifted = vec_fma(x, vec_set(1.44269504f), magic), whole = shifted - magic;
    *n = vec_bits(shifted) - vec_bits(magic);
    return vec_fma(whole, vec_set(2.12194440e-4f), vec_fma(whole, vec_set(-0.693359375f), x));
}

/* e^r - 1 = r + r^2 p(r) for |r| <= ln 2 / 2 */
static inline vec vmath_expm1_near(vec r)
{
    vec p = vec_set(0.0013950486900284886f);
    p = vec_fma(p, r, vec_set(0.008368889801204205f));
    p = vec_fma(p, r, vec_set(0.04166620597243309f));
    p = vec_fma(p, r, vec_set(0.166665181517601f));
    p = vec_fma(p, r, vec_set(0.5f));
    return vec_fma(p, r * r, r);
}

/* 2^n for n in [-126, 127] */
static inline vec vmath_power(vec_int n)
{
    return vec_of_bits((n + 127) << 23);
}

/* The power of two goes in two factors, so that neither overflows nor becomes subnormal on its own. */
static inline vec vexp(vec x)
{
    vec_int n;
    const vec held = vec_min(vec_set(89.0f), vec_max(vec_set(-104.0f), x)); /* NaN passes */
    const vec e = vmath_expm1_near(vmath_split(held, &n)) + 1.0f;
    const vec_int half = n >> 1;
    return e * vmath_power(half) * vmath_power(n - half);
}

/* e^x for x up to 88, where one factor is enough; 0 below -87, where the result is about to become subnormal. */
static inline vec vexp_normal(vec x)
{
    vec_int n;
    const vec low = vec_set(-87.0f);
    const vec e = vmath_expm1_near(vmath_split(vec_max(low, x), &n)) + 1.0f;
    return vec_of_bits(vec_bits(e * vmath_power(n)) & ~(x < low));
}

/* e^x - 1 = 2^n (e^r - 1) + (2^n - 1); from 30 on it is e^x, where 2^n alone may overflow. */
static inline vec vexpm1(vec x)
{
    vec_int n;
    const vec held = vec_min(vec_set(89.0f), vec_max(vec_set(-30.0f), x));
    const vec near = vmath_expm1_near(vmath_split(held, &n));
    const vec_int half = n >> 1;
    const vec p = vmath_power(half), q = vmath_power(n - half);
    return vec_select(x > 30.0f, (near + 1.0f) * p * q, vec_fma(near * p, q, p * q - 1.0f));
}

/* tanh|x| = m / (m + 2) with m = e^(2|x|) - 1; 1 from 10 on */
static inline vec vtanh(vec x)
{
    const vec a = vec_min(vec_set(10.0f), vec_abs(x));
    vec_int n;
    const vec near = vmath_expm1_near(vmath_split(a + a, &n)), p = vmath_power(n);
    const vec m = vec_fma(near, p, p - 1.0f);
    return vec_copysign(m / (m + 2.0f), x);
}

static inline vec vsigmoid(vec x)
{
    const vec e = vexp_normal(vec_min(vec_set(88.0f), -x)); /* NaN passes */
    return 1.0f / (1.0f + e);
}

/* x = m 2^e with m in [sqrt(1/2), sqrt(2)), f = m - 1: ln x = e ln 2 + f - f^2 / 2 + f^3 p(f) */
static inline vec vlog(vec x)
{
    const vec_int tiny = x < 1.17549435e-38f;
    const vec up = vec_select(tiny, x * 8388608.0f, x);
    const vec_int bits = vec_bits(vec_abs(up)) - 0x3f3504f3; /* of sqrt(1/2); abs: -0 must not overflow */
    const vec f = vec_of_bits((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    const vec e = __builtin_convertvector((bits >> 23) - (tiny & 23), vec);
    vec p = vec_set(-0.07634343951940536f);
    p = vec_fma(p, f, vec_set(0.12761515378952026f));
    p = vec_fma(p, f, vec_set(-0.13160210847854614f));
    p = vec_fma(p, f, vec_set(0.1420176774263382f));
    p = vec_fma(p, f, vec_set(-0.16623355448246002f));
    p = vec_fma(p, f, vec_set(0.20001226663589478f));
    p = vec_fma(p, f, vec_set(-0.250008225440979f));
    p = vec_fma(p, f, vec_set(0.3333333134651184f));
    const vec square = f * f;
    vec low = vec_fma(e, vec_set(-2.12194440e-4f), p * (square * f));
    low = vec_fma(square, vec_set(-0.5f), low);
    vec y = vec_fma(e, vec_set(0.693359375f), f + low);
    y = vec_select(x < __builtin_inff(), y, x); /* infinity and NaN */
    y = vec_select(x == 0.0f, vec_set(-__builtin_inff()), y);
    return vec_select(x < 0.0f, vec_set(__builtin_nanf("")), y);
}

/* |x| < 1: x + x p(x^2); above: 1 - e^q(|x|) with q the logarithm of erfc; 1 from 4 on */
static inline vec verf(vec x)
{
    const vec a = vec_min(vec_set(4.0f), vec_abs(x)), s = x * x;
    vec p = vec_set(7.889114931458607e-05f);
    p = vec_fma(p, s, vec_set(-0.000802083988673985f));
    p = vec_fma(p, s, vec_set(0.005189535208046436f));
    p = vec_fma(p, s, vec_set(-0.026854444295167923f));
    p = vec_fma(p, s, vec_set(0.11283600330352783f));
    p = vec_fma(p, s, vec_set(-0.3761262595653534f));
    p = vec_fma(p, s, vec_set(0.12837916612625122f));
    vec q = vec_set(0.00018557600560598075f);
    q = vec_fma(q, a, vec_set(-0.0029396263416856527f));
    q = vec_fma(q, a, vec_set(0.02180539257824421f));
    q = vec_fma(q, a, vec_set(-0.1030375212430954f));
    q = vec_fma(q, a, vec_set(-0.6382254958152771f));
    q = vec_fma(q, a, vec_set(-1.127040147781372f));
    q = vec_fma(q, a, vec_set(-0.0003536956792231649f));
    const vec far = vec_copysign(1.0f - vexp_normal(q), x);
    return vec_select(vec_abs(x) >= 1.0f, far, vec_fma(p, x, x)); /* NaN: the near branch */
}

/* ln(1 + t) for t >= 0: ln u t / (u - 1) with u = 1 + t as rounded, which takes the rounding back out */
static inline vec vlog1p(vec t)
{
    const vec u = 1.0f + t, d = u - 1.0f;
    return vec_select(d == 0.0f, t, vlog(u) * (t / d));
}

static inline vec vsoftplus(vec x)
{
    return vec_max(vec_set(0.0f), x) + vlog1p(vexp(-vec_abs(x)));
}

/* x tanh(ln(1 + e^x)) = x w / (w + 2) with w = e^x (e^x + 2); x itself from 20 on */
static inline vec vmish(vec x)
{
    const vec e = vexp(vec_min(vec_set(20.0f), x)), w = e * (e + 2.0f);
    return x * (w / (w + 2.0f));
}

#endif
