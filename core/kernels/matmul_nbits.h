/* SPDX-License-Identifier: Apache-2.0
 * matmul_nbits.h - a few rows of A times a weight of 4 or 8 bits whose blocks have a scale and a zero point each:
 *   y = sum over blocks b of scale[b] (sum over j in b of q[j] a[j] - zero[b] sum over j in b of a[j])
 * Why        with few rows the time is that of reading the weight, so codes are turned into floats in registers and
 *            never stored. With more rows, unpack and use gemm.h.
 * Prepared   a row of A is laid out once for all rows of the weight: padded with zeros to whole blocks, for 4 bits the
 *            even elements of a block before its odd ones (the order of low and high nibbles), and the blocks' sums at
 *            the end.
 * Codes      as in com.microsoft MatMulNBits: block * bits / 8 bytes a block, the low nibble first. block is a power of
 *            two, 16 or larger.
 * Sets       AVX2 and portable; their last bits differ. Threads: none inside. */
#ifndef PARED_KERNELS_MATMUL_NBITS_H
#define PARED_KERNELS_MATMUL_NBITS_H

#include <stdbool.h>
#include <stdint.h>

/* Floats of a prepared row; false on overflow. */
bool nbits_prepared_count(int64_t k, int64_t block, int64_t *count);
void nbits_prepare(int bits, int64_t k, int64_t block, const float *a, float *prepared);
/* One weight row (codes, scales and zeros of its blocks) times a prepared row. bits: 4 or 8. */
struct nbits_row {
    int bits;
    int64_t blocks, block;
    const uint8_t *codes;
    const float *scales, *zeros;
};
float nbits_dot(const struct nbits_row *w, const float *prepared);

/* w[i] = (code i - zero) * scale for the first n codes of one block: for products with more rows. */
void nbits_unpack(int bits, const uint8_t *codes, int64_t n, float zero, float scale, float *w);

/* The sets, for the functions above to choose from. nbits_unpack_avx2 gives the number of codes done. */
int64_t nbits_unpack_avx2(int bits, const uint8_t *codes, int64_t n, float zero, float scale, float *w);
float nbits_dot_avx2(const struct nbits_row *w, const float *prepared);

#endif
