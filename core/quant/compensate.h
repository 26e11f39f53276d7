/* SPDX-License-Identifier: Apache-2.0
 * compensate.h - rounding whose errors cancel: after rounding each weight to its nearest code, a few codes move to their
 * second nearest so that errors of weights which meet alike inputs sum to nearly nothing.
 * Why        A product's error is sum_k e_k x_k. Neighbouring pixels of a channel are nearly equal, and all inputs behind a
 *            Relu share a positive mean, so what hurts is the sum of the errors of a kernel, and of a whole output channel,
 *            more than each one. No data is needed.
 * Source     Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022: kernel-wise,
 *            then channel-wise flips. Here under the limits of pairs (isa_arithmetic.h), which are thereby compensated too.
 * Kept       A weight of zero keeps code zero. No code moves further than one from where it was. Sums only shrink. */
#ifndef PARED_QUANT_COMPENSATE_H
#define PARED_QUANT_COMPENSATE_H

#include "core/quant/isa_arithmetic.h"

/* codes of output channel o, made by pair_codes of these steps with these opts. steps: order->count of them, and room for
 * order->inner more; overwritten. Returns the sum of squared errors in steps. */
double compensate_codes(const struct sum_order *order, int64_t o, const struct pair_opts *opts, int32_t *codes,
                        double *steps);

#endif
