/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.c - analyse.sensitivity: which channels a model can do without, as curves (sensitivity.h), and ratios for a
 * target. Nothing is changed: the groups are found and cut on clones. Ratios are given as prune.channels takes them, by the
 * names of groups, in which what a pattern would read as a wildcard is escaped. */
#include "core/prune/sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/prune/recover.h"
#include "core/prune/score.h"

enum { MAX_RATIOS = 20 };

struct analyse_sensitivity_params {
    struct numbers ratios;
    int criterion, reduction, recover;
    int64_t samples, score_samples;
    double budget_s;
    const char *target;
    struct globs include, exclude;
};
#define P(f) PARAM(analyse_sensitivity_params, f)

static const struct param params[] = {
    {P(ratios), .kind = PARAM_NUMBERS, .def = "[0.1, 0.3, 0.5, 0.7, 0.9]", .min = 0, .max = 1, .above_min = true,
     .below_max = true, .doc = "fractions of a group's channels to measure, ascending, at most 20"},
    {P(criterion), .kind = PARAM_ENUM, .choices = score_criteria, .def = "\"l2\"",
     .doc = "which channels of a group go first, as in prune.channels"},
    {P(reduction), .kind = PARAM_ENUM, .choices = score_reductions, .def = "\"mean\"",
     .doc = "how the scores of all that goes with a channel become one"},
    {P(samples), .kind = PARAM_INT, .def = "256", .min = 1, .max = 1000000,
     .doc = "samples to measure on, spread evenly over val_dataset, or the dataset if there is none"},
    {P(score_samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "samples of the dataset for criteria that look at data, and for recover"},
    {P(recover), .kind = PARAM_ENUM, .choices = recover_kinds, .def = "\"none\"",
     .doc = "repair every pruned copy before it is measured, as prune.channels would: what then is lost is what "
            "recovery cannot bring back, "
            "at the price of a repair for every point; auto: least_squares"},
    {P(target), .kind = PARAM_STRING,
     .doc = "\"macs:0.5\", \"params:0.5\", \"bytes:0.5\", \"channels:0.5\": the fraction that may stay; the report "
            "then has the ratios "
            "that should lose least, to be given to prune.channels as `ratios`"},
    {P(budget_s), .kind = PARAM_NUMBER, .def = "0", .min = 0, .max = 1e6,
     .doc = "most seconds for measuring; what was not measured by then is said. 0: no limit"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only groups whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no groups whose name matches one of these patterns"},
    {0},
};

/* "macs:0.5" into its parts; false: it says something else. */
static bool parse_target(const char *text, struct sensitivity_target *target)
{
    static const char *const figures[] = {[SENSITIVITY_MACS] = "macs",
                                          [SENSITIVITY_PARAMS] = "params",
                                          [SENSITIVITY_BYTES] = "bytes",
                                          [SENSITIVITY_CHANNELS] = "channels"};
    const char *colon = strchr(text, ':');
    char *end;
    for (size_t i = 0; colon && i < sizeof figures / sizeof *figures; i++) {
        if (strlen(figures[i]) != (size_t)(colon - text) || strncmp(text, figures[i], (size_t)(colon - text)))
            continue;
        target->figure = (enum sensitivity_figure)i;
        target->kept = strtod(colon + 1, &end);
        return end != colon + 1 && *end == 0 && target->kept > 0 && target->kept < 1;
    }
    return false;
}

static void check(const void *p, const char *pointer, struct faults *faults)
{
    const struct analyse_sensitivity_params *o = p;
    struct sensitivity_target target;
    char at[200];
    snprintf(at, sizeof at, "%.180s/ratios", pointer);
    if (o->ratios.count < 1 || o->ratios.count > MAX_RATIOS)
        faults_add(faults, at, "ratios has %d numbers; give 1 to %d", o->ratios.count, MAX_RATIOS);
    for (int i = 1; i < o->ratios.count; i++)
        if (!(o->ratios.at[i] > o->ratios.at[i - 1])) {
            faults_add(faults, at, "ratios must ascend, but %g follows %g", o->ratios.at[i], o->ratios.at[i - 1]);
            break;
        }
    snprintf(at, sizeof at, "%.180s/target", pointer);
    if (o->target && !parse_target(o->target, &target))
        faults_add(
            faults, at,
            "target '%.60s' is not macs, params, bytes or channels with a fraction between 0 and 1, like \"macs:0.5\"",
            o->target);
}

struct run {
    struct step_ctx *c;
    const struct analyse_sensitivity_params *p;
    struct model *model; /* a prepared copy */
    struct groups *groups;
    double **score;
    bool *selected;
    struct reference *reference;
    struct sensitivity *s;
};

static int progress_of(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "measure groups", done, total, err) : 0;
}

static int prepare(struct run *r, struct err *err)
{
    struct step_ctx *c = r->c;
    if (!(r->model = model_clone(c->model, err)) || groups_prepare(r->model, c->warnings, err) ||
        !(r->groups = groups_find(r->model, GROUPS_INNER, err)))
        return -1;
    if (!(r->selected = calloc((size_t)r->groups->n + 1, sizeof *r->selected)))
        return err_set(err, ERR_NOMEM, "out of memory");
    int prunable = 0;
    for (int i = 0; i < r->groups->n; i++) {
        r->selected[i] = globs_select(&r->p->include, &r->p->exclude, r->groups->at[i].name);
        prunable += r->groups->at[i].n > 1;
    }
    if (prunable == 0)
        return err_set(err, ERR_MODEL, "the model has no channels that could be removed: %s",
                       r->groups->n > 0 && r->groups->at[0].frozen ? r->groups->at[0].frozen
                                                                   : "no product with a constant weight");
    return 0;
}

static int score(struct run *r, struct err *err)
{
    struct step_ctx *c = r->c;
    const struct score_opts o = {.criterion = r->p->criterion,
                                 .reduction = (enum score_reduction)r->p->reduction,
                                 .normalizer = SCORE_NORM_NONE,
                                 .model = r->model,
                                 .data = c->data,
                                 .samples = r->p->score_samples,
                                 .pool = c->pool,
                                 .seed = c->seed,
                                 .warnings = c->warnings,
                                 .progress = progress_of,
                                 .progress_arg = c};
    r->score = score_groups(r->groups, &o, err);
    return r->score ? 0 : -1;
}

static int refer(struct run *r, struct err *err)
{
    struct dataset *data = r->c->val_data ? r->c->val_data : r->c->data;
    int64_t *index = NULL;
    const int64_t n = dataset_spread(data, r->p->samples, &index, err);
    if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: analyse.sensitivity needs samples");
    if (n > 0)
        r->reference = reference_new(
            r->model, &(struct reference_opts){.data = data, .index = index, .n = n, .pool = r->c->pool}, err);
    free(index);
    if (!r->reference)
        return -1;
    if (!(reference_own(r->reference)->noise <= 0))
        return err_set(err, ERR_NON_FINITE,
                       "the model's own outputs on the samples are not all finite numbers, so that nothing can be "
                       "measured against them");
    return 0;
}

static int repair(void *arg, struct model *cut, struct err *err)
{
    const struct run *r = arg;
    const struct recover_opts o = {.original = r->model,
                                   .data = r->c->data,
                                   .val_data = r->c->val_data,
                                   .samples = r->p->score_samples,
                                   .pool = r->c->pool,
                                   .seed = r->c->seed};
    return recover_run((enum recover_kind)r->p->recover, cut, &o, err);
}

/* ---- the report ---- */
static json_t *point_json(const struct sensitivity_point *p)
{
    json_t *o = json_pack("{s:f, s:I}", "ratio", p->ratio, "kept", (json_int_t)p->kept);
    if (!o || !p->measured)
        return o;
    if (p->c.classes) {
        if (!isnan(p->c.top1))
            json_object_set_new(o, "top1", json_real(p->c.top1));
        json_object_set_new(o, "kl", json_real(p->c.kl));
        json_object_set_new(o, "disagreement", json_real(p->c.disagreement));
    }
    if (isfinite(p->c.noise))
        json_object_set_new(o, "noise", json_real(p->c.noise));
    return o;
}

static void report_group(const struct run *r, int i, double ratio)
{
    const struct group *g = &r->groups->at[i];
    const struct sensitivity_curve *c = &r->s->at[i];
    struct layer_row row = {
        .node = g->node, .label = g->name, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = c->skipped};
    row.before = json_pack("{s:I}", "channels", (json_int_t)(g->n ? g->n : g->n_members ? g->member[0].size : 0));
    if (!c->skipped) {
        json_t *curve = json_array();
        for (int k = 0; k < c->n; k++)
            json_array_append_new(curve, point_json(&c->at[k]));
        row.after = json_pack("{s:o}", "curve", curve);
        if (row.after && g->frozen)
            json_object_set_new(row.after, "partly_frozen", utf8_json(g->frozen));
        if (row.after && g->approximate)
            json_object_set_new(row.after, "approximate", utf8_json(g->approximate));
        if (row.after && !isnan(ratio))
            json_object_set_new(row.after, "recommended", json_real(ratio));
    }
    layer_report_add(r->c->layers, r->model, &row);
}

/* A name as a pattern that matches it only. The result is the caller's. */
static char *literal(const char *name)
{
    char *out = malloc(2 * strlen(name) + 1), *to = out;
    for (; out && *name; name++) {
        if (strchr("*?[]\\", *name))
            *to++ = '\\';
        *to++ = *name;
    }
    if (out)
        *to = 0;
    return out;
}

/* {"group": ratio, ...}: the parameter `ratios` of prune.channels. Of groups of one name, which it cannot tell apart, the
 * smallest ratio. */
static json_t *ratios_json(const struct run *r, const double *ratio)
{
    json_t *all = json_object();
    for (int i = 0; all && i < r->groups->n; i++) {
        if (r->s->at[i].n == 0)
            continue;
        char *key = literal(r->groups->at[i].name);
        const json_t *old = key ? json_object_get(all, key) : NULL;
        const bool smaller = !old || ratio[i] < json_number_value(old);
        if (key && smaller && json_object_set_new(all, key, json_real(ratio[i])))
            warnings_add(r->c->warnings,
                         "analyse.sensitivity: group %d has a name that is not UTF-8 and is not among the ratios", i);
        free(key);
    }
    return all;
}

static int report_plan(struct run *r, double *ratio, struct err *err)
{
    struct sensitivity_target target = {.selected = r->selected};
    struct sensitivity_plan plan;
    parse_target(r->p->target, &target);
    if (sensitivity_allocate(r->s, &target, ratio, &plan, err))
        return -1;
    struct layer_row row = {.node = NODE_NONE, .label = "all groups", .weight = VALUE_NONE, .sqnr_db = NAN};
    row.before = json_pack("{s:s}", "target", r->p->target);
    row.after = json_pack("{s:f, s:b, s:f, s:o}", "left", plan.kept, "met", plan.met, "predicted_loss", plan.predicted,
                          "ratios", ratios_json(r, ratio));
    layer_report_add(r->c->layers, r->model, &row);
    if (!plan.met)
        warnings_add(
            r->c->warnings,
            "analyse.sensitivity: target %.60s cannot be met by the ratios measured: %.3f is left with every group "
            "at the largest of them",
            r->p->target, plan.kept);
    return 0;
}

static int report(struct run *r, struct err *err)
{
    double *ratio = calloc((size_t)r->groups->n + 1, sizeof *ratio);
    const struct closeness *own = reference_own(r->reference);
    int rc = ratio ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    struct layer_row row = {.node = NODE_NONE, .label = "the model as it is", .weight = VALUE_NONE, .sqnr_db = NAN};
    row.before = json_pack("{s:I}", "samples", (json_int_t)reference_samples(r->reference));
    row.after = json_pack("{s:s}", "criterion", score_criteria[r->p->criterion]);
    if (row.after && own->classes && !isnan(own->top1))
        json_object_set_new(row.after, "top1", json_real(own->top1));
    layer_report_add(r->c->layers, r->model, &row);
    if (rc == 0 && r->p->target)
        rc = report_plan(r, ratio, err);
    for (int i = 0; rc == 0 && i < r->groups->n; i++)
        report_group(r, i, r->p->target ? ratio[i] : NAN);
    if (r->s->missing > 0)
        warnings_add(r->c->warnings,
                     "analyse.sensitivity: %lld points were not measured, because budget_s %g was spent",
                     (long long)r->s->missing, r->p->budget_s);
    free(ratio);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct run r = {.c = c, .p = c->params};
    int rc = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "analyse.sensitivity needs a dataset to measure on");
    if (prepare(&r, err) || score(&r, err) || refer(&r, err))
        goto out;
    r.s = sensitivity_measure(&(struct sensitivity_opts){.model = r.model,
                                                         .groups = r.groups,
                                                         .score = r.score,
                                                         .ratios = r.p->ratios.at,
                                                         .n_ratios = r.p->ratios.count,
                                                         .selected = r.selected,
                                                         .reference = r.reference,
                                                         .budget_s = r.p->budget_s,
                                                         .repair = r.p->recover == RECOVER_NONE ? NULL : repair,
                                                         .repair_arg = &r,
                                                         .progress = progress_of,
                                                         .progress_arg = c},
                              err);
    if (r.s)
        rc = report(&r, err);
out:
    sensitivity_free(r.s);
    reference_free(r.reference);
    if (r.score)
        score_free(r.score, r.groups->n);
    free(r.selected);
    groups_free(r.groups);
    model_free(r.model);
    return rc;
}

METHOD(analyse_sensitivity) = {
    .name = "analyse.sensitivity",
    .summary = "how much the model suffers when each group of channels is pruned alone",
    .doc = "For every dependency group and a few ratios: the group alone loses its least important channels, and the "
           "outputs are held against "
           "the original's: top-1 where there are labels, Kullback-Leibler divergence and disagreement of the scores, "
           "noise. With target "
           "also the ratios for each group that reach it where it hurts least. The model stays as it is.",
    .params = params,
    .params_size = sizeof(struct analyse_sensitivity_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .check = check,
    .run = run,
};
