/* SPDX-License-Identifier: Apache-2.0
 * bias_correction.h - quantization shifts the mean of a layer's outputs, since its rounding errors do not average out
 * over a trained network's inputs; the bias takes the shift back (Nagel et al., 2019):
 *
 *   b_c -= E[y_quantized] - E[y_float]     per output channel c
 *
 * Model      The corrected biases are those of the float model: quantized afterwards with the same parameters, its
 *            means are those of the float model. So it is a step before quantize.static, which it simulates.
 * fast       each layer alone: what its quantized weights and input do to the mean, computed from the mean input, since
 *            products are linear: E[y_q] - E[y] = W_q E[Q(x)] - W E[x].
 * sequential after that, from the first layer to the last, what is left of the shift with everything before it
 *            quantized.
 * Threads    one caller. Errors: as of static_quantize and plan_run. */
#ifndef PARED_QUANT_BIAS_CORRECTION_H
#define PARED_QUANT_BIAS_CORRECTION_H

#include "core/quant/trial.h"

struct bias_correction_opts {
    bool sequential;
    double max_ratio; /* a shift beyond this many times max(|b|, |E[y]|, standard deviation of y) is not believed */
    double budget;    /* multiply-accumulates of the sequential passes; a pass corrects at least one layer */
};

/* Corrects the biases of m: the trial's reference or what equalization made of a clone of it. calibration: of m.
 * layers may be NULL. Returns the number of layers corrected; -1. */
int bias_correction(struct trial *t, struct model *m, const struct calibration *calibration,
                    const struct static_choice *choice,
                    const struct bias_correction_opts *o, struct layer_report *layers, struct err *err);

#endif
