/* SPDX-License-Identifier: Apache-2.0
 * gemm_packed_impl.h - between gemm_packed.c, which cuts the work, and the micro-kernels of each instruction set. */
#ifndef PARED_KERNELS_GEMM_PACKED_IMPL_H
#define PARED_KERNELS_GEMM_PACKED_IMPL_H

#include "core/kernels/gemm_packed.h"

/* One panel, one block of k: C [m, cols] = or += A [m, k] B [k, GEMM_PANEL]. `first`: C starts from bias and residual
 * (or 0), else from what it holds. */
struct gemm_block {
    int64_t m, k, cols; /* cols in 1..GEMM_PANEL */
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    float *c;
    int64_t c_row;
    bool first;
    const float *bias, *residual;
    int64_t residual_row;
};
struct gemm_set {
    void (*block)(const struct gemm_block *b);
    /* A block of k rows and cols <= GEMM_PANEL columns of a strided B into [k][GEMM_PANEL], zeros beyond cols. */
    void (*pack)(int64_t k, int64_t cols, const float *b, int64_t b_row, int64_t b_col, float *panel);
};
extern const struct gemm_set gemm_set_portable, gemm_set_avx2;

#endif
