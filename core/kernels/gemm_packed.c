/* SPDX-License-Identifier: Apache-2.0
 * gemm_packed.c - cutting a product into tasks and blocks; see gemm_packed.h.
 * Task       some rows (ROWS_MAX at most: a block of A then fits the second-level cache) of some panels. Inside: blocks
 *            of k (K_MAX at most: a block of a panel fits the first level), panels, rows. The activation runs over the
 *            rows of a task when its last block is done.
 * Grid       by cost alone: small products are one task, since waking a thread costs more than they do. A weight that
 *            few rows share costs what reading it costs, hence the constant beside m. */
#define GEMM_SET gemm_set_portable
#define GEMM_ROWS 2
#include "core/kernels/gemm_packed_loops.h"

#include "core/base/size.h"
#include "core/kernels/isa.h"

enum { ROWS_MAX = 192, K_MAX = 320, TASK_COST = 1 << 19, TASKS_MAX = 64, PANELS_MAX = 16, READ_COST = 6, FEW_ROWS = 6 };

bool gemm_packed_count(int64_t k, int64_t n, int64_t *count)
{
    return n <= INT64_MAX - GEMM_PANEL && i64_mul(i64_ceil_div(n, GEMM_PANEL) * GEMM_PANEL, k, count);
}

static const struct gemm_set *best_set(void)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        return &gemm_set_avx2;
#endif
    return &gemm_set_portable;
}

void gemm_pack_b(int64_t k, int64_t n, const float *b, int64_t b_row, int64_t b_col, float scale, float *packed)
{
    const struct gemm_set *set = best_set();
    for (int64_t j = 0; j < n; j += GEMM_PANEL)
        set->pack(k, i64_min(GEMM_PANEL, n - j), b + j * b_col, b_row, b_col, packed + j * k);
    const int64_t count = i64_ceil_div(n, GEMM_PANEL) * GEMM_PANEL * k;
    for (int64_t i = 0; scale != 1.0f && i < count; i++)
        packed[i] *= scale;
}

/* ---- one task ---- */
struct tile_range {
    int64_t row, rows, col, cols; /* col is a multiple of GEMM_PANEL */
};

static void run_panel(const struct gemm_packed *g, const struct gemm_set *set, const struct tile_range *t, int64_t col,
                      int64_t p, int64_t k)
{
    float plain[K_MAX * GEMM_PANEL] __attribute__((aligned(64)));
    struct gemm_block block = {.m = t->rows, .k = k, .cols = i64_min(GEMM_PANEL, t->col + t->cols - col),
                               .a = g->a + t->row * g->a_row + p * g->a_col, .a_row = g->a_row, .a_col = g->a_col,
                               .b = g->b + col * g->k + p * GEMM_PANEL, .c = g->c + t->row * g->c_row + col,
                               .c_row = g->c_row, .first = p == 0, .bias = g->bias ? g->bias + col : NULL,
                               .residual = g->residual ? g->residual + t->row * g->residual_row + col : NULL,
                               .residual_row = g->residual_row};
    if (!g->packed) {
        set->pack(k, block.cols, g->b + p * g->b_row + col * g->b_col, g->b_row, g->b_col, plain);
        block.b = plain;
    }
    set->block(&block);
}

static void run_range(const struct gemm_packed *g, const struct gemm_set *set, const struct tile_range *t)
{
    const bool stream = g->packed && g->m <= FEW_ROWS; /* every panel is read once, in order */
    const int64_t blocks = stream ? 1 : i64_max(1, i64_ceil_div(g->k, K_MAX)), step = i64_ceil_div(g->k, blocks);
    int64_t p = 0;
    do {
        const int64_t k = i64_min(step, g->k - p);
        for (int64_t col = t->col; col < t->col + t->cols; col += GEMM_PANEL)
            run_panel(g, set, t, col, p, k);
        p += k;
    } while (p < g->k);
    for (int64_t i = t->row; g->act.kind != ACT_NONE && i < t->row + t->rows; i++) {
        float *c = g->c + i * g->c_row + t->col;
        act_f32(&g->act, c, t->cols, c);
    }
}

void gemm_packed_tile(const struct gemm_packed *g)
{
    const struct gemm_set *set = best_set();
    for (int64_t row = 0; row < g->m; row += ROWS_MAX)
        for (int64_t col = 0; col < g->n; col += PANELS_MAX * GEMM_PANEL) {
            const struct tile_range t = {row, i64_min(ROWS_MAX, g->m - row), col,
                                         i64_min(PANELS_MAX * GEMM_PANEL, g->n - col)};
            run_range(g, set, &t);
        }
}

/* ---- the grid ---- */
struct job {
    const struct gemm_packed *g;
    const struct gemm_set *set;
    const struct gemm_packed_at *at;
    int64_t rows, cols; /* of a task; cols a multiple of GEMM_PANEL */
    int64_t tiles_m, tiles_n;
};

static void cut(struct job *job, int64_t count)
{
    const struct gemm_packed *g = job->g;
    const int64_t panels = i64_ceil_div(g->n, GEMM_PANEL);
    const double cost = (double)count * (double)(g->m + READ_COST) * (double)g->n * (double)g->k;
    const double most = cost > (double)TASK_COST * TASKS_MAX ? TASKS_MAX : cost / TASK_COST;
    const double wanted = cost < 2.0 * TASK_COST ? 1 : most;
    int64_t tiles = i64_max(1, (int64_t)(wanted / (double)i64_max(1, count)));

    job->tiles_m = i64_max(1, i64_ceil_div(g->m, ROWS_MAX));
    job->rows = i64_ceil_div(i64_ceil_div(g->m, job->tiles_m), 6) * 6;
    job->tiles_m = i64_ceil_div(g->m, job->rows);
    job->tiles_n = i64_min(panels, i64_max(i64_ceil_div(panels, PANELS_MAX), i64_ceil_div(tiles, job->tiles_m)));
    const int64_t per = i64_ceil_div(panels, job->tiles_n);
    job->cols = per * GEMM_PANEL;
    job->tiles_n = i64_ceil_div(panels, per);
    tiles = i64_ceil_div(tiles, job->tiles_n);
    if (tiles > job->tiles_m && g->m > 12) { /* few columns: more cuts between rows */
        job->rows = i64_max(12, i64_ceil_div(i64_ceil_div(g->m, tiles), 6) * 6);
        job->tiles_m = i64_ceil_div(g->m, job->rows);
    }
}

static void run_task(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const int64_t per = job->tiles_m * job->tiles_n, item = task / per, at = task % per;
    struct gemm_packed g = *job->g;
    const int64_t row = at % job->tiles_m * job->rows, col = at / job->tiles_m * job->cols;
    const struct tile_range t = {row, i64_min(job->rows, g.m - row), col, i64_min(job->cols, g.n - col)};
    (void)lane;
    if (job->at) {
        g.a += job->at[item].a;
        g.b += job->at[item].b;
        g.c += job->at[item].c;
        if (g.residual)
            g.residual += job->at[item].c;
    }
    run_range(&g, job->set, &t);
}

void gemm_packed_batch_f32(struct pool *pool, const struct gemm_packed *g, int64_t count,
                           const struct gemm_packed_at *at)
{
    struct job job = {.g = g, .set = best_set(), .at = at};
    if (g->m <= 0 || g->n <= 0 || count <= 0)
        return;
    cut(&job, count);
    const double cost = (double)count * (double)(g->m + READ_COST) * (double)g->n * (double)g->k;
    pool_run(cost < 2.0 * TASK_COST ? NULL : pool, count * job.tiles_m * job.tiles_n, run_task, &job);
}

void gemm_packed_f32(struct pool *pool, const struct gemm_packed *g)
{
    gemm_packed_batch_f32(pool, g, 1, NULL);
}
