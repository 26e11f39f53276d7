/* SPDX-License-Identifier: Apache-2.0
 * distill_terms.c - hints, attention maps and relations of the distilling objective: which values, regressors, losses.
 *
 * A regressor starts as the ridge regression of the teacher's channels on the student's, over a few samples: a random
 * one would first push the student about to please it. It is fitted anew when nested pruning changed the student's
 * width, since its old columns mean channels that are gone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/size.h"
#include "core/stats/least_squares.h"
#include "core/train/distill_impl.h"

enum { FIT_ROWS = 4096, MOST_COMPARED = OBJECTIVE_EXTRA_MAX - 8 /* the rest is for the labels' objective */ };
static const double FIT_RIDGE = 1e-3, LEAST_POWER = 1e-12;

const char *const distill_kind_names[TERM_KINDS] = {"hints", "attention", "relational"};

/* ---- which values ---- */
/* The axis of channels: the one that differs, else the one images and vectors (1) or tokens (the last) have them on.
 * -1: more than one differs. */
static int channel_axis(const struct shape *s, const struct shape *t)
{
    int axis = s->rank == 3 ? 2 : 1, differ = 0;
    if (s->rank != t->rank || s->rank < 2)
        return -1;
    for (int d = 1; d < s->rank; d++)
        if (s->dim[d] != t->dim[d]) {
            axis = d;
            differ++;
        }
    return differ > 1 ? -1 : axis;
}

/* ERR_SHAPE where the two cannot be compared. */
static int check_term(struct distill_term *t, const struct shape *own, const struct shape *other, struct err *err)
{
    const char *what = distill_kind_names[t->kind];
    char x[SHAPE_TEXT], y[SHAPE_TEXT];
    t->axis = t->kind == TERM_RELATION ? 1 : channel_axis(own, other);
    if (own->dim[0] != 1 || other->dim[0] != 1 || own->rank < 2 || other->rank < 2 || t->axis < 0)
        return err_set(err, ERR_SHAPE,
                       "%s: a sample of '%s' is %s in the model and of '%s' %s in the teacher: only the number of "
                       "channels may differ",
                       what, t->student, shape_text(own, x), t->teacher, shape_text(other, y));
    if (t->kind == TERM_ATTENTION && shape_count(own) == own->dim[t->axis])
        return err_set(err, ERR_SHAPE, "%s: '%s' is %s: it has no places beside its channels", what, t->student,
                       shape_text(own, x));
    return 0;
}

static int add_term(struct distiller *d, enum distill_kind kind, const struct hint_pair *pair,
                    const struct distill_shapes *student, const struct distill_shapes *teacher, struct err *err)
{
    struct distill_term *t = &d->term[d->n_term];
    const char *a = d->c->model->values[pair->student].name, *b = d->c->teacher->values[pair->teacher].name;
    struct shape own, other;
    if (!distill_row_shape(student, pair->student, &own) || !distill_row_shape(teacher, pair->teacher, &other))
        return err_set(err, ERR_SHAPE,
                       "%s: '%s' of the model or '%s' of the teacher is not of floats, has no row a sample, or a "
                       "shape that depends on data",
                       distill_kind_names[kind], a, b);
    *t = (struct distill_term){.kind = kind,
                               .student = arena_strdup(d->arena, a),
                               .teacher = arena_strdup(d->arena, b),
                               .teacher_value = pair->teacher,
                               .power = 1};
    if (!t->student || !t->teacher)
        return distill_nomem(err);
    if (check_term(t, &own, &other, err))
        return -1;
    t->teacher_channels = other.dim[t->axis];
    /* nested steps may change the width later */
    t->regressed = kind == TERM_HINT && (own.dim[t->axis] != t->teacher_channels || d->c->n_steps > 0);
    d->n_term++;
    return 0;
}

static int add_terms(struct distiller *d, enum distill_kind kind, const struct hint_pairs *pairs,
                     const struct distill_shapes *student, const struct distill_shapes *teacher, struct err *err)
{
    for (int i = 0; i < pairs->count; i++) {
        if (d->n_out + d->n_term >= MOST_COMPARED)
            return err_set(err, ERR_INVALID, "more than %d outputs, hints and maps together are to be compared",
                           MOST_COMPARED);
        if (add_term(d, kind, &pairs->at[i], student, teacher, err))
            return -1;
    }
    return 0;
}

/* What the classifier's last product reads, in both. */
static int add_embedding(struct hint_pairs *pairs, const struct distiller *d, struct err *err)
{
    const struct model *m = d->c->model, *tm = d->c->teacher;
    const struct distill_output *o = &d->out[0];
    const uint32_t s = hints_embedding(m, distill_output_value(o, m));
    const uint32_t t = hints_embedding(tm, distill_teacher_value(d, o));
    if (s == VALUE_NONE || t == VALUE_NONE)
        return err_set(err, ERR_INVALID,
                       "relational: no product before output '%s' reads a value of its own; name one in "
                       "relational_at",
                       o->name);
    pairs->at = calloc(1, sizeof *pairs->at);
    if (!pairs->at)
        return distill_nomem(err);
    pairs->at[pairs->count++] = (struct hint_pair){s, t};
    return 0;
}

int distill_find_terms(struct distiller *d, const struct distill_shapes *student, const struct distill_shapes *teacher,
                       struct err *err)
{
    const struct distill_params *p = d->p;
    const struct model *m = d->c->model, *tm = d->c->teacher;
    struct hint_pairs found[TERM_KINDS] = {{0}};
    int rc = -1, n = 0;
    if (p->hint_weight > 0 && hints_named(&found[TERM_HINT], &p->hints, "hints", m, tm, err))
        goto out;
    if (p->attention > 0 &&
        (p->attention_at.count ? hints_named(&found[TERM_ATTENTION], &p->attention_at, "attention_at", m, tm, err)
                               : hints_stage_ends(&found[TERM_ATTENTION], m, student->types, tm, teacher->types, err)))
        goto out;
    if (p->relational > 0 &&
        (p->relational_at.count ? hints_named(&found[TERM_RELATION], &p->relational_at, "relational_at", m, tm, err)
                                : add_embedding(&found[TERM_RELATION], d, err)))
        goto out;
    for (int k = 0; k < TERM_KINDS; k++)
        n += found[k].count;
    if (!(d->term = arena_calloc(d->arena, (size_t)n + 1, sizeof *d->term))) {
        distill_nomem(err);
        goto out;
    }
    rc = 0;
    for (int k = 0; k < TERM_KINDS && !rc; k++)
        rc = add_terms(d, (enum distill_kind)k, &found[k], student, teacher, err);
out:
    for (int k = 0; k < TERM_KINDS; k++)
        hint_pairs_fini(&found[k]);
    return rc;
}

void distill_look_at_terms(struct distiller *d)
{
    for (int i = 0; i < d->n_term; i++) {
        struct distill_term *t = &d->term[i];
        const struct tensor *said = teacher_said(d->teacher, t->want);
        double square = 0;
        if (t->kind != TERM_HINT)
            continue;
        for (int64_t k = 0; k < tensor_count(said); k++)
            square += (double)tensor_f32(said)[k] * (double)tensor_f32(said)[k];
        square /= (double)i64_max(tensor_count(said), 1);
        t->power = square > LEAST_POWER ? square : 1;
    }
}

/* ---- regressors ---- */
/* Places of a feature as rows of channels: every `step`-th. */
static void places_as_rows(const struct feature *f, const float *x, int64_t step, float *rows)
{
    int64_t n = 0;
    for (int64_t p = 0; p < f->rows * f->inner; p += step, n++)
        for (int64_t c = 0; c < f->channels; c++)
            rows[n * f->channels + c] = x[(p / f->inner * f->channels + c) * f->inner + p % f->inner];
}

/* weight [wide][narrow], bias [wide] of the ridge regression of t on s. */
static int fit(struct distiller *d, const struct distill_term *t, const struct tensor *own, float *weight, float *bias,
               struct err *err)
{
    const struct tensor *said = teacher_said(d->teacher, t->want);
    const struct feature s = feature_of(&own->shape, t->axis), f = feature_of(&said->shape, t->axis);
    const int64_t places = s.rows * s.inner, step = i64_max(1, places / FIT_ROWS), n = i64_ceil_div(places, step);
    float *x = calloc((size_t)(n * s.channels) + 1, sizeof *x), *y = calloc((size_t)(n * f.channels) + 1, sizeof *y);
    double *mx = calloc((size_t)s.channels + 1, sizeof *mx), *my = calloc((size_t)f.channels + 1, sizeof *my);
    struct least_squares *ls = NULL;
    int rc = -1;
    if (!x || !y || !mx || !my) {
        distill_nomem(err);
        goto out;
    }
    places_as_rows(&s, tensor_f32(own), step, x);
    places_as_rows(&f, tensor_f32(said), step, y);
    if (rows_center(x, n, n, s.channels, mx) || rows_center(y, n, n, f.channels, my)) {
        distill_nomem(err);
        goto out;
    }
    const struct rows a = {x, n, s.channels, s.channels}, b = {y, n, f.channels, f.channels};
    ls = least_squares_new(&a, d->c->pool, err);
    if (!ls || least_squares_solve(ls, FIT_RIDGE, &b, NULL, weight, err))
        goto out;
    for (int64_t o = 0; o < f.channels; o++) {
        double at = my[o];
        for (int64_t c = 0; c < s.channels; c++)
            at -= (double)weight[o * s.channels + c] * mx[c];
        bias[o] = (float)at;
    }
    rc = 0;
out:
    least_squares_free(ls);
    free(x);
    free(y);
    free(mx);
    free(my);
    return rc;
}

static int new_tensors(struct objective *o, int i, const struct shape *shape, struct err *err)
{
    tensor_fini(&o->param[i]);
    tensor_fini(&o->gradient[i]);
    return tensor_alloc(&o->param[i], DTYPE_FLOAT, shape, err) || tensor_alloc(&o->gradient[i], DTYPE_FLOAT, shape, err)
               ? -1
               : 0;
}

static int fit_regressor(struct distiller *d, struct objective *o, const struct distill_term *t,
                         struct teacher *student, int want, struct err *err)
{
    const int64_t narrow = teacher_shape(student, want)->dim[t->axis];
    const struct tensor *weight = &o->param[t->param];
    if (weight->dtype == DTYPE_FLOAT && weight->shape.dim[1] == narrow)
        return 0;
    if (new_tensors(o, t->param, &SHAPE(t->teacher_channels, narrow), err) ||
        new_tensors(o, t->param + 1, &SHAPE(t->teacher_channels), err))
        return -1;
    return fit(d, t, teacher_said(student, want), tensor_f32(weight), tensor_f32(&o->param[t->param + 1]), err);
}

static int ask(struct distiller *d, struct teacher *teacher, struct err *err)
{
    return teacher_ask(teacher, &(struct loader_batch){.in = d->sample, .n_in = d->n_in, .n = d->n_sample}, err);
}

int distill_fit_regressors(struct distiller *d, struct objective *o, const struct model *m, struct err *err)
{
    struct teacher_want want[OBJECTIVE_EXTRA_MAX];
    int n = 0, rc = -1;
    for (int i = 0; i < d->n_term; i++)
        if (d->term[i].regressed)
            want[n++] = (struct teacher_want){model_find_value(m, 0, d->term[i].student), TEACHER_VALUE, 0};
    if (!n)
        return 0;
    const struct teacher_opts opts = {
        .model = m, .student = m, .want = want, .n_want = n, .in = d->sample, .n_in = d->n_in, .pool = d->c->pool};
    struct teacher *student = teacher_new(&opts, err);
    if (!student || ask(d, student, err) || ask(d, d->teacher, err))
        goto out;
    n = 0;
    rc = 0;
    for (int i = 0; i < d->n_term && !rc; i++)
        if (d->term[i].regressed)
            rc = fit_regressor(d, o, &d->term[i], student, n++, err);
out:
    teacher_free(student);
    return rc;
}

/* ---- losses ---- */
static int fits(const struct distill_term *t, const struct tensor *y, const struct tensor *said, struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    bool fit = y->dtype == DTYPE_FLOAT && y->shape.rank > t->axis && y->shape.dim[0] == said->shape.dim[0];
    if (fit && t->kind == TERM_HINT) {
        fit = y->shape.rank == said->shape.rank;
        for (int d = 0; fit && d < y->shape.rank; d++)
            fit = d == t->axis ? t->regressed || y->shape.dim[d] == t->teacher_channels
                               : y->shape.dim[d] == said->shape.dim[d];
    } else if (fit && t->kind == TERM_ATTENTION) {
        fit = tensor_count(y) == tensor_count(said) * y->shape.dim[t->axis];
    }
    return fit ? 0
               : err_set(err, ERR_SHAPE, "%s: '%s' of the model is %s, '%s' of the teacher %s",
                         distill_kind_names[t->kind], t->student, shape_text(&y->shape, a), t->teacher,
                         shape_text(&said->shape, b));
}

int distill_term_loss(struct distiller *d, const struct objective *o, const struct distill_term *t,
                      const struct tensor *y, struct tensor *seed, int64_t n, double scale, double *value,
                      struct err *err)
{
    const double weights[TERM_KINDS] = {d->p->hint_weight, d->p->attention, d->p->relational},
                 weight = weights[t->kind];
    const struct tensor *said = teacher_said(d->teacher, t->want);
    struct pool *pool = d->c->pool;
    const float *x = tensor_f32(y), *them = tensor_f32(said);
    float *dx = seed ? tensor_f32(seed) : NULL;
    int rc;
    if (fits(t, y, said, err))
        return -1;
    const struct feature s = feature_of(&y->shape, t->axis);
    if (t->kind == TERM_HINT) {
        struct hint_regressor r = {0};
        if (t->regressed)
            r = (struct hint_regressor){tensor_f32(&o->param[t->param]), tensor_f32(&o->param[t->param + 1]),
                                        tensor_f32(&o->gradient[t->param]), tensor_f32(&o->gradient[t->param + 1])};
        rc = hint_loss(&s, t->teacher_channels, x, them, &r, t->power, weight * scale, value, dx, err);
    } else if (t->kind == TERM_ATTENTION) {
        rc = attention_loss(pool, &s, n, x, them, weight * scale, value, dx, err);
    } else {
        rc = relation_loss(pool, n, x, tensor_count(y) / n, them, tensor_count(said) / n, weight * scale, value, dx,
                           err);
    }
    *value *= weight;
    return rc;
}
