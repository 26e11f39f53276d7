/* SPDX-License-Identifier: Apache-2.0
 * block_search.h - private to the algorithms that look for the scale and zero point of one block. A candidate is an
 * inverse scale, which makes the codes, and a zero point; its scale then is the best for these codes, so a candidate
 * costs one pass over the block and stores nothing. */
#ifndef PARED_QUANT_BLOCK_SEARCH_H
#define PARED_QUANT_BLOCK_SEARCH_H

#include <math.h>

#include "core/base/size.h"
#include "core/quant/block.h"

struct block_search {
    const struct block_form *form;
    const float *w, *h; /* h: weights of the squared error, NULL: all 1 */
    int64_t n;
    float gain, inverse, scale; /* best so far; gain = sum h w^2 - its error. 0: none yet */
    uint8_t zero;
};

static inline bool block_search_try(struct block_search *s, float inverse, int zero)
{
    float wd, dd;
    if (zero < 0 || zero > (1 << s->form->bits) - 1 || !isfinite(inverse) || inverse == 0)
        return false;
    block_sums(s->form, s->w, s->h, s->n, inverse, (uint8_t)zero, &wd, &dd);
    const float scale = dd > 0 ? wd / dd : 0, gain = wd * scale;
    if (!(gain > s->gain) || !isfinite(gain) || !isfinite(1 / scale))
        return false;
    s->gain = gain;
    s->inverse = inverse;
    s->scale = scale;
    s->zero = (uint8_t)zero;
    return true;
}

/* From the best so far: the scale that suits its codes makes other codes, and so on, with the zero points beside. */
static inline void block_search_refine(struct block_search *s, int rounds)
{
    for (int i = 0; i < rounds && s->gain > 0; i++) {
        const float inverse = 1 / s->scale;
        const int zero = s->zero;
        bool better = block_search_try(s, inverse, zero);
        if (!s->form->symmetric) {
            better |= block_search_try(s, inverse, zero - 1);
            better |= block_search_try(s, inverse, zero + 1);
        }
        if (!better)
            return;
    }
}

/* What round to nearest takes, as the first candidate and the fallback. */
static inline void block_search_start(struct block_search *s, const struct block_form *f, const float *w,
                                      const float *h, int64_t n, float *lo, float *hi)
{
    *s = (struct block_search){.form = f, .w = w, .h = h, .n = n};
    block_range(w, n, lo, hi);
    block_params(f, *lo, *hi, &s->scale, &s->zero);
    if (s->scale != 0)
        block_search_try(s, 1 / s->scale, s->zero);
}

static inline void block_search_store(const struct block_search *s, uint8_t *codes, float *scale, uint8_t *zero)
{
    const float inverse = s->gain > 0 ? s->inverse : 0;
    block_encode_inverse(s->form, s->w, s->n, inverse, s->zero, codes);
    *scale = s->gain > 0 ? block_scale_stored(s->form, s->scale) : 0;
    *zero = s->zero;
}

#endif
