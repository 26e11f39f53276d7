/* SPDX-License-Identifier: Apache-2.0
 * rng.h - seeded random numbers, the same on every machine (xoshiro256**, Blackman & Vigna 2018; seeded by splitmix64). */
#ifndef PARED_BASE_RNG_H
#define PARED_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

/* `stream` separates users of one seed, so that adding one does not shift the numbers of another. */
void rng_init(struct rng *rng, uint64_t seed, uint64_t stream);
uint64_t rng_u64(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t n); /* uniform in [0, n), n > 0 */
double rng_uniform(struct rng *rng);             /* uniform in [0, 1) */
double rng_normal(struct rng *rng);              /* N(0, 1) */

#endif
