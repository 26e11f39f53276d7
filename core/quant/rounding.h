/* SPDX-License-Identifier: Apache-2.0
 * rounding.h - codes for a few rows of a weight that minimize e^T H e, e = w - (code - zero) * scale, H the Gram
 * matrix of
 * what the rows multiply: the shared core of gptq.c (blocks) and adaround.c (a scale a channel).
 * Two ways   round_sequential: column by column, errors go into the columns still to come (GPTQ). round_descend: one
 *            code, or
 *            one scale, at a time, as long as the error falls. The second starts where the first ended.
 * Zeros      a weight of zero keeps the code of zero: pruning survives.
 * Threads    a chunk belongs to one task; nothing else is written. */
#ifndef PARED_QUANT_ROUNDING_H
#define PARED_QUANT_ROUNDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/quant/block.h"

struct round_chunk {
    int64_t n, k, block; /* rows, elements of a row, elements that share a scale */
    int32_t lo, hi;      /* codes */
    const double *w;     /* [n][k] */
    int32_t *code;       /* [n][k] */
    float *scale;        /* [n][blocks] */
    int32_t *zero;       /* [n][blocks] */
    /* Codes (minus zero) of element i and partner[i] of one sign may not add up beyond pair_most in absolute
     * value. NULL: they
     * may. partner[i] == i: none. */
    const int64_t *partner;
    int32_t pair_most;
    enum dtype scale_dtype; /* as struct block_form */
    double *scratch;        /* round_scratch(n, k) doubles */
};
static inline int64_t round_blocks(const struct round_chunk *c) { return (c->k + c->block - 1) / c->block; }
static inline size_t round_scratch(size_t n, size_t k) { return 2 * n * k + 256 * n + k; }

/* Chooses scale and zero of block b of row r for the numbers x that are about to be rounded. */
typedef void round_grid_fn(void *arg, const struct round_chunk *c, int64_t row, int64_t b, const double *x);
/* u: hessian_factor of H with rows and columns in `order` (NULL: as they are). grid: called when a block begins;
 * NULL: scales
 * and zeros are given. With an order it must be NULL. */
void round_sequential(const struct round_chunk *c, const double *u, const int64_t *order, round_grid_fn *grid,
                      void *arg);
/* At most `sweeps` rounds over all elements; scales: each round also refits the scale of each block. */
void round_descend(const struct round_chunk *c, const double *h, int sweeps, bool scales);
/* Nearest codes. */
void round_nearest(const struct round_chunk *c);

#endif
