/* SPDX-License-Identifier: Apache-2.0
 * cluster.c - k-means on a line.
 * A cluster is a run of sorted bins, so it is told by where it ends; sums over a run are differences of prefix sums.
 * The cost of bins [a, b) in one cluster is S2 - S1^2 / S0. It satisfies the quadrangle inequality, hence the best last
 * split moves monotonically with the end, and each layer of the dynamic programme is found by divide and conquer. */
#include "core/encode/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"

enum { EXACT_MOST = 1 << 15, KEY_BITS = 18, KEYS = 1 << KEY_BITS };

struct bins {
    int64_t n;
    double *at;           /* [n] mean of the bin, ascending */
    double *s0, *s1, *s2; /* [n + 1] prefix sums of count, value, squared value */
    double *memory;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while clustering");
}

static int bins_alloc(struct bins *b, int64_t n, struct err *err)
{
    b->memory = calloc((size_t)n * 4 + 4, sizeof *b->memory);
    if (!b->memory)
        return nomem(err);
    b->at = b->memory;
    b->s0 = b->at + n + 1;
    b->s1 = b->s0 + n + 1;
    b->s2 = b->s1 + n + 1;
    return 0;
}

static void bins_add(struct bins *b, double count, double sum, double squares)
{
    const int64_t i = b->n++;
    b->at[i] = sum / count;
    b->s0[i + 1] = b->s0[i] + count;
    b->s1[i + 1] = b->s1[i] + sum;
    b->s2[i + 1] = b->s2[i] + squares;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int bins_exact(struct bins *b, const float *v, int64_t n, bool skip_zeros, struct err *err)
{
    float *sorted = malloc((size_t)(n + 1) * sizeof *sorted);
    int64_t kept = 0;
    if (!sorted || bins_alloc(b, n, err)) {
        free(sorted);
        return nomem(err);
    }
    for (int64_t i = 0; i < n; i++)
        if (!skip_zeros || v[i] != 0)
            sorted[kept++] = v[i];
    qsort(sorted, (size_t)kept, sizeof *sorted, by_value);
    for (int64_t i = 0, end; i < kept; i = end) {
        const double x = sorted[i];
        for (end = i + 1; end < kept && sorted[end] == sorted[i];)
            end++;
        bins_add(b, (double)(end - i), x * (double)(end - i), x * x * (double)(end - i));
    }
    free(sorted);
    return 0;
}

/* Numbers in the order of the floats, their upper bits. */
static uint32_t key_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return bits >> (32 - KEY_BITS);
}

static int bins_by_key(struct bins *b, const float *v, int64_t n, bool skip_zeros, struct err *err)
{
    struct sums {
        double count, sum, squares;
    } *all = calloc(KEYS, sizeof *all);
    int64_t used = 0;
    if (!all)
        return nomem(err);
    for (int64_t i = 0; i < n; i++) {
        if (skip_zeros && v[i] == 0)
            continue;
        struct sums *s = &all[key_of(v[i])];
        used += s->count == 0;
        s->count += 1;
        s->sum += v[i];
        s->squares += (double)v[i] * v[i];
    }
    const int rc = bins_alloc(b, used, err);
    for (int64_t i = 0; rc == 0 && i < KEYS; i++)
        if (all[i].count > 0)
            bins_add(b, all[i].count, all[i].sum, all[i].squares);
    free(all);
    return rc;
}

static double run_cost(const struct bins *b, int64_t from, int64_t to)
{
    const double n = b->s0[to] - b->s0[from], sum = b->s1[to] - b->s1[from];
    const double cost = n > 0 ? b->s2[to] - b->s2[from] - sum * sum / n : 0;
    return cost > 0 ? cost : 0;
}

static double run_mean(const struct bins *b, int64_t from, int64_t to)
{
    return (b->s1[to] - b->s1[from]) / (b->s0[to] - b->s0[from]);
}

/* First bin whose mean is above x. */
static int64_t bin_above(const struct bins *b, double x)
{
    int64_t lo = 0, hi = b->n;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (b->at[mid] > x)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* ---- optimal ---- */
struct layer {
    const struct bins *b;
    const double *before; /* cost of the first j bins in one cluster less */
    double *cost;
    int32_t *from; /* where the last cluster begins */
    int64_t m;     /* clusters before the last */
};

static void solve(const struct layer *y, int64_t lo, int64_t hi, int64_t first, int64_t last)
{
    if (lo > hi)
        return;
    const int64_t mid = (lo + hi) / 2;
    double best = INFINITY;
    int64_t at = first;
    for (int64_t i = first > y->m ? first : y->m; i <= last && i < mid; i++) {
        const double cost = y->before[i] + run_cost(y->b, i, mid);
        if (cost < best) {
            best = cost;
            at = i;
        }
    }
    y->cost[mid] = best;
    y->from[mid] = (int32_t)at;
    solve(y, lo, mid - 1, first, at);
    solve(y, mid + 1, hi, at, last);
}

static int init_optimal(const struct bins *b, int64_t k, double *c, struct err *err)
{
    const int64_t n = b->n;
    double *cost = malloc((size_t)(n + 1) * 2 * sizeof *cost), *now = cost, *next;
    int32_t *from = malloc((size_t)(n + 1) * (size_t)k * sizeof *from);
    if (!cost || !from) {
        free(cost);
        free(from);
        return nomem(err);
    }
    next = cost + n + 1;
    for (int64_t j = 0; j <= n; j++) {
        now[j] = run_cost(b, 0, j);
        from[j] = 0;
    }
    for (int64_t m = 1; m < k; m++) {
        const struct layer y = {b, now, next, from + m * (n + 1), m};
        for (int64_t j = 0; j <= m; j++)
            next[j] = 0;
        solve(&y, m + 1, n, m, n);
        double *swap = now;
        now = next;
        next = swap;
    }
    for (int64_t m = k - 1, end = n; m >= 0; m--) {
        const int64_t begin = end > m ? (m ? (end <= m ? end - 1 : from[m * (n + 1) + end]) : 0) : end - 1;
        c[m] = run_mean(b, begin, end);
        end = begin;
    }
    free(cost);
    free(from);
    return 0;
}

/* ---- other starts ---- */
static void init_linear(const struct bins *b, int64_t k, double *c)
{
    const double lo = b->at[0], hi = b->at[b->n - 1];
    for (int64_t i = 0; i < k; i++)
        c[i] = k > 1 ? lo + (hi - lo) * (double)i / (double)(k - 1) : run_mean(b, 0, b->n);
}

/* The bin where a running sum first exceeds x. */
static int64_t bin_of_sum(const double *prefix, int64_t n, double x)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (prefix[mid + 1] > x)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static void init_density(const struct bins *b, int64_t k, double *c)
{
    for (int64_t i = 0; i < k; i++)
        c[i] = b->at[bin_of_sum(b->s0, b->n, b->s0[b->n] * ((double)i + 0.5) / (double)k)];
}

static void init_random(const struct bins *b, int64_t k, struct rng *rng, double *c)
{
    for (int64_t i = 0; i < k; i++)
        c[i] = b->at[bin_of_sum(b->s0, b->n, b->s0[b->n] * rng_uniform(rng))];
}

static int init_kmeanspp(const struct bins *b, int64_t k, struct rng *rng, double *c, struct err *err)
{
    double *distance = malloc((size_t)(2 * b->n + 1) * sizeof *distance), *prefix;
    if (!distance)
        return nomem(err);
    prefix = distance + b->n;
    for (int64_t j = 0; j < b->n; j++)
        distance[j] = INFINITY;
    for (int64_t i = 0; i < k; i++) {
        c[i] = b->at[i ? bin_of_sum(prefix, b->n, prefix[b->n] * rng_uniform(rng))
                       : bin_of_sum(b->s0, b->n, b->s0[b->n] * rng_uniform(rng))];
        prefix[0] = 0;
        for (int64_t j = 0; j < b->n; j++) {
            const double d = b->at[j] - c[i];
            distance[j] = fmin(distance[j], d * d);
            prefix[j + 1] = prefix[j] + (b->s0[j + 1] - b->s0[j]) * distance[j];
        }
    }
    free(distance);
    return 0;
}

/* ---- Lloyd ---- */
static int by_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ends of the clusters from centroids; a boundary never goes back behind the one before. */
static void assign(const struct bins *b, const double *c, const double *bits, double rate, int64_t k, int64_t *end)
{
    for (int64_t i = 0; i < k; i++) {
        int64_t at = b->n;
        if (i + 1 < k) {
            const double gap = c[i + 1] - c[i], mid = (c[i] + c[i + 1]) / 2;
            at = bin_above(b, rate > 0 && gap > 0 ? mid + rate * (bits[i + 1] - bits[i]) / (2 * gap) : mid);
        }
        end[i] = i && at < end[i - 1] ? end[i - 1] : at;
    }
}

/* An empty cluster takes the upper half of the cluster with the largest error. */
static void refill(const struct bins *b, int64_t k, const int64_t *end, double *c)
{
    for (int64_t i = 0; i < k; i++) {
        if (end[i] > (i ? end[i - 1] : 0))
            continue;
        int64_t worst = -1;
        double most = 0;
        for (int64_t j = 0; j < k; j++) {
            const int64_t from = j ? end[j - 1] : 0;
            const double cost = end[j] - from > 1 ? run_cost(b, from, end[j]) : 0;
            if (cost > most) {
                most = cost;
                worst = j;
            }
        }
        if (worst < 0)
            return;
        c[i] = b->at[end[worst] - 1];
        return; /* one an iteration: the ends are stale now */
    }
}

static bool update(const struct bins *b, int64_t k, const int64_t *end, double *c, double *bits)
{
    bool moved = false;
    for (int64_t i = 0; i < k; i++) {
        const int64_t from = i ? end[i - 1] : 0;
        const double count = b->s0[end[i]] - b->s0[from];
        bits[i] = -log2(fmax(count, 0.5) / b->s0[b->n]);
        if (end[i] == from)
            continue;
        const double mean = run_mean(b, from, end[i]);
        moved |= mean != c[i];
        c[i] = mean;
    }
    return moved;
}

static int lloyd(const struct bins *b, const struct cluster_opts *o, int64_t k, double *c, int64_t *used,
                 struct err *err)
{
    int64_t *end = calloc((size_t)k, sizeof *end);
    double *bits = calloc((size_t)k, sizeof *bits);
    if (!end || !bits) {
        free(end);
        free(bits);
        return nomem(err);
    }
    bool moved = true;
    for (int64_t i = 0; i < o->iterations && moved; i++) {
        qsort(c, (size_t)k, sizeof *c, by_double);
        assign(b, c, bits, i ? o->rate : 0, k, end);
        moved = update(b, k, end, c, bits);
        if (o->rate <= 0)
            refill(b, k, end, c);
        moved |= i == 0;
    }
    qsort(c, (size_t)k, sizeof *c, by_double);
    assign(b, c, bits, o->rate, k, end);
    *used = 0;
    for (int64_t i = 0; i < k; i++)
        if (end[i] > (i ? end[i - 1] : 0))
            c[(*used)++] = run_mean(b, i ? end[i - 1] : 0, end[i]);
    free(end);
    free(bits);
    return 0;
}

static int start(const struct bins *b, const struct cluster_opts *o, int64_t k, double *c, struct err *err)
{
    struct rng rng;
    rng_init(&rng, o->seed, 0x636c7573);
    switch (o->init) {
    case CLUSTER_OPTIMAL:
        return init_optimal(b, k, c, err);
    case CLUSTER_LINEAR:
        init_linear(b, k, c);
        return 0;
    case CLUSTER_DENSITY:
        init_density(b, k, c);
        return 0;
    case CLUSTER_KMEANSPP:
        return init_kmeanspp(b, k, &rng, c, err);
    default:
        init_random(b, k, &rng, c);
        return 0;
    }
}

int cluster_values(const float *v, int64_t n, const struct cluster_opts *o, float *centroid, int64_t *used,
                   struct err *err)
{
    struct bins b = {0};
    double *c = NULL;
    int rc = n <= EXACT_MOST ? bins_exact(&b, v, n, o->skip_zeros, err) : bins_by_key(&b, v, n, o->skip_zeros, err);
    const int64_t k = i64_min(o->k, b.n);
    *used = 0;
    if (rc == 0 && k > 0) {
        c = calloc((size_t)k, sizeof *c);
        rc = c ? start(&b, o, k, c, err) : nomem(err);
        if (rc == 0)
            rc = lloyd(&b, o, k, c, used, err);
    }
    for (int64_t i = 0; rc == 0 && i < *used; i++)
        centroid[i] = (float)c[i];
    free(c);
    free(b.memory);
    return rc;
}

void cluster_boundaries(const float *centroid, const double *bits, double rate, int64_t used, float *boundary)
{
    for (int64_t i = 0; i + 1 < used; i++) {
        const double gap = (double)centroid[i + 1] - centroid[i], mid = ((double)centroid[i] + centroid[i + 1]) / 2;
        const double at = rate > 0 && gap > 0 ? mid + rate * (bits[i + 1] - bits[i]) / (2 * gap) : mid;
        boundary[i] = (float)at;
        if (i && boundary[i] < boundary[i - 1])
            boundary[i] = boundary[i - 1];
    }
}
