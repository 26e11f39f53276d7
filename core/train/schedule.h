/* SPDX-License-Identifier: Apache-2.0
 * schedule.h - the learning rate of each update.
 * With t = updates done / all updates, r = warm-up updates / all updates, and s = (t - r) / (1 - r):
 *   cosine     lr (1 + cos(pi s)) / 2             (Loshchilov & Hutter 2017)
 *   one_cycle  from lr/25 up to lr by a cosine over the first 30 %, then down to lr/250000 (Smith 2018, as torch's
 *   OneCycleLR) step       lr step_by^floor(epochs / step_at) linear     lr (1 - s) constant   lr
 * and before: lr (updates + 1) / warm-up updates (one_cycle has its own rise). */
#ifndef PARED_TRAIN_SCHEDULE_H
#define PARED_TRAIN_SCHEDULE_H

#include "core/train/train_params.h"

/* lr of update `step` (from 0) of `epochs` epochs of `per_epoch` updates. base: the largest one. */
double schedule_lr(const struct train_params *p, double base, int64_t step, int64_t per_epoch);

#endif
