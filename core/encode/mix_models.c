/* SPDX-License-Identifier: Apache-2.0
 * mix_models.c - see mix_models.h.
 * Keys       of a counter: a tag in the upper 8 bits, then the context, then the node of the binary tree over a
 *            symbol's bits (1 at the root, 2 n + bit below n).
 * Matrix     pruning leaves structure: inputs that no neuron uses are empty columns, idle neurons empty rows. So
 *            whether a place holds a weight is predicted by its column, its row, how dense both have been so far, and
 *            its neighbours. */
#include "core/encode/mix_models.h"

#include <stdlib.h>
#include <string.h>

enum { SETS_FLAG = 0, SETS_INDEX = 4, SETS_PLANE = 16, SETS_TEXT = 24 };

static inline uint64_t tagged(unsigned tag, uint64_t context)
{
    return (uint64_t)tag << 56 | context;
}

void mix_text(struct mix *m, unsigned char *bytes, size_t n)
{
    uint64_t past = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned node = 1;
        for (int b = 7; b >= 0; b--) {
            const uint64_t key[6] = {tagged(1, node),
                                     tagged(2, (past & 0xff) << 8 | node),
                                     tagged(3, (past & 0xffff) << 8 | node),
                                     tagged(4, (past & 0xffffff) << 8 | node),
                                     tagged(5, (past & 0xffffffff) << 8 | node),
                                     tagged(6, (past & 0xffffffffffff) << 8 | node)};
            node = node << 1 | (unsigned)mix_bit(m, key, 6, SETS_TEXT + b, bytes[i] >> b & 1);
        }
        bytes[i] = (unsigned char)node;
        past = past << 8 | bytes[i];
    }
}

void mix_plane(struct mix *m, unsigned char *symbols, const unsigned char *before, size_t n, size_t cols)
{
    for (size_t i = 0; i < n; i++) {
        const uint64_t left = i ? symbols[i - 1] : 0, above = i >= cols ? symbols[i - cols] : 0;
        const uint64_t over = before ? before[i] : 0;
        unsigned node = 1;
        for (int b = 7; b >= 0; b--) {
            const uint64_t key[4] = {tagged(1, node), tagged(2, left << 8 | node), tagged(3, above << 8 | node),
                                     tagged(4, over << 8 | node)};
            node = node << 1 | (unsigned)mix_bit(m, key, 4, SETS_PLANE + b, symbols[i] >> b & 1);
        }
        symbols[i] = (unsigned char)node;
    }
}

/* How dense `count` of `seen` is, in steps of a factor 2; of none, how long it has been none. */
static unsigned density(uint64_t count, uint64_t seen)
{
    const uint64_t v = count ? count * 256 / (seen + 1) : seen;
    return (count ? 64u : 0u) + (v ? 64u - (unsigned)__builtin_clzll(v) : 0u);
}

struct matrix {
    size_t cols;
    uint32_t *in_column; /* [cols + 2] non-zeros so far; one more place at each side */
    unsigned char *last; /* [cols] the last non-zero index of a column; 0: none */
    unsigned char *index;
};

static int code_flag(struct mix *m, const struct matrix *x, size_t i, uint64_t in_row, unsigned past, int bit)
{
    const size_t r = i / x->cols, c = i % x->cols;
    const unsigned char *at = x->index + i;
    const unsigned up = r > 0 && at[-(ptrdiff_t)x->cols];
    const unsigned up_left = r > 0 && c > 0 && at[-(ptrdiff_t)x->cols - 1];
    const unsigned up_right = r > 0 && c + 1 < x->cols && at[1 - (ptrdiff_t)x->cols];
    const unsigned up_up = r > 1 && at[-2 * (ptrdiff_t)x->cols];
    const uint32_t *column = x->in_column + 1 + c;
    const unsigned own = density(column[0], r), beside = density((uint64_t)column[-1] + column[1], 2 * r);
    const unsigned row = density(in_row, c);
    const uint64_t key[7] = {tagged(1, 0),
                             tagged(2, c),
                             tagged(3, past & 255),
                             tagged(4, r),
                             tagged(5, up | up_left << 1 | up_right << 2 | up_up << 3 | (past & 3) << 4),
                             tagged(6, own << 8 | row),
                             tagged(7, own << 8 | beside)};
    return mix_bit(m, key, 7, SETS_FLAG + (int)((past & 1) + up), bit);
}

static unsigned code_index(struct mix *m, const struct matrix *x, size_t i, unsigned before, int bits, unsigned value)
{
    const size_t r = i / x->cols, c = i % x->cols;
    unsigned node = 1;
    for (int b = bits - 1; b >= 0; b--) {
        const uint64_t key[5] = {tagged(8, node), tagged(9, (uint64_t)before << 8 | node),
                                 tagged(10, (uint64_t)c << 8 | node), tagged(11, (uint64_t)r << 8 | node),
                                 tagged(12, (uint64_t)x->last[c] << 8 | node)};
        node = node << 1 | (unsigned)mix_bit(m, key, 5, SETS_INDEX + b, value >> b & 1);
    }
    return node - (1u << bits);
}

int mix_matrix(struct mix *m, unsigned char *index, size_t n, size_t cols, unsigned k, struct err *err)
{
    struct matrix x = {cols, calloc(cols + 2, sizeof(uint32_t)), calloc(cols, 1), index};
    int bits = 0, rc = 0;
    while (1u << bits < k)
        bits++;
    if (!x.in_column || !x.last)
        rc = err_set(err, ERR_NOMEM, "out of memory while coding");
    uint64_t in_row = 0;
    unsigned past = 0, before = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const size_t c = i % cols;
        in_row = c ? in_row : 0;
        const int set = code_flag(m, &x, i, in_row, past, index[i] != 0);
        past = past << 1 | (unsigned)set;
        if (!set) {
            index[i] = 0;
            continue;
        }
        const unsigned value = code_index(m, &x, i, before, bits, index[i] - 1u) + 1;
        index[i] = (unsigned char)(value > k ? k : value);
        before = x.last[c] = index[i];
        x.in_column[1 + c]++;
        in_row++;
    }
    free(x.in_column);
    free(x.last);
    return rc;
}
