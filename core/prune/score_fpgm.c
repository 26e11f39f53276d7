/* SPDX-License-Identifier: Apache-2.0
 * score_fpgm.c - distance of each filter to all others of its layer (He et al., "Filter pruning via geometric
 * median", CVPR 2019). The filters with the smallest sum are nearest to the geometric median: the others can stand in
 * for them. ||a - b||^2 = ||a||^2 + ||b||^2 - 2 a b, tile by tile, of rows less their mean (which changes no distance
 * and keeps the difference from cancelling); where little is left of it the difference is taken element by element.
 * Only two tiles of rows are held. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/prune/score_impl.h"

enum { TILE_ROWS = 256, TILE_FLOATS = 1 << 23 };

struct filters {
    const struct tensor *t;
    int64_t outer, size, inner, length; /* length = outer * inner: of a filter */
    int64_t *row, n;                    /* indices that belong to atoms */
    double *norm;                       /* [n] squared, of the rows less the mean */
    float *mean, *a, *b, *product;      /* tiles: [tile][length] */
    int64_t tile;
};

/* Rows first .. first + n - 1 less the mean. */
static void gather(const struct filters *f, int64_t first, int64_t n, float *out)
{
    const int64_t bytes = dtype_bits(f->t->dtype) / 8;
    for (int64_t o = 0; o < f->outer; o++)
        for (int64_t r = 0; r < n; r++)
            dtype_convert(DTYPE_FLOAT, out + r * f->length + o * f->inner, f->t->dtype,
                          (const char *)f->t->data + (o * f->size + f->row[first + r]) * f->inner * bytes, f->inner);
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < f->length; k++)
            out[r * f->length + k] -= f->mean[k];
}

static int make_mean(struct filters *f, struct err *err)
{
    double *sum = calloc((size_t)f->length, sizeof *sum);
    if (!sum)
        return err_set(err, ERR_NOMEM, "out of memory for scores");
    for (int64_t first = 0; first < f->n; first += f->tile) {
        const int64_t n = i64_min(f->tile, f->n - first);
        gather(f, first, n, f->a);
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = 0; k < f->length; k++)
                sum[k] += (double)f->a[r * f->length + k];
    }
    for (int64_t k = 0; k < f->length; k++)
        f->mean[k] = (float)(sum[k] / (double)f->n);
    for (int64_t first = 0; first < f->n; first += f->tile) {
        const int64_t n = i64_min(f->tile, f->n - first);
        gather(f, first, n, f->a);
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = 0; k < f->length; k++)
                f->norm[first + r] += (double)f->a[r * f->length + k] * (double)f->a[r * f->length + k];
    }
    free(sum);
    return 0;
}

static double distance(const struct filters *f, const float *p, const float *q, double estimate, double norms)
{
    if (!(estimate < 1e-3 * norms))
        return sqrt(estimate);
    estimate = 0;
    for (int64_t k = 0; k < f->length; k++) {
        const double d = (double)p[k] - (double)q[k];
        estimate += d * d;
    }
    return sqrt(estimate);
}

/* The distances between rows of two tiles (or of one), both ways. */
static void add_tiles(struct pool *pool, const struct filters *f, int64_t i, int64_t j, double *element)
{
    const int64_t m = i64_min(f->tile, f->n - i), n = i64_min(f->tile, f->n - j);
    const float *b = i == j ? f->a : f->b;
    const struct gemm g = gemm_plain(false, true, m, n, f->length);
    gemm_f32(pool, &g, f->a, b, f->product);
    for (int64_t r = 0; r < m; r++)
        for (int64_t s = i == j ? r + 1 : 0; s < n; s++) {
            const double norms = f->norm[i + r] + f->norm[j + s];
            const double d = distance(f, f->a + r * f->length, b + s * f->length,
                                      norms - 2 * (double)f->product[r * n + s], norms);
            element[f->row[i + r]] += d;
            element[f->row[j + s]] += d;
        }
}

static int score_part(struct score_ctx *c, struct score_part *p, struct err *err)
{
    const struct group_member *mb = p->member;
    const struct tensor *t = value_const(c->o->model, mb->value);
    struct filters f = {.t = t, .outer = shape_product(&t->shape, 0, mb->axis), .size = mb->size,
                        .inner = shape_product(&t->shape, mb->axis + 1, t->shape.rank)};
    int rc = -1;
    if (f.outer < 1 || f.inner < 1)
        return 0;
    f.length = f.outer * f.inner;
    f.tile = i64_max(1, i64_min(TILE_ROWS, TILE_FLOATS / f.length));
    const size_t tile = (size_t)f.tile * (size_t)f.length;
    f.row = calloc((size_t)f.size, sizeof *f.row);
    f.norm = calloc((size_t)f.size, sizeof *f.norm);
    f.mean = calloc((size_t)f.length, sizeof *f.mean);
    f.a = malloc(tile * sizeof *f.a);
    f.b = malloc(tile * sizeof *f.b);
    f.product = malloc((size_t)f.tile * (size_t)f.tile * sizeof *f.product);
    if (!f.row || !f.norm || !f.mean || !f.a || !f.b || !f.product) {
        err_set(err, ERR_NOMEM, "out of memory for scores");
        goto out;
    }
    for (int64_t i = 0; i < mb->size; i++)
        if (mb->atom[i] != ATOM_NONE)
            f.row[f.n++] = i;
    if (make_mean(&f, err))
        goto out;
    for (int64_t i = 0; i < f.n; i += f.tile) {
        gather(&f, i, i64_min(f.tile, f.n - i), f.a);
        for (int64_t j = i; j < f.n; j += f.tile) {
            if (j > i)
                gather(&f, j, i64_min(f.tile, f.n - j), f.b);
            add_tiles(c->o->pool, &f, i, j, p->element);
        }
    }
    rc = 0;
out:
    free(f.row);
    free(f.norm);
    free(f.mean);
    free(f.a);
    free(f.b);
    free(f.product);
    return rc;
}

int score_fpgm(struct score_ctx *c, struct err *err)
{
    struct score_parts p = {0};
    int rc = score_parts_find(c, SCORE_PRODUCES, NULL, &p, err);
    for (int i = 0; rc == 0 && i < p.n; i++) {
        rc = score_part(c, &p.at[i], err);
        tensor_release_pages(value_const(c->o->model, p.at[i].member->value));
        if (rc == 0 && c->o->progress)
            rc = c->o->progress(c->o->progress_arg, i + 1, p.n, err) ? -1 : 0;
    }
    if (rc == 0)
        rc = score_parts_reduce(c, &p, false, err);
    score_parts_fini(&p);
    return rc;
}
