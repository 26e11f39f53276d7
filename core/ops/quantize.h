/* SPDX-License-Identifier: Apache-2.0
 * quantize.h - affine quantization as the operators of the standard compute it: q = saturate(round_half_even(x /
 * scale) + zero). */
#ifndef PARED_OPS_QUANTIZE_H
#define PARED_OPS_QUANTIZE_H

#include "core/ops/op_util.h"

/* Zero points of an integer tensor as int32; all must be in the type's range (they are, being of it). NULL tensor:
 * one zero. */
int32_t *quantize_zeros(struct run_ctx *c, const struct tensor *zero, int64_t *count, struct err *err);
/* A scale, or zero point, must have one value or `channels` of them (unknown: fine). */
int quantize_check_count(const struct infer_ctx *c, int i, const char *name, int64_t channels, struct err *err);
/* int32 sums to 8 bits: row r of `n` sums takes multiplier[r % rows]; out is int8 or uint8. */
struct requantize {
    const int32_t *sum;
    void *out;
    bool out_signed;
    int32_t zero;
    const float *multiplier; /* one a row of the cycle */
    const int32_t *bias;     /* NULL, or one a row of the cycle */
    int64_t rows, cycle, n;
};
void quantize_sums(struct pool *pool, struct requantize *q);

#endif
