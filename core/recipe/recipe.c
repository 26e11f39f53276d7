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

struct parsing {
    struct recipe *recipe;
    struct faults *faults;
    struct err *err;
    int n_steps; /* read so far, all levels */
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

/* Some methods have a parameter of that name: how often they do what they do. */
static bool steps_are_a_number(const struct method *method)
{
    for (const struct param *p = method ? method->params : NULL; p && p->name; p++)
        if (!strcmp(p->name, "steps"))
            return true;
    return false;
}

/* The list that steps of one level are read into. */
struct level {
    const struct method *in; /* the step that holds them; NULL: the recipe itself, or a step of no known method */
    struct recipe_step *steps;
    int n_steps, depth;
};

static void parse_steps(struct parsing *p, const json_t *steps, const char *pointer, struct level *to);

/* The methods that may be nested in a training step, for sentences. */
static const char *scheduled_methods(char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (const struct method *const *m = method_all(); *m; m++)
        if ((*m)->scheduled && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", (*m)->name);
    return out;
}

static void check_nesting(struct parsing *p, const struct method *in, const struct method *method, const char *pointer)
{
    char at[POINTER_TEXT], names[300];
    if (in && method && in->holds == HOLDS_SCHEDULED && !method->scheduled)
        faults_add(p->faults, pointer_join(at, pointer, "method"),
                   "%s holds only steps that go on little by little while it trains (%s); %s is none of them", in->name,
                   scheduled_methods(names, sizeof names), method->name);
}

/* What a step says of steps of its own. */
static void parse_nested(struct parsing *p, const struct method *method, const json_t *json, const char *pointer,
                         struct level *inner)
{
    const json_t *steps = steps_are_a_number(method) ? NULL : json_object_get(json, "steps");
    char at[POINTER_TEXT];
    pointer_join(at, pointer, "steps");
    if (steps && method && method->holds == HOLDS_NOTHING)
        faults_add(p->faults, at, "%s holds no steps of its own", method->name);
    if (steps && inner->depth > RECIPE_DEPTH_MAX)
        faults_add(p->faults, at, "steps may be nested %d deep and no deeper", RECIPE_DEPTH_MAX);
    else if (steps)
        parse_steps(p, steps, at, inner);
    if (method && method->holds == HOLDS_STEPS && (!steps || (json_is_array(steps) && !json_array_size(steps))))
        faults_add(p->faults, at, "%s needs steps of its own: {\"method\": \"%s\", \"steps\": [...]}", method->name,
                   method->name);
}

static void free_steps(struct recipe_step *steps, int n)
{
    for (int i = 0; i < n; i++) {
        json_decref(steps[i].json);
        free_steps(steps[i].steps, steps[i].n_steps);
    }
}

static void parse_step(struct parsing *p, const json_t *json, const char *pointer, struct level *to)
{
    if (!json_is_object(json)) {
        faults_add(p->faults, pointer, "a step must be an object with a 'method', found %s", json_text_type(json));
        return;
    }
    const struct method *method = step_method(p, json, pointer);
    struct level inner = {.in = method, .depth = to->depth + 1};
    check_nesting(p, to->in, method, pointer);
    parse_nested(p, method, json, pointer, &inner);
    struct recipe_step step = {.method = method,
                               .pointer = arena_strdup(p->recipe->arena, pointer),
                               .steps = inner.steps,
                               .n_steps = inner.n_steps};
    if (!step.pointer)
        no_memory(p->err);
    else if (method)
        params_parse(method, json, pointer, p->recipe->arena, &step.params, &step.json, p->faults, p->err);
    if (method && !p->err->code)
        to->steps[to->n_steps++] = step;
    else
        free_steps(&step, 1);
}

static void parse_steps(struct parsing *p, const json_t *steps, const char *pointer, struct level *to)
{
    if (!json_is_array(steps)) {
        faults_add(p->faults, pointer, "'steps' must be an array of steps, found %s", json_text_type(steps));
        return;
    }
    const size_t n = json_array_size(steps), left = (size_t)(RECIPE_STEPS_MAX - p->n_steps);
    if (n > left) {
        if (p->n_steps)
            faults_add(p->faults, pointer, "a recipe of more than %d steps is too long", RECIPE_STEPS_MAX);
        else
            faults_add(p->faults, pointer, "a list of %zu steps is too long: at most %d are allowed", n,
                       RECIPE_STEPS_MAX);
        return;
    }
    p->n_steps += (int)n;
    if (!(to->steps = arena_calloc(p->recipe->arena, n + 1, sizeof *to->steps))) {
        no_memory(p->err);
        return;
    }
    for (size_t i = 0; i < n && !p->err->code; i++) {
        char at[POINTER_TEXT], index[24];
        snprintf(index, sizeof index, "%zu", i);
        parse_step(p, json_array_get(steps, i), pointer_join(at, pointer, index), to);
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
    struct level top = {.depth = 1};
    if (steps)
        parse_steps(p, steps, at, &top);
    else
        faults_add(p->faults, at, "'steps' is missing; an empty list is allowed and leaves the model as it is");
    p->recipe->steps = top.steps;
    p->recipe->n_steps = top.n_steps;
    if (targets)
        parse_targets(p, targets, pointer_join(at, base, "targets"));
    if (seed)
        parse_seed(p, seed, pointer_join(at, base, "seed"));
}

struct recipe *recipe_parse(const json_t *json, const char *base, struct faults *faults, struct err *err)
{
    struct faults own = {0};
    struct err local = {0};
    struct parsing p = {calloc(1, sizeof *p.recipe), faults ? faults : &own, &local, 0};
    int before = p.faults->count;
    if (!p.recipe || !(p.recipe->arena = arena_new()) || !(p.recipe->base = arena_strdup(p.recipe->arena, base)))
        no_memory(&local);
    else
        parse_recipe(&p, json, base);
    if (!local.code && p.faults->count > before)
        recipe_faults_to_err(p.faults, ERR_RECIPE, &local);
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
    free_steps(recipe->steps, recipe->n_steps);
    arena_free(recipe->arena);
    free(recipe);
}

static json_t *steps_json(const struct recipe_step *steps, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, recipe_step_json(&steps[i]));
    return list;
}

json_t *recipe_step_json(const struct recipe_step *step)
{
    json_t *json = json_pack("{s:s}", "method", step->method->name);
    json_object_update(json, step->json);
    if (step->n_steps)
        json_object_set_new(json, "steps", steps_json(step->steps, step->n_steps));
    return json;
}

json_t *recipe_json(const struct recipe *recipe)
{
    json_t *steps = steps_json(recipe->steps, recipe->n_steps), *targets = json_object();
    for (const struct target *t = target_all(); t->name;
         t++) /* in the order of the rows, whatever order they were given in */
        for (int i = 0; i < recipe->n_targets; i++)
            if (recipe->targets[i].target == t)
                json_object_set_new(targets, t->name, json_real(recipe->targets[i].wanted));
    return json_pack("{s:o, s:o, s:I}", "steps", steps, "targets", targets, "seed", (json_int_t)recipe->seed);
}
