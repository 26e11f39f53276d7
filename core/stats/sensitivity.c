/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.c - one forward and backward a sample; see sensitivity.h for the formula. */
#include "core/stats/sensitivity.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"

enum { STREAM_FISHER = 0xf15e, MAX_BATCH = 4096 };

struct fisher {
    const struct fisher_opts *o;
    struct grad *grad;
    struct rng rng;
    struct tensor *in;
    int n_in;
    int64_t batch; /* the model takes so many samples at once: the same one, repeated */
};

/* y from the softmax of one row; the seed becomes p - onehot(y). */
static void seed_scores(struct fisher *f, const float *x, float *seed, int64_t n)
{
    double most = -INFINITY, sum = 0, drawn = rng_uniform(&f->rng);
    int64_t y = n - 1;
    for (int64_t i = 0; i < n; i++)
        most = (double)x[i] > most ? (double)x[i] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    for (int64_t i = 0; i < n; i++) {
        const double p = exp((double)x[i] - most) / sum;
        seed[i] = (float)p;
        if (drawn >= 0 && (drawn -= p) < 0)
            y = i;
    }
    seed[y] -= 1;
}

/* The output is a Softmax already: -log p_y has the gradient -1 / p_y. */
static void seed_probabilities(struct fisher *f, const float *x, float *seed, int64_t n)
{
    double drawn = rng_uniform(&f->rng);
    int64_t y = 0;
    for (int64_t i = 0; i < n; i++)
        y = (double)x[i] > (double)x[y] ? i : y;
    for (int64_t i = 0; i < n; i++)
        if (drawn >= 0 && (drawn -= (double)x[i]) < 0)
            y = i;
    seed[y] = (float)(-1 / fmax((double)x[y], 1e-6));
}

static void seed_outputs(struct fisher *f)
{
    for (int i = 0; i < grad_n_outputs(f->grad); i++) {
        struct tensor *seed = grad_seed(f->grad, i);
        const struct tensor *out = grad_output(f->grad, i);
        if (!seed || seed->dtype != DTYPE_FLOAT || out->shape.rank < 1)
            continue;
        const int64_t each = tensor_count(out) / f->batch;
        const float *x = tensor_f32(out);
        double sum = 0;
        bool scores = out->shape.rank == 2 && out->shape.dim[0] == f->batch && each > 1, positive = true;
        for (int64_t k = 0; k < each; k++) {
            positive = positive && x[k] >= 0;
            sum += (double)x[k];
        }
        if (scores && positive && fabs(sum - 1) < 1e-3)
            seed_probabilities(f, x, tensor_f32(seed), each);
        else if (scores)
            seed_scores(f, x, tensor_f32(seed), each);
        else
            for (int64_t k = 0; k < each; k++)
                tensor_f32(seed)[k] = rng_u64(&f->rng) & 1 ? 1 : -1;
        if (scores)
            return; /* the first scores are what the model is judged by */
    }
}

static int add_sample(struct fisher *f, int64_t sample, double *score, struct err *err)
{
    int64_t index[MAX_BATCH];
    for (int64_t i = 0; i < f->batch; i++)
        index[i] = sample;
    int rc = dataset_read(f->o->data, index, (int)f->batch, f->in, NULL, err);
    if (rc == 0)
        rc = grad_forward(f->grad, f->in, err);
    if (rc == 0) {
        seed_outputs(f); /* of the first row only: the others stay zero */
        grad_reset(f->grad);
        rc = grad_backward(f->grad, err);
    }
    for (int w = 0; rc == 0 && w < f->o->n_weights; w++) {
        const struct tensor *g = grad_param_gradient(f->grad, w), *d = &f->o->delta[w];
        double sum = 0;
        for (int64_t k = 0, n = tensor_count(d); k < n; k++)
            sum += (double)tensor_f32(g)[k] * (double)tensor_f32(d)[k];
        score[w] += isfinite(sum) ? sum * sum / (double)f->o->n : 0;
    }
    for (int i = 0; i < f->n_in; i++)
        tensor_fini(&f->in[i]);
    return rc;
}

int sensitivity_fisher(const struct model *m, const struct fisher_opts *o, double *score, struct err *err)
{
    struct fisher f = {.o = o, .batch = 1};
    int rc = -1;
    const struct grad_opts opts = {.pool = o->pool, .params = o->weights, .n_params = o->n_weights, .checkpoints = 1};
    rng_init(&f.rng, o->seed, STREAM_FISHER);
    if (dataset_bind(o->data, m, err) || !(f.grad = grad_new(m, &opts, err)))
        return -1;
    f.n_in = grad_n_feeds(f.grad);
    f.in = calloc((size_t)f.n_in + 1, sizeof *f.in);
    if (!f.in) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (f.n_in > 0) {
        const struct type *t = &m->values[grad_feed(f.grad, 0)].type;
        if (t->kind == TYPE_TENSOR && t->shape.rank > 0 && t->shape.dim[0] > 1 && !dataset_single_feed(o->data))
            f.batch = t->shape.dim[0];
    }
    if (f.batch > MAX_BATCH) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the model takes %lld samples at once", (long long)f.batch);
        goto out;
    }
    for (int w = 0; w < o->n_weights; w++)
        score[w] = 0;
    for (int64_t i = 0; i < o->n; i++)
        if (add_sample(&f, o->index[i], score, err) ||
            (o->progress && o->progress(o->progress_arg, i + 1, o->n, err)))
            goto out;
    rc = 0;
out:
    free(f.in);
    grad_free(f.grad);
    return rc;
}
