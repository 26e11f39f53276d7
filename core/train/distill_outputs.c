/* SPDX-License-Identifier: Apache-2.0
 * distill_outputs.c - the outputs of student and teacher: which belong together, by which loss, and the loss.
 *
 * kl needs scores before their Softmax: a gradient through a saturated Softmax vanishes, and a temperature means
 * nothing there. So a Softmax that closes the graph is found, also behind operators that only give its result another
 * shape, and what it reads is compared, in both models. Probabilities made otherwise are scores after a logarithm. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/train/distill_impl.h"
#include "core/train/loss.h"

enum { STEPS_BACK = 8 };
static const double LEAST_PROBABILITY = 1e-12, LEAST_VARIANCE = 1e-12;

/* ---- scores ---- */
/* How an output's scores are made: by a Softmax, or as they are. */
struct scores {
    uint32_t value;     /* what the Softmax reads, or the output itself */
    bool softmax, flat; /* flat: over the axis and all behind it (before opset 13) */
    int64_t axis;
};

static bool one_of(const struct node *n, const char *const *types)
{
    while (*types && (!n->op_type || strcmp(n->op_type, *types)))
        types++;
    return *types != NULL;
}

static struct scores scores_of(const struct model *m, uint32_t output)
{
    static const char *const keep[] = {"Identity",  "Reshape", "Flatten",      "Squeeze",
                                       "Unsqueeze", "Dropout", "FakeQuantize", NULL};
    uint32_t v = output;
    for (int step = 0; step < STEPS_BACK && v != VALUE_NONE && m->values[v].producer != NODE_NONE; step++) {
        const struct node *n = &m->nodes[m->values[v].producer];
        const uint32_t from = n->n_input ? n->input[0] : VALUE_NONE;
        if (from != VALUE_NONE && (node_is(n, "Softmax") || node_is(n, "LogSoftmax")) &&
            m->values[from].producer != NODE_NONE) {
            const bool old = model_opset(m, "") < 13;
            return (struct scores){from, true, old, node_attr_int(n, "axis", old ? 1 : -1)};
        }
        if (!one_of(n, keep))
            break;
        v = from;
    }
    return (struct scores){.value = output, .axis = 1};
}

/* Made by an operator that squashes: no scores of a Softmax that was left out. */
static bool squashed(const struct model *m, uint32_t v)
{
    static const char *const types[] = {
        "Sigmoid", "Tanh", "Relu", "Clip", "HardSigmoid", "LeakyRelu", "Softplus", "LayerNormalization", NULL};
    return m->values[v].producer == NODE_NONE || one_of(&m->nodes[m->values[v].producer], types);
}

/* [1, C] or [1, C, 1, 1]: numbers that may be scores of C classes. */
static bool is_row(const struct shape *s)
{
    return s->rank >= 2 && s->dim[0] == 1 && s->dim[1] >= 2 && s->dim[1] == shape_count(s);
}

/* As many numbers as an input has: a reconstruction. */
static bool like_input(const struct distiller *d, const struct shape *s)
{
    for (int i = 0; i < d->n_in; i++)
        if (tensor_count(&d->sample[i]) == shape_count(s) * d->n_sample)
            return true;
    return false;
}

/* Are numbers that no Softmax reads the scores of classes? */
static bool wants_kl(const struct distiller *d, uint32_t value, const struct shape *s)
{
    const struct dataset *data = d->c->data;
    if (d->p->soft == DISTILL_SOFT_KL)
        return s->rank >= 2 && s->dim[1] >= 2;
    if (!is_row(s) || squashed(d->c->model, value))
        return false;
    if (dataset_has_labels(data))
        return dataset_labels_are_classes(data) && dataset_max_label(data) < s->dim[1];
    return !like_input(d, s);
}

static int view_of(struct distill_output *o, const struct scores *s, struct err *err)
{
    const int axis = shape_axis(&o->shape, s->axis);
    if (axis < 0)
        return err_set(err, ERR_MODEL, "output '%s': its Softmax is over an axis it does not have", o->name);
    o->view = feature_of(&o->shape, axis);
    if (s->flat)
        o->view = (struct feature){o->view.rows, o->view.channels * o->view.inner, 1};
    return 0;
}

/* ---- pairs ---- */
static int leave(struct distiller *d, const char *name, const char *why, struct err *err)
{
    const char *text = arena_printf(d->arena, "'%s': %s", name, why);
    if (!text)
        return distill_nomem(err);
    d->left[d->n_left++] = text;
    return 0;
}

static int teacher_output(const struct model *teacher, const char *name, int place, int own)
{
    const struct graph *g = model_main(teacher);
    for (int i = 0; i < g->n_outputs; i++)
        if (!strcmp(teacher->values[g->outputs[i].value].name, name))
            return i;
    return g->n_outputs == own ? place : -1;
}

static int pair_output(struct distiller *d, int place, const struct distill_shapes *student,
                       const struct distill_shapes *teacher, struct err *err)
{
    const struct model *m = d->c->model, *tm = d->c->teacher;
    const uint32_t v = model_main(m)->outputs[place].value;
    const char *name = m->values[v].name;
    struct distill_output *o = &d->out[d->n_out];
    struct shape theirs;
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    *o = (struct distill_output){.name = arena_strdup(d->arena, name), .student = place, .variance = 1};
    if (!o->name)
        return distill_nomem(err);
    if (student->types[v].kind != TYPE_TENSOR || student->types[v].dtype != DTYPE_FLOAT)
        return leave(d, name, "it is not of 32-bit floats", err);
    o->teacher = teacher_output(tm, name, place, model_main(m)->n_outputs);
    if (o->teacher < 0)
        return leave(d, name, "the teacher has no such output", err);
    const uint32_t t = model_main(tm)->outputs[o->teacher].value;
    const struct scores own = scores_of(m, v), other = scores_of(tm, t);
    if (!distill_row_shape(student, own.value, &o->shape) || !distill_row_shape(teacher, other.value, &theirs))
        return leave(d, name, "its shape depends on data, or has no row a sample", err);
    if (!shape_equal(&o->shape, &theirs))
        return err_set(err, ERR_SHAPE,
                       "the teacher says other things: a sample of the model's output '%s' is %s, of the teacher's "
                       "'%s' %s",
                       name, shape_text(&o->shape, a), tm->values[t].name, shape_text(&theirs, b));
    if (d->p->soft != DISTILL_SOFT_MSE)
        o->kl = own.softmax || other.softmax || wants_kl(d, v, &o->shape);
    if (o->kl && view_of(o, own.softmax ? &own : &other, err))
        return -1;
    d->n_out++;
    return 0;
}

int distill_pair_outputs(struct distiller *d, const struct distill_shapes *student,
                         const struct distill_shapes *teacher, struct err *err)
{
    const int n = model_main(d->c->model)->n_outputs;
    d->out = arena_calloc(d->arena, (size_t)n + 1, sizeof *d->out);
    d->left = arena_calloc(d->arena, (size_t)n + 1, sizeof *d->left);
    if (!d->out || !d->left)
        return distill_nomem(err);
    for (int i = 0; i < n; i++)
        if (pair_output(d, i, student, teacher, err))
            return -1;
    if (!d->n_out)
        return err_set(err, ERR_MODEL, "there is nothing to learn from the teacher: output %s",
                       d->n_left ? d->left[0] : "there is none");
    return 0;
}

uint32_t distill_output_value(const struct distill_output *o, const struct model *m)
{
    return scores_of(m, model_main(m)->outputs[o->student].value).value;
}

uint32_t distill_teacher_value(const struct distiller *d, const struct distill_output *o)
{
    return distill_output_value(&(struct distill_output){.student = o->teacher}, d->c->teacher);
}

/* ---- a first look ---- */
static bool are_probabilities(const float *x, const struct feature *v, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < v->inner; i++) {
            double sum = 0;
            for (int64_t c = 0; c < v->channels; c++) {
                const float p = x[(r * v->channels + c) * v->inner + i];
                if (!(p >= 0))
                    return false;
                sum += (double)p;
            }
            if (!(fabs(sum - 1) < 1e-3))
                return false;
        }
    return true;
}

static double variance_of(const float *x, int64_t n)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)x[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    return square;
}

void distill_look_at_outputs(struct distiller *d)
{
    for (int i = 0; i < d->n_out; i++) {
        struct distill_output *o = &d->out[i];
        const struct tensor *t = teacher_said(d->teacher, o->want);
        const double variance = variance_of(tensor_f32(t), tensor_count(t));
        o->variance = variance > LEAST_VARIANCE ? variance : 1;
        if (o->kl && distill_teacher_value(d, o) == model_main(d->c->teacher)->outputs[o->teacher].value)
            o->logarithm = are_probabilities(tensor_f32(t), &o->view, o->view.rows * d->n_sample);
    }
}

/* ---- loss ---- */
static int spare(struct tensor *t, const struct tensor *like, struct err *err)
{
    if (t->dtype == DTYPE_FLOAT && shape_equal(&t->shape, &like->shape))
        return 0;
    tensor_fini(t);
    return tensor_alloc(t, DTYPE_FLOAT, &like->shape, err);
}

/* A view with scores along axis 1, as losses take them. */
static struct tensor as_rows(const struct distill_output *o, const struct tensor *t, int64_t n)
{
    struct tensor rows;
    const struct shape shape = o->view.inner > 1 ? SHAPE(o->view.rows * n, o->view.channels, o->view.inner)
                                                 : SHAPE(o->view.rows * n, o->view.channels);
    tensor_view(&rows, t->dtype, &shape, t->data, NULL);
    return rows;
}

static void take_logarithm(struct tensor *to, const struct tensor *p)
{
    for (int64_t i = 0; i < tensor_count(p); i++)
        tensor_f32(to)[i] = (float)log(fmax((double)tensor_f32(p)[i], LEAST_PROBABILITY));
}

/* The teacher's are probabilities q, and if `own` the student's p too: logarithms are scores, and dL/dp = dL/d(log p)
 * / p. */
static int logarithm_loss(struct distiller *d, const struct loss_opts *opts, const struct tensor *p,
                          const struct tensor *q, struct tensor *seed, bool own, double *value, struct err *err)
{
    struct tensor teacher = {0}, *gradient = &d->spare[1];
    int rc = -1;
    if (tensor_alloc(&teacher, DTYPE_FLOAT, &q->shape, err) || spare(&d->spare[0], p, err) || spare(gradient, p, err))
        goto out;
    take_logarithm(&teacher, q);
    if (!own) {
        rc = loss_evaluate(d->c->pool, opts, p, &teacher, value, seed, NULL, err);
        goto out;
    }
    take_logarithm(&d->spare[0], p);
    memset(gradient->data, 0, gradient->bytes);
    if (loss_evaluate(d->c->pool, opts, &d->spare[0], &teacher, value, gradient, NULL, err))
        goto out;
    for (int64_t i = 0; seed && i < tensor_count(p); i++)
        tensor_f32(seed)[i] +=
            (float)((double)tensor_f32(gradient)[i] / fmax((double)tensor_f32(p)[i], LEAST_PROBABILITY));
    rc = 0;
out:
    tensor_fini(&teacher);
    return rc;
}

int distill_output_loss(struct distiller *d, const struct distill_output *o, const struct tensor *y,
                        struct tensor *seed, int64_t n, double scale, double *value, struct err *err)
{
    const struct tensor *t = teacher_said(d->teacher, o->want);
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    if (y->dtype != DTYPE_FLOAT || tensor_count(y) != tensor_count(t))
        return err_set(err, ERR_SHAPE, "output '%s' is %s where the teacher's is %s", o->name, shape_text(&y->shape, a),
                       shape_text(&t->shape, b));
    const double share = d->alpha / (double)d->n_out * scale, count = (double)tensor_count(y);
    struct loss_opts opts = {
        .kind = LOSS_SQUARED, .reduction = LOSS_SUM, .scale = share / (count * o->variance), .add = true};
    struct tensor own, theirs, gradient = {0};
    int rc;
    tensor_view(&own, y->dtype, &y->shape, y->data, NULL);
    tensor_view(&theirs, t->dtype, &y->shape, t->data, NULL);
    if (o->kl) {
        own = as_rows(o, y, n);
        theirs = as_rows(o, t, n);
        opts.kind = LOSS_KL;
        opts.temperature = d->p->temperature;
        opts.scale = share / ((double)n * (double)o->view.rows * (double)o->view.inner);
    }
    if (seed)
        tensor_view(&gradient, seed->dtype, &own.shape, seed->data, NULL);
    if (o->logarithm)
        rc = logarithm_loss(d, &opts, &own, &theirs, seed ? &gradient : NULL,
                            are_probabilities(tensor_f32(&own), &o->view, o->view.rows * n), value, err);
    else
        rc = loss_evaluate(d->c->pool, &opts, &own, &theirs, value, seed ? &gradient : NULL, NULL, err);
    *value /= scale;
    return rc;
}
