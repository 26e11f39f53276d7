/* SPDX-License-Identifier: Apache-2.0
 * optimize.c - graph.optimize: the ordered table of passes, run until a whole round changes nothing. Each pass sees a
 * fresh index of readers and freshly inferred types, so passes need no knowledge of each other. A cap on rounds guards
 * against two passes that would undo each other; ordinary models need three to five. */
#include <math.h>
#include <stdio.h>

#include "core/passes/pass.h"
#include "core/step/method.h"

enum { MAX_ROUNDS = 50 };

/* Order matters for speed, not for the result: cheap removals first, so that the others see neighbours. */
static const struct pass passes[] = {
    {"constant_inputs", "weights listed among the inputs become constants", pass_constant_inputs},
    {"fold_constants", "nodes on constants are evaluated", pass_fold_constants},
    {"remove_noops", "Identity, Dropout, and reshapes, casts, slices, pads that change nothing", pass_remove_noops},
    {"transposes", "Transposes are merged, moved behind element-wise nodes, and cancelled", pass_transposes},
    {"reshapes", "chains of Reshape become one, computed targets become constants", pass_reshapes},
    {"fold_batchnorm", "BatchNormalization goes into the product before it", pass_fold_batchnorm},
    {"add_bias", "an added constant becomes the bias of its product", pass_add_bias},
    {"merge_common", "equal weights and equal computations become one", pass_merge_common},
    {"dead_code", "nodes nobody reads are removed", pass_dead_code},
};
enum { N_PASSES = sizeof passes / sizeof passes[0] };

/* What quantization wants to see: products with their BatchNormalization and bias inside, constants as initializers. */
static const struct pass preparation[] = {
    {"constant_inputs", "", pass_constant_inputs},
    {"fold_constants", "", pass_fold_constants},
    {"remove_noops", "", pass_remove_noops},
    {"fold_batchnorm", "", pass_fold_batchnorm},
    {"add_bias", "", pass_add_bias},
    {"dead_code", "", pass_dead_code},
};
enum { N_PREPARATION = sizeof preparation / sizeof preparation[0] };

/* What finding groups for pruning wants to see: constants as initializers, arithmetic on fixed sizes as numbers, and every layer
 * as it was. */
static const struct pass constants[] = {
    {"constant_inputs", "", pass_constant_inputs},
    {"fold_constants", "", pass_fold_constants},
};
enum { N_CONSTANTS = sizeof constants / sizeof constants[0] };

static int run_pass(const struct pass *pass, struct pass_ctx *c, struct model *m, struct err *err)
{
    int rc = -1;
    c->opset = model_opset(m, "");
    c->changes = 0;
    if (edit_init(&c->edit, m, err))
        return -1;
    if (infer_run(&c->infer, m, err) == 0) {
        rc = pass->run(c, err);
        if (rc == 0)
            rc = edit_finish(&c->edit, err);
        infer_fini(&c->infer);
    }
    edit_fini(&c->edit);
    return rc ? err_wrap(err, "pass %s: ", pass->name) : 0;
}

static int run_passes(const struct pass *list, int n, struct pass_ctx *c, struct model *m, struct err *err)
{
    bool changed = true;
    for (int round = 0; changed && round < MAX_ROUNDS; round++) {
        changed = false;
        for (int p = 0; p < n; p++) {
            if (run_pass(&list[p], c, m, err))
                return -1;
            changed = changed || c->changes > 0;
        }
    }
    return 0;
}

int passes_prepare(struct model *m, struct layer_report *layers, struct warnings *warnings, struct err *err)
{
    struct pass_ctx c = {.layers = layers, .warnings = warnings};
    return run_passes(preparation, N_PREPARATION, &c, m, err);
}

int passes_constants(struct model *m, struct warnings *warnings, struct err *err)
{
    struct pass_ctx c = {.warnings = warnings};
    return run_passes(constants, N_CONSTANTS, &c, m, err);
}

static int64_t count_nodes(const struct model *m)
{
    int64_t n = 0;
    for (uint32_t g = 0; g < m->n_graphs; g++)
        n += m->graphs[g].n_nodes;
    return n;
}

static void report_totals(struct step_ctx *s, const int *totals)
{
    for (int p = 0; p < N_PASSES; p++) {
        struct layer_row row = {.node = NODE_NONE, .label = passes[p].name, .weight = VALUE_NONE, .sqnr_db = NAN};
        if (totals[p] == 0)
            continue;
        row.after = json_pack("{s:i}", "changes", totals[p]);
        layer_report_add(s->layers, s->model, &row);
    }
}

static int run(struct step_ctx *s, struct err *err)
{
    int totals[N_PASSES] = {0};
    int64_t before = count_nodes(s->model);
    bool changed = true, last = false;
    for (int round = 0; changed || !last; round++) {
        last = !changed || round >= MAX_ROUNDS; /* one more round, which only says why things stayed */
        changed = false;
        for (int p = 0; p < N_PASSES; p++) {
            struct pass_ctx c = {.layers = s->layers, .warnings = s->warnings, .last = last};
            if (s->progress && s->progress(s, passes[p].name, p, N_PASSES, err))
                return -1;
            if (run_pass(&passes[p], &c, s->model, err))
                return -1;
            totals[p] += c.changes;
            changed = changed || c.changes > 0;
        }
        if (round >= MAX_ROUNDS)
            break;
    }
    report_totals(s, totals);
    struct layer_row row = {.node = NODE_NONE, .label = "graph", .weight = VALUE_NONE, .sqnr_db = NAN};
    row.before = json_pack("{s:I}", "nodes", (json_int_t)before);
    row.after = json_pack("{s:I}", "nodes", (json_int_t)count_nodes(s->model));
    layer_report_add(s->layers, s->model, &row);
    return 0;
}

static const struct param params[] = {{0}};

METHOD(graph_optimize) = {
    .name = "graph.optimize",
    .summary = "the same computation with fewer nodes",
    .doc =
        "Folds BatchNormalization and added constants into the products before them, evaluates constants, cancels "
        "Transposes, merges "
        "duplicates, and removes what does nothing. Outputs stay equal to rounding; names of inputs and outputs stay.",
    .params = params,
    .params_size = 1,
    .needs = NEEDS_NOTHING,
    .run = run,
};
