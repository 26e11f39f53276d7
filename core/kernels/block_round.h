/* SPDX-License-Identifier: Apache-2.0
 * block_round.h - the loops of block-wise quantization (core/quant/block.h) over the numbers of one block.
 * Codes      clip(round_half_away(x * inverse + zero), 0, top).
 * Sets       AVX2 and portable, with the same bits: eight sums side by side in both, and nothing is fused.
 * Input      finite. inverse is finite; x * inverse may overflow. Threads: none inside. */
#ifndef PARED_KERNELS_BLOCK_ROUND_H
#define PARED_KERNELS_BLOCK_ROUND_H

#include <stdint.h>

struct block_grid {
    float inverse, zero, top;
};
struct block_round_set {
    /* *lo = min(0, x...), *hi = max(0, x...). The result is 0 if all numbers are finite, NaN otherwise. */
    float (*range)(const float *x, int64_t n, float *lo, float *hi);
    void (*encode)(const float *x, int64_t n, const struct block_grid *g, uint8_t *codes);
    /* d = code - zero: sums of h x d and h d^2; h NULL: 1. */
    void (*sums)(const float *x, const float *h, int64_t n, const struct block_grid *g, float out[2]);
    /* Sums of x^2 and of (x - (code - zero) scale)^2. */
    void (*error)(const float *x, const uint8_t *codes, int64_t n, float zero, float scale, float out[2]);
    /* y[i] = (code - zero) scale */
    void (*decode)(const uint8_t *codes, int64_t n, float zero, float scale, float *y);
    /* One step of half-quadratic quantization (core/quant/hqq.c): with d = code - zero for a zero point that need
     * not be whole, e = x - d / inverse shrunk by |e|^(power - 1) / beta, u = x - e: sums of u d, d^2 and code - u
     * inverse. */
    void (*half_quadratic)(const float *x, int64_t n, const struct block_grid *g, float power, float beta, float out[3]);
};
extern const struct block_round_set block_round_portable, block_round_avx2;
/* The best this CPU runs. */
const struct block_round_set *block_round_best(void);

#endif
