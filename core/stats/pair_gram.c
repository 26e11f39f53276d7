/* SPDX-License-Identifier: Apache-2.0
 * pair_gram.c - see pair_gram.h. While a runs, its inputs to the nodes are copied, batch by batch; while b runs on the same batch, rows
 * of both go into tiles, and full tiles into the sums. */
#include "core/stats/pair_gram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/stats/evaluate.h"
#include "core/stats/gram_rows.h"
#include "core/stats/sampling.h"

enum { TILE = 512, READ_ROWS = 16 };

struct pair {
    struct row_source source;
    struct pair_moments *m;
    int64_t width, filled, rows_per_sample, samples;
    float *a, *b;       /* [TILE][width] */
    struct tensor of_a; /* the input, of this batch */
};

struct pairing {
    const struct pair_gram *p;
    struct pair *pair;
    struct plan *plan_b;
    float *square; /* [k][k] of the largest k */
    bool *watch;
    int n_real; /* samples of this batch, the others are repeats */
    int fed;
};

static size_t bytes_of(const struct row_source *s)
{
    size_t squares, tiles, all;
    const size_t k = (size_t)s->k, width = (size_t)s->groups;
    if (!size_mul(k, k, &squares) || !size_mul(squares, width * 2 * sizeof(double), &squares) ||
        !size_mul(k, width * (2 * TILE * sizeof(float) + 2 * sizeof(double)), &tiles) ||
        !size_add(squares, tiles, &all))
        return SIZE_MAX;
    return all;
}

size_t pair_gram_bytes(const struct model *m, uint32_t node)
{
    struct row_source s;
    if (row_source_of(m, node, &s) || s.k > INT32_MAX || s.groups > INT32_MAX)
        return SIZE_MAX;
    return bytes_of(&s);
}

void pair_moments_fini(struct pair_moments *m)
{
    free(m->bb);
    free(m->ab);
    free(m->mean_a);
    free(m->mean_b);
    *m = (struct pair_moments){0};
}

/* ---- sums ---- */

static void add_product(struct pairing *x, struct pair *t, int64_t group, const float *left, double *sum)
{
    const int64_t k = t->source.k;
    struct gemm g = {
        .trans_a = true, .m = k, .n = k, .k = t->filled, .lda = t->width, .ldb = t->width, .ldc = k, .alpha = 1};
    gemm_f32(x->p->pool, &g, left + group * k, t->b + group * k, x->square);
    for (int64_t i = 0; i < k * k; i++)
        sum[group * k * k + i] += (double)x->square[i];
}

static void flush(struct pairing *x, struct pair *t)
{
    for (int64_t group = 0; t->filled > 0 && group < t->source.groups; group++) {
        add_product(x, t, group, t->b, t->m->bb);
        add_product(x, t, group, t->a, t->m->ab);
    }
    for (int64_t r = 0; r < t->filled; r++)
        for (int64_t c = 0; c < t->width; c++) {
            t->m->mean_a[c] += (double)t->a[r * t->width + c];
            t->m->mean_b[c] += (double)t->b[r * t->width + c];
        }
    t->m->rows += t->filled;
    t->filled = 0;
}

struct reading {
    const struct row_layout *layout;
    const float *a, *b;
    float *to_a, *to_b;
    int64_t first, wanted, count, width, number;
};

/* The i-th of `wanted` rows spread over the sample; which of the rows between is taken turns from sample to sample. */
static int64_t spread_row(const struct reading *r, int64_t i)
{
    const double turn = (double)r->number * 0.6180339887498949;
    const double at = ((double)i + turn - floor(turn)) * (double)r->layout->rows / (double)r->wanted;
    return r->wanted == r->layout->rows ? i : i64_min((int64_t)at, r->layout->rows - 1);
}

static void read_rows(void *arg, int64_t task, int lane)
{
    const struct reading *r = arg;
    (void)lane;
    for (int64_t i = task * READ_ROWS; i < r->count && i < (task + 1) * READ_ROWS; i++) {
        const int64_t row = spread_row(r, r->first + i);
        row_read(r->layout, r->a, row, r->to_a + i * r->width);
        row_read(r->layout, r->b, row, r->to_b + i * r->width);
    }
}

static void add_sample(struct pairing *x, struct pair *t, const struct row_layout *l, const float *a, const float *b)
{
    const int64_t wanted = t->rows_per_sample > 0 ? i64_min(t->rows_per_sample, l->rows) : l->rows;
    for (int64_t at = 0; at < wanted;) {
        const int64_t n = i64_min(wanted - at, TILE - t->filled);
        struct reading r = {
            l, a, b, t->a + t->filled * t->width, t->b + t->filled * t->width, at, wanted, n, t->width, t->samples};
        pool_run(n * t->width > 16384 ? x->p->pool : NULL, i64_ceil_div(n, READ_ROWS), read_rows, &r);
        t->filled += n;
        at += n;
        if (t->filled == TILE)
            flush(x, t);
    }
    t->samples++;
}

/* ---- observing ---- */
static int observe_a(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct pairing *x = arg;
    for (int64_t i = 0; i < x->p->n; i++) {
        struct pair *pair = &x->pair[i];
        if (pair->source.value != value || pair->m->why)
            continue;
        tensor_fini(&pair->of_a);
        if (tensor_copy(&pair->of_a, t, err))
            return -1;
    }
    return 0;
}

static int observe_b(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct pairing *x = arg;
    (void)err;
    for (int64_t i = 0; i < x->p->n; i++) {
        struct pair *pair = &x->pair[i];
        struct row_layout l;
        if (pair->source.value != value || pair->m->why)
            continue;
        if (t->dtype != DTYPE_FLOAT || pair->of_a.dtype != DTYPE_FLOAT)
            pair->m->why = "its input is not float32";
        else if (!shape_equal(&t->shape, &pair->of_a.shape) || !row_layout_make(&l, &pair->source, &t->shape))
            pair->m->why = "its input does not fit its weight";
        if (pair->m->why)
            continue;
        const int64_t samples = l.samples == x->fed ? x->n_real : l.samples;
        for (int64_t s = 0; s < samples; s++)
            add_sample(x, pair, &l, tensor_f32(&pair->of_a) + s * l.sample_step, tensor_f32(t) + s * l.sample_step);
        tensor_fini(&pair->of_a);
    }
    return 0;
}

static int run_b(void *arg, const struct evaluate_batch *batch, struct err *err)
{
    struct pairing *x = arg;
    const struct plan_run_opts run = {.observe = observe_b, .observe_arg = x};
    const int n = plan_n_outputs(x->plan_b);
    struct tensor *out = calloc((size_t)n + 1, sizeof *out);
    if (!out)
        return err_set(err, ERR_NOMEM, "out of memory");
    x->n_real = batch->n;
    x->fed = batch->fed;
    const int rc = plan_run(x->plan_b, batch->in, out, &run, err);
    for (int i = 0; i < n; i++)
        tensor_fini(&out[i]);
    free(out);
    return rc;
}

/* ---- the run ---- */
static int pair_make(struct pairing *x, int64_t i, int64_t samples, struct err *err)
{
    struct pair *t = &x->pair[i];
    const char *why = row_source_of(x->p->b, x->p->nodes[i], &t->source);
    if (!why && bytes_of(&t->source) == SIZE_MAX)
        why = "it has too many inputs for a Gram matrix";
    t->m->why = why;
    if (why)
        return 0;
    const size_t k = (size_t)t->source.k, width = k * (size_t)t->source.groups;
    t->width = (int64_t)width;
    *t->m = (struct pair_moments){.groups = t->source.groups,
                                  .k = t->source.k,
                                  .bb = calloc(width * k, sizeof(double)),
                                  .ab = calloc(width * k, sizeof(double)),
                                  .mean_a = calloc(width, sizeof(double)),
                                  .mean_b = calloc(width, sizeof(double))};
    t->a = malloc(TILE * width * sizeof *t->a);
    t->b = malloc(TILE * width * sizeof *t->b);
    t->rows_per_sample = x->p->rows > 0 ? i64_ceil_div(x->p->rows * t->source.k, i64_max(samples, 1)) : 0;
    x->watch[t->source.value] = true;
    return t->m->bb && t->m->ab && t->m->mean_a && t->m->mean_b && t->a && t->b
               ? 0
               : err_set(err, ERR_NOMEM, "out of memory for second moments");
}

static void finish(struct pairing *x, struct pair *t)
{
    struct pair_moments *m = t->m;
    if (m->why || !m->bb)
        return;
    flush(x, t);
    const double n = m->rows > 0 ? (double)m->rows : 1;
    bool finite = true;
    for (int64_t i = 0; i < t->width * m->k; i++) {
        m->bb[i] /= n;
        m->ab[i] /= n;
        finite = finite && isfinite(m->bb[i]) && isfinite(m->ab[i]);
    }
    for (int64_t i = 0; i < t->width; i++) {
        m->mean_a[i] /= n;
        m->mean_b[i] /= n;
    }
    m->why = m->rows == 0 ? "its input was never seen"
             : finite     ? NULL
                          : "its input is not finite, or its squares are not";
}

int pair_gram_run(const struct pair_gram *p, struct pair_moments *out, struct err *err)
{
    struct pairing x = {.p = p};
    struct plan *plan_a = NULL;
    int64_t *index = NULL, widest = 1;
    int rc = -1;
    memset(out, 0, (size_t)p->n * sizeof *out);
    const int64_t samples = dataset_spread(p->data, p->samples, &index, err);
    x.pair = calloc((size_t)p->n + 1, sizeof *x.pair);
    x.watch = calloc((size_t)p->b->n_values + 1, sizeof *x.watch);
    if (samples < 0)
        goto out;
    if (samples == 0) {
        err_set(err, ERR_DATASET, "the dataset is empty: second moments need at least one sample");
        goto out;
    }
    if (!x.pair || !x.watch) {
        err_set(err, ERR_NOMEM, "out of memory for second moments");
        goto out;
    }
    for (int64_t i = 0; i < p->n; i++) {
        x.pair[i].m = &out[i];
        if (pair_make(&x, i, samples, err))
            goto out;
        widest = out[i].why ? widest : i64_max(widest, out[i].k);
    }
    const struct plan_opts opts = {.pool = p->pool, .optimize = true, .watch = x.watch};
    x.square = malloc((size_t)widest * (size_t)widest * sizeof *x.square);
    if (!x.square) {
        err_set(err, ERR_NOMEM, "out of memory for second moments");
        goto out;
    }
    plan_a = plan_new(p->a, &opts, err);
    x.plan_b = plan_a ? plan_new(p->b, &opts, err) : NULL;
    if (!x.plan_b)
        goto out;
    const struct plan_run_opts run = {.observe = observe_a, .observe_arg = &x};
    const struct evaluate_opts each = {.pool = p->pool,
                                       .batch = SAMPLING_BATCH,
                                       .batch_bytes = SAMPLING_BYTES,
                                       .index = index,
                                       .n_index = samples,
                                       .run = &run,
                                       .progress = p->progress,
                                       .progress_arg = p->progress_arg};
    if (evaluate_each(plan_a, p->a, p->data, &each, run_b, &x, err) < 0)
        goto out;
    for (int64_t i = 0; i < p->n; i++)
        finish(&x, &x.pair[i]);
    rc = 0;
out:
    for (int64_t i = 0; x.pair && i < p->n; i++) {
        free(x.pair[i].a);
        free(x.pair[i].b);
        tensor_fini(&x.pair[i].of_a);
    }
    plan_free(plan_a);
    plan_free(x.plan_b);
    free(x.pair);
    free(x.watch);
    free(x.square);
    free(index);
    return rc;
}
