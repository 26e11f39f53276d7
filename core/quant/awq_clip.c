/* SPDX-License-Identifier: Apache-2.0
 * awq_clip.c - block ranges that give way at their ends: each of 21 steps from the whole range down to a half, by
 * the block's
 * own share of the output error, e^T H_bb e (for long blocks its diagonal). */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/quant/awq.h"
#include "core/quant/better.h"

enum { STEPS = 21, SQUARE_MOST = 128, CHUNK = 16 };

struct clip_job {
    const struct block_form *f;
    const float *w;
    int64_t rows, per; /* per: rows of a group */
    const struct gram_matrix *g;
    const struct block_codes *out;
    struct lane {
        uint8_t *codes;
        double *error;
    } *lanes;
    int64_t *clipped; /* by task */
};

static double block_loss(const double *h, int64_t k, int64_t n, const double *e)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double row = h[i * k + i] * e[i];
        for (int64_t j = i + 1; n <= SQUARE_MOST && j < n; j++)
            row += 2 * h[i * k + j] * e[j];
        sum += row * e[i];
    }
    return sum;
}

/* True if a smaller range is better. */
static bool clip_block(const struct clip_job *job, struct lane *lane, int64_t row, int64_t b)
{
    const struct block_form *f = job->f;
    const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = row * block_count(f) + b;
    const float *w = job->w + row * f->k + first;
    const double *h = job->g->h + (row / job->per * f->k + first) * f->k + first;
    float lo, hi, scale;
    double least = INFINITY;
    uint8_t zero;
    int best = 0;
    block_range(w, n, &lo, &hi);
    for (int step = 0; step < STEPS; step++) {
        const float part = 1 - 0.025f * (float)step;
        block_params(f, lo * part, hi * part, &scale, &zero);
        block_encode(f, w, n, scale, zero, lane->codes);
        for (int64_t i = 0; i < n; i++)
            lane->error[i] = (double)w[i] - (double)((float)(lane->codes[i] - zero) * scale);
        const double loss = block_loss(h, f->k, n, lane->error);
        if (loss < least) {
            least = loss;
            best = step;
        }
        if (!(least > 0))
            break;
    }
    const float part = 1 - 0.025f * (float)best;
    block_params(f, lo * part, hi * part, &scale, &zero);
    block_encode(f, w, n, scale, zero, job->out->codes + row * f->k + first);
    job->out->scale[at] = scale;
    job->out->zero[at] = zero;
    return best > 0;
}

static void clip_rows(void *arg, int64_t task, int lane)
{
    const struct clip_job *job = arg;
    for (int64_t r = task * CHUNK; r < job->rows && r < (task + 1) * CHUNK; r++)
        for (int64_t b = 0; b < block_count(job->f); b++)
            job->clipped[task] += clip_block(job, &job->lanes[lane], r, b);
}

int awq_clip(const struct block_form *f, const float *w, int64_t rows, const struct gram_matrix *g, struct pool *pool,
             const struct block_codes *out, struct awq_report *report, struct err *err)
{
    struct better better = {.f = f, .w = w, .rows = rows, .g = g, .pool = pool};
    const int n = pool ? pool_threads(pool) : 1;
    const int64_t tasks = i64_ceil_div(rows, CHUNK);
    struct clip_job job = {.f = f, .w = w, .rows = rows, .per = rows / g->groups, .g = g, .out = out};
    int rc = -1;
    if (g->k != f->k || rows % g->groups)
        return err_set(err, ERR_INTERNAL, "the Gram matrix is not that of this weight");
    job.lanes = calloc((size_t)n, sizeof *job.lanes);
    job.clipped = calloc((size_t)tasks + 1, sizeof *job.clipped);
    bool made = job.lanes && job.clipped;
    for (int i = 0; i < n && made; i++) {
        job.lanes[i].codes = malloc((size_t)f->k);
        job.lanes[i].error = malloc((size_t)f->k * sizeof(double));
        made = job.lanes[i].codes && job.lanes[i].error;
    }
    if (!made) {
        err_set(err, ERR_NOMEM, "out of memory while choosing ranges");
        goto out;
    }
    if (better_start(&better, err))
        goto out;
    pool_run(pool, tasks, clip_rows, &job);
    better_choose(&better, out);
    if (report) {
        *report = (struct awq_report){.error = better.error, .rtn_error = better.rtn_error};
        for (int64_t i = 0; i < tasks; i++)
            report->clipped += job.clipped[i];
    }
    rc = 0;
out:
    better_fini(&better);
    for (int i = 0; job.lanes && i < n; i++) {
        free(job.lanes[i].codes);
        free(job.lanes[i].error);
    }
    free(job.lanes);
    free(job.clipped);
    return rc;
}
