/* SPDX-License-Identifier: Apache-2.0
 * adaround_gram.c - codes of a layer from its Gram matrix (adaround.h). Two starts, nearest codes and sequential
 * ones, each
 * improved by descent; each row takes the best of the two and the codes it came with. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/quant/adaround.h"
#include "core/quant/rounding.h"
#include "core/stats/hessian.h"

enum { CHUNK = 16, SWEEPS = 20 };

struct lane {
    double *w, *scratch;
    int32_t *code, *zero;
    float *scale;
};
struct job {
    struct rounded_layer *l;
    int64_t group, per;
    const double *h, *plain, *u; /* of the group; damped, as it is, factor */
    struct lane *lanes;
};

/* e^T H e of each row of codes; scratch: twice the chunk. */
static void code_errors(const struct job *job, int64_t first, int64_t n, const int32_t *code, const float *scale,
                        double *scratch, double *error)
{
    const struct rounded_layer *l = job->l;
    const int64_t k = l->k;
    double *e = scratch, *he = scratch + n * k;
    for (int64_t i = 0; i < n * k; i++)
        e[i] = (double)l->w[first * k + i] - (double)((float)code[i] * scale[i / k]);
    const struct gemm g = gemm_plain(false, false, n, k, k);
    gemm_f64_tile(&g, e, job->plain, he);
    for (int64_t r = 0; r < n; r++) {
        error[r] = 0;
        for (int64_t i = 0; i < k; i++)
            error[r] += e[r * k + i] * he[r * k + i];
        error[r] = fmax(error[r], 0);
    }
}

/* Rows of the chunk that are better than what the layer has. */
static void take(const struct job *job, const struct round_chunk *c, int64_t first)
{
    struct rounded_layer *l = job->l;
    double error[CHUNK];
    code_errors(job, first, c->n, c->code, c->scale, c->scratch, error);
    for (int64_t r = 0; r < c->n; r++) {
        const int64_t at = first + r;
        if (!(error[r] < l->after[at]))
            continue;
        l->after[at] = error[r];
        l->scale[at] = c->scale[r];
        memcpy(l->code + at * l->k, c->code + r * l->k, (size_t)l->k * sizeof *l->code);
    }
}

static void round_rows(void *arg, int64_t task, int lane_number)
{
    const struct job *job = arg;
    struct rounded_layer *l = job->l;
    struct lane *lane = &job->lanes[lane_number];
    const int64_t first = job->group * job->per + task * CHUNK, n = i64_min(CHUNK, job->per - task * CHUNK), k = l->k;
    const struct round_chunk c = {.n = n, .k = k, .block = k, .lo = -l->most, .hi = l->most, .w = lane->w,
                                  .code = lane->code, .scale = lane->scale, .zero = lane->zero, .partner = l->partner,
                                  .pair_most = l->pair_most, .scratch = lane->scratch};
    float start[CHUNK];
    memset(lane->zero, 0, (size_t)n * sizeof *lane->zero);
    memcpy(start, l->scale + first, (size_t)n * sizeof *start);
    for (int64_t i = 0; i < n * k; i++)
        lane->w[i] = (double)l->w[first * k + i];
    code_errors(job, first, n, l->code + first * k, l->scale + first, lane->scratch, l->before + first);
    memcpy(l->after + first, l->before + first, (size_t)n * sizeof *l->after);
    for (int way = 0; way < 2; way++) {
        memcpy(lane->scale, start, (size_t)n * sizeof *start);
        if (way == 0)
            memcpy(lane->code, l->code + first * k, (size_t)(n * k) * sizeof *lane->code);
        else
            round_sequential(&c, job->u, NULL, NULL, NULL);
        round_descend(&c, job->h, SWEEPS, l->refit);
        take(job, &c, first);
    }
}

static void lanes_free(struct lane *lanes, int n)
{
    for (int i = 0; lanes && i < n; i++) {
        free(lanes[i].w);
        free(lanes[i].scratch);
        free(lanes[i].code);
        free(lanes[i].zero);
        free(lanes[i].scale);
    }
    free(lanes);
}

static struct lane *lanes_new(int n, size_t k)
{
    struct lane *lanes = calloc((size_t)n, sizeof *lanes);
    bool made = lanes != NULL;
    for (int i = 0; i < n && made; i++) {
        struct lane *l = &lanes[i];
        *l = (struct lane){malloc(CHUNK * k * sizeof *l->w), malloc(round_scratch(CHUNK, k) * sizeof *l->scratch),
                           malloc(CHUNK * k * sizeof *l->code), malloc(CHUNK * sizeof *l->zero),
                           malloc(CHUNK * sizeof *l->scale)};
        made = l->w && l->scratch && l->code && l->zero && l->scale;
    }
    if (made)
        return lanes;
    lanes_free(lanes, n);
    return NULL;
}

int round_by_gram(struct rounded_layer *l, struct err *err)
{
    const size_t k = (size_t)l->k;
    const int n = l->pool ? pool_threads(l->pool) : 1;
    const int64_t groups = l->gram->groups;
    double *u = malloc(k * k * sizeof *u), *damped = malloc(k * k * sizeof *damped);
    struct lane *lanes = lanes_new(n, k);
    int rc = -1;
    if (!u || !damped || !lanes) {
        err_set(err, ERR_NOMEM, "out of memory while choosing codes");
        goto out;
    }
    for (int64_t group = 0; group < groups; group++) {
        const double *h = l->gram->h + group * l->k * l->k;
        double damp = 0.01, mean = 0;
        hessian_believe(h, l->k, l->gram->rows, damped);
        if (hessian_factor(damped, l->k, &damp, u, err))
            goto out;
        for (size_t i = 0; i < k; i++)
            mean += damped[i * k + i] / (double)k;
        for (size_t i = 0; i < k; i++)
            damped[i * k + i] += damp * mean;
        struct job job = {l, group, l->rows / groups, damped, h, u, lanes};
        pool_run(l->pool, i64_ceil_div(job.per, CHUNK), round_rows, &job);
    }
    for (int64_t r = 0; r < l->rows; r++)
        l->changed += l->after[r] < l->before[r];
    rc = 0;
out:
    free(u);
    free(damped);
    lanes_free(lanes, n);
    return rc;
}
