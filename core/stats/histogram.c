/* SPDX-License-Identifier: Apache-2.0
 * Bin i holds the numbers in [i - BINS/2, i + 1 - BINS/2) * width with width = 2 * range / BINS, a power of two: the bin
 * of a number is found by an exact multiplication, and a histogram grown later is the one a larger range would have
 * given from the start.
 * Entropy    with prefix sums over mass, non-empty bins and sum p log p, a candidate costs one logarithm a level instead
 * of one a bin: within a level the quantized distribution spreads the level's mass evenly over its non-empty bins. */
#include "core/stats/histogram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/bin_count.h"
#include "core/kernels/simd.h"

enum { BINS = HISTOGRAM_BINS, HALF = BINS / 2, TASK = BIN_MOST, CANDIDATES = 2048 };
_Static_assert((int)BINS == (int)BIN_COUNT, "the kernel counts the histogram's bins");
#define ROUND ((int64_t)1 << 31)
#define LEAST_RANGE 0x1p-100f

struct histogram *histogram_new(void)
{
    struct histogram *h = calloc(1, sizeof *h);
    if (h) {
        h->min = INFINITY;
        h->max = -INFINITY;
    }
    return h;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Widen to `range`, 2^k times the old one. */
static void grow(struct histogram *h, float range)
{
    const int64_t factor = h->range > 0 && range / h->range < BINS ? (int64_t)(range / h->range) : BINS;
    if (h->total && factor > 1) {
        static _Thread_local uint64_t old[BINS];
        memcpy(old, h->count, sizeof old);
        memset(h->count, 0, sizeof h->count);
        for (int64_t i = 0; i < BINS; i++)
            h->count[HALF + floor_div(i - HALF, factor)] += old[i];
    }
    h->range = range;
}

/* ---- counting ---- */
struct count_job {
    const float *x;
    int64_t n;
    float width;
    bool odd;        /* NaN or infinite ones are among them */
    uint32_t *count; /* [BINS] of each lane */
};

static void count_task(void *arg, int64_t task, int lane)
{
    enum { PIECE = 4096 };
    const struct count_job *j = arg;
    const float *x = j->x + task * TASK;
    const int n = (int)i64_min(TASK, j->n - task * TASK);
    uint32_t *count = j->count + (size_t)lane * BINS;
    if (!j->odd) {
        bin_count_f32(x, n, j->width, count);
        return;
    }
    float finite[PIECE];
    for (int at = 0; at < n; at += PIECE) {
        int kept = 0;
        for (int i = at; i < n && i < at + PIECE; i++)
            if (isfinite(x[i]))
                finite[kept++] = x[i];
        bin_count_f32(finite, kept, j->width, count);
    }
}

/* A range that holds the largest number, or the largest range there is. */
static void widen(struct histogram *h, const struct extent *e)
{
    const float largest = -e->min > e->max ? -e->min : e->max;
    float range = h->range > 0 ? h->range : LEAST_RANGE;
    h->min = e->min < h->min ? e->min : h->min;
    h->max = e->max > h->max ? e->max : h->max;
    while (range <= largest && range < 0x1p127f)
        range *= 2;
    if (range > h->range)
        grow(h, range);
}

void histogram_add_seen(struct pool *pool, struct histogram *h, const float *x, int64_t n, const struct extent *seen)
{
    if (!(seen->min <= seen->max))
        return;
    widen(h, seen);
    const int lanes = pool && n > TASK ? pool_threads(pool) : 1;
    uint32_t one[BINS], *count = lanes > 1 ? calloc((size_t)lanes * BINS, sizeof *count) : NULL;
    struct count_job job = {x, n, h->range / (float)HALF, seen->nan + seen->inf > 0, count ? count : one};
    if (!count)
        memset(one, 0, sizeof one);
    for (int64_t from = 0; from < n; from += ROUND) { /* 32 bits hold the counts of one round */
        job.x = x + from;
        job.n = i64_min(ROUND, n - from);
        pool_run(count ? pool : NULL, i64_ceil_div(job.n, TASK), count_task, &job);
        for (int lane = 0; lane < (count ? lanes : 1); lane++) {
            uint32_t *of_lane = job.count + (size_t)lane * BINS;
            for (int i = 0; i < BINS; i++)
                h->count[i] += of_lane[i];
            if (n > ROUND)
                memset(of_lane, 0, BINS * sizeof *of_lane);
        }
    }
    h->total += n - seen->nan - seen->inf;
    free(count);
}

void histogram_add(struct pool *pool, struct histogram *h, const float *x, int64_t n)
{
    const struct extent seen = extent_f32(pool, x, n);
    histogram_add_seen(pool, h, x, n, &seen);
}

/* ---- what was seen ---- */
static double width_of(const struct histogram *h)
{
    return (double)h->range / HALF;
}

static struct clip seen(const struct histogram *h, bool symmetric)
{
    struct clip c = {0, 0};
    if (!(h->min <= h->max))
        return c;
    c.lo = h->min < 0 ? (double)h->min : 0;
    c.hi = h->max > 0 ? (double)h->max : 0;
    if (symmetric) {
        c.hi = -c.lo > c.hi ? -c.lo : c.hi;
        c.lo = -c.hi;
    }
    return c;
}

/* Counts of |x|: bin j holds [j, j + 1) * width. */
static void fold(const struct histogram *h, uint64_t folded[HALF])
{
    for (int j = 0; j < HALF; j++)
        folded[j] = h->count[HALF + j] + h->count[HALF - 1 - j];
}

struct clip histogram_percentile(const struct histogram *h, double percentile, bool symmetric)
{
    struct clip c = seen(h, symmetric);
    const double width = width_of(h), outside = (double)h->total * (1 - percentile / 100) / (symmetric ? 1 : 2);
    double left = 0, right = 0;
    if (symmetric) {
        uint64_t folded[HALF];
        fold(h, folded);
        int j = HALF - 1;
        for (; j > 0 && right + (double)folded[j] <= outside; j--)
            right += (double)folded[j];
        c.hi = fmin(c.hi, (j + 1) * width);
        c.lo = -c.hi;
        return c;
    }
    int i = BINS - 1, k = 0;
    for (; i > HALF && right + (double)h->count[i] <= outside; i--)
        right += (double)h->count[i];
    for (; k < HALF - 1 && left + (double)h->count[k] <= outside; k++)
        left += (double)h->count[k];
    if (i < BINS - 1) /* the last bin also holds what lies beyond the largest range */
        c.hi = fmin(c.hi, (i + 1 - HALF) * width);
    if (k > 0)
        c.lo = fmax(c.lo, (k - HALF) * width);
    return c;
}

/* ---- entropy ---- */
struct sums { /* prefix sums: [i] covers the bins before i */
    int bins;
    double *mass, *entropy; /* sum of p, of p log p */
    int *filled;            /* non-empty bins */
    double *m, *f;          /* [levels, rounded up] scratch of one candidate */
};

static bool sums_make(struct sums *s, const uint64_t *count, int bins, int levels)
{
    *s = (struct sums){.bins = bins};
    const size_t padded = (size_t)(levels + 7) / 8 * 8;
    s->m = calloc(padded, 2 * sizeof *s->m);
    s->f = s->m ? s->m + padded : NULL;
    for (size_t i = 0; s->f && i < padded; i++)
        s->f[i] = 1;
    s->mass = calloc((size_t)bins + 1, sizeof *s->mass);
    s->entropy = calloc((size_t)bins + 1, sizeof *s->entropy);
    s->filled = calloc((size_t)bins + 1, sizeof *s->filled);
    if (!s->m || !s->mass || !s->entropy || !s->filled)
        return false;
    for (int i = 0; i < bins; i++) {
        const double p = (double)count[i];
        s->mass[i + 1] = s->mass[i] + p;
        s->entropy[i + 1] = s->entropy[i] + (p > 0 ? p * log(p) : 0);
        s->filled[i + 1] = s->filled[i] + (p > 0);
    }
    return true;
}

static void sums_free(struct sums *s)
{
    free(s->mass);
    free(s->entropy);
    free(s->filled);
    free(s->m);
}

/* log of positive normal numbers, in plain arithmetic so that the compiler makes vectors of it:
 * x = 2^e m with m in [1/sqrt 2, sqrt 2), log m = 2 atanh((m - 1) / (m + 1)). Relative error below 1e-14. */
static inline double log_of(double x)
{
    union {
        double d;
        uint64_t i;
    } u = {x}, e;
    const uint64_t up = (u.i - 0x3fe6a09e667f3bcd + ((uint64_t)1024 << 52)) >> 52; /* 1024 + e */
    u.i -= (up - 1024) << 52;
    const double s = (u.d - 1) / (u.d + 1), t = s * s;
    double p = 1.0 / 17;
    p = p * t + 1.0 / 15;
    p = p * t + 1.0 / 13;
    p = p * t + 1.0 / 11;
    p = p * t + 1.0 / 9;
    p = p * t + 1.0 / 7;
    p = p * t + 1.0 / 5;
    p = p * t + 1.0 / 3;
    e.i = up | 0x4330000000000000; /* 2^52 + up: AVX2 does not convert integers of 64 bits */
    return (e.d - (0x1p52 + 1024)) * 0.693147180559945309 + 2 * s * (1 + p * t);
}

/* sum of m log(m / filled); levels without mass have m 0 and filled 1. A fixed number of sums, in a fixed order. */
KERNEL_CLONES static double cross_entropy(const double *m, const double *filled, int levels)
{
    enum { WAYS = 8 };
    double sum[WAYS] = {0};
    for (int k = 0; k < levels; k += WAYS)
        for (int w = 0; w < WAYS; w++)
            sum[w] += m[k + w] * log_of((m[k + w] > 0 ? m[k + w] : 1) / filled[k + w]);
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/* Divergence of the bins [from, to), to whose outermost bins all mass outside is added, from their quantization to
 * `levels` codes. */
static double divergence(const struct sums *s, const uint64_t *count, int from, int to, int levels)
{
    const double total = s->mass[s->bins], inside = s->mass[to] - s->mass[from], least = 1e-4;
    const double below = s->mass[from], above = total - s->mass[to];
    if (inside <= 0)
        return INFINITY;
    double *m = s->m, *filled = s->f;
    for (int k = 0, a = from; k < levels; k++) {
        const int b = from + (int)((int64_t)(to - from) * (k + 1) / levels);
        const int bins = s->filled[b] - s->filled[a];
        m[k] = bins ? s->mass[b] - s->mass[a] : 0;
        filled[k] = bins ? bins : 1;
        a = b;
    }
    double cross = cross_entropy(m, filled, levels); /* sum of p log q, with q not yet normalized */
    if (below > 0)
        cross += below * log(count[from] > 0 ? m[0] / filled[0] : least);
    if (above > 0)
        cross += above * log(count[to - 1] > 0 ? m[levels - 1] / filled[levels - 1] : least);
    double entropy = s->entropy[to] - s->entropy[from]; /* sum of p log p, the outermost bins with what was clipped */
    const double edges[2] = {(double)count[from], (double)count[to - 1]}, added[2] = {below, above};
    for (int e = 0; e < 2; e++) {
        const double p = edges[e], q = p + added[e];
        entropy += (q > 0 ? q * log(q) : 0) - (p > 0 ? p * log(p) : 0);
    }
    return (entropy - cross) / total - log(total) + log(inside);
}

/* A candidate must hold nearly all numbers: of those it clips only how many there are counts, not how far out they are,
 * so that an interval ending at the first number of all would reproduce what is left of the distribution without any
 * loss. */
#define LEAST_INSIDE 0.99

static struct clip entropy_search(const uint64_t *count, int bins, int zero, int lo, int hi, int levels, double width)
{
    struct sums s;
    struct clip best = {(lo - zero) * width, (hi - zero) * width};
    double least = INFINITY;
    int last_from = -1, last_to = -1;
    for (int i = sums_make(&s, count, bins, levels) ? 1 : CANDIDATES + 1; i <= CANDIDATES; i++) {
        const double share = (double)i / CANDIDATES;
        const int from = zero - (int)ceil((zero - lo) * share), to = zero + (int)ceil((hi - zero) * share);
        if (i < CANDIDATES && (to - from < levels || s.mass[to] - s.mass[from] < LEAST_INSIDE * s.mass[bins]))
            continue;
        if (from == last_from && to == last_to)
            continue;
        last_from = from;
        last_to = to;
        const double d = divergence(&s, count, from, to, levels);
        if (d < least) {
            least = d;
            best = (struct clip){(from - zero) * width, (to - zero) * width};
        }
    }
    sums_free(&s);
    return best;
}

/* Zero has a code of its own whatever the interval, and a Relu makes half of all numbers zero. Spread over its level,
 * that spike alone would decide for the narrowest interval; so its bin counts like the ones beside it. */
struct clip histogram_entropy(const struct histogram *h, int levels, bool symmetric)
{
    const struct clip all = seen(h, symmetric);
    const double width = width_of(h);
    struct clip c = all;
    if (!(all.hi - all.lo > 0))
        return all;
    if (symmetric) {
        uint64_t folded[HALF];
        fold(h, folded);
        folded[0] = folded[1];
        c = entropy_search(folded, HALF, 0, 0, (int)fmin(HALF, ceil(all.hi / width)), levels / 2, width);
        c.lo = -c.hi;
    } else {
        const int lo = HALF + (int)floor(all.lo / width), hi = HALF + (int)ceil(all.hi / width);
        uint64_t count[BINS];
        memcpy(count, h->count, sizeof count);
        count[HALF] = hi <= HALF ? 0 : lo < HALF ? (count[HALF - 1] + count[HALF + 1]) / 2 : count[HALF + 1];
        c = entropy_search(count, BINS, HALF, lo > 0 ? lo : 0, hi < BINS ? hi : BINS, levels, width);
    }
    return (struct clip){fmax(c.lo, all.lo), fmin(c.hi, all.hi)};
}

/* ---- mean squared error ---- */
/* Numbers are taken to lie in the middle of their bin. Zero is always exact, and its bin counts as zero. */
struct points {
    double x[BINS + 8], weight[BINS + 8]; /* padded by weights of 0 to a multiple of 8 */
    int n;
};

static struct points *points_of(const struct histogram *h)
{
    struct points *p = malloc(sizeof *p);
    if (!p)
        return NULL;
    p->n = 0;
    for (int i = 0; i < BINS; i++)
        if (h->count[i] && i != HALF) {
            p->x[p->n] = (i - HALF + 0.5) * width_of(h);
            p->weight[p->n++] = (double)h->count[i];
        }
    for (; p->n % 8 != 0; p->n++)
        p->x[p->n] = p->weight[p->n] = 0;
    return p;
}

/* Eight sums in turn, so that the order of summing does not depend on the width of vectors. Adding and taking off
 * 1.5 * 2^52 rounds to the nearest even integer. */
KERNEL_CLONES static double rounding_error(const struct points *p, struct clip c, int levels)
{
    enum { WAYS = 8 };
    const double step = (c.hi - c.lo) / (levels - 1), inverse = 1 / step, whole = 0x1.8p52;
    double sum[WAYS] = {0};
    if (!(step > 0) || !(inverse <= __DBL_MAX__))
        return INFINITY;
    for (int i = 0; i < p->n; i += WAYS)
        for (int w = 0; w < WAYS; w++) {
            const double x = p->x[i + w], low = x < c.lo ? c.lo : x, inside = low > c.hi ? c.hi : low;
            const double d = x - ((inside * inverse + whole) - whole) * step;
            sum[w] += p->weight[i + w] * d * d;
        }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static void try_clip(const struct points *p, struct clip c, int levels, struct clip *best, double *least)
{
    const double e = rounding_error(p, c, levels);
    if (e < *least) {
        *least = e;
        *best = c;
    }
}

struct clip histogram_mse(const struct histogram *h, int levels, bool symmetric)
{
    enum { STEPS = 100 };
    const struct clip all = seen(h, symmetric);
    struct clip best = all;
    double least = INFINITY;
    const int codes = symmetric ? levels - 1 : levels;
    struct points *p = all.hi - all.lo > 0 ? points_of(h) : NULL;
    if (!p)
        return all;
    for (int i = STEPS; i >= STEPS / 5; i--)
        try_clip(p, (struct clip){all.lo * i / STEPS, all.hi * i / STEPS}, codes, &best, &least);
    const struct clip both = best;
    for (int i = STEPS; i >= STEPS / 5 && !symmetric && all.lo < 0 && all.hi > 0; i--) {
        try_clip(p, (struct clip){both.lo, all.hi * i / STEPS}, codes, &best, &least);
        try_clip(p, (struct clip){all.lo * i / STEPS, both.hi}, codes, &best, &least);
    }
    free(p);
    return best;
}
