/* SPDX-License-Identifier: Apache-2.0
 * plan_table: what the plan of each model costs, as a Markdown table: nodes that run, time to plan them, the activation
 * slab and how far it is above its lower bound (the largest sum of bytes alive together), outputs not counted.
 *   plan_table [-o] [-b BATCH] MODEL...     -o: as rewritten for speed (plan_opts.optimize) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/engine/plan.h"
#include "core/model/onnx_read.h"

static int infer(struct plan *plan, int64_t batch)
{
    static const int64_t sizes[] = {1, 8, 32, 64, 224, 256};
    const struct type *types;
    int rc = -1, n = plan_n_inputs(plan);
    struct shape *in = calloc((size_t)n + 1, sizeof *in);
    for (size_t k = 0; in && rc && k < sizeof sizes / sizeof sizes[0]; k++) { /* sizes that unknown dims may have */
        for (int i = 0; i < n; i++)
            plan_input_shape(plan, i, batch, sizes[k], &in[i]);
        rc = plan_infer(plan, in, &types, NULL);
    }
    free(in);
    return rc;
}

static int row(const char *path, bool optimize, int64_t batch)
{
    struct err err = {0};
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    struct model *m = onnx_read_file(path, &(struct onnx_read_opts){0}, &err);
    const double start = clock_seconds();
    struct plan *plan = m ? plan_new(m, &(struct plan_opts){.optimize = optimize}, &err) : NULL;
    const int rc = plan ? infer(plan, batch) : -1;
    const double ms = (clock_seconds() - start) * 1e3;
    if (rc) {
        printf("| %s | %s |\n", name, plan ? "its shapes could not be inferred" : err.msg);
    } else {
        const size_t slab = plan_slab_bytes(plan), lower = plan_slab_lower_bound(plan);
        printf("| %s | %d | %.2f | %zu | %zu | %.3f |\n", name, plan->n_run, ms, slab, lower,
               lower ? (double)slab / (double)lower : 1.0);
    }
    plan_free(plan);
    model_free(m);
    return rc;
}

int main(int argc, char **argv)
{
    bool optimize = false;
    int64_t batch = 1;
    int failed = 0, i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        optimize = optimize || !strcmp(argv[i], "-o");
        if (!strcmp(argv[i], "-b") && i + 1 < argc)
            batch = strtoll(argv[++i], NULL, 10);
    }
    engine_init();
    printf("| model | nodes | plan ms | slab bytes | lower bound | ratio |\n| --- | --- | --- | --- | --- | --- |\n");
    for (; i < argc; i++)
        failed += row(argv[i], optimize, batch) != 0;
    return failed != 0;
}
