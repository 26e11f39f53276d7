/* SPDX-License-Identifier: Apache-2.0
 * nbits_pack.c - see nbits_pack.h. Eight codes at a time lie in one 64-bit word, whose neighbours are pushed
 * together by halves: pairs, then pairs of pairs. */
#include "core/quant/nbits_pack.h"

#include <string.h>

/* The first byte is the lowest, also on a big-endian machine. */
static inline uint64_t load_8(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}
static inline void store_4(uint8_t *p, uint32_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap32(v);
#endif
    memcpy(p, &v, sizeof v);
}

/* Eight nibbles, one a byte, into 32 bits. */
static inline uint32_t join_4(uint64_t v)
{
    v = (v | v >> 4) & 0x00ff00ff00ff00ffu;
    v = (v | v >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(v | v >> 16);
}
static inline uint32_t join_2(uint64_t v)
{
    v = (v | v >> 6) & 0x000f000f000f000fu;
    v = (v | v >> 12) & 0x000000ff000000ffu;
    return (uint32_t)((v | v >> 24) & 0xffff);
}

void nbits_pack(int stored, const uint8_t *codes, int64_t n, uint8_t offset, uint8_t fill, uint8_t *out)
{
    const uint64_t each = 0x0101010101010101u;
    const uint8_t mask = (uint8_t)((1 << stored) - 1);
    const int per_byte = 8 / stored;
    int64_t i = 0;

    if (stored == 8) {
        if (offset == 0)
            memmove(out, codes, (size_t)n);
        for (; offset != 0 && i < n; i++)
            out[i] = (uint8_t)(codes[i] + offset);
        return;
    }
    /* codes plus offset stay below 256: no carry between bytes */
    for (; stored == 4 && i + 8 <= n; i += 8)
        store_4(out + i / 2, join_4((load_8(codes + i) + each * offset) & each * mask));
    for (; stored == 2 && i + 16 <= n; i += 16) {
        const uint32_t low = join_2((load_8(codes + i) + each * offset) & each * mask);
        store_4(out + i / 4, low | join_2((load_8(codes + i + 8) + each * offset) & each * mask) << 16);
    }
    while (i < n) {
        uint8_t byte = 0;
        const int64_t at = i / per_byte;
        for (int part = 0; part < per_byte; part++, i++)
            byte |= (uint8_t)(((i < n ? codes[i] + offset : fill) & mask) << (part * stored));
        out[at] = byte;
    }
}
