/* SPDX-License-Identifier: Apache-2.0
 * sample_gradients.c - one forward and backward a sample (sample_gradients.h). */
#include "core/stats/sample_gradients.h"

#include <stdlib.h>

#include "core/base/rng.h"
#include "core/stats/output_loss.h"

enum { STREAM_LABELS = 0xf15e, MAX_BATCH = 4096 };

struct run {
    const struct sample_gradients *o;
    struct grad *grad;
    struct rng rng;
    struct tensor *in;
    int n_in;
    int64_t batch; /* the model takes so many samples at once: the same one, repeated */
    struct output_reference reference;
};

/* dL/d(output), of the first row only: the others stay zero. */
static int seed_outputs(struct run *f, const struct tensor *labels, struct err *err)
{
    const int fits = labels->dtype != DTYPE_NONE ? output_loss_labels(f->grad, f->batch, labels, err) : 0;
    if (fits == 0 && f->o->labels && f->o->unfit)
        ++*f->o->unfit;
    if (fits == 0 && f->o->before)
        output_loss_reference(f->grad, f->batch, &f->reference);
    else if (fits == 0)
        output_loss_draw(f->grad, f->batch, &f->rng);
    return fits < 0 ? -1 : 0;
}

static int run_once(struct run *f, int run, const struct tensor *labels, struct err *err)
{
    if ((f->o->before && f->o->before(f->o->arg, f->grad, run, err)) || grad_forward(f->grad, f->in, err))
        return -1;
    if (run < 0)
        return output_reference_take(&f->reference, f->grad, f->batch, err);
    grad_reset(f->grad);
    return seed_outputs(f, labels, err) || grad_backward(f->grad, err) || f->o->each(f->o->arg, f->grad, err) ? -1 : 0;
}

static int run_sample(struct run *f, int64_t sample, struct err *err)
{
    int64_t index[MAX_BATCH];
    struct tensor labels = {0};
    const int runs = f->o->runs > 0 ? f->o->runs : 1;
    for (int64_t i = 0; i < f->batch; i++)
        index[i] = sample;
    int rc = dataset_read(f->o->data, index, (int)f->batch, f->in, f->o->labels ? &labels : NULL, err);
    for (int r = f->o->before ? -1 : 0; rc == 0 && r < runs; r++)
        rc = run_once(f, r, &labels, err);
    for (int i = 0; i < f->n_in; i++)
        tensor_fini(&f->in[i]);
    tensor_fini(&labels);
    return rc;
}

static int64_t batch_of(const struct run *f, const struct model *m)
{
    if (f->n_in < 1 || dataset_single_feed(f->o->data))
        return 1;
    const struct type *t = &m->values[grad_feed(f->grad, 0)].type;
    return t->kind == TYPE_TENSOR && t->shape.rank > 0 && t->shape.dim[0] > 1 ? t->shape.dim[0] : 1;
}

int sample_gradients_run(const struct model *m, const struct sample_gradients *o, struct err *err)
{
    struct run f = {.o = o};
    int rc = -1;
    const struct grad_opts opts = {.pool = o->pool, .params = o->weights, .n_params = o->n_weights, .checkpoints = 1};
    rng_init(&f.rng, o->seed, STREAM_LABELS);
    if (o->unfit)
        *o->unfit = 0;
    if (dataset_bind(o->data, m, err) || !(f.grad = grad_new(m, &opts, err)))
        return -1;
    f.n_in = grad_n_feeds(f.grad);
    f.batch = batch_of(&f, m);
    f.in = calloc((size_t)f.n_in + 1, sizeof *f.in);
    if (!f.in) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (f.batch > MAX_BATCH) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the model takes %lld samples at once", (long long)f.batch);
        goto out;
    }
    for (int64_t i = 0; i < o->n; i++)
        if (run_sample(&f, o->index[i], err) || (o->progress && o->progress(o->progress_arg, i + 1, o->n, err)))
            goto out;
    rc = 0;
out:
    output_reference_fini(&f.reference);
    free(f.in);
    grad_free(f.grad);
    return rc;
}
