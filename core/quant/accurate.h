/* SPDX-License-Identifier: Apache-2.0
 * accurate.h - quantize.static preset=accurate: the repairs of this family, each tried and kept only where samples
 * held back from its fitting say that the quantized model comes nearer to the float model (trial.h).
 * In order   the calibrator, cross-layer equalization, smoothing, rounding of weights, bias correction, and at last
 *            float for the few layers that cost the most.
 * Report     a row for each repair with the noise before and after and whether it was kept, the rows of those kept,
 *            then those of quantize.static.
 * Cost       bounded in multiply-accumulates, so the result does not depend on the machine. */
#ifndef PARED_QUANT_ACCURATE_H
#define PARED_QUANT_ACCURATE_H

#include "core/quant/static.h"

/* As quantize.static's run. o may change as in static_prepare. */
int static_accurate(struct step_ctx *c, struct quantize_static_params *o, struct err *err);

#endif
