/* SPDX-License-Identifier: Apache-2.0
 * rows_impl.h - between rows.c and the loops of each instruction set. */
#ifndef PARED_KERNELS_ROWS_IMPL_H
#define PARED_KERNELS_ROWS_IMPL_H

#include "core/kernels/rows.h"

struct row_set {
    float (*sum)(const float *x, int64_t n);
    float (*square_sum)(const float *x, int64_t n, float shift); /* of x - shift */
    float (*max)(const float *x, int64_t n);
    float (*any_max)(const float *x, int64_t n); /* does not look for NaN */
    float (*min)(const float *x, int64_t n);
    float (*exp_sum)(const float *x, int64_t n, float shift, float *y);
    void (*affine)(const float *x, int64_t n, float scale, float shift, float *y);
    /* (x - mean) * inverse * scale + bias */
    void (*normalize)(const struct row_norm *norm, const float *x, int64_t n, float mean, float inverse, float *y);
    void (*add_rows)(const float *x, int64_t rows, int64_t n, float *y);
};
extern const struct row_set row_set_portable, row_set_avx2;

#endif
