/* SPDX-License-Identifier: Apache-2.0
 * smooth.h - SmoothQuant (Xiao et al., 2023): an input channel of a layer that is much larger than the others takes
 * the codes of all, since activations have one scale. It is divided by s and the weights that meet it are multiplied:
 *
 *   s_c = max|X_c|^alpha / max|W_c|^(1 - alpha)
 *
 * so that part alpha of the trouble moves into the weights, which have a scale per output channel. 1 / s goes into
 * what makes the channel: scale and shift of the normalisation before it, a multiplied vector, or the layer before it
 * through a positively homogeneous activation. What the model computes does not change, but to rounding. Threads:
 * one. */
#ifndef PARED_QUANT_SMOOTH_H
#define PARED_QUANT_SMOOTH_H

#include "core/quant/channel_scale.h"
#include "core/quant/trial.h"

/* Regions of a model and the largest |x| of their channels on samples. */
struct smoothing {
    struct channel_scale scale;
    float *largest;    /* [scale.n] by root element, of inputs of products */
    double *alpha;     /* by region; NAN: left alone */
    double *factor;    /* [scale.n] */
    double *makes, *reads; /* [scale.n] work */
    int *useful;       /* regions in which anything can be done, in order */
    int n_useful;
};

/* Analyses m (prepared) and runs the samples `index` of data through it. m must not change until smoothing_fini, but by
 * smoothing_apply. */
int smoothing_init(struct smoothing *s, struct step_ctx *ctx, struct model *m, const struct scale_opts *opts,
                   const int64_t *index, int64_t n, struct err *err);
void smoothing_fini(struct smoothing *s);
/* Factors from alpha; then the constants of `m` change, which is the model given to init or, `on` given, a clone of
 * it as it was then. layers may be NULL. */
int smoothing_apply(struct smoothing *s, struct model *on, struct layer_report *layers, struct err *err);
/* One alpha for all regions, then one region after the other, by what quantizing costs on the trial's held samples.
 * Stops when the trials have spent `budget` multiply-accumulates. Leaves s->alpha at the best, NAN where leaving
 * alone is better. *best: the score reached; it holds the score without smoothing before the call. */
int smoothing_search(struct smoothing *s, struct trial *t, double budget, struct trial_score *best, struct err *err);

#endif
