/* SPDX-License-Identifier: Apache-2.0
 * hqq.h - half-quadratic quantization (HQQ, Badri 2023): scales and zero points of blocks without data.
 * Threads    rows are independent. Results: the same bits on every instruction set. */
#ifndef PARED_QUANT_HQQ_H
#define PARED_QUANT_HQQ_H

#include "core/quant/block.h"

/* As block_rtn; the squared error of no block is larger than block_rtn's, to the rounding of float32 sums. */
void block_hqq(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out);

#endif
