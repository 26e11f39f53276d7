/* SPDX-License-Identifier: Apache-2.0
 * nbits_pack.h - codes of 2, 4 or 8 bits into bytes, the first in the low bits (MatMulNBits, GatherBlockQuantized
 * and ONNX's int4 alike). */
#ifndef PARED_QUANT_NBITS_PACK_H
#define PARED_QUANT_NBITS_PACK_H

#include <stdint.h>

/* The width that holds codes of `bits` bits and that runtimes take: 2, 4 or 8. */
static inline int nbits_stored(int bits)
{
    return bits <= 2 ? 2 : bits <= 4 ? 4 : 8;
}
static inline int64_t nbits_bytes(int stored, int64_t n)
{
    return n / (8 / stored) + (n % (8 / stored) != 0);
}
/* n codes into nbits_bytes(stored, n) bytes; `offset` is added to each (modulo the width), the rest of the last byte is
 * filled with `fill`. out may be codes itself. */
void nbits_pack(int stored, const uint8_t *codes, int64_t n, uint8_t offset, uint8_t fill, uint8_t *out);

#endif
