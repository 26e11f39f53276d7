/* SPDX-License-Identifier: Apache-2.0
 * trial.c - quantize, run, compare (trial.h): a trial costs one pass over the calibration samples (if its ranges
 * changed) and one over the held ones. */
#include "core/quant/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern METHOD(quantize_static);

/* ---- samples ---- */
static int validation_samples(struct trial *t, const struct model *original, struct dataset **held, struct err *err)
{
    struct dataset *val = t->ctx->val_data;
    if (!val)
        return 0;
    if (dataset_bind(val, original, err))
        return -1;
    t->n_held = dataset_spread(val, TRIAL_HELD, &t->held, err);
    if (t->n_held > 0)
        *held = val;
    return t->n_held < 0 ? -1 : 0;
}

/* *held_data: where the held samples are. */
static int choose_samples(struct trial *t, const struct model *original, enum trial_samples samples,
                          struct dataset **held_data, struct err *err)
{
    struct step_ctx *c = t->ctx;
    int64_t *all = NULL, wanted = samples == TRIAL_WHOLE ? t->o->samples : 2 * t->o->samples;
    if (samples == TRIAL_SPLIT && wanted < 2 * TRIAL_HELD)
        wanted = 2 * TRIAL_HELD;
    const int64_t n = dataset_spread(c->data, wanted, &all, err);
    int rc = -1;
    *held_data = c->data;
    t->fit = n > 0 ? calloc((size_t)n, sizeof *t->fit) : NULL;
    if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: calibration needs at least one sample");
    if (n < 1 || (samples == TRIAL_SPLIT && validation_samples(t, original, held_data, err)))
        goto out;
    const bool val = *held_data != c->data, shared = !val && (samples == TRIAL_WHOLE || n < 6);
    if (!val) {
        free(t->held);
        t->held = calloc((size_t)n, sizeof *t->held);
        t->n_held = 0;
    }
    if (!t->fit || !t->held) {
        err_set(err, ERR_NOMEM, "out of memory while choosing samples");
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        const bool held = !val && (shared || i % 2) && t->n_held < TRIAL_HELD;
        if (held)
            t->held[t->n_held++] = all[i];
        if (shared || !held)
            t->fit[t->n_fit++] = all[i];
    }
    rc = 0;
out:
    free(all);
    return rc;
}

static int tick(void *arg, int64_t done, int64_t total, struct err *err)
{
    (void)done;
    (void)total;
    return trial_progress(arg, err);
}

int trial_init(struct trial *t, struct step_ctx *ctx, const struct quantize_static_params *o,
               const struct model *original, enum trial_samples samples, struct err *err)
{
    struct dataset *held_data;
    *t = (struct trial){.ctx = ctx, .o = o, .stage = "measure"};
    if (choose_samples(t, original, samples, &held_data, err))
        return -1;
    const struct reference_opts opts = {.data = held_data, .index = t->held, .n = t->n_held, .pool = ctx->pool,
                                        .progress = tick, .progress_arg = t};
    t->reference = reference_new(original, &opts, err);
    if (!t->reference)
        return -1;
    t->n_held = reference_samples(t->reference);
    t->macs = reference_macs(t->reference);
    t->spent = t->macs * (double)t->n_held;
    return 0;
}

void trial_fini(struct trial *t)
{
    reference_free(t->reference);
    free(t->held);
    free(t->fit);
    *t = (struct trial){0};
}

int trial_progress(struct trial *t, struct err *err)
{
    struct step_ctx *c = t->ctx;
    return c->progress ? c->progress(c, t->stage, t->done, t->total, err) : 0;
}

/* ---- scores ---- */
int trial_score(struct trial *t, const struct model *m, struct trial_score *score, struct err *err)
{
    if (reference_compare(t->reference, m, 0, &score->all, err))
        return -1;
    const double *noise = reference_noise(t->reference);
    score->n = t->n_held < TRIAL_HELD ? (int)t->n_held : TRIAL_HELD;
    for (int i = 0; i < score->n; i++)
        score->sample[i] = log(fmin(noise[i], 1e30) + 1e-12);
    t->spent += t->macs * (double)t->n_held;
    t->count++;
    return 0;
}

bool trial_better(const struct trial_score *a, const struct trial_score *b, double gain)
{
    const int n = a->n < b->n ? a->n : b->n;
    double mean = 0, variance = 0;
    for (int i = 0; i < n; i++)
        mean += (a->sample[i] - b->sample[i]) / n;
    for (int i = 0; i < n; i++)
        variance += pow(a->sample[i] - b->sample[i] - mean, 2);
    const double error = n > 1 ? sqrt(variance / (n - 1) / n) : 0;
    return n > 0 && mean < log(1 - gain) && mean + error < 0;
}

struct calibration *trial_calibrate(struct trial *t, struct model *candidate, struct err *err)
{
    struct step_ctx c = *t->ctx;
    c.model = candidate;
    t->spent += t->macs * (double)t->o->samples;
    return static_calibrate(&c, t->o, err);
}

struct model *trial_clone_quantized(struct trial *t, const struct model *candidate,
                                    const struct calibration *calibration,
                                    const struct static_choice *choice, struct err *err)
{
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct model *m = layers && warnings ? model_clone(candidate, err) : NULL;
    if (m && static_quantize(m, calibration, t->o, choice, layers, warnings, err)) {
        model_free(m);
        m = NULL;
    } else if (!m)
        err_set(err, ERR_NOMEM, "out of memory while trying a quantization");
    layer_report_free(layers);
    warnings_free(warnings);
    return m;
}

int trial_quantized(struct trial *t, const struct model *candidate, const struct calibration *calibration,
                    const struct static_choice *choice, struct trial_score *score, struct err *err)
{
    struct calibration *own = NULL;
    struct model *float_clone = NULL, *m = NULL;
    int rc = -1;
    if (!calibration) {
        float_clone = model_clone(candidate, err);
        own = float_clone ? trial_calibrate(t, float_clone, err) : NULL;
        if (!own)
            goto out;
        calibration = own;
    }
    m = trial_clone_quantized(t, candidate, calibration, choice, err);
    rc = m ? trial_score(t, m, score, err) : -1;
out:
    model_free(m);
    model_free(float_clone);
    calibration_free(own);
    return rc;
}

int trial_default_params(struct quantize_static_params *o, struct err *err)
{
    *o = (struct quantize_static_params){0};
    return params_default(method_quantize_static.params, o, err);
}
