/* SPDX-License-Identifier: Apache-2.0
 * score_rank.c - numerical rank of a small matrix. Singular values need not be known, only how many are above the
 * tolerance: eigenvalues of the smaller Gram matrix above its square. The Gram matrix is made tridiagonal by
 * Householder reflections (Golub & Van Loan, "Matrix computations", 8.3.1), and Sturm's sequence counts the
 * eigenvalues above a number (8.4.1); the largest is found by bisection with the same count. In double, whose 2^-53
 * is far below the squared tolerance 2^-46 n^2. */
#include <math.h>

#include "core/base/size.h"
#include "core/prune/score_impl.h"

int64_t score_rank_work(int64_t rows, int64_t cols)
{
    const int64_t n = i64_min(rows, cols);
    return n * n + 4 * n;
}

static void make_gram(const float *a, int64_t rows, int64_t cols, int64_t n, double *h)
{
    const int64_t length = rows * cols / n, row = rows <= cols ? cols : 1, step = rows <= cols ? 1 : cols;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < length; k++)
                sum += (double)a[i * row + k * step] * (double)a[j * row + k * step];
            h[i * n + j] = h[j * n + i] = sum;
        }
}

/* d: diagonal, e[i]: beside d[i] and d[i + 1]. h is overwritten; v, p: n each. */
static void tridiagonal(double *h, int64_t n, double *d, double *e, double *v, double *p)
{
    for (int64_t k = 0; k + 2 < n; k++) {
        double norm = 0, vv = 0, vp = 0;
        for (int64_t i = k + 1; i < n; i++)
            norm += h[i * n + k] * h[i * n + k];
        norm = sqrt(norm);
        for (int64_t i = k + 1; i < n; i++)
            v[i] = h[i * n + k];
        v[k + 1] += v[k + 1] >= 0 ? norm : -norm;
        e[k] = h[(k + 1) * n + k] >= 0 ? -norm : norm;
        for (int64_t i = k + 1; i < n; i++)
            vv += v[i] * v[i];
        if (vv <= 0)
            continue;
        for (int64_t i = k + 1; i < n; i++) {
            p[i] = 0;
            for (int64_t j = k + 1; j < n; j++)
                p[i] += h[i * n + j] * v[j];
            p[i] *= 2 / vv;
            vp += v[i] * p[i];
        }
        for (int64_t i = k + 1; i < n; i++)
            p[i] -= vp / vv * v[i];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j < n; j++)
                h[i * n + j] -= v[i] * p[j] + p[i] * v[j];
    }
    for (int64_t i = 0; i < n; i++)
        d[i] = h[i * n + i];
    if (n > 1)
        e[n - 2] = h[(n - 1) * n + n - 2];
}

/* Eigenvalues above t. */
static int64_t count_above(const double *d, const double *e, int64_t n, double t, double tiny)
{
    int64_t below = 0;
    double q = 1;
    for (int64_t i = 0; i < n; i++) {
        q = d[i] - t - (i > 0 ? e[i - 1] * e[i - 1] / q : 0);
        if (fabs(q) < tiny)
            q = -tiny;
        below += q < 0;
    }
    return n - below;
}

int64_t score_rank_of(const float *a, int64_t rows, int64_t cols, double *work)
{
    const int64_t n = i64_min(rows, cols);
    double *h = work, *d = work + n * n, *e = d + n, bound = 0;
    make_gram(a, rows, cols, n, h);
    tridiagonal(h, n, d, e, e + n, e + 2 * n);
    for (int64_t i = 0; i < n; i++)
        bound = fmax(bound, fabs(d[i]) + (i > 0 ? fabs(e[i - 1]) : 0) + (i + 1 < n ? fabs(e[i]) : 0));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(d[i]) || (i + 1 < n && !isfinite(e[i])))
            return -1;
    if (!(bound > 0))
        return 0;
    const double tiny = bound * 0x1p-200;
    double low = 0, high = bound;
    for (int i = 0; i < 60; i++) {
        const double middle = (low + high) / 2;
        if (count_above(d, e, n, middle, tiny) > 0)
            low = middle;
        else
            high = middle;
    }
    const double tolerance = (double)i64_max(rows, cols) * 0x1p-23;
    return count_above(d, e, n, high * tolerance * tolerance, tiny);
}
