/* SPDX-License-Identifier: Apache-2.0
 * plan_types: what inference says of every value of a model under its declared input shapes, a line each:
 *   name <tab> dtype <tab> dims with commas: sizes, formulas of symbols, "?"; "..." for an unknown rank
 * A line "# path" starts a model, "! sentence" says why there is nothing, "~ sentence" names a declaration that
 * inference contradicts. */
#include <inttypes.h>
#include <stdio.h>

#include "core/engine/plan.h"
#include "core/model/onnx_read.h"

static void print_type(const struct plan *plan, const struct model *m, uint32_t v, const struct type *t)
{
    printf("%s\t%s\t", m->values[v].name, dtype_name(t->dtype));
    for (int d = 0; d < t->shape.rank; d++) {
        const char *name = plan_symbol(plan, t->shape.dim[d]);
        if (t->shape.dim[d] >= 0)
            printf("%s%" PRId64, d ? "," : "", t->shape.dim[d]);
        else
            printf("%s%s", d ? "," : "", name ? name : "?");
    }
    puts(t->shape.rank < 0 ? "..." : "");
}

static void say(void *arg, const char *sentence)
{
    (void)arg;
    printf("~ %s\n", sentence);
}

static void print_model(const char *path)
{
    struct err err = {0};
    const struct type *types;
    printf("# %s\n", path);
    struct model *m = onnx_read_file(path, &(struct onnx_read_opts){0}, &err);
    struct plan *plan = m ? plan_new(m, NULL, &err) : NULL;
    if (!plan || plan_infer(plan, NULL, &types, &err)) {
        printf("! %s\n", err.msg);
    } else {
        plan_contradictions(plan, say, NULL);
        for (uint32_t v = 0; v < m->n_values; v++)
            if (m->values[v].name && m->values[v].graph == 0 && types[v].kind == TYPE_TENSOR)
                print_type(plan, m, v, &types[v]);
    }
    plan_free(plan);
    model_free(m);
}

int main(int argc, char **argv)
{
    char line[4096];
    engine_init();
    for (int i = 1; i < argc; i++)
        print_model(argv[i]);
    while (argc == 1 && fgets(line, sizeof line, stdin)) { /* paths a line */
        for (char *c = line; *c; c++)
            if (*c == '\n')
                *c = 0;
        print_model(line);
    }
    return 0;
}
