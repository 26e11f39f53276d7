/* SPDX-License-Identifier: Apache-2.0
 * One loop over the samples of a dataset; metrics, outputs and comparison are callbacks of it. */
#include "core/stats/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/stats/generate.h"

enum { DEFAULT_BATCH = 32, MAX_BATCH = 4096, DEFAULT_GENERATED = 4 };
#define BATCH_SLAB_BYTES ((size_t)256 << 20)

/* ---- batch size ---- */
/* Does the model run with `batch` samples at once, and do all outputs follow? */
static bool batch_works(struct plan *plan, const struct tensor *in, int64_t batch)
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
    works = works && !plan_infer(plan, shape, &types, NULL) && plan_slab_bytes(plan) <= BATCH_SLAB_BYTES;
    for (int i = 0; i < plan_n_outputs(plan) && works; i++) {
        const struct shape *s = &types[plan_output(plan, i)].shape;
        works = s->rank >= 1 && s->dim[0] == batch;
    }
    free(shape);
    return works;
}

int64_t evaluate_batch_size(struct plan *plan, const struct tensor *in, int64_t wanted, bool *fixed)
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
    while (batch > 1 && !batch_works(plan, in, batch))
        batch /= 2;
    return batch;
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
static void cut_rows(struct tensor *cut, const struct tensor *t, int64_t n, int64_t fed)
{
    *cut = *t;
    cut->buf = NULL;
    if (n == fed || t->shape.rank < 1 || t->shape.dim[0] != fed)
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
        cut_rows(&l->cut[i], &l->out[i], n, fed);
    cut_rows(&labels, &l->labels, n, fed);
    struct evaluate_batch b = {.first = first, .n = (int)n, .fed = (int)fed, .in = l->in, .out = l->cut, .labels = &labels};
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
        l->batch = evaluate_batch_size(l->plan, l->in, l->o->batch, fixed);
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
        if (kind == 's' || kind == 'c' || count <= 0 || n <= 0 || count % n)
            continue;
        if (classes ? kind == 'f' && count / n > 1 : count == tensor_count(labels))
            return &out[i];
        if (!any)
            any = &out[i];
    }
    return any;
}

static int add_metrics(struct metrics *metrics, const struct tensor *out, int n_out, const struct evaluate_batch *b, struct err *err)
{
    if (!metrics || b->labels->dtype == DTYPE_NONE)
        return 0;
    const struct tensor *scores = judged_output(out, n_out, b->labels);
    if (!scores)
        return err_set(err, ERR_DATASET, "no output of the model has a row for each of the %d labels", b->n);
    return metrics_add(metrics, scores, b->labels, b->first, err);
}

struct judge {
    struct metrics *metrics;
    int n_out;
};

static int judge_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct judge *j = arg;
    return add_metrics(j->metrics, b->out, j->n_out, b, err);
}

struct metrics *evaluate_model(const struct model *m, struct dataset *ds, const struct evaluate_opts *opts, struct err *err)
{
    struct plan_opts po = {.pool = opts ? opts->pool : NULL, .max_memory_bytes = opts ? opts->max_memory_bytes : 0};
    struct plan *plan = plan_new(m, &po, err);
    struct judge j = {.metrics = plan ? metrics_new() : NULL};
    if (plan && !j.metrics)
        err_set(err, ERR_NOMEM, "out of memory");
    if (j.metrics) {
        j.n_out = plan_n_outputs(plan);
        if (evaluate_each(plan, m, ds, opts, judge_batch, &j, err) < 0) {
            metrics_free(j.metrics);
            j.metrics = NULL;
        }
    }
    plan_free(plan);
    return j.metrics;
}

/* ---- comparison ---- */
struct compare {
    struct plan *a, *b;
    const struct model *ma, *mb;
    struct fidelity *fidelity;
    struct metrics *metrics_a, *metrics_b;
    int *input;  /* [inputs of b]: which of a's */
    int *output; /* [outputs of a]: which of b's, -1 none */
    struct tensor *in, *out, *cut; /* of b */
};

static const char *output_name(const struct plan *p, int i)
{
    return plan_model(p)->values[plan_output(p, i)].name;
}

static const char *input_name(const struct plan *p, int i)
{
    return plan_model(p)->values[plan_input(p, i)].name;
}

/* By name; a name the other side lacks: by position. */
static int pair_names(struct compare *c, struct err *err)
{
    int na = plan_n_inputs(c->a), nb = plan_n_inputs(c->b), oa = plan_n_outputs(c->a), ob = plan_n_outputs(c->b);
    if (na != nb)
        return err_set(err, ERR_SHAPE, "the models take %d and %d inputs", na, nb);
    for (int i = 0; i < nb; i++) {
        c->input[i] = i;
        for (int k = 0; k < na; k++)
            if (!strcmp(input_name(c->a, k), input_name(c->b, i)))
                c->input[i] = k;
    }
    for (int i = 0; i < oa; i++) {
        c->output[i] = i < ob ? i : -1;
        for (int k = 0; k < ob; k++)
            if (!strcmp(output_name(c->a, i), output_name(c->b, k)))
                c->output[i] = k;
    }
    return 0;
}

static int start_compare(struct compare *c, struct err *err)
{
    size_t in = (size_t)plan_n_inputs(c->b) + 1, oa = (size_t)plan_n_outputs(c->a) + 1, ob = (size_t)plan_n_outputs(c->b) + 1;
    c->input = calloc(in, sizeof *c->input);
    c->output = calloc(oa, sizeof *c->output);
    c->in = calloc(in, sizeof *c->in);
    c->out = calloc(ob, sizeof *c->out);
    c->cut = calloc(ob, sizeof *c->cut);
    const char **names = calloc(oa, sizeof *names);
    for (int i = 0; names && i < plan_n_outputs(c->a); i++)
        names[i] = output_name(c->a, i);
    if (names)
        c->fidelity = fidelity_new(names, plan_n_outputs(c->a));
    free(names);
    if (!c->input || !c->output || !c->in || !c->out || !c->cut || !c->fidelity)
        return err_set(err, ERR_NOMEM, "out of memory");
    return pair_names(c, err);
}

/* b's input from a's: shared, or converted when b declares another float dtype. */
static int feed_b(struct compare *c, int i, const struct tensor *from, struct err *err)
{
    const struct graph *g = model_main(plan_model(c->b));
    enum dtype want = from->dtype;
    for (int k = 0; k < g->n_inputs; k++)
        if (g->inputs[k].value == plan_input(c->b, i) && g->inputs[k].has_type && g->inputs[k].type.dtype != DTYPE_NONE)
            want = g->inputs[k].type.dtype;
    if (want != from->dtype && dtype_is_float(want) && dtype_is_float(from->dtype))
        return tensor_convert(&c->in[i], from, want, err);
    tensor_ref(&c->in[i], from);
    return 0;
}

static int compare_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct compare *c = arg;
    int rc = 0, ran = 0, na = plan_n_outputs(c->a), nb = plan_n_outputs(c->b);
    for (int i = 0; i < plan_n_inputs(c->b) && !rc; i++)
        rc = feed_b(c, i, &b->in[c->input[i]], err);
    if (!rc) {
        rc = plan_run(c->b, c->in, c->out, NULL, err);
        ran = !rc;
        if (rc)
            err_wrap(err, "the second model: ");
    }
    for (int i = 0; i < nb && ran; i++)
        cut_rows(&c->cut[i], &c->out[i], b->n, b->fed);
    for (int i = 0; i < na && !rc; i++)
        if (c->output[i] >= 0)
            rc = fidelity_add(c->fidelity, i, &b->out[i], &c->cut[c->output[i]], err);
    if (!rc)
        rc = add_metrics(c->metrics_a, b->out, na, b, err) || add_metrics(c->metrics_b, c->cut, nb, b, err) ? -1 : 0;
    if (!rc)
        fidelity_count_samples(c->fidelity, b->n);
    for (int i = 0; i < nb && ran; i++)
        tensor_fini(&c->out[i]);
    for (int i = 0; i < plan_n_inputs(c->b); i++)
        tensor_fini(&c->in[i]);
    return rc;
}

static int compare_generated(struct compare *c, const struct evaluate_opts *o, const struct evaluate_compare_opts *co, struct err *err)
{
    int na = plan_n_inputs(c->a), rc = 0;
    int64_t batches = co && co->generated_batches > 0 ? co->generated_batches : DEFAULT_GENERATED;
    int64_t batch = evaluate_batch_size(c->a, NULL, 1, NULL);
    struct tensor *in = calloc((size_t)na + 1, sizeof *in), *out = calloc((size_t)plan_n_outputs(c->a) + 1, sizeof *out);
    if (!in || !out)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < batches && !rc; k++) {
        struct generate_opts g = {.batch = batch, .seed = co ? co->seed : 0, .stream = (uint64_t)k};
        struct tensor labels = {0};
        struct evaluate_batch b = {.first = k * batch, .n = (int)batch, .fed = (int)batch, .in = in, .out = out, .labels = &labels};
        if (generate_inputs(c->a, &g, in, err)) {
            rc = -1;
            break;
        }
        rc = plan_run(c->a, in, out, o ? o->run : NULL, err);
        if (!rc) {
            rc = compare_batch(c, &b, err);
            for (int i = 0; i < plan_n_outputs(c->a); i++)
                tensor_fini(&out[i]);
        }
        for (int i = 0; i < na; i++)
            tensor_fini(&in[i]);
        if (!rc && o && o->progress)
            rc = o->progress(o->progress_arg, k + 1, batches, err);
    }
    free(in);
    free(out);
    return rc;
}

static int compare_dataset(struct compare *c, struct dataset *ds, const struct evaluate_opts *o, struct err *err)
{
    struct evaluate_opts opts = o ? *o : (struct evaluate_opts){0};
    bool fixed;
    int64_t batch = evaluate_batch_size(c->b, NULL, 1, &fixed);
    if (fixed)
        opts.batch = batch;
    return evaluate_each(c->a, c->ma, ds, &opts, compare_batch, c, err) < 0 ? -1 : 0;
}

struct fidelity *evaluate_compare(const struct model *a, const struct model *b, struct dataset *ds, const struct evaluate_opts *opts,
                                  const struct evaluate_compare_opts *compare, struct err *err)
{
    struct plan_opts po = {.pool = opts ? opts->pool : NULL, .max_memory_bytes = opts ? opts->max_memory_bytes : 0};
    struct compare c = {.ma = a, .mb = b};
    int rc = -1;
    if (!(c.a = plan_new(a, &po, err)) || !(c.b = plan_new(b, &po, err)) || start_compare(&c, err))
        goto out;
    if (ds && compare && compare->metrics_a && !(c.metrics_a = metrics_new()))
        goto nomem;
    if (ds && compare && compare->metrics_b && !(c.metrics_b = metrics_new()))
        goto nomem;
    rc = ds ? compare_dataset(&c, ds, opts, err) : compare_generated(&c, opts, compare, err);
    goto out;
nomem:
    err_set(err, ERR_NOMEM, "out of memory");
out:
    if (!rc && c.metrics_a)
        *compare->metrics_a = c.metrics_a;
    if (!rc && c.metrics_b)
        *compare->metrics_b = c.metrics_b;
    if (rc) {
        metrics_free(c.metrics_a);
        metrics_free(c.metrics_b);
        fidelity_free(c.fidelity);
    }
    free(c.input);
    free(c.output);
    free(c.in);
    free(c.out);
    free(c.cut);
    plan_free(c.a);
    plan_free(c.b);
    return rc ? NULL : c.fidelity;
}
