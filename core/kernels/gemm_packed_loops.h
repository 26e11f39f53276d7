/* SPDX-License-Identifier: Apache-2.0
 * gemm_packed_loops.h - the micro-kernel, included once for each instruction set with GEMM_SET (the set to define) and
 * GEMM_ROWS (rows of a tile).
 * Idea       GEMM_ROWS x 16 sums stay in registers over a block of k: every step loads one row of the panel and
 *            spreads one element of A a row. Tiles of few rows would wait for their own sums, so they keep several sets
 *            of them, one for each of UNROLL neighbouring steps. */
#include <string.h>

#include "core/kernels/gemm_packed_impl.h"
#include "core/kernels/vec.h"

#define INLINE static inline __attribute__((always_inline))
enum { PARTS = GEMM_PANEL / VEC, MAX_SETS = 4 };

INLINE void start_tile(const struct gemm_block *g, int64_t row, const int rows, vec sum[GEMM_ROWS][PARTS])
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) {
            if (!g->first) {
                sum[r][p] = vec_load(g->c + (row + r) * g->c_row + p * VEC);
                continue;
            }
            sum[r][p] = g->bias ? vec_load(g->bias + p * VEC) : vec_set(0);
            if (g->residual)
                sum[r][p] += vec_load(g->residual + (row + r) * g->residual_row + p * VEC);
        }
}

/* rows and unroll are constants where this is inlined. */
INLINE void tile(const struct gemm_block *g, int64_t row, const int rows, const int unroll)
{
    vec sum[GEMM_ROWS][PARTS], more[MAX_SETS - 1][GEMM_ROWS][PARTS];
    const float *a = g->a + row * g->a_row, *b = g->b;
    const int64_t a_row = g->a_row, a_col = g->a_col;
    int64_t p = 0;

    start_tile(g, row, rows, sum);
    for (int u = 0; u < unroll - 1; u++)
        for (int r = 0; r < rows; r++)
            for (int q = 0; q < PARTS; q++)
                more[u][r][q] = vec_set(0);
    for (; p + unroll <= g->k; p += unroll) {
        __builtin_prefetch(b + 64 * GEMM_PANEL);
#pragma GCC unroll 4
        for (int u = 0; u < unroll; u++, b += GEMM_PANEL, a += a_col) {
            vec bv[PARTS];
#pragma GCC unroll 4
            for (int q = 0; q < PARTS; q++)
                bv[q] = vec_load(b + q * VEC);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const vec av = vec_set(a[r * a_row]);
#pragma GCC unroll 4
                for (int q = 0; q < PARTS; q++)
                    if (u == 0)
                        sum[r][q] = vec_fma(av, bv[q], sum[r][q]);
                    else
                        more[u - 1][r][q] = vec_fma(av, bv[q], more[u - 1][r][q]);
            }
        }
    }
    for (; unroll > 1 && p < g->k; p++, b += GEMM_PANEL, a += a_col)
        for (int r = 0; r < rows; r++)
            for (int q = 0; q < PARTS; q++)
                sum[r][q] = vec_fma(vec_set(a[r * a_row]), vec_load(b + q * VEC), sum[r][q]);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int q = 0; q < PARTS; q++) {
#pragma GCC unroll 4
            for (int u = 0; u < unroll - 1; u++)
                sum[r][q] += more[u][r][q];
            vec_store(g->c + (row + r) * g->c_row + q * VEC, sum[r][q]);
        }
}

#if GEMM_ROWS == 6
static void tile_6(const struct gemm_block *g, int64_t row) { tile(g, row, 6, 1); }
static void tile_5(const struct gemm_block *g, int64_t row) { tile(g, row, 5, 1); }
static void tile_4(const struct gemm_block *g, int64_t row) { tile(g, row, 4, 1); }
static void tile_3(const struct gemm_block *g, int64_t row) { tile(g, row, 3, 2); }
static void tile_2(const struct gemm_block *g, int64_t row) { tile(g, row, 2, 2); }
static void tile_1(const struct gemm_block *g, int64_t row) { tile(g, row, 1, 4); }
static void (*const tile_of[])(const struct gemm_block *g, int64_t row) = {NULL,   tile_1, tile_2, tile_3,
                                                                           tile_4, tile_5, tile_6};
#else
static void tile_2(const struct gemm_block *g, int64_t row) { tile(g, row, 2, 1); }
static void tile_1(const struct gemm_block *g, int64_t row) { tile(g, row, 1, 2); }
static void (*const tile_of[])(const struct gemm_block *g, int64_t row) = {NULL, tile_1, tile_2};
#endif

/* A panel that is not full goes through a full one on the stack. */
static void narrow_tile(const struct gemm_block *g, int64_t row, int rows)
{
    float c[GEMM_ROWS * GEMM_PANEL] = {0}, bias[GEMM_PANEL] = {0};
    const size_t bytes = (size_t)g->cols * sizeof *c;
    struct gemm_block full = *g;

    full.a = g->a + row * g->a_row;
    full.c = c;
    full.c_row = GEMM_PANEL;
    full.first = false;
    if (g->first && g->bias)
        memcpy(bias, g->bias, bytes);
    for (int r = 0; r < rows; r++) {
        float *to = c + r * GEMM_PANEL;
        if (!g->first) {
            memcpy(to, g->c + (row + r) * g->c_row, bytes);
            continue;
        }
        memcpy(to, bias, sizeof bias);
        for (int64_t j = 0; g->residual && j < g->cols; j++)
            to[j] += g->residual[(row + r) * g->residual_row + j];
    }
    tile_of[rows](&full, 0);
    for (int r = 0; r < rows; r++)
        memcpy(g->c + (row + r) * g->c_row, c + r * GEMM_PANEL, bytes);
}

static void block(const struct gemm_block *g)
{
    for (int64_t row = 0; row < g->m; row += GEMM_ROWS) {
        const int rows = g->m - row < GEMM_ROWS ? (int)(g->m - row) : GEMM_ROWS;
        if (g->cols == GEMM_PANEL)
            tile_of[rows](g, row);
        else
            narrow_tile(g, row, rows);
    }
}

#if defined(__AVX2__)
/* Eight columns of B, each contiguous along k, eight rows at a time: an 8 x 8 transpose in registers. */
static int64_t pack_columns(int64_t k, const float *b, int64_t b_col, float *panel)
{
    int64_t p = 0;
    for (; p + 8 <= k; p += 8) {
        __m256 r[8], s[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            r[i] = _mm256_loadu_ps(b + i * b_col + p);
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
            s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
            r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
            r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
            r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_ps(panel + (p + i) * GEMM_PANEL, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
            _mm256_storeu_ps(panel + (p + i + 4) * GEMM_PANEL, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
        }
    }
    return p;
}
#else
static int64_t pack_columns(int64_t k, const float *b, int64_t b_col, float *panel)
{
    (void)k, (void)b, (void)b_col, (void)panel;
    return 0;
}
#endif

static void pack(int64_t k, int64_t cols, const float *b, int64_t b_row, int64_t b_col, float *panel)
{
    if (b_col == 1 && cols == GEMM_PANEL) {
        for (int64_t p = 0; p < k; p++)
            memcpy(panel + p * GEMM_PANEL, b + p * b_row, GEMM_PANEL * sizeof *b);
        return;
    }
    if (cols < GEMM_PANEL)
        memset(panel, 0, (size_t)k * GEMM_PANEL * sizeof *panel);
    for (int64_t j = 0; j < cols; j += 8) {
        const int64_t n = cols - j < 8 ? cols - j : 8;
        int64_t p = b_row == 1 && n == 8 ? pack_columns(k, b + j * b_col, b_col, panel + j) : 0;
        for (; p < k; p++)
            for (int64_t i = 0; i < n; i++)
                panel[p * GEMM_PANEL + j + i] = b[p * b_row + (j + i) * b_col];
    }
}

const struct gemm_set GEMM_SET = {block, pack};
