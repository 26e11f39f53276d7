/* SPDX-License-Identifier: Apache-2.0
 * score_reconstruction.c - which channels the consumers can do without: greedy least squares.
 *
 * A consumer computes y = W x. When the channels S of x go and W is refitted on those left (bias too), the squared
 * error of y is
 *   tr(W_S [(H^-1)_SS]^-1 W_S^T),   H the covariance of x: from the Gram matrix (gram.h), with a ridge.
 * Backward elimination: the channel that costs least goes, W and H^-1 are brought up to date
 *   W -= W_S [(H^-1)_SS]^-1 (H^-1)_S,   H^-1 -= (H^-1)^S [(H^-1)_SS]^-1 (H^-1)_S
 * and the next is chosen (optimal brain surgeon, for blocks of columns; ThiNet and He et al. choose by the same
 * error, ThiNet without the refit). Errors are relative to the variance of y, so several consumers of a group count
 * the same; a grouped convolution is as many consumers as groups. Scores are the errors added up until a channel
 * goes: they ascend in the order of removal. Not the error of the network: what other layers make of it is not seen.
 * Memory     two K x K matrices a consumer, K its columns (channels times kernel places); K above MAX_COLUMNS is left
 *            out. Groups are taken a few at a time, each time with a pass over the samples. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/prune/score_impl.h"
#include "core/stats/gram.h"
#include "core/stats/hessian.h"

enum { MAX_COLUMNS = 5120, ROWS_A_SAMPLE = 256 };
#define PASS_BYTES ((size_t)768 << 20)
/* Of each variance, so that a dead channel costs nothing; of their mean. */
static const double RIDGE = 0.01, FLOOR = 1e-7;

/* One consumer, or one group of a grouped convolution. */
struct problem {
    int group;       /* of channels */
    const int *atom; /* [k / places] */
    int64_t k, places, outputs;
    double *inverse, *w; /* [k][k], [outputs][k] */
    double share;        /* 1 / variance of y */
};

struct consumer {
    int group;
    const struct group_member *member;
    uint32_t node;
    int64_t places, outputs; /* outputs: of each group of the convolution */
    size_t bytes;
};

struct reconstruction {
    struct score_ctx *c;
    struct consumer *consumer;
    int n_consumers;
    int first, end; /* consumers of this pass */
    int at;         /* next one that gram_each reports */
    struct problem *problem;
    int n_problems, cap_problems;
    int too_wide;
    int64_t done, total; /* progress */
};

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for the least squares of reconstruction");
}

/* ---- consumers ---- */
/* False: no product a Gram matrix is made for, or a layout that is not understood. */
static bool describe(const struct model *m, const struct score_part *p, struct consumer *out)
{
    const struct group_member *mb = p->member;
    const struct tensor *t = value_const(m, mb->value);
    const struct node *n = mb->node < m->n_nodes ? &m->nodes[mb->node] : NULL;
    if (!n || n->n_input < 2 || gram_refusal(m, mb->node) || (n->input[1] != mb->value && n->input[0] != mb->value))
        return false;
    *out = (struct consumer){.group = p->group, .member = mb, .node = mb->node, .places = 1};
    if (node_is(n, "Conv")) {
        const int64_t groups = node_attr_int(n, "group", 1);
        if (mb->axis != 1 || groups < 1 || t->shape.dim[0] % groups)
            return false;
        out->places = shape_product(&t->shape, 2, t->shape.rank);
        out->outputs = t->shape.dim[0] / groups;
    } else {
        out->outputs = mb->size > 0 ? tensor_count(t) / mb->size : 0;
        if (shape_product(&t->shape, 0, t->shape.rank - 2) != 1 || mb->axis < t->shape.rank - 2)
            return false;
    }
    const int64_t k = mb->size * out->places;
    out->bytes = gram_bytes(m, mb->node);
    return k > 0 && out->outputs > 0 && out->bytes < SIZE_MAX / 4;
}

static int find_consumers(struct reconstruction *r, struct err *err)
{
    struct score_parts p = {0};
    if (score_parts_find(r->c, SCORE_CONSUMES, NULL, &p, err))
        return -1;
    r->consumer = calloc((size_t)p.n + 1, sizeof *r->consumer);
    for (int i = 0; r->consumer && i < p.n; i++) {
        struct consumer x;
        const bool known = describe(r->c->o->model, &p.at[i], &x);
        if (known && x.member->size * x.places <= MAX_COLUMNS)
            r->consumer[r->n_consumers++] = x;
        else
            r->too_wide += known;
    }
    score_parts_fini(&p);
    return r->consumer ? 0 : no_memory(err);
}

/* ---- problems ---- */
static void copy_weights(const struct reconstruction *r, const struct consumer *x, int64_t conv_group, double *w)
{
    const struct tensor *t = value_const(r->c->o->model, x->member->value);
    const int64_t k = x->member->size * x->places;
    const bool conv = node_is(&r->c->o->model->nodes[x->node], "Conv");
    const bool rows_last = !conv && x->member->axis == t->shape.rank - 2; /* [K, outputs] */
    for (int64_t o = 0; o < x->outputs; o++)
        for (int64_t i = 0; i < k; i++) {
            const int64_t at = rows_last ? i * x->outputs + o : (conv_group * x->outputs + o) * k + i;
            w[o * k + i] = dtype_get(t->dtype, t->data, at);
        }
}

static double variance(const double *w, const double *h, int64_t outputs, int64_t k, double *work)
{
    double sum = 0;
    const struct gemm g = gemm_plain(false, false, outputs, k, k);
    gemm_f64(NULL, &g, w, h, work);
    for (int64_t i = 0; i < outputs * k; i++)
        sum += work[i] * w[i];
    return sum;
}

/* H becomes its inverse, with the ridge. False: it has none. */
static bool invert(double *h, int64_t k)
{
    const lapack_int n = (lapack_int)k;
    const double mean = hessian_mean_diagonal(h, k);
    for (int64_t i = 0; i < k; i++)
        h[i * k + i] += mean > 0 ? RIDGE * fmax(h[i * k + i], 0) + FLOOR * mean : 1;
    if (!isfinite(mean) || LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', n, h, n) ||
        LAPACKE_dpotri_work(LAPACK_COL_MAJOR, 'L', n, h, n))
        return false;
    for (int64_t i = 0; i < k; i++) /* column-major lower is the upper triangle here */
        for (int64_t j = i + 1; j < k; j++)
            h[j * k + i] = h[i * k + j];
    return true;
}

static struct problem *problem_new(struct reconstruction *r)
{
    if (r->n_problems == r->cap_problems) {
        const int cap = r->cap_problems ? 2 * r->cap_problems : 16;
        struct problem *grown = realloc(r->problem, (size_t)cap * sizeof *grown);
        if (!grown)
            return NULL;
        r->problem = grown;
        r->cap_problems = cap;
    }
    r->problem[r->n_problems] = (struct problem){0};
    return &r->problem[r->n_problems++];
}

static void drop_problems(struct reconstruction *r)
{
    for (int i = 0; i < r->n_problems; i++) {
        free(r->problem[i].inverse);
        free(r->problem[i].w);
    }
    r->n_problems = 0;
}

static int add_problem(struct reconstruction *r, const struct consumer *x, const struct gram_matrix *g,
                       int64_t conv_group, struct err *err)
{
    const int64_t k = g->k, rows = g->rows;
    const double *h = g->h + conv_group * k * k, *mean = g->mean + conv_group * k;
    struct problem *p = problem_new(r);
    double *work = malloc((size_t)(x->outputs * k) * sizeof *work);
    if (p) {
        *p = (struct problem){x->group, x->member->atom, k, x->places, x->outputs, NULL, NULL, 0};
        p->inverse = malloc((size_t)(k * k) * sizeof *p->inverse);
        p->w = malloc((size_t)(x->outputs * k) * sizeof *p->w);
    }
    if (!p || !work || !p->inverse || !p->w) {
        free(work);
        return no_memory(err);
    }
    copy_weights(r, x, conv_group, p->w);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            p->inverse[i * k + j] = h[i * k + j] - mean[i] * mean[j];
    const double all = variance(p->w, p->inverse, p->outputs, k, work);
    p->share = all > 0 ? 1 / all : 0;
    hessian_believe(p->inverse, k, rows, p->inverse);
    if (!invert(p->inverse, k))
        p->share = 0; /* a consumer that sees nothing, or nothing finite, has no say */
    free(work);
    return 0;
}

static int each_matrix(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct reconstruction *r = arg;
    const struct consumer *x = &r->consumer[r->at++];
    char label[200];
    r->done++;
    if (!g)
        warnings_add(r->c->o->warnings, "reconstruction: '%s' is left out of the error: %s",
                     node_label(r->c->o->model, node, label, sizeof label), why);
    for (int64_t i = 0; g && g->k == x->member->size * x->places && i < g->groups; i++)
        if (add_problem(r, x, g, i, err))
            return -1;
    return 0;
}

/* ---- elimination ---- */
struct elimination {
    struct reconstruction *r;
    int group;
    int64_t n;
    bool *gone;
    double *cost; /* [n] of this step */
    int64_t most; /* columns an atom has in a problem, at most */
    int64_t widest, outputs; /* largest k and outputs of its problems */
    double *work; /* a lane */
    int64_t work_lane;
    int64_t *column; /* a lane */
};

static int64_t columns_of(const struct problem *p, int64_t atom, int64_t *column)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->k / p->places; i++)
        for (int64_t t = 0; p->atom[i] == atom && t < p->places; t++)
            column[n++] = i * p->places + t;
    return n;
}

/* Lower Cholesky factor of [(H^-1)_SS], row-major s x s. False: nothing of the channel is left. */
static bool factor_block(const struct problem *p, const int64_t *column, int64_t s, double *l)
{
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = p->inverse[column[i] * p->k + column[j]];
            for (int64_t q = 0; q < j; q++)
                sum -= l[i * s + q] * l[j * s + q];
            if (i == j && !(sum > 0))
                return false;
            l[i * s + j] = i == j ? sqrt(sum) : sum / l[j * s + j];
        }
    return true;
}

static double cost_in(const struct problem *p, int64_t atom, int64_t *column, double *work)
{
    const int64_t s = columns_of(p, atom, column);
    double *l = work, *y = work + s * s, sum = 0;
    if (s == 0 || p->share <= 0 || !factor_block(p, column, s, l))
        return 0;
    for (int64_t o = 0; o < p->outputs; o++) /* |L^-1 w|^2 */
        for (int64_t i = 0; i < s; i++) {
            y[i] = p->w[o * p->k + column[i]];
            for (int64_t q = 0; q < i; q++)
                y[i] -= l[i * s + q] * y[q];
            y[i] /= l[i * s + i];
            sum += y[i] * y[i];
        }
    return sum * p->share;
}

static void cost_task(void *arg, int64_t atom, int lane)
{
    const struct elimination *e = arg;
    e->cost[atom] = 0;
    for (int i = 0; i < e->r->n_problems && !e->gone[atom]; i++) {
        const struct problem *p = &e->r->problem[i];
        if (p->group == e->group)
            e->cost[atom] += cost_in(p, atom, e->column + lane * e->most, e->work + lane * e->work_lane);
    }
}

/* The channel's columns leave W and H^-1. work of lane 0 is large enough. */
static void eliminate(const struct elimination *e, struct problem *p, int64_t atom)
{
    int64_t *column = e->column;
    const int64_t s = columns_of(p, atom, column), k = p->k;
    double *l = e->work, *t = l + s * s, *x = t + s * k, *w = x + k * s;
    if (s == 0 || p->share <= 0 || !factor_block(p, column, s, l))
        return;
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < k; j++)
            t[i * k + j] = x[j * s + i] = p->inverse[column[i] * k + j];
    for (int64_t i = 0; i < s; i++) /* T = [(H^-1)_SS]^-1 (H^-1)_S: forward, then back */
        for (int64_t q = 0; q <= i; q++)
            for (int64_t j = 0; j < k; j++)
                t[i * k + j] = q < i ? t[i * k + j] - l[i * s + q] * t[q * k + j] : t[i * k + j] / l[i * s + i];
    for (int64_t i = s; i-- > 0;) {
        for (int64_t q = i + 1; q < s; q++)
            for (int64_t j = 0; j < k; j++)
                t[i * k + j] -= l[q * s + i] * t[q * k + j];
        for (int64_t j = 0; j < k; j++)
            t[i * k + j] /= l[i * s + i];
    }
    for (int64_t o = 0; o < p->outputs; o++)
        for (int64_t i = 0; i < s; i++)
            w[o * s + i] = p->w[o * k + column[i]];
    struct gemm g = gemm_plain(false, false, p->outputs, k, s);
    g.alpha = -1;
    g.beta = 1;
    gemm_f64(e->r->c->o->pool, &g, w, t, p->w);
    g.m = k;
    gemm_f64(e->r->c->o->pool, &g, x, t, p->inverse);
    for (int64_t i = 0; i < s; i++) {
        for (int64_t j = 0; j < k; j++)
            p->inverse[column[i] * k + j] = p->inverse[j * k + column[i]] = 0;
        for (int64_t o = 0; o < p->outputs; o++)
            p->w[o * k + column[i]] = 0;
    }
}

/* The largest sizes over the problems of the group. False: it has none that says anything. */
static bool measure(struct elimination *e)
{
    bool any = false;
    int64_t *count = calloc((size_t)e->n, sizeof *count);
    for (int i = 0; count && i < e->r->n_problems; i++) {
        const struct problem *p = &e->r->problem[i];
        if (p->group != e->group)
            continue;
        any = any || p->share > 0;
        e->widest = i64_max(e->widest, p->k);
        e->outputs = i64_max(e->outputs, p->outputs);
        memset(count, 0, (size_t)e->n * sizeof *count);
        for (int64_t k = 0; k < p->k / p->places; k++)
            if (p->atom[k] != ATOM_NONE)
                e->most = i64_max(e->most, count[p->atom[k]] += p->places);
    }
    free(count);
    return any;
}

static int eliminate_group(struct reconstruction *r, int group, bool *done, struct err *err)
{
    struct elimination e = {.r = r, .group = group, .n = r->c->g->at[group].n};
    const int64_t lanes = r->c->o->pool ? pool_threads(r->c->o->pool) : 1;
    const int64_t *width = r->c->g->at[group].width;
    double sum = 0;
    int rc = -1;
    if (!(*done = measure(&e)))
        return 0;
    e.work_lane = e.most * e.most + 2 * e.most * e.widest + e.outputs * e.most + e.most;
    e.work = malloc((size_t)(lanes * e.work_lane) * sizeof *e.work);
    e.column = malloc((size_t)(lanes * e.most + 1) * sizeof *e.column);
    e.gone = calloc((size_t)e.n, sizeof *e.gone);
    e.cost = calloc((size_t)e.n, sizeof *e.cost);
    if (!e.work || !e.column || !e.gone || !e.cost) {
        no_memory(err);
        goto out;
    }
    for (int64_t step = 0; step < e.n; step++) {
        int64_t best = -1;
        pool_run(r->c->o->pool, e.n, cost_task, &e);
        for (int64_t a = 0; a < e.n; a++)
            if (!e.gone[a] && (best < 0 || e.cost[a] * (double)i64_max(width[best], 1) <
                                               e.cost[best] * (double)i64_max(width[a], 1)))
                best = a;
        e.gone[best] = true;
        r->c->score[group][best] = sum += e.cost[best];
        for (int i = 0; i < r->n_problems; i++)
            if (r->problem[i].group == group)
                eliminate(&e, &r->problem[i], best);
        if (r->c->o->progress && r->c->o->progress(r->c->o->progress_arg, r->done, r->total, err))
            goto out;
    }
    rc = 0;
out:
    free(e.work);
    free(e.column);
    free(e.gone);
    free(e.cost);
    return rc;
}

/* ---- all groups ---- */
static int gram_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    const struct reconstruction *r = arg;
    (void)done;
    (void)total;
    return r->c->o->progress ? r->c->o->progress(r->c->o->progress_arg, r->done, r->total, err) : 0;
}

/* As many groups from consumer r->first on as memory holds; consumers come group by group. */
static void choose_pass(struct reconstruction *r)
{
    size_t bytes = 0;
    for (r->end = r->first; r->end < r->n_consumers;) {
        int end = r->end;
        size_t more = 0;
        for (; end < r->n_consumers && r->consumer[end].group == r->consumer[r->end].group; end++)
            more += 2 * r->consumer[end].bytes;
        if (r->end > r->first && bytes + more > PASS_BYTES)
            return;
        bytes += more;
        r->end = end;
    }
}

static int run_pass(struct reconstruction *r, bool *lacking, struct err *err)
{
    uint32_t *nodes = calloc((size_t)(r->end - r->first) + 1, sizeof *nodes);
    int rc = nodes ? 0 : no_memory(err);
    for (int i = r->first; nodes && i < r->end; i++)
        nodes[i - r->first] = r->consumer[i].node;
    r->at = r->first;
    const struct score_opts *o = r->c->o;
    const struct gram_job job = {.m = o->model, .data = o->data, .pool = o->pool, .samples = o->samples,
                                 .nodes = nodes, .n_nodes = r->end - r->first, .rows_per_sample = ROWS_A_SAMPLE,
                                 .seed = o->seed, .memory_bytes = PASS_BYTES, .each = each_matrix,
                                 .progress = gram_progress, .arg = r};
    if (rc == 0)
        rc = gram_each(&job, err);
    for (int i = r->first; rc == 0 && i < r->end; i++) {
        bool done = false;
        r->done++;
        if (i > r->first && r->consumer[i].group == r->consumer[i - 1].group)
            continue;
        rc = eliminate_group(r, r->consumer[i].group, &done, err);
        lacking[r->consumer[i].group] = !done;
    }
    drop_problems(r);
    free(nodes);
    return rc;
}

/* Groups without a consumer whose error can be told. */
static int score_others(struct reconstruction *r, const bool *lacking, struct err *err)
{
    struct score_parts p = {0};
    int n = 0, rc = score_parts_find(r->c, SCORE_WEIGHTS, lacking, &p, err);
    for (int i = 0; i < r->c->g->n; i++)
        n += lacking[i];
    for (int i = 0; rc == 0 && i < p.n; i++)
        score_axis_sums(r->c->o->pool, value_const(r->c->o->model, p.at[i].member->value), NULL, p.at[i].member->axis,
                        SCORE_SQUARE, p.at[i].element);
    if (rc == 0)
        rc = score_parts_reduce(r->c, &p, false, err);
    score_parts_fini(&p);
    if (n > 0)
        warnings_add(r->c->o->warnings,
                     "reconstruction: %d groups have no consumer (Conv, Gemm, MatMul) whose error could be told%s; "
                     "they are scored by l2",
                     n, r->too_wide ? ", or one with too many columns" : "");
    return rc;
}

int score_reconstruction(struct score_ctx *c, struct err *err)
{
    struct reconstruction r = {.c = c};
    bool *lacking = calloc((size_t)c->g->n + 1, sizeof *lacking);
    int rc = lacking ? find_consumers(&r, err) : no_memory(err);
    for (int i = 0; lacking && i < c->g->n; i++)
        lacking[i] = c->g->at[i].n > 0;
    r.total = 2 * (int64_t)r.n_consumers;
    for (; rc == 0 && r.first < r.n_consumers; r.first = r.end) {
        choose_pass(&r);
        rc = run_pass(&r, lacking, err);
    }
    if (rc == 0)
        rc = score_others(&r, lacking, err);
    drop_problems(&r);
    free(r.problem);
    free(r.consumer);
    free(lacking);
    return rc;
}
