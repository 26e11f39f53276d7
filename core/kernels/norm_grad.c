/* SPDX-License-Identifier: Apache-2.0
 * norm_grad.c - see norm_grad.h. Per-element arithmetic is in the values' own type, sums are in double. */
#include "core/kernels/norm_grad.h"

#include <math.h>
#include <stddef.h>

#include "core/kernels/norm.h"
#include "core/kernels/simd.h"

enum { LANES = 8 };

static double join(const double *lane)
{
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

#define DEFINE(suffix, T)                                                                                              \
    /* sums of s dy and s dy h over a stretch; one s each value (each = 1) or the same for all */                      \
    KERNEL_CLONES static void sums_##suffix(const T *x, const T *dy, const T *s, int64_t each, int64_t n, double mean, \
                                            double *plain, double *mixed)                                              \
    {                                                                                                                  \
        double a[LANES] = {0}, b[LANES] = {0};                                                                         \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int l = 0; l < LANES; l++) {                                                                          \
                const double d = (double)dy[i + l] * (double)s[each ? i + l : 0];                                      \
                a[l] += d;                                                                                             \
                b[l] += d * ((double)x[i + l] - mean);                                                                 \
            }                                                                                                          \
        for (int l = 0; i < n; i++, l++) {                                                                             \
            const double d = (double)dy[i] * (double)s[each ? i : 0];                                                  \
            a[l] += d;                                                                                                 \
            b[l] += d * ((double)x[i] - mean);                                                                         \
        }                                                                                                              \
        *plain += join(a);                                                                                             \
        *mixed += join(b);                                                                                             \
    }                                                                                                                  \
    /* dx = r s dy + p x + q */                                                                                        \
    KERNEL_CLONES static void data_##suffix(const T *x, const T *dy, const T *s, int64_t each, int64_t n, T r, T p,    \
                                            T q, T *dx, bool add)                                                      \
    {                                                                                                                  \
        if (add) {                                                                                                     \
            for (int64_t i = 0; i < n; i++)                                                                            \
                dx[i] += r * s[each ? i : 0] * dy[i] + (p * x[i] + q);                                                 \
            return;                                                                                                    \
        }                                                                                                              \
        for (int64_t i = 0; i < n; i++)                                                                                \
            dx[i] = r * s[each ? i : 0] * dy[i] + (p * x[i] + q);                                                      \
    }                                                                                                                  \
    KERNEL_CLONES static void each_##suffix(const T *x, const T *dy, int64_t n, double mean, double r, double *ds,     \
                                            double *db)                                                                \
    {                                                                                                                  \
        for (int64_t i = 0; ds && i < n; i++)                                                                          \
            ds[i] += (double)dy[i] * ((double)x[i] - mean) * r;                                                        \
        for (int64_t i = 0; db && i < n; i++)                                                                          \
            db[i] += (double)dy[i];                                                                                    \
    }                                                                                                                  \
    static void row_##suffix(const struct norm_grad *k, int64_t i, double *ds, double *db)                             \
    {                                                                                                                  \
        static const T one = 1;                                                                                        \
        const int64_t at = i % k->period * k->step, stretch = k->spread == 1 ? k->row : k->spread, n = k->row;         \
        const T *x = (const T *)k->x + i * n, *dy = (const T *)k->dy + i * n, *scale = (const T *)k->scale + at;       \
        double mean = 0, variance, plain = 0, mixed = 0;                                                               \
        if (k->rms)                                                                                                    \
            variance = norm_mean_square_##suffix(x, n);                                                                \
        else                                                                                                           \
            norm_moments_##suffix(x, n, &mean, &variance);                                                             \
        const double r = 1 / sqrt(variance + k->epsilon);                                                              \
        for (int64_t j = 0; j < n; j += stretch)                                                                       \
            sums_##suffix(x + j, dy + j, scale + j / k->spread, k->spread == 1, stretch, mean, &plain, &mixed);        \
        const double p = -r * r * r * mixed / (double)n, q = -p * mean - (k->rms ? 0 : r * plain / (double)n);         \
        for (int64_t j = 0; k->dx && j < n; j += stretch)                                                              \
            data_##suffix(x + j, dy + j, scale + j / k->spread, k->spread == 1, stretch, (T)r, (T)p, (T)q,             \
                          (T *)k->dx + i * n + j, k->add);                                                             \
        if (k->spread == 1) {                                                                                          \
            each_##suffix(x, dy, n, mean, r, ds ? ds + at : NULL, db ? db + at : NULL);                                \
            return;                                                                                                    \
        }                                                                                                              \
        for (int64_t j = 0; (ds || db) && j < n; j += stretch) {                                                       \
            plain = mixed = 0;                                                                                         \
            sums_##suffix(x + j, dy + j, &one, 0, stretch, mean, &plain, &mixed);                                      \
            if (ds)                                                                                                    \
                ds[at + j / k->spread] += mixed * r;                                                                   \
            if (db)                                                                                                    \
                db[at + j / k->spread] += plain;                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    void norm_grad_rows_##suffix(const struct norm_grad *k, int64_t begin, int64_t end, double *ds, double *db)        \
    {                                                                                                                  \
        for (int64_t i = begin; i < end; i++)                                                                          \
            row_##suffix(k, i, ds, db);                                                                                \
    }

/* each_ looks at ds and db before it uses them */
// cppcheck-suppress ctunullpointer
DEFINE(f32, float)
// cppcheck-suppress ctunullpointer
DEFINE(f64, double)
