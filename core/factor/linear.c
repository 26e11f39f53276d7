/* SPDX-License-Identifier: Apache-2.0
 * linear.c - see linear.h. LAPACK's matrices are column-major: a row-major A is its A^T, whose left and right vectors
 * change places and come out row-major again, so nothing is ever transposed. */
#include "core/factor/linear.h"

#include <inttypes.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while factorizing a layer");
}

double *doubles_new(int64_t a, int64_t b, struct err *err)
{
    int64_t n;
    size_t bytes;
    double *v = NULL;
    if (a >= 0 && b >= 0 && i64_mul(a, b, &n) && size_mul((size_t)n, sizeof *v, &bytes))
        v = calloc((size_t)(n > 0 ? n : 1), sizeof *v);
    if (!v)
        nomem(err);
    return v;
}

bool doubles_finite(const double *v, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i] * 0;
    return !isnan(sum);
}

/* ---- singular values ---- */
void svd_fini(struct svd *x)
{
    free(x->u);
    free(x->s);
    free(x->vt);
    *x = (struct svd){0};
}

/* The routine that divides and conquers; where it does not converge, the slower one that iterates. 0, or LAPACK's info.
 * */
static lapack_int run_lapack(struct svd *x, double *a, struct err *err)
{
    const lapack_int m = (lapack_int)x->m, n = (lapack_int)x->n, k = (lapack_int)x->k;
    lapack_int *ints = malloc((size_t)k * 8 * sizeof *ints), info = -1;
    double *copy = malloc((size_t)(x->m * x->n) * sizeof *copy), *work = NULL, size[2] = {0};
    if (!ints || !copy)
        goto out;
    memcpy(copy, a, (size_t)(x->m * x->n) * sizeof *copy);
    info = LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', n, m, a, n, x->s, x->vt, n, x->u, k, &size[0], -1, ints);
    if (info == 0)
        info = LAPACKE_dgesvd_work(LAPACK_COL_MAJOR, 'S', 'S', n, m, a, n, x->s, x->vt, n, x->u, k, &size[1], -1);
    if (info || !(work = malloc((size_t)fmax(size[0], size[1]) * sizeof *work)))
        goto out;
    info = LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', n, m, a, n, x->s, x->vt, n, x->u, k, work, (lapack_int)size[0],
                               ints);
    if (info > 0)
        info = LAPACKE_dgesvd_work(LAPACK_COL_MAJOR, 'S', 'S', n, m, copy, n, x->s, x->vt, n, x->u, k, work,
                                   (lapack_int)size[1]);
out:
    if (!ints || !copy || !work) {
        nomem(err);
        info = -1;
    }
    free(ints);
    free(copy);
    free(work);
    return info;
}

static void fix_signs(struct svd *x)
{
    for (int64_t c = 0; c < x->k; c++) {
        double most = 0;
        for (int64_t r = 0; r < x->m; r++)
            most = fabs(x->u[r * x->k + c]) > fabs(most) ? x->u[r * x->k + c] : most;
        if (!(most < 0))
            continue;
        for (int64_t r = 0; r < x->m; r++)
            x->u[r * x->k + c] = -x->u[r * x->k + c];
        for (int64_t i = 0; i < x->n; i++)
            x->vt[c * x->n + i] = -x->vt[c * x->n + i];
    }
}

int svd_make(struct svd *x, double *a, int64_t m, int64_t n, struct err *err)
{
    const int64_t k = i64_min(m, n);
    int64_t count;
    *x = (struct svd){.m = m, .n = n, .k = k};
    if (k < 1 || !i64_mul(m, n, &count) || m > INT32_MAX || n > INT32_MAX || count > INT32_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "a matrix of %" PRId64 " x %" PRId64 " is beyond LAPACK", m, n);
    if (!doubles_finite(a, count))
        return err_set(err, ERR_MODEL, "a matrix to be factorized holds numbers that are not finite");
    x->u = doubles_new(m, k, err);
    x->s = doubles_new(k, 1, err);
    x->vt = doubles_new(k, n, err);
    const lapack_int info = x->u && x->s && x->vt ? run_lapack(x, a, err) : -1;
    if (info > 0)
        err_set(err, ERR_MODEL, "the singular values of a matrix of %" PRId64 " x %" PRId64 " do not converge", m, n);
    else if (info < 0)
        nomem(err);
    if (info) {
        svd_fini(x);
        return -1;
    }
    fix_signs(x);
    return 0;
}

/* ---- Cholesky ---- */
static double mean_diagonal(const double *c, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += c[i * n + i];
    return sum / (double)n;
}

/* Row-major lower is LAPACK's upper. */
static bool factor_once(const double *c, int64_t n, double add, double *l)
{
    const lapack_int size = (lapack_int)n;
    memcpy(l, c, (size_t)(n * n) * sizeof *l);
    for (int64_t i = 0; i < n; i++) {
        l[i * n + i] += add;
        for (int64_t j = i + 1; j < n; j++)
            l[i * n + j] = 0;
    }
    if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', size, l, size))
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!(l[i * n + i] > 0) || !isfinite(l[i * n + i]))
            return false;
    return true;
}

static int factor_damped(const double *c, int64_t n, double damp, double *l, struct err *err)
{
    const double mean = mean_diagonal(c, n);
    if (n > INT32_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "a matrix of %" PRId64 " columns is beyond LAPACK", n);
    if (mean > 0 && isfinite(mean))
        for (; damp < 100; damp *= 10)
            if (factor_once(c, n, damp * mean, l))
                return 0;
    if (mean > 0 || mean < 0 || !isfinite(mean))
        return err_set(err, ERR_MODEL,
                       "a matrix of second moments is not positive definite, however much it is damped");
    memset(l, 0, (size_t)(n * n) * sizeof *l);
    for (int64_t i = 0; i < n; i++)
        l[i * n + i] = 1;
    return 0;
}

int cholesky_damped(double *c, int64_t n, double damp, double *inverse, struct err *err)
{
    double *l = doubles_new(n, n, err);
    if (!l || factor_damped(c, n, damp, l, err)) {
        free(l);
        return -1;
    }
    memcpy(c, l, (size_t)(n * n) * sizeof *c);
    free(l);
    if (!inverse)
        return 0;
    memcpy(inverse, c, (size_t)(n * n) * sizeof *c);
    if (LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)n, inverse, (lapack_int)n))
        return err_set(err, ERR_MODEL, "a matrix of second moments is singular");
    return 0;
}

int solve_right(const double *h, int64_t n, double damp, double *b, int64_t rows, struct err *err)
{
    double *l = doubles_new(n, n, err);
    int rc = l ? factor_damped(h, n, damp, l, err) : -1;
    if (rc == 0 && rows > INT32_MAX)
        rc = err_set(err, ERR_MODEL_TOO_LARGE, "%" PRId64 " equations are beyond LAPACK", rows);
    if (rc == 0 &&
        LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, (lapack_int)rows, l, (lapack_int)n, b, (lapack_int)n))
        rc = err_set(err, ERR_INTERNAL, "LAPACK refused a Cholesky factor");
    free(l);
    return rc;
}

/* ---- empirical variational Bayes ---- */
struct vbmf {
    const double *s;
    int64_t l, m;       /* l <= m */
    double alpha, most; /* most: squares over m v above it are signal */
};

/* The free energy that the noise's variance v has to minimise, but for a constant. */
static double free_energy(const struct vbmf *b, double v)
{
    double sum = 0;
    for (int64_t i = 0; i < b->l; i++) {
        const double x = fmax(b->s[i] * b->s[i] / ((double)b->m * v), 1e-300);
        if (!(x > b->most)) {
            sum += x - log(x);
            continue;
        }
        const double d = x - (1 + b->alpha), tau = (d + sqrt(fmax(d * d - 4 * b->alpha, 0))) / 2;
        sum += x - tau + log((tau + 1) / x) + b->alpha * log(tau / b->alpha + 1);
    }
    return sum;
}

static double minimise(const struct vbmf *b, double low, double high)
{
    enum { GRID = 400, STEPS = 100 };
    const double golden = 0.6180339887498949, step = log(high / low) / GRID;
    double best = low, least = INFINITY;
    for (int i = 0; i <= GRID; i++) {
        const double v = low * exp(step * i), f = free_energy(b, v);
        if (f < least) {
            least = f;
            best = v;
        }
    }
    double from = fmax(low, best * exp(-step)), to = fmin(high, best * exp(step));
    for (int i = 0; i < STEPS; i++) {
        const double p = to - golden * (to - from), q = from + golden * (to - from);
        if (free_energy(b, p) < free_energy(b, q))
            to = q;
        else
            from = p;
    }
    return (from + to) / 2;
}

int64_t vbmf_rank(const double *s, int64_t l, int64_t m)
{
    struct vbmf b = {.s = s, .l = i64_min(l, m), .m = i64_max(l, m)};
    double all = 0, rest = 0;
    if (b.l < 1 || !(s[0] > 0))
        return 0;
    b.alpha = (double)b.l / (double)b.m;
    const double tau = 2.5129 * sqrt(b.alpha);
    b.most = (1 + tau) * (1 + b.alpha / tau);
    const int64_t noise = i64_max(i64_min((int64_t)ceil((double)b.l / (1 + b.alpha)) - 1, b.l) - 1, 0);
    const int64_t first = i64_min(noise + 1, b.l - 1);
    for (int64_t i = 0; i < b.l; i++)
        all += s[i] * s[i];
    for (int64_t i = first; i < b.l; i++)
        rest += s[i] * s[i];
    const double high = all / ((double)b.l * (double)b.m),
                 low = fmax(s[first] * s[first] / ((double)b.m * b.most), rest / ((double)(b.l - first) * (double)b.m));
    const double v = low > 0 && low < high ? minimise(&b, low, high) : fmin(low, high);
    const double least = sqrt((double)b.m * v * b.most);
    int64_t rank = 0;
    while (rank < b.l && s[rank] > least && s[rank] > s[0] * 1e-12)
        rank++;
    return rank;
}
