/* SPDX-License-Identifier: Apache-2.0
 * obs.h - which elements of the rows of a matrix can be zero, and what the others become, so that the output error is least.
 * Error      of a row w: (w - d)^T H (w - d), H the second moments of what the row multiplies, d the row that fits best when nothing
 *            need be zero.
 * Ways       obs_exact: elements of each row go one after another, always the one whose going costs least, the others made up for
 *            it each time (OBC, Frantar and Alistarh 2022). Rows of a layer may share a count: then the cheapest of all rows go.
 *            obs_sequential: columns from left to right, which of a batch go is chosen by w^2 / U_jj^2, errors move into the
 *            columns to come (SparseGPT, Frantar and Alistarh 2023): for layers too large for the first.
 *            obs_refit: the mask is given; least squares for what stays.
 * Masks      keep[i] = 0 beforehand: it is gone already and stays so, and counts among those that go.
 * Threads    rows are tasks of the pool; results do not depend on it. Errors: ERR_NOMEM, ERR_MODEL (H is not positive definite). */
#ifndef PARED_PRUNE_OBS_H
#define PARED_PRUNE_OBS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/pool.h"

struct obs {
    int64_t rows, k;
    const double *h;     /* [k][k] positive definite */
    const double *dense; /* [rows][k]: d */
    unsigned char *keep; /* [rows][k] in and out */
    double *w;           /* [rows][k] out; zero where keep is 0 */
    int64_t goes;        /* elements of all rows together; with each_row: of rows in turn, as even as can be */
    bool each_row;
    int64_t n, m; /* m > 0: of m neighbours n stay; goes says nothing then */
    struct pool *pool;
};

/* Multiply-adds of obs_exact and obs_refit (of k_left elements a row). */
double obs_exact_cost(int64_t rows, int64_t k);
double obs_refit_cost(int64_t rows, int64_t k_left);
/* The keep and w of the way. */
int obs_exact(const struct obs *o, struct err *err);
int obs_sequential(const struct obs *o, struct err *err);
/* w of keep. */
int obs_refit(const struct obs *o, struct err *err);
/* Sum over the rows of the error of w. NAN: out of memory. */
double obs_error(const struct obs *o);

#endif
