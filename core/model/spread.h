/* SPDX-License-Identifier: Apache-2.0
 * spread.h - how the values of one tensor are spread, for a drawing.
 * Only looks Works on unaligned windows into a file. Ownership: the tensor is borrowed for the call. */
#ifndef PARED_MODEL_SPREAD_H
#define PARED_MODEL_SPREAD_H

#include <jansson.h>

#include "core/tensor/tensor.h"

enum { SPREAD_BINS = 48, SPREAD_SAMPLES = 1 << 16 };

/* { low, high, mean, deviation, counts: [SPREAD_BINS], sampled? }: counts of equal bins over [low, high], one bin when
 * all are equal. Of more than SPREAD_SAMPLES elements as many are taken, evenly, and `sampled` says how many. Values
 * that are not finite are left out. NULL: no bytes, no numbers, or no memory. */
json_t *tensor_spread_json(const struct tensor *t);

#endif
