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
#include "core/kernels/simd.h"

enum { BINS = HISTOGRAM_BINS, HALF = BINS / 2, TASK = 1 << 16, CANDIDATES = 2048 };
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
struct extent {
    float min, max;
    bool odd; /* NaN or infinite ones are among them */
};

KERNEL_CLONES static struct extent extent_of(const float *x, int64_t n)
{
    float lo = INFINITY, hi = -INFINITY;
    int odd = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        odd |= !(fabsf(x[i]) <= __FLT_MAX__);
    }
    return (struct extent){lo, hi, odd != 0};
}

static struct extent finite_extent_of(const float *x, int64_t n)
{
    struct extent e = {INFINITY, -INFINITY, true};
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i])) {
            e.min = x[i] < e.min ? x[i] : e.min;
            e.max = x[i] > e.max ? x[i] : e.max;
        }
    return e;
}

/* Two tables in turn: equal numbers in a row (the zeros of a Relu) would wait for each other's store. */
struct tables {
    uint32_t count[2][BINS];
};

/* floor(x / width), exactly: scale = 1 / width is a power of two, and what underflows still has its sign in x. */
KERNEL_CLONES static void bins_of(const float *x, int n, float scale, float width, int32_t *bin)
{
    for (int i = 0; i < n; i++) {
        const float v = x[i] * scale, low = v > (float)-HALF ? v : (float)-HALF; /* NaN becomes -HALF */
        const int32_t whole = (int32_t)(low < (float)HALF ? low : (float)HALF);
        const int32_t b = HALF + whole - (x[i] < (float)whole * width);
        bin[i] = b < 0 ? 0 : b < BINS ? b : BINS - 1;
    }
}

static void count_piece(struct tables *t, const float *x, int64_t n, float range, bool odd)
{
    enum { PIECE = 256 };
    int32_t bin[PIECE];
    for (int64_t at = 0; at < n; at += PIECE) {
        const int m = (int)i64_min(PIECE, n - at);
        bins_of(x + at, m, (float)HALF / range, range / (float)HALF, bin);
        for (int i = 0; i < m; i++)
            if (!odd || isfinite(x[at + i]))
                t->count[i & 1][bin[i]]++;
    }
}

struct count_job {
    const float *x;
    int64_t n;
    float range;
    bool odd;
    struct tables *tables; /* one a lane */
};

static void count_task(void *arg, int64_t task, int lane)
{
    const struct count_job *j = arg;
    const int64_t from = task * TASK;
    count_piece(&j->tables[lane], j->x + from, i64_min(TASK, j->n - from), j->range, j->odd);
}

void histogram_add(struct pool *pool, struct histogram *h, const float *x, int64_t n)
{
    struct extent e = extent_of(x, n);
    if (e.odd)
        e = finite_extent_of(x, n);
    if (!(e.min <= e.max))
        return;
    h->min = e.min < h->min ? e.min : h->min;
    h->max = e.max > h->max ? e.max : h->max;
    const float largest = -e.min > e.max ? -e.min : e.max;
    float range = h->range > 0 ? h->range : LEAST_RANGE;
    while (range <= largest && range < 0x1p127f)
        range *= 2;
    if (range > h->range)
        grow(h, range);
    const int lanes = pool && n > TASK ? pool_threads(pool) : 1;
    struct tables one, *tables = lanes > 1 ? calloc((size_t)lanes, sizeof *tables) : NULL;
    struct count_job job = {x, n, h->range, e.odd, tables ? tables : &one};
    if (!tables)
        memset(&one, 0, sizeof one);
    pool_run(tables ? pool : NULL, i64_ceil_div(n, TASK), count_task, &job);
    for (int lane = 0; lane < (tables ? lanes : 1); lane++)
        for (int i = 0; i < BINS; i++)
            h->count[i] += (uint64_t)job.tables[lane].count[0][i] + job.tables[lane].count[1][i];
    h->total = 0;
    for (int i = 0; i < BINS; i++)
        h->total += (int64_t)h->count[i];
    free(tables);
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
};

static bool sums_make(struct sums *s, const uint64_t *count, int bins)
{
    *s = (struct sums){.bins = bins};
    s->mass = calloc((size_t)bins + 1, sizeof *s->mass);
    s->entropy = calloc((size_t)bins + 1, sizeof *s->entropy);
    s->filled = calloc((size_t)bins + 1, sizeof *s->filled);
    if (!s->mass || !s->entropy || !s->filled)
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
}

/* Divergence of the bins [from, to), to whose outermost bins all mass outside is added, from their quantization to
 * `levels` codes. */
static double divergence(const struct sums *s, const uint64_t *count, int from, int to, int levels)
{
    const double total = s->mass[s->bins], inside = s->mass[to] - s->mass[from], least = 1e-4;
    const double below = s->mass[from], above = total - s->mass[to];
    if (inside <= 0)
        return INFINITY;
    double cross = 0; /* sum of p log q, with q not yet normalized */
    for (int k = 0; k < levels; k++) {
        const int a = from + (int)((int64_t)(to - from) * k / levels),
                  b = from + (int)((int64_t)(to - from) * (k + 1) / levels);
        const double m = s->mass[b] - s->mass[a];
        const int filled = s->filled[b] - s->filled[a];
        if (m > 0)
            cross += m * log(m / filled);
        if (k == 0 && below > 0)
            cross += below * log(count[from] > 0 ? m / filled : least);
        if (k == levels - 1 && above > 0)
            cross += above * log(count[to - 1] > 0 ? m / filled : least);
    }
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
    for (int i = sums_make(&s, count, bins) ? 1 : CANDIDATES + 1; i <= CANDIDATES; i++) {
        const double share = (double)i / CANDIDATES;
        const int from = zero - (int)ceil((zero - lo) * share), to = zero + (int)ceil((hi - zero) * share);
        if (i < CANDIDATES && (to - from < levels || s.mass[to] - s.mass[from] < LEAST_INSIDE * s.mass[bins]))
            continue;
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
KERNEL_CLONES static double rounding_error(const struct histogram *h, struct clip c, int levels)
{
    const double width = width_of(h), step = (c.hi - c.lo) / (levels - 1);
    double sum = 0;
    if (!(step > 0))
        return INFINITY;
    for (int i = 0; i < BINS; i++) {
        if (!h->count[i] || i == HALF)
            continue;
        const double x = (i - HALF + 0.5) * width, inside = x < c.lo ? c.lo : x > c.hi ? c.hi : x;
        const double d = x - nearbyint(inside / step) * step;
        sum += (double)h->count[i] * d * d;
    }
    return sum;
}

static void try_clip(const struct histogram *h, struct clip c, int levels, struct clip *best, double *least)
{
    const double e = rounding_error(h, c, levels);
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
    if (!(all.hi - all.lo > 0))
        return all;
    for (int i = STEPS; i >= STEPS / 5; i--)
        try_clip(h, (struct clip){all.lo * i / STEPS, all.hi * i / STEPS}, codes, &best, &least);
    const struct clip both = best;
    for (int i = STEPS; i >= STEPS / 5 && !symmetric && all.lo < 0 && all.hi > 0; i--) {
        try_clip(h, (struct clip){both.lo, all.hi * i / STEPS}, codes, &best, &least);
        try_clip(h, (struct clip){all.lo * i / STEPS, both.hi}, codes, &best, &least);
    }
    return best;
}
