/* SPDX-License-Identifier: Apache-2.0
 * pared methods: the catalogue of steps, the same rows as GET /v1/methods. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "core/recipe/nearest.h"
#include "core/recipe/recipe.h"

static const char help[] =
    "Usage: pared methods [METHOD] [--json]\n\n"
    "The steps a recipe may use; with METHOD its parameters. The presets and targets follow the list.\n\n"
    "  --json   the catalogue as JSON (an array, or one object with METHOD), as GET /v1/methods gives it\n";

static void print_param(const struct param *p)
{
    static const char *const kinds[] = {
        [PARAM_INT] = "integer",   [PARAM_NUMBER] = "number", [PARAM_BOOL] = "true|false",
        [PARAM_STRING] = "string", [PARAM_GLOBS] = "globs", [PARAM_JSON] = "object",
        [PARAM_NUMBERS] = "numbers",
    };
    printf("  %-14s ", p->name);
    if (p->kind == PARAM_ENUM)
        for (const char *const *c = p->choices; *c; c++)
            printf("%s%s", c == p->choices ? "" : "|", *c);
    else
        fputs(kinds[p->kind], stdout);
    for (int i = 0; p->kind == PARAM_INT && p->choices && p->choices[i]; i++)
        printf("|%s", p->choices[i]);
    if (p->min < p->max && p->max < 9e15)
        printf(" %s%g, %g%s", p->above_min ? "(" : "[", p->min, p->max, p->below_max ? ")" : "]");
    else if (p->min < p->max)
        printf(" %s %g", p->above_min ? ">" : ">=", p->min);
    if (p->def)
        printf(", default %s", p->def);
    if (p->required)
        fputs(", required", stdout);
    printf("\n  %-14s   %s\n", "", p->doc ? p->doc : "");
}

static void print_method(const struct method *m)
{
    printf("%s - %s\n", m->name, m->summary);
    if (m->doc)
        printf("\n%s\n", m->doc);
    if (m->params && m->params->name)
        fputs("\nParameters:\n", stdout);
    for (const struct param *p = m->params; p && p->name; p++)
        print_param(p);
    printf("\nNeeds:%s%s%s%s%s\n", m->needs & NEEDS_DATA ? " a dataset" : "",
           m->needs & NEEDS_LABELS ? " with labels" : "", m->needs & NEEDS_RUN ? " a model that can run" : "",
           m->needs ? "" : " nothing but the model", m->needs_of ? "; more with some parameters" : "");
}

static void print_all(void)
{
    fputs("Methods:\n", stdout);
    for (const struct method *const *m = method_all(); *m; m++)
        printf("  %-20s %s\n", (*m)->name, (*m)->summary);
    fputs("\nPresets (--recipe NAME):\n", stdout);
    for (const struct preset *const *p = preset_all(); *p; p++)
        printf("  %-20s %s\n", (*p)->name, (*p)->summary);
    fputs("\nTargets (--target NAME=VALUE):\n", stdout);
    for (const struct target *t = target_all(); t->name; t++)
        printf("  %-20s %s\n", t->name, t->doc);
}

static int unknown(const char *name)
{
    struct nearest near = NEAREST(name);
    char hint[80];
    for (const struct method *const *m = method_all(); *m; m++)
        nearest_offer(&near, (*m)->name);
    struct err err = {0};
    err_set(&err, ERR_NOT_FOUND, "there is no method '%.100s'%s", name,
            near.best ? nearest_hint(&near, hint, sizeof hint) : "; `pared methods` lists them");
    return cli_fail(&err);
}

int cmd_methods(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    bool json = false;
    for (int c; (c = getopt_long(argc, argv, "jh", options, NULL)) != -1;) {
        if (c == 'h')
            return cli_help(help);
        if (c != 'j')
            return cli_usage("methods", "wrong option");
        json = true;
    }
    if (argc - optind > 1)
        return cli_usage("methods", "one method at a time");
    const struct method *m = NULL;
    if (optind < argc && !(m = method_find(argv[optind])))
        return unknown(argv[optind]);
    if (json)
        return cli_print_json(method_json(m));
    if (m)
        print_method(m);
    else
        print_all();
    return CLI_OK;
}
