/* SPDX-License-Identifier: Apache-2.0
 * channel_ranges.h - the smallest and largest number of each channel of chosen values over a set of samples.
 * Why        A bound for a whole tensor is loose where channels differ: how far each input channel of a layer reaches says
 *            which sums of products can occur at all.
 * How        channel_ranges_want for each value and its channel axis, then channel_ranges_observe while the model runs
 *            (sampling.h). Values must come as the model has them, not in a layout of the engine's own. Only float32 counts;
 *            NaN and infinities are left out.
 * Memory     two floats a channel of the wanted values. Threads: one a plan. Errors: ERR_NOMEM. */
#ifndef PARED_STATS_CHANNEL_RANGES_H
#define PARED_STATS_CHANNEL_RANGES_H

#include "core/engine/engine.h"

struct channel_ranges; /* opaque */

struct channel_extent {
    const float *min, *max; /* [channels], borrowed; min > max: nothing finite was seen in it */
    int64_t channels;
};

struct channel_ranges *channel_ranges_new(uint32_t n_values); /* NULL: out of memory */
void channel_ranges_free(struct channel_ranges *r);
/* axis below zero counts from the end. A value wanted along two axes gives no ranges. */
void channel_ranges_want(struct channel_ranges *r, uint32_t value, int axis);
/* A plan_observer; arg is the struct channel_ranges. A value whose number of channels changes gives no ranges. */
int channel_ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err);
/* False: not wanted along this axis, never seen, or seen with different numbers of channels. */
bool channel_ranges_get(const struct channel_ranges *r, uint32_t value, int axis, struct channel_extent *extent);

#endif
