/* SPDX-License-Identifier: Apache-2.0
 * gemm_i8.h - exact products of 8-bit matrices: C[i,j] = sum over p of (A[i,p] - a_zero[i]) * (B[p,j] - b_zero[j]) in
 * int32 (wrapping).
 * Exact      operands are widened to int16 after the zero point is taken off, and pairs are summed in int32, so
 *            nothing saturates (unlike maddubs). The same integers on every path and thread count.
 * Paths      portable C, and AVX2 where the CPU has it. gemm_i8() takes the best; tests name one.
 * Threads    `pool` may be NULL. Errors: none; sizes were checked by the caller. */
#ifndef PARED_KERNELS_GEMM_I8_H
#define PARED_KERNELS_GEMM_I8_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/pool.h"

struct gemm_i8 {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;       /* row strides: A [m,k], B [k,n], C [m,n] */
    bool a_signed, b_signed;     /* int8_t or uint8_t */
    const int32_t *a_zero;       /* one, or m values if a_zero_rows; each in the range of A's type */
    const int32_t *b_zero;       /* one, or n values if b_zero_columns */
    bool a_zero_rows, b_zero_columns;
};

enum gemm_i8_path { GEMM_I8_PORTABLE, GEMM_I8_AVX2, GEMM_I8_PATHS };
bool gemm_i8_has(enum gemm_i8_path path); /* this CPU can run it */

void gemm_i8(struct pool *pool, const struct gemm_i8 *g, const void *a, const void *b, int32_t *c);
/* On the caller's thread. */
void gemm_i8_tile(const struct gemm_i8 *g, const void *a, const void *b, int32_t *c);
void gemm_i8_with(enum gemm_i8_path path, const struct gemm_i8 *g, const void *a, const void *b, int32_t *c);
void gemm_i8_naive(const struct gemm_i8 *g, const void *a, const void *b, int32_t *c);

/* Inner kernel: c [rows <= 4, GEMM_I8_COLS] += a pairs * b pairs. a: row r at a + r * 2 * pairs; b: pair p of column
 * j at b + (p * GEMM_I8_COLS + j) * 2. */
enum { GEMM_I8_ROWS = 4, GEMM_I8_COLS = 16 };
void gemm_i8_block_avx2(const int16_t *a, const int16_t *b, int64_t pairs, int32_t c[GEMM_I8_ROWS * GEMM_I8_COLS]);

#endif
