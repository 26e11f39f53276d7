/* SPDX-License-Identifier: Apache-2.0
 * hessian.h - from a Gram matrix (gram.h) to what second-order methods need of it: GPTQ, AdaRound, OBS, SparseGPT.
 * H          [k][k], symmetric, row-major: of the error of a product's output in one row of its weight, but for a factor 2.
 * Threads    any. Errors: ERR_MODEL (H is not finite), ERR_MODEL_TOO_LARGE (beyond LAPACK). */
#ifndef PARED_STATS_HESSIAN_H
#define PARED_STATS_HESSIAN_H

#include <stdint.h>

#include "core/base/err.h"

double hessian_mean_diagonal(const double *h, int64_t k);
/* out = H as far as `rows` rows can be believed: with fewer rows than columns it says nothing of most directions, and what
 * is chosen for it would be worse elsewhere. Then 0.1 (k / rows)^2 times the mean of its own and the average diagonal is
 * added to the diagonal. out may be h. */
void hessian_believe(const double *h, int64_t k, int64_t rows, double *out);
/* U upper triangular, row-major k x k, with U^T U = (H + damp mean(diag H) I)^-1; dead columns (diag 0) count as 1. *damp
 * grows tenfold up to 1 until H is positive definite. ERR_MODEL if it never is. */
int hessian_factor(const double *h, int64_t k, double *damp, double *u, struct err *err);

/* order[k]: columns by falling diagonal, equal ones as they stand. -1: out of memory (err not set). */
int hessian_order(const double *h, int64_t k, int64_t *order);
/* out[i][j] = h[order[i]][order[j]]. */
void hessian_permute(const double *h, int64_t k, const int64_t *order, double *out);

#endif
