/* SPDX-License-Identifier: Apache-2.0
 * step.c - one method on one model, for tests that look at the result with another runtime:
 *   step METHOD IN.onnx OUT.onnx [--data D] [key=value ...]      prints the layer report as JSON */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/validate.h"
#include "core/step/method.h"

#define X(id) extern const struct method method_##id;
#include "method_list.inc"
#undef X
static const struct method *const methods[] = {
#define X(id) &method_##id,
#include "method_list.inc"
#undef X
};

static void set_param(const struct param *p, void *params, const char *text)
{
    char *field = (char *)params + p->offset;
    if (p->given)
        *((bool *)((char *)params + p->given - 1)) = true;
    if (p->kind == PARAM_INT)
        *(int64_t *)(void *)field = strtoll(text, NULL, 10);
    else if (p->kind == PARAM_NUMBER)
        *(double *)(void *)field = strtod(text, NULL);
    else if (p->kind == PARAM_BOOL)
        *(bool *)field = strcmp(text, "true") == 0;
    else if (p->kind == PARAM_STRING)
        *(const char **)(void *)field = text;
    else if (p->kind == PARAM_ENUM) {
        for (int i = 0; p->choices[i]; i++)
            if (strcmp(p->choices[i], text) == 0)
                *(int *)(void *)field = i;
    } else if (p->kind == PARAM_JSON)
        *(const json_t **)(void *)field = json_loads(text, 0, NULL);
    else {
        struct globs *g = (void *)field;
        const char **at = realloc(g->at, ((size_t)g->count + 1) * sizeof *at);
        if (!at)
            exit(1);
        at[g->count++] = text;
        g->at = at;
    }
}

static void set_default(const struct param *p, void *params)
{
    static char texts[32][64]; /* strings of parameters are borrowed from here */
    static int used;
    if (!p->def || used == 32)
        return;
    size_t n = strlen(p->def);
    bool quoted = p->def[0] == '"' && n >= 2;
    snprintf(texts[used], sizeof texts[used], "%.*s", (int)(quoted ? n - 2 : n), p->def + quoted);
    set_param(p, params, texts[used++]);
    if (p->given)
        *((bool *)((char *)params + p->given - 1)) = false;
}

int main(int argc, char **argv)
{
    const struct method *method = NULL;
    struct err err = {0};
    const char *data = NULL;
    if (argc < 4)
        return 2;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(methods[i]->name, argv[1]) == 0)
            method = methods[i];
    if (!method)
        return fprintf(stderr, "no method %s\n", argv[1]), 2;
    engine_init();
    void *params = calloc(1, method->params_size + 1);
    for (const struct param *p = method->params; p->name; p++)
        set_default(p, params);
    for (int i = 4; i < argc; i++) {
        if (strcmp(argv[i], "--data") == 0) {
            data = argv[++i];
            continue;
        }
        char *eq = strchr(argv[i], '=');
        if (!eq)
            return 2;
        *eq = '\0';
        for (const struct param *p = method->params; p->name; p++)
            if (strcmp(p->name, argv[i]) == 0)
                set_param(p, params, eq + 1);
    }
    struct model *m = onnx_read_file(argv[2], &(struct onnx_read_opts){0}, &err);
    struct pool *pool = pool_new(2);
    struct dataset *ds = NULL;
    struct rng rng;
    rng_init(&rng, 0, 0);
    int rc = m ? 0 : -1;
    if (rc == 0)
        rc = model_validate(m, &err);
    if (rc == 0 && data) {
        ds = dataset_open(data, &(struct dataset_opts){.pool = pool}, &err);
        rc = ds ? dataset_bind(ds, m, &err) : -1;
    }
    struct step_ctx c = {.model = m,
                         .params = params,
                         .data = ds,
                         .pool = pool,
                         .rng = &rng,
                         .layers = layer_report_new(),
                         .warnings = warnings_new(),
                         .ramp = 1,
                         .details = json_object()};
    if (rc == 0)
        rc = method->run(&c, &err);
    if (rc == 0)
        rc = model_validate(m, &err);
    if (rc == 0)
        rc = onnx_write_file(m, argv[3], &(struct onnx_write_opts){0}, &err);
    if (rc == 0) {
        json_t *j =
            json_pack("{s:o,s:o}", "layers", layer_report_json(c.layers), "warnings", warnings_json(c.warnings));
        json_dumpf(j, stdout, JSON_INDENT(1));
        json_decref(j);
        puts("");
    } else {
        fprintf(stderr, "%s: %s\n", err_slug(err.code), err.msg);
    }
    layer_report_free(c.layers);
    warnings_free(c.warnings);
    json_decref(c.details);
    if (ds)
        dataset_close(ds);
    pool_free(pool);
    model_free(m);
    free(params);
    return rc ? 1 : 0;
}
