/* SPDX-License-Identifier: Apache-2.0
 * kquant.h - a search for the scale and the zero point of each block, as the k-quants of llama.cpp do it: ranges a
 * little smaller and larger than that of the numbers are tried, each with the best scale for its codes, by a
 * squared error that weighs numbers of large magnitude more. No data is needed.
 * Threads    rows are independent. Results: the same bits on every instruction set. */
#ifndef PARED_QUANT_KQUANT_H
#define PARED_QUANT_KQUANT_H

#include "core/quant/block.h"

/* As block_rtn; the weighted error of no block is larger than block_rtn's, to the rounding of float32 sums. */
void block_kquant(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out);

#endif
