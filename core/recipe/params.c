/* SPDX-License-Identifier: Apache-2.0
 * params.c - one reader a parameter kind: it checks the JSON value, stores it at the row's offset and says how the
 * value looks normalised (a single glob becomes a list, 8.0 becomes 8). Defaults go through the same readers, so a
 * row with a wrong default cannot pass the tests. */
#include "core/recipe/params.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/recipe/json_text.h"
#include "core/recipe/nearest.h"

const char *pointer_join(char out[POINTER_TEXT], const char *pointer, const char *key)
{
    size_t n = (size_t)snprintf(out, POINTER_TEXT, "%.700s/", pointer);
    for (const char *end = key + json_text_cut(key, 100); key < end; key++) {
        if (*key == '~' || *key == '/')
            out[n++] = '~';
        out[n++] = *key == '~' ? '0' : *key == '/' ? '1' : *key;
    }
    out[n] = 0;
    return out;
}

struct reading {
    const struct param *p;
    const char *pointer;
    struct arena *arena;
    struct faults *faults;
    void *field;
};
/* The normalised value, new reference; NULL after adding a fault. */
typedef json_t *reader(struct reading *r, const json_t *v);

static json_t *wrong_type(struct reading *r, const char *wanted, const json_t *v)
{
    char brief[JSON_TEXT_BRIEF];
    bool plain = json_is_null(v) || json_is_object(v) || json_is_array(v);
    if (plain)
        faults_add(r->faults, r->pointer, "'%s' must be %s, found %s", r->p->name, wanted, json_text_type(v));
    else
        faults_add(r->faults, r->pointer, "'%s' must be %s, found %s (%s)", r->p->name, wanted, json_text_type(v),
                   json_text_brief(v, brief));
    return NULL;
}

static bool in_range(struct reading *r, double v)
{
    const struct param *p = r->p;
    if (!(p->min < p->max))
        return true;
    bool low = p->above_min ? v <= p->min : v < p->min, high = p->below_max ? v >= p->max : v > p->max;
    if (!low && !high)
        return true;
    if (p->max >= 9e15) /* only means "no bound" */
        faults_add(r->faults, r->pointer, "'%s' must be %s %.15g, found %.15g", p->name,
                   p->above_min ? "greater than" : "at least", p->min, v);
    else
        faults_add(r->faults, r->pointer, "'%s' must be between %.15g%s and %.15g%s, found %.15g", p->name, p->min,
                   p->above_min ? " (excluded)" : "", p->max, p->below_max ? " (excluded)" : "", v);
    return false;
}

static json_t *read_int(struct reading *r, const json_t *v)
{
    double d = json_number_value(v);
    char wanted[200] = "an integer";
    for (int i = 0; r->p->choices && r->p->choices[i]; i++) {
        const int64_t named = PARAM_NAMED(i);
        const size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, " or \"%s\"", r->p->choices[i]);
        if (!json_is_string(v) || strcmp(r->p->choices[i], json_string_value(v)))
            continue;
        memcpy(r->field, &named, sizeof named);
        return json_string(r->p->choices[i]);
    }
    if (!json_is_number(v) || d != floor(d) || fabs(d) > 9e15)
        return wrong_type(r, wanted, v);
    if (!in_range(r, d))
        return NULL;
    int64_t value = json_is_integer(v) ? json_integer_value(v) : (int64_t)d;
    memcpy(r->field, &value, sizeof value);
    return json_integer(value);
}

static json_t *number_json(double value)
{
    return value == floor(value) && fabs(value) < 9e15 ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *read_number(struct reading *r, const json_t *v)
{
    if (!json_is_number(v))
        return wrong_type(r, "a number", v);
    double value = json_number_value(v);
    if (!in_range(r, value))
        return NULL;
    memcpy(r->field, &value, sizeof value);
    return number_json(value);
}

static json_t *read_bool(struct reading *r, const json_t *v)
{
    if (!json_is_boolean(v))
        return wrong_type(r, "true or false", v);
    bool value = json_is_true(v);
    memcpy(r->field, &value, sizeof value);
    return json_boolean(value);
}

static json_t *read_string(struct reading *r, const json_t *v)
{
    if (!json_is_string(v))
        return wrong_type(r, "a string", v);
    const char *value = arena_strdup(r->arena, json_string_value(v));
    memcpy(r->field, &value, sizeof value);
    return json_string(value);
}

static json_t *read_enum(struct reading *r, const json_t *v)
{
    struct buf list = {0};
    for (const char *const *c = r->p->choices; *c; c++)
        buf_printf(&list, "%s%s", c == r->p->choices ? "" : ", ", *c);
    const char *names = list.data ? list.data : "";
    json_t *out = NULL;
    if (!json_is_string(v)) {
        char wanted[300];
        snprintf(wanted, sizeof wanted, "one of %s", names);
        wrong_type(r, wanted, v);
        goto out;
    }
    struct nearest near = NEAREST(json_string_value(v));
    for (int i = 0; r->p->choices[i]; i++) {
        nearest_offer(&near, r->p->choices[i]);
        if (strcmp(r->p->choices[i], json_string_value(v)))
            continue;
        memcpy(r->field, &i, sizeof i);
        out = json_string(r->p->choices[i]);
        goto out;
    }
    char hint[80], brief[JSON_TEXT_BRIEF];
    faults_add(r->faults, r->pointer, "'%s' must be one of %s, found %s%s", r->p->name, names,
               json_text_brief(v, brief), nearest_hint(&near, hint, sizeof hint));
out:
    buf_fini(&list);
    return out;
}

static json_t *read_globs(struct reading *r, const json_t *v)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    struct globs g = {arena_calloc(r->arena, n + 1, sizeof *g.at), (int)n};
    json_t *list = json_array();
    for (size_t i = 0; list && g.at && i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(item)) {
            json_decref(list);
            return wrong_type(r, "a glob or a list of globs over node names", item);
        }
        g.at[i] = arena_strdup(r->arena, json_string_value(item));
        json_array_append_new(list, json_string(json_string_value(item)));
    }
    memcpy(r->field, &g, sizeof g);
    return list;
}

static json_t *read_numbers(struct reading *r, const json_t *v)
{
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    double *at = arena_calloc(r->arena, n + 1, sizeof *at);
    struct numbers numbers = {at, (int)n};
    json_t *list = json_array();
    for (size_t i = 0; list && at && i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (json_is_number(item) ? !in_range(r, json_number_value(item)) : !wrong_type(r, "a list of numbers", item)) {
            json_decref(list);
            return NULL;
        }
        at[i] = json_number_value(item);
        json_array_append_new(list, number_json(at[i]));
    }
    memcpy(r->field, &numbers, sizeof numbers);
    return list;
}

static json_t *read_json(struct reading *r, const json_t *v)
{
    if (!json_is_object(v))
        return wrong_type(r, "an object", v);
    json_t *value = json_deep_copy(v); /* lives as long as the recipe, in its normalised step */
    memcpy(r->field, &value, sizeof value);
    return value;
}

static reader *const readers[] = {
    [PARAM_INT] = read_int,       [PARAM_NUMBER] = read_number, [PARAM_BOOL] = read_bool,
    [PARAM_STRING] = read_string, [PARAM_ENUM] = read_enum,     [PARAM_GLOBS] = read_globs,
    [PARAM_JSON] = read_json,     [PARAM_NUMBERS] = read_numbers,
};

static void unknown_key(const struct method *method, const char *key, const char *pointer, struct faults *faults)
{
    struct nearest near = NEAREST(key);
    struct buf list = {0};
    for (const struct param *p = method->params; p && p->name; p++) {
        nearest_offer(&near, p->name);
        buf_printf(&list, "%s%s", p == method->params ? "" : ", ", p->name);
    }
    char hint[80], at[POINTER_TEXT];
    if (near.best)
        faults_add(faults, pointer_join(at, pointer, key), "%s has no parameter '%.*s'%s", method->name,
                   json_text_cut(key, 60), key, nearest_hint(&near, hint, sizeof hint));
    else
        faults_add(faults, pointer_join(at, pointer, key), "%s has no parameter '%.*s'; %s%s", method->name,
                   json_text_cut(key, 60), key, list.len ? "it takes " : "it takes none", list.data ? list.data : "");
    buf_fini(&list);
}

static bool known_key(const struct method *method, const char *key)
{
    if (!strcmp(key, "method") || !strcmp(key, "steps"))
        return true;
    for (const struct param *p = method->params; p && p->name; p++)
        if (!strcmp(p->name, key))
            return true;
    return false;
}

/* One parameter: given, defaulted or absent. */
static void read_param(struct reading *r, const json_t *step, void *params, json_t *normalised)
{
    const struct param *p = r->p;
    const json_t *given = json_object_get(step, p->name);
    json_t *def = !given && p->def ? json_loads(p->def, JSON_DECODE_ANY, NULL) : NULL;
    const json_t *v = given ? given : def;
    r->field = (char *)params + p->offset;
    if (given && p->given)
        *((bool *)((char *)params + p->given - 1)) = true;
    if (v) {
        json_t *value = readers[p->kind](r, v);
        if (value)
            json_object_set_new(normalised, p->name, value);
    } else if (p->required) {
        faults_add(r->faults, r->pointer, "'%s' is required: %s", p->name, p->doc ? p->doc : "no default exists");
    }
    json_decref(def);
}

int params_parse(const struct method *method, const json_t *step, const char *pointer, struct arena *arena,
                 void **params, json_t **normalised, struct faults *faults, struct err *err)
{
    int before = faults->count;
    char at[POINTER_TEXT];
    *params = arena_alloc(arena, method->params_size ? method->params_size : 1);
    *normalised = json_object();
    if (!*params || !*normalised)
        return err_set(err, ERR_NOMEM, "no memory for the parameters of a step");
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)step, key, v)
        if (!known_key(method, key))
            unknown_key(method, key, pointer, faults);
    for (const struct param *p = method->params; p && p->name; p++) {
        struct reading r = {p, pointer_join(at, pointer, p->name), arena, faults, NULL};
        read_param(&r, step, *params, *normalised);
    }
    if (method->check && faults->count == before)
        method->check(*params, pointer, faults);
    return 0;
}
