/* SPDX-License-Identifier: Apache-2.0
 * recipe_needs.c - what the steps of a recipe need of data and model, and whether a job brings it. Nested steps need
 * what they would need alone. */
#include <stdio.h>
#include <string.h>

#include "core/recipe/params.h"
#include "core/recipe/recipe.h"

/* The first fault as one sentence with its place. */
int recipe_faults_to_err(const struct faults *faults, enum err_code code, struct err *err)
{
    const struct fault *f = &faults->at[0];
    if (faults->count > 1)
        return err_set(err, code, "%s%s%s (and %d more)", f->pointer, *f->pointer ? ": " : "", f->detail,
                       faults->count - 1);
    return err_set(err, code, "%s%s%s", f->pointer, *f->pointer ? ": " : "", f->detail);
}

static unsigned steps_need(const struct recipe_step *steps, int n)
{
    unsigned needs = 0;
    for (int i = 0; i < n; i++)
        needs |= method_needs(steps[i].method, steps[i].params) | steps_need(steps[i].steps, steps[i].n_steps);
    return needs;
}

unsigned recipe_needs(const struct recipe *recipe)
{
    return steps_need(recipe->steps, recipe->n_steps);
}

static bool have_family(const struct recipe_step *steps, int n, const char *family)
{
    const size_t len = strlen(family);
    for (int i = 0; i < n; i++)
        if ((!strncmp(steps[i].method->name, family, len) && steps[i].method->name[len] == '.') ||
            have_family(steps[i].steps, steps[i].n_steps, family))
            return true;
    return false;
}

bool recipe_has_family(const struct recipe *recipe, const char *family)
{
    return have_family(recipe->steps, recipe->n_steps, family);
}

int recipe_measured_on(const struct recipe_given *given)
{
    static const enum recipe_dataset order[] = {RECIPE_EVAL_DATASET, RECIPE_DATASET, RECIPE_VAL_DATASET};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (given->data[order[i]].given)
            return (int)order[i];
    return -1;
}

struct checking {
    const struct recipe_given *given;
    struct faults *faults;
    bool only_operators; /* all faults so far are about operators */
};

static void check_step(struct checking *c, const struct recipe_step *s)
{
    const struct recipe_given *given = c->given;
    const struct recipe_data *data = &given->data[RECIPE_DATASET];
    const unsigned needs = method_needs(s->method, s->params);
    bool no_data = (needs & (NEEDS_DATA | NEEDS_LABELS)) && !data->given;
    bool no_labels = (needs & NEEDS_LABELS) && data->given && !data->labels;
    if (no_data)
        faults_add(c->faults, s->pointer, "%s needs a dataset%s, and none is given", s->method->name,
                   s->method->needs & (NEEDS_DATA | NEEDS_LABELS) ? "" : " with these parameters");
    if (no_labels)
        faults_add(c->faults, s->pointer, "%s needs a dataset with labels, and the one given has none",
                   s->method->name);
    if (no_data || no_labels)
        c->only_operators = false;
    if ((needs & NEEDS_RUN) && given->missing_ops && *given->missing_ops)
        faults_add(c->faults, s->pointer, "%s must run the model, and these operators are not supported: %s",
                   s->method->name, given->missing_ops);
    else if ((needs & NEEDS_GRADIENTS) && given->missing_gradients && *given->missing_gradients)
        faults_add(c->faults, s->pointer,
                   "%s must train the model, and these operators between its weights and its outputs have no "
                   "gradient: %s",
                   s->method->name, given->missing_gradients);
    for (int i = 0; i < s->n_steps; i++)
        check_step(c, &s->steps[i]);
}

/* Labels that nobody reads may be what they like. */
static void check_classes(struct checking *c, const struct recipe *recipe)
{
    static const char *const pointers[] = {"/dataset", "/val_dataset", "/eval_dataset"};
    const bool trains = recipe_needs(recipe) & NEEDS_LABELS;
    const int judged = recipe_measured_on(c->given);
    for (int i = 0; i < RECIPE_DATASETS; i++) {
        const struct recipe_data *d = &c->given->data[i];
        const bool read = i == judged || (trains && i != RECIPE_EVAL_DATASET);
        if (!read || !d->given || !d->classes || c->given->output_classes <= 0 ||
            d->max_label < c->given->output_classes)
            continue;
        c->only_operators = false;
        faults_add(c->faults, pointers[i],
                   "its labels go up to %lld, and the model has %lld classes, 0 to %lld: it needs labels in that range",
                   (long long)d->max_label, (long long)c->given->output_classes,
                   (long long)c->given->output_classes - 1);
    }
}

static void check_targets(struct checking *c, const struct recipe *recipe)
{
    const int judged = recipe_measured_on(c->given);
    for (int i = 0; i < recipe->n_targets; i++) {
        char at[POINTER_TEXT], targets[POINTER_TEXT];
        const struct target *t = recipe->targets[i].target;
        if (!t->needs_labels || (judged >= 0 && c->given->data[judged].classes))
            continue;
        c->only_operators = false;
        faults_add(c->faults, pointer_join(at, pointer_join(targets, recipe->base, "targets"), t->name),
                   "'%s' can only be judged on a dataset with integer labels, and none is given", t->name);
    }
}

int recipe_check_needs(const struct recipe *recipe, const struct recipe_given *given, struct faults *faults,
                       struct err *err)
{
    struct faults own = {0};
    struct checking c = {given, faults ? faults : &own, true};
    const int before = c.faults->count;
    for (int i = 0; i < recipe->n_steps; i++)
        check_step(&c, &recipe->steps[i]);
    check_targets(&c, recipe);
    check_classes(&c, recipe);
    int rc = c.faults->count > before
                 ? recipe_faults_to_err(c.faults, c.only_operators ? ERR_OPERATOR : ERR_RECIPE, err)
                 : 0;
    faults_fini(&own);
    return rc;
}
