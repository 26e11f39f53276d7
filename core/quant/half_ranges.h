/* SPDX-License-Identifier: Apache-2.0
 * half_ranges.h - how the numbers a model computes fit into float16: counted per value over a set of samples.
 * Limits     largest float16 65504, smallest normal 2^-14 = 6.1e-5 (below it precision is lost bit by bit), and
 *            half of the smallest subnormal, 2^-25 = 3.0e-8, below which numbers become zero.
 * How        a plan_observer; nothing is kept but counts. Infinities and NaN count as neither: they stay what they are.
 * Threads    one a plan. */
#ifndef PARED_QUANT_HALF_RANGES_H
#define PARED_QUANT_HALF_RANGES_H

#include "core/engine/engine.h"

#define HALF_MAX 65504.0
#define HALF_SMALLEST_NORMAL 6.103515625e-05

struct half_seen {
    int64_t count, nonzero; /* finite elements */
    int64_t overflow;       /* beyond 65504 */
    int64_t underflow;      /* not zero, and subnormal or zero in float16 */
    int64_t vanished;       /* of these: zero */
    float largest;          /* magnitude */
};
void half_seen_add(struct half_seen *s, const float *x, int64_t n);
static inline double half_share(int64_t part, int64_t all)
{
    return all > 0 ? (double)part / (double)all : 0;
}

struct half_ranges; /* opaque */
struct half_ranges *half_ranges_new(uint32_t n_values);
void half_ranges_free(struct half_ranges *r);
int half_ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err);
/* NULL: never seen. */
const struct half_seen *half_ranges_get(const struct half_ranges *r, uint32_t value);

#endif
