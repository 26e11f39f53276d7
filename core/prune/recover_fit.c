/* SPDX-License-Identifier: Apache-2.0
 * recover_fit.c - recover.least_squares: every product whose input or weight was cut is fitted anew, one after another in
 * topological order, on what it reads in the network as repaired so far (recover_impl.h; methods.md B1; He et al., ICCV 2017).
 *
 * Fit        Wanted is the original's target y on the kept channels; there is t. Least squares gives the change D of the weight
 *            (times slope) and d of the constant with t + D x + d nearest to y, the ridge pulling to the weight as it is. That
 *            holds through BatchNormalization and residual sums, for t has them in it.
 * Flat       Where the readers of the target are flat below `low` (Relu: 0), only the side matters: a y below it is met by
 *            any t below it. So the fit is repeated with the wanted number z = y inside, min(t, low) where y <= low, max(t, high)
 *            where y >= high, until the error behind the activation does not fall any more (alternating minimisation, as
 *            Zhang et al., CVPR 2015, for layers with Relu). The factor of the covariance stays, so a round costs two products.
 * Choices    The ridge, the rounds, and whether the fit is taken at all, are decided by the error behind the activation on
 *            samples held out. If those are the calibration set's own, the chosen fit is then made on all samples.
 * Constant   goes where there is one: BatchNormalization (whose running statistics become those of the samples, without changing
 *            what it computes: estimating them again later changes nothing), the bias, an added constant. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/prune/recover_impl.h"

enum { MOST_ROUNDS = 12 };
static const double ridges[] = {1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1};
enum { N_RIDGES = sizeof ridges / sizeof *ridges };
static const double SAME = 1e-9; /* relative error: nothing to repair */

struct fit {
    const struct place *p;
    struct place_rows *rows;
    struct pool *pool;
    int64_t n, n_fit;               /* rows */
    int64_t width, outputs, k, per; /* per: outputs of a group */
    bool *keep;                     /* of the mask; NULL */
    struct least_squares **group;
    double *mean;    /* [width] of what x was centred by */
    float *change;   /* [outputs][k] D */
    double *shift;   /* [outputs] d */
    float *now;      /* [n][outputs] t + D x + d */
    float *error;    /* [n][outputs] z - t */
    float *part;     /* [n][per] */
    double signal;   /* mean square of the original behind the activation, on held-out rows, about its mean */
    const char *why; /* there is no fit */
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while fitting a layer");
}

/* ---- one fit ---- */
static bool is_flat(const struct place *p)
{
    return isfinite(p->low) || isfinite(p->high);
}

static void groups_free(struct fit *f)
{
    for (int64_t g = 0; f->group && g < f->p->source.groups; g++) {
        least_squares_free(f->group[g]);
        f->group[g] = NULL;
    }
}

/* Moments of the first `rows` rows, which are centred if there is a constant to be fitted. */
static int groups_make(struct fit *f, int64_t rows, struct err *err)
{
    groups_free(f);
    if (f->p->bias_node != NODE_NONE || f->p->bn != NODE_NONE)
        if (rows_center(f->rows->x, rows, f->n, f->width, f->mean))
            return nomem(err);
    for (int64_t g = 0; g < f->p->source.groups; g++) {
        const struct rows x = {f->rows->x + g * f->k, rows, f->k, f->width};
        f->group[g] = least_squares_new(&x, f->pool, err);
        if (!f->group[g])
            return -1;
    }
    return 0;
}

/* error = z - t on the first `rows` rows. first: z is y; later it depends on `now`. */
static void aim(struct fit *f, int64_t rows, bool first)
{
    const float low = (float)f->p->low, high = (float)f->p->high;
    const float *y = f->rows->want, *t = f->rows->have;
    for (int64_t i = 0; i < rows * f->outputs; i++) {
        float z = y[i];
        if (!first && y[i] <= low)
            z = fminf(f->now[i], low);
        else if (!first && y[i] >= high)
            z = fmaxf(f->now[i], high);
        f->error[i] = z - t[i];
    }
}

/* D and d for the errors on the first `rows` rows. */
static int solve(struct fit *f, int64_t rows, double ridge, struct err *err)
{
    memset(f->shift, 0, (size_t)f->outputs * sizeof *f->shift);
    if (f->p->bias_node != NODE_NONE || f->p->bn != NODE_NONE) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t o = 0; o < f->outputs; o++)
                f->shift[o] += (double)f->error[r * f->outputs + o];
        for (int64_t o = 0; o < f->outputs; o++)
            f->shift[o] /= (double)rows;
    }
    for (int64_t g = 0; g < f->p->source.groups; g++) {
        const struct rows e = {f->error + g * f->per, rows, f->per, f->outputs};
        const int64_t at = g * f->per * f->k;
        if (least_squares_solve(f->group[g], ridge, &e, f->keep ? f->keep + at : NULL, f->change + at, err))
            return -1;
    }
    for (int64_t o = 0; o < f->outputs; o++) /* a channel that nobody sees cannot be repaired */
        if (!(fabs(f->p->slope[o]) > 1e-12)) {
            memset(f->change + o * f->k, 0, (size_t)f->k * sizeof *f->change);
            f->shift[o] = 0;
        }
    return 0;
}

/* now = t + D x + d on all rows. */
static void foresee(struct fit *f)
{
    for (int64_t g = 0; g < f->p->source.groups; g++) {
        const struct rows x = {f->rows->x + g * f->k, f->n, f->k, f->width};
        least_squares_apply(&x, f->change + g * f->per * f->k, f->per, f->pool, f->part);
        for (int64_t r = 0; r < f->n; r++)
            for (int64_t o = 0; o < f->per; o++)
                f->now[r * f->outputs + g * f->per + o] = f->part[r * f->per + o];
    }
    for (int64_t r = 0; r < f->n; r++)
        for (int64_t o = 0; o < f->outputs; o++)
            f->now[r * f->outputs + o] += f->rows->have[r * f->outputs + o] + (float)f->shift[o];
}

static double behind(const struct place *p, float v)
{
    const double d = (double)v;
    return d < p->low ? p->low : d > p->high ? p->high : d;
}

/* Mean square error behind the activation on the rows held out, relative to the signal. */
static double held_error(const struct fit *f, const float *t)
{
    double sum = 0;
    for (int64_t i = f->n_fit * f->outputs; i < f->n * f->outputs; i++) {
        const double d = behind(f->p, t[i]) - behind(f->p, f->rows->want[i]);
        sum += d * d;
    }
    return sum / f->signal;
}

static double held_signal(const struct fit *f)
{
    double all = 0;
    for (int64_t o = 0; o < f->outputs; o++) {
        double sum = 0, square = 0;
        for (int64_t r = f->n_fit; r < f->n; r++) {
            const double v = behind(f->p, f->rows->want[r * f->outputs + o]);
            sum += v;
            square += v * v;
        }
        all += square - sum * sum / (double)(f->n - f->n_fit);
    }
    return all > 1e-30 ? all : 1e-30;
}

struct choice {
    double ridge, before, after;
    int rounds; /* after the first solution */
};

/* What cannot be fitted is left alone: then `why` says it, and -1 comes back with no error. */
static int make_moments(struct fit *f, struct err *err)
{
    struct err own = {0};
    if (groups_make(f, f->n_fit, &own) == 0)
        return 0;
    if (own.code == ERR_MODEL)
        f->why = "what it reads is not finite on all samples";
    else if (own.code == ERR_MODEL_TOO_LARGE)
        f->why = "it is too wide for least squares on so many samples";
    else
        err_set(err, own.code, "%s", own.msg);
    return -1;
}

/* The best ridge of the plain fit, then rounds with it. */
static int choose(struct fit *f, struct choice *c, struct err *err)
{
    double last;
    c->before = held_error(f, f->rows->have);
    c->after = INFINITY;
    f->why = !isfinite(c->before)  ? "what it makes is not finite on all samples"
             : !(c->before > SAME) ? "what it makes is still the original's"
                                   : NULL;
    if (f->why || make_moments(f, err))
        return f->why ? 0 : -1;
    aim(f, f->n_fit, true);
    for (int i = 0; i < N_RIDGES; i++) {
        if (solve(f, f->n_fit, ridges[i], err))
            return -1;
        foresee(f);
        const double e = held_error(f, f->now);
        if (e < c->after) {
            c->after = e;
            c->ridge = ridges[i];
        }
    }
    last = c->after;
    if (!is_flat(f->p) || !isfinite(last))
        return 0;
    for (int round = 0; round <= MOST_ROUNDS; round++) {
        aim(f, f->n_fit, round == 0);
        if (solve(f, f->n_fit, c->ridge, err))
            return -1;
        foresee(f);
        const double e = held_error(f, f->now);
        if (round > 0 && e < c->after) {
            c->after = e;
            c->rounds = round;
        } else if (round > c->rounds) {
            break;
        }
    }
    return 0;
}

/* The chosen fit on `rows` rows. */
static int finish(struct fit *f, const struct choice *c, int64_t rows, struct err *err)
{
    if (rows != f->n_fit && groups_make(f, rows, err))
        return -1;
    for (int round = 0; round <= c->rounds; round++) {
        aim(f, rows, round == 0);
        if (solve(f, rows, c->ridge, err))
            return -1;
        if (round < c->rounds)
            foresee(f);
    }
    return 0;
}

/* ---- into the model ---- */
/* Running statistics become those of what it reads now, scale and bias follow: it computes what it did. w: [outputs][k]
 * of the product. */
static int renew_statistics(struct edit *e, struct fit *f, const double *w, double *beta, struct err *err)
{
    struct model *m = e->m;
    const uint32_t bn = f->p->bn;
    const int64_t n = f->outputs;
    const double eps = (double)node_attr_float(&m->nodes[bn], "epsilon", 1e-5f);
    double *gamma = place_vector(m, bn, 1, n, err), *mean = place_vector(m, bn, 3, n, err),
           *var = place_vector(m, bn, 4, n, err),
           *bias = m->nodes[f->p->node].n_input > 2 ? place_vector(m, f->p->node, 2, n, err) : calloc((size_t)n, 8);
    int rc = -1;
    if (!gamma || !mean || !var || !bias) {
        nomem(err);
        goto out;
    }
    for (int64_t i = 0; i < n * f->k; i++)
        f->change[i] = (float)w[i];
    memset(f->rows->have, 0, (size_t)(f->n * n) * sizeof(float));
    memset(f->shift, 0, (size_t)n * sizeof *f->shift);
    foresee(f); /* what the product makes of the centred rows */
    for (int64_t o = 0; o < n; o++) {
        double sum = 0, square = 0, middle = bias[o];
        for (int64_t r = 0; r < f->n; r++) {
            const double v = (double)f->now[r * n + o];
            sum += v;
            square += v * v;
        }
        const double centre = sum / (double)f->n, v = fmax(square / (double)f->n - centre * centre, 0);
        for (int64_t i = 0; i < f->k; i++)
            middle += w[o * f->k + i] * f->mean[o / f->per * f->k + i];
        const double slope = gamma[o] / sqrt(var[o] + eps);
        if (!(fabs(slope) > 1e-12))
            continue;
        beta[o] += slope * (middle + centre - mean[o]);
        gamma[o] = slope * sqrt(v + eps);
        mean[o] = middle + centre;
        var[o] = v;
    }
    rc = place_put_vector(e, bn, 1, n, gamma, err) || place_put_vector(e, bn, 3, n, mean, err) ||
                 place_put_vector(e, bn, 4, n, var, err)
             ? -1
             : 0;
out:
    free(gamma);
    free(mean);
    free(var);
    free(bias);
    return rc;
}

static int write_back(struct edit *e, struct fit *f, struct err *err)
{
    const struct place *p = f->p;
    const uint32_t at = p->bn != NODE_NONE ? p->bn : p->bias_node;
    const int slot = p->bn != NODE_NONE ? 2 : p->bias_slot;
    const double *slope = p->bn != NODE_NONE ? p->bn_slope : p->bias_slope;
    double *w = place_weight(e->m, p, err),
           *bias = at != NODE_NONE ? place_vector(e->m, at, slot, f->outputs, err) : NULL;
    int rc = -1;
    if (!w || (at != NODE_NONE && !bias))
        goto out;
    for (int64_t o = 0; o < f->outputs; o++) {
        double constant = f->shift[o];
        if (!(fabs(p->slope[o]) > 1e-12))
            continue;
        for (int64_t i = 0; i < f->k; i++) {
            const double d = (double)f->change[o * f->k + i];
            w[o * f->k + i] += d / p->slope[o];
            constant -= d * f->mean[o / f->per * f->k + i];
        }
        if (bias && fabs(slope[o]) > 1e-12)
            bias[o] += constant / slope[o];
    }
    if (place_put_weight(e->m, p, w, err))
        goto out;
    if (p->bn != NODE_NONE && e->m->nodes[p->bn].input[0] == e->m->nodes[p->node].output[0] &&
        renew_statistics(e, f, w, bias, err))
        goto out;
    rc = bias ? place_put_vector(e, at, slot, f->outputs, bias, err) : 0;
out:
    free(w);
    free(bias);
    return rc;
}

/* ---- a place ---- */
static int fit_make(struct fit *f, const struct model *m, const struct samples *s, struct err *err)
{
    const struct place *p = f->p;
    f->n = s->n * f->rows->per_block;
    f->n_fit = s->n_fit * f->rows->per_block;
    f->outputs = p->outputs;
    f->k = p->source.k;
    f->width = p->source.groups * f->k;
    f->per = f->outputs / p->source.groups;
    f->group = calloc((size_t)p->source.groups, sizeof *f->group);
    f->mean = calloc((size_t)f->width, sizeof *f->mean);
    f->change = calloc((size_t)(f->outputs * f->k), sizeof *f->change);
    f->shift = calloc((size_t)f->outputs, sizeof *f->shift);
    f->now = malloc((size_t)(f->n * f->outputs) * sizeof *f->now);
    f->error = malloc((size_t)(f->n * f->outputs) * sizeof *f->error);
    f->part = malloc((size_t)(f->n * f->per) * sizeof *f->part);
    if (!f->group || !f->mean || !f->change || !f->shift || !f->now || !f->error || !f->part)
        return nomem(err);
    return place_mask(m, p, &f->keep, err);
}

static void fit_free(struct fit *f)
{
    groups_free(f);
    free(f->group);
    free(f->mean);
    free(f->change);
    free(f->shift);
    free(f->now);
    free(f->error);
    free(f->part);
    free(f->keep);
}

static void tell(const struct recover_opts *o, const struct model *m, const struct place *p, const struct choice *c,
                 const char *why)
{
    if (!o->layers || (p->second && why)) /* its first time is told */
        return;
    struct layer_row row = {.node = p->node, .weight = p->weight, .sqnr_db = NAN, .skipped = why};
    if (c && c->before > 0 && isfinite(c->before))
        row.before = json_pack("{s:f}", "error", c->before);
    if (c && isfinite(c->after) && !why) {
        row.after = json_pack("{s:f,s:f,s:i}", "error", c->after, "ridge", c->ridge, "rounds", c->rounds);
        row.sqnr_db = -10 * log10(c->after);
        if (p->residual)
            json_object_set_new(row.after, "target", json_string("residual sum"));
    }
    layer_report_add(o->layers, m, &row);
}

static int fit_place(struct edit *e, const struct recover_opts *o, const struct samples *s, struct place_rows *rows,
                     bool *fitted, struct err *err)
{
    struct fit f = {.p = rows->place, .rows = rows, .pool = o->pool};
    struct choice c = {0};
    const char *why;
    int rc = -1;
    if (fit_make(&f, e->m, s, err))
        goto out;
    f.signal = held_signal(&f);
    if (choose(&f, &c, err))
        goto out;
    why = f.why;
    if (!why && !(c.after < c.before * (1 - 1e-6)))
        why = "a fit does not lower its error on samples held out";
    if (!why && (finish(&f, &c, s->own ? f.n : f.n_fit, err) || write_back(e, &f, err)))
        goto out;
    *fitted = !why;
    tell(o, e->m, rows->place, &c, why);
    rc = 0;
out:
    fit_free(&f);
    return rc;
}

/* ---- all ---- */
/* The originals of so many places lie in memory at once. */
enum { CHUNK = 24 };

static int repair_chunk(struct edit *e, const struct recover_opts *o, const struct samples *s, struct place_rows *rows,
                        int n, int64_t *done, int64_t total, int64_t *fitted, struct err *err)
{
    const struct record originals = {
        .m = o->original, .what = RECORD_WANT, .samples = s, .at = rows, .n = n, .o = o, .done = *done, .total = total};
    if (record_rows(&originals, err))
        return -1;
    *done += s->n;
    for (int i = 0; i < n; i++, *done += s->n) {
        const struct record now = {.m = e->m,
                                   .what = RECORD_HAVE,
                                   .samples = s,
                                   .at = &rows[i],
                                   .n = 1,
                                   .o = o,
                                   .done = *done,
                                   .total = total};
        bool took = false;
        if (!rows[i].why && !rows[i].want)
            rows[i].why = "the original did not compute what it makes";
        if (!rows[i].why && record_rows(&now, err))
            return -1;
        if (!rows[i].why && (!rows[i].x || !rows[i].have))
            rows[i].why = "what it reads was never seen";
        if (rows[i].why)
            tell(o, e->m, rows[i].place, NULL, rows[i].why);
        else if (fit_place(e, o, s, &rows[i], &took, err))
            return -1;
        *fitted += took;
        place_rows_fini(&rows[i]);
    }
    return 0;
}

static int repair(struct edit *e, const struct recover_opts *o, const struct places *p, const struct samples *s,
                  struct err *err)
{
    struct place_rows rows[CHUNK];
    int64_t done = 0, total = 0, fitted = 0, able = 0;
    int rc = 0;
    for (int i = 0; i < p->n; i++)
        able += !p->at[i].why && p->at[i].rows;
    total = (able + (able + CHUNK - 1) / CHUNK) * s->n;
    for (int i = 0; rc == 0 && i < p->n;) {
        int n = 0;
        for (; i < p->n && n < CHUNK; i++) {
            if (p->at[i].why || !p->at[i].rows)
                tell(o, e->m, &p->at[i], NULL, p->at[i].why ? p->at[i].why : "it is no Conv, Gemm or MatMul");
            else
                rows[n++] = (struct place_rows){.place = &p->at[i]};
        }
        if (n > 0)
            rc = repair_chunk(e, o, s, rows, n, &done, total, &fitted, err);
        for (int k = 0; k < n; k++)
            place_rows_fini(&rows[k]);
    }
    if (rc == 0 && able == 0 && o->warnings)
        warnings_add(o->warnings,
                     "recover.least_squares: no layer was changed by pruning in a way that a fit could repair");
    return rc;
}

int recover_least_squares(struct model *m, const struct recover_opts *o, struct err *err)
{
    struct edit e = {0};
    struct places p = {0};
    struct samples s = {0};
    int rc = -1;
    if (!o->data || !o->original)
        return err_set(err, ERR_DATASET, "recovery by least squares needs samples: give a dataset");
    if (edit_init(&e, m, err) || places_find(&p, &e, o->original, err) || samples_choose(&s, o, err) ||
        repair(&e, o, &p, &s, err))
        goto out;
    rc = edit_finish(&e, err);
    if (rc == 0)
        rc = dataset_bind(o->data, m, err);
out:
    samples_fini(&s);
    places_free(&p);
    edit_fini(&e);
    return rc;
}
