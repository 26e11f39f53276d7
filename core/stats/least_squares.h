/* SPDX-License-Identifier: Apache-2.0
 * least_squares.h - ridge regression of what a product should add to its output on the rows it reads: how much its weight
 * has to change. The normal equations of He et al. (ICCV 2017, methods.md B1) in the differences:
 *     D = C_ex (C_xx + ridge * mean(diag C_xx) I)^-1,    C_ex = E^T X / n,   C_xx = X^T X / n
 * for rows X [n][k] and errors E [n][outputs] (what is wanted minus what there is). Weight + D is the ridge regression that
 * pulls to the weight as it is, not to zero. With a constant beside it, X has column means 0 (rows_center) and the constant
 * is the mean of E.
 * Solved     by Cholesky of C_xx [k][k], or of X X^T [n][n] where there are fewer rows than columns: min(n, k)^2 doubles.
 *            With a mask (weights that stay zero) every output has equations of its own; they are solved together by
 *            conjugate gradients, which never form them.
 * Results    do not depend on the pool. Threads: one caller. Errors: ERR_NOMEM, ERR_MODEL_TOO_LARGE, ERR_MODEL (not finite). */
#ifndef PARED_STATS_LEAST_SQUARES_H
#define PARED_STATS_LEAST_SQUARES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/pool.h"

/* A matrix of rows, `stride` floats apart. */
struct rows {
    const float *at;
    int64_t n, width, stride;
};

struct least_squares; /* opaque */

/* Second moments of x, which is borrowed until least_squares_free. */
struct least_squares *least_squares_new(const struct rows *x, struct pool *pool, struct err *err);
void least_squares_free(struct least_squares *l);
/* change [outputs][k] for errors [n][outputs]. ridge > 0. keep: [outputs][k] flags of the weights that may change, NULL: all.
 * A ridge used again costs no new factor; one too small for a factor of rows that depend on each other grows tenfold. */
int least_squares_solve(struct least_squares *l, double ridge, const struct rows *error, const bool *keep,
                        float *change, struct err *err);
/* What the change does to the outputs: add [n][outputs] = x change^T. */
void least_squares_apply(const struct rows *x, const float *change, int64_t outputs, struct pool *pool, float *add);

/* Means of the columns over the first `of` rows, taken off `all` rows; mean[width] += them. -1: memory is out. */
int rows_center(float *x, int64_t of, int64_t all, int64_t width, double *mean);

#endif
