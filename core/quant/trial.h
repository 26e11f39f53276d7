/* SPDX-License-Identifier: Apache-2.0
 * trial.h - trying a choice: quantize a candidate as quantize.static would, and measure on samples held back how far
 * its outputs are from those of the float model. What preset=accurate and the automatic smoothing strength decide by.
 * Samples    `held`: decisions. `fit`: what corrections are computed from. With TRIAL_SPLIT: val_data if the step has
 *            it; else every second sample of the calibration data is held back. With TRIAL_WHOLE, or fewer than 6
 *            samples, both are all. Ranges are always calibrated on the samples quantize.static takes.
 * Chance     the noise of a few samples can outweigh all others, so two scores are compared sample by sample:
 *            trial_better.
 * Cost       counted in multiply-accumulates, not in seconds, so that what is tried does not depend on the machine.
 * Errors     as of static_calibrate and static_quantize. Threads: one caller. */
#ifndef PARED_QUANT_TRIAL_H
#define PARED_QUANT_TRIAL_H

#include "core/quant/static.h"
#include "core/stats/reference.h"

enum { TRIAL_HELD = 128 }; /* most samples held back */
enum trial_samples { TRIAL_SPLIT, TRIAL_WHOLE };

struct trial {
    struct step_ctx *ctx; /* borrowed */
    const struct quantize_static_params *o;
    struct reference *reference; /* what the float model says of the held samples */
    int64_t *held, *fit;         /* sample numbers of the held data, of ctx->data */
    int64_t n_held, n_fit;
    double macs;  /* of the float model, one sample */
    double spent; /* multiply-accumulates so far */
    int64_t count; /* of trials */
    const char *stage; /* for progress */
    int64_t done, total;
};

struct trial_score {
    struct closeness all;
    int n;
    double sample[TRIAL_HELD]; /* log of each sample's noise */
};
/* True if a is less noise than b by at least the share `gain` (geometric mean over the samples), and that is not
 * likely to be chance: its standard error away from 0. */
bool trial_better(const struct trial_score *a, const struct trial_score *b, double gain);

/* `original`: in float, prepared (static_prepare). */
int trial_init(struct trial *t, struct step_ctx *ctx, const struct quantize_static_params *o,
               const struct model *original,
               enum trial_samples samples, struct err *err);
void trial_fini(struct trial *t);
/* A float candidate, quantized on a clone with `calibration` (NULL: calibrated here). */
int trial_quantized(struct trial *t, const struct model *candidate, const struct calibration *calibration,
                    const struct static_choice *choice, struct trial_score *score, struct err *err);
/* A model as it is. */
int trial_score(struct trial *t, const struct model *m, struct trial_score *score, struct err *err);
/* Ranges of a candidate, and a quantized clone of it without rows for the report. NULL on error; the caller frees. */
struct calibration *trial_calibrate(struct trial *t, struct model *candidate, struct err *err);
struct model *trial_clone_quantized(struct trial *t, const struct model *candidate,
                                    const struct calibration *calibration,
                                    const struct static_choice *choice, struct err *err);
int trial_progress(struct trial *t, struct err *err);

/* quantize.static's parameters with their defaults. ERR_INTERNAL: a default does not parse. */
int trial_default_params(struct quantize_static_params *o, struct err *err);

#endif
