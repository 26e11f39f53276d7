/* SPDX-License-Identifier: Apache-2.0
 * catalogue.c - the METHOD rows of all families as one sorted table. The Makefile greps the rows' ids into
 * method_list.inc; ids sort like names except for '.' against '_', so the table is sorted by name once, when first
 * asked for. */
#include "core/recipe/catalogue.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define X(id) extern const struct method method_##id;
#include "method_list.inc"
#undef X

static const struct method *rows[] = {
#define X(id) &method_##id,
#include "method_list.inc"
#undef X
    NULL};
enum { N_ROWS = sizeof rows / sizeof rows[0] - 1 };

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct method *const *)a)->name, (*(const struct method *const *)b)->name);
}

static void sort_rows(void)
{
    qsort(rows, N_ROWS, sizeof rows[0], by_name);
}

const struct method *const *method_all(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, sort_rows);
    return rows;
}

const struct method *method_find(const char *name)
{
    for (const struct method *const *m = method_all(); *m; m++)
        if (!strcmp((*m)->name, name))
            return *m;
    return NULL;
}

static const char *const kind_names[] = {
    [PARAM_INT] = "integer",   [PARAM_NUMBER] = "number", [PARAM_BOOL] = "boolean",
    [PARAM_STRING] = "string", [PARAM_ENUM] = "enum",     [PARAM_GLOBS] = "globs",
    [PARAM_JSON] = "object",   [PARAM_NUMBERS] = "numbers",
};

/* Bounds this far out only mean "no bound". */
static const double FAR = 9e15;

/* A whole bound prints as 1, not 1.0. */
static json_t *number_json(double v)
{
    return fabs(v) < FAR && v == floor(v) ? json_integer((json_int_t)v) : json_real(v);
}

static json_t *param_json(const struct param *p)
{
    json_t *o = json_pack("{s:s, s:s, s:b, s:s}", "name", p->name, "type", kind_names[p->kind], "required", p->required,
                          "doc", p->doc ? p->doc : "");
    if (p->def)
        json_object_set_new(o, "default", json_loads(p->def, JSON_DECODE_ANY, NULL));
    if (p->min < p->max) {
        if (p->min > -FAR)
            json_object_set_new(o, p->above_min ? "above" : "min", number_json(p->min));
        if (p->max < FAR)
            json_object_set_new(o, p->below_max ? "below" : "max", number_json(p->max));
    }
    if (p->choices) {
        json_t *choices = json_array();
        for (const char *const *c = p->choices; *c; c++)
            json_array_append_new(choices, json_string(*c));
        json_object_set_new(o, "choices", choices);
    }
    return o;
}

json_t *method_needs_json(unsigned needs)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{NEEDS_DATA, "data"}, {NEEDS_LABELS, "labels"}, {NEEDS_RUN, "run"}, {NEEDS_GRADIENTS, "gradients"}};
    json_t *a = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (needs & names[i].bit)
            json_array_append_new(a, json_string(names[i].name));
    return a;
}

static const char *const holds_names[] = {
    [HOLDS_NOTHING] = "nothing", [HOLDS_SCHEDULED] = "scheduled", [HOLDS_STEPS] = "steps"};

json_t *method_json(const struct method *method)
{
    if (!method) {
        json_t *all = json_array();
        for (const struct method *const *m = method_all(); *m; m++)
            json_array_append_new(all, method_json(*m));
        return all;
    }
    json_t *params = json_array();
    for (const struct param *p = method->params; p && p->name; p++)
        json_array_append_new(params, param_json(p));
    return json_pack("{s:s, s:s, s:s, s:o, s:s, s:b, s:o}", "name", method->name, "summary", method->summary, "doc",
                     method->doc ? method->doc : "", "needs", method_needs_json(method->needs), "holds",
                     holds_names[method->holds], "scheduled", method->scheduled, "parameters", params);
}
