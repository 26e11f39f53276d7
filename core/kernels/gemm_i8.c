/* SPDX-License-Identifier: Apache-2.0
 * gemm_i8.c - packing and blocking of 8-bit products; see gemm_i8.h.
 * Idea       A and B are packed block by block into int16 pairs (p, p + 1), so that one instruction (pmaddwd) does
 *            two multiply-adds a lane without saturation. A block of 64 rows x 256 deep of A and a sliver of 16
 *            columns of B stay in the first-level cache. An odd k is padded by a pair whose second half is zero. */
#include "core/kernels/gemm_i8.h"

#include <string.h>

#include "core/base/size.h"

enum { BLOCK_ROWS = 64, BLOCK_DEPTH = 256, TILE_ROWS = 128, TILE_COLS = 256 };

static int32_t value(const void *at, bool is_signed, int64_t i)
{
    return is_signed ? ((const int8_t *)at)[i] : ((const uint8_t *)at)[i];
}

void gemm_i8_naive(const struct gemm_i8 *g, const void *a, const void *b, int32_t *c)
{
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            uint32_t sum = 0;
            for (int64_t p = 0; p < g->k; p++)
                sum += (uint32_t)((value(a, g->a_signed, i * g->lda + p) - g->a_zero[g->a_zero_rows ? i : 0]) *
                                  (value(b, g->b_signed, p * g->ldb + j) - g->b_zero[g->b_zero_columns ? j : 0]));
            c[i * g->ldc + j] = (int32_t)sum;
        }
    }
}

/* Rows [row, row + rows) and depth [from, from + depth) of A, each row padded to whole pairs; missing rows of the
 * last four are zero. */
static void pack_a(const struct gemm_i8 *g, const void *a, int64_t row, int64_t rows, int64_t from, int64_t depth,
                   int16_t *out)
{
    const int64_t padded = (depth + 1) / 2 * 2;

    for (int64_t i = 0; i < (rows + 3) / 4 * 4; i++, out += padded) {
        if (i >= rows) {
            memset(out, 0, (size_t)padded * sizeof *out);
            continue;
        }
        const int32_t zero = g->a_zero[g->a_zero_rows ? row + i : 0];
        const int64_t at = (row + i) * g->lda + from;
        if (g->a_signed)
            for (int64_t p = 0; p < depth; p++)
                out[p] = (int16_t)(((const int8_t *)a)[at + p] - zero);
        else
            for (int64_t p = 0; p < depth; p++)
                out[p] = (int16_t)(((const uint8_t *)a)[at + p] - zero);
        if (padded > depth)
            out[depth] = 0;
    }
}

/* Columns [col, col + cols), cols <= 16, as pairs; missing columns are zero. */
static void pack_b(const struct gemm_i8 *g, const void *b, int64_t col, int64_t cols, int64_t from, int64_t depth,
                   int16_t *out)
{
    int32_t zero[GEMM_I8_COLS];

    for (int64_t j = 0; j < cols; j++)
        zero[j] = g->b_zero[g->b_zero_columns ? col + j : 0];
    if (cols < GEMM_I8_COLS || depth % 2)
        memset(out, 0, (size_t)((depth + 1) / 2 * 2 * GEMM_I8_COLS) * sizeof *out);
    for (int64_t p = 0; p < depth; p++) {
        int16_t *dst = out + p / 2 * 2 * GEMM_I8_COLS + p % 2;
        const int64_t at = (from + p) * g->ldb + col;
        if (g->b_signed)
            for (int64_t j = 0; j < cols; j++)
                dst[j * 2] = (int16_t)(((const int8_t *)b)[at + j] - zero[j]);
        else
            for (int64_t j = 0; j < cols; j++)
                dst[j * 2] = (int16_t)(((const uint8_t *)b)[at + j] - zero[j]);
    }
}

static void block_portable(const int16_t *a, const int16_t *b, int64_t pairs, int32_t c[GEMM_I8_ROWS * GEMM_I8_COLS])
{
    for (int r = 0; r < GEMM_I8_ROWS; r++, a += pairs * 2) {
        uint32_t sum[GEMM_I8_COLS] = {0};
        for (int64_t p = 0; p < pairs; p++)
            for (int j = 0; j < GEMM_I8_COLS; j++) {
                const int16_t *pair = b + (p * GEMM_I8_COLS + j) * 2;
                sum[j] += (uint32_t)(a[p * 2] * pair[0] + a[p * 2 + 1] * pair[1]);
            }
        for (int j = 0; j < GEMM_I8_COLS; j++)
            c[r * GEMM_I8_COLS + j] = (int32_t)sum[j];
    }
}

typedef void block_fn(const int16_t *a, const int16_t *b, int64_t pairs, int32_t c[GEMM_I8_ROWS * GEMM_I8_COLS]);

static block_fn *block_of(enum gemm_i8_path path)
{
#if defined(__x86_64__)
    if (path == GEMM_I8_AVX2)
        return gemm_i8_block_avx2;
#endif
    (void)path;
    return block_portable;
}

bool gemm_i8_has(enum gemm_i8_path path)
{
#if defined(__x86_64__)
    if (path == GEMM_I8_AVX2)
        return __builtin_cpu_supports("avx2");
#endif
    return path == GEMM_I8_PORTABLE;
}

/* Add a small result to C (or put it there, for the first slice of the depth). */
static void store(int32_t *c, int64_t ldc, const int32_t *part, int64_t rows, int64_t cols, bool first)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < cols; j++) {
            const uint32_t old = first ? 0 : (uint32_t)c[r * ldc + j];
            c[r * ldc + j] = (int32_t)(old + (uint32_t)part[r * GEMM_I8_COLS + j]);
        }
}

void gemm_i8_with(enum gemm_i8_path path, const struct gemm_i8 *g, const void *a, const void *b, int32_t *c)
{
    _Alignas(64) int16_t pack_of_a[BLOCK_ROWS * BLOCK_DEPTH], pack_of_b[GEMM_I8_COLS * BLOCK_DEPTH];
    int32_t part[GEMM_I8_ROWS * GEMM_I8_COLS];
    block_fn *block = block_of(path);

    if (g->k == 0)
        gemm_i8_naive(g, a, b, c);
    for (int64_t from = 0; from < g->k; from += BLOCK_DEPTH) {
        const int64_t depth = i64_min(BLOCK_DEPTH, g->k - from), pairs = (depth + 1) / 2;
        for (int64_t row = 0; row < g->m; row += BLOCK_ROWS) {
            const int64_t rows = i64_min(BLOCK_ROWS, g->m - row);
            pack_a(g, a, row, rows, from, depth, pack_of_a);
            for (int64_t col = 0; col < g->n; col += GEMM_I8_COLS) {
                const int64_t cols = i64_min(GEMM_I8_COLS, g->n - col);
                pack_b(g, b, col, cols, from, depth, pack_of_b);
                for (int64_t r = 0; r < rows; r += GEMM_I8_ROWS) {
                    block(pack_of_a + r * pairs * 2, pack_of_b, pairs, part);
                    store(c + (row + r) * g->ldc + col, g->ldc, part, i64_min(GEMM_I8_ROWS, rows - r), cols, from == 0);
                }
            }
        }
    }
}

void gemm_i8_tile(const struct gemm_i8 *g, const void *a, const void *b, int32_t *c)
{
    gemm_i8_with(gemm_i8_has(GEMM_I8_AVX2) ? GEMM_I8_AVX2 : GEMM_I8_PORTABLE, g, a, b, c);
}

struct job {
    const struct gemm_i8 *g;
    const char *a, *b;
    int32_t *c;
    int64_t cols; /* tiles */
};

static void run(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    struct gemm_i8 g = *job->g;
    const int64_t i = task / job->cols * TILE_ROWS, j = task % job->cols * TILE_COLS;

    (void)lane;
    g.m = i64_min(TILE_ROWS, g.m - i);
    g.n = i64_min(TILE_COLS, g.n - j);
    g.a_zero += g.a_zero_rows ? i : 0;
    g.b_zero += g.b_zero_columns ? j : 0;
    gemm_i8_tile(&g, job->a + i * g.lda, job->b + j, job->c + i * g.ldc + j);
}

void gemm_i8(struct pool *pool, const struct gemm_i8 *g, const void *a, const void *b, int32_t *c)
{
    struct job job = {g, a, b, c, i64_ceil_div(g->n, TILE_COLS)};
    const int64_t tasks = job.cols * i64_ceil_div(g->m, TILE_ROWS);
    pool_run(tasks > 1 ? pool : NULL, tasks, run, &job);
}
