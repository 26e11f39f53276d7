/* SPDX-License-Identifier: Apache-2.0
 * factor_apply.c - factors into the model.
 * Fit        goes through the network in topological order, on what the layers before, factorized and fitted, make now;
 *            layers are taken in at most ROUNDS groups, with one run over the samples each.
 * Measured   each layer is factorized by itself, to about half its cost, and the outputs are held against the
 *            original's. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/factor/factor_run.h"
#include "core/factor/linear.h"
#include "core/passes/pass.h"
#include "core/stats/pair_gram.h"
#include "core/stats/reference.h"

enum { ROUNDS = 32, ROWS_TIMES = 8 };

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while writing factors");
}

/* ---- one layer ---- */
/* The last stage fitted by x, or left as it is, with the reason in l->refit. */
static int fit(struct layer *l, const double *w, struct stage *stage, int n, const struct pair_moments *x, bool centred,
               double *shift, struct err *err)
{
    const struct stage *last = &stage[n - 1];
    const size_t size = (size_t)(l->groups * last->out * (last->in / last->split) * layer_taps(l, last->axes));
    struct err own = {0};
    if (x->why) {
        l->refit = x->why;
        return 0;
    }
    double *was = malloc(size * sizeof *was);
    if (!was)
        return nomem(err);
    memcpy(was, last->w, size * sizeof *was);
    const int rc = stages_fit(l, w, stage, n, x, centred, shift, &own);
    l->refit = centred ? "weight and bias" : "weight";
    if (rc) {
        memcpy(last->w, was, size * sizeof *was);
        memset(shift, 0, (size_t)(l->groups * l->out) * sizeof *shift);
        l->refit = "not fitted: the numbers do not converge";
    }
    free(was);
    return rc && own.code != ERR_MODEL && own.code != ERR_MODEL_TOO_LARGE ? err_set(err, own.code, "%s", own.msg) : 0;
}

/* x: moments to fit the last stage by; NULL: it is not fitted. */
static int put_layer(const struct factor_run *r, struct edit *e, struct layer *l, const int64_t rank[2],
                     const struct pair_moments *x, struct err *err)
{
    struct stage stage[MOST_STAGES];
    const int n = r->s->shape(l, rank, stage);
    double *w = layer_weight(e->m, l, err), *shift = doubles_new(l->groups * l->out, 1, err);
    int rc = w && shift ? stages_alloc(l, stage, n, err) : -1;
    if (rc == 0) {
        rc = r->s->make(l, w, rank, stage, err);
        if (rc == 0 && x)
            rc = fit(l, w, stage, n, x, layer_takes_shift(e->m, l), shift, err);
        stages_balance(l, stage, n);
        if (rc == 0)
            rc = stages_build(e, l, stage, n, shift, err);
        stages_fini(stage, n);
    }
    free(w);
    free(shift);
    return rc;
}

/* Layers at[0 .. n) that are chosen; x (may be NULL): [n]. */
static int put_layers(const struct factor_run *r, struct model *m, struct layer **at, int64_t n,
                      const struct pair_moments *x, struct err *err)
{
    struct pass_ctx c = {.opset = model_opset(m, "")};
    if (edit_init(&c.edit, m, err))
        return -1;
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < n; i++)
        rc = put_layer(r, &c.edit, at[i], at[i]->at[at[i]->chosen].rank, x ? &x[i] : NULL, err);
    if (rc == 0)
        rc = pass_dead_code(&c, err);
    if (rc == 0)
        rc = edit_finish(&c.edit, err);
    edit_fini(&c.edit);
    return rc;
}

/* ---- sensitivity ---- */
/* The best point within half the cost, else the cheapest. */
static int trial_point(const struct layer *l)
{
    int best = 0;
    for (int i = 1; i < l->n_points; i++) {
        const bool in = l->at[i].macs <= l->macs / 2, was = l->at[best].macs <= l->macs / 2;
        if (in != was ? in : in ? l->at[i].error < l->at[best].error : l->at[i].macs < l->at[best].macs)
            best = i;
    }
    return best;
}

static int measure_layer(struct factor_run *r, struct reference *ref, struct layer *l, struct err *err)
{
    struct closeness c;
    struct model *m = model_clone(r->c->model, err);
    l->chosen = trial_point(l);
    const double error = l->at[l->chosen].error;
    int rc = m ? put_layers(r, m, &l, 1, NULL, err) : -1;
    if (rc == 0)
        rc = reference_compare(ref, m, 0, &c, err);
    l->chosen = -1;
    model_free(m);
    if (rc)
        return -1;
    l->measured = c.classes ? c.kl : c.noise;
    l->importance = (isfinite(l->measured) ? l->measured + 1e-9 : 1e9) / (error > 1e-9 ? error : 1e-9);
    return 0;
}

static int reference_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    return factor_progress(arg, "reference", done, total, err);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* One trial says little of what lower ranks would do: the roots of what was measured, within a factor of 2 of the
 * median. */
static int temper(struct layers *x, struct err *err)
{
    double *all = doubles_new(x->n, 1, err), median;
    int n = 0;
    if (!all)
        return -1;
    for (int i = 0; i < x->n; i++)
        if (!isnan(x->at[i].measured))
            all[n++] = x->at[i].importance;
    qsort(all, (size_t)n, sizeof *all, by_size);
    median = n ? all[n / 2] : 1;
    for (int i = 0; i < x->n; i++)
        if (!isnan(x->at[i].measured))
            x->at[i].importance = fmin(fmax(sqrt(x->at[i].importance / median), 0.5), 2);
    free(all);
    return 0;
}

int factor_measure(struct factor_run *r, struct err *err)
{
    struct reference_opts o = {
        .data = r->c->data, .pool = r->c->pool, .progress = reference_progress, .progress_arg = r};
    int64_t *index = NULL;
    int rc = -1;
    o.n = dataset_spread(o.data, i64_max(1, r->p->samples / 4), &index, err);
    o.index = index;
    struct reference *ref = o.n > 0 ? reference_new(r->original, &o, err) : NULL;
    if (!ref)
        goto out;
    rc = 0;
    for (int i = 0; rc == 0 && i < r->layers.n; i++) {
        struct layer *l = &r->layers.at[i];
        rc = factor_progress(r, "sensitivity", i, r->layers.n, err);
        if (rc == 0 && !l->why && l->n_points > 0)
            rc = measure_layer(r, ref, l, err);
    }
    if (rc == 0)
        rc = temper(&r->layers, err);
out:
    reference_free(ref);
    free(index);
    return rc;
}

/* ---- all layers ---- */
struct fitting {
    const struct factor_run *r;
    int64_t before, all; /* layers */
};

static int fit_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    const struct fitting *f = arg;
    (void)done;
    (void)total;
    return factor_progress(f->r, "fitting", f->before, f->all, err);
}

/* The layers at[0 .. n), fitted to moments of one run. */
static int fit_group(struct fitting *f, struct layer **at, int64_t n, struct err *err)
{
    const struct factor_run *r = f->r;
    struct pair_moments *x = calloc((size_t)n, sizeof *x);
    uint32_t *nodes = calloc((size_t)n, sizeof *nodes);
    int rc = -1;
    if (!x || !nodes) {
        nomem(err);
        goto out;
    }
    for (int64_t i = 0; i < n; i++)
        nodes[i] = at[i]->node;
    const struct pair_gram p = {.a = r->original,
                                .b = r->c->model,
                                .data = r->c->data,
                                .pool = r->c->pool,
                                .samples = r->p->samples,
                                .rows = ROWS_TIMES,
                                .nodes = nodes,
                                .n = n,
                                .progress = fit_progress,
                                .progress_arg = f};
    if (pair_gram_run(&p, x, err) == 0)
        rc = put_layers(r, r->c->model, at, n, x, err);
out:
    for (int64_t i = 0; x && i < n; i++)
        pair_moments_fini(&x[i]);
    free(x);
    free(nodes);
    return rc;
}

/* How many of at[0 .. n) come next: so many that there are at most ROUNDS groups of all, and that their moments fit in
 * memory. 0: the first has moments that do not. */
static int64_t group_size(const struct factor_run *r, struct layer **at, int64_t n, int64_t all)
{
    size_t bytes = 0;
    int64_t k = 0;
    for (; k < n && k < i64_ceil_div(all, ROUNDS); k++) {
        const size_t own = pair_gram_bytes(r->c->model, at[k]->node);
        if (own > 2 * FACTOR_ONE_MOMENT)
            break;
        if (k > 0 && own > FACTOR_ALL_MOMENTS - (bytes < FACTOR_ALL_MOMENTS ? bytes : FACTOR_ALL_MOMENTS))
            break;
        bytes += own;
    }
    return k;
}

static int write_all(struct factor_run *r, struct layer **at, int64_t n, struct err *err)
{
    struct fitting f = {.r = r, .all = n};
    if (!r->able || r->p->recover == FACTOR_RECOVER_NONE)
        return put_layers(r, r->c->model, at, n, NULL, err);
    while (f.before < n) {
        int64_t count = group_size(r, at + f.before, n - f.before, n);
        int rc;
        if (count > 0) {
            rc = fit_group(&f, at + f.before, count, err);
        } else {
            count = 1;
            at[f.before]->refit = "not fitted: its second moments are not known, or would take too much memory";
            rc = put_layers(r, r->c->model, at + f.before, 1, NULL, err);
        }
        if (rc)
            return -1;
        f.before += count;
    }
    return 0;
}

/* ---- the report ---- */
static json_t *dropped_notes(const struct model *m, uint32_t value)
{
    static const char *const keys[] = {"mask", "splice", "codebook", "latent", "grid"};
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (value_note(m, value, keys[i]))
            json_array_append_new(list, json_string(keys[i]));
    if (json_array_size(list) > 0)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *facts_after(const struct factor_run *r, const struct layer *l)
{
    struct stage stage[MOST_STAGES];
    const struct point *p = &l->at[l->chosen];
    json_t *o = json_object(), *dropped = dropped_notes(r->original, l->weight);
    for (int i = 0; r->s->rank_names[i]; i++)
        json_object_set_new(o, r->s->rank_names[i], json_integer(p->rank[i]));
    json_object_set_new(o, "products", json_integer(r->s->shape(l, p->rank, stage)));
    json_object_set_new(o, "params", json_integer(p->params));
    if (l->sizes_known)
        json_object_set_new(o, "macs", json_integer(p->macs));
    json_object_set_new(o, "error", json_real(p->error));
    json_object_set_new(o, "error_of", json_string(l->whitened ? "output" : "weight"));
    if (l->plain)
        json_object_set_new(o, "not_whitened", json_string(l->plain));
    if (l->refit)
        json_object_set_new(o, "fitted", json_string(l->refit));
    if (!isnan(l->measured))
        json_object_set_new(o, "sensitivity", json_real(l->importance));
    if (dropped)
        json_object_set_new(o, "dropped_notes", dropped);
    return o;
}

/* Names are those before: the weight is gone. */
static void report(const struct factor_run *r)
{
    int64_t done = 0;
    for (int i = 0; i < r->layers.n; i++) {
        const struct layer *l = &r->layers.at[i];
        const bool made = l->chosen >= 0 && !l->why;
        struct layer_row row = {.node = l->node, .weight = l->weight, .sqnr_db = NAN, .skipped = made ? NULL : l->why};
        done += made;
        if (l->params > 0)
            row.before = json_pack("{s:I}", "params", (json_int_t)l->params);
        if (row.before && l->sizes_known)
            json_object_set_new(row.before, "macs", json_integer(l->macs));
        if (made) {
            row.after = facts_after(r, l);
            row.sqnr_db = l->at[l->chosen].error > 0 ? -10 * log10(l->at[l->chosen].error) : NAN;
        }
        layer_report_add(r->c->layers, r->original, &row);
    }
    if (done == 0)
        warnings_add(r->c->warnings, "factor.%s changed nothing: the rows of the layers say why", r->s->name);
}

int factor_apply(struct factor_run *r, struct err *err)
{
    struct layer **at = calloc((size_t)r->layers.n + 1, sizeof *at);
    int64_t n = 0;
    if (!at)
        return nomem(err);
    for (int i = 0; i < r->layers.n; i++)
        if (!r->layers.at[i].why && r->layers.at[i].chosen >= 0)
            at[n++] = &r->layers.at[i];
    const int rc = n > 0 ? write_all(r, at, n, err) : 0;
    if (rc == 0)
        report(r);
    free(at);
    return rc;
}
