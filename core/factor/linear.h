/* SPDX-License-Identifier: Apache-2.0
 * linear.h - dense linear algebra of the factorizations, in double, row-major: singular values, Cholesky factors, the
 * rank that empirical variational Bayes finds.
 * Results    do not depend on threads: LAPACK runs on the caller's thread. The sign of a pair of singular vectors is
 *            fixed: the largest element of the left one is positive (the first of equal ones).
 * Errors     ERR_NOMEM; ERR_MODEL_TOO_LARGE beyond what LAPACK can count; ERR_MODEL: not finite, or no convergence. */
#ifndef PARED_FACTOR_LINEAR_H
#define PARED_FACTOR_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

/* A = U diag(s) V^T with k = min(m, n) columns. */
struct svd {
    int64_t m, n, k;
    double *u;  /* [m][k] */
    double *s;  /* [k] falling */
    double *vt; /* [k][n] */
};
/* a [m][n] is used up. After an error *x is empty. */
int svd_make(struct svd *x, double *a, int64_t m, int64_t n, struct err *err);
void svd_fini(struct svd *x);

/* Lower L of L L^T = C + damp * mean(diag C) I in place of C [n][n], zeros above; damp grows tenfold until there is
 * one. C of zeros gives I. inverse (may be NULL): [n][n] of L. */
int cholesky_damped(double *c, int64_t n, double damp, double *inverse, struct err *err);
/* X of X (H + damp * mean(diag H) I) = B in place of B [rows][n]. */
int solve_right(const double *h, int64_t n, double damp, double *b, int64_t rows, struct err *err);

/* a * b doubles of zeros: NULL with err set. */
double *doubles_new(int64_t a, int64_t b, struct err *err);
bool doubles_finite(const double *v, int64_t n);

/* The rank of a matrix [l][m] of Gaussian noise of unknown strength and something of low rank beneath it, from its
 * singular values: the analytic solution of empirical variational Bayes (Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14,
 * 2013). With a = l / m (l <= m), values above sqrt(m v (1 + t)(1 + a / t)), t = 2.5129 sqrt(a), are signal; v, the
 * noise's variance, minimises the free energy. s: all min(l, m) of them, falling. */
int64_t vbmf_rank(const double *s, int64_t l, int64_t m);

#endif
