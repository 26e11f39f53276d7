/* SPDX-License-Identifier: Apache-2.0
 * quantize.h - affine quantization as the operators of the standard compute it: q = saturate(round_half_even(x /
 * scale) + zero). */
#ifndef PARED_OPS_QUANTIZE_H
#define PARED_OPS_QUANTIZE_H

#include "core/kernels/q8.h"
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

/* ---- where scales apply ---- */
/* x seen as [outer, length, inner]; index d of `length` takes the scale (o * scales + d / block) * scale_inner + i %
 * scale_inner, scale_inner being `inner` for blocks. */
struct quantize_layout {
    int64_t outer, length, inner, block, scales;
    enum { QUANTIZE_PER_TENSOR, QUANTIZE_PER_AXIS, QUANTIZE_PER_BLOCK } kind;
};
/* axis may be negative; QUANTIZE_NO_AXIS: the operator has none. Scale against input, as far as both are known;
 * complete only for known shapes. */
#define QUANTIZE_NO_AXIS INT64_MAX
int quantize_layout_make(int64_t axis, int64_t block_size, const struct shape *x, const struct shape *scale,
                         struct quantize_layout *l, struct err *err);

/* ---- one scale and one zero point for a whole 8-bit tensor ---- */
/* Input i is int8 or uint8, or not known. */
int quantize_want_8bit(const struct infer_ctx *c, int i, struct err *err);
/* Inputs `scale` (float32) and `zero` (8 bits, may be absent where `optional`) hold one value each. */
int quantize_check_param(const struct infer_ctx *c, int scale, int zero, bool optional, struct err *err);
/* The pair for values of `dtype`; an absent zero point is 0. */
struct q8 quantize_param(const struct run_ctx *c, int scale, int zero, enum dtype dtype);
/* uint8 from floats by their own range, widened to hold 0: *param gets (max - min) / 255 and its zero point. y may be
 * NULL when only the parameters count. */
void quantize_dynamic(struct pool *pool, const float *x, int64_t n, uint8_t *y, struct q8 *param);
/* y = table[x] for a whole tensor of bytes. */
void quantize_map(struct pool *pool, const uint8_t table[256], const void *x, void *y, int64_t n);

#endif
