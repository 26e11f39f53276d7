/* SPDX-License-Identifier: Apache-2.0
 * layers.c - prune.layers: whole residual blocks and transformer layers go, the ones the model misses least.
 *
 * A residual network is a sum of branches (Veit et al., NeurIPS 2016): with y = x in place of y = x + f(x) it still works, and
 * how much f mattered is measured, not guessed: the model runs without it and its output is held against the original's
 * (core/stats/reference.h). The cheapest goes, what is left is measured anew, because branches that do the same job are each
 * dispensable as long as the other is there. What is measured on and what max_drop is judged on are different samples. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/data/split.h"
#include "core/model/parameters.h"
#include "core/prune/recover.h"
#include "core/prune/residual.h"
#include "core/stats/reference.h"
#include "core/step/method.h"

enum figure { FIGURE_NONE, FIGURE_MACS, FIGURE_PARAMS };

struct prune_layers_params {
    int64_t count, samples, validation_samples;
    double ratio, max_drop, budget_s;
    bool has_count, has_ratio, has_max_drop, remeasure;
    int recover;
    const char *target;
    struct globs include, exclude;
};
#define P(f) PARAM(prune_layers_params, f)

static const struct param params[] = {
    {P(count), .kind = PARAM_INT, .min = 1, .max = 100000, .given = PARAM_GIVEN(prune_layers_params, has_count),
     .doc = "how many branches go"},
    {P(ratio), .kind = PARAM_NUMBER, .min = 0, .max = 1, .above_min = true,
     .given = PARAM_GIVEN(prune_layers_params, has_ratio),
     .doc = "the fraction of all residual branches that goes, rounded down"},
    {P(target), .kind = PARAM_STRING,
     .doc = "the fraction of a figure that may stay: \"macs:0.7\", \"params:0.7\"; branches go until it is met, those "
            "first that "
            "cost least for what they save"},
    {P(max_drop), .kind = PARAM_NUMBER, .min = 0, .max = 1, .given = PARAM_GIVEN(prune_layers_params, has_max_drop),
     .doc = "branches go only while this much is lost at most, as a fraction: of top-1 where the data has labels; else "
            "the share of "
            "samples whose largest score moves; of outputs that are no scores, noise over signal. Alone: as many as it "
            "allows"},
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "samples to measure contributions on, spread evenly over the dataset"},
    {P(validation_samples), .kind = PARAM_INT, .def = "1000", .min = 1, .max = 1000000,
     .doc = "samples to judge max_drop by, spread evenly over the validation data: val_dataset, else a tenth of the "
            "dataset (by "
            "class, seeded), which contributions are then not measured on"},
    {P(remeasure), .kind = PARAM_BOOL, .def = "true",
     .doc = "measure the branches that are left again after each one that went; false: one measurement decides all"},
    {P(budget_s), .kind = PARAM_NUMBER, .def = "0", .min = 0, .max = 1e6,
     .doc = "most seconds for measuring; then the contributions known so far decide. 0: no limit. With a limit the "
            "result may depend "
            "on the machine's speed"},
    {P(recover), .kind = PARAM_ENUM, .choices = recover_kinds, .def = "\"auto\"",
     .doc = "what repairs the layers behind those that went, without labels: see recover.bn_stats and "
            "recover.least_squares (auto). "
            "max_drop is judged after it"},
    {P(include), .kind = PARAM_GLOBS,
     .doc = "only branches of sums (Add, Sum, ...) whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no branches of sums whose name matches one of these patterns"},
    {0},
};

/* "macs:0.5" into its parts; false: it says something else. */
static bool parse_target(const char *text, enum figure *figure, double *kept)
{
    char *end;
    *figure = !strncmp(text, "macs:", 5) ? FIGURE_MACS : !strncmp(text, "params:", 7) ? FIGURE_PARAMS : FIGURE_NONE;
    if (*figure == FIGURE_NONE)
        return false;
    const char *number = strchr(text, ':') + 1;
    *kept = strtod(number, &end);
    return end != number && *end == 0 && *kept > 0 && *kept < 1;
}

static void check(const void *p, const char *pointer, struct faults *faults)
{
    const struct prune_layers_params *o = p;
    const int wants = o->has_count + o->has_ratio + (o->target != NULL);
    enum figure figure;
    double kept;
    char at[200];
    snprintf(at, sizeof at, "%.180s/target", pointer);
    if (wants > 1 || (wants == 0 && !o->has_max_drop))
        faults_add(faults, pointer,
                   "prune.layers needs one of count, ratio and target (or max_drop, alone or beside one of them); %d "
                   "are given",
                   wants);
    if (o->target && !parse_target(o->target, &figure, &kept))
        faults_add(faults, at,
                   "target '%.60s' is not \"macs:\" or \"params:\" and a fraction between 0 and 1, like \"macs:0.7\"",
                   o->target);
}

/* What is known of a branch, from the first time it was seen. Its join and its value are its name: a Sum has several. */
struct branch {
    uint32_t join, value;
    char label[200];
    int nodes, products;
    int64_t params, macs; /* that go with it; macs -1: not known */
    bool projected, measured;
    struct closeness first, last; /* without it: of the model as it came, and of what it became */
    const char *skipped;
    int order;   /* it went as the n-th; 0: it stays */
    int with;    /* it went with the n-th, which it lies in */
    double drop; /* NAN: not judged */
    bool seen;   /* in this round */
};
struct run {
    struct step_ctx *c;
    const struct prune_layers_params *p;
    struct model *original;
    struct reference *probe, *judge;
    int64_t *macs; /* of the original, by node; -1: not known */
    int64_t params_before, macs_before, params_now, macs_now;
    struct branch *at;
    int n, cap, gone, candidates;
    double started;
    bool out_of_budget, limited; /* limited: max_drop forbade more */
    double refused_drop;
};

/* ---- figures ---- */
/* Multiply-accumulates of every node at batch 1, other unknown sizes 8. */
static int count_macs(struct run *r, struct err *err)
{
    const struct model *m = r->original;
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = r->c->pool}, err);
    const int inputs = plan ? plan_n_inputs(plan) : 0;
    struct shape *in = calloc((size_t)inputs + 1, sizeof *in);
    const struct type *types;
    int rc = -1;
    r->macs = calloc(m->n_nodes + (size_t)1, sizeof *r->macs);
    if (!plan)
        goto out;
    if (!in || !r->macs) {
        err_set(err, ERR_NOMEM, "out of memory while counting");
        goto out;
    }
    for (int i = 0; i < inputs; i++)
        plan_input_shape(plan, i, 1, 8, &in[i]);
    const bool known = plan_infer(plan, in, &types, NULL) == 0;
    r->macs_before = known ? plan_macs(plan, NODE_NONE) : -1;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        r->macs[id] = known && m->nodes[id].op_type ? plan_macs(plan, id) : -1;
    rc = 0;
out:
    free(in);
    plan_free(plan);
    return rc;
}

static int64_t span_macs(const struct run *r, const struct residual_span *s)
{
    int64_t sum = 0;
    if (r->macs_before < 0)
        return -1;
    for (int i = 0; i < s->n_nodes; i++)
        if (s->nodes[i] < r->original->n_nodes && r->macs[s->nodes[i]] > 0)
            sum += r->macs[s->nodes[i]];
    return sum;
}

static double loss_of(const struct closeness *c)
{
    return c->classes ? c->kl : c->noise;
}

/* As quantize.auto's: see the parameter's text. */
static double drop_of(const struct run *r, const struct closeness *c)
{
    if (!c->classes)
        return c->noise;
    return isnan(c->top1) ? c->disagreement : reference_own(r->judge)->top1 - c->top1;
}

/* ---- branches ---- */
static const char *why_not(const struct run *r, const struct residual_span *s, const char *label)
{
    if (s->skipped)
        return s->skipped;
    return globs_select(&r->p->include, &r->p->exclude, label) ? NULL : "not selected by include and exclude";
}

static struct branch *branch_of(struct run *r, const struct residual_span *s, struct err *err)
{
    const struct model *m = r->c->model;
    const uint32_t value = m->nodes[s->join].input[s->drop];
    for (int i = 0; i < r->n; i++)
        if (r->at[i].join == s->join && r->at[i].value == value) {
            r->at[i].skipped = why_not(r, s, r->at[i].label);
            return &r->at[i];
        }
    if (r->n == r->cap) {
        const int cap = r->cap ? r->cap * 2 : 32;
        struct branch *grown = realloc(r->at, (size_t)cap * sizeof *grown);
        if (!grown) {
            err_set(err, ERR_NOMEM, "out of memory while listing residual branches");
            return NULL;
        }
        r->at = grown;
        r->cap = cap;
    }
    struct branch *b = &r->at[r->n++];
    *b = (struct branch){.join = s->join,
                         .value = value,
                         .nodes = s->n_nodes,
                         .products = s->n_products,
                         .macs = span_macs(r, s),
                         .projected = s->projected,
                         .drop = NAN};
    char text[sizeof b->label];
    snprintf(b->label, sizeof b->label, "%s", node_label(r->original, s->join, text, sizeof text));
    b->skipped = why_not(r, s, b->label);
    return b;
}

static struct model *without(struct run *r, const struct residual_span *s, struct err *err)
{
    struct model *m = model_clone(r->c->model, err);
    if (m && residual_drop(m, s, err)) {
        model_free(m);
        return NULL;
    }
    return m;
}

static bool may_measure(struct run *r)
{
    if (!(r->p->budget_s > 0) || clock_seconds() - r->started < r->p->budget_s)
        return true;
    r->out_of_budget = true;
    return false;
}

static int measure(struct run *r, struct branch *b, const struct residual_span *s, struct err *err)
{
    struct model *m = without(r, s, err);
    const int rc = m ? reference_compare(r->probe, m, 0, &b->last, err) : -1;
    if (rc == 0 && !b->measured) {
        b->first = b->last;
        b->params = r->params_now - model_params(m);
    }
    b->measured = b->measured || rc == 0;
    model_free(m);
    if (rc)
        err_wrap(err, "without the branch of '%.200s': ", b->label);
    return rc;
}

/* What the branch costs to lose: for a target, a unit of what it saves. */
static double price_of(const struct run *r, const struct branch *b, enum figure figure)
{
    const double loss = loss_of(&b->last);
    if (figure == FIGURE_NONE)
        return loss;
    const int64_t saved = figure == FIGURE_MACS ? b->macs : b->params,
                  all = figure == FIGURE_MACS ? r->macs_before : r->params_before;
    return saved > 0 && all > 0 ? (loss + 1e-12) * (double)all / (double)saved : INFINITY;
}

/* Branches of the model as it is now, the candidates among them measured. *best: the span that goes next, -1: none is left. */
static int look(struct run *r, const struct residuals *found, enum figure figure, int *best, struct err *err)
{
    double least = INFINITY;
    *best = -1;
    for (int i = 0; i < found->n; i++) {
        const struct residual_span *s = &found->at[i];
        struct branch *b = branch_of(r, s, err);
        if (!b)
            return -1;
        if (b->skipped || b->order)
            continue;
        if (r->c->progress && r->c->progress(r->c, "measure branches", i, found->n, err))
            return -1;
        if ((!b->measured || r->p->remeasure) && may_measure(r) && measure(r, b, s, err))
            return -1;
        const double price = b->measured ? price_of(r, b, figure) : INFINITY;
        if (b->measured && (*best < 0 || price < least)) {
            *best = i;
            least = price;
        }
    }
    return 0;
}

/* ---- taking out ---- */
static bool enough(const struct run *r, enum figure figure, double kept)
{
    if (r->p->has_count)
        return r->gone >= r->p->count;
    if (r->p->has_ratio)
        return r->gone >= (int64_t)floor(r->p->ratio * r->candidates + 1e-9);
    if (figure == FIGURE_MACS)
        return (double)r->macs_now <= kept * (double)r->macs_before;
    if (figure == FIGURE_PARAMS)
        return (double)r->params_now <= kept * (double)r->params_before;
    return false;
}

static int progress_of(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "evaluate", done, total, err) : 0;
}

/* loud: what was repaired goes to the report. */
static int repair(const struct run *r, struct model *m, bool loud, struct err *err)
{
    const struct recover_opts o = {.original = r->original,
                                   .data = r->c->data,
                                   .val_data = r->c->val_data,
                                   .pool = r->c->pool,
                                   .seed = r->c->seed,
                                   .layers = loud ? r->c->layers : NULL,
                                   .warnings = loud ? r->c->warnings : NULL,
                                   .progress = progress_of,
                                   .progress_arg = r->c};
    return recover_run((enum recover_kind)r->p->recover, m, &o, err);
}

/* 1: max_drop forbids it; the branch then stays. */
static int judge(struct run *r, struct branch *b, const struct residual_span *s, struct err *err)
{
    struct closeness c;
    if (!r->judge)
        return 0;
    struct model *m = without(r, s, err);
    const int rc = m && !repair(r, m, false, err) ? reference_compare(r->judge, m, 0, &c, err) : -1;
    model_free(m);
    if (rc)
        return -1;
    b->drop = drop_of(r, &c);
    return b->drop > r->p->max_drop + 1e-12;
}

static int take_out(struct run *r, struct branch *b, const struct residual_span *s, struct err *err)
{
    const int64_t macs = span_macs(r, s);
    if (residual_drop(r->c->model, s, err))
        return -1;
    b->order = ++r->gone;
    if (r->macs_now >= 0)
        r->macs_now -= macs;
    r->params_now = model_params(r->c->model);
    for (int i = 0; i < r->n; i++)
        if (!r->at[i].order && !r->at[i].with && !r->c->model->nodes[r->at[i].join].op_type)
            r->at[i].with = r->gone;
    return 0;
}

static int search(struct run *r, struct err *err)
{
    enum figure figure = FIGURE_NONE;
    double kept = 0;
    struct residuals found = {0};
    int best, rc = -1;
    if (r->p->target)
        parse_target(r->p->target, &figure, &kept);
    if (figure == FIGURE_MACS && r->macs_before <= 0)
        return err_set(err, ERR_MODEL,
                       "the model's multiply-accumulates are not known, so that target '%.60s' cannot be met; use "
                       "params:, count or ratio",
                       r->p->target);
    for (;;) {
        residuals_fini(&found);
        if (residuals_find(&found, r->c->model, err) || look(r, &found, figure, &best, err))
            goto out;
        for (int i = 0; r->gone == 0 && i < r->n; i++)
            r->candidates += !r->at[i].skipped;
        if (enough(r, figure, kept) || best < 0)
            break;
        struct branch *b = branch_of(r, &found.at[best], err);
        const int refused = b ? judge(r, b, &found.at[best], err) : -1;
        if (refused < 0)
            goto out;
        if (refused) {
            r->limited = true;
            r->refused_drop = b->drop;
            break;
        }
        if (take_out(r, b, &found.at[best], err))
            goto out;
        if (enough(r, figure, kept))
            break;
    }
    rc = 0;
    const bool wants = r->p->has_count || r->p->has_ratio || r->p->target;
    if (wants && !enough(r, figure, kept) && !r->limited && r->candidates > 0)
        warnings_add(r->c->warnings,
                     "prune.layers took out all %d branches it may, and what was asked for is not reached", r->gone);
    if (wants && r->limited)
        warnings_add(
            r->c->warnings,
            "prune.layers stopped after %d branches: the next, the cheapest, loses %.4g, more than max_drop %g",
            r->gone, r->refused_drop, r->p->max_drop);
out:
    residuals_fini(&found);
    return rc;
}

/* ---- the report ---- */
static void put_figures(json_t *o, const struct closeness *c)
{
    if (c->classes) {
        json_object_set_new(o, "kl", json_real(c->kl));
        json_object_set_new(o, "disagreement", json_real(c->disagreement));
    }
    if (!isnan(c->top1) && c->classes)
        json_object_set_new(o, "top1", json_real(c->top1));
    if (isfinite(c->noise))
        json_object_set_new(o, "noise", json_real(c->noise));
}

static void report_branch(const struct run *r, const struct branch *b)
{
    struct layer_row row = {.node = b->join, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = b->skipped};
    if (b->join >= r->original->n_nodes || !r->original->nodes[b->join].op_type) {
        row.node = NODE_NONE;
        row.label = b->label;
    }
    row.before = json_pack("{s:i,s:i}", "nodes", b->nodes, "products", b->products);
    if (row.before && b->macs >= 0)
        json_object_set_new(row.before, "macs", json_integer(b->macs));
    if (row.before && b->measured)
        json_object_set_new(row.before, "params", json_integer(b->params));
    if (!b->skipped) {
        row.after = json_pack("{s:s}", "decision", b->order || b->with ? "removed" : "kept");
        json_t *alone = json_object(), *last = json_object();
        if (b->measured) {
            put_figures(alone, &b->first);
            put_figures(last, &b->last);
        }
        if (b->order)
            json_object_set_new(row.after, "order", json_integer(b->order));
        if (b->with)
            json_object_set_new(row.after, "went_with", json_integer(b->with));
        if (!b->measured)
            json_object_set_new(row.after, "measured", json_false());
        else
            json_object_set(row.after, "contribution", alone);
        if (b->measured && r->gone > 0 && !json_equal(alone, last))
            json_object_set(row.after, "contribution_then", last);
        if (!isnan(b->drop))
            json_object_set_new(row.after, "drop", json_real(b->drop));
        json_decref(alone);
        json_decref(last);
    }
    layer_report_add(r->c->layers, r->original, &row);
}

/* A target of its own counts with the recipe's. */
static void report_target(const struct run *r)
{
    enum figure figure = FIGURE_NONE;
    double wanted = 0;
    char label[80];
    if (!r->p->target || !r->c->targets || !parse_target(r->p->target, &figure, &wanted))
        return;
    const double got = figure == FIGURE_MACS ? (double)r->macs_now / (double)r->macs_before
                                             : (double)r->params_now / (double)r->params_before;
    snprintf(label, sizeof label, "prune.layers %s", figure == FIGURE_MACS ? "macs" : "params");
    json_array_append_new(r->c->targets, json_pack("{s:s, s:f, s:f, s:b}", "target", label, "wanted", wanted, "got",
                                                   got, "met", enough(r, figure, wanted)));
}

static void report(const struct run *r)
{
    int missing = 0;
    report_target(r);
    for (int i = 0; i < r->n; i++) {
        report_branch(r, &r->at[i]);
        missing += !r->at[i].skipped && !r->at[i].measured;
    }
    if (r->out_of_budget)
        warnings_add(r->c->warnings,
                     "prune.layers measured until budget_s %g was spent: %d branches were not measured and stay, "
                     "others go by what was "
                     "measured before",
                     r->p->budget_s, missing);
    if (r->judge && reference_own(r->judge)->classes && r->p->max_drop > 0 &&
        (double)reference_samples(r->judge) * r->p->max_drop < 1)
        warnings_add(
            r->c->warnings,
            "prune.layers judged by %lld samples, which cannot tell a drop of %g from none; give a larger val_dataset",
            (long long)reference_samples(r->judge), r->p->max_drop);
    if (r->candidates == 0)
        warnings_add(r->c->warnings, "prune.layers: none of the %d residual branches may go; their rows say why", r->n);
    else if (r->gone == 0)
        warnings_add(r->c->warnings, "prune.layers left every branch in");
}

/* ---- the step ---- */
static struct reference *refer(struct run *r, struct dataset *data, const int64_t *from, int64_t n, int64_t wanted,
                               struct err *err)
{
    int64_t *index = calloc((size_t)n + 1, sizeof *index);
    struct reference *reference = NULL;
    if (!index) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    for (int64_t i = 0; i < n; i++)
        index[i] = from ? from[i] : i;
    n = split_spread(index, n, wanted, index);
    if (n < 1)
        err_set(err, ERR_DATASET, "the dataset is empty: prune.layers needs samples");
    else
        reference = reference_new(r->original,
                                  &(struct reference_opts){.data = data,
                                                           .index = index,
                                                           .n = n,
                                                           .pool = r->c->pool,
                                                           .progress = progress_of,
                                                           .progress_arg = r->c},
                                  err);
    free(index);
    if (reference && !(reference_own(reference)->noise <= 0)) {
        err_set(err, ERR_NON_FINITE,
                "the model's own outputs on the samples are not all finite numbers, so that nothing can be "
                "measured against them");
        reference_free(reference);
        return NULL;
    }
    return reference;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct run r = {.c = c, .p = c->params};
    struct split split = {0};
    int rc = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE,
                       "prune.layers needs a dataset: what a branch contributes is measured, not guessed");
    const bool held = r.p->has_max_drop && !c->val_data;
    if (!(r.original = model_clone(c->model, err)) || count_macs(&r, err) ||
        (held && split_dataset(&split, c->data, SPLIT_HELD_OUT, c->seed, err)))
        goto out;
    r.macs_now = r.macs_before;
    r.params_before = r.params_now = model_params(c->model);
    r.probe =
        refer(&r, c->data, held ? split.rest : NULL, held ? split.n_rest : dataset_count(c->data), r.p->samples, err);
    if (!r.probe)
        goto out;
    if (r.p->has_max_drop) {
        struct dataset *data = held ? c->data : c->val_data;
        r.judge = refer(&r, data, held ? split.held : NULL, held ? split.n_held : dataset_count(data),
                        r.p->validation_samples, err);
        if (!r.judge)
            goto out;
    }
    r.started = clock_seconds();
    rc = search(&r, err);
    if (rc == 0 && r.n == 0)
        rc = err_set(err, ERR_MODEL,
                     "the model has no residual branch that could go: no sum (Add, Sum, SkipLayerNormalization) of a "
                     "value and of something computed from it with a product in between");
    if (rc == 0 && r.gone > 0)
        rc = repair(&r, c->model, true, err);
    if (rc == 0)
        report(&r);
out:
    reference_free(r.probe);
    reference_free(r.judge);
    split_fini(&split);
    free(r.macs);
    free(r.at);
    model_free(r.original);
    return rc;
}

METHOD(prune_layers) = {
    .name = "prune.layers",
    .summary = "leave out whole residual blocks and transformer layers, the ones the model misses least",
    .doc = "Finds the sums y = x + f(x) of the main graph, measures on samples how the outputs change when f is left "
           "out, and takes out "
           "the cheapest, one after the other, until count, ratio or target is reached, or as many as max_drop allows. "
           "A transformer "
           "layer is two branches: attention and feed-forward. The report has every branch with its contribution.",
    .params = params,
    .params_size = sizeof(struct prune_layers_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .check = check,
    .run = run,
};
