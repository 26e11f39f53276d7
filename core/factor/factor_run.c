/* SPDX-License-Identifier: Apache-2.0
 * factor_run.c - the step that all schemes share: find layers, decompose, choose ranks (factor.h).
 * Order      Decompositions use second moments of the original's activations, all at once; factors are written and
 *            fitted in factor_apply.c. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/factor/factor_run.h"
#include "core/stats/gram.h"
#include "core/stats/hessian.h"

enum { ROWS_OF_A_SAMPLE = 64 };

const char *const factor_recovers[] = {"auto", "none", NULL};
const char *const factor_sensitivities[] = {"equal", "measured", NULL};
enum { SENSITIVITY_EQUAL, SENSITIVITY_MEASURED };

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while factorizing");
}

int factor_progress(const struct factor_run *r, const char *stage, int64_t done, int64_t total, struct err *err)
{
    return r->c->progress ? r->c->progress(r->c, stage, done, total, err) : 0;
}

/* ---- parameters ---- */
unsigned factor_needs(const void *params)
{
    const struct factor_params *p = params;
    const bool data = (p->has_whiten && p->whiten) || p->sensitivity == SENSITIVITY_MEASURED;
    return data ? NEEDS_DATA | NEEDS_RUN : NEEDS_NOTHING;
}

void factor_check(const void *params, const char *pointer, struct faults *faults)
{
    const struct factor_params *p = params;
    const int n = p->has_rank + p->has_terms + p->has_ratio + p->has_energy + p->vbmf + (p->target != NULL);
    struct rank_rule rule;
    char at[200];
    if (n > 1)
        faults_add(faults, pointer,
                   "the ranks are said in %d ways: give one of rank (terms), ratio, energy, vbmf and target", n);
    snprintf(at, sizeof at, "%.180s/target", pointer);
    if (p->target && !rank_target_parse(p->target, &rule))
        faults_add(faults, at,
                   "target '%.60s' is not \"macs:\", \"params:\" or \"bytes:\" and a fraction between 0 and 1, like "
                   "\"macs:0.5\"",
                   p->target);
    if (p->sensitivity != SENSITIVITY_EQUAL && !p->target) {
        snprintf(at, sizeof at, "%.180s/sensitivity", pointer);
        faults_add(faults, at, "sensitivity says how a target is spread over the layers; there is no target");
    }
}

static struct rank_rule rule_of(const struct factor_params *p)
{
    struct rank_rule r = {.by = RANK_ENERGY, .amount = p->has_energy ? p->energy : 0.95};
    if (p->has_rank || p->has_terms)
        r = (struct rank_rule){.by = RANK_FIXED, .rank = p->has_rank ? p->rank : p->terms};
    else if (p->has_ratio)
        r = (struct rank_rule){.by = RANK_RATIO, .amount = p->ratio};
    else if (p->vbmf)
        r = (struct rank_rule){.by = RANK_VBMF};
    else if (p->target)
        rank_target_parse(p->target, &r);
    return r;
}

static int find_able(struct factor_run *r, struct err *err)
{
    struct missing_ops missing = {0};
    char text[200];
    if (!r->c->data || dataset_count(r->c->data) < 1)
        return 0;
    if (engine_missing_ops(r->c->model, &missing, err))
        return -1;
    if (missing.count > 0)
        warnings_add(r->c->warnings, "samples are not used: the model cannot be run here (no %s)",
                     missing_ops_text(&missing, text, sizeof text));
    r->able = missing.count == 0;
    missing_ops_fini(&missing);
    return 0;
}

/* ---- decompositions ---- */
static void forget(const struct factor_run *r, struct layer *l)
{
    if (l->prep)
        r->s->release(l->prep);
    l->prep = NULL;
    l->n_points = 0;
}

static bool is_numeric(const struct err *err)
{
    return err->code == ERR_MODEL || err->code == ERR_MODEL_TOO_LARGE;
}

/* The scheme's part; what does not go with moments goes without. */
static int decompose(const struct factor_run *r, struct layer *l, const double *w, const struct moments *x,
                     struct err *err)
{
    const int64_t round_to = r->p->round_to > 0 ? r->p->round_to : 1;
    struct err own = {0};
    int rc = r->s->prepare(l, w, x, round_to, &own);
    l->whitened = rc == 0 && x->c;
    if (rc && x->c && is_numeric(&own)) {
        forget(r, l);
        l->plain = "second moments of what it reads are no help: they are not positive definite";
        own = (struct err){0};
        rc = r->s->prepare(l, w, &(struct moments){0}, round_to, &own);
    }
    if (rc && is_numeric(&own)) {
        forget(r, l);
        l->why = "its weight could not be decomposed: the numbers do not converge";
        return 0;
    }
    return rc ? err_set(err, own.code, "%s", own.msg) : 0;
}

/* Points of one layer, and its ranks unless they wait for a target. */
static int prepare(const struct factor_run *r, struct layer *l, const struct moments *x, struct err *err)
{
    double *w = layer_weight(r->c->model, l, err);
    int rc = w ? decompose(r, l, w, x, err) : -1;
    if (rc == 0 && !l->why)
        rc = rank_choose(l, r->s, &r->rule, w, err);
    free(w);
    return rc;
}

struct plain_tasks {
    const struct factor_run *r;
    struct layer **at;
    struct err *err; /* a task */
};

static void prepare_task(void *arg, int64_t task, int lane)
{
    const struct plain_tasks *t = arg;
    (void)lane;
    prepare(t->r, t->at[task], &(struct moments){0}, &t->err[task]);
}

/* Side by side: each layer is decomposed by itself. */
static int prepare_plain(struct factor_run *r, struct layer **at, int64_t n, struct err *err)
{
    struct err *errs = calloc((size_t)n + 1, sizeof *errs);
    const int64_t chunk = r->c->pool ? 2 * (int64_t)pool_threads(r->c->pool) : 1;
    int rc = errs ? 0 : nomem(err);
    for (int64_t first = 0; rc == 0 && first < n; first += chunk) {
        const int64_t count = i64_min(chunk, n - first);
        struct plain_tasks part = {r, at + first, errs + first};
        rc = factor_progress(r, "decomposing", first, n, err);
        if (rc == 0)
            pool_run(r->c->pool, count, prepare_task, &part);
        for (int64_t i = 0; rc == 0 && i < count; i++)
            if (part.err[i].code)
                rc = err_set(err, part.err[i].code, "%s", part.err[i].msg);
    }
    free(errs);
    return rc;
}

static int prepare_node(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct factor_run *r = arg;
    struct layer *l = NULL;
    for (int i = 0; i < r->layers.n; i++)
        if (r->layers.at[i].node == node)
            l = &r->layers.at[i];
    if (!l)
        return 0;
    if (!g || g->groups != l->groups || g->k != l->in * l->taps) {
        l->plain = why ? why : "what it reads does not fit its weight";
        return prepare(r, l, &(struct moments){0}, err);
    }
    const int64_t square = g->k * g->k;
    double *c = malloc((size_t)(g->groups * square) * sizeof *c);
    if (!c)
        return nomem(err);
    for (int64_t i = 0; i < g->groups; i++)
        hessian_believe(g->h + i * square, g->k, g->rows, c + i * square);
    const struct moments x = {c, g->rows};
    const int rc = prepare(r, l, &x, err);
    free(c);
    return rc;
}

static int gram_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    return factor_progress(arg, "second moments", done, total, err);
}

static const char *no_moments(const struct factor_run *r, const struct layer *l)
{
    const struct model *m = r->c->model;
    const char *why = gram_refusal(m, l->node);
    if (!why && gram_bytes(m, l->node) > FACTOR_ONE_MOMENT)
        why = "its second moments would take too much memory";
    return why;
}

static int prepare_all(struct factor_run *r, struct err *err)
{
    const bool whiten = r->able && (!r->p->has_whiten || r->p->whiten);
    struct layer **plain = calloc((size_t)r->layers.n + 1, sizeof *plain);
    uint32_t *nodes = calloc((size_t)r->layers.n + 1, sizeof *nodes);
    int64_t n_plain = 0, n_nodes = 0;
    int rc = plain && nodes ? 0 : nomem(err);
    for (int i = 0; rc == 0 && i < r->layers.n; i++) {
        struct layer *l = &r->layers.at[i];
        if (l->why)
            continue;
        l->plain = whiten ? no_moments(r, l) : NULL;
        if (whiten && !l->plain)
            nodes[n_nodes++] = l->node;
        else
            plain[n_plain++] = l;
    }
    const struct gram_job job = {.m = r->c->model,
                                 .data = r->c->data,
                                 .pool = r->c->pool,
                                 .samples = r->p->samples,
                                 .nodes = nodes,
                                 .n_nodes = n_nodes,
                                 .rows_per_sample = ROWS_OF_A_SAMPLE,
                                 .memory_bytes = FACTOR_ALL_MOMENTS,
                                 .each = prepare_node,
                                 .progress = gram_progress,
                                 .arg = r};
    if (rc == 0 && n_nodes > 0)
        rc = gram_each(&job, err);
    if (rc == 0)
        rc = prepare_plain(r, plain, n_plain, err);
    free(plain);
    free(nodes);
    return rc;
}

/* ---- the step ---- */
static int choose(struct factor_run *r, struct err *err)
{
    double got = 1;
    const bool measured = r->able && r->p->sensitivity == SENSITIVITY_MEASURED;
    if (r->rule.by != RANK_TARGET)
        return 0;
    if ((measured && factor_measure(r, err)) || rank_allocate(&r->layers, r->c->model, &r->rule, &got, err))
        return -1;
    const bool met = got <= r->rule.amount + 1e-9;
    if (r->c->targets)
        json_array_append_new(r->c->targets, json_pack("{s:s, s:f, s:f, s:b}", "target", r->rule.figure, "wanted",
                                                       r->rule.amount, "got", got, "met", met));
    if (!met)
        warnings_add(r->c->warnings,
                     "factor.%s: the lowest ranks of all layers leave %.3g of the %s, target %s is not met", r->s->name,
                     got, r->rule.figure, r->p->target);
    return 0;
}

int factor_run(struct step_ctx *c, const struct scheme *s, struct err *err)
{
    const struct factor_params *p = c->params;
    struct factor_run r = {.c = c, .p = p, .s = s, .rule = rule_of(p)};
    const struct layers_opts o = {s, &p->include, &p->exclude, c->pool};
    int rc = -1;
    if (find_able(&r, err) || layers_find(&r.layers, c->model, &o, err))
        return -1;
    if (r.rule.by == RANK_TARGET && r.rule.figure[0] == 'm' && r.layers.macs <= 0) {
        err_set(err, ERR_MODEL,
                "the model's multiply-accumulates are not known, so that target '%.60s' cannot be met; use params:, "
                "ratio or energy",
                p->target);
        goto out;
    }
    if ((r.original = model_clone(c->model, err)) && prepare_all(&r, err) == 0 && choose(&r, err) == 0)
        rc = factor_apply(&r, err);
out:
    layers_free(&r.layers);
    model_free(r.original);
    return rc;
}
