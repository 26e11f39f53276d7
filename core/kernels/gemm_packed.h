/* SPDX-License-Identifier: Apache-2.0
 * gemm_packed.h - float matrix products C = f(A B + bias + residual) with our own micro-kernel.
 * Why        weights never change, so B can be laid out once in the order the inner loop reads it; bias, residual and
 *            activation are applied while a tile of C is still in the cache; A and B may lie transposed or strided; and
 *            small products start at once, which BLAS's do not.
 * Packed B   panels of GEMM_PANEL columns; panel p is [k][GEMM_PANEL], columns from p * GEMM_PANEL on, zeros beyond n.
 * Plain B    is packed panel by panel, a block of rows at a time, on the stack of the task that needs it.
 * Threads    tiles depend on m, n, k alone: the same bits for every pool. pool may be NULL.
 * Sets       AVX2 (6 x 16 tile, FMA) and portable (2 x 16). The sets differ in last bits.
 * Errors     none; the caller checked sizes. C must not overlap A or B; it may be the residual. */
#ifndef PARED_KERNELS_GEMM_PACKED_H
#define PARED_KERNELS_GEMM_PACKED_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/pool.h"
#include "core/kernels/act.h"

enum { GEMM_PANEL = 16 };

/* A [m, k], C [m, n]. Element (i, p) of A is a[i * a_row + p * a_col]; of a plain B b[p * b_row + j * b_col]. */
struct gemm_packed {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    bool packed; /* b is packed; else b_row and b_col count */
    int64_t b_row, b_col;
    const float *bias;     /* [n], or NULL */
    const float *residual; /* [m, n], rows residual_row apart, or NULL */
    int64_t residual_row;
    struct act act;
    float *c;
    int64_t c_row;
};

/* Floats of a packed B; false on overflow. */
bool gemm_packed_count(int64_t k, int64_t n, int64_t *count);
/* scale multiplies every element. */
void gemm_pack_b(int64_t k, int64_t n, const float *b, int64_t b_row, int64_t b_col, float scale, float *packed);
void gemm_packed_f32(struct pool *pool, const struct gemm_packed *g);
/* `count` products of one shape. at[i]: offsets (elements) of the i-th product's A, B, C (residual: as C). */
struct gemm_packed_at {
    int64_t a, b, c;
};
void gemm_packed_batch_f32(struct pool *pool, const struct gemm_packed *g, int64_t count,
                           const struct gemm_packed_at *at);
/* The whole product on the caller's thread: for tasks that are tiles already. */
void gemm_packed_tile(const struct gemm_packed *g);

#endif
