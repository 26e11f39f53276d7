/* SPDX-License-Identifier: Apache-2.0
 * compensate.c - flips that make errors cancel (compensate.h).
 *
 * error[k] = codes[k] - w[k] / scale. A set (one kernel, then the whole channel) with error sum E wants round(|E|) flips
 * against E's sign. Taken are those that raise the squared error least, that is where the error already points that way. */
#include "core/quant/compensate.h"

#include <math.h>
#include <stdlib.h>

struct flips {
    const struct sum_order *order;
    const struct pair_opts *opts;
    int64_t o;
    int32_t *codes;
    double *error;   /* NAN: must not move */
    double *kernel;  /* [order->inner] sums of the kernels' errors; NULL: they do not matter (yet) */
};

static bool may_move(const struct flips *f, int64_t k, int32_t by)
{
    const int32_t code = f->codes[k] + by;
    const int64_t other = k ^ 1;
    if (abs(code) > f->opts->qmax)
        return false;
    if (f->kernel && fabs(f->kernel[k % f->order->inner] + by) > 1)
        return false;
    if (!f->opts->pairs || other >= f->order->count)
        return true;
    const int32_t partner = f->codes[other];
    return (code > 0) != (partner > 0) || abs(code) * reach_at(f->opts->reach, f->order, f->o, k) +
                                                  abs(partner) * reach_at(f->opts->reach, f->order, f->o, other) <=
                                              INT16_MAX;
}

/* The sum of errors at first, first + step, ... (n of them) is brought to at most a half, as far as can be. */
static void balance(struct flips *f, int64_t first, int64_t step, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += isnan(f->error[first + i * step]) ? 0 : f->error[first + i * step];
    for (const int32_t by = sum > 0 ? -1 : 1; fabs(sum) > 0.5 && (sum > 0) == (by < 0); sum += by) {
        double most = 0;
        int64_t at = -1;
        for (int64_t i = 0; i < n; i++) {
            const int64_t k = first + i * step;
            const double e = -by * f->error[k]; /* NAN is never more */
            if (e > most && may_move(f, k, by)) {
                most = e;
                at = k;
            }
        }
        if (at < 0)
            break;
        f->codes[at] += by;
        f->error[at] += by;
        if (f->kernel)
            f->kernel[at % f->order->inner] += by;
    }
}

double compensate_codes(const float *w, const struct sum_order *order, int64_t o, double scale,
                        const struct pair_opts *opts, int32_t *codes, double *scratch)
{
    struct flips f = {order, opts, o, codes, scratch, NULL};
    const int64_t kernel = order->inner > 0 ? order->count / order->inner : 0;
    double sum = 0;
    for (int64_t k = 0; k < order->count; k++)
        scratch[k] = w[order->offset[k]] == 0 ? NAN : codes[k] - (double)w[order->offset[k]] / scale;
    for (int64_t c = 0; kernel > 1 && c < order->inner; c++)
        balance(&f, c, order->inner, kernel);
    if (kernel > 1) {
        f.kernel = scratch + order->count;
        for (int64_t c = 0; c < order->inner; c++)
            f.kernel[c] = 0;
        for (int64_t k = 0; k < order->count; k++)
            f.kernel[k % order->inner] += isnan(scratch[k]) ? 0 : scratch[k];
    }
    balance(&f, 0, 1, order->count);
    for (int64_t k = 0; k < order->count; k++)
        sum += isnan(scratch[k]) ? 0 : scratch[k] * scratch[k];
    return sum * scale * scale;
}
