/* SPDX-License-Identifier: Apache-2.0
 * compensate.c - flips that make errors cancel (compensate.h).
 *
 * error[k] = codes[k] - w[k] / scale. A set (one kernel, then the whole channel) with error sum E wants round(|E|) flips
 * against E's sign. Taken are those that raise the squared error least, that is where the error already points that way.
 * One pass over the set finds the next BEST of them. What may not move at some time may not later in the same set either:
 * all its codes move in one direction. A weight of zero has no error, and so never moves. */
#include "core/quant/compensate.h"

#include <math.h>
#include <stdlib.h>

enum { BEST = 32 };

struct flips {
    const struct sum_order *order;
    const struct pair_opts *opts;
    int64_t o;
    int32_t *codes;
    double *error;
    double *kernel;    /* [order->inner] sums of the kernels' errors; NULL: a kernel is one weight */
    bool keep_kernels; /* they are balanced, and stay so */
};

struct candidate {
    double gain; /* its error, counted in the direction that is wanted gone */
    int64_t k;
};

static bool may_move(const struct flips *f, int64_t k, int32_t by)
{
    const int32_t code = f->codes[k] + by;
    const int64_t other = k ^ 1;
    if (abs(code) > f->opts->qmax)
        return false;
    if (f->keep_kernels && fabs(f->kernel[k % f->order->inner] + by) > 1)
        return false;
    if (!f->opts->pairs || other >= f->order->count)
        return true;
    const int32_t partner = f->codes[other];
    return (code > 0) != (partner > 0) || abs(code) * reach_at(f->opts->reach, f->order, f->o, k) +
                                                  abs(partner) * reach_at(f->opts->reach, f->order, f->o, other) <=
                                              INT16_MAX;
}

/* The `most` best to move among first, first + step, ... (n of them), best first; of equals the earlier. */
static int find_best(const struct flips *f, int64_t first, int64_t step, int64_t n, int32_t by, int most,
                     struct candidate *best)
{
    double least = 0;
    int found = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = first + i * step;
        const double gain = -by * f->error[k];
        if (!(gain > least) || !may_move(f, k, by))
            continue;
        int at = found < most ? found++ : most - 1;
        for (; at > 0 && best[at - 1].gain < gain; at--)
            best[at] = best[at - 1];
        best[at] = (struct candidate){gain, k};
        least = found == most ? best[most - 1].gain : 0;
    }
    return found;
}

/* The sum of errors at first, first + step, ... (n of them) is brought to at most a half, as far as can be. */
static void balance(struct flips *f, int64_t first, int64_t step, int64_t n, double sum)
{
    struct candidate best[BEST];
    const int32_t by = sum > 0 ? -1 : 1;
    while (fabs(sum) > 0.5 && (sum > 0) == (by < 0)) {
        const int most = fabs(sum) < BEST - 0.5 ? (int)ceil(fabs(sum) - 0.5) : BEST;
        const int found = find_best(f, first, step, n, by, most, best);
        bool again = false;
        if (found == 0)
            return;
        for (int j = 0; j < found && !again; j++) {
            const int64_t k = best[j].k;
            if (j > 0 && !may_move(f, k, by))
                continue;
            f->codes[k] += by;
            f->error[k] += by;
            sum += by;
            if (f->kernel)
                f->kernel[k % f->order->inner] += by;
            again = best[j].gain - 1 > 0; /* it was further off than a step: it may be the best once more */
        }
    }
}

static double sum_of(const double *error, int64_t n)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += error[k];
    return sum;
}

double compensate_codes(const struct sum_order *order, int64_t o, const struct pair_opts *opts, int32_t *codes,
                        double *steps)
{
    struct flips f = {.order = order, .opts = opts, .o = o, .codes = codes, .error = steps};
    const int64_t kernel = order->inner > 0 ? order->count / order->inner : 0;
    double sum = 0;
    for (int64_t k = 0; k < order->count; k++)
        steps[k] = codes[k] - steps[k];
    if (kernel > 1) {
        f.kernel = steps + order->count;
        for (int64_t c = 0; c < order->inner; c++)
            f.kernel[c] = 0;
        for (int64_t p = 0; p < kernel; p++)
            for (int64_t c = 0; c < order->inner; c++)
                f.kernel[c] += steps[p * order->inner + c];
        for (int64_t c = 0; c < order->inner; c++)
            balance(&f, c, order->inner, kernel, f.kernel[c]);
        f.keep_kernels = true;
    }
    balance(&f, 0, 1, order->count, sum_of(steps, order->count));
    for (int64_t k = 0; k < order->count; k++)
        sum += steps[k] * steps[k];
    return sum;
}
