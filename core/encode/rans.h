/* SPDX-License-Identifier: Apache-2.0
 * rans.h - bytes by range asymmetric numeral systems (Duda 2013) with a static table: within a thousandth of the
 * entropy and fast to decode.
 * How        probabilities are multiples of 1/4096, states have 32 bits and move 16 bits at a time. Lanes: symbol i
 *            belongs to state i % lanes, so that a decoder works on several at once; all lanes share one run of 16-bit
 *            words.
 * Format     see docs/format.md. Threads: free to call from several. */
#ifndef PARED_ENCODE_RANS_H
#define PARED_ENCODE_RANS_H

#include "core/encode/byte_io.h"

enum { RANS_BITS = 12, RANS_TOTAL = 1 << RANS_BITS, RANS_LANES = 32, RANS_FEW_LANES = 2 };

/* Frequencies that add up to RANS_TOTAL, at least 1 for each symbol that occurs. At least two must occur. */
void rans_frequencies(const uint64_t count[256], uint32_t freq[256]);
/* About the bytes that rans_encode would write. */
size_t rans_size(const uint64_t count[256], size_t n);
/* -1: out of memory. */
int rans_encode(const unsigned char *symbols, size_t n, struct buf *out, struct err *err);
/* Reads n symbols from all of in. ERR_INVALID: a table that does not add up, or too few or too many words. */
int rans_decode(const unsigned char *in, size_t len, unsigned char *symbols, size_t n, struct err *err);

#endif
