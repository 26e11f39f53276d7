/* SPDX-License-Identifier: Apache-2.0
 * generate.h - inputs made up for a model that came without data: shapes and dtypes as declared, seeded, the same on
 * every machine.
 * Values     float: N(0, 1); integers: 0..9 (0..255 for 8-bit pixels of rank 3 and more); bool: fair coin; strings:
 *            "a".."j".
 * Shapes     unknown first dim: `batch`; other unknown dims: what the caller says, else the first of
 *            8, 32, 64, 224 that the model takes. */
#ifndef PARED_STATS_GENERATE_H
#define PARED_STATS_GENERATE_H

#include "core/engine/engine.h"

struct generate_opts {
    int64_t batch;         /* 0: 1 */
    int64_t other_dim;     /* 0: found */
    uint64_t seed, stream; /* another stream: other values */
};

/* in[plan_n_inputs], empty; each gets bytes of its own. On error none is left. */
int generate_inputs(struct plan *plan, const struct generate_opts *opts, struct tensor *in, struct err *err);
/* One tensor of a known shape. */
int generate_tensor(struct tensor *t, enum dtype dtype, const struct shape *shape, uint64_t seed, uint64_t stream,
                    struct err *err);

#endif
