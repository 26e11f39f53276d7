/* SPDX-License-Identifier: Apache-2.0
 * gemm.c - tiles over OpenBLAS.
 * Idea       C is cut into a grid of tiles; every tile is one call of single-threaded BLAS over the whole k, so no
 *            partial sums have to be joined and the order of summation inside a tile is BLAS's own. The grid depends
 *            on the shape alone. Small products are one tile: waking a thread costs more than they do.
 * Rejected   BLAS's own threads: their split depends on the thread count, and so do the last bits of the result.
 * Vectors    A product with m = 1 or n = 1 is a matrix-vector product: BLAS's gemv reads the matrix once without
 *            packing it. */
#include "core/kernels/gemm.h"

#include <cblas.h>
#include <limits.h>

#include "core/base/size.h"
#include "core/kernels/gemm_packed.h"
#include "core/kernels/isa.h"

struct gemm gemm_plain(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k)
{
    return (struct gemm){.trans_a = trans_a, .trans_b = trans_b, .m = m, .n = n, .k = k, .lda = trans_a ? m : k,
                         .ldb = trans_b ? k : n, .ldc = n, .alpha = 1, .beta = 0};
}

/* BLAS counts in int. */
static bool fits_blas(const struct gemm *g)
{
    return g->m <= INT_MAX && g->n <= INT_MAX && g->k <= INT_MAX && g->lda <= INT_MAX && g->ldb <= INT_MAX &&
           g->ldc <= INT_MAX;
}

/* The grid: about 2^21 multiply-accumulates a tile at least, at most 16 x 16 tiles, bounds in multiples of 16. */
struct grid {
    int64_t rows, cols;         /* tiles */
    int64_t tile_rows, tile_cols; /* elements of a tile; the last one may be smaller */
};

static struct grid grid_of(const struct gemm *g)
{
    const double macs = (double)g->m * (double)g->n * (double)(g->k > 0 ? g->k : 1);
    int64_t tiles = macs < 4194304.0 ? 1 : macs > 2097152.0 * 16 ? 16 : (int64_t)(macs / 2097152.0);
    int64_t rows = 1, cols = 1;

    while (rows * cols < tiles) { /* halve the longer side of a tile */
        if (g->m / rows >= g->n / cols && g->m / rows >= 32)
            rows *= 2;
        else if (g->n / cols >= 32)
            cols *= 2;
        else
            break;
    }
    struct grid grid = {.rows = rows, .cols = cols};
    grid.tile_rows = (i64_ceil_div(g->m, rows) + 15) / 16 * 16;
    grid.tile_cols = (i64_ceil_div(g->n, cols) + 15) / 16 * 16;
    if (rows == 1)
        grid.tile_rows = g->m;
    if (cols == 1)
        grid.tile_cols = g->n;
    grid.rows = grid.tile_rows ? i64_ceil_div(g->m, grid.tile_rows) : 0;
    grid.cols = grid.tile_cols ? i64_ceil_div(g->n, grid.tile_cols) : 0;
    return grid;
}

/* Our own kernel where it is as fast as BLAS or faster: everything that is no matrix-vector product, on AVX2. BLAS packs
 * both sides and looks for threads before it starts, which hurts small products most. `tile`: in one task, else cut by
 * the shape. */
static bool own_f32(struct pool *pool, bool tile, const struct gemm *g, const float *a, const float *b, float *c)
{
    if ((g->alpha != 1 && g->beta != 0) || (g->beta != 0 && g->beta != 1) || g->m < 4 || g->n < 4 || !isa_has(ISA_AVX2))
        return false;
    const struct gemm_packed p = {.m = g->m, .n = g->n, .k = g->k, .a = a, .a_row = g->trans_a ? 1 : g->lda,
                                  .a_col = g->trans_a ? g->lda : 1, .b = b, .b_row = g->trans_b ? 1 : g->ldb,
                                  .b_col = g->trans_b ? g->ldb : 1, .residual = g->beta == 1 ? c : NULL,
                                  .residual_row = g->ldc, .c = c, .c_row = g->ldc};
    if (tile)
        gemm_packed_tile(&p);
    else
        gemm_packed_f32(pool, &p);
    for (int64_t i = 0; g->alpha != 1 && i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++)
            c[i * g->ldc + j] *= (float)g->alpha;
    return true;
}

static bool own_f64(struct pool *pool, bool tile, const struct gemm *g, const double *a, const double *b, double *c)
{
    (void)pool, (void)tile, (void)g, (void)a, (void)b, (void)c;
    return false;
}

/* Everything that is the same for float and double but the names of BLAS. */
#define DEFINE_GEMM(T, suffix, blas_gemm, blas_gemv)                                                                 \
    void gemm_##suffix##_naive(const struct gemm *g, const T *a, const T *b, T *c)                                   \
    {                                                                                                                \
        for (int64_t i = 0; i < g->m; i++) {                                                                         \
            for (int64_t j = 0; j < g->n; j++) {                                                                     \
                double sum = 0;                                                                                      \
                for (int64_t p = 0; p < g->k; p++)                                                                   \
                    sum += (double)a[g->trans_a ? p * g->lda + i : i * g->lda + p] *                                 \
                           (double)b[g->trans_b ? j * g->ldb + p : p * g->ldb + j];                                  \
                T *out = &c[i * g->ldc + j];                                                                         \
                *out = (T)(g->alpha * sum + (g->beta != 0 ? g->beta * (double)*out : 0));                            \
            }                                                                                                        \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    void gemm_##suffix##_tile(const struct gemm *g, const T *a, const T *b, T *c)                                    \
    {                                                                                                                \
        const int m = (int)g->m, n = (int)g->n, k = (int)g->k;                                                       \
        const int lda = (int)g->lda, ldb = (int)g->ldb, ldc = (int)g->ldc;                                           \
        const T alpha = (T)g->alpha, beta = (T)g->beta;                                                              \
                                                                                                                     \
        if (!fits_blas(g) || k == 0) {                                                                               \
            gemm_##suffix##_naive(g, a, b, c);                                                                       \
        } else if (own_##suffix(NULL, true, g, a, b, c)) {                                                                     \
            return;                                                                                                  \
        } else if (m == 1 && (!g->trans_a || lda == 1)) { /* c = op(B)^T a */                                        \
            blas_gemv(CblasRowMajor, g->trans_b ? CblasNoTrans : CblasTrans, g->trans_b ? n : k, g->trans_b ? k : n, \
                      alpha, b, ldb, a, 1, beta, c, 1);                                                              \
        } else if (n == 1) { /* c = op(A) b */                                                                       \
            blas_gemv(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans, g->trans_a ? k : m, g->trans_a ? m : k, \
                      alpha, a, lda, b, g->trans_b ? 1 : ldb, beta, c, ldc);                                         \
        } else {                                                                                                     \
            blas_gemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,                                         \
                      g->trans_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);         \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    struct job_##suffix {                                                                                            \
        const struct gemm *g;                                                                                        \
        struct grid grid;                                                                                            \
        const struct gemm_batch *batch;                                                                              \
        const T *a, *b;                                                                                              \
        T *c;                                                                                                        \
    };                                                                                                               \
                                                                                                                     \
    static void run_##suffix(void *arg, int64_t task, int lane)                                                      \
    {                                                                                                                \
        const struct job_##suffix *job = arg;                                                                        \
        const int64_t per = job->grid.rows * job->grid.cols, item = task / per, tile = task % per;                   \
        const int64_t i = tile / job->grid.cols * job->grid.tile_rows,                                               \
            j = tile % job->grid.cols * job->grid.tile_cols;                                                         \
        struct gemm g = *job->g;                                                                                     \
        const T *a = job->a + (job->batch ? job->batch->a_at[item] : 0);                                             \
        const T *b = job->b + (job->batch ? job->batch->b_at[item] : 0);                                             \
        T *c = job->c + (job->batch ? item * job->batch->c_step : 0);                                                \
                                                                                                                     \
        (void)lane;                                                                                                  \
        g.m = i64_min(job->grid.tile_rows, g.m - i);                                                                 \
        g.n = i64_min(job->grid.tile_cols, g.n - j);                                                                 \
        gemm_##suffix##_tile(&g, a + (g.trans_a ? i : i * g.lda), b + (g.trans_b ? j * g.ldb : j), c + i * g.ldc + j); \
    }                                                                                                                \
                                                                                                                     \
    void gemm_##suffix(struct pool *pool, const struct gemm *g, const T *a, const T *b, T *c)                        \
    {                                                                                                                \
        struct job_##suffix job = {.g = g, .grid = grid_of(g), .a = a, .b = b, .c = c};                              \
        const int64_t tasks = job.grid.rows * job.grid.cols;                                                         \
        if (own_##suffix(pool, false, g, a, b, c))                                                                          \
            return;                                                                                                  \
        pool_run(tasks > 1 ? pool : NULL, tasks, run_##suffix, &job);                                                \
    }                                                                                                                \
                                                                                                                     \
    void gemm_batch_##suffix(struct pool *pool, const struct gemm *g, const struct gemm_batch *batch, const T *a,    \
                             const T *b, T *c)                                                                       \
    {                                                                                                                \
        struct job_##suffix job = {.g = g, .grid = grid_of(g), .batch = batch, .a = a, .b = b, .c = c};              \
        const int64_t tasks = batch->count * job.grid.rows * job.grid.cols;                                          \
        const bool small = (double)g->m * (double)g->n * (double)g->k * (double)batch->count < 262144.0;             \
        pool_run(tasks > 1 && !small ? pool : NULL, tasks, run_##suffix, &job);                                      \
    }

DEFINE_GEMM(float, f32, cblas_sgemm, cblas_sgemv)
DEFINE_GEMM(double, f64, cblas_dgemm, cblas_dgemv)
