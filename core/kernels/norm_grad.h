/* SPDX-License-Identifier: Apache-2.0
 * norm_grad.h - gradient of the normalization of rows: y = (x - mean) r s + b, r = 1 / sqrt(variance + epsilon);
 * with `rms` the mean
 * is 0 and the variance the mean of squares.
 *   d = dy s;  dx = r (d - mean(d) - h mean(d h)),  h = (x - mean) r;  without the term mean(d) for rms
 *   ds = sum dy h,  db = sum dy
 * Spread     value j of row i has s[i % period * step + j / spread], and b likewise. */
#ifndef PARED_KERNELS_NORM_GRAD_H
#define PARED_KERNELS_NORM_GRAD_H

#include <stdbool.h>
#include <stdint.h>

struct norm_grad {
    int64_t row, period, step, spread;
    double epsilon;
    bool rms;
    const void *x, *scale, *dy;
    void *dx; /* NULL: not wanted */
    bool add; /* to dx */
};

/* Rows [begin, end). ds, db (NULL: not wanted) are added to. */
void norm_grad_rows_f32(const struct norm_grad *k, int64_t begin, int64_t end, double *ds, double *db);
void norm_grad_rows_f64(const struct norm_grad *k, int64_t begin, int64_t end, double *ds, double *db);

#endif
