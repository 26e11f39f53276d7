/* SPDX-License-Identifier: Apache-2.0
 * gptq.c - a group's H gives one factor; chunks of rows are then rounded by themselves (rounding.h), and compared with
 * round-to-nearest by the error they were chosen for.
 * Order      With columns in another order H is permuted before it is factored; everything else stays in its place. */
#include "core/quant/gptq.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/quant/better.h"
#include "core/quant/rounding.h"
#include "core/stats/hessian.h"

enum { CHUNK = 16, SWEEPS = 8 };

/* ---- scales ---- */
/* A group of rows that read the same x. */
struct job {
    const struct block_form *f;
    const struct gptq_opts *o;
    const float *w;              /* [rows][k] */
    int64_t rows, blocks;
    const double *h, *u, *diag;  /* h: damped; its diagonal */
    const int64_t *order;        /* of the columns, or NULL */
    const struct block_codes *out;
    struct lane *lanes;
    int sweeps;
};
/* What a task works in. */
struct lane {
    const struct job *job;
    double *w, *scratch;
    int32_t *code, *zero;
    float *x, *scale;
    uint8_t *byte;
};

/* Sum of weight * (x - rounded)^2 for a candidate; *scale is refitted to the codes when that can be. */
static double grid_error(const struct block_form *f, const double *x, const double *weight, int64_t n, int32_t zero,
                         float *scale)
{
    const int32_t most = (1 << f->bits) - 1;
    double xx = 0, xc = 0, cc = 0;
    for (int64_t i = 0; i < n; i++) {
        double code = nearbyint(x[i] / (double)*scale) + zero;
        code = (code > most ? most : code >= 0 ? code : 0) - zero;
        xx += weight[i] * x[i] * x[i];
        xc += weight[i] * x[i] * code;
        cc += weight[i] * code * code;
    }
    const float fit = cc > 0 ? block_scale_stored(f, (float)(xc / cc)) : *scale;
    if (fabsf(fit) >= FLT_MIN && isfinite(fit) && (fit < 0) == (*scale < 0))
        *scale = fit;
    return xx - 2 * (double)*scale * xc + (double)*scale * (double)*scale * cc;
}

/* Ranges shrunk in steps of 2.5 % down to a half, and zero points beside the first, by the error weighted with
 * diag(H). */
static void choose_grid(void *arg, const struct round_chunk *c, int64_t row, int64_t b, const double *x)
{
    const struct lane *lane = arg;
    const struct job *job = lane->job;
    const struct block_form *f = job->f;
    const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = row * job->blocks + b;
    const struct block_form one = {.bits = f->bits, .k = n, .block = n, .symmetric = f->symmetric,
                                   .scale_dtype = f->scale_dtype};
    const int32_t most = (1 << f->bits) - 1, beside = f->symmetric ? 0 : 1;
    float scale;
    uint8_t zero;
    double least = INFINITY;
    for (int64_t i = 0; i < n; i++)
        lane->x[i] = (float)x[i];
    block_rtn(&one, lane->x, 1, &(struct block_codes){lane->byte, &scale, &zero});
    c->scale[at] = scale;
    c->zero[at] = zero;
    for (int step = 0; step <= 20 && !job->o->plain_scale && fabsf(scale) >= FLT_MIN; step++)
        for (int32_t z = zero - beside; z <= zero + beside; z++) {
            float s = block_scale_stored(f, scale * (1 - 0.025f * (float)step));
            const bool fits = z >= 0 && z <= most && fabsf(s) >= FLT_MIN;
            const double e = fits ? grid_error(f, x, job->diag + first, n, z, &s) : INFINITY;
            if (e < least) {
                least = e;
                c->scale[at] = s;
                c->zero[at] = z;
            }
        }
}

/* ---- rows ---- */
static void round_rows(void *arg, int64_t task, int lane_number)
{
    const struct job *job = arg;
    struct lane *lane = &job->lanes[lane_number];
    const int64_t first = task * CHUNK, n = i64_min(CHUNK, job->rows - first), k = job->f->k;
    const struct round_chunk c = {.n = n, .k = k, .block = job->f->block, .lo = 0, .hi = (1 << job->f->bits) - 1,
                                  .w = lane->w, .code = lane->code, .scale = lane->scale, .zero = lane->zero,
                                  .scale_dtype = job->f->scale_dtype, .scratch = lane->scratch};
    for (int64_t i = 0; i < n * k; i++)
        lane->w[i] = (double)job->w[first * k + i];
    for (int64_t r = 0; job->order && r < n; r++) /* blocks keep their places: scales of the weight as it is */
        for (int64_t b = 0; b < job->blocks; b++)
            choose_grid(lane, &c, r, b, lane->w + r * k + b * c.block);
    round_sequential(&c, job->u, job->order, job->order ? NULL : choose_grid, lane);
    if (job->sweeps > 0)
        round_descend(&c, job->h, job->sweeps, !job->o->plain_scale);
    for (int64_t i = 0; i < n * k; i++)
        job->out->codes[first * k + i] = (uint8_t)lane->code[i];
    for (int64_t i = 0; i < n * job->blocks; i++) {
        job->out->scale[first * job->blocks + i] = lane->scale[i];
        job->out->zero[first * job->blocks + i] = (uint8_t)lane->zero[i];
    }
}

static void lanes_free(struct lane *lanes, int n)
{
    for (int i = 0; lanes && i < n; i++) {
        free(lanes[i].w);
        free(lanes[i].scratch);
        free(lanes[i].code);
        free(lanes[i].zero);
        free(lanes[i].x);
        free(lanes[i].scale);
        free(lanes[i].byte);
    }
    free(lanes);
}

static struct lane *lanes_new(const struct job *job, int n)
{
    const size_t k = (size_t)job->f->k, blocks = (size_t)job->blocks;
    struct lane *lanes = calloc((size_t)n, sizeof *lanes);
    bool made = lanes != NULL;
    for (int i = 0; i < n && made; i++) {
        struct lane *l = &lanes[i];
        *l = (struct lane){.job = job,
                           .w = malloc(CHUNK * k * sizeof *l->w),
                           .scratch = malloc(round_scratch(CHUNK, k) * sizeof *l->scratch),
                           .code = malloc(CHUNK * k * sizeof *l->code),
                           .zero = malloc(CHUNK * blocks * sizeof *l->zero),
                           .x = malloc(k * sizeof *l->x),
                           .scale = malloc(CHUNK * blocks * sizeof *l->scale),
                           .byte = malloc(k)};
        made = l->w && l->scratch && l->code && l->zero && l->x && l->scale && l->byte;
    }
    if (made)
        return lanes;
    lanes_free(lanes, n);
    return NULL;
}

/* ---- one group ---- */
/* Columns by falling diag(H), and H in that order. */
static int order_columns(const double *h, int64_t k, int64_t *order, double *sorted)
{
    if (hessian_order(h, k, order))
        return -1;
    hessian_permute(h, k, order, sorted);
    return 0;
}

/* Rows of one group: everything but the comparison with round-to-nearest. */
static int round_group(struct job *job, const double *h, int64_t seen, double *damp, int64_t *dead, struct err *err)
{
    const size_t k = (size_t)job->f->k;
    const bool ordered = !job->o->in_order;
    const int lanes = job->o->pool ? pool_threads(job->o->pool) : 1;
    double *u = malloc(k * k * sizeof *u), *damped = malloc(k * k * sizeof *damped), *diag = malloc(k * sizeof *diag);
    double *sorted = ordered ? malloc(k * k * sizeof *sorted) : NULL;
    int64_t *order = ordered ? malloc(k * sizeof *order) : NULL;
    int rc = -1;
    job->lanes = lanes_new(job, lanes);
    if (!u || !damped || !diag || !job->lanes || (ordered && (!order || !sorted))) {
        err_set(err, ERR_NOMEM, "out of memory while choosing codes");
        goto out;
    }
    hessian_believe(h, job->f->k, seen, damped);
    if (ordered && order_columns(damped, job->f->k, order, sorted)) {
        err_set(err, ERR_NOMEM, "out of memory while choosing codes");
        goto out;
    }
    if (hessian_factor(ordered ? sorted : damped, job->f->k, damp, u, err))
        goto out;
    const double add = *damp * hessian_mean_diagonal(damped, job->f->k);
    for (size_t i = 0; i < k; i++) {
        *dead += !(h[i * k + i] > 0);
        diag[i] = damped[i * k + i] += add;
    }
    job->u = u;
    job->h = damped;
    job->diag = diag;
    job->order = order;
    pool_run(job->o->pool, i64_ceil_div(job->rows, CHUNK), round_rows, job);
    rc = 0;
out:
    lanes_free(job->lanes, lanes);
    free(u);
    free(damped);
    free(diag);
    free(sorted);
    free(order);
    return rc;
}

int gptq_quantize(const struct block_form *f, const float *w, int64_t rows, const struct gram_matrix *g,
                  const struct gptq_opts *o, const struct block_codes *out, struct gptq_report *report,
                  struct err *err)
{
    struct gptq_report found = {.few_rows = g->rows < f->k};
    struct better better = {.f = f, .w = w, .rows = rows, .g = g, .pool = o->pool};
    const double start = o->damp > 0 ? o->damp : 0.01;
    const int64_t per = rows / g->groups, blocks = block_count(f);
    int rc = -1;
    if (g->k != f->k || rows % g->groups)
        return err_set(err, ERR_INTERNAL, "the Gram matrix is not that of this weight");
    if (better_start(&better, err))
        goto out;
    for (int64_t group = 0; group < g->groups; group++) {
        const struct block_codes part = {out->codes + group * per * f->k, out->scale + group * per * blocks,
                                         out->zero + group * per * blocks};
        struct job job = {.f = f, .o = o, .w = w + group * per * f->k, .rows = per, .blocks = blocks, .out = &part,
                          .sweeps = o->sweeps ? o->sweeps : SWEEPS};
        double damp = start;
        if (round_group(&job, g->h + group * f->k * f->k, g->rows, &damp, &found.dead, err))
            goto out;
        found.damp = fmax(found.damp, damp);
    }
    better_choose(&better, out);
    found.error = better.error;
    found.rtn_error = better.rtn_error;
    found.kept_rtn = better.kept_rtn;
    if (report)
        *report = found;
    rc = 0;
out:
    better_fini(&better);
    return rc;
}
