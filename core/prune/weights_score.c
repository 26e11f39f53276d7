/* SPDX-License-Identifier: Apache-2.0
 * weights_score.c - the criteria of prune.weights, a row each.
 *   magnitude      |w| (Han et al. 2015)
 *   l1_normalised  |w| over the layer's sum of |w|, so that layers of different scale can be ranked together
 *   random         uniform, seeded
 *   lamp           w^2 over the sum of the squares of the layer's weights that are not smaller (Lee et al. 2021)
 *   gradient       mean over samples of |g|, taylor of |w g| (Molchanov et al. 2019), fisher of g^2 w^2 / 2 (LeCun et al. 1990);
 *   snip           |w g| of the mean gradient over its sum (Lee et al. 2019). Labels drawn from the model's own softmax make the
 *                  mean gradient zero but for chance: without labels of the dataset the mean of |w g| takes its place
 *   wanda          |w| times the norm of the input it meets (Sun et al. 2024)
 *   obs            w^2 / (2 [H^-1]_pp), H the second moments of the inputs (Hassibi and Stork 1993). To rank layers together it is
 *                  divided as for lamp: the costs of single weights say too little of the cost of many
 * Memory         the first three need none; the others a float32 for each weight. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/prune/weight_pruning.h"
#include "core/stats/gram.h"
#include "core/stats/hessian.h"
#include "core/stats/sample_gradients.h"

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while scoring weights");
}

/* ---- one by one ---- */
static double magnitude(const struct prune_item *it, double w, int64_t index)
{
    (void)it;
    (void)index;
    return fabs(w);
}

static double l1_normalised(const struct prune_item *it, double w, int64_t index)
{
    (void)index;
    return fabs(w) / it->norm;
}

/* splitmix64 of (seed, item, index): any part of a weight can be ranked without the others. */
static double of_random(const struct prune_item *it, double w, int64_t index)
{
    uint64_t z = it->key + (uint64_t)index * 0x9e3779b97f4a7c15u;
    (void)w;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

void weights_scores(const struct prune_run *r, const struct prune_item *it, int64_t first, int64_t n, double *out)
{
    double (*of)(const struct prune_item *, double, int64_t) = it->fallback ? magnitude : r->criterion->of;
    weights_read(it->ref.tensor, first, n, out);
    for (int64_t i = 0; i < n; i++)
        if (out[i] != 0) /* above what is zero already, also if it is worth nothing */
            out[i] = fmax(of ? of(it, out[i], first + i) : (double)it->score[first + i], DBL_MIN);
    if (r->surgery)
        weights_hysteresis(r, it, first, n, out);
}

static int prepare_l1(struct prune_run *r, struct err *err)
{
    double chunk[WEIGHTS_CHUNK];
    (void)err;
    for (int n = 0; n < r->n; n++) {
        struct prune_item *it = &r->item[n];
        it->norm = 0;
        for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
            const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
            weights_read(it->ref.tensor, first, len, chunk);
            for (int64_t i = 0; i < len; i++)
                it->norm += fabs(chunk[i]);
        }
        it->norm = it->norm > 0 ? it->norm : 1;
    }
    return 0;
}

static int prepare_random(struct prune_run *r, struct err *err)
{
    (void)err;
    for (int n = 0; n < r->n; n++) {
        struct rng rng;
        rng_init(&rng, r->c->seed, 0x7765696768740000u + (uint64_t)n);
        r->item[n].key = rng_u64(&rng);
    }
    return 0;
}

/* ---- lamp ---- */
struct sorted {
    float score;
    int64_t at;
};
static int by_score(const void *a, const void *b)
{
    const struct sorted *p = a, *q = b;
    return p->score < q->score ? -1 : p->score > q->score ? 1 : p->at < q->at ? -1 : 1;
}

static bool own_scores(struct prune_item *it)
{
    if (!it->score)
        it->score = malloc((size_t)it->count * sizeof *it->score);
    return it->score != NULL;
}

/* Each score over the sum of those that are not smaller: the last of every layer has 1, so that none is emptied before the others.
 * Of equal ones the first in the file counts as the smallest, as everywhere. */
static int over_the_rest(struct prune_item *it, struct err *err)
{
    struct sorted *s = malloc((size_t)it->count * sizeof *s);
    double rest = 0;
    if (!s)
        return no_memory(err);
    for (int64_t i = 0; i < it->count; i++)
        s[i] = (struct sorted){it->score[i], i};
    qsort(s, (size_t)it->count, sizeof *s, by_score);
    for (int64_t i = it->count; i-- > 0;) {
        rest += (double)s[i].score;
        it->score[s[i].at] = rest > 0 ? (float)((double)s[i].score / rest) : 0;
    }
    free(s);
    return 0;
}

/* Squares, scaled by the largest so that none overflows. */
static int score_lamp(struct prune_item *it, struct err *err)
{
    double chunk[WEIGHTS_CHUNK];
    if (!own_scores(it))
        return no_memory(err);
    it->norm = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
            const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
            weights_read(it->ref.tensor, first, len, chunk);
            for (int64_t i = 0; i < len; i++)
                if (pass == 0)
                    it->norm = fmax(it->norm, fabs(chunk[i]));
                else
                    it->score[first + i] = (float)pow(chunk[i] / (it->norm > 0 ? it->norm : 1), 2);
        }
    return over_the_rest(it, err);
}

static int prepare_lamp(struct prune_run *r, struct err *err)
{
    for (int n = 0; n < r->n; n++)
        if (score_lamp(&r->item[n], err))
            return -1;
    return 0;
}

/* ---- gradients ---- */
struct gradients {
    struct prune_run *r;
    struct prune_item **item; /* of each parameter */
    int n;
    double share; /* of a sample in the mean */
    double (*add)(double g, double w);
};
static double add_gradient(double g, double w)
{
    (void)w;
    return fabs(g);
}
static double add_taylor(double g, double w)
{
    return fabs(w * g);
}
static double add_fisher(double g, double w)
{
    return g * g * w * w / 2;
}
static double add_signed(double g, double w)
{
    return w * g;
}

static int each_gradient(void *arg, const struct grad *grad, struct err *err)
{
    const struct gradients *x = arg;
    double w[WEIGHTS_CHUNK], g[WEIGHTS_CHUNK];
    (void)err;
    for (int i = 0; i < x->n; i++) {
        struct prune_item *it = x->item[i];
        const struct tensor *t = grad_param_gradient(grad, i);
        for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
            const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
            weights_read(it->ref.tensor, first, len, w);
            weights_read(t, first, len, g);
            for (int64_t k = 0; k < len; k++)
                it->score[first + k] += (float)(x->share * x->add(g[k], w[k]));
        }
    }
    return 0;
}

static int gradient_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "score", done, total, err) : 0;
}

static const char *no_gradient(const struct prune_run *r, const struct prune_item *it)
{
    if (!r->c->model->values[it->ref.value].weight)
        return "its weight is in a Constant node: gradients are taken of initializers (graph.optimize makes it one)";
    if (it->ref.tensor->dtype != DTYPE_FLOAT && it->ref.tensor->dtype != DTYPE_DOUBLE)
        return "its weight is neither float32 nor float64: no gradient is taken of it";
    return NULL;
}

static int run_gradients(struct gradients *x, bool labels, struct err *err)
{
    struct prune_run *r = x->r;
    int64_t *index = NULL;
    int rc = -1;
    uint32_t *weights = calloc((size_t)r->n + 1, sizeof *weights);
    x->item = calloc((size_t)r->n + 1, sizeof(struct prune_item *));
    const int64_t n = dataset_spread(r->c->data, r->o->samples, &index, err);
    if (!weights || !x->item)
        no_memory(err);
    else if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: gradients need at least one sample");
    if (!weights || !x->item || n <= 0)
        goto out;
    for (int i = 0; i < r->n; i++) {
        struct prune_item *it = &r->item[i];
        if ((it->fallback = no_gradient(r, it)))
            continue;
        if (!own_scores(it)) {
            no_memory(err);
            goto out;
        }
        for (int64_t k = 0; k < it->count; k++)
            it->score[k] = 0;
        weights[x->n] = it->ref.value;
        x->item[x->n++] = it;
    }
    x->share = 1 / (double)n;
    const struct sample_gradients run = {.data = r->c->data,
                                         .index = index,
                                         .n = n,
                                         .pool = r->c->pool,
                                         .seed = r->c->seed,
                                         .labels = labels,
                                         .weights = weights,
                                         .n_weights = x->n,
                                         .each = each_gradient,
                                         .arg = x,
                                         .progress = gradient_progress,
                                         .progress_arg = r->c};
    rc = x->n > 0 ? sample_gradients_run(r->c->model, &run, err) : 0;
out:
    free(weights);
    free(x->item);
    free(index);
    return rc;
}

static int prepare_gradients(struct prune_run *r, double (*add)(double g, double w), struct err *err)
{
    struct gradients x = {.r = r, .add = add};
    return run_gradients(&x, dataset_labels_are_classes(r->c->data), err);
}
static int prepare_gradient(struct prune_run *r, struct err *err)
{
    return prepare_gradients(r, add_gradient, err);
}
static int prepare_taylor(struct prune_run *r, struct err *err)
{
    return prepare_gradients(r, add_taylor, err);
}
static int prepare_fisher(struct prune_run *r, struct err *err)
{
    return prepare_gradients(r, add_fisher, err);
}

static int prepare_snip(struct prune_run *r, struct err *err)
{
    const bool labels = dataset_labels_are_classes(r->c->data);
    double sum = 0;
    if (!labels)
        warnings_add(r->c->warnings,
                     "the dataset has no classes: snip took the mean of |w g| over samples, with labels drawn "
                     "from the model's own output, in place of |w| times the mean gradient");
    if (prepare_gradients(r, labels ? add_signed : add_taylor, err))
        return -1;
    for (int pass = 0; pass < 2; pass++)
        for (int n = 0; n < r->n; n++) {
            struct prune_item *it = &r->item[n];
            for (int64_t k = 0; !it->fallback && k < it->count; k++)
                if (pass == 0)
                    sum += fabs((double)it->score[k]);
                else
                    it->score[k] = (float)(fabs((double)it->score[k]) / (sum > 0 ? sum : 1));
        }
    return 0;
}

/* ---- second moments ---- */
struct moments {
    struct prune_run *r;
    int (*score)(struct prune_item *it, const struct gram_matrix *g, struct err *err);
};

static double weight_at(const struct prune_item *it, int64_t at)
{
    return dtype_get(it->ref.tensor->dtype, it->ref.tensor->data, at);
}

/* score = factor(row's group, place) * f(w) */
static int score_wanda(struct prune_item *it, const struct gram_matrix *g, struct err *err)
{
    const int64_t per = it->matrix.rows / g->groups;
    (void)err;
    for (int64_t k = 0; k < it->matrix.k; k++)
        for (int64_t row = 0; row < it->matrix.rows; row++) {
            const int64_t at = weight_matrix_at(&it->matrix, row, k), place = weights_gram_place(it, k);
            const double power = g->h[(row / per * g->k + place) * g->k + place];
            it->score[at] = (float)(fabs(weight_at(it, at)) * sqrt(power * (double)g->rows));
        }
    return 0;
}

/* Of a group's H: [H^-1]_jj = sum over i of U_ij^2. */
static int inverse_diagonal(const struct gram_matrix *g, int64_t group, double *u, double *diag, struct err *err)
{
    const int64_t k = g->k;
    double damp = 0.01;
    double *h = u + k * k;
    hessian_believe(g->h + group * k * k, k, g->rows, h);
    if (hessian_factor(h, k, &damp, u, err))
        return -1;
    for (int64_t j = 0; j < k; j++) {
        diag[j] = 0;
        for (int64_t i = 0; i <= j; i++)
            diag[j] += u[i * k + j] * u[i * k + j];
    }
    return 0;
}

static int score_obs(struct prune_item *it, const struct gram_matrix *g, struct err *err)
{
    const int64_t per = it->matrix.rows / g->groups, k = g->k;
    double *u = malloc((size_t)k * (size_t)k * 2 * sizeof *u), *diag = malloc((size_t)k * sizeof *diag);
    int rc = u && diag ? 0 : no_memory(err);
    for (int64_t group = 0; rc == 0 && group < g->groups; group++) {
        rc = inverse_diagonal(g, group, u, diag, err);
        for (int64_t row = group * per; rc == 0 && row < (group + 1) * per; row++)
            for (int64_t i = 0; i < k; i++) {
                const int64_t at = weight_matrix_at(&it->matrix, row, i);
                const double w = weight_at(it, at);
                it->score[at] = (float)(w * w / (2 * diag[weights_gram_place(it, i)]));
            }
    }
    free(u);
    free(diag);
    return rc;
}

const char *weights_no_moments(const struct prune_run *r, const struct prune_item *it)
{
    return it->shared            ? "several nodes read its weight"
           : it->matrix.rows < 1 ? "how its weight lies in rows is not known"
                                 : gram_refusal(r->c->model, it->ref.node);
}

static int each_gram(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    const struct moments *x = arg;
    for (int n = 0; n < x->r->n; n++) {
        struct prune_item *it = &x->r->item[n];
        if (it->ref.node != node || it->fallback)
            continue;
        if (g && (g->k != it->matrix.k || it->groups != g->groups))
            why = "its weight does not fit what it multiplies";
        it->fallback = why;
        if (why)
            return 0;
        return own_scores(it) ? x->score(it, g, err) : no_memory(err);
    }
    return 0;
}

static int moments_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    return gradient_progress(((const struct moments *)arg)->r->c, done, total, err);
}

static int prepare_moments(struct prune_run *r,
                           int (*score)(struct prune_item *, const struct gram_matrix *, struct err *), struct err *err)
{
    struct moments x = {r, score};
    uint32_t *nodes = calloc((size_t)r->n + 1, sizeof *nodes);
    struct gram_job job = {.m = r->c->model,
                           .data = r->c->data,
                           .pool = r->c->pool,
                           .samples = r->o->samples,
                           .nodes = nodes,
                           .each = each_gram,
                           .progress = moments_progress,
                           .arg = &x,
                           .seed = r->c->seed};
    if (!nodes)
        return no_memory(err);
    for (int n = 0; n < r->n; n++) {
        r->item[n].fallback = weights_no_moments(r, &r->item[n]);
        if (!r->item[n].fallback)
            nodes[job.n_nodes++] = r->item[n].ref.node;
    }
    const int rc = job.n_nodes > 0 ? gram_each(&job, err) : 0;
    free(nodes);
    return rc;
}

static int prepare_wanda(struct prune_run *r, struct err *err)
{
    return prepare_moments(r, score_wanda, err);
}

/* Ranked in weights_obs.c, layer by layer, but for blocks and where layers are ranked together. */
static int prepare_obs(struct prune_run *r, struct err *err)
{
    if (prepare_moments(r, score_obs, err))
        return -1;
    for (int n = 0; n < r->n; n++)
        if (r->scope == SCOPE_GLOBAL && !r->item[n].fallback && over_the_rest(&r->item[n], err))
            return -1;
    return 0;
}

/* ---- the rows ---- */
enum { WITH_DATA = NEEDS_DATA | NEEDS_RUN };
static const struct weights_criterion criteria[] = {
    {"magnitude", NEEDS_NOTHING, SCOPE_LAYER, magnitude, false, NULL},
    {"l1_normalised", NEEDS_NOTHING, SCOPE_LAYER, l1_normalised, false, prepare_l1},
    {"random", NEEDS_NOTHING, SCOPE_LAYER, of_random, false, prepare_random},
    {"lamp", NEEDS_NOTHING, SCOPE_GLOBAL, NULL, false, prepare_lamp},
    {"gradient", WITH_DATA, SCOPE_LAYER, NULL, false, prepare_gradient},
    {"taylor", WITH_DATA, SCOPE_LAYER, NULL, false, prepare_taylor},
    {"fisher", WITH_DATA, SCOPE_LAYER, NULL, false, prepare_fisher},
    {"snip", WITH_DATA, SCOPE_GLOBAL, NULL, false, prepare_snip},
    {"wanda", WITH_DATA, SCOPE_ROW, NULL, false, prepare_wanda},
    {"obs", WITH_DATA, SCOPE_GLOBAL, NULL, true, prepare_obs},
};
const char *const weights_criteria_names[] = {"magnitude", "l1_normalised", "random", "lamp", "gradient", "taylor",
                                              "fisher",    "snip",          "wanda",  "obs",  NULL};
_Static_assert(sizeof weights_criteria_names / sizeof *weights_criteria_names == sizeof criteria / sizeof *criteria + 1,
               "a name for each criterion");

const struct weights_criterion *weights_criterion(int index)
{
    return &criteria[index];
}
