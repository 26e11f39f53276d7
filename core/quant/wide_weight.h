/* SPDX-License-Identifier: Apache-2.0
 * wide_weight.h - weight codes in the forms affine.h does not make: 4 and 16 bits, and asymmetric ones. */
#ifndef PARED_QUANT_WIDE_WEIGHT_H
#define PARED_QUANT_WIDE_WEIGHT_H

#include "core/quant/affine.h"

/* As qweight_make, which it takes the place of; opts->isa and reach say nothing here, but codes of 8 bits keep to 7 where
 * `pairs` (asymmetric int8 on CPUs that add pairs of products in 16 bits). symmetric false: one scale and one zero point for the
 * whole weight (per_channel must be false). 4 bits: the scale of a channel is that of 48 shares of its largest number, from 0.5
 * up, with the least squared error; for 16 bits the largest number sets it. Errors as of qweight_make. */
int wide_weight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, bool symmetric,
                     bool pairs, struct err *err);

#endif
