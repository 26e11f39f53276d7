/* SPDX-License-Identifier: Apache-2.0
 * half_ranges.c - counts by comparing the bits of magnitudes, which order as the numbers do (half_ranges.h). */
#include "core/quant/half_ranges.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096 };
/* Bits of magnitudes. */
#define BITS_INFINITY 0x7f800000u
#define BITS_MAX 0x477fe000u      /* 65504 */
#define BITS_NORMAL 0x38800000u   /* 2^-14 */
#define BITS_VANISH 0x33000000u   /* 2^-25: halfway between zero and the smallest subnormal, goes to zero */

struct half_ranges {
    uint32_t n;
    struct half_seen *at;
};

struct half_ranges *half_ranges_new(uint32_t n_values)
{
    struct half_ranges *r = calloc(1, sizeof *r);
    struct half_seen *at = calloc(n_values + (size_t)1, sizeof *at);
    if (!r || !at) {
        free(r);
        free(at);
        return NULL;
    }
    r->n = n_values;
    r->at = at;
    return r;
}

void half_ranges_free(struct half_ranges *r)
{
    if (r)
        free(r->at);
    free(r);
}

/* At most BLOCK elements: the counts fit 32 bits, so that the loop is vector code. */
static void add_block(struct half_seen *s, const float *x, int n)
{
    uint32_t finite = 0, zero = 0, over = 0, under = 0, gone = 0, largest = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        const bool is_finite = bits < BITS_INFINITY;
        finite += is_finite;
        zero += bits == 0;
        over += is_finite && bits > BITS_MAX;
        under += bits < BITS_NORMAL;
        gone += bits <= BITS_VANISH;
        largest = is_finite && bits > largest ? bits : largest;
    }
    float most;
    memcpy(&most, &largest, sizeof most);
    s->largest = most > s->largest ? most : s->largest;
    s->count += finite;
    s->nonzero += finite - zero;
    s->overflow += over;
    s->underflow += under - zero;
    s->vanished += gone - zero;
}

void half_seen_add(struct half_seen *s, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += BLOCK)
        add_block(s, x + i, (int)(n - i < BLOCK ? n - i : BLOCK));
}

int half_ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct half_ranges *r = arg;
    (void)err;
    if (value < r->n && t->dtype == DTYPE_FLOAT)
        half_seen_add(&r->at[value], t->data, tensor_count(t));
    return 0;
}

const struct half_seen *half_ranges_get(const struct half_ranges *r, uint32_t value)
{
    return r && value < r->n && r->at[value].count > 0 ? &r->at[value] : NULL;
}
