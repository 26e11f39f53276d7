/* SPDX-License-Identifier: Apache-2.0
 * least_squares.c - moments in tiles of fixed size, one Cholesky factor a ridge (least_squares.h).
 * Precision  sums are float within a tile of rows, double across tiles, so half a million rows lose nothing. */
#include "core/stats/least_squares.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"

enum { TILE_ROWS = 1024, SQUARE = 128, MOST_SIDE = 8192, MOST_STEPS = 200 };

static const double CLOSE = 1e-10; /* of the residual's square: where conjugate gradients stop */

struct least_squares {
    struct rows x;
    struct pool *pool;
    bool dual; /* fewer rows than columns: `moment` is X X^T / n */
    int64_t side;
    double *moment;  /* [side][side], both halves */
    double *factor;  /* of moment + ridge * mean diagonal */
    double diagonal; /* mean of C_xx's */
    double ridge;    /* of the factor; 0: none yet */
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for least squares");
}

/* ---- moments ---- */
struct squares {
    const struct least_squares *l;
    int64_t count; /* along an edge */
    float *scratch;
};

/* One square on or above the diagonal, over all tiles in order. */
static void add_square(void *arg, int64_t task, int lane)
{
    const struct squares *s = arg;
    const struct least_squares *l = s->l;
    int64_t i = 0, j = task;
    while (j >= s->count - i)
        j -= s->count - i++;
    j += i;
    const int64_t rows = i64_min(SQUARE, l->side - i * SQUARE), cols = i64_min(SQUARE, l->side - j * SQUARE);
    const int64_t long_side = l->dual ? l->x.width : l->x.n, step = l->dual ? 1 : l->x.stride,
                  across = l->dual ? l->x.stride : 1;
    float *product = s->scratch + (int64_t)lane * SQUARE * SQUARE;
    for (int64_t at = 0; at < long_side; at += TILE_ROWS) {
        const struct gemm g = {.trans_a = !l->dual,
                               .trans_b = l->dual,
                               .m = rows,
                               .n = cols,
                               .k = i64_min(TILE_ROWS, long_side - at),
                               .lda = l->x.stride,
                               .ldb = l->x.stride,
                               .ldc = cols,
                               .alpha = 1};
        gemm_f32_tile(&g, l->x.at + at * step + i * SQUARE * across, l->x.at + at * step + j * SQUARE * across,
                      product);
        double *to = l->moment + i * SQUARE * l->side + j * SQUARE;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++)
                to[r * l->side + c] += (double)product[r * cols + c];
    }
}

static int add_moments(struct least_squares *l, struct err *err)
{
    const size_t lanes = l->pool ? (size_t)pool_threads(l->pool) : 1;
    struct squares s = {l, i64_ceil_div(l->side, SQUARE), malloc(lanes * SQUARE * SQUARE * sizeof(float))};
    double trace = 0;
    if (!s.scratch)
        return nomem(err);
    pool_run(l->pool, s.count * (s.count + 1) / 2, add_square, &s);
    free(s.scratch);
    for (int64_t i = 0; i < l->side; i++) {
        for (int64_t j = i; j < l->side; j++) {
            l->moment[i * l->side + j] /= (double)l->x.n;
            l->moment[j * l->side + i] = l->moment[i * l->side + j];
        }
        trace += l->moment[i * l->side + i];
    }
    l->diagonal = trace / (double)l->x.width;
    return isfinite(trace) ? 0
                           : err_set(err, ERR_MODEL, "what the product reads is not finite, or its squares are not");
}

struct least_squares *least_squares_new(const struct rows *x, struct pool *pool, struct err *err)
{
    struct least_squares *l = calloc(1, sizeof *l);
    if (!l) {
        nomem(err);
        return NULL;
    }
    *l = (struct least_squares){.x = *x, .pool = pool, .dual = x->n < x->width, .side = i64_min(x->n, x->width)};
    if (l->side < 1 || l->side > MOST_SIDE) {
        err_set(err, ERR_MODEL_TOO_LARGE, "least squares of %lld rows of %lld numbers is beyond the limit of %d",
                (long long)x->n, (long long)x->width, MOST_SIDE);
        goto fail;
    }
    l->moment = calloc((size_t)(l->side * l->side), sizeof *l->moment);
    l->factor = malloc((size_t)(l->side * l->side) * sizeof *l->factor);
    if (!l->moment || !l->factor) {
        nomem(err);
        goto fail;
    }
    if (add_moments(l, err) == 0)
        return l;
fail:
    least_squares_free(l);
    return NULL;
}

void least_squares_free(struct least_squares *l)
{
    if (!l)
        return;
    free(l->moment);
    free(l->factor);
    free(l);
}

/* What the ridge adds to the diagonal. All-zero rows: any positive number gives the change 0. */
static double damping(const struct least_squares *l, double ridge)
{
    return l->diagonal > 0 ? ridge * l->diagonal : 1;
}

/* Sums of floats are not exact: a ridge too small for them grows. */
static int make_factor(struct least_squares *l, double ridge, struct err *err)
{
    const lapack_int n = (lapack_int)l->side;
    if (ridge == l->ridge)
        return 0;
    l->ridge = 0;
    for (double used = ridge; used < 1e3 * (1 + ridge); used *= 10) {
        memcpy(l->factor, l->moment, (size_t)(l->side * l->side) * sizeof *l->factor);
        for (int64_t i = 0; i < l->side; i++)
            l->factor[i * l->side + i] += damping(l, used);
        if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', n, l->factor, n) == 0) {
            l->ridge = ridge;
            return 0;
        }
    }
    return err_set(err, ERR_MODEL, "the covariance of what the product reads has no Cholesky factor with ridge %g",
                   ridge);
}

/* ---- products with the rows ---- */
/* out [outputs][k] = E^T X / n */
static int correlate(const struct least_squares *l, const struct rows *e, double *out, struct err *err)
{
    const int64_t outputs = e->width, k = l->x.width;
    float *part = malloc((size_t)(outputs * k) * sizeof *part);
    if (!part)
        return nomem(err);
    memset(out, 0, (size_t)(outputs * k) * sizeof *out);
    for (int64_t at = 0; at < l->x.n; at += TILE_ROWS) {
        const struct gemm g = {.trans_a = true,
                               .m = outputs,
                               .n = k,
                               .k = i64_min(TILE_ROWS, l->x.n - at),
                               .lda = e->stride,
                               .ldb = l->x.stride,
                               .ldc = k,
                               .alpha = 1};
        gemm_f32(l->pool, &g, e->at + at * e->stride, l->x.at + at * l->x.stride, part);
        for (int64_t i = 0; i < outputs * k; i++)
            out[i] += (double)part[i];
    }
    for (int64_t i = 0; i < outputs * k; i++)
        out[i] /= (double)l->x.n;
    free(part);
    return 0;
}

void least_squares_apply(const struct rows *x, const float *change, int64_t outputs, struct pool *pool, float *add)
{
    const struct gemm g = {.trans_b = true,
                           .m = x->n,
                           .n = outputs,
                           .k = x->width,
                           .lda = x->stride,
                           .ldb = x->width,
                           .ldc = outputs,
                           .alpha = 1};
    gemm_f32(pool, &g, x->at, change, add);
}

/* ---- all weights may change ---- */
static int solve_primal(struct least_squares *l, const struct rows *e, float *change, struct err *err)
{
    const int64_t k = l->x.width, count = e->width * k;
    double *c = malloc((size_t)count * sizeof *c);
    int rc = -1;
    if (!c)
        return nomem(err);
    if (correlate(l, e, c, err))
        goto out;
    /* each output is a column of k numbers */
    if (LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', (lapack_int)k, (lapack_int)e->width, l->factor, (lapack_int)k, c,
                            (lapack_int)k)) {
        err_set(err, ERR_INTERNAL, "LAPACK refused a factor it made");
        goto out;
    }
    for (int64_t i = 0; i < count; i++)
        change[i] = (float)c[i];
    rc = 0;
out:
    free(c);
    return rc;
}

/* D = E^T (X X^T + n damp I)^-1 X */
static int solve_dual(struct least_squares *l, const struct rows *e, float *change, struct err *err)
{
    const int64_t n = l->x.n, k = l->x.width;
    double *c = malloc((size_t)(e->width * n) * sizeof *c);
    float *a = malloc((size_t)(e->width * n) * sizeof *a);
    int rc = -1;
    if (!c || !a) {
        nomem(err);
        goto out;
    }
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < e->width; o++)
            c[o * n + r] = (double)e->at[r * e->stride + o] / (double)n;
    if (LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, (lapack_int)e->width, l->factor, (lapack_int)n, c,
                            (lapack_int)n)) {
        err_set(err, ERR_INTERNAL, "LAPACK refused a factor it made");
        goto out;
    }
    for (int64_t i = 0; i < e->width * n; i++)
        a[i] = (float)c[i];
    const struct gemm g = {.m = e->width, .n = k, .k = n, .lda = n, .ldb = l->x.stride, .ldc = k, .alpha = 1};
    gemm_f32(l->pool, &g, a, l->x.at, change);
    rc = 0;
out:
    free(c);
    free(a);
    return rc;
}

/* ---- some weights stay zero ---- */
struct masked {
    struct least_squares *l;
    int64_t outputs, k;
    double damp;
    const bool *keep;
    double *residual, *direction, *image, *solution; /* [outputs][k] */
    float *single, *rows;                            /* dual: [outputs][k], [n][outputs] */
};

/* image = keep . (direction (C + damp I)) */
static int masked_image(struct masked *m, struct err *err)
{
    const int64_t count = m->outputs * m->k;
    if (m->l->dual) {
        for (int64_t i = 0; i < count; i++)
            m->single[i] = (float)m->direction[i];
        least_squares_apply(&m->l->x, m->single, m->outputs, m->l->pool, m->rows);
        if (correlate(m->l, &(struct rows){m->rows, m->l->x.n, m->outputs, m->outputs}, m->image, err))
            return -1;
    } else {
        const struct gemm g = gemm_plain(false, false, m->outputs, m->k, m->k);
        gemm_f64(m->l->pool, &g, m->direction, m->l->moment, m->image);
    }
    for (int64_t i = 0; i < count; i++)
        m->image[i] = m->keep[i] ? m->image[i] + m->damp * m->direction[i] : 0;
    return 0;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* One step of each output's own conjugate gradients; rho: r^T r before it. True if all have converged. */
static bool masked_step(struct masked *m, double *rho, const double *first)
{
    bool done = true;
    for (int64_t o = 0; o < m->outputs; o++) {
        const int64_t at = o * m->k;
        const double curve = dot(m->direction + at, m->image + at, m->k);
        if (!(rho[o] > CLOSE * first[o]) || !(curve > 0))
            continue;
        const double step = rho[o] / curve;
        for (int64_t i = at; i < at + m->k; i++) {
            m->solution[i] += step * m->direction[i];
            m->residual[i] -= step * m->image[i];
        }
        const double next = dot(m->residual + at, m->residual + at, m->k), turn = next / rho[o];
        for (int64_t i = at; i < at + m->k; i++)
            m->direction[i] = m->residual[i] + turn * m->direction[i];
        rho[o] = next;
        done = done && !(next > CLOSE * first[o]);
    }
    return done;
}

static int masked_run(struct masked *m, const struct rows *e, double *rho, double *first, struct err *err)
{
    if (correlate(m->l, e, m->residual, err))
        return -1;
    for (int64_t i = 0; i < m->outputs * m->k; i++)
        m->direction[i] = m->residual[i] = m->keep[i] ? m->residual[i] : 0;
    for (int64_t o = 0; o < m->outputs; o++)
        first[o] = rho[o] = dot(m->residual + o * m->k, m->residual + o * m->k, m->k);
    for (int step = 0; step < MOST_STEPS; step++) {
        if (masked_image(m, err))
            return -1;
        if (masked_step(m, rho, first))
            break;
    }
    return 0;
}

static int solve_masked(struct least_squares *l, double ridge, const struct rows *e, const bool *keep, float *change,
                        struct err *err)
{
    const int64_t count = e->width * l->x.width;
    double *work = calloc((size_t)count, 4 * sizeof *work), *rho = calloc((size_t)e->width, 2 * sizeof *rho);
    struct masked m = {.l = l, .outputs = e->width, .k = l->x.width, .damp = damping(l, ridge), .keep = keep};
    int rc = -1;
    if (l->dual) {
        m.single = malloc((size_t)count * sizeof *m.single);
        m.rows = malloc((size_t)(l->x.n * e->width) * sizeof *m.rows);
    }
    if (!work || !rho || (l->dual && (!m.single || !m.rows))) {
        nomem(err);
        goto out;
    }
    m.residual = work;
    m.direction = work + count;
    m.image = work + 2 * count;
    m.solution = work + 3 * count;
    if (masked_run(&m, e, rho, rho + e->width, err))
        goto out;
    for (int64_t i = 0; i < count; i++)
        change[i] = (float)m.solution[i];
    rc = 0;
out:
    free(work);
    free(rho);
    free(m.single);
    free(m.rows);
    return rc;
}

int least_squares_solve(struct least_squares *l, double ridge, const struct rows *error, const bool *keep,
                        float *change, struct err *err)
{
    if (keep)
        return solve_masked(l, ridge, error, keep, change, err);
    if (make_factor(l, ridge, err))
        return -1;
    return l->dual ? solve_dual(l, error, change, err) : solve_primal(l, error, change, err);
}

int rows_center(float *x, int64_t of, int64_t all, int64_t width, double *mean)
{
    double *sum = calloc((size_t)width, sizeof *sum);
    if (!sum)
        return -1;
    for (int64_t r = 0; r < of; r++)
        for (int64_t c = 0; c < width; c++)
            sum[c] += (double)x[r * width + c];
    for (int64_t c = 0; c < width; c++) {
        sum[c] /= of > 0 ? (double)of : 1;
        mean[c] += sum[c];
    }
    for (int64_t r = 0; r < all; r++)
        for (int64_t c = 0; c < width; c++)
            x[r * width + c] -= (float)sum[c];
    free(sum);
    return 0;
}
