/* SPDX-License-Identifier: Apache-2.0
 * smooth.c - quantize.smooth (smooth.h). Where factors can go is channel_scale.c's business: the same regions that
 * cross-layer equalization uses, and those that begin at a normalisation, also one written as Mul and Add.
 *
 * search. The error that counts is that of the quantized model's outputs, and it is cheap to have: smooth, quantize a
 * clone, run the samples held back. First one alpha for all, then region by region. A change must lower the noise by
 * 1 % to be kept, so that ties stay as the model was. */
#include "core/quant/smooth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/raise_opset.h"
#include "core/quant/quantized.h"
#include "core/stats/evaluate.h"

static const double grid[] = {0.5, 0.75, 0.9, 0.25};
enum { GRID = sizeof grid / sizeof grid[0] };
static const double gain_needed = 0.01, smallest_factor = 1.0 / 4096;

/* ---- largest |x| per channel ---- */
struct watch {
    struct smoothing *s;
    const bool *wanted; /* by value */
};

static int observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    const struct watch *w = arg;
    struct channel_scale *cs = &w->s->scale;
    (void)err;
    if (value >= cs->n_values || !w->wanted[value] || t->dtype != DTYPE_FLOAT || t->shape.rank <= cs->axis[value] ||
        t->shape.dim[cs->axis[value]] != cs->channels[value])
        return 0;
    const int64_t channels = cs->channels[value];
    int64_t inner = 1;
    for (int i = cs->axis[value] + 1; i < t->shape.rank; i++)
        inner *= t->shape.dim[i];
    const float *x = tensor_f32(t);
    const int64_t outer = inner ? tensor_count(t) / channels / inner : 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t c = 0; c < channels; c++) {
            float *top = &w->s->largest[channel_scale_root(cs, cs->base[value] + c)];
            const float *at = x + (o * channels + c) * inner;
            for (int64_t k = 0; k < inner; k++) {
                const float a = fabsf(at[k]);
                if (a > *top && a <= 3.4e38f)
                    *top = a;
            }
        }
    return 0;
}

static int progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "measure", done, total, err) : 0;
}

static int measure(struct smoothing *s, struct step_ctx *ctx, const int64_t *index, int64_t n, struct err *err)
{
    struct channel_scale *cs = &s->scale;
    bool *wanted = calloc(cs->n_values ? cs->n_values : 1, sizeof *wanted);
    struct watch watch = {s, wanted};
    const struct plan_run_opts run = {.observe = observe, .observe_arg = &watch};
    const struct evaluate_opts opts = {.pool = ctx->pool, .index = index, .n_index = n, .run = &run,
                                       .progress = progress,
                                       .progress_arg = ctx};
    struct plan *plan = wanted ? plan_new(cs->m, &(struct plan_opts){.pool = ctx->pool}, err) : NULL;
    int64_t done = -1;
    for (int i = 0; wanted && i < cs->n_ends; i++)
        if (cs->ends[i].product && cs->ends[i].role == SCALE_READS)
            wanted[cs->ends[i].value] = true;
    if (plan)
        done = evaluate_each(plan, cs->m, ctx->data, &opts, NULL, NULL, err);
    else
        err_set(err, ERR_NOMEM, "out of memory while measuring");
    plan_free(plan);
    free(wanted);
    return done < 0 ? -1 : 0;
}

/* ---- factors ---- */
/* Of one region for its alpha; 1 where nothing is known. */
static void region_factors(struct smoothing *s, int region)
{
    const struct channel_scale *cs = &s->scale;
    double logs = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < cs->n; i++)
        s->makes[i] = s->reads[i] = 0;
    for (int i = 0; i < cs->n_ends; i++) /* this region's elements have the factor 1 until now */
        if (cs->ends[i].region == region)
            for (int64_t c = 0; c < cs->channels[cs->ends[i].value]; c++)
                s->factor[channel_scale_root(cs, cs->ends[i].base + c)] = 1;
    if (isnan(s->alpha[region]))
        return;
    channel_scale_ranges(cs, region, s->factor, s->makes, s->reads);
    for (int64_t i = 0; i < cs->n; i++) {
        if (!(s->reads[i] > 0) || !(s->largest[i] > 0) || !channel_scale_free(cs, i))
            continue;
        const double a = s->alpha[region];
        s->factor[i] = pow((double)s->largest[i], a) / pow(s->reads[i], 1 - a);
        logs += log(s->factor[i]);
        count++;
    }
    for (int64_t i = 0; i < cs->n && count; i++) /* geometric mean 1: the values stay the size they had */
        if (s->reads[i] > 0 && s->largest[i] > 0 && channel_scale_free(cs, i)) {
            double f = s->factor[i] / exp(logs / (double)count);
            s->factor[i] = f < smallest_factor ? smallest_factor : f > 1 / smallest_factor ? 1 / smallest_factor : f;
        }
}

/* A region is useful if a free element of it is made by a constant and read by a product. */
static bool find_useful(struct smoothing *s)
{
    const struct channel_scale *cs = &s->scale;
    unsigned char *seen = calloc(cs->n ? (size_t)cs->n : 1, 1), *region = calloc((size_t)cs->n_regions + 1, 1);
    s->useful = calloc((size_t)cs->n_regions + 1, sizeof *s->useful);
    bool ok = seen && region && s->useful;
    for (int pass = 0; ok && pass < 2; pass++)
        for (int i = 0; i < cs->n_ends; i++) {
            const struct scale_end *e = &cs->ends[i];
            if (pass ? !(e->product && e->role == SCALE_READS) : e->role != SCALE_MAKES)
                continue;
            for (int64_t c = 0; c < cs->channels[e->value]; c++) {
                const int64_t root = channel_scale_root(cs, e->base + c);
                if (pass == 0)
                    seen[root] = 1;
                else if (seen[root] && channel_scale_free(cs, root))
                    region[e->region] = 1;
            }
        }
    for (int r = 0; ok && r < cs->n_regions; r++)
        if (region[r])
            s->useful[s->n_useful++] = r;
    free(seen);
    free(region);
    return ok;
}

int smoothing_init(struct smoothing *s, struct step_ctx *ctx, struct model *m, const struct scale_opts *opts,
                   const int64_t *index, int64_t n, struct err *err)
{
    *s = (struct smoothing){0};
    if (channel_scale_init(&s->scale, m, opts, err))
        return -1;
    const size_t count = s->scale.n ? (size_t)s->scale.n : 1;
    s->largest = calloc(count, sizeof *s->largest);
    s->factor = calloc(count, sizeof *s->factor);
    s->makes = calloc(count, sizeof *s->makes);
    s->reads = calloc(count, sizeof *s->reads);
    s->alpha = calloc((size_t)s->scale.n_regions + 1, sizeof *s->alpha);
    if (!s->largest || !s->factor || !s->makes || !s->reads || !s->alpha || !find_useful(s))
        return err_set(err, ERR_NOMEM, "out of memory while smoothing");
    for (size_t i = 0; i < count; i++)
        s->factor[i] = 1;
    for (int r = 0; r < s->scale.n_regions; r++)
        s->alpha[r] = NAN;
    return s->n_useful ? measure(s, ctx, index, n, err) : 0;
}

void smoothing_fini(struct smoothing *s)
{
    channel_scale_fini(&s->scale);
    free(s->largest);
    free(s->factor);
    free(s->makes);
    free(s->reads);
    free(s->alpha);
    free(s->useful);
    *s = (struct smoothing){0};
}

/* ---- applying ---- */
static void report(const struct smoothing *s, struct layer_report *layers)
{
    const struct channel_scale *cs = &s->scale;
    for (int i = 0; i < cs->n_weights; i++) {
        const struct scale_weight *w = &cs->weights[i];
        const struct scale_end *e = w->reads >= 0 ? &cs->ends[w->reads] : NULL;
        struct layer_row row = {.node = w->node, .weight = cs->m->nodes[w->node].input[1], .sqnr_db = NAN};
        double low = INFINITY, high = 0;
        const char *blocked = NULL;
        for (int64_t c = 0; e && c < cs->channels[e->value]; c++) {
            const int64_t root = channel_scale_root(cs, e->base + c);
            low = fmin(low, s->factor[root]);
            high = fmax(high, s->factor[root]);
            blocked = blocked ? blocked : cs->blocked[root];
        }
        if (e && low < high) {
            row.after = json_pack("{s:[f,f]}", "input_factors", low, high);
            if (row.after && e->region >= 0 && !isnan(s->alpha[e->region]))
                json_object_set_new(row.after, "alpha", json_real(s->alpha[e->region]));
        } else
            row.skipped = blocked ? blocked
                          : !e    ? "nothing before it can take factors"
                          : isnan(s->alpha[e->region]) ? "smoothing its input does not lower the error"
                                                       : "nothing before it can take factors";
        layer_report_add(layers, cs->m, &row);
    }
    for (uint32_t id = 0; id < cs->n_nodes; id++)
        if (cs->why[id])
            layer_report_add(layers, cs->m, &(struct layer_row){.node = id, .weight = VALUE_NONE, .sqnr_db = NAN,
                                                                .skipped = cs->why[id]});
}

int smoothing_apply(struct smoothing *s, struct model *on, struct layer_report *layers, struct err *err)
{
    for (int k = 0; k < s->n_useful; k++)
        region_factors(s, s->useful[k]);
    if (layers)
        report(s, layers);
    if (!on || on == s->scale.m)
        return channel_scale_apply(&s->scale, s->factor, err);
    struct channel_scale clone = {0}; /* a clone has the same ids, so the same elements */
    int rc = channel_scale_init(&clone, on, &s->scale.opts, err);
    if (rc == 0 && clone.n != s->scale.n)
        rc = err_set(err, ERR_INTERNAL, "the model to smooth is not a clone of the one that was measured");
    if (rc == 0)
        rc = channel_scale_apply(&clone, s->factor, err);
    channel_scale_fini(&clone);
    return rc;
}

/* ---- choosing alpha ---- */
static int try_alphas(struct smoothing *s, struct trial *t, struct trial_score *score, struct err *err)
{
    struct model *m = model_clone(s->scale.m, err);
    int rc = m ? smoothing_apply(s, m, NULL, err) : -1;
    if (rc == 0)
        rc = trial_quantized(t, m, NULL, NULL, score, err);
    model_free(m);
    return rc;
}

int smoothing_search(struct smoothing *s, struct trial *t, double budget, struct trial_score *best, struct err *err)
{
    const double start = t->spent;
    double one = NAN;
    struct trial_score score;
    t->total = GRID + (int64_t)s->n_useful * GRID;
    t->done = 0;
    for (int g = 0; g < GRID && s->n_useful && (g == 0 || t->spent - start < budget); g++, t->done++) {
        for (int k = 0; k < s->n_useful; k++)
            s->alpha[s->useful[k]] = grid[g];
        if (try_alphas(s, t, &score, err))
            return -1;
        if (trial_better(&score, best, gain_needed)) {
            *best = score;
            one = grid[g];
        }
    }
    for (int k = 0; k < s->n_useful; k++)
        s->alpha[s->useful[k]] = one;
    for (int k = 0; k < s->n_useful; k++)
        for (int g = -1; g < GRID && t->spent - start < budget; g++, t->done++) {
            double *a = &s->alpha[s->useful[k]];
            const double old = *a, other = g < 0 ? NAN : grid[g];
            if (old == other || (isnan(old) && isnan(other)))
                continue;
            *a = other;
            if (try_alphas(s, t, &score, err))
                return -1;
            if (trial_better(&score, best, gain_needed))
                *best = score;
            else
                *a = old;
        }
    return 0;
}

/* ---- the step ---- */
struct smooth_params {
    double alpha;
    bool search;
    int64_t samples;
    struct globs include, exclude;
};

#define P(f) PARAM(smooth_params, f)
static const struct param params[] = {
    {P(alpha), .kind = PARAM_NUMBER, .def = "0.5", .min = 0, .max = 1,
     .doc = "how much of an input channel's range moves into the weights: 0: none, only the weights' ranges count; "
            "1: all"},
    {P(search), .kind = PARAM_BOOL, .def = "false",
     .doc = "choose alpha for each group of layers, also not to smooth it, by what quantize.static with its "
            "default parameters costs on samples held back"},
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "samples to measure activations on, spread evenly over the dataset"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static int search_auto(struct smoothing *s, struct step_ctx *c, struct err *err)
{
    struct quantize_static_params o;
    struct trial t = {0};
    struct trial_score best;
    int rc = trial_default_params(&o, err) || trial_init(&t, c, &o, c->model, TRIAL_SPLIT, err) ||
                     trial_quantized(&t, c->model, NULL, NULL, &best, err)
                 ? -1 : 0;
    if (rc == 0)
        rc = smoothing_search(s, &t, 1e12, &best, err);
    trial_fini(&t);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct smooth_params *p = c->params;
    const struct scale_opts opts = {.clip = SCALE_CLIP_KEEP, .include = &p->include, .exclude = &p->exclude};
    struct smoothing s = {0};
    int64_t *index = NULL;
    int rc = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.smooth needs a dataset to measure activations on");
    if (quantized_refuse(c->model, "quantize.smooth", err) || passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (p->search && raise_opset_for(c->model, 13, "DequantizeLinear with a scale per channel", c->warnings, err))
        return -1;
    const int64_t n = dataset_spread(c->data, p->samples, &index, err);
    if (n < 1) {
        err_set(err, ERR_DATASET, "the dataset is empty: smoothing needs at least one sample");
        goto out;
    }
    if (smoothing_init(&s, c, c->model, &opts, index, n, err))
        goto out;
    if (!s.n_useful)
        warnings_add(c->warnings, "quantize.smooth found no layer whose input channels can be scaled");
    for (int k = 0; k < s.n_useful; k++)
        s.alpha[s.useful[k]] = p->search ? NAN : p->alpha;
    if (p->search && s.n_useful && search_auto(&s, c, err))
        goto out;
    rc = smoothing_apply(&s, NULL, c->layers, err);
out:
    smoothing_fini(&s);
    free(index);
    return rc;
}

METHOD(quantize_smooth) = {
    .name = "quantize.smooth",
    .summary = "move the range of large activation channels into the weights (SmoothQuant)",
    .doc = "Input channels of a layer that are larger than others are divided by a factor that the weights are "
           "multiplied with; the division goes into the normalisation (also one written as Mul and Add), the "
           "multiplied vector or the layer before it. The model computes the same, but activations lose less when "
           "they are quantized with one scale. To be followed by quantize.static or quantize.dynamic. "
           "BatchNormalization and added constants are folded first.",
    .params = params,
    .params_size = sizeof(struct smooth_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
