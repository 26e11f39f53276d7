/* SPDX-License-Identifier: Apache-2.0
 * reference.c - one evaluation loop, run once to keep an output and then to compare with it (reference.h). */
#include "core/stats/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/stats/classify.h"
#include "core/stats/evaluate.h"

#define REFERENCE_BYTES ((int64_t)256 << 20)
#define KL_MOST 1e3 /* of a sample whose scores are not finite */

struct reference {
    struct reference_opts opts;
    int64_t *index;
    int output;   /* judged; -1: not known yet */
    int64_t each; /* elements a sample */
    bool classes, probabilities, labelled;
    float *kept;   /* [n][each] */
    double *noise; /* [n] of the last comparison */
    double power, macs; /* mean sum of squares of a sample; multiply-accumulates of one */
    struct closeness own;
};
struct run {
    struct reference *r;
    bool keep;
    int n_out, last; /* last: samples of the last batch, as fed */
    struct closeness c;
    double signal, noise;
};

static bool has_scores(const struct tensor *t, int64_t n)
{
    int64_t wide = 0;
    if (t->dtype != DTYPE_FLOAT || t->shape.rank < 2 || t->shape.dim[0] != n)
        return false;
    for (int i = 1; i < t->shape.rank; i++)
        wide += t->shape.dim[i] > 1;
    return wide == 1;
}

static int choose_output(struct run *run, const struct evaluate_batch *b, struct err *err)
{
    struct reference *r = run->r;
    for (int i = 0; i < run->n_out && r->output < 0; i++)
        if (has_scores(&b->out[i], b->n)) {
            r->output = i;
            r->classes = true;
        }
    for (int i = 0; i < run->n_out && r->output < 0; i++)
        if (b->out[i].dtype == DTYPE_FLOAT && tensor_count(&b->out[i]) > 0)
            r->output = i;
    if (r->output < 0)
        return err_set(err, ERR_MODEL, "the model has no output of float32 numbers to judge by");
    const int64_t count = tensor_count(&b->out[r->output]);
    r->each = count / b->n;
    const int64_t fit = r->each > 0 ? REFERENCE_BYTES / 4 / r->each : r->opts.n;
    if (count % b->n || fit < 1)
        return err_set(err, ERR_MODEL_TOO_LARGE, "an output of %lld numbers a sample is too large to keep",
                       (long long)r->each);
    r->opts.n = fit < r->opts.n ? fit : r->opts.n;
    r->kept = calloc((size_t)(r->opts.n * r->each) + 1, sizeof *r->kept);
    r->noise = calloc((size_t)r->opts.n + 1, sizeof *r->noise);
    r->probabilities = r->classes;
    return r->kept && r->noise ? 0 : err_set(err, ERR_NOMEM, "out of memory for the outputs of the original model");
}

static bool sums_to_one(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] >= 0))
            return false;
        sum += (double)x[i];
    }
    return fabs(sum - 1) < 1e-3;
}

/* log of the sum of exponents, of finite scores. */
static double log_sum(const float *x, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        most = (double)x[i] > most ? (double)x[i] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return sum > 0 ? most + log(sum) : most;
}

static double divergence(const float *a, const float *b, int64_t n, bool probabilities)
{
    const double za = probabilities ? 0 : log_sum(a, n), zb = probabilities ? 0 : log_sum(b, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double la = probabilities ? log(fmax((double)a[i], 1e-12)) : (double)a[i] - za,
               lb = probabilities ? log(fmax((double)b[i], 1e-12)) : (double)b[i] - zb;
        sum += exp(la) * (la - lb);
    }
    return isfinite(sum) ? fmin(fmax(sum, 0), KL_MOST) : KL_MOST;
}

static void judge_sample(struct run *run, int64_t sample, const float *b, int64_t label)
{
    const struct reference *r = run->r;
    const float *a = r->kept + sample * r->each;
    double noise = 0;
    for (int64_t i = 0; i < r->each; i++) {
        const double d = (double)a[i] - (double)b[i];
        run->signal += (double)a[i] * (double)a[i];
        noise += isfinite(d) ? d * d : INFINITY;
    }
    r->noise[sample] = noise;
    run->noise += noise;
    run->c.samples++;
    if (!r->classes)
        return;
    const int64_t place = classify_argmax(b, r->each);
    run->c.kl += divergence(a, b, r->each, r->probabilities);
    run->c.disagreement += place != classify_argmax(a, r->each);
    run->c.top1 += label >= 0 && place == label;
}

static int take_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct run *run = arg;
    struct reference *r = run->r;
    if (r->output < 0 && choose_output(run, b, err))
        return -1;
    if (r->output >= run->n_out || b->out[r->output].dtype != DTYPE_FLOAT ||
        tensor_count(&b->out[r->output]) != r->each * b->n)
        return err_set(err, ERR_SHAPE, "output %d has another size for some samples: they cannot be compared",
                       r->output);
    const float *x = tensor_f32(&b->out[r->output]);
    run->last = b->fed;
    for (int64_t i = 0; i < b->n && b->first + i < r->opts.n; i++) {
        const int64_t sample = b->first + i;
        if (run->keep) {
            float *kept = r->kept + sample * r->each;
            memcpy(kept, x + i * r->each, (size_t)r->each * sizeof *x);
            r->probabilities = r->probabilities && sums_to_one(kept, r->each);
        }
        judge_sample(run, sample, x + i * r->each, r->labelled ? dataset_class(r->opts.data, r->index[sample]) : -1);
    }
    return 0;
}

static int run_model(struct reference *r, const struct model *m, bool keep, int64_t limit, struct closeness *out,
                     struct err *err)
{
    struct run run = {.r = r, .keep = keep};
    const int64_t n = limit > 0 && limit < r->opts.n ? limit : r->opts.n;
    const struct evaluate_opts opts = {.pool = r->opts.pool,
                                       .index = r->index,
                                       .n_index = n,
                                       .progress = r->opts.progress,
                                       .progress_arg = r->opts.progress_arg};
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = r->opts.pool, .optimize = true}, err);
    if (!plan)
        return -1;
    run.n_out = plan_n_outputs(plan);
    const int64_t done = evaluate_each(plan, m, r->opts.data, &opts, take_batch, &run, err);
    const int64_t macs = done < 0 ? -1 : plan_macs(plan, NODE_NONE); /* of the last batch */
    plan_free(plan);
    if (done < 0)
        return -1;
    const double samples = run.c.samples > 0 ? (double)run.c.samples : 1;
    if (keep) {
        r->power = run.signal / samples;
        r->macs = macs > 0 && run.last > 0 ? (double)macs / run.last : 1e6;
    }
    for (int64_t i = 0; i < run.c.samples; i++)
        r->noise[i] = r->power > 0 ? r->noise[i] / r->power : r->noise[i] > 0 ? INFINITY : 0;
    *out = run.c;
    out->classes = r->classes;
    out->kl /= samples;
    out->disagreement /= samples;
    out->top1 = r->labelled && r->classes ? out->top1 / samples : NAN;
    out->noise = run.signal > 0 ? run.noise / run.signal : run.noise > 0 ? INFINITY : 0;
    return 0;
}

struct reference *reference_new(const struct model *original, const struct reference_opts *opts, struct err *err)
{
    struct reference *r = calloc(1, sizeof *r);
    if (!r || !(r->index = calloc((size_t)opts->n + 1, sizeof *r->index))) {
        free(r);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    r->opts = *opts;
    r->output = -1;
    r->labelled = dataset_labels_are_classes(opts->data);
    memcpy(r->index, opts->index, (size_t)opts->n * sizeof *r->index);
    if (run_model(r, original, true, 0, &r->own, err)) {
        reference_free(r);
        return NULL;
    }
    r->own.kl = 0; /* measured while it was not known yet whether scores are probabilities */
    return r;
}

void reference_free(struct reference *r)
{
    if (!r)
        return;
    free(r->index);
    free(r->kept);
    free(r->noise);
    free(r);
}

int64_t reference_samples(const struct reference *r)
{
    return r->opts.n;
}

double reference_macs(const struct reference *r)
{
    return r->macs;
}

const double *reference_noise(const struct reference *r)
{
    return r->noise;
}

const struct closeness *reference_own(const struct reference *r)
{
    return &r->own;
}

int reference_compare(struct reference *r, const struct model *m, int64_t limit, struct closeness *out, struct err *err)
{
    return run_model(r, m, false, limit, out, err);
}
