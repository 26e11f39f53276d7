/* SPDX-License-Identifier: Apache-2.0
 * huffman.h - canonical Huffman codes of bytes with at most HUFFMAN_LONGEST bits (Huffman 1952; lengths limited by
 * package-merge, Larmore and Hirschberg 1990): what Deep Compression codes its indices and gaps with.
 * Format     a byte with the largest symbol, the lengths of symbols 0 .. largest with 4 bits each (low half of a byte
 *            first), then the codes, the first bit of each in the highest free bit of a byte. Codes of one length are
 *            in the order of the symbols, shorter codes come first. Threads: free to call from several. */
#ifndef PARED_ENCODE_HUFFMAN_H
#define PARED_ENCODE_HUFFMAN_H

#include "core/encode/byte_io.h"

enum { HUFFMAN_LONGEST = 12 };

/* Lengths for counts; 0 for symbols that do not occur. At least two must occur. */
void huffman_lengths(const uint64_t count[256], unsigned char length[256]);
/* Bytes that huffman_encode would write. */
size_t huffman_size(const uint64_t count[256]);
void huffman_encode(const unsigned char *symbols, size_t n, struct buf *out);
/* Reads n symbols from all of in. ERR_INVALID: lengths that are no complete code, or too few bits. */
int huffman_decode(const unsigned char *in, size_t len, unsigned char *symbols, size_t n, struct err *err);

#endif
