/* SPDX-License-Identifier: Apache-2.0
 * bin_count.h - how many numbers fall into each of 2 * BIN_HALF bins of equal width around zero: bin i holds
 * [i - BIN_HALF, i + 1 - BIN_HALF) * width. What lies beyond goes into the first or last bin.
 * Exact      width is a power of two, so that a number's bin is found by an exact multiplication; every path counts alike. */
#ifndef PARED_KERNELS_BIN_COUNT_H
#define PARED_KERNELS_BIN_COUNT_H

#include <stdint.h>

enum { BIN_HALF = 4096, BIN_COUNT = 2 * BIN_HALF, BIN_MOST = 1 << 16 };

/* Adds to count[BIN_COUNT]. n <= BIN_MOST; x are finite. */
void bin_count_f32(const float *x, int n, float width, uint32_t *count);

/* ---- private to the paths ---- */
/* Four tables in turn: equal numbers in a row (the zeros of a Relu) would wait for each other's store. Number i goes to
 * table i % 4, so that 16 bits do for n <= BIN_MOST. */
struct bin_tables {
    uint16_t at[4][BIN_COUNT];
};
void bin_count_portable(struct bin_tables *t, const float *x, int n, float width);
void bin_count_avx2(struct bin_tables *t, const float *x, int n, float width);

#endif
