/* SPDX-License-Identifier: Apache-2.0
 * rans.c - see rans.h. The encoder goes from the last symbol to the first and writes words downwards, so that the
 * decoder reads upwards. The state of each lane starts at 2^16, where it must be again when the last symbol is decoded:
 * a check that costs nothing. Decoding a symbol has no branch that could be guessed wrong: the word is read anyway and
 * taken if it is due. */
#include "core/encode/rans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOW = 1 << 16, MANY = 1 << 15 };

static int lanes_for(size_t n)
{
    return n >= MANY ? RANS_LANES : RANS_FEW_LANES;
}

/* ---- table ---- */
void rans_frequencies(const uint64_t count[256], uint32_t freq[256])
{
    uint64_t total = 0;
    int64_t sum = 0;
    for (int s = 0; s < 256; s++)
        total += count[s];
    for (int s = 0; s < 256; s++) {
        freq[s] = 0;
        if (count[s]) {
            freq[s] = (uint32_t)((double)count[s] * RANS_TOTAL / (double)total + 0.5);
            freq[s] = freq[s] ? freq[s] : 1;
        }
        sum += freq[s];
    }
    for (; sum != RANS_TOTAL; sum += sum < RANS_TOTAL ? 1 : -1) { /* where a step of one costs least or gains most */
        const int step = sum < RANS_TOTAL ? 1 : -1;
        int best = -1;
        double gain = -INFINITY;
        for (int s = 0; s < 256; s++) {
            if (!freq[s] || (step < 0 && freq[s] == 1))
                continue;
            const double g = (double)count[s] * log2(((double)freq[s] + step) / (double)freq[s]);
            if (g > gain) {
                gain = g;
                best = s;
            }
        }
        freq[best] = (uint32_t)((int)freq[best] + step);
    }
}

/* Runs of symbols that do not occur: 0 and how many more; others: their frequency. */
static void put_table(const uint32_t freq[256], struct buf *out)
{
    int last = 255;
    while (last > 0 && !freq[last])
        last--;
    put_byte(out, (unsigned)last);
    for (int s = 0; s <= last; s++) {
        put_varint(out, freq[s]);
        if (freq[s])
            continue;
        int run = 0;
        while (!freq[s + 1 + run])
            run++;
        put_varint(out, (uint64_t)run);
        s += run;
    }
}

static int read_table(struct byte_reader *r, uint32_t freq[256], struct err *err)
{
    unsigned char last;
    uint32_t sum = 0;
    memset(freq, 0, 256 * sizeof *freq);
    if (read_byte(r, &last, err))
        return -1;
    for (int s = 0; s <= last; s++) {
        uint64_t v, run;
        if (read_varint(r, RANS_TOTAL - 1, &v, err))
            return -1;
        freq[s] = (uint32_t)v;
        sum += freq[s];
        if (!v) {
            if (read_varint(r, 255, &run, err))
                return -1;
            s += (int)run;
        }
    }
    return sum == RANS_TOTAL ? 0 : damaged(err, "frequencies do not add up");
}

size_t rans_size(const uint64_t count[256], size_t n)
{
    uint32_t freq[256];
    double bits = 0;
    struct buf table = {0};
    rans_frequencies(count, freq);
    for (int s = 0; s < 256; s++)
        if (count[s])
            bits -= (double)count[s] * log2(freq[s] / (double)RANS_TOTAL);
    put_table(freq, &table);
    const size_t size = table.len + 4 * (size_t)lanes_for(n) + (size_t)(bits / 8) + 2;
    buf_fini(&table);
    return size;
}

/* ---- encode ---- */
int rans_encode(const unsigned char *symbols, size_t n, struct buf *out, struct err *err)
{
    const size_t lanes = (size_t)lanes_for(n);
    uint64_t count[256] = {0};
    uint32_t freq[256], start[256], state[RANS_LANES], sum = 0;
    unsigned char *words = malloc(2 * n + 1), *at; /* a symbol moves at most one word */
    if (!words)
        return err_set(err, ERR_NOMEM, "out of memory while coding");
    at = words + 2 * n;
    for (size_t i = 0; i < n; i++)
        count[symbols[i]]++;
    rans_frequencies(count, freq);
    for (int s = 0; s < 256; sum += freq[s++])
        start[s] = sum;
    for (size_t i = 0; i < lanes; i++)
        state[i] = LOW;
    for (size_t i = n; i-- > 0;) {
        uint32_t *x = &state[i % lanes];
        const uint32_t f = freq[symbols[i]];
        if (*x >= f << (32 - RANS_BITS)) {
            *--at = (unsigned char)(*x >> 8);
            *--at = (unsigned char)*x;
            *x >>= 16;
        }
        *x = *x / f << RANS_BITS | (*x % f + start[symbols[i]]);
    }
    put_table(freq, out);
    for (size_t i = 0; i < lanes; i++)
        for (int b = 0; b < 4; b++)
            put_byte(out, state[i] >> (8 * b) & 255);
    buf_append(out, at, (size_t)(words + 2 * n - at));
    free(words);
    return 0;
}

/* ---- decode ---- */
/* For a number below 4096: symbol, its frequency, and the number's offset in the symbol's range. */
struct slot {
    uint32_t symbol_freq; /* symbol << 16 | frequency */
    uint32_t offset;
};

/* One symbol of a lane. in .. end: at least two bytes may be read at in. */
#define STEP(x)                                                                                                        \
    do {                                                                                                               \
        const struct slot s = slot[(x) & (RANS_TOTAL - 1)];                                                            \
        (x) = (s.symbol_freq & 0xffff) * ((x) >> RANS_BITS) + s.offset;                                                \
        *to++ = (unsigned char)(s.symbol_freq >> 16);                                                                  \
        const uint32_t wide = (x) << 16 | (uint32_t)in[0] | (uint32_t)in[1] << 8;                                      \
        const bool due = (x) < LOW;                                                                                    \
        (x) = due ? wide : (x);                                                                                        \
        in += due ? 2 : 0;                                                                                             \
    } while (0)

/* Whole rounds over all lanes while each lane could read a word. */
static const unsigned char *rounds(const struct slot *slot, uint32_t *state, const unsigned char *in,
                                   const unsigned char *end, unsigned char **out, const unsigned char *last)
{
    unsigned char *to = *out;
    while ((size_t)(end - in) >= 2 * RANS_LANES && (size_t)(last - to) >= RANS_LANES) {
        for (int l = 0; l < RANS_LANES; l += 8) {
            uint32_t a = state[l], b = state[l + 1], c = state[l + 2], d = state[l + 3];
            uint32_t e = state[l + 4], f = state[l + 5], g = state[l + 6], h = state[l + 7];
            STEP(a);
            STEP(b);
            STEP(c);
            STEP(d);
            STEP(e);
            STEP(f);
            STEP(g);
            STEP(h);
            state[l] = a, state[l + 1] = b, state[l + 2] = c, state[l + 3] = d;
            state[l + 4] = e, state[l + 5] = f, state[l + 6] = g, state[l + 7] = h;
        }
    }
    *out = to;
    return in;
}

int rans_decode(const unsigned char *in, size_t len, unsigned char *symbols, size_t n, struct err *err)
{
    struct byte_reader r = {in, 0, len};
    const size_t lanes = (size_t)lanes_for(n);
    uint32_t freq[256], state[RANS_LANES];
    struct slot slot[RANS_TOTAL];
    const unsigned char *p;
    if (read_table(&r, freq, err) || read_bytes(&r, 4 * lanes, &p, err))
        return -1;
    for (uint32_t s = 0, at = 0; s < 256; s++)
        for (uint32_t i = 0; i < freq[s]; i++)
            slot[at++] = (struct slot){s << 16 | freq[s], i};
    for (size_t i = 0; i < lanes; i++, p += 4)
        state[i] = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    unsigned char *to = symbols;
    const unsigned char *word = r.data + r.at, *end = r.data + r.len;
    if (lanes == RANS_LANES)
        word = rounds(slot, state, word, end, &to, symbols + n);
    for (size_t i = (size_t)(to - symbols); i < n; i++) {
        uint32_t *x = &state[i % lanes];
        const struct slot s = slot[*x & (RANS_TOTAL - 1)];
        *x = (s.symbol_freq & 0xffff) * (*x >> RANS_BITS) + s.offset;
        symbols[i] = (unsigned char)(s.symbol_freq >> 16);
        if (*x >= LOW)
            continue;
        if (end - word < 2)
            return damaged(err, "a coded stream ends too early");
        *x = *x << 16 | (uint32_t)word[0] | (uint32_t)word[1] << 8;
        word += 2;
    }
    for (size_t i = 0; i < lanes; i++)
        if (state[i] != LOW)
            return damaged(err, "a coded stream does not end where it began");
    return word == end ? 0 : damaged(err, "a coded stream is too long");
}
