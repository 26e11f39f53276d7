/* SPDX-License-Identifier: Apache-2.0
 * hessian.c - see hessian.h.
 * Factor     U upper with U^T U = H^-1. With the rows and columns of H in reverse order, H' = L L^T, so H = R R^T with R
 *            upper (L read backwards) and U = R^-1: one Cholesky and one triangular inverse, in place. */
#include "core/stats/hessian.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

static const double DOUBT = 0.1;

double hessian_mean_diagonal(const double *h, int64_t k)
{
    double sum = 0;
    for (int64_t i = 0; i < k; i++)
        sum += h[i * k + i];
    return sum / (double)k;
}

void hessian_believe(const double *h, int64_t k, int64_t rows, double *out)
{
    const double lack = rows < k ? (double)k / (double)(rows > 0 ? rows : 1) : 0;
    const double share = DOUBT * lack * lack, mean = hessian_mean_diagonal(h, k);
    if (out != h)
        memcpy(out, h, (size_t)(k * k) * sizeof *out);
    for (int64_t i = 0; share > 0 && i < k; i++)
        out[i * k + i] += share * (h[i * k + i] + mean) / 2;
}

static void reverse(double *v, int64_t n)
{
    for (int64_t i = 0, j = n - 1; i < j; i++, j--) {
        const double t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}

/* 0, or not positive definite. Row-major lower is LAPACK's upper. */
static int factor_once(const double *h, int64_t k, double add, double *u)
{
    const lapack_int n = (lapack_int)k;
    memcpy(u, h, (size_t)(k * k) * sizeof *u);
    for (int64_t i = 0; i < k; i++)
        u[i * k + i] = (h[i * k + i] > 0 ? h[i * k + i] : 1) + add;
    reverse(u, k * k);
    if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', n, u, n) || LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', n, u, n))
        return -1;
    reverse(u, k * k);
    for (int64_t i = 0; i < k; i++) {
        memset(u + i * k, 0, (size_t)i * sizeof *u);
        if (!isfinite(u[i * k + i]) || !(u[i * k + i] > 0))
            return -1;
    }
    return 0;
}

int hessian_factor(const double *h, int64_t k, double *damp, double *u, struct err *err)
{
    const double mean = hessian_mean_diagonal(h, k);
    if (k > INT32_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "a Gram matrix of %lld columns is beyond LAPACK", (long long)k);
    for (; isfinite(mean); *damp *= 10) {
        if (factor_once(h, k, *damp * (mean > 0 ? mean : 1), u) == 0)
            return 0;
        if (*damp > 1)
            break;
    }
    return err_set(err, ERR_MODEL, "the Gram matrix of the inputs is not positive definite, however much it is damped");
}

/* ---- order of columns ---- */
struct column {
    double weight;
    int64_t at;
};

static int by_weight(const void *a, const void *b)
{
    const struct column *p = a, *q = b;
    return p->weight > q->weight ? -1 : p->weight < q->weight ? 1 : p->at < q->at ? -1 : 1;
}

int hessian_order(const double *h, int64_t k, int64_t *order)
{
    struct column *column = malloc((size_t)k * sizeof *column);
    if (!column)
        return -1;
    for (int64_t i = 0; i < k; i++)
        column[i] = (struct column){h[i * k + i], i};
    qsort(column, (size_t)k, sizeof *column, by_weight);
    for (int64_t i = 0; i < k; i++)
        order[i] = column[i].at;
    free(column);
    return 0;
}

void hessian_permute(const double *h, int64_t k, const int64_t *order, double *out)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            out[i * k + j] = h[order[i] * k + order[j]];
}
