/* SPDX-License-Identifier: Apache-2.0
 * ranges.h - the smallest and largest number each value of a graph takes over a set of samples (min-max calibration).
 * How        A plan_observer: give ranges_observe and the struct to plan_run (or to evaluate_each's `run`) and run
 *            batches; nothing
 *            is kept but two numbers a value. Only float values are observed. NaN and infinities are counted, and
 *            left out.
 * Life cycle ranges_new -> (plan_run with ranges_observe)* -> ranges_get -> ranges_free. Threads: one a plan.
 * Ownership  Values are named by their ids in the plan's model; nothing of the model is kept. */
#ifndef PARED_STATS_RANGES_H
#define PARED_STATS_RANGES_H

#include "core/engine/engine.h"
#include "core/kernels/extent.h"

struct range {
    float min, max;     /* of finite elements; min > max: none seen */
    int64_t count;      /* elements seen, finite or not */
    int64_t nan, inf;
    int64_t batches;
};

struct ranges; /* opaque */

struct ranges *ranges_new(uint32_t n_values); /* m->n_values */
void ranges_free(struct ranges *r);
/* A plan_observer; arg is the struct ranges. */
int ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err);
/* What n numbers of a value were, found elsewhere. */
void ranges_add(struct ranges *r, uint32_t value, const struct extent *seen, int64_t n);
/* NULL: never observed (not a float, not run, or no such value). Borrowed until ranges_free. */
const struct range *ranges_get(const struct ranges *r, uint32_t value);

/* Smallest and largest finite element of n floats, and how many are NaN / infinite; adds to *range (start with
 * RANGE_EMPTY). */
#define RANGE_EMPTY ((struct range){.min = __builtin_inff(), .max = -__builtin_inff()})
void range_add(struct range *range, const float *x, int64_t n);
void range_add_seen(struct range *range, const struct extent *seen, int64_t n);

#endif
