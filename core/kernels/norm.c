/* SPDX-License-Identifier: Apache-2.0
 * norm.c - moments and affine maps of rows; see norm.h. */
#include "core/kernels/norm.h"

#include "core/kernels/simd.h"

enum { LANES = 8 };

static double join(const double *lane)
{
    double sum = 0;
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

/* The sum of (x - shift)^power, power 1 or 2. */
#define DEFINE_SUM(name, T, term)                                                                                    \
    KERNEL_CLONES static double name(const T *x, int64_t n, double shift)                                            \
    {                                                                                                                \
        double lane[LANES] = {0};                                                                                    \
        int64_t i = 0;                                                                                               \
        for (; i + LANES <= n; i += LANES)                                                                           \
            for (int l = 0; l < LANES; l++) {                                                                        \
                const double d = (double)x[i + l] - shift;                                                           \
                lane[l] += (term);                                                                                   \
            }                                                                                                        \
        for (; i < n; i++) {                                                                                         \
            const double d = (double)x[i] - shift;                                                                   \
            lane[0] += (term);                                                                                       \
        }                                                                                                            \
        return join(lane);                                                                                           \
    }

#define DEFINE_NORM(suffix, T)                                                                                       \
    DEFINE_SUM(sum_##suffix, T, d)                                                                                   \
    DEFINE_SUM(squares_##suffix, T, d *d)                                                                            \
    void norm_moments_##suffix(const T *x, int64_t n, double *mean, double *variance)                                \
    {                                                                                                                \
        *mean = sum_##suffix(x, n, 0) / (double)n;                                                                   \
        *variance = squares_##suffix(x, n, *mean) / (double)n;                                                       \
    }                                                                                                                \
    double norm_mean_square_##suffix(const T *x, int64_t n) { return squares_##suffix(x, n, 0) / (double)n; }        \
    KERNEL_CLONES static void affine_##suffix(const T *restrict x, int64_t n, T scale, T shift, T *restrict y)       \
    {                                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                              \
            y[i] = x[i] * scale + shift;                                                                             \
    }                                                                                                                \
    void norm_affine_##suffix(const T *x, int64_t n, T scale, T shift, T *y) { affine_##suffix(x, n, scale, shift, y); }

DEFINE_NORM(f32, float)
DEFINE_NORM(f64, double)
