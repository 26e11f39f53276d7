/* SPDX-License-Identifier: Apache-2.0
 * gemm.h - dense matrix products, C = alpha * op(A) op(B) + beta * C, all row-major.
 * Why        OpenBLAS is fast on one core; our pool splits C into tiles. The tiles depend on m, n and k only, so the
 *            result does not depend on the number of threads. OpenBLAS must run single-threaded (engine_init).
 * Shapes     op(A) is [m,k], op(B) is [k,n], C is [m,n]; lda, ldb, ldc are the row strides of the stored matrices.
 * beta       With beta 0, C may hold anything (also NaN) before the call. k = 0 gives beta * C.
 * Threads    `pool` may be NULL. Errors: none; sizes were checked by the caller. */
#ifndef PARED_KERNELS_GEMM_H
#define PARED_KERNELS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/pool.h"

struct gemm {
    bool trans_a, trans_b;
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    double alpha, beta;
};

/* Contiguous matrices: leading dimensions from the shapes, alpha 1, beta 0. */
struct gemm gemm_plain(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k);

void gemm_f32(struct pool *pool, const struct gemm *g, const float *a, const float *b, float *c);
void gemm_f64(struct pool *pool, const struct gemm *g, const double *a, const double *b, double *c);
/* One call of BLAS on the caller's thread: for tasks that are tiles already. */
void gemm_f32_tile(const struct gemm *g, const float *a, const float *b, float *c);
void gemm_f64_tile(const struct gemm *g, const double *a, const double *b, double *c);

/* `count` independent products; matrix i starts at a + a_at[i], b + b_at[i], c + i * c_step (offsets in elements). */
struct gemm_batch {
    int64_t count;
    const int64_t *a_at, *b_at;
    int64_t c_step;
};
void gemm_batch_f32(struct pool *pool, const struct gemm *g, const struct gemm_batch *batch, const float *a,
                    const float *b, float *c);
void gemm_batch_f64(struct pool *pool, const struct gemm *g, const struct gemm_batch *batch, const double *a,
                    const double *b, double *c);

/* The three loops of the definition, accumulated in double: the oracle of the tests, and the way for sizes beyond
 * BLAS. */
void gemm_f32_naive(const struct gemm *g, const float *a, const float *b, float *c);
void gemm_f64_naive(const struct gemm *g, const double *a, const double *b, double *c);

#endif
