/* SPDX-License-Identifier: Apache-2.0
 * recover_bn.c - recover.bn_stats: statistics of channels estimated again on samples of the pruned network.
 *
 * A statistic is of a value whose channels have a mean and a variance: what a BatchNormalization reads, or what a product
 * makes whose BatchNormalization is folded away (or that never had one). In topological order the network as repaired so
 * far runs up to the value. A BatchNormalization takes mean and variance as they are. A folded one had made the original's
 * mean and deviation of them, so the product's weight is scaled by the ratio of the deviations, and its constant set so
 * that the means agree. One run of the original gives its moments; what is still the same there is left alone: statistics
 * of training say more than those of a few samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/prune/recover_impl.h"
#include "core/stats/sampling.h"

static const double SAME = 1e-5;    /* of a deviation: still the original's moments */
static const double MOST_SCALE = 8; /* a weight is scaled by at most that */

struct moments {
    double *sum, *square; /* [channels] */
    int64_t channels, count;
    bool wrong; /* the value is not of floats, or has no such axis */
};

struct statistic {
    uint32_t node, value;
    const struct place *place; /* a product; NULL: a BatchNormalization */
    int64_t channels;
    const int64_t *kept; /* channel of the original; NULL: all are left */
    struct moments was, now;
    const char *why;
};

struct entries_job {
    struct edit *e;
    const struct recover_opts *o;
    struct statistic *at;
    int n;
    int64_t done, total, samples;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while estimating statistics");
}

/* ---- moments ---- */
/* The entries that one run looks at. */
struct looking {
    struct entries_job *job;
    const struct model *m;
    struct statistic *at;
    int n;
    bool original;
    uint32_t input;
    int64_t fed, done, total;
};

static int add_moments(struct moments *s, const struct tensor *t, int axis, int64_t rows, struct err *err)
{
    if (t->dtype != DTYPE_FLOAT || axis < 0 || axis >= t->shape.rank) {
        s->wrong = true;
        return 0;
    }
    const int64_t channels = t->shape.dim[axis], inner = shape_product(&t->shape, axis + 1, t->shape.rank),
                  outer = shape_product(&t->shape, axis ? 1 : 0, axis) * (axis ? rows : 1);
    if (!s->sum) {
        s->channels = channels;
        s->sum = calloc((size_t)channels + 1, sizeof *s->sum);
        s->square = calloc((size_t)channels + 1, sizeof *s->square);
        if (!s->sum || !s->square)
            return nomem(err);
    }
    if (channels != s->channels) {
        s->wrong = true;
        return 0;
    }
    for (int64_t i = 0; i < outer; i++)
        for (int64_t c = 0; c < channels; c++) {
            const float *x = tensor_f32(t) + (i * channels + c) * inner;
            double sum = 0, square = 0;
            for (int64_t k = 0; k < inner; k++) {
                sum += (double)x[k];
                square += (double)x[k] * (double)x[k];
            }
            s->sum[c] += sum;
            s->square[c] += square;
        }
    s->count += outer * inner;
    return 0;
}

static double mean_of(const struct moments *s, int64_t c)
{
    return s->sum[c] / (double)s->count;
}

static double variance_of(const struct moments *s, int64_t c)
{
    const double mean = mean_of(s, c);
    return fmax(s->square[c] / (double)s->count - mean * mean, 0);
}

static int observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct looking *l = arg;
    if (value == l->input)
        l->fed = t->shape.rank > 0 ? t->shape.dim[0] : 0;
    for (int i = 0; i < l->n; i++) {
        struct statistic *e = &l->at[i];
        if (e->value != value || e->why)
            continue;
        const int axis = e->place ? t->shape.rank - 1 - e->place->from_right : 1;
        /* the last batch of a model with a fixed batch is filled up with repeats */
        const int64_t left = l->total - l->done, dim = t->shape.rank > 0 ? t->shape.dim[0] : 0;
        const int64_t rows = l->fed > left && l->fed > 0 && dim % l->fed == 0 ? dim / l->fed * left : dim;
        if (add_moments(l->original ? &e->was : &e->now, t, axis, rows, err))
            return -1;
    }
    return 0;
}

static int start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    struct looking *l = arg;
    (void)fixed;
    (void)err;
    l->done = 0;
    l->total = total;
    return 0;
}

static int ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct looking *l = arg;
    const struct recover_opts *o = l->job->o;
    (void)total;
    l->done = done;
    return o->progress ? o->progress(o->progress_arg, l->job->done + done, l->job->total, err) : 0;
}

/* Runs m up to the values of the entries. */
static int look(struct entries_job *job, const struct model *m, struct statistic *at, int n, bool original,
                struct err *err)
{
    struct model *clone = model_clone(m, err);
    bool *watch = calloc((size_t)m->n_values + 1, sizeof *watch);
    struct value_info *out = clone ? model_alloc(clone, (size_t)n + 1, sizeof *out) : NULL;
    struct looking l = {.job = job, .m = m, .at = at, .n = n, .original = original, .input = VALUE_NONE};
    int n_out = 0, rc = -1;
    if (!clone || !watch || !out) {
        nomem(err);
        goto out;
    }
    struct graph *g = model_main(clone);
    for (int i = 0; i < n; i++)
        if (!at[i].why && !watch[at[i].value]) {
            watch[at[i].value] = true;
            if (clone->values[at[i].value].producer != NODE_NONE)
                out[n_out++] = (struct value_info){.value = at[i].value};
        }
    for (int i = g->n_inputs; i-- > 0;)
        if (!clone->values[g->inputs[i].value].weight)
            l.input = g->inputs[i].value;
    if (n_out > 0) {
        g->outputs = out;
        g->n_outputs = n_out;
    }
    const struct sampling s = {.data = job->o->data,
                               .pool = job->o->pool,
                               .samples = job->samples,
                               .observe = observe,
                               .observe_arg = &l,
                               .watch = watch,
                               .start = start,
                               .ran = ran,
                               .arg = &l};
    const int64_t done = sampling_run(clone, &s, err);
    rc = done < 0 ? -1 : 0;
    job->done += job->samples;
out:
    model_free(clone);
    free(watch);
    return rc;
}

/* ---- what is written ---- */
static bool comparable(const struct statistic *e)
{
    if (!e->was.sum || e->was.wrong || e->was.count < 1)
        return false;
    if (!e->kept)
        return e->was.channels == e->channels;
    return e->kept[e->channels - 1] < e->was.channels;
}

static bool unchanged(const struct statistic *e)
{
    if (!comparable(e))
        return false;
    for (int64_t c = 0; c < e->channels; c++) {
        const int64_t k = e->kept ? e->kept[c] : c;
        const double deviation = sqrt(variance_of(&e->was, k)), least = SAME * fmax(deviation, 1e-12);
        if (fabs(mean_of(&e->was, k) - mean_of(&e->now, c)) > least ||
            fabs(deviation - sqrt(variance_of(&e->now, c))) > least)
            return false;
    }
    return true;
}

static int renew(struct edit *edit, const struct statistic *e, struct err *err)
{
    double *mean = calloc((size_t)e->channels, sizeof *mean), *var = calloc((size_t)e->channels, sizeof *var);
    int rc = -1;
    if (!mean || !var) {
        nomem(err);
    } else {
        for (int64_t c = 0; c < e->channels; c++) {
            mean[c] = mean_of(&e->now, c);
            var[c] = variance_of(&e->now, c);
        }
        rc = place_put_vector(edit, e->node, 3, e->channels, mean, err) ||
                     place_put_vector(edit, e->node, 4, e->channels, var, err)
                 ? -1
                 : 0;
    }
    free(mean);
    free(var);
    return rc;
}

/* The weight is stored with its outputs along one axis: element i belongs to output (i / step) % outputs. */
static int scale_weight(struct model *m, const struct place *p, const double *by, struct err *err)
{
    const struct tensor *old = value_const(m, p->weight);
    const bool transposed = p->transposed || !p->rows;
    int64_t step = shape_product(&old->shape, 1, old->shape.rank);
    if (transposed)
        step = p->rows ? 1 : shape_product(&old->shape, 2, old->shape.rank);
    else if (old->shape.rank > 2 && p->from_right == 1 && !p->source.window)
        step = p->source.k;
    struct tensor t = {0};
    if (tensor_copy(&t, old, err))
        return -1;
    for (int64_t i = 0, n = tensor_count(&t); i < n; i++)
        tensor_f32(&t)[i] = (float)((double)tensor_f32(&t)[i] * by[i / step % p->outputs]);
    const int rc = weight_replace(m, p->weight, &t, err);
    tensor_fini(&t);
    return rc;
}

/* By mean and deviation of the channels of what the product makes. */
static int match(struct edit *edit, const struct statistic *e, struct err *err)
{
    const struct place *p = e->place;
    const bool own = p->bias_node == p->node;
    const double alpha =
        node_is(&edit->m->nodes[p->node], "Gemm") ? (double)node_attr_float(&edit->m->nodes[p->node], "alpha", 1) : 1;
    double *by = calloc((size_t)e->channels, sizeof *by),
           *bias = place_vector(edit->m, p->bias_node, p->bias_slot, e->channels, err);
    int rc = -1;
    if (!by || !bias) {
        nomem(err);
        goto out;
    }
    for (int64_t c = 0; c < e->channels; c++) {
        const int64_t k = e->kept ? e->kept[c] : c;
        const double now = sqrt(variance_of(&e->now, c)), was = sqrt(variance_of(&e->was, k));
        const double mean = mean_of(&e->now, c), wanted = mean_of(&e->was, k);
        by[c] = now > 1e-12 && was > 1e-12 ? fmin(was / now, MOST_SCALE) : 1;
        /* how often the bias counts in what the product makes; how often the product counts where the constant is added */
        const double beta = own ? p->bias_slope[c] * alpha / p->slope[c] : 0;
        const double ratio = own ? 0 : p->slope[c] / alpha / p->bias_slope[c];
        if (own && fabs(beta) > 1e-12 && isfinite(beta))
            bias[c] = (wanted - by[c] * (mean - beta * bias[c])) / beta;
        else if (!own && isfinite(ratio))
            bias[c] += ratio * (wanted - by[c] * mean);
    }
    rc = scale_weight(edit->m, p, by, err) || place_put_vector(edit, p->bias_node, p->bias_slot, e->channels, bias, err)
             ? -1
             : 0;
out:
    free(by);
    free(bias);
    return rc;
}

/* ---- entries ---- */
static void tell(const struct entries_job *job, const struct statistic *e, const char *why)
{
    if (!job->o->layers)
        return;
    struct layer_row row = {
        .node = e->node, .weight = e->place ? e->place->weight : VALUE_NONE, .sqnr_db = NAN, .skipped = why};
    if (!why)
        row.after =
            json_pack("{s:s,s:I}", "statistics", e->place ? "weight and bias matched to the original" : "estimated",
                      "channels", (json_int_t)e->channels);
    layer_report_add(job->o->layers, job->e->m, &row);
}

static const int64_t *kept_of(const struct model *m, uint32_t value, int64_t channels)
{
    const struct note *note = value_note(m, value, "kept.0");
    if (!note || note->tensor.dtype != DTYPE_INT64 || tensor_count(&note->tensor) != channels)
        return NULL;
    return tensor_i64(&note->tensor);
}

static void describe_batchnorm(const struct model *m, struct statistic *e)
{
    const struct node *n = &m->nodes[e->node];
    e->value = n->n_input > 0 ? n->input[0] : VALUE_NONE;
    if (n->n_input != 5 || e->value == VALUE_NONE || node_attr_int(n, "training_mode", 0)) {
        e->why = "it has no running statistics";
        return;
    }
    for (int i = 3; i < 5; i++) {
        const struct tensor *t = n->input[i] == VALUE_NONE ? NULL : value_const(m, n->input[i]);
        e->channels = t ? tensor_count(t) : 0;
        if (!t || t->dtype != DTYPE_FLOAT || !t->data || e->channels < 1)
            e->why = "its statistics are not constants of float32";
    }
    if (!e->why)
        e->kept = kept_of(m, n->input[3], e->channels);
}

static bool named_alike(const struct model *m, const struct model *original, uint32_t v)
{
    return v < original->n_values && original->values[v].name && !strcmp(original->values[v].name, m->values[v].name);
}

static void describe_product(const struct model *m, const struct model *original, struct statistic *e)
{
    const struct place *p = e->place;
    e->value = m->nodes[e->node].output[0];
    e->channels = p->outputs;
    e->kept = p->kept;
    e->why = p->why;
    if (!e->why && p->bn != NODE_NONE)
        e->why = "its BatchNormalization is estimated anew";
    else if (!e->why && p->bias_node == NODE_NONE)
        e->why = "it has no constant that could set its means";
    if (!e->why && !named_alike(m, original, e->value))
        e->why = "the original network does not compute what it makes under the same name";
}

static const struct place *place_of(const struct places *p, uint32_t node)
{
    for (int i = 0; i < p->n; i++)
        if (p->at[i].node == node)
            return &p->at[i];
    return NULL;
}

static int collect(struct entries_job *job, const struct places *places, struct err *err)
{
    const struct model *m = job->e->m;
    const int count = model_main(m)->n_nodes;
    uint32_t *order = calloc((size_t)count + 1, sizeof *order);
    job->at = calloc((size_t)count + 1, sizeof *job->at);
    int rc = !order || !job->at ? nomem(err) : model_toposort(m, 0, order, err);
    for (int i = 0; rc == 0 && i < count; i++) {
        struct statistic *e = &job->at[job->n];
        *e = (struct statistic){.node = order[i], .place = place_of(places, order[i])};
        if (!e->place && !node_is(&m->nodes[order[i]], "BatchNormalization"))
            continue;
        if (e->place)
            describe_product(m, job->o->original, e);
        else
            describe_batchnorm(m, e);
        job->n++;
    }
    free(order);
    return rc;
}

static int repair_entry(struct entries_job *job, struct statistic *e, struct err *err)
{
    const char *why = e->why;
    if (!why && look(job, job->e->m, e, 1, false, err))
        return -1;
    if (!why && (!e->now.sum || e->now.wrong || e->now.count < 2 || e->now.channels != e->channels))
        why = "its channels could not be seen";
    for (int64_t c = 0; !why && c < e->channels; c++)
        if (!isfinite(e->now.sum[c]) || !isfinite(e->now.square[c]))
            why = "its channels are not finite";
    if (!why && unchanged(e))
        why = "its channels are still the original's";
    if (!why && e->place && !comparable(e))
        why = "its channels are not those of the original";
    if (!why && (e->place ? match(job->e, e, err) : renew(job->e, e, err)))
        return -1;
    tell(job, e, why);
    return 0;
}

static int repair(struct entries_job *job, struct err *err)
{
    const struct model *original = job->o->original;
    struct statistic *known = calloc((size_t)job->n + 1, sizeof *known);
    int n = 0, *from = calloc((size_t)job->n + 1, sizeof *from), rc = 0;
    if (!known || !from)
        rc = nomem(err);
    for (int i = 0; rc == 0 && i < job->n; i++) {
        job->total += job->at[i].why ? 0 : job->samples;
        if (!job->at[i].why && named_alike(job->e->m, original, job->at[i].value)) {
            from[n] = i;
            known[n++] = job->at[i];
        }
    }
    job->total += job->samples;
    if (rc == 0 && n > 0)
        rc = look(job, original, known, n, true, err);
    for (int i = 0; i < n; i++)
        job->at[from[i]].was = known[i].was;
    for (int i = 0; rc == 0 && i < job->n; i++)
        rc = repair_entry(job, &job->at[i], err);
    free(known);
    free(from);
    return rc;
}

static void job_free(struct entries_job *job)
{
    for (int i = 0; i < job->n; i++) {
        free(job->at[i].was.sum);
        free(job->at[i].was.square);
        free(job->at[i].now.sum);
        free(job->at[i].now.square);
    }
    free(job->at);
}

int recover_bn_stats(struct model *m, const struct recover_opts *o, struct err *err)
{
    struct edit e = {0};
    struct places p = {0};
    struct entries_job job = {.e = &e, .o = o, .samples = o->samples > 0 ? o->samples : 512};
    int rc = -1;
    if (!o->data || !o->original)
        return err_set(err, ERR_DATASET, "estimating statistics needs samples: give a dataset");
    if (dataset_count(o->data) < job.samples)
        job.samples = dataset_count(o->data);
    if (edit_init(&e, m, err) || places_find(&p, &e, o->original, err) || collect(&job, &p, err) || repair(&job, err))
        goto out;
    if (job.n == 0 && o->warnings)
        warnings_add(o->warnings, "recover.bn_stats: the network has no BatchNormalization and no product");
    rc = edit_finish(&e, err);
    if (rc == 0)
        rc = dataset_bind(o->data, m, err);
out:
    job_free(&job);
    places_free(&p);
    edit_fini(&e);
    return rc;
}
