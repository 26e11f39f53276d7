/* SPDX-License-Identifier: Apache-2.0
 * mix.h - adaptive binary arithmetic coding with mixed contexts: the smallest files, some ten million decisions a
 * second.
 * How        A decision (bit) is predicted by counters of several contexts; their opinions are added in the logistic
 *            domain with weights that learn online (Mahoney's PAQ, 2005; the arithmetic coder is carry-free with 32
 *            bits). All of it is integer arithmetic, written down in docs/format.md, so that every implementation
 *            decodes the same.
 * Use        encoder and decoder make the same calls; mix_bit takes the bit to encode or returns the one decoded.
 *            mix_forget starts new counters (each tensor has its own), the weights stay.
 * Hostile    a decoder reads zeros behind its input; whatever the bytes are, calls give bits. */
#ifndef PARED_ENCODE_MIX_H
#define PARED_ENCODE_MIX_H

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/size.h"

enum { MIX_INPUTS = 8, MIX_SETS = 64, MIX_COUNTERS = 1 << 21 /* when so many are in use, all are forgotten */ };

struct mix_counter {
    uint64_t key; /* + 1; 0: free */
    uint32_t p;   /* of a 1, 22 bits */
    uint32_t n;   /* times seen, up to a limit */
};

struct mix {
    bool decoding;
    uint32_t low, high, code;
    const unsigned char *in; /* decoder */
    size_t at, len;
    struct buf out; /* encoder */
    double bits;    /* what was spent, by the predictions; for measuring */
    bool dry;       /* only measure */
    int32_t weight[MIX_SETS][MIX_INPUTS + 1];
    struct mix_counter *table;
    size_t cap, used;
    bool failed; /* out of memory */
};

int mix_init_encoder(struct mix *m, struct err *err);
int mix_init_decoder(struct mix *m, const void *bytes, size_t len, struct err *err);
/* The last bytes of the encoder into m->out. */
void mix_flush(struct mix *m);
void mix_fini(struct mix *m);
void mix_forget(struct mix *m);
/* n <= MIX_INPUTS keys of contexts, set < MIX_SETS. */
int mix_bit(struct mix *m, const uint64_t *key, int n, int set, int bit);

#endif
