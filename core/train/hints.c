/* SPDX-License-Identifier: Apache-2.0
 * hints.c - losses between features (hints.h). Relations are written in Gram matrices: with g = X X^T, the squared
 * distance is g_ii + g_jj - 2 g_ij and the product of two differences g_jk - g_ij - g_ik + g_ii, so that distances
 * and angles cost n^2 d and n^3 instead of n^3 d, and the gradient of the points is one product, (W + W^T) X with W =
 * dL/dg. */
#include "core/train/hints.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/gemm.h"

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for a loss between features");
}

struct feature feature_of(const struct shape *shape, int axis)
{
    return (struct feature){shape_product(shape, 0, axis), shape->dim[axis],
                            shape_product(shape, axis + 1, shape->rank)};
}

/* ---- hint ---- */
/* r(s) of one row. */
static void regress(const struct hint_regressor *r, const struct feature *s, int64_t wide, const float *x, float *y)
{
    const struct gemm g = gemm_plain(false, false, wide, s->inner, s->channels);
    gemm_f32_tile(&g, r->weight, x, y);
    for (int64_t c = 0; c < wide; c++)
        for (int64_t i = 0; i < s->inner; i++)
            y[c * s->inner + i] += r->bias[c];
}

/* The error of one row in place of y, times factor; the sum of its squares. */
static double row_error(float *y, const float *t, int64_t n, double factor)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)y[i] - (double)t[i];
        sum += d * d;
        y[i] = (float)(factor * d);
    }
    return sum;
}

static void regressor_gradient(const struct hint_regressor *r, const struct feature *s, int64_t wide, const float *x,
                               const float *dy)
{
    struct gemm g = gemm_plain(false, true, wide, s->channels, s->inner);
    g.beta = 1;
    if (r->dweight)
        gemm_f32_tile(&g, dy, x, r->dweight);
    for (int64_t c = 0; r->dbias && c < wide; c++) {
        double sum = 0;
        for (int64_t i = 0; i < s->inner; i++)
            sum += (double)dy[c * s->inner + i];
        r->dbias[c] += (float)sum;
    }
}

int hint_loss(const struct feature *s, int64_t teacher_channels, const float *x, const float *t,
              const struct hint_regressor *r, double power, double scale, double *value, float *dx, struct err *err)
{
    const int64_t wide = teacher_channels, from = s->channels * s->inner, to = wide * s->inner;
    const bool through = r && r->weight;
    const double factor = 1 / ((double)s->rows * (double)to * power);
    float *y = malloc((size_t)(to + 1) * sizeof *y);
    double sum = 0;
    if (!y)
        return nomem(err);
    for (int64_t n = 0; n < s->rows; n++) {
        const float *row = x + n * from;
        if (through)
            regress(r, s, wide, row, y);
        else
            memcpy(y, row, (size_t)to * sizeof *y);
        sum += row_error(y, t + n * to, to, factor * scale);
        if (!dx)
            continue;
        if (through) {
            struct gemm g = gemm_plain(true, false, s->channels, s->inner, wide);
            g.beta = 1;
            gemm_f32_tile(&g, r->weight, y, dx + n * from);
            regressor_gradient(r, s, wide, row, y);
        } else {
            for (int64_t i = 0; i < to; i++)
                dx[n * from + i] += y[i];
        }
    }
    free(y);
    *value = 0.5 * factor * sum;
    return 0;
}

/* ---- attention ---- */
struct attention {
    const struct feature *s;
    int64_t outer, places; /* of a sample */
    const float *x, *map;
    float *dx;
    double factor, *a, *sample; /* a: [n, places] */
};

static void attention_sample(void *arg, int64_t n, int lane)
{
    const struct attention *k = arg;
    const struct feature *s = k->s;
    const int64_t each = k->outer * s->channels * s->inner;
    const float *x = k->x + n * each, *map = k->map + n * k->places;
    double *a = k->a + n * k->places, square = 0, loss = 0, along = 0;
    (void)lane;
    for (int64_t o = 0; o < k->outer; o++)
        for (int64_t c = 0; c < s->channels; c++)
            for (int64_t i = 0; i < s->inner; i++) {
                const double v = (double)x[(o * s->channels + c) * s->inner + i];
                a[o * s->inner + i] += v * v;
            }
    for (int64_t p = 0; p < k->places; p++)
        square += a[p] * a[p];
    const double over = square > 0 ? 1 / sqrt(square) : 0;
    for (int64_t p = 0; p < k->places; p++) {
        const double q = a[p] * over, d = q - (double)map[p];
        loss += d * d;
        along += q * d;
    }
    k->sample[n] = loss;
    if (!k->dx)
        return;
    for (int64_t p = 0; p < k->places; p++) { /* dL/dA times 2, in place of A */
        const double q = a[p] * over;
        a[p] = 2 * k->factor * over * (q - (double)map[p] - q * along);
    }
    for (int64_t o = 0; o < k->outer; o++)
        for (int64_t c = 0; c < s->channels; c++)
            for (int64_t i = 0; i < s->inner; i++) {
                const int64_t at = (o * s->channels + c) * s->inner + i;
                k->dx[n * each + at] += (float)(a[o * s->inner + i] * (double)x[at]);
            }
}

int attention_loss(struct pool *pool, const struct feature *s, int64_t n, const float *x, const float *map,
                   double scale, double *value, float *dx, struct err *err)
{
    const int64_t outer = s->rows / n, places = outer * s->inner;
    const double each = 1 / ((double)n * (double)places);
    struct attention k = {
        .s = s, .outer = outer, .places = places, .x = x, .map = map, .dx = dx, .factor = each * scale};
    double sum = 0;
    k.a = calloc((size_t)(n * places) + 1, sizeof *k.a);
    k.sample = calloc((size_t)n + 1, sizeof *k.sample);
    const bool memory = k.a && k.sample;
    if (memory)
        pool_run(pool, n, attention_sample, &k);
    for (int64_t i = 0; memory && i < n; i++)
        sum += k.sample[i];
    free(k.a);
    free(k.sample);
    *value = 0.5 * each * sum;
    return memory ? 0 : nomem(err);
}

/* ---- relations ---- */
static double huber(double d)
{
    return fabs(d) <= 1 ? d * d / 2 : fabs(d) - 0.5;
}

static double huber_slope(double d)
{
    return d > 1 ? 1 : d < -1 ? -1 : d;
}

/* Points as their Gram matrix and distances. */
struct points {
    double *g, *distance; /* [n, n] */
    double mean;          /* of the distances above 0 */
    int64_t above;
};

static void points_fini(struct points *p)
{
    free(p->g);
    free(p->distance);
}

/* x around its mean, in double: less is lost where g_ii + g_jj - 2 g_ij cancels. */
static double *centred(int64_t n, const float *x, int64_t d)
{
    double *wide = calloc((size_t)(n * d) + 1, sizeof *wide);
    for (int64_t c = 0; wide && c < d; c++) {
        double mean = 0;
        for (int64_t i = 0; i < n; i++)
            mean += (double)x[i * d + c] / (double)n;
        for (int64_t i = 0; i < n; i++)
            wide[i * d + c] = (double)x[i * d + c] - mean;
    }
    return wide;
}

static int points_of(struct points *p, struct pool *pool, int64_t n, const float *x, int64_t d, struct err *err)
{
    double *wide = centred(n, x, d), sum = 0;
    p->g = calloc((size_t)(n * n) + 1, sizeof *p->g);
    p->distance = calloc((size_t)(n * n) + 1, sizeof *p->distance);
    if (!wide || !p->g || !p->distance) {
        free(wide);
        return nomem(err);
    }
    const struct gemm g = gemm_plain(false, true, n, n, d);
    gemm_f64(pool, &g, wide, wide, p->g);
    free(wide);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const double ii = p->g[i * n + i], jj = p->g[j * n + j], q = ii + jj - 2 * p->g[i * n + j];
            const double distance = i != j && q > 1e-14 * (ii + jj) ? sqrt(q) : 0;
            p->distance[i * n + j] = distance;
            sum += distance;
            p->above += distance > 0;
        }
    p->mean = p->above ? sum / (double)p->above : 1;
    return 0;
}

/* Adds dL/d(distance) to slope. */
static double distances(const struct points *s, const struct points *t, int64_t n, double *slope)
{
    const double each = 1 / ((double)n * (double)n);
    double sum = 0, pull = 0;
    for (int64_t i = 0; i < n * n; i++) {
        const double d = s->distance[i] / s->mean - t->distance[i] / t->mean, h = each * huber_slope(d);
        sum += each * huber(d);
        if (!(s->distance[i] > 0))
            continue;
        slope[i] += h / s->mean;
        pull += h * s->distance[i];
    }
    for (int64_t i = 0; i < n * n; i++) /* the mean moves with every distance */
        if (s->distance[i] > 0)
            slope[i] -= pull / (s->mean * s->mean * (double)s->above);
    return sum;
}

struct angles {
    const struct points *s, *t;
    int64_t n, most;
    double *sample;       /* [most] */
    double *slope, *gram; /* [most][n] and [most][most, most], of each corner: added in order later. NULL: value only */
    double weight;
};

static double cosine(const struct points *p, int64_t n, int64_t i, int64_t j, int64_t k)
{
    const double a = p->distance[i * n + j], b = p->distance[i * n + k];
    if (!(a > 0) || !(b > 0))
        return 0;
    return (p->g[j * n + k] - p->g[i * n + j] - p->g[i * n + k] + p->g[i * n + i]) / (a * b);
}

/* All angles at corner i. */
static void corner(void *arg, int64_t i, int lane)
{
    const struct angles *a = arg;
    const int64_t n = a->n, most = a->most;
    const struct points *s = a->s;
    double *slope = a->slope ? a->slope + i * n : NULL, *gram = a->gram ? a->gram + i * most * most : NULL;
    double sum = 0;
    (void)lane;
    for (int64_t j = 0; j < most; j++)
        for (int64_t k = 0; k < most; k++) {
            const double c = cosine(s, n, i, j, k), d = c - cosine(a->t, n, i, j, k);
            const double dj = s->distance[i * n + j], dk = s->distance[i * n + k];
            sum += huber(d);
            if (!slope || !gram || !(dj > 0) || !(dk > 0) || j == k)
                continue;
            const double w = a->weight * huber_slope(d);
            gram[j * most + k] = w / (dj * dk);
            slope[j] -= w * c / dj;
            slope[k] -= w * c / dk;
        }
    a->sample[i] = sum;
}

/* Adds dL/dg and dL/d(distance) of corner i. */
static void add_corner(const struct angles *a, int64_t i, double *w, double *slope)
{
    const double *gram = a->gram + i * a->most * a->most;
    for (int64_t j = 0; j < a->most; j++)
        for (int64_t k = 0; k < a->most; k++) {
            const double v = gram[j * a->most + k];
            w[j * a->n + k] += v;
            w[i * a->n + j] -= v;
            w[i * a->n + k] -= v;
            w[i * a->n + i] += v;
        }
    for (int64_t j = 0; j < a->n; j++)
        slope[i * a->n + j] += a->slope[i * a->n + j];
}

/* dL/dx += scale (W + W^T) x, W = dL/dg with what the distances add to it. */
static int move_points(struct pool *pool, const struct points *s, int64_t n, const float *x, int64_t d, double *w,
                       const double *slope, double scale, float *dx, struct err *err)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const double distance = s->distance[i * n + j], v = distance > 0 ? slope[i * n + j] / (2 * distance) : 0;
            w[i * n + i] += v;
            w[j * n + j] += v;
            w[i * n + j] -= 2 * v;
        }
    double *wide = centred(n, x, d), *moved = calloc((size_t)(n * d) + 1, sizeof *moved),
           *both = calloc((size_t)(n * n) + 1, sizeof *both);
    const bool memory = wide && moved && both;
    for (int64_t i = 0; memory && i < n; i++)
        for (int64_t j = 0; j < n; j++)
            both[i * n + j] = w[i * n + j] + w[j * n + i];
    if (memory) {
        const struct gemm g = gemm_plain(false, false, n, d, n);
        gemm_f64(pool, &g, both, wide, moved);
        for (int64_t i = 0; i < n * d; i++)
            dx[i] += (float)(scale * moved[i]);
    }
    free(wide);
    free(moved);
    free(both);
    return memory ? 0 : nomem(err);
}

int relation_loss(struct pool *pool, int64_t n, const float *x, int64_t d, const float *t, int64_t dt, double scale,
                  double *value, float *dx, struct err *err)
{
    struct points own = {0}, other = {0};
    const int64_t most = i64_min(n, RELATION_ANGLES);
    const double count = (double)most * (double)most * (double)most;
    struct angles a = {.s = &own, .t = &other, .n = n, .most = most, .weight = 2 / count};
    double *slope = NULL, *w = NULL;
    int rc = -1;
    *value = 0;
    if (points_of(&own, pool, n, x, d, err) || points_of(&other, pool, n, t, dt, err))
        goto out;
    a.sample = calloc((size_t)most + 1, sizeof *a.sample);
    slope = calloc((size_t)(n * n) + 1, sizeof *slope);
    if (dx) {
        a.slope = calloc((size_t)(most * n) + 1, sizeof *a.slope);
        a.gram = calloc((size_t)(most * most * most) + 1, sizeof *a.gram);
        w = calloc((size_t)(n * n) + 1, sizeof *w);
    }
    if (!a.sample || !slope || (dx && (!a.slope || !a.gram || !w))) {
        nomem(err);
        goto out;
    }
    *value = distances(&own, &other, n, slope);
    pool_run(pool, most, corner, &a);
    for (int64_t i = 0; i < most; i++)
        *value += 2 * a.sample[i] / count;
    for (int64_t i = 0; dx && i < most; i++)
        add_corner(&a, i, w, slope);
    rc = dx ? move_points(pool, &own, n, x, d, w, slope, scale, dx, err) : 0;
out:
    points_fini(&own);
    points_fini(&other);
    free(a.sample);
    free(a.slope);
    free(a.gram);
    free(slope);
    free(w);
    return rc;
}
