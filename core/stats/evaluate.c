/* SPDX-License-Identifier: Apache-2.0
 * One loop over the samples of a dataset; metrics, outputs and comparison are callbacks of it. */
#include "core/stats/evaluate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

enum { DEFAULT_BATCH = 32, MAX_BATCH = 4096 };
#define BATCH_SLAB_BYTES ((size_t)256 << 20)

/* ---- batch size ---- */
/* Does the model run with `batch` samples at once, and do all outputs follow? */
static bool batch_works(struct plan *plan, const struct tensor *in, int64_t batch, size_t most_bytes)
{
    int n = plan_n_inputs(plan);
    const struct type *types;
    struct shape *shape = calloc((size_t)n + 1, sizeof *shape);
    bool works = shape != NULL;
    for (int i = 0; i < n && works; i++) {
        if (in)
            shape[i] = in[i].shape;
        else
            plan_input_shape(plan, i, batch, 8, &shape[i]);
        if (shape[i].rank < 1)
            works = false;
        else
            shape[i].dim[0] = batch;
    }
    works = works && !plan_infer(plan, shape, &types, NULL) && plan_slab_bytes(plan) <= most_bytes;
    for (int i = 0; i < plan_n_outputs(plan) && works; i++) {
        const struct shape *s = &types[plan_output(plan, i)].shape;
        works = s->rank >= 1 && s->dim[0] == batch;
    }
    free(shape);
    return works;
}

static int64_t batch_within(struct plan *plan, const struct tensor *in, int64_t wanted, size_t most_bytes, bool *fixed)
{
    int n = plan_n_inputs(plan);
    int64_t one = 0;
    bool free_dim = false, mixed = false;
    for (int i = 0; i < n; i++) {
        struct shape s;
        plan_input_shape(plan, i, -1, -1, &s);
        if (s.rank < 1)
            mixed = true;
        else if (s.dim[0] < 0)
            free_dim = true;
        else if (one && one != s.dim[0])
            mixed = true;
        else
            one = s.dim[0];
    }
    if (fixed)
        *fixed = one > 0 && !free_dim && !mixed;
    if (n == 0 || mixed || (one && free_dim))
        return 1;
    if (one)
        return one;
    int64_t batch = wanted > 0 ? i64_min(wanted, MAX_BATCH) : DEFAULT_BATCH;
    while (batch > 1 && !batch_works(plan, in, batch, most_bytes))
        batch /= 2;
    return batch;
}

int64_t evaluate_batch_size(struct plan *plan, const struct tensor *in, int64_t wanted, bool *fixed)
{
    return batch_within(plan, in, wanted, BATCH_SLAB_BYTES, fixed);
}

/* ---- the loop ---- */
struct loop {
    struct plan *plan;
    struct dataset *ds;
    const struct evaluate_opts *o;
    int n_in, n_out;
    struct tensor *in, *out, *cut, labels;
    int64_t *index; /* of one batch */
    int64_t total, batch;
};

static void clear_batch(struct loop *l)
{
    for (int i = 0; l->in && i < l->n_in; i++)
        tensor_fini(&l->in[i]);
    for (int i = 0; l->out && i < l->n_out; i++)
        tensor_fini(&l->out[i]);
    tensor_fini(&l->labels);
}

/* The first n of `fed` rows, as a borrowed view. */
void evaluate_cut_rows(struct tensor *cut, const struct tensor *t, int64_t n, int64_t fed)
{
    *cut = *t;
    cut->buf = NULL;
    if (n == fed || t->shape.rank < 1 || t->shape.dim[0] != fed || tensor_is_list(t))
        return;
    struct shape s = t->shape;
    s.dim[0] = n;
    tensor_view(cut, t->dtype, &s, t->data, NULL);
}

static int64_t sample_at(const struct loop *l, int64_t i)
{
    if (i >= l->total)
        i = l->total - 1;
    return l->o->index ? l->o->index[i] : i;
}

static int run_batch(struct loop *l, int64_t first, int64_t n, int64_t fed, evaluate_fn *fn, void *arg, struct err *err)
{
    struct tensor labels;
    for (int64_t i = 0; i < fed; i++)
        l->index[i] = sample_at(l, first + i);
    if (dataset_read(l->ds, l->index, (int)fed, l->in, &l->labels, err))
        return -1;
    if (plan_run(l->plan, l->in, l->out, l->o->run, err))
        return err_wrap(err, "samples %" PRId64 " to %" PRId64 ": ", l->index[0], l->index[n - 1]);
    for (int i = 0; i < l->n_out; i++)
        evaluate_cut_rows(&l->cut[i], &l->out[i], n, fed);
    evaluate_cut_rows(&labels, &l->labels, n, fed);
    struct evaluate_batch b = {
        .first = first, .n = (int)n, .fed = (int)fed, .in = l->in, .out = l->cut, .labels = &labels};
    return fn ? fn(arg, &b, err) : 0;
}

static int start_loop(struct loop *l, bool *fixed, struct err *err)
{
    l->n_in = plan_n_inputs(l->plan);
    l->n_out = plan_n_outputs(l->plan);
    l->in = calloc((size_t)l->n_in + 1, sizeof *l->in);
    l->out = calloc((size_t)l->n_out + 1, sizeof *l->out);
    l->cut = calloc((size_t)l->n_out + 1, sizeof *l->cut);
    if (!l->in || !l->out || !l->cut)
        return err_set(err, ERR_NOMEM, "out of memory");
    l->total = l->o->index ? l->o->n_index : dataset_count(l->ds);
    if (!l->o->index && l->o->limit > 0)
        l->total = i64_min(l->total, l->o->limit);
    l->batch = 1;
    if (l->total > 0 && !dataset_single_feed(l->ds)) {
        int64_t first = sample_at(l, 0);
        if (dataset_read(l->ds, &first, 1, l->in, NULL, err))
            return -1;
        l->batch = batch_within(l->plan, l->in, l->o->batch, l->o->batch_bytes ? l->o->batch_bytes : BATCH_SLAB_BYTES,
                                fixed);
        clear_batch(l);
    }
    if (l->batch > INT32_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the model takes %" PRId64 " samples at once", l->batch);
    l->index = calloc((size_t)l->batch, sizeof *l->index);
    return l->index ? 0 : err_set(err, ERR_NOMEM, "out of memory");
}

int64_t evaluate_each(struct plan *plan, const struct model *m, struct dataset *ds, const struct evaluate_opts *opts,
                      evaluate_fn *fn, void *arg, struct err *err)
{
    static const struct evaluate_opts none;
    struct loop l = {.plan = plan, .ds = ds, .o = opts ? opts : &none};
    bool fixed = false;
    int64_t done = -1;
    if (dataset_bind(ds, m, err) || start_loop(&l, &fixed, err))
        goto out;
    int64_t at = 0;
    while (at < l.total) {
        int64_t n = i64_min(l.batch, l.total - at);
        int rc = run_batch(&l, at, n, fixed ? l.batch : n, fn, arg, err);
        clear_batch(&l);
        at += n;
        if (rc || (l.o->progress && l.o->progress(l.o->progress_arg, at, l.total, err)))
            goto out;
    }
    done = at;
out:
    clear_batch(&l);
    free(l.in);
    free(l.out);
    free(l.cut);
    free(l.index);
    return done;
}

/* ---- metrics ---- */
/* Scores: a float output with a row a sample and several elements in it; else any numeric one with a row a sample. */
static const struct tensor *judged_output(const struct tensor *out, int n_out, const struct tensor *labels)
{
    int64_t n = labels->shape.rank > 0 ? labels->shape.dim[0] : 1;
    bool classes = dtype_is_integer(labels->dtype);
    const struct tensor *any = NULL;
    for (int i = 0; i < n_out; i++) {
        int64_t count = tensor_count(&out[i]);
        char kind = dtype_kind(out[i].dtype);
        if (kind == 's' || kind == 'c' || kind == 0 || count <= 0 || n <= 0 || count % n)
            continue;
        if (classes ? kind == 'f' && count / n > 1 : count == tensor_count(labels))
            return &out[i];
        if (!any)
            any = &out[i];
    }
    return any;
}

int evaluate_judge(struct task_metrics *metrics, const struct evaluate_batch *batch, int n_out, struct err *err)
{
    if (!metrics || batch->labels->dtype == DTYPE_NONE)
        return 0;
    const struct tensor *scores = judged_output(batch->out, n_out, batch->labels);
    if (!scores)
        return err_set(err, ERR_DATASET, "no output of the model has a row for each of the %d labels", batch->n);
    return task_metrics_add(metrics, scores, batch->labels, batch->first, err);
}

struct judge {
    struct task_metrics *metrics;
    int n_out;
};

static int judge_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct judge *j = arg;
    return evaluate_judge(j->metrics, b, j->n_out, err);
}

struct task_metrics *evaluate_model(const struct model *m, struct dataset *ds, const struct evaluate_opts *opts,
                                    struct err *err)
{
    struct plan_opts po = {
        .pool = opts ? opts->pool : NULL, .max_memory_bytes = opts ? opts->max_memory_bytes : 0, .optimize = true};
    struct plan *plan = plan_new(m, &po, err);
    struct judge j = {.metrics = plan ? task_metrics_new() : NULL};
    if (plan && !j.metrics)
        err_set(err, ERR_NOMEM, "out of memory");
    if (j.metrics) {
        j.n_out = plan_n_outputs(plan);
        if (evaluate_each(plan, m, ds, opts, judge_batch, &j, err) < 0) {
            task_metrics_free(j.metrics);
            j.metrics = NULL;
        }
    }
    plan_free(plan);
    return j.metrics;
}
