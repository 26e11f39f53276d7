/* SPDX-License-Identifier: Apache-2.0
 * array_coding.h - the elements of a tensor as few bytes as the best of several codings takes, measured.
 * Codings    raw; byte planes (of floats rotated left by one bit, so that the exponent is a byte); codebook (at most
 *            256 distinct values, indices); sparse (gaps between values that are not zero, as in Deep Compression, and
 *            those values); mixed (sparse matrix of few distinct values, adaptive). Their runs of symbols are again the
 *            best of raw, one symbol, Huffman, rANS and adaptive. Format: docs/format.md.
 * Threads    free to call from several, each with its own coder. */
#ifndef PARED_ENCODE_ARRAY_CODING_H
#define PARED_ENCODE_ARRAY_CODING_H

#include "core/encode/byte_io.h"
#include "core/encode/mix.h"

enum { ARRAY_MOST = 1 << 22 /* bytes of one array, and of the output of a block */ };
enum array_kind { ARRAY_RAW, ARRAY_PLANES, ARRAY_CODEBOOK, ARRAY_SPARSE, ARRAY_MIXED, ARRAY_KINDS };
enum symbols_mode {
    SYMBOLS_RAW,
    SYMBOLS_ONE,
    SYMBOLS_HUFFMAN,
    SYMBOLS_RANS,
    SYMBOLS_MIXED,
    SYMBOLS_DEFLATE,
    SYMBOLS_MODES
};

struct array_opts {
    unsigned width;       /* bytes of an element: 1, 2, 4, 8 */
    bool rotate;          /* floating-point */
    size_t cols;          /* of the matrix the elements form, at least 1 */
    bool adaptive;        /* mixed codings may be used */
    size_t adaptive_most; /* for runs of so many symbols; a sparse matrix may be larger */
    int only; /* enum symbols_mode: no other coding but this, raw and one symbol (for comparing); -1: the best */
};
/* What was chosen, for reports: "planes", "sparse+codebook", ... */
struct array_made {
    enum array_kind kind, values; /* values: of ARRAY_SPARSE */
    enum symbols_mode first;      /* of its first run of symbols */
};

/* A number of elements and the elements at `bytes` to the end of `out` and of the arithmetic coder. ERR_NOMEM. */
int array_encode(const void *bytes, size_t n, const struct array_opts *o, struct buf *out, struct mix *mix,
                 struct array_made *made, struct err *err);
/* One array to `bytes`, which has room for `room` bytes; *size is what it took. ERR_INVALID, ERR_NOMEM. */
int array_decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t room, size_t *size,
                 struct err *err);

/* A run of symbols that is text. */
int text_encode(const unsigned char *bytes, size_t n, bool adaptive, struct buf *out, struct mix *mix, struct err *err);
int text_decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t n, struct err *err);

#endif
