/* SPDX-License-Identifier: Apache-2.0
 * kquant.c - see kquant.h. The weight of a number in the error is the block's root mean square plus its magnitude:
 * large weights matter more to the output than their squares say, as inputs are not all alike. */
#include "core/quant/kquant.h"

#include "core/quant/block_search.h"

enum { STEPS = 20, ROUNDS = 4, PIECE = 512 };

/* Inverse scales from 0.9 to 1 + 1 / (bits - 1) times that of the range: with few bits more may be cut off. */
static float stretch(const struct block_form *f, int i)
{
    const float most = 1 + 1.0f / (float)(f->bits - 1);
    return 0.9f + (most - 0.9f) * (float)i / (float)STEPS;
}

static void search(struct block_search *s, float lo, float hi)
{
    const struct block_form *f = s->form;
    const float top = (float)((1 << f->bits) - 1), half = (float)(1 << (f->bits - 1)), m = hi > -lo ? hi : lo;
    for (int i = 0; i <= STEPS; i++) {
        if (f->symmetric) {
            block_search_try(s, -half * stretch(f, i) / m, 1 << (f->bits - 1));
            block_search_try(s, (half - 1) * stretch(f, i) / m, 1 << (f->bits - 1));
        } else {
            const float inverse = top * stretch(f, i) / (hi - lo);
            block_search_try(s, inverse, (int)fminf(roundf(-lo * inverse), top));
        }
    }
    block_search_refine(s, ROUNDS);
}

/* h[i] = rms + |w[i]| */
static void importance(const float *w, int64_t n, float *h)
{
    double square = 0;
    for (int64_t i = 0; i < n; i++)
        square += (double)w[i] * (double)w[i];
    const float rms = (float)sqrt(square / (double)n);
    for (int64_t i = 0; i < n; i++)
        h[i] = rms + fabsf(w[i]);
}

void block_kquant(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out)
{
    const int64_t blocks = block_count(f);
    float h[PIECE], lo, hi;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = r * blocks + b;
            const float *x = w + r * f->k + first;
            struct block_search s;
            if (n <= PIECE) /* a longer one is a whole channel: all count alike */
                importance(x, n, h);
            block_search_start(&s, f, x, n <= PIECE ? h : NULL, n, &lo, &hi);
            if (s.gain > 0)
                search(&s, lo, hi);
            block_search_store(&s, out->codes + r * f->k + first, &out->scale[at], &out->zero[at]);
        }
}
