/* SPDX-License-Identifier: Apache-2.0
 * factor_svd.c - factor.svd and factor.spatial_svd: two products in a row, from one truncated singular value
 * decomposition.
 *
 * The weight is a matrix M with a row for each number the second stage makes and a column for each the first one reads.
 * For second moments L L^T of what is read, the matrix of rank r nearest to M in the output is U_r U_r^T M, U the left
 * singular vectors of M L (Eckart and Young): so the first stage is U_r^T M, the second U_r, and L is never inverted.
 * spatial_svd cuts the kernel between its first axis and the others (Jaderberg et al., BMVC 2014): rows are (output
 * channel, taps of the other axes), columns (input channel, taps of the first). The moments of its columns are averages
 * over the taps of the rows. */
#include <stdlib.h>

#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/kernels/gemm.h"

struct prep {
    int64_t rows, cols, kept; /* of a group; kept: columns of u */
    double *u;                /* [groups][rows][kept] */
};

static void release(void *prep)
{
    struct prep *p = prep;
    free(p->u);
    free(p);
}

/* Axes of the first stage. */
static unsigned first_axes(const struct layer *l)
{
    return l->taps == 1 ? layer_axes(l) : 1;
}

static int shape_of(const struct layer *l, int64_t rank, struct stage *stage, const char *first, const char *second)
{
    const unsigned axes = first_axes(l);
    stage[0] = (struct stage){.suffix = first, .out = rank, .in = l->in, .split = 1, .axes = axes};
    stage[1] = (struct stage){.suffix = second, .out = l->out, .in = rank, .split = 1, .axes = layer_axes(l) & ~axes};
    return 2;
}

static int shape_plain(const struct layer *l, const int64_t rank[2], struct stage *stage)
{
    return shape_of(l, rank[0], stage, "reduce", "expand");
}

static int shape_spatial(const struct layer *l, const int64_t rank[2], struct stage *stage)
{
    return shape_of(l, rank[0], stage, "first_axis", "other_axes");
}

/* One group of w as M. Taps of the first axis run slowest. */
static void to_matrix(const struct layer *l, const double *w, double *m)
{
    const int64_t ta = layer_taps(l, first_axes(l)), tb = l->taps / ta, cols = l->in * ta;
    for (int64_t o = 0; o < l->out; o++)
        for (int64_t i = 0; i < l->in; i++)
            for (int64_t t = 0; t < l->taps; t++)
                m[(o * tb + t % tb) * cols + i * ta + t / tb] = w[(o * l->in + i) * l->taps + t];
}

/* Second moments of the columns of M of one group, from those of the patch. */
static void column_moments(const struct layer *l, const double *c, double *out)
{
    const int64_t ta = layer_taps(l, first_axes(l)), tb = l->taps / ta, cols = l->in * ta, width = l->in * l->taps;
    for (int64_t p = 0; p < cols; p++)
        for (int64_t q = 0; q < cols; q++) {
            double sum = 0;
            for (int64_t t = 0; t < tb; t++)
                sum += c[(p * tb + t) * width + q * tb + t];
            out[p * cols + q] = sum / (double)tb;
        }
}

/* M of a group, times L. NULL with err. */
static double *weighted(const struct layer *l, const double *w, const struct moments *x, int64_t group, struct err *err)
{
    const int64_t ta = layer_taps(l, first_axes(l)), rows = l->out * (l->taps / ta), cols = l->in * ta,
                  width = l->in * l->taps;
    double *m = doubles_new(rows, cols, err), *c = NULL, *out = NULL;
    if (!m)
        return NULL;
    to_matrix(l, w + group * l->out * width, m);
    if (!x->c)
        return m;
    c = doubles_new(cols, cols, err);
    if (c)
        column_moments(l, x->c + group * width * width, c);
    if (c && cholesky_damped(c, cols, 1e-6, NULL, err) == 0 && (out = doubles_new(rows, cols, err))) {
        const struct gemm g = gemm_plain(false, false, rows, cols, cols);
        gemm_f64(l->pool, &g, m, c, out);
    }
    free(c);
    free(m);
    return out;
}

/* Beyond it two products cost more than one. */
static int64_t most_rank(const struct layer *l, const struct prep *p)
{
    const int64_t even = (int64_t)((double)p->rows * (double)p->cols / (double)(p->rows + p->cols)) + 1,
                  all = i64_min(p->rows, p->cols);
    return l->whole ? all : i64_max(1, i64_min(even, all));
}

/* tail[r]: squares that rank r leaves out, of all groups; *total: all squares. */
static int decompose(const struct layer *l, const double *w, const struct moments *x, struct prep *p, double *tail,
                     double *total, struct err *err)
{
    for (int64_t g = 0; g < l->groups; g++) {
        struct svd s;
        double *m = weighted(l, w, x, g, err), rest = 0;
        if (!m || svd_make(&s, m, p->rows, p->cols, err)) {
            free(m);
            return -1;
        }
        free(m);
        for (int64_t r = s.k; r >= 0; r--) {
            rest += r < s.k ? s.s[r] * s.s[r] : 0;
            if (r <= p->kept)
                tail[r] += rest;
        }
        *total += rest;
        for (int64_t i = 0; i < p->rows; i++)
            for (int64_t r = 0; r < p->kept; r++)
                p->u[(g * p->rows + i) * p->kept + r] = s.u[i * s.k + r];
        svd_fini(&s);
    }
    return 0;
}

static int prepare(struct layer *l, const double *w, const struct moments *x, int64_t round_to, const struct scheme *s,
                   struct err *err)
{
    const int64_t ta = layer_taps(l, first_axes(l));
    struct prep *p = calloc(1, sizeof *p);
    double *tail = NULL, total = 0;
    int rc = -1;
    if (!p)
        return err_set(err, ERR_NOMEM, "out of memory while factorizing a layer");
    l->prep = p;
    p->rows = l->out * (l->taps / ta);
    p->cols = l->in * ta;
    p->kept = most_rank(l, p);
    p->u = doubles_new(l->groups * p->rows, p->kept, err);
    tail = doubles_new(p->kept + 1, 1, err);
    if (!p->u || !tail || decompose(l, w, x, p, tail, &total, err))
        goto out;
    rc = 0;
    for (int64_t r = round_to; rc == 0 && r <= p->kept; r += round_to)
        rc = layer_add_point(l, s, (int64_t[2]){r, 0}, total > 0 ? tail[r] / total : 0, err);
out:
    free(tail);
    return rc;
}

static int prepare_plain(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err)
{
    return prepare(l, w, x, round_to, &scheme_svd, err);
}

static int prepare_spatial(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err)
{
    return prepare(l, w, x, round_to, &scheme_spatial_svd, err);
}

static int make(const struct layer *l, const double *w, const int64_t rank[2], struct stage *stage, struct err *err)
{
    const struct prep *p = l->prep;
    const int64_t r = rank[0], width = l->in * l->taps, tb = p->rows / l->out;
    double *m = doubles_new(p->rows, p->cols, err);
    if (!m)
        return -1;
    for (int64_t g = 0; g < l->groups; g++) {
        const double *u = p->u + g * p->rows * p->kept;
        double *a = stage[1].w + g * p->rows * r, *b = stage[0].w + g * r * p->cols;
        struct gemm product = gemm_plain(true, false, r, p->cols, p->rows);
        product.lda = p->kept;
        to_matrix(l, w + g * l->out * width, m);
        gemm_f64(l->pool, &product, u, m, b);
        /* rows are (output channel, taps of the other axes), the stage's weight is [out][r][taps] */
        for (int64_t i = 0; i < p->rows; i++)
            for (int64_t c = 0; c < r; c++)
                a[(i / tb * r + c) * tb + i % tb] = u[i * p->kept + c];
    }
    free(m);
    return 0;
}

/* The largest over the groups. */
static int vbmf(const struct layer *l, const double *w, int64_t rank[2], struct err *err)
{
    const struct prep *p = l->prep;
    rank[0] = 1;
    rank[1] = 0;
    for (int64_t g = 0; g < l->groups; g++) {
        struct svd s;
        double *m = weighted(l, w, &(struct moments){0}, g, err);
        if (!m || svd_make(&s, m, p->rows, p->cols, err)) {
            free(m);
            return -1;
        }
        rank[0] = i64_max(rank[0], vbmf_rank(s.s, p->rows, p->cols));
        free(m);
        svd_fini(&s);
    }
    return 0;
}

static const char *refuse_plain(const struct layer *l)
{
    if (l->taps > 1)
        return "its kernel is larger than 1: see factor.spatial_svd and factor.tucker";
    return l->groups > 1 && l->in == 1 ? "it is depthwise: a group has one channel" : NULL;
}

static const char *refuse_spatial(const struct layer *l)
{
    if (l->taps == 1)
        return l->spatial ? "its kernel is 1: see factor.svd" : "it is a product of matrices: see factor.svd";
    if (l->groups > 1 && l->in == 1)
        return "it is depthwise: a group has one channel";
    return l->kernel[0] == 1 ? "its kernel is 1 along the first axis: there is nothing to split" : NULL;
}

static const char *const names[] = {"rank", NULL};
const struct scheme scheme_svd = {.name = "svd",
                                  .rank_names = names,
                                  .refuse = refuse_plain,
                                  .shape = shape_plain,
                                  .prepare = prepare_plain,
                                  .make = make,
                                  .vbmf = vbmf,
                                  .release = release};
const struct scheme scheme_spatial_svd = {.name = "spatial_svd",
                                          .rank_names = names,
                                          .refuse = refuse_spatial,
                                          .shape = shape_spatial,
                                          .prepare = prepare_spatial,
                                          .make = make,
                                          .vbmf = vbmf,
                                          .release = release};

static const struct param params[] = {
    {FACTOR_P(rank), .kind = PARAM_INT, .min = 1, .max = 1e9, .given = PARAM_GIVEN(factor_params, has_rank),
     .doc = "the rank of every layer: channels between the two products"},
    FACTOR_ROWS,
    FACTOR_ROUND,
    {FACTOR_P(vbmf), .kind = PARAM_BOOL, .def = "false",
     .doc = "the rank that variational Bayes finds in each weight (Nakajima et al., 2013)"},
    {0},
};

static int run_plain(struct step_ctx *c, struct err *err)
{
    return factor_run(c, &scheme_svd, err);
}

static int run_spatial(struct step_ctx *c, struct err *err)
{
    return factor_run(c, &scheme_spatial_svd, err);
}

METHOD(factor_svd) = {
    .name = "factor.svd",
    .summary = "Gemm, MatMul and 1x1 convolutions as two thin products",
    .doc = "Each constant weight [m, n] becomes [m, r] times [r, n] by a truncated singular value decomposition, where "
           "that saves multiply-accumulates and parameters. With data the decomposition is the best one for the "
           "layer's output on samples, and the second factor is then fitted to the original network's outputs.",
    .params = params,
    .params_size = sizeof(struct factor_params),
    .needs_of = factor_needs,
    .check = factor_check,
    .run = run_plain,
};

METHOD(factor_spatial_svd) = {
    .name = "factor.spatial_svd",
    .summary = "k x k convolutions as k x 1 followed by 1 x k",
    .doc = "The kernel is cut between its first axis and the others (Jaderberg et al., 2014), with r channels between. "
           "Strides, pads and dilations of an axis go with its kernel. With data the second factor is fitted to the "
           "original network's outputs.",
    .params = params,
    .params_size = sizeof(struct factor_params),
    .needs_of = factor_needs,
    .check = factor_check,
    .run = run_spatial,
};
