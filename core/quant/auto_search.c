/* SPDX-License-Identifier: Apache-2.0
 * auto_search.c - the smallest set of layers to leave out of 8 bits such that the drop stays within max_drop.
 *
 * Sets are prefixes of the ranking first: none; then 1, 2, 4, ... until one passes; then halving between the last that did
 * not and the first that did. Of the set found, layers are put back one by one, the least sensitive first, as long as it
 * still passes: what remains is needed, each of it. Every candidate that passes with fewer layers than the best becomes the
 * best at once, so a budget may end at any point. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/quant/auto.h"

bool auto_may_evaluate(const struct auto_run *a)
{
    if (a->evaluations >= a->p->evaluations)
        return false;
    return !(a->p->budget_s > 0) || clock_seconds() - a->started < a->p->budget_s;
}

double auto_drop(const struct auto_run *a, const struct closeness *c)
{
    if (!c->classes)
        return c->noise;
    return isnan(c->top1) ? c->disagreement : reference_own(a->judge)->top1 - c->top1;
}

int auto_evaluate(struct auto_run *a, const bool *kept, struct reference *reference, struct closeness *out,
                  struct err *err)
{
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct model *m = layers && warnings ? model_clone(a->c->model, err) : NULL;
    int rc = -1;
    if (!layers || !warnings)
        err_set(err, ERR_NOMEM, "out of memory");
    memset(a->chosen, 0, a->c->model->n_nodes * sizeof *a->chosen);
    for (int i = 0; i < a->n_layers; i++)
        a->chosen[a->layers[i].node] = kept[i];
    struct static_choice choice = {0};
    *(a->p->fallback == AUTO_INT16 ? &choice.wide : &choice.keep_float) = a->chosen;
    a->evaluations++;
    if (m)
        rc = static_quantize(m, a->calibration, &a->p->s, &choice, layers, warnings, err) ||
                     reference_compare(reference, m, 0, out, err)
                 ? -1
                 : 0;
    model_free(m);
    layer_report_free(layers);
    warnings_free(warnings);
    return rc;
}

static void report_trial(struct auto_run *a, int64_t number, int n, const struct closeness *c, bool passes)
{
    char label[64];
    snprintf(label, sizeof label, "trial %lld", (long long)number);
    struct layer_row row = {.node = NODE_NONE, .label = label, .weight = VALUE_NONE, .sqnr_db = NAN};
    row.after = json_pack("{s:i,s:f,s:b}", "kept_layers", n, "drop", auto_drop(a, c), "passes", passes);
    if (row.after && c->classes)
        json_object_set_new(row.after, "disagreement", json_real(c->disagreement));
    if (row.after && c->classes)
        json_object_set_new(row.after, "kl", json_real(c->kl));
    if (row.after && c->noise > 0 && isfinite(c->noise))
        json_object_set_new(row.after, "sqnr_db", json_real(-10 * log10(c->noise)));
    layer_report_add(a->c->layers, a->c->model, &row);
}

struct search {
    struct auto_run *a;
    bool *kept, *best; /* by position */
    int64_t trials;
};

/* 1: passes; 0: does not; -1: error; 2: no budget left. */
static int try_set(struct search *s, struct err *err)
{
    struct auto_run *a = s->a;
    struct closeness c;
    int n = 0;
    int64_t elements = 0;
    if (s->trials > 0 && !auto_may_evaluate(a)) {
        a->out_of_budget = true;
        return 2;
    }
    for (int i = 0; i < a->n_layers; i++) {
        n += s->kept[i];
        elements += s->kept[i] ? a->layers[i].elements : 0;
    }
    if (auto_evaluate(a, s->kept, a->judge, &c, err))
        return -1;
    const double drop = auto_drop(a, &c);
    const bool passes = drop <= a->p->max_drop + 1e-12;
    report_trial(a, ++s->trials, n, &c, passes);
    bool better = s->trials == 1 || (passes && !a->best_passes);
    if (passes == a->best_passes && s->trials > 1)
        better = passes ? n < a->best_kept || (n == a->best_kept && elements < a->best_elements)
                        : drop < a->best_drop || (drop == a->best_drop && n < a->best_kept);
    if (better) {
        memcpy(s->best, s->kept, (size_t)a->n_layers * sizeof *s->best);
        a->best_drop = drop;
        a->best_kept = n;
        a->best_elements = elements;
        a->best_passes = passes;
    }
    if (a->c->progress && a->c->progress(a->c, "search", s->trials, s->trials + 1, err))
        return -1;
    return passes;
}

static int try_prefix(struct search *s, int n, struct err *err)
{
    for (int i = 0; i < s->a->n_layers; i++)
        s->kept[i] = i < n;
    return try_set(s, err);
}

/* The shortest prefix that passes, if passing is monotone. */
static int find_prefix(struct search *s, struct err *err)
{
    int low = 0, high = 1, rc = try_prefix(s, 0, err);
    if (rc != 0)
        return rc;
    for (;; high *= 2) {
        high = high > s->a->n_layers ? s->a->n_layers : high;
        rc = try_prefix(s, high, err);
        if (rc != 0 || high >= s->a->n_layers)
            break;
        low = high;
    }
    while (rc == 1 && high - low > 1) {
        const int middle = low + (high - low) / 2, passes = try_prefix(s, middle, err);
        if (passes < 0 || passes == 2)
            return passes;
        *(passes ? &high : &low) = middle;
    }
    return rc;
}

/* Layers of the best set that pass without, the least sensitive first. */
static int put_back(struct search *s, struct err *err)
{
    struct auto_run *a = s->a;
    for (int i = a->n_layers - 1; i >= 0 && a->best_passes; i--) {
        if (!s->best[i])
            continue;
        memcpy(s->kept, s->best, (size_t)a->n_layers * sizeof *s->kept);
        s->kept[i] = false;
        const int rc = try_set(s, err);
        if (rc < 0 || rc == 2)
            return rc;
    }
    return 0;
}

int auto_search(struct auto_run *a, struct err *err)
{
    struct search s = {.a = a};
    int rc = -1;
    s.kept = calloc((size_t)a->n_layers + 1, sizeof *s.kept);
    s.best = calloc((size_t)a->n_layers + 1, sizeof *s.best);
    if (!s.kept || !s.best) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    rc = find_prefix(&s, err);
    if (rc == 1 && a->best_kept > 1)
        rc = put_back(&s, err);
    rc = rc < 0 ? -1 : 0;
    for (int i = 0; i < a->n_layers; i++)
        a->layers[i].kept = s.best[i];
out:
    free(s.kept);
    free(s.best);
    return rc;
}
