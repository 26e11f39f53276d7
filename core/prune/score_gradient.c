/* SPDX-License-Identifier: Apache-2.0
 * score_gradient.c - criteria by gradients of single samples (sample_gradients.h); score.c has the formulas.
 *
 * A channel goes when everything its consumers read of it is multiplied by m = 0 instead of 1. Consumers are linear
 * in their weights, so m may stand at their columns as well: dL/dm = sum over the columns of w dL/dw = sum over all
 * places of a dL/da, exactly and for one sample at a time. No activation need be kept for that, nor the graph be
 * changed. Where no weight consumes (queries and keys), m stands at the rows and biases that produce.
 *
 * Second derivatives by all m come from differences of these gradients: with z a vector of random signs over all
 * channels of all groups, the mean of z_c (dL/dm_c(1 + h z) - dL/dm_c(1 - h z)) / 2h is d^2 L / dm_c^2 (Hutchinson,
 * 1989; the estimator of a diagonal of Bekas, Kokiopoulou and Saad, 2007). Every sample draws vectors of its own:
 * that averages the noise, which comes from what lies beside the diagonal, better than the same vectors for all. An
 * estimate can be negative. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/prune/score_impl.h"
#include "core/stats/sample_gradients.h"

enum { STREAM_SIGNS = 0x6875, DRAWS = 512, DRAWS_SAMPLE = 2 };
static const double STEP = 1e-2; /* of m: float gradients keep two to three digits of the difference */

struct gradients {
    struct score_ctx *c;
    struct score_parts parts;
    uint32_t *weight; /* [n_weights] each once */
    int n_weights;
    int *leaf; /* [parts.n] index in weight */
    double **m; /* [groups][atoms] dL/dm of this run */
    double **z, **previous; /* hessian: signs, and dL/dm at 1 + h z */
    double *factor; /* one number an element of a part */
    struct grad *changed; /* hessian: holds the changed weights */
    struct rng rng;
    int64_t samples;
    int runs, run;
};

/* ---- life ---- */
static int find_gates(const struct score_ctx *c, struct score_parts *p, struct err *err)
{
    bool *lacking = NULL;
    if (score_parts_find(c, SCORE_CONSUMES, NULL, p, err))
        return -1;
    int n = score_parts_lacking(c, p, SCORE_CONSUMES, &lacking, err);
    if (n > 0)
        n = score_parts_find(c, SCORE_PRODUCES | SCORE_BIAS, lacking, p, err);
    free(lacking);
    return n < 0 ? -1 : 0;
}

static int check_weight(const struct score_ctx *c, uint32_t value, struct err *err)
{
    const struct weight *w = c->o->model->values[value].weight;
    if (w && (w->tensor.dtype == DTYPE_FLOAT || w->tensor.dtype == DTYPE_DOUBLE))
        return 0;
    return err_set(err, ERR_OPERATOR,
                   "the criterion %s needs the gradient of weight '%s', which is %s: float32 and float64 weights have "
                   "one; take a criterion of the weights or activations alone (l2, activation)",
                   c->name, c->o->model->values[value].name, w ? dtype_name(w->tensor.dtype) : "no initializer");
}

static int list_weights(struct gradients *x, struct err *err)
{
    const struct model *m = x->c->o->model;
    int *at = malloc(((size_t)m->n_values + 1) * sizeof *at), rc = -1;
    int64_t most = 0;
    x->weight = calloc((size_t)x->parts.n + 1, sizeof *x->weight);
    x->leaf = calloc((size_t)x->parts.n + 1, sizeof *x->leaf);
    for (int i = 0; i < x->parts.n; i++)
        most = x->parts.at[i].member->size > most ? x->parts.at[i].member->size : most;
    x->factor = calloc((size_t)most + 1, sizeof *x->factor);
    if (!at || !x->weight || !x->leaf || !x->factor) {
        err_set(err, ERR_NOMEM, "out of memory for scores");
        goto out;
    }
    memset(at, 0xff, ((size_t)m->n_values + 1) * sizeof *at);
    for (int i = 0; i < x->parts.n; i++) {
        const uint32_t v = x->parts.at[i].member->value;
        if (at[v] < 0 && check_weight(x->c, v, err))
            goto out;
        if (at[v] < 0) {
            at[v] = x->n_weights;
            x->weight[x->n_weights++] = v;
        }
        x->leaf[i] = at[v];
    }
    rc = 0;
out:
    free(at);
    return rc;
}

static double **atoms_new(const struct score_ctx *c, struct err *err)
{
    double **a = calloc((size_t)c->g->n + 1, sizeof *a);
    bool memory = a != NULL;
    for (int i = 0; memory && i < c->g->n; i++)
        if (c->score[i])
            memory = (a[i] = calloc((size_t)c->g->at[i].n, sizeof **a)) != NULL;
    if (memory)
        return a;
    score_free(a, c->g->n);
    err_set(err, ERR_NOMEM, "out of memory for scores");
    return NULL;
}

static void gradients_fini(struct gradients *x)
{
    const int n = x->c->g->n;
    score_parts_fini(&x->parts);
    free(x->weight);
    free(x->leaf);
    free(x->factor);
    score_free(x->m, n);
    score_free(x->z, n);
    score_free(x->previous, n);
}

/* ---- runs ---- */
static int progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    const struct score_opts *o = ((struct gradients *)arg)->c->o;
    return o->progress ? o->progress(o->progress_arg, done, total, err) : 0;
}

static int run_samples(struct gradients *x, int (*before)(void *, struct grad *, int, struct err *),
                       int (*each)(void *, const struct grad *, struct err *), struct err *err)
{
    const struct score_opts *o = x->c->o;
    int64_t *index = NULL, unfit = 0;
    int rc = 0;
    if (list_weights(x, err) || (x->n_weights > 0 && dataset_bind(o->data, o->model, err)))
        return -1;
    x->samples = dataset_spread(o->data, o->samples, &index, err);
    if (x->samples == 0)
        rc = err_set(err, ERR_DATASET, "the dataset is empty: the criterion %s needs at least one sample", x->c->name);
    if (before && x->samples > 0)
        x->runs = (int)(2 * (x->samples * DRAWS_SAMPLE < DRAWS ? (DRAWS + x->samples - 1) / x->samples : DRAWS_SAMPLE));
    const struct sample_gradients run = {.data = o->data, .index = index, .n = x->samples, .pool = o->pool,
                                         .seed = o->seed, 
                                         .labels = dataset_has_labels(o->data), .unfit = &unfit, .weights = x->weight,
                                         .n_weights = x->n_weights, .runs = x->runs, .before = before, .each = each,
                                         .arg = x, .progress = progress, .progress_arg = x};
    if (rc == 0 && x->samples > 0 && x->n_weights > 0 && sample_gradients_run(o->model, &run, err))
        rc = err_wrap(err, "the criterion %s needs gradients: ", x->c->name);
    if (rc == 0 && unfit > 0)
        warnings_add(o->warnings,
                     "%s: the labels of the dataset fit no output of the model; it was scored without them, as a "
                     "dataset without labels is",
                     x->c->name);
    free(index);
    return x->samples < 0 ? -1 : rc;
}

/* ---- element by element: gradient, fisher ---- */
static int each_elements(void *arg, const struct grad *g, struct err *err)
{
    struct gradients *x = arg;
    const bool fisher = !strcmp(x->c->name, "fisher");
    (void)err;
    for (int i = 0; i < x->parts.n; i++) {
        const struct score_part *p = &x->parts.at[i];
        const struct tensor *d = grad_param_gradient(g, x->leaf[i]);
        const struct tensor *w = fisher ? value_const(x->c->o->model, p->member->value) : NULL;
        score_axis_sums(x->c->o->pool, d, w, p->member->axis, fisher ? SCORE_PRODUCT_SQUARE : SCORE_ABS, p->element);
    }
    return 0;
}

static int score_elements(struct score_ctx *c, double factor, struct err *err)
{
    struct gradients x = {.c = c};
    int rc = score_parts_find(c, SCORE_WEIGHTS, NULL, &x.parts, err);
    if (rc == 0)
        rc = run_samples(&x, NULL, each_elements, err);
    for (int i = 0; rc == 0 && i < x.parts.n; i++)
        for (int64_t k = 0; k < x.parts.at[i].member->size; k++)
            x.parts.at[i].element[k] *= factor / (double)x.samples;
    if (rc == 0)
        rc = score_parts_reduce(c, &x.parts, false, err);
    gradients_fini(&x);
    return rc;
}

int score_gradient(struct score_ctx *c, struct err *err)
{
    return score_elements(c, 1, err);
}

int score_fisher(struct score_ctx *c, struct err *err)
{
    return score_elements(c, 0.5, err);
}

/* ---- channel by channel: taylor, hessian ---- */
/* dL/dm of all atoms. z: the run's signs, by which the weights are changed; NULL: they are not. */
static void gate_gradients(struct gradients *x, const struct grad *g, double **z, double step)
{
    for (int i = 0; i < x->c->g->n; i++)
        if (x->m[i])
            memset(x->m[i], 0, (size_t)x->c->g->at[i].n * sizeof **x->m);
    for (int i = 0; i < x->parts.n; i++) {
        const struct score_part *p = &x->parts.at[i];
        const struct group_member *mb = p->member;
        memset(x->factor, 0, (size_t)mb->size * sizeof *x->factor);
        const struct tensor *w = x->changed ? grad_param_value(x->changed, x->leaf[i])
                                            : value_const(x->c->o->model, mb->value);
        score_axis_sums(x->c->o->pool, grad_param_gradient(g, x->leaf[i]), w, mb->axis, SCORE_PRODUCT, x->factor);
        for (int64_t k = 0; k < mb->size; k++)
            if (mb->atom[k] != ATOM_NONE)
                x->m[p->group][mb->atom[k]] += x->factor[k] / (z ? 1 + step * z[p->group][mb->atom[k]] : 1);
    }
}

static int each_taylor(void *arg, const struct grad *g, struct err *err)
{
    struct gradients *x = arg;
    (void)err;
    gate_gradients(x, g, NULL, 0);
    for (int i = 0; i < x->c->g->n; i++)
        for (int64_t a = 0; x->m[i] && a < x->c->g->at[i].n; a++)
            x->c->score[i][a] += x->m[i][a] * x->m[i][a];
    return 0;
}

static void finish(struct gradients *x, double factor)
{
    const struct groups *g = x->c->g;
    for (int i = 0; i < g->n; i++)
        for (int64_t a = 0; x->m[i] && a < g->at[i].n; a++)
            x->c->score[i][a] *= factor / (double)(g->at[i].width[a] > 0 ? g->at[i].width[a] : 1);
}

int score_taylor(struct score_ctx *c, struct err *err)
{
    struct gradients x = {.c = c, .m = atoms_new(c, err)};
    int rc = x.m ? find_gates(c, &x.parts, err) : -1;
    if (rc == 0)
        rc = run_samples(&x, NULL, each_taylor, err);
    if (rc == 0)
        finish(&x, 1 / (double)x.samples);
    gradients_fini(&x);
    return rc;
}

static void draw_signs(struct gradients *x)
{
    for (int i = 0; i < x->c->g->n; i++)
        for (int64_t a = 0; x->z[i] && a < x->c->g->at[i].n; a++)
            x->z[i][a] = rng_u64(&x->rng) >> 63 ? 1 : -1;
}

/* Runs 2 v and 2 v + 1: m = 1 + h z, 1 - h z. Run -1: m = 1. */
static int change_weights(void *arg, struct grad *g, int run, struct err *err)
{
    struct gradients *x = arg;
    const double step = run % 2 ? -STEP : STEP;
    (void)err;
    x->run = run;
    x->changed = g;
    for (int w = 0; w < x->n_weights; w++) {
        const struct tensor *t = &x->c->o->model->values[x->weight[w]].weight->tensor;
        if (t->bytes)
            memcpy(grad_param_value(g, w)->data, t->data, t->bytes);
    }
    if (run < 0)
        return 0;
    if (run % 2 == 0)
        draw_signs(x);
    for (int i = 0; i < x->parts.n; i++) {
        const struct group_member *mb = x->parts.at[i].member;
        const double *z = x->z[x->parts.at[i].group];
        for (int64_t k = 0; k < mb->size; k++)
            x->factor[k] = mb->atom[k] != ATOM_NONE ? 1 + step * z[mb->atom[k]] : 1;
        score_axis_scale(grad_param_value(g, x->leaf[i]), mb->axis, x->factor);
    }
    return 0;
}

static int each_hessian(void *arg, const struct grad *g, struct err *err)
{
    struct gradients *x = arg;
    const bool second = x->run % 2;
    (void)err;
    gate_gradients(x, g, x->z, second ? -STEP : STEP);
    for (int i = 0; i < x->c->g->n; i++)
        for (int64_t a = 0; x->m[i] && a < x->c->g->at[i].n; a++) {
            if (second)
                x->c->score[i][a] += x->z[i][a] * (x->previous[i][a] - x->m[i][a]) / (2 * STEP);
            x->previous[i][a] = x->m[i][a];
        }
    return 0;
}

int score_hessian(struct score_ctx *c, struct err *err)
{
    struct gradients x = {.c = c, .m = atoms_new(c, err), .z = atoms_new(c, err), .previous = atoms_new(c, err)};
    int rc = x.m && x.z && x.previous ? find_gates(c, &x.parts, err) : -1;
    rng_init(&x.rng, c->o->seed, STREAM_SIGNS);
    if (rc == 0)
        rc = run_samples(&x, change_weights, each_hessian, err);
    if (rc == 0)
        finish(&x, 0.5 / ((double)x.samples * (x.runs / 2)));
    gradients_fini(&x);
    return rc;
}
