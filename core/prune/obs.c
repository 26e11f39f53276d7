/* SPDX-License-Identifier: Apache-2.0
 * obs.c - see obs.h.
 * Exact      With A = H^-1 of the elements left, element p costs w_p^2 / A_pp; the others change by -(w_p / A_pp) A_:p, and A loses p:
 *            A -= A_:p A_p: / A_pp. The last element left takes p's place, so that A stays one square, of which the lower half is
 *            kept. A row that shares its count with others is followed to its end; the cost of every step is then lifted to the
 *            largest before it, and the cheapest steps of all rows are taken: a prefix of each row's.
 * Sequential columns in the order of falling H_jj (but for n:m, whose neighbours must stay together). */
#include "core/prune/obs.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/stats/hessian.h"

enum { BATCH = 128 };

double obs_exact_cost(int64_t rows, int64_t k)
{
    return (double)rows * (double)k * (double)k * (double)k / 3;
}

double obs_refit_cost(int64_t rows, int64_t k_left)
{
    return (double)rows * (double)k_left * (double)k_left * (double)k_left / 6;
}

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while solving for weights");
}

/* How many of a row go. */
static int64_t goes_of(const struct obs *o, int64_t row)
{
    const int64_t more = o->goes % o->rows;
    return o->goes / o->rows + (row + 1) * more / o->rows - row * more / o->rows;
}

/* ---- exact ---- */
struct step {
    double cost;
    int64_t row, number, at; /* number: of the row's steps */
};
struct exact {
    const struct obs *o;
    const double *inverse; /* of H */
    struct step *steps;    /* [rows][k] when rows share a count */
    double *scratch;       /* of each lane: k k + k */
    int64_t *place;        /* of each lane: 2 k */
    size_t lane_doubles;
};

/* What is left of a row. */
struct left {
    double *a, *w; /* a: lower half, stride k */
    int64_t *at;   /* column of each */
    int64_t *gone; /* of each group of m */
    int64_t n, k;
};

static void swap_doubles(double *a, double *b)
{
    const double t = *a;
    *a = *b;
    *b = t;
}

/* Element p and the last change places: rows and columns of the lower half. */
static void move_last(struct left *l, int64_t p)
{
    const int64_t q = l->n - 1, at = l->at[p];
    if (p == q)
        return;
    for (int64_t j = 0; j < p; j++)
        swap_doubles(&l->a[p * l->k + j], &l->a[q * l->k + j]);
    for (int64_t j = p + 1; j < q; j++)
        swap_doubles(&l->a[j * l->k + p], &l->a[q * l->k + j]);
    swap_doubles(&l->a[p * l->k + p], &l->a[q * l->k + q]);
    swap_doubles(&l->w[p], &l->w[q]);
    l->at[p] = l->at[q];
    l->at[q] = at;
}

static void eliminate(struct left *l, int64_t p)
{
    move_last(l, p);
    const int64_t q = l->n - 1;
    const double *line = l->a + q * l->k; /* A_q: of the others */
    const double d = line[q], step = l->w[q] / d;
    for (int64_t i = 0; i < q; i++)
        l->w[i] -= step * line[i];
    cblas_dsyr(CblasRowMajor, CblasLower, (int)q, -1 / d, line, 1, l->a, (int)l->k);
    l->n--;
}

static double cost_of(const struct left *l, int64_t i)
{
    const double d = l->a[i * l->k + i];
    return d > 0 ? l->w[i] * l->w[i] / d : 0;
}

/* The cheapest element that may go; of equal ones the first column. -1: none may. */
static int64_t cheapest(const struct obs *o, const struct left *l)
{
    int64_t best = -1;
    double least = INFINITY;
    for (int64_t i = 0; i < l->n; i++) {
        const int64_t group = o->m > 0 ? l->at[i] / o->m : 0;
        if (o->m > 0 && l->gone[group] >= i64_min(o->m, o->k - group * o->m) - o->n)
            continue;
        const double cost = cost_of(l, i);
        if (cost < least || (cost == least && best >= 0 && l->at[i] < l->at[best])) {
            least = cost;
            best = i;
        }
    }
    return best;
}

static void start_row(const struct exact *x, int64_t row, int lane, struct left *l)
{
    const int64_t k = x->o->k;
    double *base = x->scratch + (size_t)lane * x->lane_doubles;
    *l = (struct left){.a = base,
                       .w = base + k * k,
                       .at = x->place + (int64_t)lane * 2 * k,
                       .gone = x->place + (int64_t)lane * 2 * k + k,
                       .n = k,
                       .k = k};
    memcpy(l->a, x->inverse, (size_t)(k * k) * sizeof *l->a);
    memcpy(l->w, x->o->dense + row * k, (size_t)k * sizeof *l->w);
    memset(l->gone, 0, (size_t)k * sizeof *l->gone);
    for (int64_t i = 0; i < k; i++)
        l->at[i] = i;
    for (int64_t i = k; i-- > 0;) /* from the end: only places behind i have moved */
        if (!x->o->keep[row * k + i]) {
            int64_t p = i;
            while (l->at[p] != i)
                p++;
            eliminate(l, p);
            l->gone[x->o->m > 0 ? i / x->o->m : 0]++;
        }
}

static void exact_row(void *arg, int64_t row, int lane)
{
    const struct exact *x = arg;
    const struct obs *o = x->o;
    const int64_t k = o->k;
    const bool shared = !o->each_row && o->m == 0;
    struct left l;
    double most = 0;
    start_row(x, row, lane, &l);
    for (int64_t number = k - l.n; l.n > 0; number++) {
        if (o->m == 0 && o->each_row && number >= goes_of(o, row))
            break;
        const int64_t p = cheapest(o, &l);
        if (p < 0)
            break;
        const int64_t at = l.at[p];
        most = fmax(most, cost_of(&l, p));
        eliminate(&l, p);
        l.gone[o->m > 0 ? at / o->m : 0]++;
        if (shared)
            x->steps[row * k + number] = (struct step){most, row, number, at};
        else
            o->keep[row * k + at] = 0;
    }
}

static int by_cost(const void *a, const void *b)
{
    const struct step *p = a, *q = b;
    if (p->cost != q->cost)
        return p->cost < q->cost ? -1 : 1;
    if (p->row != q->row)
        return p->row < q->row ? -1 : 1;
    return p->number < q->number ? -1 : p->number > q->number;
}

/* The cheapest steps of all rows. Those gone beforehand have no step and count first. */
static void take_cheapest(const struct exact *x)
{
    const struct obs *o = x->o;
    const int64_t all = o->rows * o->k;
    int64_t n = 0, gone = 0;
    for (int64_t i = 0; i < all; i++)
        if (x->steps[i].row >= 0)
            x->steps[n++] = x->steps[i];
        else
            gone++;
    qsort(x->steps, (size_t)n, sizeof *x->steps, by_cost);
    for (int64_t i = 0; i < n && gone + i < o->goes; i++)
        o->keep[x->steps[i].row * o->k + x->steps[i].at] = 0;
}

/* H^-1 = U^T U. */
static int invert(const struct obs *o, double *inverse, struct err *err)
{
    const int64_t k = o->k;
    double damp = 1e-12, *u = malloc((size_t)k * (size_t)k * sizeof *u);
    int rc = u ? hessian_factor(o->h, k, &damp, u, err) : no_memory(err);
    const struct gemm g = gemm_plain(true, false, k, k, k);
    if (rc == 0)
        gemm_f64(o->pool, &g, u, u, inverse);
    free(u);
    return rc;
}

int obs_exact(const struct obs *o, struct err *err)
{
    const size_t k = (size_t)o->k, lanes = o->pool ? (size_t)pool_threads(o->pool) : 1;
    const size_t all = (size_t)o->rows * k;
    const bool shared = !o->each_row && o->m == 0;
    struct exact x = {.o = o, .lane_doubles = k * k + k};
    double *inverse = malloc(k * k * sizeof *inverse);
    int rc = -1;
    x.inverse = inverse;
    x.scratch = malloc(lanes * x.lane_doubles * sizeof *x.scratch);
    x.place = malloc(lanes * 2 * k * sizeof *x.place);
    x.steps = shared ? malloc(all * sizeof *x.steps) : NULL;
    if (!inverse || !x.scratch || !x.place || (shared && !x.steps))
        no_memory(err);
    else
        rc = invert(o, inverse, err);
    if (rc == 0) {
        for (size_t i = 0; shared && i < all; i++)
            x.steps[i].row = -1;
        pool_run(o->pool, o->rows, exact_row, &x);
        if (shared)
            take_cheapest(&x);
        rc = obs_refit(o, err);
    }
    free(inverse);
    free(x.scratch);
    free(x.place);
    free(x.steps);
    return rc;
}

/* ---- sequential ---- */
struct sequential {
    const struct obs *o;
    const double *u;      /* of H in `order` */
    const int64_t *order; /* column of each place */
    double *work;         /* [rows][k] in order */
    double *error;        /* [rows][BATCH] */
    double *saliency;     /* [rows][BATCH] */
    int64_t first, end;   /* the batch */
    int64_t *goes;        /* [rows] of this batch, with each_row */
};

/* Columns [first, end) of a row whose mask is settled: errors move on within the batch. */
static void sequential_row(void *arg, int64_t row, int lane)
{
    const struct sequential *x = arg;
    const struct obs *o = x->o;
    double *w = x->work + row * o->k;
    (void)lane;
    for (int64_t j = x->first; j < x->end; j++) {
        const double d = x->u[j * o->k + j];
        if (o->m > 0 && x->order[j] % o->m == 0) { /* a group begins: its mask, by what its weights are now */
            const int64_t n = i64_min(o->m, o->k - j);
            int64_t gone = 0;
            for (int64_t i = 0; i < n; i++)
                gone += !o->keep[row * o->k + j + i];
            for (; gone < n - o->n; gone++) {
                int64_t best = -1;
                double least = INFINITY;
                for (int64_t i = 0; i < n; i++) {
                    const double c = w[j + i] / x->u[(j + i) * o->k + j + i];
                    if (o->keep[row * o->k + j + i] && c * c < least) {
                        least = c * c;
                        best = i;
                    }
                }
                if (best < 0)
                    break;
                o->keep[row * o->k + j + best] = 0;
            }
        }
        const bool stays = o->keep[row * o->k + x->order[j]];
        const double e = stays ? 0 : w[j] / d;
        x->error[row * BATCH + j - x->first] = e;
        if (!stays)
            cblas_daxpy((int)(x->end - j), -e, x->u + j * o->k + j, 1, w + j, 1);
    }
}

struct cell {
    double saliency;
    int64_t row, j;
};
static int by_saliency(const void *a, const void *b)
{
    const struct cell *p = a, *q = b;
    if (p->saliency != q->saliency)
        return p->saliency < q->saliency ? -1 : 1;
    return p->row != q->row ? (p->row < q->row ? -1 : 1) : p->j < q->j ? -1 : p->j > q->j;
}

/* Of rows [row, row + rows) in the batch: so many that `goes` in all are gone from these columns. */
static void mask_batch(const struct sequential *x, int64_t row, int64_t rows, int64_t goes, struct cell *cell)
{
    const struct obs *o = x->o;
    int64_t n = 0, gone = 0;
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t j = x->first; j < x->end; j++) {
            const double c = x->work[r * o->k + j] / x->u[j * o->k + j];
            if (o->keep[r * o->k + x->order[j]])
                cell[n++] = (struct cell){c * c, r, j};
            else
                gone++;
        }
    qsort(cell, (size_t)n, sizeof *cell, by_saliency);
    for (int64_t i = 0; i < n && gone + i < goes; i++)
        o->keep[cell[i].row * o->k + x->order[cell[i].j]] = 0;
}

static void sequential_batches(struct sequential *x, struct cell *cell)
{
    const struct obs *o = x->o;
    const int64_t step = o->m > 0 ? o->m * i64_max(1, BATCH / o->m) : BATCH;
    for (x->first = 0; x->first < o->k; x->first = x->end) {
        x->end = i64_min(x->first + step, o->k);
        /* shares of what must go, so that the whole comes out even */
        if (o->m == 0 && !o->each_row) {
            int64_t before = 0;
            for (int64_t r = 0; r < o->rows; r++)
                for (int64_t j = 0; j < x->first; j++)
                    before += !o->keep[r * o->k + x->order[j]];
            const double due = (double)(o->goes - before) * (double)(x->end - x->first) / (double)(o->k - x->first);
            mask_batch(x, 0, o->rows, (int64_t)nearbyint(due), cell);
        }
        for (int64_t r = 0; o->m == 0 && o->each_row && r < o->rows; r++) {
            int64_t before = 0;
            for (int64_t j = 0; j < x->first; j++)
                before += !o->keep[r * o->k + x->order[j]];
            const double due =
                (double)(goes_of(o, r) - before) * (double)(x->end - x->first) / (double)(o->k - x->first);
            mask_batch(x, r, 1, (int64_t)nearbyint(due), cell);
        }
        pool_run(o->pool, o->rows, sequential_row, x);
        const int64_t n = x->end - x->first, beyond = o->k - x->end;
        struct gemm g = {
            .m = o->rows, .n = beyond, .k = n, .lda = BATCH, .ldb = o->k, .ldc = o->k, .alpha = -1, .beta = 1};
        if (beyond > 0)
            gemm_f64(o->pool, &g, x->error, x->u + x->first * o->k + x->end, x->work + x->end);
    }
}

int obs_sequential(const struct obs *o, struct err *err)
{
    const size_t k = (size_t)o->k, rows = (size_t)o->rows;
    struct cell *cell = malloc(rows * BATCH * sizeof *cell);
    double *h = malloc(k * k * sizeof *h), *u = malloc(k * k * sizeof *u), damp = 1e-12;
    int64_t *order = malloc(k * sizeof *order);
    struct sequential x = {.o = o,
                           .u = u,
                           .order = order,
                           .work = malloc(rows * k * sizeof(double)),
                           .error = malloc(rows * BATCH * sizeof(double))};
    int rc = -1;
    if (!cell || !h || !u || !order || !x.work || !x.error) {
        no_memory(err);
        goto out;
    }
    for (size_t i = 0; i < k; i++)
        order[i] = (int64_t)i; /* n:m needs its neighbours together */
    if (o->m == 0 && hessian_order(o->h, o->k, order)) {
        no_memory(err);
        goto out;
    }
    hessian_permute(o->h, o->k, order, h);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++)
            x.work[r * k + i] = o->dense[(int64_t)r * o->k + order[i]];
    if (hessian_factor(h, o->k, &damp, u, err))
        goto out;
    sequential_batches(&x, cell);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) {
            const int64_t at = (int64_t)r * o->k + order[i];
            o->w[at] = o->keep[at] ? x.work[r * k + i] : 0;
        }
    rc = 0;
out:
    free(cell);
    free(h);
    free(u);
    free(order);
    free(x.work);
    free(x.error);
    return rc;
}

/* ---- given masks ---- */
struct refit {
    const struct obs *o;
    double *right;   /* [rows][k]: H d */
    double *scratch; /* of each lane: k k + k */
    int64_t *place;  /* of each lane: k */
    bool *failed;    /* of each row */
};

/* H_SS w_S = (H d)_S. */
static void refit_row(void *arg, int64_t row, int lane)
{
    const struct refit *x = arg;
    const struct obs *o = x->o;
    const int64_t k = o->k;
    double *a = x->scratch + (size_t)lane * (size_t)(k * k + k), *b = a + k * k, *w = o->w + row * k;
    int64_t *at = x->place + (int64_t)lane * k, n = 0;
    for (int64_t i = 0; i < k; i++)
        if (o->keep[row * k + i])
            at[n++] = i;
    memset(w, 0, (size_t)k * sizeof *w);
    if (n == 0)
        return;
    for (int64_t i = 0; i < n; i++) {
        b[i] = x->right[row * k + at[i]];
        for (int64_t j = 0; j <= i; j++)
            a[i * n + j] = o->h[at[i] * k + at[j]]; /* row-major lower is LAPACK's upper */
    }
    const lapack_int size = (lapack_int)n;
    if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', size, a, size) ||
        LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', size, 1, a, size, b, size)) {
        x->failed[row] = true;
        return;
    }
    for (int64_t i = 0; i < n; i++)
        w[at[i]] = b[i];
}

int obs_refit(const struct obs *o, struct err *err)
{
    const size_t k = (size_t)o->k, rows = (size_t)o->rows, lanes = o->pool ? (size_t)pool_threads(o->pool) : 1;
    struct refit x = {.o = o,
                      .right = malloc(rows * k * sizeof(double)),
                      .scratch = malloc(lanes * (k * k + k) * sizeof(double)),
                      .place = malloc(lanes * k * sizeof(int64_t)),
                      .failed = calloc(rows, sizeof(bool))};
    int rc = x.right && x.scratch && x.place && x.failed ? 0 : no_memory(err);
    if (rc == 0) {
        const struct gemm g = gemm_plain(false, false, o->rows, o->k, o->k);
        gemm_f64(o->pool, &g, o->dense, o->h, x.right);
        pool_run(o->pool, o->rows, refit_row, &x);
    }
    for (size_t r = 0; rc == 0 && r < rows; r++)
        if (x.failed[r])
            rc = err_set(err, ERR_MODEL, "the second moments of the inputs are not positive definite");
    free(x.right);
    free(x.scratch);
    free(x.place);
    free(x.failed);
    return rc;
}

double obs_error(const struct obs *o)
{
    const size_t all = (size_t)(o->rows * o->k);
    double *e = malloc(all * 2 * sizeof *e), sum = 0;
    if (!e)
        return NAN;
    for (size_t i = 0; i < all; i++)
        e[i] = o->w[i] - o->dense[i];
    const struct gemm g = gemm_plain(false, false, o->rows, o->k, o->k);
    gemm_f64(o->pool, &g, e, o->h, e + all);
    for (size_t i = 0; i < all; i++)
        sum += e[i] * e[all + i];
    free(e);
    return sum;
}
