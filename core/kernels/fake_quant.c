/* SPDX-License-Identifier: Apache-2.0
 * fake_quant.c - see fake_quant.h. Plain loops that become vectors: x / s is held within one code of the range first,
 * so that adding and taking away 1.5 2^23 (2^52) rounds it to the nearest whole number, halves to even, in one lane
 * each. The bounds are compared so that NaN passes. Clones neither fuse nor reorder, so all give the same bits. */
#include "core/kernels/fake_quant.h"

#include "core/kernels/simd.h"

enum { RUN = 512, LANES = 8 };

/* MAGIC turns a sum into a rounding. */
#define DEFINE(T, bits, MAGIC)                                                                                         \
    /* Within one code of the range. */                                                                                \
    static inline T held##bits(T v, T low, T high)                                                                     \
    {                                                                                                                  \
        const T least = low - 1, most = high + 1;                                                                      \
        v = least > v ? least : v;                                                                                     \
        return most < v ? most : v;                                                                                    \
    }                                                                                                                  \
    static inline T rounded##bits(T v)                                                                                 \
    {                                                                                                                  \
        return v + MAGIC - MAGIC;                                                                                      \
    }                                                                                                                  \
    static inline T clamped##bits(T r, T low, T high)                                                                  \
    {                                                                                                                  \
        r = low > r ? low : r;                                                                                         \
        return high < r ? high : r;                                                                                    \
    }                                                                                                                  \
    KERNEL_CLONES void fake_quant_f##bits(const T *x, T *y, int64_t n, T s, T low, T high)                             \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) y[i] =                                                    \
            clamped##bits(rounded##bits(held##bits(x[i] / s, low, high)), low, high) * s;                              \
    }                                                                                                                  \
    KERNEL_CLONES void fake_quant_each_f##bits(const T *x, T *y, int64_t n, const T *s, const T *low, const T *high)   \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) y[i] =                                                    \
            clamped##bits(rounded##bits(held##bits(x[i] / s[i], low[i], high[i])), low[i], high[i]) * s[i];            \
    }                                                                                                                  \
    /* pass[i] = dy or 0, term[i] = the part of ds */                                                                  \
    KERNEL_CLONES static void terms##bits(const T *restrict x, const T *restrict dy, T *restrict pass,                 \
                                          T *restrict term, int64_t n, T s, T low, T high)                             \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T g = dy[i], v = held##bits(x[i] / s, low, high), r = rounded##bits(v),                              \
                    c = clamped##bits(r, low, high), inside = 1 - (r - c) * (r - c); /* 1 or 0 */                      \
            pass[i] = g * inside;                                                                                      \
            term[i] = g * (c - v * inside);                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    KERNEL_CLONES static void terms_each##bits(const T *restrict x, const T *restrict dy, T *restrict pass,            \
                                               T *restrict term, int64_t n, const T *restrict s,                       \
                                               const T *restrict low, const T *restrict high)                          \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T g = dy[i], v = held##bits(x[i] / s[i], low[i], high[i]), r = rounded##bits(v),                     \
                    c = clamped##bits(r, low[i], high[i]), inside = 1 - (r - c) * (r - c); /* 1 or 0 */                \
            pass[i] = g * inside;                                                                                      \
            term[i] = g * (c - v * inside);                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    KERNEL_CLONES static double sum##bits(const T *restrict term, int64_t n)                                           \
    {                                                                                                                  \
        T lane[LANES] = {0};                                                                                           \
        int64_t i = 0;                                                                                                 \
        double all = 0;                                                                                                \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int k = 0; k < LANES; k++)                                                                            \
                lane[k] += term[i + k];                                                                                \
        for (; i < n; i++)                                                                                             \
            lane[0] += term[i];                                                                                        \
        for (int k = 0; k < LANES; k++)                                                                                \
            all += (double)lane[k];                                                                                    \
        return all;                                                                                                    \
    }                                                                                                                  \
    KERNEL_CLONES static void give##bits(const T *restrict pass, T *restrict dx, bool add, int64_t n)                  \
    {                                                                                                                  \
        if (add)                                                                                                       \
            for (int64_t i = 0; i < n; i++)                                                                            \
                dx[i] += pass[i];                                                                                      \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++)                                                                            \
                dx[i] = pass[i];                                                                                       \
    }                                                                                                                  \
    double fake_quant_grad_f##bits(const T *x, const T *dy, T *dx, bool add, int64_t n, T s, T low, T high)            \
    {                                                                                                                  \
        T pass[RUN], term[RUN];                                                                                        \
        double all = 0;                                                                                                \
        for (int64_t at = 0; at < n; at += RUN) {                                                                      \
            const int64_t m = n - at < RUN ? n - at : RUN;                                                             \
            terms##bits(x + at, dy + at, pass, term, m, s, low, high);                                                 \
            all += sum##bits(term, m);                                                                                 \
            if (dx)                                                                                                    \
                give##bits(pass, dx + at, add, m);                                                                     \
        }                                                                                                              \
        return all;                                                                                                    \
    }                                                                                                                  \
    void fake_quant_grad_each_f##bits(const T *x, const T *dy, T *dx, bool add, int64_t n, const T *s, const T *low,   \
                                      const T *high, double *sum)                                                      \
    {                                                                                                                  \
        T pass[RUN], term[RUN];                                                                                        \
        for (int64_t at = 0; at < n; at += RUN) {                                                                      \
            const int64_t m = n - at < RUN ? n - at : RUN;                                                             \
            terms_each##bits(x + at, dy + at, pass, term, m, s + at, low + at, high + at);                             \
            for (int64_t i = 0; i < m; i++)                                                                            \
                sum[at + i] += (double)term[i];                                                                        \
            if (dx)                                                                                                    \
                give##bits(pass, dx + at, add, m);                                                                     \
        }                                                                                                              \
    }

DEFINE(float, 32, 12582912.0f)
DEFINE(double, 64, 6755399441055744.0)
