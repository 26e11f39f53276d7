/* SPDX-License-Identifier: Apache-2.0
 * Sums in double, element by element in order: the same on every machine and for every batch size that yields the
 * same samples in
 * the same order. */
#include "core/stats/fidelity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

struct output {
    char *name;
    int64_t elements, rows, agree, nonfinite, nonfinite_b;
    double max_abs, signal, noise, dot, bb, largest;
    bool partial;
};

struct fidelity {
    struct output *out;
    int n;
    int64_t samples;
};

struct fidelity *fidelity_new(const char *const *names, int n_outputs)
{
    struct fidelity *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->out = calloc((size_t)n_outputs + 1, sizeof *f->out);
    for (int i = 0; f->out && i < n_outputs; i++, f->n++)
        if (!(f->out[i].name = strdup(names[i] ? names[i] : "")))
            break;
    if (f->n == n_outputs && f->out)
        return f;
    fidelity_free(f);
    return NULL;
}

void fidelity_free(struct fidelity *f)
{
    for (int i = 0; f && f->out && i < f->n; i++)
        free(f->out[i].name);
    if (f)
        free(f->out);
    free(f);
}

/* Classes of an output that has them (rows of axis 0, one other axis above 1), else 0. */
static int64_t class_rows(const struct shape *s, int64_t *rows)
{
    int wide = 0;
    if (s->rank < 2)
        return 0;
    for (int d = 1; d < s->rank; d++)
        wide += s->dim[d] > 1;
    *rows = s->dim[0];
    return wide == 1 ? shape_product(s, 1, s->rank) : 0;
}

static int64_t argmax(const struct tensor *t, int64_t from, int64_t n)
{
    int64_t best = 0;
    double most = dtype_get(t->dtype, t->data, from);
    for (int64_t i = 1; i < n; i++) {
        double x = dtype_get(t->dtype, t->data, from + i);
        if (x > most || (isnan(most) && !isnan(x))) {
            most = x;
            best = i;
        }
    }
    return best;
}

static void add_top1(struct output *o, const struct tensor *a, const struct tensor *b)
{
    int64_t rows = 0, rows_b = 0, n = class_rows(&a->shape, &rows);
    if (n < 2 || class_rows(&b->shape, &rows_b) != n)
        return;
    for (int64_t r = 0; r < i64_min(rows, rows_b); r++)
        o->agree += argmax(a, r * n, n) == argmax(b, r * n, n);
    o->rows += i64_min(rows, rows_b);
}

static void add_element(struct output *o, double x, double y)
{
    bool both_nan = isnan(x) && isnan(y);
    double d = x == y || both_nan ? 0 : fabs(x - y);
    if (!isfinite(y)) {
        o->nonfinite_b++;
        o->nonfinite += isfinite(x);
    }
    if (isnan(d))
        d = INFINITY;
    o->max_abs = d > o->max_abs ? d : o->max_abs;
    if (!isfinite(x) || !isfinite(y))
        return;
    o->largest = fabs(x) > o->largest ? fabs(x) : o->largest;
    o->signal += x * x;
    o->noise += d * d;
    o->dot += x * y;
    o->bb += y * y;
}

static bool numeric(enum dtype d)
{
    return dtype_kind(d) == 'f' || dtype_kind(d) == 'i' || dtype_kind(d) == 'u' || dtype_kind(d) == 'b';
}

static void add_opaque(struct output *o, const struct tensor *a, const struct tensor *b)
{
    o->elements += tensor_count(a);
    if (!tensor_equal(a, b))
        o->max_abs = o->max_abs > 1 ? o->max_abs : 1;
}

/* How many elements the two share: all, or the rows of the shorter one. -1: they do not pair. */
static int64_t paired(const struct tensor *a, const struct tensor *b, bool *partial)
{
    const struct shape *s = &a->shape, *t = &b->shape;
    *partial = false;
    if (shape_equal(s, t))
        return tensor_count(a);
    if (s->rank != t->rank || s->rank < 1)
        return tensor_count(a) == tensor_count(b) ? tensor_count(a) : -1;
    for (int d = 1; d < s->rank; d++)
        if (s->dim[d] != t->dim[d])
            return tensor_count(a) == tensor_count(b) ? tensor_count(a) : -1;
    *partial = true;
    return i64_min(tensor_count(a), tensor_count(b));
}

int fidelity_add(struct fidelity *f, int i, const struct tensor *a, const struct tensor *b, struct err *err)
{
    struct output *o = &f->out[i];
    bool partial;
    int64_t n = paired(a, b, &partial);
    if (n < 0 || numeric(a->dtype) != numeric(b->dtype)) {
        char x[SHAPE_TEXT], y[SHAPE_TEXT];
        return err_set(err, ERR_SHAPE, "output '%s' is %s%s in one model and %s%s in the other", o->name,
                       dtype_name(a->dtype), shape_text(&a->shape, x), dtype_name(b->dtype), shape_text(&b->shape, y));
    }
    o->partial = o->partial || partial;
    if (!numeric(a->dtype)) {
        add_opaque(o, a, b);
        return 0;
    }
    o->elements += n;
    if (a->dtype == DTYPE_FLOAT && b->dtype == DTYPE_FLOAT) {
        const float *x = a->data, *y = b->data;
        for (int64_t k = 0; k < n; k++)
            add_element(o, (double)x[k], (double)y[k]);
    } else {
        for (int64_t k = 0; k < n; k++)
            add_element(o, dtype_get(a->dtype, a->data, k), dtype_get(b->dtype, b->data, k));
    }
    add_top1(o, a, b);
    return 0;
}

void fidelity_count_samples(struct fidelity *f, int64_t samples)
{
    f->samples += samples;
}

int fidelity_n_outputs(const struct fidelity *f)
{
    return f->n;
}

int64_t fidelity_samples(const struct fidelity *f)
{
    return f->samples;
}

void fidelity_result(const struct fidelity *f, int i, struct fidelity_result *out)
{
    const struct output *o = &f->out[i];
    *out = (struct fidelity_result){.name = o->name,
                                    .elements = o->elements,
                                    .max_abs = o->max_abs,
                                    .largest = o->largest,
                                    .nonfinite = o->nonfinite,
                                    .nonfinite_b = o->nonfinite_b,
                                    .partial = o->partial};
    out->top1_agreement = o->rows ? (double)o->agree / (double)o->rows : NAN;
    if (o->noise > 0)
        out->sqnr_db = o->signal > 0 ? 10 * log10(o->signal / o->noise) : -INFINITY;
    else
        out->sqnr_db = o->signal > 0 ? INFINITY : NAN;
    double norm = sqrt(o->signal) * sqrt(o->bb);
    out->cosine = norm > 0 ? o->dot / norm : (o->signal == o->bb && o->elements ? 1.0 : NAN);
    if (out->cosine > 1)
        out->cosine = 1;
    if (o->noise == 0 && o->signal > 0)
        out->cosine = 1;
}

static void set_real(json_t *object, const char *key, double x)
{
    if (isfinite(x))
        json_object_set_new(object, key, json_real(x));
}

json_t *fidelity_json(const struct fidelity *f, const char *source)
{
    json_t *outputs = json_array();
    for (int i = 0; i < f->n; i++) {
        struct fidelity_result r;
        fidelity_result(f, i, &r);
        json_t *o = json_pack("{s:s}", "name", r.name);
        if (r.elements) {
            set_real(o, "max_abs", r.max_abs);
            set_real(o, "sqnr_db", r.sqnr_db);
            set_real(o, "cosine", r.cosine);
            set_real(o, "top1_agreement", r.top1_agreement);
        }
        if (r.nonfinite_b)
            json_object_set_new(o, "nonfinite", json_integer(r.nonfinite_b));
        if (r.partial)
            json_object_set_new(o, "partial", json_true());
        json_array_append_new(outputs, o);
    }
    return json_pack("{s:I, s:s, s:o}", "samples", (json_int_t)f->samples, "source", source, "outputs", outputs);
}
