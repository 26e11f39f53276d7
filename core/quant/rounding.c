/* SPDX-License-Identifier: Apache-2.0
 * rounding.c - see rounding.h.
 * Sequential Frantar 2023: for column i with U = chol((H + damp)^-1): e = (w_i - w'_i) / U_ii, w_j -= e U_ij for j >
 * i.
 *            Updates within a batch of columns are made at once, those beyond it by one product at the batch's end.
 * Descent    With r = H e, changing element i by d changes the error by d^2 H_ii - 2 d r_i, least at d = r_i / H_ii:
 *            so
 *            every step is checked exactly and costs one row of H. A scale's step along the block's codes c likewise:
 *            d = c.r / c^T H c. */
#include "core/quant/rounding.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"

enum { BATCH = 128, BATCH_MOST = 256 };

/* The nearest code to x that the grid and the partner's code allow. What was pruned stays zero. */
static int32_t nearest_code(const struct round_chunk *c, int64_t row, int64_t i, double x)
{
    const int64_t b = row * round_blocks(c) + i / c->block;
    const int32_t zero = c->zero[b];
    if (!(fabsf(c->scale[b]) >= FLT_MIN) || c->w[row * c->k + i] == 0)
        return zero;
    double v = nearbyint(x / (double)c->scale[b]);
    double lo = c->lo - zero, hi = c->hi - zero;
    if (c->partner && c->partner[i] != i) {
        const int32_t other = c->code[row * c->k + c->partner[i]] - zero;
        if (other > 0)
            hi = fmin(hi, c->pair_most - other);
        else if (other < 0)
            lo = fmax(lo, -c->pair_most - other);
    }
    v = v > hi ? hi : v >= lo ? v : lo;
    return (int32_t)v + zero;
}

static double value_of(const struct round_chunk *c, int64_t row, int64_t i)
{
    const int64_t b = row * round_blocks(c) + i / c->block;
    return (double)((float)(c->code[row * c->k + i] - c->zero[b]) * c->scale[b]);
}

/* Codes of nothing: a partner not chosen yet is in nobody's way. */
static void clear_codes(const struct round_chunk *c)
{
    for (int64_t r = 0; r < c->n; r++)
        for (int64_t i = 0; i < c->k; i++)
            c->code[r * c->k + i] = c->zero[r * round_blocks(c) + i / c->block];
}

void round_nearest(const struct round_chunk *c)
{
    clear_codes(c);
    for (int64_t r = 0; r < c->n; r++)
        for (int64_t i = 0; i < c->k; i++)
            c->code[r * c->k + i] = nearest_code(c, r, i, c->w[r * c->k + i]);
}

/* ---- sequential ---- */
static int64_t batch_of(const struct round_chunk *c)
{
    if (c->block >= c->k || c->block > BATCH_MOST)
        return BATCH;
    return c->block * i64_max(1, BATCH / c->block);
}

/* Columns [first, end) of all rows: codes, and their errors for the columns beyond. */
static void round_batch(const struct round_chunk *c, const double *u, const int64_t *order, int64_t first, int64_t end,
                        double *work, double *error)
{
    for (int64_t r = 0; r < c->n; r++)
        for (int64_t i = first; i < end; i++) {
            const int64_t at = order ? order[i] : i;
            double *row = work + r * c->k;
            c->code[r * c->k + at] = nearest_code(c, r, at, row[i]);
            const double e = (row[i] - value_of(c, r, at)) / u[i * c->k + i];
            error[r * (end - first) + i - first] = e;
            cblas_daxpy((int)(end - i - 1), -e, u + i * c->k + i + 1, 1, row + i + 1, 1);
        }
}

void round_sequential(const struct round_chunk *c, const double *u, const int64_t *order, round_grid_fn *grid,
                      void *arg)
{
    const int64_t step = batch_of(c), blocks = round_blocks(c);
    double *work = c->scratch, *error = work + c->n * c->k;
    for (int64_t r = 0; r < c->n; r++)
        for (int64_t i = 0; i < c->k; i++)
            work[r * c->k + i] = c->w[r * c->k + (order ? order[i] : i)];
    if (!grid)
        clear_codes(c);
    for (int64_t first = 0; first < c->k; first += step) {
        const int64_t end = i64_min(first + step, c->k);
        for (int64_t from = first; from < end;) { /* blocks within the batch begin one after another */
            const int64_t b = from / c->block, to = grid ? i64_min((b + 1) * c->block, end) : end;
            for (int64_t r = 0; grid && from == b * c->block && r < c->n; r++) {
                grid(arg, c, r, b, work + r * c->k + from);
                for (int64_t i = from; i < i64_min((b + 1) * c->block, c->k); i++)
                    c->code[r * c->k + i] = c->zero[r * blocks + b];
            }
            round_batch(c, u, order, from, to, work, error);
            struct gemm g = {.m = c->n, .n = c->k - to, .k = to - from, .lda = to - from, .ldb = c->k, .ldc = c->k,
                             .alpha = -1, .beta = 1};
            if (g.n > 0)
                gemm_f64_tile(&g, error, u + from * c->k + to, work + to);
            from = to;
        }
    }
}

/* ---- descent ---- */
struct descent {
    const struct round_chunk *c;
    const double *h;
    int64_t row;
    double *r; /* H (w - w'), [k] */
    double *step; /* [k] */
};

static bool change_code(const struct descent *d, int64_t i)
{
    const struct round_chunk *c = d->c;
    const double hii = d->h[i * c->k + i];
    if (!(hii > 0))
        return false;
    const double old = value_of(c, d->row, i);
    const int32_t before = c->code[d->row * c->k + i], code = nearest_code(c, d->row, i, old + d->r[i] / hii);
    if (code == before)
        return false;
    c->code[d->row * c->k + i] = code;
    const double change = value_of(c, d->row, i) - old;
    if (!(change * change * hii - 2 * change * d->r[i] < -1e-9 * change * change * hii)) {
        c->code[d->row * c->k + i] = before;
        return false;
    }
    cblas_daxpy((int)c->k, -change, d->h + i * c->k, 1, d->r, 1);
    return true;
}

static bool change_scale(const struct descent *d, int64_t b)
{
    const struct round_chunk *c = d->c;
    const int64_t first = b * c->block, n = i64_min(c->block, c->k - first), at = d->row * round_blocks(c) + b;
    double along = 0, curve = 0;
    memset(d->step, 0, (size_t)c->k * sizeof *d->step);
    for (int64_t i = first; i < first + n; i++) { /* step = H c */
        const double code = c->code[d->row * c->k + i] - c->zero[at];
        along += code * d->r[i];
        if (code != 0)
            cblas_daxpy((int)c->k, code, d->h + i * c->k, 1, d->step, 1);
    }
    for (int64_t i = first; i < first + n; i++)
        curve += (c->code[d->row * c->k + i] - c->zero[at]) * d->step[i];
    if (!(curve > 0))
        return false;
    const float scale = block_scale_stored(&(struct block_form){.scale_dtype = c->scale_dtype},
                                           (float)((double)c->scale[at] + along / curve));
    const double change = (double)scale - (double)c->scale[at];
    if (!(fabsf(scale) >= FLT_MIN) || !isfinite(scale) || (scale < 0) != (c->scale[at] < 0) ||
        !(change * change * curve - 2 * change * along < 0) || fabs(change) < 1e-5 * fabs((double)scale))
        return false;
    c->scale[at] = scale;
    cblas_daxpy((int)c->k, -change, d->step, 1, d->r, 1);
    return true;
}

void round_descend(const struct round_chunk *c, const double *h, int sweeps, bool scales)
{
    double *e = c->scratch, *r = e + c->n * c->k, *step = r + c->n * c->k;
    for (int64_t row = 0; row < c->n; row++)
        for (int64_t i = 0; i < c->k; i++)
            e[row * c->k + i] = c->w[row * c->k + i] - value_of(c, row, i);
    struct gemm g = gemm_plain(false, false, c->n, c->k, c->k);
    gemm_f64_tile(&g, e, h, r);
    for (int64_t row = 0; row < c->n; row++) {
        const struct descent d = {c, h, row, r + row * c->k, step};
        bool changed = true;
        for (int s = 0; s < sweeps && changed; s++) {
            changed = false;
            for (int64_t i = 0; i < c->k; i++)
                changed = change_code(&d, i) || changed;
            for (int64_t b = 0; scales && b < round_blocks(c); b++)
                changed = change_scale(&d, b) || changed;
        }
    }
}
