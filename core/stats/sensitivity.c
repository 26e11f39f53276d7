/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.c - the gradients of single samples along the change (sample_gradients.h); see sensitivity.h for the formula. */
#include "core/stats/sensitivity.h"

#include <math.h>

#include "core/stats/sample_gradients.h"

struct fisher {
    const struct fisher_opts *o;
    double *score;
};

static int add_sample(void *arg, const struct grad *grad, struct err *err)
{
    const struct fisher *f = arg;
    (void)err;
    for (int w = 0; w < f->o->n_weights; w++) {
        const struct tensor *g = grad_param_gradient(grad, w), *d = &f->o->delta[w];
        double sum = 0;
        for (int64_t k = 0, n = tensor_count(d); k < n; k++)
            sum += (double)tensor_f32(g)[k] * (double)tensor_f32(d)[k];
        f->score[w] += isfinite(sum) ? sum * sum / (double)f->o->n : 0;
    }
    return 0;
}

int sensitivity_fisher(const struct model *m, const struct fisher_opts *o, double *score, struct err *err)
{
    struct fisher f = {o, score};
    const struct sample_gradients run = {.data = o->data,
                                         .index = o->index,
                                         .n = o->n,
                                         .pool = o->pool,
                                         .seed = o->seed,
                                         .weights = o->weights,
                                         .n_weights = o->n_weights,
                                         .each = add_sample,
                                         .arg = &f,
                                         .progress = o->progress,
                                         .progress_arg = o->progress_arg};
    for (int w = 0; w < o->n_weights; w++)
        score[w] = 0;
    return sample_gradients_run(m, &run, err);
}
