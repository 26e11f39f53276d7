/* SPDX-License-Identifier: Apache-2.0
 * hqq.c - half-quadratic quantization of a block (hqq.h).
 * Problem    min over scale and zero point of sum |w - w'|^p, p = 0.7: errors of a few large weights count less
 *            than those of many small ones. It is split with a variable e for the error: in turn
 *              e    = shrink(w - w') = sign(x) max(|x| - |x|^(p-1) / beta, 0), x = w - w'
 *              zero = mean(code - (w - e) / scale)
 *              scale = sum (w - e) (code - zero) / sum (code - zero)^2
 *            with beta growing by kappa a round. Stopped when the error of w no longer falls.
 * Ours       The paper fixes the scale and keeps the zero point in floating point, four bytes a block. Here both
 *            are solved for, and each round's result is tried with a whole zero point, which takes `bits` bits. Of
 *            all tried, and of round to nearest, the one with the least squared error stays: with inputs alike that
 *            is the least error of the output. */
#include "core/quant/hqq.h"

#include "core/kernels/block_round.h"
#include "core/quant/block_search.h"

static const float power = 0.7f, beta_start = 10, kappa = 1.01f;
enum { ROUNDS = 20, REFINE = 4, STEPS = 20 };

static void solve(struct block_search *s, float inverse, float zero)
{
    const struct block_round_set *set = block_round_best();
    const float top = (float)((1 << s->form->bits) - 1);
    float beta = beta_start, out[3];
    int stale = 0;
    for (int i = 0; i < ROUNDS && stale < 2; i++) {
        const struct block_grid g = {inverse, zero, top};
        set->half_quadratic(s->w, s->n, &g, power, beta, out);
        if (!(out[1] > 0) || !isfinite(out[0]) || out[0] == 0 || !isfinite(out[2]))
            return;
        if (!s->form->symmetric)
            zero = fminf(fmaxf(out[2] / (float)s->n, 0), top);
        inverse = out[1] / out[0];
        if (!isfinite(inverse) || inverse == 0)
            return;
        beta *= kappa;
        stale = block_search_try(s, inverse, (int)roundf(zero)) ? 0 : stale + 1;
    }
}

/* Minima are many: ranges that cut off more and more are tried as they are, and the problem is solved from the full one
 * and from the best. */
static void search(struct block_search *s, float lo, float hi)
{
    const struct block_form *f = s->form;
    const float top = (float)((1 << f->bits) - 1), half = (float)(1 << (f->bits - 1)), m = hi > -lo ? hi : lo;
    const float most = 1 + 1.0f / (float)(f->bits - 1), inverse = top / (hi - lo);
    solve(s, s->inverse, f->symmetric ? half : fminf(-lo * inverse, top));
    for (int i = 0; i <= STEPS; i++) {
        const float stretch = 0.95f + (most - 0.95f) * (float)i / (float)STEPS;
        if (f->symmetric) {
            block_search_try(s, -half * stretch / m, (int)half);
            block_search_try(s, (half - 1) * stretch / m, (int)half);
        } else {
            block_search_try(s, inverse * stretch, (int)fminf(roundf(-lo * inverse * stretch), top));
        }
    }
    solve(s, s->inverse, (float)s->zero);
    block_search_refine(s, REFINE);
}

void block_hqq(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out)
{
    const int64_t blocks = block_count(f);
    float lo, hi;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = r * blocks + b;
            struct block_search s;
            block_search_start(&s, f, w + r * f->k + first, NULL, n, &lo, &hi);
            if (s.gain > 0)
                search(&s, lo, hi);
            block_search_store(&s, out->codes + r * f->k + first, &out->scale[at], &out->zero[at]);
        }
}
