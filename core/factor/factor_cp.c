/* SPDX-License-Identifier: Apache-2.0
 * factor_cp.c - factor.cp: a convolution as 1x1 (in -> rank), one depthwise convolution along each spatial axis, 1x1
 * (rank -> out).
 *
 * Canonical polyadic decomposition (Lebedev et al., ICLR 2015): W[o][i][t] is near to sum over r of A[o][r] B[i][r]
 * D_1[t_1][r] D_2[t_2][r]. Found by alternating least squares: each factor in turn solves (X H^-1) its linear
 * equations, the others fixed.
 * Start      B from the left singular vectors of W unfolded along inputs, what is left and D from numbers that are
 *            always the same.
 * Guard      such sums can grow without bound while they cancel each other (Phan et al., ECCV 2020): then the network
 *            cannot be trained and float16 overflows. Equations are damped, and if the components' squares together are
 *            more than LOUD times those of the weight, it all starts again with a hundredfold damping.
 * Moments    as in factor_tucker.c: inputs are whitened before, B is turned back after it.
 * Points     four ranks are decomposed roughly, errors of those between are interpolated; the chosen rank is decomposed
 *            well. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/kernels/gemm.h"

enum { ROUGH = 10, WELL = 60, TRIES = 4, KNOTS = 4 };
static const double LOUD = 100, DAMP = 1e-8, STILL = 1e-5;

struct prep {
    double *l, *inverse; /* [groups][in][in] */
    double *start;       /* [groups][in][min(in, out * taps)] left singular vectors */
    int64_t k;
};

static void release(void *prep)
{
    struct prep *p = prep;
    free(p->l);
    free(p->inverse);
    free(p->start);
    free(p);
}

static int shape(const struct layer *l, const int64_t rank[2], struct stage *stage)
{
    const int64_t r = rank[0];
    unsigned ones = 0;
    int n = 0;
    for (int a = 0; a < l->spatial; a++)
        ones |= l->kernel[a] == 1 ? 1u << a : 0;
    stage[n++] = (struct stage){.suffix = "reduce", .out = r, .in = l->in, .split = 1};
    for (int a = 0; a < l->spatial; a++) {
        static const char *const suffix[] = {"axis_0", "axis_1", "axis_2", "axis_n"};
        if (l->kernel[a] == 1)
            continue;
        stage[n++] =
            (struct stage){.suffix = suffix[a < 3 ? a : 3], .out = r, .in = r, .split = r, .axes = 1u << a | ones};
        ones = 0; /* axes without a kernel go with the first that has one */
    }
    stage[n++] = (struct stage){.suffix = "expand", .out = l->out, .in = r, .split = 1};
    return n;
}

/* ---- alternating least squares ---- */
struct cp {
    const struct layer *l;
    int64_t r;
    double damp, signal;
    double *w;                 /* [out][in * taps], whitened */
    double *a, *b;             /* [out][r], [in][r] */
    double *d[SHAPE_MAX_RANK]; /* [kernel][r] */
    double *taps;              /* [taps][r] product of d */
    double *z;                 /* [in * taps][r] */
    double *x, *h, *part;      /* [widest][r], [r][r] twice */
};

static void cp_free(struct cp *c)
{
    free(c->w);
    free(c->a);
    free(c->b);
    for (int i = 0; i < SHAPE_MAX_RANK; i++)
        free(c->d[i]);
    free(c->taps);
    free(c->z);
    free(c->x);
    free(c->h);
    free(c->part);
    *c = (struct cp){0};
}

static int cp_make(struct cp *c, const struct layer *l, int64_t rank, struct err *err)
{
    int64_t widest = i64_max(l->out, l->in);
    *c = (struct cp){.l = l, .r = rank};
    c->w = doubles_new(l->out, l->in * l->taps, err);
    c->a = doubles_new(l->out, rank, err);
    c->b = doubles_new(l->in, rank, err);
    for (int i = 0; i < l->spatial; i++) {
        widest = i64_max(widest, l->kernel[i]);
        if (!(c->d[i] = doubles_new(l->kernel[i], rank, err)))
            return -1;
    }
    c->taps = doubles_new(l->taps, rank, err);
    c->z = doubles_new(l->in * l->taps, rank, err);
    c->x = doubles_new(widest, rank, err);
    c->h = doubles_new(rank, rank, err);
    c->part = doubles_new(rank, rank, err);
    return c->w && c->a && c->b && c->taps && c->z && c->x && c->h && c->part ? 0 : -1;
}

/* c->w from one group of W. */
static void whiten(struct cp *c, const double *w, const double *l)
{
    const int64_t in = c->l->in, taps = c->l->taps;
    struct gemm g = gemm_plain(true, false, in, taps, in);
    c->signal = 0;
    for (int64_t o = 0; o < c->l->out; o++)
        gemm_f64_tile(&g, l, w + o * in * taps, c->w + o * in * taps);
    for (int64_t i = 0; i < c->l->out * in * taps; i++)
        c->signal += c->w[i] * c->w[i];
}

static void start(struct cp *c, const double *vectors, int64_t k)
{
    struct rng rng;
    rng_init(&rng, 1, 0);
    for (int64_t i = 0; i < c->l->in; i++)
        for (int64_t r = 0; r < c->r; r++)
            c->b[i * c->r + r] = r < k ? vectors[i * k + r] : rng_normal(&rng) / sqrt((double)c->l->in);
    for (int a = 0; a < c->l->spatial; a++)
        for (int64_t i = 0; i < c->l->kernel[a] * c->r; i++)
            c->d[a][i] = rng_normal(&rng);
}

/* taps = product over the axes but `without` of d. */
static void multiply_taps(struct cp *c, int without)
{
    for (int64_t t = 0; t < c->l->taps; t++)
        for (int64_t r = 0; r < c->r; r++) {
            double v = 1;
            int64_t rest = t;
            for (int a = c->l->spatial - 1; a >= 0; a--) {
                v *= a == without ? 1 : c->d[a][rest % c->l->kernel[a] * c->r + r];
                rest /= c->l->kernel[a];
            }
            c->taps[t * c->r + r] = v;
        }
}

/* h *= f^T f, elementwise. */
static void multiply_moment(struct cp *c, const double *f, int64_t n)
{
    const struct gemm g = gemm_plain(true, false, c->r, c->r, n);
    gemm_f64(c->l->pool, &g, f, f, c->part);
    for (int64_t i = 0; i < c->r * c->r; i++)
        c->h[i] *= c->part[i];
}

/* f [n][r] = x h^-1, h the moments of all others. */
static int solve(struct cp *c, double *f, int64_t n, struct err *err)
{
    for (int64_t i = 0; i < c->r * c->r; i++)
        c->h[i] = 1;
    if (f != c->a)
        multiply_moment(c, c->a, c->l->out);
    if (f != c->b)
        multiply_moment(c, c->b, c->l->in);
    for (int a = 0; a < c->l->spatial; a++)
        if (f != c->d[a])
            multiply_moment(c, c->d[a], c->l->kernel[a]);
    memcpy(f, c->x, (size_t)(n * c->r) * sizeof *f);
    return solve_right(c->h, c->r, c->damp, f, n, err);
}

/* Columns of length one; they are what is left of the scale, the rest comes with a. */
static void normalise(const struct cp *c, double *f, int64_t n)
{
    for (int64_t r = 0; r < c->r; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += f[i * c->r + r] * f[i * c->r + r];
        for (int64_t i = 0; i < n && sum > 0; i++)
            f[i * c->r + r] /= sqrt(sum);
    }
}

static int update_out(struct cp *c, struct err *err)
{
    const int64_t in = c->l->in, taps = c->l->taps, n = in * taps;
    multiply_taps(c, -1);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < c->r; r++)
            c->z[i * c->r + r] = c->b[i / taps * c->r + r] * c->taps[i % taps * c->r + r];
    const struct gemm g = gemm_plain(false, false, c->l->out, c->r, n);
    gemm_f64(c->l->pool, &g, c->w, c->z, c->x);
    return solve(c, c->a, c->l->out, err);
}

/* After z = W^T A. */
static int update_in(struct cp *c, struct err *err)
{
    const int64_t taps = c->l->taps;
    multiply_taps(c, -1);
    for (int64_t i = 0; i < c->l->in; i++)
        for (int64_t r = 0; r < c->r; r++) {
            double sum = 0;
            for (int64_t t = 0; t < taps; t++)
                sum += c->z[(i * taps + t) * c->r + r] * c->taps[t * c->r + r];
            c->x[i * c->r + r] = sum;
        }
    if (solve(c, c->b, c->l->in, err))
        return -1;
    normalise(c, c->b, c->l->in);
    return 0;
}

static int update_axis(struct cp *c, int axis, struct err *err)
{
    int64_t inner = 1;
    for (int a = axis + 1; a < c->l->spatial; a++)
        inner *= c->l->kernel[a];
    multiply_taps(c, axis);
    memset(c->x, 0, (size_t)(c->l->kernel[axis] * c->r) * sizeof *c->x);
    for (int64_t i = 0; i < c->l->in; i++)
        for (int64_t t = 0; t < c->l->taps; t++) {
            double *x = c->x + t / inner % c->l->kernel[axis] * c->r;
            const double *z = c->z + (i * c->l->taps + t) * c->r, *b = c->b + i * c->r, *p = c->taps + t * c->r;
            for (int64_t r = 0; r < c->r; r++)
                x[r] += z[r] * b[r] * p[r];
        }
    if (solve(c, c->d[axis], c->l->kernel[axis], err))
        return -1;
    normalise(c, c->d[axis], c->l->kernel[axis]);
    return 0;
}

/* After update_out: x is W times the others, h went into the solution. |W - W_r|^2 over |W|^2; *loud: the components'
 * squares over |W|^2. */
static double error_of(struct cp *c, double *loud)
{
    double cross = 0, own = 0, alone = 0;
    for (int64_t i = 0; i < c->l->out * c->r; i++)
        cross += c->x[i] * c->a[i];
    for (int64_t i = 0; i < c->r * c->r; i++)
        c->h[i] = 1;
    multiply_moment(c, c->a, c->l->out);
    multiply_moment(c, c->b, c->l->in);
    for (int a = 0; a < c->l->spatial; a++)
        multiply_moment(c, c->d[a], c->l->kernel[a]);
    for (int64_t i = 0; i < c->r * c->r; i++) {
        own += c->h[i];
        alone += i / c->r == i % c->r ? c->h[i] : 0;
    }
    *loud = alone / c->signal;
    return (c->signal - 2 * cross + own) / c->signal;
}

static int iterate(struct cp *c, int most, double *error, double *loud, struct err *err)
{
    double last = INFINITY;
    for (int a = 0; a < c->l->spatial; a++)
        normalise(c, c->d[a], c->l->kernel[a]);
    normalise(c, c->b, c->l->in);
    for (int i = 0;; i++) {
        if (update_out(c, err))
            return -1;
        *error = error_of(c, loud);
        if (i >= most || !(*error < last * (1 - STILL)))
            break;
        last = *error;
        const struct gemm g = gemm_plain(true, false, c->l->in * c->l->taps, c->r, c->l->out);
        gemm_f64(c->l->pool, &g, c->w, c->a, c->z);
        if (update_in(c, err))
            return -1;
        for (int a = 0; a < c->l->spatial; a++)
            if (c->l->kernel[a] > 1 && update_axis(c, a, err))
                return -1;
    }
    return doubles_finite(c->a, c->l->out * c->r) ? 0 : err_set(err, ERR_MODEL, "the factors are not finite");
}

/* One group, decomposed. c is made by it; cp_free also after an error. */
static int decompose(struct cp *c, const struct layer *l, const double *w, int64_t group, int64_t rank, int most,
                     double *error, struct err *err)
{
    const struct prep *p = l->prep;
    double loud = 0;
    if (cp_make(c, l, rank, err))
        return -1;
    whiten(c, w + group * l->out * l->in * l->taps, p->l + group * l->in * l->in);
    c->damp = DAMP;
    for (int t = 0; t < TRIES; t++, c->damp *= 100) {
        start(c, p->start + group * l->in * p->k, p->k);
        if (iterate(c, most, error, &loud, err))
            return -1;
        if (loud <= LOUD)
            break;
    }
    return 0;
}

/* ---- the scheme ---- */
/* Mean over the taps of the channels' moments. */
static void channel_moments(const struct layer *l, const double *c, double *out)
{
    const int64_t width = l->in * l->taps;
    for (int64_t i = 0; i < l->in; i++)
        for (int64_t j = 0; j < l->in; j++) {
            double sum = 0;
            for (int64_t t = 0; t < l->taps; t++)
                sum += c ? c[(i * l->taps + t) * width + j * l->taps + t] : i == j;
            out[i * l->in + j] = sum / (double)l->taps;
        }
}

static int begin_group(const struct layer *l, const double *w, const double *c, int64_t group, struct err *err)
{
    const struct prep *p = l->prep;
    double *own = p->l + group * l->in * l->in;
    struct cp x;
    struct svd s = {0};
    channel_moments(l, c, own);
    double *turned = doubles_new(l->in, l->out * l->taps, err);
    int rc =
        cp_make(&x, l, 1, err) || !turned || cholesky_damped(own, l->in, 1e-6, p->inverse + group * l->in * l->in, err)
            ? -1
            : 0;
    if (rc == 0) {
        whiten(&x, w + group * l->out * l->in * l->taps, own);
        for (int64_t o = 0; o < l->out; o++)
            for (int64_t i = 0; i < l->in * l->taps; i++)
                turned[(i / l->taps * l->out + o) * l->taps + i % l->taps] = x.w[o * l->in * l->taps + i];
        rc = svd_make(&s, turned, l->in, l->out * l->taps, err);
    }
    for (int64_t i = 0; rc == 0 && i < l->in * p->k; i++)
        p->start[group * l->in * p->k + i] = s.u[i];
    svd_fini(&s);
    cp_free(&x);
    free(turned);
    return rc;
}

/* The largest rank that saves something. */
static int64_t most_rank(const struct layer *l)
{
    int64_t low = 0, high = l->params;
    while (low < high) {
        const int64_t mid = low + (high - low + 1) / 2;
        struct stage stage[MOST_STAGES];
        int64_t params, macs;
        stages_cost(l, stage, shape(l, (int64_t[2]){mid, 0}, stage), &params, &macs);
        if (params < l->params && macs < l->macs)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

static int add_points(struct layer *l, const int64_t *rank, const double *error, int64_t round_to, struct err *err)
{
    for (int64_t r = round_to; r <= rank[KNOTS - 1]; r += round_to) {
        int k = 0;
        while (k < KNOTS - 1 && rank[k] < r)
            k++;
        const double r0 = k ? (double)rank[k - 1] : 0, e0 = k ? error[k - 1] : 1;
        const double share = ((double)r - r0) / ((double)rank[k] - r0 > 0 ? (double)rank[k] - r0 : 1);
        if (layer_add_point(l, &scheme_cp, (int64_t[2]){r, 0}, e0 + (error[k] - e0) * fmin(share, 1), err))
            return -1;
    }
    return 0;
}

static int prepare(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err)
{
    static const double share[KNOTS] = {0.15, 0.35, 0.65, 1};
    const int64_t width = l->in * l->taps, most = most_rank(l);
    int64_t rank[KNOTS];
    double error[KNOTS] = {0};
    struct prep *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, ERR_NOMEM, "out of memory while factorizing a layer");
    l->prep = p;
    p->k = i64_min(l->in, l->out * l->taps);
    p->l = doubles_new(l->groups * l->in, l->in, err);
    p->inverse = doubles_new(l->groups * l->in, l->in, err);
    p->start = doubles_new(l->groups * l->in, p->k, err);
    if (!p->l || !p->inverse || !p->start)
        return -1;
    for (int64_t g = 0; g < l->groups; g++)
        if (begin_group(l, w, x->c ? x->c + g * width * width : NULL, g, err))
            return -1;
    if (most < 1)
        return 0;
    for (int k = 0; k < KNOTS; k++) {
        rank[k] = i64_max(1, (int64_t)(share[k] * (double)most));
        for (int64_t g = 0; g < l->groups; g++) {
            struct cp c;
            double own = 1;
            const int rc = decompose(&c, l, w, g, rank[k], ROUGH, &own, err);
            error[k] += own / (double)l->groups;
            cp_free(&c);
            if (rc)
                return -1;
        }
        if (k > 0 && error[k] > error[k - 1])
            error[k] = error[k - 1];
    }
    return add_points(l, rank, error, round_to, err);
}

static int make(const struct layer *l, const double *w, const int64_t rank[2], struct stage *stage, struct err *err)
{
    const struct prep *p = l->prep;
    const int64_t r = rank[0];
    for (int64_t g = 0; g < l->groups; g++) {
        struct cp c;
        double error;
        int n = 0;
        if (decompose(&c, l, w, g, r, WELL, &error, err)) {
            cp_free(&c);
            return -1;
        }
        const struct gemm back = gemm_plain(true, false, r, l->in, l->in);
        gemm_f64(l->pool, &back, c.b, p->inverse + g * l->in * l->in, stage[n++].w + g * r * l->in);
        for (int a = 0; a < l->spatial; a++) {
            if (l->kernel[a] == 1)
                continue;
            double *to = stage[n++].w + g * r * l->kernel[a];
            for (int64_t i = 0; i < l->kernel[a]; i++)
                for (int64_t q = 0; q < r; q++)
                    to[q * l->kernel[a] + i] = c.d[a][i * r + q];
        }
        /* d of an axis without a kernel is one number a component: its sign */
        for (int64_t i = 0; i < l->out * r; i++) {
            double v = c.a[i];
            for (int a = 0; a < l->spatial; a++)
                v *= l->kernel[a] == 1 ? c.d[a][i % r] : 1;
            stage[n].w[g * l->out * r + i] = v;
        }
        cp_free(&c);
    }
    return 0;
}

/* The larger of the ranks along inputs and outputs: a sum of fewer products cannot have them. */
static int vbmf(const struct layer *l, const double *w, int64_t rank[2], struct err *err)
{
    if (scheme_tucker.vbmf(l, w, rank, err))
        return -1;
    rank[0] = i64_max(rank[0], rank[1]);
    rank[1] = 0;
    return 0;
}

static const char *refuse(const struct layer *l)
{
    return scheme_tucker.refuse(l);
}

static const char *const names[] = {"rank", NULL};
const struct scheme scheme_cp = {.name = "cp",
                                 .rank_names = names,
                                 .refuse = refuse,
                                 .shape = shape,
                                 .prepare = prepare,
                                 .make = make,
                                 .vbmf = vbmf,
                                 .release = release};

static const struct param params[] = {
    {FACTOR_P(rank), .kind = PARAM_INT, .min = 1, .max = 1e9, .given = PARAM_GIVEN(factor_params, has_rank),
     .doc = "components of every layer: channels of the depthwise convolutions"},
    FACTOR_ROWS,
    FACTOR_ROUND,
    {FACTOR_P(vbmf), .kind = PARAM_BOOL, .def = "false",
     .doc = "the larger of the ranks that variational Bayes finds along inputs and outputs (Nakajima et al., 2013)"},
    {0},
};

static int run(struct step_ctx *c, struct err *err)
{
    return factor_run(c, &scheme_cp, err);
}

METHOD(factor_cp) = {
    .name = "factor.cp",
    .summary = "k x k convolutions as 1x1, depthwise k x 1, depthwise 1 x k, and 1x1",
    .doc = "Canonical polyadic decomposition by alternating least squares (Lebedev et al., 2015), kept from growing "
           "without bound. The cheapest form and the hardest one to train after it. With data it is the best one for "
           "the layer's output on samples, and the last factor is fitted to the original network's outputs.",
    .params = params,
    .params_size = sizeof(struct factor_params),
    .needs_of = factor_needs,
    .check = factor_check,
    .run = run,
};
