/* SPDX-License-Identifier: Apache-2.0
 * huffman.c - see huffman.h. Decoding looks at the next 12 bits in a table that tells symbol and length. */
#include "core/encode/huffman.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1 << HUFFMAN_LONGEST, SYMBOLS = 256 };

struct leaf {
    uint64_t count;
    int symbol;
};

static int by_count(const void *a, const void *b)
{
    const struct leaf *x = a, *y = b;
    return x->count != y->count ? (x->count > y->count) - (x->count < y->count) : x->symbol - y->symbol;
}

/* Package-merge over at most 12 levels: each level merges the leaves with pairs of the level before. A package is told
 * by how many of the cheapest leaves of each level it takes, so counting active leaves is enough: take 2 (n - 1) items
 * of the last level, see which are packages, take twice as many of the level before, and so on. */
void huffman_lengths(const uint64_t count[256], unsigned char length[256])
{
    struct leaf leaf[SYMBOLS];
    uint64_t item[HUFFMAN_LONGEST][2 * SYMBOLS];
    bool package[HUFFMAN_LONGEST][2 * SYMBOLS];
    int items[HUFFMAN_LONGEST] = {0}, n = 0;
    memset(length, 0, SYMBOLS);
    for (int s = 0; s < SYMBOLS; s++)
        if (count[s])
            leaf[n++] = (struct leaf){count[s], s};
    qsort(leaf, (size_t)n, sizeof *leaf, by_count);
    for (int level = 0; level < HUFFMAN_LONGEST; level++) {
        const int below = level ? level - 1 : 0, pairs = level ? items[below] / 2 : 0;
        for (int l = 0, p = 0; l < n || p < pairs; items[level]++) {
            const uint64_t pair = p < pairs ? item[below][2 * p] + item[below][2 * p + 1] : UINT64_MAX;
            const bool is_leaf = l < n && leaf[l].count <= pair;
            item[level][items[level]] = is_leaf ? leaf[l].count : pair;
            package[level][items[level]] = !is_leaf;
            l += is_leaf;
            p += !is_leaf;
        }
    }
    for (int level = HUFFMAN_LONGEST - 1, take = 2 * (n - 1); level >= 0 && take > 0; level--) {
        int leaves = 0, packages = 0;
        for (int i = 0; i < take && i < items[level]; i++) {
            if (package[level][i])
                packages++;
            else
                length[leaf[leaves++].symbol]++;
        }
        take = 2 * packages;
    }
}

/* Codes in the order of lengths, then of symbols. False: the lengths are no complete prefix code. */
static bool make_codes(const unsigned char length[256], uint32_t code[256])
{
    uint32_t next = 0, whole = 0;
    for (int bits = 1; bits <= HUFFMAN_LONGEST; bits++) {
        for (int s = 0; s < SYMBOLS; s++) {
            if (length[s] != bits)
                continue;
            code[s] = next++;
            whole += 1u << (HUFFMAN_LONGEST - bits);
        }
        next <<= 1;
    }
    return whole == SLOTS;
}

static int largest_symbol(const uint64_t count[256])
{
    int s = SYMBOLS - 1;
    while (s > 0 && !count[s])
        s--;
    return s;
}

size_t huffman_size(const uint64_t count[256])
{
    unsigned char length[SYMBOLS];
    uint64_t bits = 0;
    huffman_lengths(count, length);
    for (int s = 0; s < SYMBOLS; s++)
        bits += count[s] * length[s];
    return 1 + (size_t)largest_symbol(count) / 2 + 1 + (size_t)((bits + 7) / 8);
}

void huffman_encode(const unsigned char *symbols, size_t n, struct buf *out)
{
    uint64_t count[SYMBOLS] = {0};
    unsigned char length[SYMBOLS];
    uint32_t code[SYMBOLS] = {0}, held = 0;
    int bits = 0;
    for (size_t i = 0; i < n; i++)
        count[symbols[i]]++;
    huffman_lengths(count, length);
    make_codes(length, code);
    const int last = largest_symbol(count);
    put_byte(out, (unsigned)last);
    for (int s = 0; s <= last; s += 2)
        put_byte(out, length[s] | (s < last ? (unsigned)length[s + 1] << 4 : 0));
    for (size_t i = 0; i < n; i++) {
        held = held << length[symbols[i]] | code[symbols[i]];
        for (bits += length[symbols[i]]; bits >= 8; bits -= 8)
            put_byte(out, held >> (bits - 8) & 255);
    }
    if (bits)
        put_byte(out, held << (8 - bits) & 255);
}

struct slot {
    unsigned char symbol, length;
};

static int read_table(struct byte_reader *r, struct slot *slot, struct err *err)
{
    unsigned char length[SYMBOLS] = {0}, last;
    const unsigned char *packed;
    uint32_t code[SYMBOLS] = {0};
    if (read_byte(r, &last, err) || read_bytes(r, (size_t)last / 2 + 1, &packed, err))
        return -1;
    for (int s = 0; s <= last; s++) {
        length[s] = packed[s / 2] >> (s % 2 * 4) & 15;
        if (length[s] > HUFFMAN_LONGEST)
            return damaged(err, "a Huffman code is too long");
    }
    if (!make_codes(length, code))
        return damaged(err, "its Huffman codes are incomplete");
    for (int s = 0; s <= last; s++) {
        if (!length[s])
            continue;
        const uint32_t first = code[s] << (HUFFMAN_LONGEST - length[s]), run = 1u << (HUFFMAN_LONGEST - length[s]);
        for (uint32_t i = 0; i < run; i++)
            slot[first + i] = (struct slot){(unsigned char)s, length[s]};
    }
    return 0;
}

int huffman_decode(const unsigned char *in, size_t len, unsigned char *symbols, size_t n, struct err *err)
{
    struct byte_reader r = {in, 0, len};
    struct slot slot[SLOTS];
    uint64_t held = 0; /* the next bits, from the top */
    int bits = 0;
    if (read_table(&r, slot, err))
        return -1;
    for (size_t i = 0; i < n; i++) {
        while (bits <= 56 && r.at < r.len) {
            held |= (uint64_t)r.data[r.at++] << (56 - bits);
            bits += 8;
        }
        const struct slot s = slot[held >> (64 - HUFFMAN_LONGEST)];
        if (s.length > bits)
            return damaged(err, "a Huffman stream ends too early");
        held <<= s.length;
        bits -= s.length;
        symbols[i] = s.symbol;
    }
    return r.at == r.len && bits < 8 ? 0 : damaged(err, "a Huffman stream is too long");
}
