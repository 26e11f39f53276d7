/* SPDX-License-Identifier: Apache-2.0
 * channels_allocate.c - allocation=sensitivity: curves of every group that may lose channels (sensitivity.h) are
 * measured on the network before the first step, on validation samples where there are some. */
#include <math.h>
#include <stdlib.h>

#include "core/prune/channels.h"
#include "core/prune/sensitivity.h"

struct channels_allocation_run {
    struct channels_run *r;
    struct reference *reference;
    struct sensitivity *curves;
    bool *selected; /* [groups->n] */
    double *most;   /* [groups->n] */
    double *ratio;  /* [groups->n] of the last path */
};

static int progress_of(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "sensitivity", done, total, err) : 0;
}

static int refer(struct channels_allocation_run *a, struct err *err)
{
    struct channels_run *r = a->r;
    struct dataset *data = r->c->val_data ? r->c->val_data : r->c->data;
    int64_t *index = NULL;
    if (!data)
        return err_set(err, ERR_RECIPE, "%s needs a dataset for allocation=sensitivity", r->method);
    if (r->c->val_data && dataset_bind(r->c->val_data, r->c->model, err))
        return -1;
    const int64_t n = dataset_spread(data, r->p->has_samples ? r->p->samples : CHANNELS_SAMPLES, &index, err);
    if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: allocation=sensitivity needs samples");
    if (n > 0)
        a->reference = reference_new(
            r->c->model, &(struct reference_opts){.data = data, .index = index, .n = n, .pool = r->c->pool}, err);
    free(index);
    return a->reference ? 0 : -1;
}

struct channels_allocation_run *channels_allocate_new(struct channels_run *r, struct err *err)
{
    struct channels_allocation_run *a = calloc(1, sizeof *a);
    const size_t n = (size_t)r->groups->n + 1;
    if (a) {
        *a = (struct channels_allocation_run){.r = r,
                                              .selected = calloc(n, sizeof *a->selected),
                                              .most = calloc(n, sizeof *a->most),
                                              .ratio = calloc(n, sizeof *a->ratio)};
    }
    if (!a || !a->selected || !a->most || !a->ratio) {
        err_set(err, ERR_NOMEM, "out of memory while measuring the sensitivity of channels");
        goto failed;
    }
    for (int i = 0; i < r->groups->n; i++) {
        a->selected[i] = r->choice[i].chosen && isnan(r->choice[i].ratio);
        a->most[i] = r->p->max_ratio;
    }
    if (refer(a, err))
        goto failed;
    a->curves = sensitivity_measure(&(struct sensitivity_opts){.model = r->c->model,
                                                               .groups = r->groups,
                                                               .score = r->score,
                                                               .ratios = sensitivity_ratios,
                                                               .n_ratios = SENSITIVITY_N_RATIOS,
                                                               .selected = a->selected,
                                                               .min_keep = 1,
                                                               .reference = a->reference,
                                                               .progress = progress_of,
                                                               .progress_arg = r->c},
                                    err);
    if (a->curves)
        return a;
failed:
    channels_allocate_free(a);
    return NULL;
}

void channels_allocate_free(struct channels_allocation_run *a)
{
    if (!a)
        return;
    sensitivity_free(a->curves);
    reference_free(a->reference);
    free(a->selected);
    free(a->most);
    free(a->ratio);
    free(a);
}

/* The figure whose saving is weighed against the losses. */
static enum sensitivity_figure figure_of(const struct channels_run *r)
{
    static const enum sensitivity_figure figures[] = {[FIGURE_MACS] = SENSITIVITY_MACS,
                                                      [FIGURE_PARAMS] = SENSITIVITY_PARAMS,
                                                      [FIGURE_BYTES] = SENSITIVITY_BYTES,
                                                      [FIGURE_LATENCY] = SENSITIVITY_MACS};
    return r->limited ? figures[r->figure] : SENSITIVITY_CHANNELS;
}

int channels_allocate_path(void *arg, double ratio, int64_t *kept, struct err *err)
{
    struct channels_allocation_run *a = arg;
    const struct sensitivity_target target = {.figure = figure_of(a->r), .kept = 1 - ratio, .selected = a->selected,
                                              .most = a->most};
    struct sensitivity_plan plan;
    if (ratio > 0 && ratio < 1) {
        if (sensitivity_allocate(a->curves, &target, a->ratio, &plan, err))
            return -1;
    } else {
        for (int i = 0; i < a->r->groups->n; i++)
            a->ratio[i] = ratio;
    }
    select_each(a->r->select, a->ratio, kept);
    return 0;
}

void channels_allocate_keep(struct channels_allocation_run *a, const int64_t *kept)
{
    for (int i = 0; i < a->r->groups->n; i++) {
        const int at = a->r->origin_of[i];
        const int64_t n = a->r->groups->at[i].n;
        if (at < 0 || n <= 0 || !a->selected[i])
            continue;
        a->r->origin[at].ratio = 1 - (double)kept[i] / (double)n;
        a->r->origin[at].loss = sensitivity_loss_at(a->curves, i, a->r->origin[at].ratio);
    }
}
