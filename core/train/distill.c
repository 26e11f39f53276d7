/* SPDX-License-Identifier: Apache-2.0
 * distill.c - train.distill, and the objective of a teacher that train.qat uses too (distill.h).
 *
 * Everything that can be wrong is found before the first update: both models' shapes are inferred, names resolved,
 * and the teacher is run on a few samples, which also give the scales by which errors are measured. Names, not ids,
 * are kept for the student, whose graph may be another one when training starts (fake quantization, inserted
 * BatchNormalization). */
#include "core/train/distill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/size.h"
#include "core/train/distill_impl.h"
#include "core/train/optimizer.h"

enum { FEW_SAMPLES = 64, JUDGED_LEAST = 500 };
#define FEW_BYTES ((size_t)64 << 20)

const char *const distill_labels_names[] = {"auto", "use", "ignore", NULL};
const char *const distill_soft_names[] = {"auto", "kl", "mse", NULL};
const char *const distill_cache_names[] = {"auto", "never", NULL};

int distill_nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for distillation");
}

/* ---- parameters ---- */
static void fault(struct faults *faults, const char *pointer, const char *key, const char *text)
{
    char at[800];
    snprintf(at, sizeof at, "%.700s/%s", pointer, key);
    faults_add(faults, at, "%s", text);
}

void distill_params_check(const struct distill_params *p, const char *pointer, struct faults *faults)
{
    if (p->alpha_given && p->alpha < 1 && p->labels == DISTILL_LABELS_IGNORE)
        fault(faults, pointer, "alpha",
              "'alpha' below 1 leaves a share of the loss to labels, which 'labels' says to ignore");
    if (p->attention_at.count && !(p->attention > 0))
        fault(faults, pointer, "attention_at", "'attention_at' names values, but 'attention' is 0");
    if (p->relational_at.count && !(p->relational > 0))
        fault(faults, pointer, "relational_at", "'relational_at' names a value, but 'relational' is 0");
}

unsigned distill_params_needs(const struct distill_params *p)
{
    return p->labels == DISTILL_LABELS_USE || (p->labels == DISTILL_LABELS_AUTO && p->alpha_given && p->alpha < 1)
               ? NEEDS_LABELS
               : NEEDS_NOTHING;
}

/* ---- shapes ---- */
/* The sample's tensor that feeds input i of a plan: by name, else by place. */
static const struct tensor *sample_of(const struct distiller *d, const struct plan *plan, int i)
{
    const struct model *m = d->c->model, *other = plan_model(plan);
    const struct graph *g = model_main(m);
    const char *name = other->values[plan_input(plan, i)].name;
    int n = 0;
    for (int k = 0; k < g->n_inputs; k++) {
        if (m->values[g->inputs[k].value].weight)
            continue;
        if (!strcmp(m->values[g->inputs[k].value].name, name))
            return &d->sample[n];
        n++;
    }
    return i < d->n_in ? &d->sample[i] : NULL;
}

int distill_shapes_of(struct distill_shapes *s, const struct distiller *d, const struct model *m, struct err *err)
{
    *s = (struct distill_shapes){.plan = plan_new(m, &(struct plan_opts){.pool = d->c->pool}, err), .batch = 1};
    if (!s->plan)
        return -1;
    const int n = plan_n_inputs(s->plan);
    struct shape *in = calloc((size_t)n + 1, sizeof *in);
    for (int i = 0; in && i < n; i++) {
        const struct tensor *sample = sample_of(d, s->plan, i);
        plan_input_shape(s->plan, i, -1, -1, &in[i]);
        if (in[i].rank < 0 && sample) {
            in[i] = sample->shape;
            in[i].dim[0] = 1;
        }
        if (in[i].rank > 0 && in[i].dim[0] > 0)
            s->batch = in[i].dim[0];
        for (int k = 0; k < in[i].rank; k++)
            if (in[i].dim[k] < 0)
                in[i].dim[k] = k && sample && sample->shape.rank == in[i].rank ? sample->shape.dim[k] : 1;
    }
    const int rc = in ? plan_infer(s->plan, in, &s->types, err) : distill_nomem(err);
    free(in);
    return rc;
}

void distill_shapes_fini(struct distill_shapes *s)
{
    plan_free(s->plan);
    *s = (struct distill_shapes){0};
}

bool distill_row_shape(const struct distill_shapes *s, uint32_t value, struct shape *row)
{
    const struct type *t = &s->types[value];
    *row = t->shape;
    if (t->kind != TYPE_TENSOR || dtype_kind(t->dtype) != 'f' || !shape_known(row) || row->rank < 1 ||
        row->dim[0] < 1 || row->dim[0] % s->batch)
        return false;
    row->dim[0] /= s->batch;
    return shape_count(row) > 0;
}

/* ---- the few samples ---- */
static int read_few(struct distiller *d, struct err *err)
{
    const struct step_ctx *c = d->c;
    const struct graph *g = model_main(c->model);
    int64_t *index = NULL;
    size_t bytes = 1;
    int rc = -1;
    if (dataset_bind(c->data, c->model, err))
        return -1;
    for (int i = 0; i < g->n_inputs; i++)
        d->n_in += !c->model->values[g->inputs[i].value].weight;
    d->sample = calloc((size_t)d->n_in + 1, sizeof *d->sample);
    if (!d->sample)
        return distill_nomem(err);
    if (dataset_read_range(c->data, 0, 1, d->sample, NULL, err))
        return -1;
    for (int i = 0; i < d->n_in; i++) {
        bytes += d->sample[i].bytes;
        tensor_fini(&d->sample[i]);
    }
    const int64_t most = i64_max(1, (int64_t)(FEW_BYTES / bytes));
    d->n_sample = dataset_spread(c->data, i64_min(FEW_SAMPLES, most), &index, err);
    if (d->n_sample > 0)
        rc = dataset_read(c->data, index, (int)d->n_sample, d->sample, NULL, err);
    free(index);
    return rc;
}

/* ---- making it ---- */
static int choose_labels(struct distiller *d, const struct train_params *train, struct err *err)
{
    const struct distill_params *p = d->p;
    const bool there = dataset_has_labels(d->c->data), asked = p->alpha_given && p->alpha < 1;
    if (!there && (p->labels == DISTILL_LABELS_USE || asked))
        return err_set(err, ERR_DATASET,
                       "%s leaves a share of the loss to labels, and the dataset has none; without them the teacher "
                       "is all there is: leave it out",
                       p->labels == DISTILL_LABELS_USE ? "labels=use" : "alpha below 1");
    d->with_labels = there && p->labels != DISTILL_LABELS_IGNORE && !(p->alpha_given && p->alpha >= 1);
    d->alpha = !d->with_labels ? 1 : p->alpha_given ? p->alpha : 0.9;
    return d->with_labels ? objective_labels_new(&d->labels, train, d->c, err) : 0;
}

/* How many different samples may come. */
static int64_t samples_coming(const struct distiller *d, const struct train_params *train)
{
    int64_t n = dataset_count(d->c->data);
    if (train->samples > 0)
        n = i64_min(n, train->samples + i64_max(train->samples, JUDGED_LEAST));
    return n + (d->c->val_data ? dataset_count(d->c->val_data) : 0) + d->n_sample;
}

static int start_teacher(struct distiller *d, const struct train_params *train, struct err *err)
{
    struct teacher_want *want = calloc((size_t)(d->n_out + d->n_term) + 1, sizeof *want);
    int n = 0;
    if (!want)
        return distill_nomem(err);
    for (int i = 0; i < d->n_out; i++) {
        want[n].value = distill_teacher_value(d, &d->out[i]);
        d->out[i].want = n++;
    }
    for (int i = 0; i < d->n_term; i++) {
        struct distill_term *t = &d->term[i];
        want[n] = (struct teacher_want){t->teacher_value, t->kind == TERM_ATTENTION ? TEACHER_ATTENTION : TEACHER_VALUE,
                                        t->axis};
        t->want = n++;
    }
    const struct teacher_opts opts = {.model = d->c->teacher,
                                      .student = d->c->model,
                                      .want = want,
                                      .n_want = n,
                                      .in = d->sample,
                                      .n_in = d->n_in,
                                      .pool = d->c->pool,
                                      .batch = train->batch,
                                      .samples = samples_coming(d, train),
                                      .keep = d->p->cache == DISTILL_CACHE_AUTO};
    d->teacher = teacher_new(&opts, err);
    free(want);
    if (!d->teacher ||
        teacher_ask(d->teacher, &(struct loader_batch){.in = d->sample, .n_in = d->n_in, .n = d->n_sample}, err))
        return -1;
    distill_look_at_outputs(d);
    distill_look_at_terms(d);
    return 0;
}

/* Two parameters for each regressor. */
static int make_params(struct objective *o, struct distiller *d, struct err *err)
{
    for (int i = 0; i < d->n_term; i++)
        if (d->term[i].regressed) {
            d->term[i].param = o->n_params;
            o->n_params += 2;
        }
    o->param = calloc((size_t)o->n_params + 1, sizeof *o->param);
    o->gradient = calloc((size_t)o->n_params + 1, sizeof *o->gradient);
    if (!o->param || !o->gradient)
        return distill_nomem(err);
    return distill_fit_regressors(d, o, d->c->model, err);
}

static int set_up(struct objective *o, struct distiller *d, const struct train_params *train, struct err *err)
{
    struct distill_shapes student = {0}, teacher = {0};
    int rc = -1;
    if (choose_labels(d, train, err) || read_few(d, err) || distill_shapes_of(&student, d, d->c->model, err))
        goto out;
    if (distill_shapes_of(&teacher, d, d->c->teacher, err)) {
        err_wrap(err, "the teacher: ");
        goto out;
    }
    if (distill_pair_outputs(d, &student, &teacher, err) || distill_find_terms(d, &student, &teacher, err) ||
        start_teacher(d, train, err) || make_params(o, d, err))
        goto out;
    for (int i = 0; i < d->n_left; i++)
        warnings_add(d->c->warnings, "an output is not distilled: %s", d->left[i]);
    rc = 0;
out:
    distill_shapes_fini(&student);
    distill_shapes_fini(&teacher);
    return rc;
}

/* ---- the objective ---- */
static int values(struct objective *o, const struct model *m, uint32_t *extra, int *n, struct err *err)
{
    struct distiller *d = o->self;
    const int first = *n;
    if (d->with_labels && d->labels.values && d->labels.values(&d->labels, m, extra, n, err))
        return -1;
    for (int i = 0; i < d->n_out; i++) {
        struct distill_output *out = &d->out[i];
        if (out->student >= model_main(m)->n_outputs || *n >= OBJECTIVE_EXTRA_MAX)
            return err_set(err, ERR_INTERNAL, "output '%s' is gone, or too many are looked at", out->name);
        out->extra = *n - first;
        extra[(*n)++] = distill_output_value(out, m);
    }
    for (int i = 0; i < d->n_term; i++) {
        struct distill_term *t = &d->term[i];
        const uint32_t v = model_find_value(m, 0, t->student);
        if (v == VALUE_NONE || *n >= OBJECTIVE_EXTRA_MAX)
            return err_set(err, ERR_INVALID, "%s: '%s' is no value of the model any more", distill_kind_names[t->kind],
                           t->student);
        t->extra = *n - first;
        extra[(*n)++] = v;
    }
    return distill_fit_regressors(d, o, m, err);
}

static int prepare(struct objective *o, const struct loader_batch *batch, struct err *err)
{
    struct distiller *d = o->self;
    if (d->with_labels && d->labels.prepare && d->labels.prepare(&d->labels, batch, err))
        return -1;
    return teacher_ask(d->teacher, batch, err);
}

static int loss(struct objective *o, struct grad *g, const int *outputs, const struct loader_batch *batch, bool seed,
                double scale, double *value, struct err *err)
{
    struct distiller *d = o->self;
    double part = 0;
    *value = 0;
    if (d->with_labels) {
        if (d->labels.loss(&d->labels, g, outputs, batch, seed, scale * (1 - d->alpha), &part, err))
            return -1;
        *value += (1 - d->alpha) * part;
    }
    for (int i = 0; i < d->n_out && d->alpha > 0; i++) {
        const int at = outputs[d->out[i].extra];
        if (distill_output_loss(d, &d->out[i], grad_output(g, at), seed ? grad_seed(g, at) : NULL, batch->n, scale,
                                &part, err))
            return -1;
        *value += part;
    }
    for (int i = 0; i < d->n_term; i++) {
        const int at = outputs[d->term[i].extra];
        if (distill_term_loss(d, o, &d->term[i], grad_output(g, at), seed ? grad_seed(g, at) : NULL, batch->n, scale,
                              &part, err))
            return -1;
        *value += part;
    }
    return 0;
}

int distill_objective_new(struct objective *o, const struct distill_params *p, const struct train_params *train,
                          const struct step_ctx *c, struct err *err)
{
    struct distiller *d = calloc(1, sizeof *d);
    *o = (struct objective){.self = d};
    if (!d || !(d->arena = arena_new())) {
        distill_nomem(err);
        goto fail;
    }
    d->p = p;
    d->c = c;
    if (!c->data) {
        err_set(err, ERR_DATASET, "distillation needs a dataset; labels are not needed");
        goto fail;
    }
    if (!c->teacher) {
        err_set(err, ERR_INTERNAL, "distillation has no teacher");
        goto fail;
    }
    if (set_up(o, d, train, err))
        goto fail;
    o->values = values;
    o->loss = loss;
    o->prepare = prepare;
    o->labels = d->with_labels;
    return 0;
fail:
    distill_objective_free(o);
    return -1;
}

void distill_objective_free(struct objective *o)
{
    struct distiller *d = o->self;
    for (int i = 0; i < o->n_params && o->param && o->gradient; i++) {
        tensor_fini(&o->param[i]);
        tensor_fini(&o->gradient[i]);
    }
    free(o->param);
    free(o->gradient);
    *o = (struct objective){0};
    if (!d)
        return;
    if (d->with_labels)
        objective_labels_free(&d->labels);
    for (int i = 0; i < d->n_in && d->sample; i++)
        tensor_fini(&d->sample[i]);
    free(d->sample);
    tensor_fini(&d->spare[0]);
    tensor_fini(&d->spare[1]);
    teacher_free(d->teacher);
    arena_free(d->arena);
    free(d);
}

/* ---- report ---- */
static json_t *outputs_json(const struct distiller *d)
{
    json_t *list = json_array();
    const struct model *m = d->c->model;
    for (int i = 0; i < d->n_out; i++) {
        const struct distill_output *o = &d->out[i];
        const uint32_t v = distill_output_value(o, m);
        json_t *row = json_pack("{s:s, s:s}", "output", o->name, "loss", o->kl ? "kl" : "mse");
        if (v != model_main(m)->outputs[o->student].value)
            json_object_set_new(row, "compared", json_string(m->values[v].name));
        if (o->logarithm)
            json_object_set_new(row, "compared", json_string("logarithm"));
        if (!o->kl)
            json_object_set_new(row, "variance", json_real(o->variance));
        json_array_append_new(list, row);
    }
    return list;
}

static void add_terms_json(const struct distiller *d, const struct objective *o, json_t *to)
{
    for (int i = 0; i < d->n_term; i++) {
        const struct distill_term *t = &d->term[i];
        const char *kind = distill_kind_names[t->kind];
        json_t *row = json_pack("{s:s, s:s}", "student", t->student, "teacher", t->teacher);
        if (t->regressed)
            json_object_set_new(row, "regressor",
                                json_pack("[I, I]", (json_int_t)o->param[t->param].shape.dim[0],
                                          (json_int_t)o->param[t->param].shape.dim[1]));
        if (!json_object_get(to, kind))
            json_object_set_new(to, kind, json_array());
        json_array_append_new(json_object_get(to, kind), row);
    }
}

void distill_objective_report(const struct objective *o, json_t *details)
{
    const struct distiller *d = o->self;
    if (!d || !details)
        return;
    json_t *report = json_pack("{s:s, s:f, s:f, s:b, s:o}", "teacher",
                               d->c->teacher == d->c->source ? "original" : "given", "temperature", d->p->temperature,
                               "alpha", d->alpha, "labels", (int)d->with_labels, "outputs", outputs_json(d));
    add_terms_json(d, o, report);
    json_object_set_new(report, "cache", teacher_report(d->teacher));
    json_object_set_new(details, "distillation", report);
}

/* ---- the method ---- */
struct params {
    struct train_params train;
    struct distill_params distill;
};

/* The gradients of soft targets grow with the temperature: unclipped, networks without BatchNormalization diverge. */
static const struct param rows[] = {
    TRAIN_PARAM_ROWS_OF(params, "\"sgd\"", TRAIN_LR_OF_SGD, "5"), DISTILL_PARAM_ROWS(params), {0}};

static void check(const void *params, const char *pointer, struct faults *faults)
{
    const struct params *p = params;
    train_params_check(&p->train, pointer, faults);
    distill_params_check(&p->distill, pointer, faults);
}

static unsigned needs_of(const void *params)
{
    return distill_params_needs(&((const struct params *)params)->distill);
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct params *p = c->params;
    struct objective o;
    if (distill_objective_new(&o, &p->distill, &p->train, c, err))
        return -1;
    const int rc = train_run(c, &p->train, &o, NULL, err);
    if (!rc)
        distill_objective_report(&o, c->details);
    distill_objective_free(&o);
    return rc;
}

METHOD(train_distill) = {
    .name = "train.distill",
    .summary = "train on what a teacher says: the original model, or another one; no labels needed",
    .doc = "Trains the model so that its outputs are those of the teacher, which is the model as it came into the "
           "recipe or the job's `teacher`. Scores are compared by the Kullback-Leibler divergence at a temperature, "
           "other outputs by their squared error. With labels in the dataset their loss has a share of 1 - alpha; "
           "without, the teacher is enough. Hints, attention maps and relations between samples compare intermediate "
           "values too. What the teacher says of a sample is kept, so that it runs once a sample; of augmented samples "
           "it is asked each time, which costs a run of the teacher. Gradients grow with the temperature, so their "
           "norm is clipped: see clip.",
    .params = rows,
    .params_size = sizeof(struct params),
    .needs = NEEDS_DATA | NEEDS_RUN | NEEDS_GRADIENTS,
    .needs_of = needs_of,
    .check = check,
    .run = run,
    .holds = HOLDS_SCHEDULED,
};
