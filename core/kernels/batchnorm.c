/* SPDX-License-Identifier: Apache-2.0
 * batchnorm.c - see batchnorm.h. Eight running sums, joined in a fixed order, so that the loops vectorise. */
#include "core/kernels/batchnorm.h"

#include "core/kernels/simd.h"

enum { LANES = 8 };

static double join(const double *lane)
{
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

#define DEFINE(suffix, T)                                                                                              \
    /* first += values - shift, second += their squares */                                                             \
    KERNEL_CLONES static void power_sums_##suffix(const T *x, int64_t n, double shift, double *first, double *second)  \
    {                                                                                                                  \
        double sum[LANES] = {0}, squares[LANES] = {0};                                                                 \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int l = 0; l < LANES; l++) {                                                                          \
                const double v = (double)x[i + l] - shift;                                                             \
                sum[l] += v;                                                                                           \
                squares[l] += v * v;                                                                                   \
            }                                                                                                          \
        for (int l = 0; i < n; i++, l++) {                                                                             \
            const double v = (double)x[i] - shift;                                                                     \
            sum[l] += v;                                                                                               \
            squares[l] += v * v;                                                                                       \
        }                                                                                                              \
        *first += join(sum);                                                                                           \
        *second += join(squares);                                                                                      \
    }                                                                                                                  \
    KERNEL_CLONES static void grad_sums_##suffix(const T *x, const T *dy, int64_t n, double mean, double *sum,         \
                                                 double *dot)                                                          \
    {                                                                                                                  \
        double plain[LANES] = {0}, mixed[LANES] = {0};                                                                 \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int l = 0; l < LANES; l++) {                                                                          \
                const double d = (double)dy[i + l];                                                                    \
                plain[l] += d;                                                                                         \
                mixed[l] += d * ((double)x[i + l] - mean);                                                             \
            }                                                                                                          \
        for (int l = 0; i < n; i++, l++) {                                                                             \
            plain[l] += (double)dy[i];                                                                                 \
            mixed[l] += (double)dy[i] * ((double)x[i] - mean);                                                         \
        }                                                                                                              \
        *sum += join(plain);                                                                                           \
        *dot += join(mixed);                                                                                           \
    }                                                                                                                  \
    KERNEL_CLONES static void data_set_##suffix(const T *x, const T *dy, int64_t n, T a, T b, T c, T *dx)              \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) dx[i] = a * dy[i] + (b * x[i] + c);                       \
    }                                                                                                                  \
    KERNEL_CLONES static void data_add_##suffix(const T *restrict x, const T *restrict dy, int64_t n, T a, T b, T c,   \
                                                T *restrict dx)                                                        \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            dx[i] += a * dy[i] + (b * x[i] + c);                                                                       \
    }                                                                                                                  \
    void bn_grad_sums_##suffix(const struct bn_planes *p, const T *x, const T *dy, double mean, double *sum,           \
                               double *dot)                                                                            \
    {                                                                                                                  \
        *sum = *dot = 0;                                                                                               \
        for (int64_t n = 0; n < p->batch; n++)                                                                         \
            grad_sums_##suffix(x + n * p->step, dy + n * p->step, p->cells, mean, sum, dot);                           \
    }                                                                                                                  \
    void bn_grad_data_##suffix(const struct bn_planes *p, const T *x, const T *dy, double a, double b, double c,       \
                               T *dx, bool add)                                                                        \
    {                                                                                                                  \
        for (int64_t n = 0; n < p->batch; n++)                                                                         \
            (add ? data_add_##suffix : data_set_##suffix)(x + n * p->step, dy + n * p->step, p->cells, (T)a, (T)b,     \
                                                          (T)c, dx + n * p->step);                                     \
    }

DEFINE(f32, float)
DEFINE(f64, double)

void bn_moments_f32(const struct bn_planes *p, const float *x, double *mean, double *variance)
{
    const double count = (double)(p->batch * p->cells), shift = (double)x[0];
    double sum = 0, squares = 0;

    for (int64_t n = 0; n < p->batch; n++)
        power_sums_f32(x + n * p->step, p->cells, shift, &sum, &squares);
    *mean = shift + sum / count;
    *variance = squares / count - (sum / count) * (sum / count);
    if (*variance < 0)
        *variance = 0;
}

void bn_moments_f64(const struct bn_planes *p, const double *x, double *mean, double *variance)
{
    const double count = (double)(p->batch * p->cells);
    double sum = 0, squares = 0, rest = 0;

    for (int64_t n = 0; n < p->batch; n++)
        power_sums_f64(x + n * p->step, p->cells, 0, &sum, &squares);
    *mean = sum / count;
    squares = 0;
    for (int64_t n = 0; n < p->batch; n++)
        power_sums_f64(x + n * p->step, p->cells, *mean, &rest, &squares);
    *variance = squares / count;
}
