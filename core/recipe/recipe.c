/* SPDX-License-Identifier: Apache-2.0
 * recipe.c - parsing never stops at the first fault: a step that is wrong is left out of the list and the next one is
 * read, so that a client sees everything at once. A recipe with faults is not handed out. Everything a recipe holds
 * lies in its arena but the JSON. */
#include "core/recipe/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/recipe/json_text.h"
#include "core/recipe/nearest.h"
#include "core/recipe/params.h"

enum { STEPS_MAX = 1000 };

struct parsing {
    struct recipe *recipe;
    struct faults *faults;
    struct err *err;
};

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "no memory for the recipe");
}

/* The row a step names; NULL after adding a fault. */
static const struct method *step_method(struct parsing *p, const json_t *step, const char *pointer)
{
    char at[POINTER_TEXT], hint[80], brief[JSON_TEXT_BRIEF];
    const json_t *name = json_object_get(step, "method");
    pointer_join(at, pointer, "method");
    if (!json_is_string(name)) {
        if (!name)
            faults_add(p->faults, at, "'method' is missing; it names the step, as in {\"method\": \"graph.optimize\"}");
        else
            faults_add(p->faults, at, "'method' must be a string, found %s", json_text_type(name));
        return NULL;
    }
    const struct method *method = method_find(json_string_value(name));
    if (!method) {
        struct nearest near = NEAREST(json_string_value(name));
        for (const struct method *const *m = method_all(); *m; m++)
            nearest_offer(&near, (*m)->name);
        faults_add(p->faults, at, "there is no method %s%s", json_text_brief(name, brief),
                   near.best ? nearest_hint(&near, hint, sizeof hint) : "; the catalogue of methods lists them");
    }
    return method;
}

static void parse_steps(struct parsing *p, const json_t *steps, const char *pointer, bool nested);

/* Some methods have a parameter of that name: how often they do what they do. */
static bool steps_are_a_number(const struct method *method)
{
    for (const struct param *p = method ? method->params : NULL; p && p->name; p++)
        if (!strcmp(p->name, "steps"))
            return true;
    return false;
}

static void parse_step(struct parsing *p, const json_t *json, const char *pointer, bool nested)
{
    if (!json_is_object(json)) {
        faults_add(p->faults, pointer, "a step must be an object with a 'method', found %s", json_text_type(json));
        return;
    }
    const struct method *method = step_method(p, json, pointer);
    const json_t *inner = steps_are_a_number(method) ? NULL : json_object_get(json, "steps");
    char at[POINTER_TEXT];
    pointer_join(at, pointer, "steps");
    if (inner && method)
        faults_add(p->faults, at, "%s holds no steps of its own", method->name);
    if (inner)
        parse_steps(p, inner, at, true);
    if (!method)
        return;
    struct recipe_step step = {.method = method, .pointer = arena_strdup(p->recipe->arena, pointer)};
    if (!step.pointer)
        no_memory(p->err);
    else
        params_parse(method, json, pointer, p->recipe->arena, &step.params, &step.json, p->faults, p->err);
    if (nested || p->err->code)
        json_decref(step.json);
    else
        p->recipe->steps[p->recipe->n_steps++] = step;
}

/* Steps nested in a step are checked like all others, but no method of the catalogue runs them: they are not kept. */
static void parse_steps(struct parsing *p, const json_t *steps, const char *pointer, bool nested)
{
    if (!json_is_array(steps)) {
        faults_add(p->faults, pointer, "'steps' must be an array of steps, found %s", json_text_type(steps));
        return;
    }
    size_t n = json_array_size(steps);
    if (n > STEPS_MAX) {
        faults_add(p->faults, pointer, "a list of %zu steps is too long: at most %d are allowed", n, STEPS_MAX);
        return;
    }
    if (!nested && !(p->recipe->steps = arena_calloc(p->recipe->arena, n + 1, sizeof *p->recipe->steps))) {
        no_memory(p->err);
        return;
    }
    for (size_t i = 0; i < n && !p->err->code; i++) {
        char at[POINTER_TEXT], index[24];
        snprintf(index, sizeof index, "%zu", i);
        parse_step(p, json_array_get(steps, i), pointer_join(at, pointer, index), nested);
    }
}

static void parse_target(struct parsing *p, const char *key, const json_t *v, const char *pointer)
{
    const struct target *t = target_find(key);
    if (!t) {
        struct nearest near = NEAREST(key);
        for (t = target_all(); t->name; t++)
            nearest_offer(&near, t->name);
        char hint[80];
        faults_add(p->faults, pointer, "there is no target '%.*s'%s", json_text_cut(key, 60), key,
                   nearest_hint(&near, hint, sizeof hint));
        return;
    }
    double wanted = json_number_value(v);
    if (!json_is_number(v))
        faults_add(p->faults, pointer, "'%s' must be a number, found %s", key, json_text_type(v));
    else if (!(wanted >= t->min && wanted <= t->max))
        faults_add(p->faults, pointer, "'%s' must be between %g and %g, found %.15g", key, t->min, t->max, wanted);
    else
        p->recipe->targets[p->recipe->n_targets++] = (struct recipe_target){t, wanted};
}

static void parse_targets(struct parsing *p, const json_t *targets, const char *pointer)
{
    if (!json_is_object(targets)) {
        faults_add(p->faults, pointer, "'targets' must be an object, found %s", json_text_type(targets));
        return;
    }
    const char *key;
    json_t *v;
    char at[POINTER_TEXT];
    json_object_foreach ((json_t *)targets, key, v)
        parse_target(p, key, v, pointer_join(at, pointer, key));
}

static void parse_seed(struct parsing *p, const json_t *seed, const char *pointer)
{
    if (!json_is_integer(seed))
        faults_add(p->faults, pointer, "'seed' must be an integer, found %s", json_text_type(seed));
    else if (json_integer_value(seed) < 0)
        faults_add(p->faults, pointer, "'seed' must be at least 0, found %lld", (long long)json_integer_value(seed));
    else
        p->recipe->seed = json_integer_value(seed);
}

/* The keys of a recipe, each with its reader. */
static void parse_recipe(struct parsing *p, const json_t *json, const char *base)
{
    static const char *const keys[] = {"steps", "targets", "seed", NULL};
    char at[POINTER_TEXT], hint[80];
    const char *key;
    json_t *v;
    if (!json_is_object(json)) {
        faults_add(p->faults, base, "a recipe must be an object with 'steps', found %s", json_text_type(json));
        return;
    }
    json_object_foreach ((json_t *)json, key, v) {
        struct nearest near = NEAREST(key);
        bool known = false;
        for (int i = 0; keys[i]; i++) {
            known = known || !strcmp(key, keys[i]);
            nearest_offer(&near, keys[i]);
        }
        if (!known)
            faults_add(p->faults, pointer_join(at, base, key),
                       "a recipe has no key '%.*s'; it takes steps, targets and seed%s", json_text_cut(key, 60), key,
                       nearest_hint(&near, hint, sizeof hint));
    }
    const json_t *steps = json_object_get(json, "steps"), *targets = json_object_get(json, "targets"),
                 *seed = json_object_get(json, "seed");
    pointer_join(at, base, "steps");
    if (steps)
        parse_steps(p, steps, at, false);
    else
        faults_add(p->faults, at, "'steps' is missing; an empty list is allowed and leaves the model as it is");
    if (targets)
        parse_targets(p, targets, pointer_join(at, base, "targets"));
    if (seed)
        parse_seed(p, seed, pointer_join(at, base, "seed"));
}

/* The first fault as one sentence with its place. */
static int faults_to_err(const struct faults *faults, enum err_code code, struct err *err)
{
    const struct fault *f = &faults->at[0];
    if (faults->count > 1)
        return err_set(err, code, "%s%s%s (and %d more)", f->pointer, *f->pointer ? ": " : "", f->detail,
                       faults->count - 1);
    return err_set(err, code, "%s%s%s", f->pointer, *f->pointer ? ": " : "", f->detail);
}

struct recipe *recipe_parse(const json_t *json, const char *base, struct faults *faults, struct err *err)
{
    struct faults own = {0};
    struct err local = {0};
    struct parsing p = {calloc(1, sizeof *p.recipe), faults ? faults : &own, &local};
    int before = p.faults->count;
    if (!p.recipe || !(p.recipe->arena = arena_new()) || !(p.recipe->base = arena_strdup(p.recipe->arena, base)))
        no_memory(&local);
    else
        parse_recipe(&p, json, base);
    if (!local.code && p.faults->count > before)
        faults_to_err(p.faults, ERR_RECIPE, &local);
    faults_fini(&own);
    if (!local.code)
        return p.recipe;
    err_set(err, local.code, "%s", local.msg);
    recipe_free(p.recipe);
    return NULL;
}

struct recipe *recipe_parse_text(const char *text, size_t len, struct faults *faults, struct err *err)
{
    json_t *json = json_text_parse(text, len, 0, err);
    if (!json)
        return NULL;
    struct recipe *recipe = recipe_parse(json, "", faults, err);
    json_decref(json);
    return recipe;
}

void recipe_free(struct recipe *recipe)
{
    if (!recipe)
        return;
    for (int i = 0; i < recipe->n_steps; i++)
        json_decref(recipe->steps[i].json);
    arena_free(recipe->arena);
    free(recipe);
}

json_t *recipe_json(const struct recipe *recipe)
{
    json_t *steps = json_array(), *targets = json_object();
    for (int i = 0; i < recipe->n_steps; i++) {
        json_t *step = json_pack("{s:s}", "method", recipe->steps[i].method->name);
        json_object_update(step, recipe->steps[i].json);
        json_array_append_new(steps, step);
    }
    for (const struct target *t = target_all(); t->name;
         t++) /* in the order of the rows, whatever order they were given in */
        for (int i = 0; i < recipe->n_targets; i++)
            if (recipe->targets[i].target == t)
                json_object_set_new(targets, t->name, json_real(recipe->targets[i].wanted));
    return json_pack("{s:o, s:o, s:I}", "steps", steps, "targets", targets, "seed", (json_int_t)recipe->seed);
}

unsigned recipe_needs(const struct recipe *recipe)
{
    unsigned needs = 0;
    for (int i = 0; i < recipe->n_steps; i++)
        needs |= method_needs(recipe->steps[i].method, recipe->steps[i].params);
    return needs;
}

int recipe_measured_on(const struct recipe_given *given)
{
    static const enum recipe_dataset order[] = {RECIPE_EVAL_DATASET, RECIPE_DATASET, RECIPE_VAL_DATASET};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (given->data[order[i]].given)
            return (int)order[i];
    return -1;
}

int recipe_check_needs(const struct recipe *recipe, const struct recipe_given *given, struct faults *faults,
                       struct err *err)
{
    struct faults own = {0}, *to = faults ? faults : &own;
    int before = to->count;
    bool only_operators = true;
    const struct recipe_data *data = &given->data[RECIPE_DATASET];
    int judged = recipe_measured_on(given);
    for (int i = 0; i < recipe->n_steps; i++) {
        const struct recipe_step *s = &recipe->steps[i];
        const unsigned needs = method_needs(s->method, s->params);
        bool no_data = (needs & (NEEDS_DATA | NEEDS_LABELS)) && !data->given;
        bool no_labels = (needs & NEEDS_LABELS) && data->given && !data->labels;
        if (no_data)
            faults_add(to, s->pointer, "%s needs a dataset%s, and none is given", s->method->name,
                       s->method->needs & (NEEDS_DATA | NEEDS_LABELS) ? "" : " with these parameters");
        if (no_labels)
            faults_add(to, s->pointer, "%s needs a dataset with labels, and the one given has none", s->method->name);
        if (no_data || no_labels)
            only_operators = false;
        if ((needs & NEEDS_RUN) && given->missing_ops && *given->missing_ops)
            faults_add(to, s->pointer, "%s must run the model, and these operators are not supported: %s",
                       s->method->name, given->missing_ops);
    }
    for (int i = 0; i < recipe->n_targets; i++) {
        char at[POINTER_TEXT], targets[POINTER_TEXT];
        const struct target *t = recipe->targets[i].target;
        if (!t->needs_labels || (judged >= 0 && given->data[judged].classes))
            continue;
        only_operators = false;
        faults_add(to, pointer_join(at, pointer_join(targets, recipe->base, "targets"), t->name),
                   "'%s' can only be judged on a dataset with integer labels, and none is given", t->name);
    }
    int rc = to->count > before ? faults_to_err(to, only_operators ? ERR_OPERATOR : ERR_RECIPE, err) : 0;
    faults_fini(&own);
    return rc;
}

/* The next word at *at into out (NUL-terminated, quotes removed outside of JSON brackets); false at the end. Spaces
 * part words, but not inside quotes or brackets: include=["a", "b"] is one word. Single quotes are taken away, double
 * quotes stay where they are JSON. */
static bool next_word(const char **at, char *out)
{
    const char *p = *at;
    char quote = 0;
    int depth = 0;
    while (*p == ' ' || *p == '\t' || *p == '\n')
        p++;
    if (!*p)
        return false;
    for (; *p && (quote || depth > 0 || (*p != ' ' && *p != '\t' && *p != '\n')); p++) {
        if (quote) {
            if (*p == quote)
                quote = 0;
        } else if (*p == '"' || (*p == '\'' && depth == 0)) {
            quote = *p;
        } else {
            depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
        }
        if (*p != '\'' || depth > 0 || quote == '"')
            *out++ = *p;
    }
    *out = 0;
    *at = p;
    return true;
}

json_t *recipe_step_from_words(const char *text, struct err *err)
{
    char *word = malloc(strlen(text) + 1);
    json_t *step = json_object();
    const char *at = text;
    bool ok = false;
    if (!word || !step) {
        no_memory(err);
        goto out;
    }
    if (!next_word(&at, word) || strchr(word, '=')) {
        err_set(err, ERR_USAGE, "a step starts with its method, as in 'prune.weights sparsity=0.9'; found '%.100s'",
                text);
        goto out;
    }
    json_object_set_new(step, "method", json_string(word));
    while (next_word(&at, word)) {
        char *eq = strchr(word, '=');
        if (!eq || eq == word) {
            err_set(err, ERR_USAGE, "step '%.100s': '%.100s' is not of the form key=value", text, word);
            goto out;
        }
        *eq = 0;
        json_t *value = json_loads(eq + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        if (!value)
            value = json_string(eq + 1);
        if (!value || json_object_get(step, word) || json_object_set(step, word, value)) {
            err_set(err, ERR_USAGE, "step '%.100s': '%.100s' %s", text, word,
                    value ? "is given twice" : "is not UTF-8");
            json_decref(value);
            goto out;
        }
        json_decref(value);
    }
    ok = true;
out:
    free(word);
    if (ok)
        return step;
    json_decref(step);
    return NULL;
}
