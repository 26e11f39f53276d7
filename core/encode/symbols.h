/* SPDX-License-Identifier: Apache-2.0
 * symbols.h - runs of symbols (bytes): a byte that says the mode, then its payload. Private to array_*.c. */
#ifndef PARED_ENCODE_SYMBOLS_H
#define PARED_ENCODE_SYMBOLS_H

#include "core/encode/array_coding.h"

/* What the adaptive mode knows besides the symbols themselves. */
struct symbols_place {
    const unsigned char *before; /* the plane before this one; NULL */
    size_t cols;
};

int symbols_encode(const unsigned char *s, size_t n, const struct symbols_place *place, bool adaptive, int only,
                   struct buf *out, struct mix *mix, enum symbols_mode *made, struct err *err);
/* *whole: where the symbols are: `room` (n bytes), or in the input itself. */
int symbols_decode(struct byte_reader *r, size_t n, const struct symbols_place *place, struct mix *mix,
                   unsigned char *room, const unsigned char **whole, struct err *err);

/* A coder that only measures, with m's weights. */
int mix_trial(struct mix *trial, const struct mix *m, struct err *err);

#endif
