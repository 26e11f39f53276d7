/* SPDX-License-Identifier: Apache-2.0
 * constraints.c - see constraints.h. A parameter without notes costs nothing here; one with a mask costs two passes
 * over it an update. */
#include "core/train/constraints.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

enum { PIECE = 1 << 15, PIECES_MAX = 64 };

struct constraint {
    uint32_t value;
    struct tensor *t;     /* the parameter */
    struct tensor mask;   /* bool; empty: none */
    struct tensor latent; /* splice */
    /* codebook */
    struct tensor centroids, gradient; /* [groups, k], of the parameter's type */
    int32_t *member;                   /* [elements] its place in the row of its group */
    int32_t *same;                     /* [groups * k] the first place of the row with the same number */
    bool *zero;                        /* [groups * k] was 0 */
    int64_t groups, k, run;            /* run: elements of a group */
    double *sums;                      /* [pieces * k] of one group */
};

struct constraints {
    struct constraint *at;
    int n;
    struct pool *pool;
};

static double number_at(const struct tensor *t, int64_t i)
{
    return t->dtype == DTYPE_FLOAT ? (double)tensor_f32(t)[i] : ((const double *)t->data)[i];
}

static void put_number(struct tensor *t, int64_t i, double v)
{
    if (t->dtype == DTYPE_FLOAT)
        tensor_f32(t)[i] = (float)v;
    else
        ((double *)t->data)[i] = v;
}

/* ---- masks ---- */
struct mask_job {
    const struct tensor *from, *mask;
    struct tensor *to;
};

static void mask_piece(void *arg, int64_t task, int lane)
{
    const struct mask_job *j = arg;
    const int64_t at = task * PIECE, end = i64_min(at + PIECE, tensor_count(j->to));
    const bool *keep = j->mask->data;
    (void)lane;
    if (j->to->dtype == DTYPE_FLOAT) {
        const float *from = tensor_f32(j->from);
        float *to = tensor_f32(j->to);
        for (int64_t i = at; i < end; i++)
            to[i] = keep[i] ? from[i] : 0;
    } else {
        const double *from = j->from->data;
        double *to = j->to->data;
        for (int64_t i = at; i < end; i++)
            to[i] = keep[i] ? from[i] : 0;
    }
}

static void apply_mask(struct pool *pool, const struct tensor *from, const struct tensor *mask, struct tensor *to)
{
    struct mask_job j = {from, mask, to};
    const int64_t pieces = i64_ceil_div(tensor_count(to), PIECE);
    pool_run(pieces > 1 ? pool : NULL, pieces, mask_piece, &j);
}

/* ---- codebooks ---- */
struct place {
    double v;
    int32_t at;
};

static int by_value(const void *pa, const void *pb)
{
    const struct place *a = pa, *b = pb;
    if (a->v != b->v)
        return a->v < b->v ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

/* The first place of this number in a sorted row; -1. */
static int32_t find_number(const struct place *row, int64_t k, double v)
{
    int64_t low = 0, high = k;
    while (low < high) {
        const int64_t mid = low + (high - low) / 2;
        if (row[mid].v < v)
            low = mid + 1;
        else
            high = mid;
    }
    return low < k && row[low].v == v ? row[low].at : -1;
}

static int find_members(struct constraint *c, const char *name, struct err *err)
{
    struct place *row = calloc((size_t)c->k, sizeof *row);
    if (!row)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t g = 0; g < c->groups; g++) {
        for (int64_t i = 0; i < c->k; i++) {
            const double v = number_at(&c->centroids, g * c->k + i);
            row[i] = (struct place){v, (int32_t)i};
            c->zero[g * c->k + i] = v == 0;
        }
        qsort(row, (size_t)c->k, sizeof *row, by_value);
        for (int64_t i = 0; i < c->k; i++)
            c->same[g * c->k + i] = find_number(row, c->k, number_at(&c->centroids, g * c->k + i));
        for (int64_t e = g * c->run; e < (g + 1) * c->run; e++) {
            c->member[e] = find_number(row, c->k, number_at(c->t, e));
            if (c->member[e] < 0) {
                err_set(err, ERR_MODEL,
                        "element %lld of weight '%s' is %g, which is none of the %lld numbers its codebook has for it; "
                        "a step behind encode.cluster changed it",
                        (long long)e, name, number_at(c->t, e), (long long)c->k);
                free(row);
                return -1;
            }
        }
    }
    free(row);
    return 0;
}

static int open_codebook(struct constraint *c, const struct tensor *book, const char *name, struct err *err)
{
    const int64_t n = tensor_count(c->t);
    if (book->shape.rank != 2 || book->dtype != DTYPE_FLOAT || book->shape.dim[0] < 1 || book->shape.dim[1] < 1 ||
        book->shape.dim[1] > INT32_MAX || n % book->shape.dim[0])
        return err_set(err, ERR_MODEL, "the codebook of weight '%s' does not fit its %lld elements", name,
                       (long long)n);
    c->groups = book->shape.dim[0];
    c->k = book->shape.dim[1];
    c->run = n / c->groups;
    c->member = calloc((size_t)n + 1, sizeof *c->member);
    c->same = calloc((size_t)(c->groups * c->k), sizeof *c->same);
    c->zero = calloc((size_t)(c->groups * c->k), sizeof *c->zero);
    c->sums = calloc((size_t)c->k * PIECES_MAX, sizeof *c->sums);
    if (!c->member || !c->same || !c->zero || !c->sums)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (tensor_convert(&c->centroids, book, c->t->dtype, err) || tensor_writable(&c->centroids, err) ||
        tensor_alloc(&c->gradient, c->t->dtype, &c->centroids.shape, err))
        return -1;
    return find_members(c, name, err);
}

/* Each piece of a group adds up into sums of its own; then the pieces are added in order. */
struct sum_job {
    const struct constraint *c;
    const struct tensor *gradient;
    int64_t first, piece; /* of the group; elements a piece */
};

static void sum_piece(void *arg, int64_t task, int lane)
{
    const struct sum_job *j = arg;
    const struct constraint *c = j->c;
    double *sums = c->sums + task * c->k;
    const int64_t begin = j->first + task * j->piece, end = j->first + i64_min((task + 1) * j->piece, c->run);
    (void)lane;
    memset(sums, 0, (size_t)c->k * sizeof *sums);
    if (j->gradient->dtype == DTYPE_FLOAT)
        for (int64_t e = begin; e < end; e++)
            sums[c->member[e]] += (double)tensor_f32(j->gradient)[e];
    else
        for (int64_t e = begin; e < end; e++)
            sums[c->member[e]] += ((const double *)j->gradient->data)[e];
}

static void sum_members(const struct constraints *cs, struct constraint *c, const struct tensor *gradient)
{
    const int64_t piece = i64_max(PIECE, i64_ceil_div(c->run, PIECES_MAX)), pieces = i64_ceil_div(c->run, piece);
    for (int64_t g = 0; g < c->groups; g++) {
        struct sum_job j = {c, gradient, g * c->run, piece};
        pool_run(pieces > 1 ? cs->pool : NULL, pieces, sum_piece, &j);
        for (int64_t i = 0; i < c->k; i++) {
            double sum = 0;
            for (int64_t p = 0; p < pieces; p++)
                sum += c->sums[p * c->k + i];
            put_number(&c->gradient, g * c->k + i, c->zero[g * c->k + i] ? 0 : sum);
        }
    }
}

static void spread_piece(void *arg, int64_t task, int lane)
{
    const struct constraint *c = arg;
    const int64_t begin = task * PIECE, end = i64_min(begin + PIECE, c->groups * c->run);
    (void)lane;
    for (int64_t e = begin; e < end;) {
        const int64_t row = e / c->run * c->k, stop = i64_min(end, (e / c->run + 1) * c->run);
        if (c->t->dtype == DTYPE_FLOAT)
            for (; e < stop; e++)
                tensor_f32(c->t)[e] = tensor_f32(&c->centroids)[row + c->member[e]];
        else
            for (; e < stop; e++)
                ((double *)c->t->data)[e] = ((const double *)c->centroids.data)[row + c->member[e]];
    }
}

static void spread_centroids(struct pool *pool, struct constraint *c)
{
    for (int64_t i = 0; i < c->groups * c->k; i++)
        if (c->zero[i])
            put_number(&c->centroids, i, 0);
    const int64_t pieces = i64_ceil_div(c->groups * c->run, PIECE);
    pool_run(pieces > 1 ? pool : NULL, pieces, spread_piece, c);
}

/* ---- life ---- */
static int open_one(struct constraint *c, const struct model *m, struct err *err)
{
    const struct note *mask = value_note(m, c->value, "mask"), *book = value_note(m, c->value, "codebook");
    const char *name = m->values[c->value].name;
    if (mask && (mask->tensor.dtype != DTYPE_BOOL || !shape_equal(&mask->tensor.shape, &c->t->shape)))
        return err_set(err, ERR_MODEL, "the mask of weight '%s' does not have the weight's shape", name);
    if (mask)
        tensor_ref(&c->mask, &mask->tensor);
    if (book && open_codebook(c, &book->tensor, name, err))
        return -1;
    if (mask && !book && value_note(m, c->value, "splice"))
        return tensor_copy(&c->latent, c->t, err);
    return 0;
}

struct constraints *constraints_new(const struct model *m, const uint32_t *values, struct tensor *const *value, int n,
                                    struct pool *pool, struct err *err)
{
    struct constraints *c = calloc(1, sizeof *c);
    if (!c || !(c->at = calloc((size_t)n + 1, sizeof *c->at))) {
        err_set(err, ERR_NOMEM, "out of memory");
        free(c);
        return NULL;
    }
    c->n = n;
    c->pool = pool;
    for (int i = 0; i < n; i++) {
        c->at[i].value = values[i];
        c->at[i].t = value[i];
        if (open_one(&c->at[i], m, err)) {
            constraints_free(c);
            return NULL;
        }
        constraints_project(c, i);
    }
    return c;
}

void constraints_free(struct constraints *c)
{
    for (int i = 0; c && i < c->n; i++) {
        struct constraint *k = &c->at[i];
        tensor_fini(&k->mask);
        tensor_fini(&k->latent);
        tensor_fini(&k->centroids);
        tensor_fini(&k->gradient);
        free(k->member);
        free(k->same);
        free(k->zero);
        free(k->sums);
    }
    if (c)
        free(c->at);
    free(c);
}

struct tensor *constraints_moved(struct constraints *c, int i)
{
    struct constraint *k = &c->at[i];
    return k->member ? &k->centroids : k->latent.buf ? &k->latent : k->t;
}

struct tensor *constraints_gradient(struct constraints *c, int i, struct tensor *gradient)
{
    struct constraint *k = &c->at[i];
    if (k->mask.buf && !k->latent.buf)
        apply_mask(c->pool, gradient, &k->mask, gradient);
    if (!k->member)
        return gradient;
    sum_members(c, k, gradient);
    return &k->gradient;
}

void constraints_project(struct constraints *c, int i)
{
    struct constraint *k = &c->at[i];
    if (k->member)
        spread_centroids(c->pool, k);
    if (k->mask.buf)
        apply_mask(c->pool, k->latent.buf ? &k->latent : k->t, &k->mask, k->t);
}

void constraints_apply(struct constraints *c, int i, struct tensor *value)
{
    if (c->at[i].mask.buf)
        apply_mask(c->pool, value, &c->at[i].mask, value);
}

/* The numbers of the codebook as the weight of the model now has them: it may be that of another epoch. */
static int renew_codebook(const struct constraint *k, struct model *m, struct err *err)
{
    const struct weight *w = m->values[k->value].weight;
    struct tensor book = {0}, f = {0};
    if (!w || tensor_count(&w->tensor) != k->groups * k->run)
        return 0;
    if (tensor_copy(&book, &k->centroids, err))
        return -1;
    for (int64_t e = 0; e < k->groups * k->run; e++)
        if (!k->mask.buf || ((const bool *)k->mask.data)[e])
            put_number(&book, e / k->run * k->k + k->member[e], number_at(&w->tensor, e));
    for (int64_t i = 0; i < k->groups * k->k; i++)
        put_number(&book, i, number_at(&book, i / k->k * k->k + k->same[i]));
    const int rc = tensor_convert(&f, &book, DTYPE_FLOAT, err);
    if (!rc)
        value_set_note(m, k->value, "codebook", NULL, &f);
    tensor_fini(&book);
    tensor_fini(&f);
    return rc;
}

int constraints_finish(struct constraints *c, struct model *m, struct err *err)
{
    for (int i = 0; i < c->n; i++)
        if (c->at[i].member && renew_codebook(&c->at[i], m, err))
            return -1;
    return 0;
}
