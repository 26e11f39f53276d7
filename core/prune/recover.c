/* SPDX-License-Identifier: Apache-2.0
 * recover.c - the rows recover.bn_stats and recover.least_squares, and the parameter `recover` of what prunes
 * (recover.h). */
#include "core/prune/recover.h"

struct params {
    int64_t samples;
};

static int report_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "repairing", done, total, err) : 0;
}

typedef int recover_fn(struct model *m, const struct recover_opts *o, struct err *err);

static int run(struct step_ctx *c, recover_fn *fn, struct err *err)
{
    const struct params *p = c->params;
    const struct recover_opts o = {.original = c->source,
                                   .data = c->data,
                                   .val_data = c->val_data,
                                   .samples = p->samples,
                                   .pool = c->pool,
                                   .seed = c->seed,
                                   .layers = c->layers,
                                   .warnings = c->warnings,
                                   .progress = report_progress,
                                   .progress_arg = c};
    return fn(c->model, &o, err);
}

static int run_bn_stats(struct step_ctx *c, struct err *err)
{
    return run(c, recover_bn_stats, err);
}

static int run_least_squares(struct step_ctx *c, struct err *err)
{
    return run(c, recover_least_squares, err);
}

static const struct param rows[] = {
    {PARAM(params, samples), .kind = PARAM_INT, .def = "512", .min = 2, .max = 1e6,
     .doc = "samples of the dataset to measure on, spread evenly over it"},
    {0},
};

METHOD(recover_bn_stats) = {
    .name = "recover.bn_stats",
    .summary = "statistics of BatchNormalization estimated again, after pruning",
    .doc =
        "In topological order each BatchNormalization gets mean and variance of what it reads in the pruned network. "
        "A product whose BatchNormalization is folded away gets its weight and bias scaled so that mean and standard "
        "deviation of each channel are the original network's. Needs no labels.",
    .params = rows,
    .params_size = sizeof(struct params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run_bn_stats,
};

METHOD(recover_least_squares) = {
    .name = "recover.least_squares",
    .summary =
        "every pruned layer fitted to the original network's outputs, one after another, without labels or training",
    .doc =
        "Every product whose input or weight was pruned gets the weight and bias that bring the channels it still "
        "makes nearest to the original network's (He et al., ICCV 2017): ridge regression on what it reads in the "
        "network as repaired so far, through BatchNormalization, residual sums and the flat parts of Relu-like "
        "activations. The ridge is chosen on samples held out, and a fit that does not help them is not taken. Masks "
        "of pruned weights are kept.",
    .params = rows,
    .params_size = sizeof(struct params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run_least_squares,
};

const char *const recover_kinds[] = {"auto", "none", "bn_stats", "least_squares", NULL};

/* 1; 0: what is missing was said as a warning; -1. */
static int auto_is_able(const struct model *m, const struct recover_opts *o, struct err *err)
{
    struct missing_ops missing = {0};
    char text[200];
    if (!o->data || dataset_count(o->data) < 2) {
        if (o->warnings)
            warnings_add(o->warnings,
                         "nothing repairs what pruning did to the layers that are left: that needs samples, "
                         "two at least; give a dataset, or say recover=none");
        return 0;
    }
    if (engine_missing_ops(m, &missing, err))
        return -1;
    if (missing.count > 0 && o->warnings)
        warnings_add(o->warnings,
                     "nothing repairs what pruning did to the layers that are left: the model cannot be run "
                     "here (no %s)",
                     missing_ops_text(&missing, text, sizeof text));
    const int able = missing.count == 0;
    missing_ops_fini(&missing);
    return able;
}

int recover_run(enum recover_kind kind, struct model *m, const struct recover_opts *o, struct err *err)
{
    static recover_fn *const kinds[] = {[RECOVER_AUTO] = recover_least_squares,
                                        [RECOVER_NONE] = NULL,
                                        [RECOVER_BN_STATS] = recover_bn_stats,
                                        [RECOVER_LEAST_SQUARES] = recover_least_squares};
    const int able = kind == RECOVER_AUTO ? auto_is_able(m, o, err) : 1;
    if (able <= 0)
        return able;
    return kinds[kind] ? kinds[kind](m, o, err) : 0;
}
