/* SPDX-License-Identifier: Apache-2.0
 * Pieces small enough to be looked at twice: one that holds something odd is counted number by number. */
#include "core/kernels/extent.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/kernels/isa.h"

enum { PIECE = 4096, TASK = 1 << 16, LANES = 8, MAX_LANES = 64 };

/* Comparisons with NaN are false, so that NaN never enters. */
bool extent_finite_portable(const float *x, int64_t n, float *min, float *max)
{
    float lo[LANES], hi[LANES];
    int odd = 0;
    for (int k = 0; k < LANES; k++) {
        lo[k] = INFINITY;
        hi[k] = -INFINITY;
    }
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const float v = x[i + k];
            lo[k] = v < lo[k] ? v : lo[k];
            hi[k] = v > hi[k] ? v : hi[k];
            odd |= !(fabsf(v) <= __FLT_MAX__);
        }
    for (; i < n; i++) {
        lo[0] = x[i] < lo[0] ? x[i] : lo[0];
        hi[0] = x[i] > hi[0] ? x[i] : hi[0];
        odd |= !(fabsf(x[i]) <= __FLT_MAX__);
    }
    for (int k = 1; k < LANES; k++) {
        lo[0] = lo[k] < lo[0] ? lo[k] : lo[0];
        hi[0] = hi[k] > hi[0] ? hi[k] : hi[0];
    }
    *min = lo[0];
    *max = hi[0];
    return !odd;
}

static void widen(struct extent *e, float min, float max)
{
    e->min = min < e->min ? min : e->min;
    e->max = max > e->max ? max : e->max;
}

static void add_odd_piece(struct extent *e, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            e->nan++;
        else if (isinf(x[i]))
            e->inf++;
        else
            widen(e, x[i], x[i]);
    }
}

static const struct extent empty = {INFINITY, -INFINITY, 0, 0};

static void add(struct extent *e, const float *x, int64_t n)
{
    bool (*finite)(const float *, int64_t, float *, float *) = extent_finite_portable;
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        finite = extent_finite_avx2;
#endif
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t m = i64_min(PIECE, n - i);
        float min, max;
        if (finite(x + i, m, &min, &max))
            widen(e, min, max);
        else
            add_odd_piece(e, x + i, m);
    }
}

struct job {
    const float *x;
    int64_t n;
    struct extent lane[MAX_LANES];
};

static void task_fn(void *arg, int64_t task, int lane)
{
    struct job *j = arg;
    add(&j->lane[lane], j->x + task * TASK, i64_min(TASK, j->n - task * TASK));
}

struct extent extent_f32(struct pool *pool, const float *x, int64_t n)
{
    struct extent e = empty;
    const int lanes = pool ? pool_threads(pool) : 1;
    if (lanes == 1 || lanes > MAX_LANES || n <= TASK) {
        add(&e, x, n);
    } else {
        struct job job = {.x = x, .n = n};
        for (int k = 0; k < lanes; k++)
            job.lane[k] = empty;
        pool_run(pool, i64_ceil_div(n, TASK), task_fn, &job);
        for (int k = 0; k < lanes; k++) {
            widen(&e, job.lane[k].min, job.lane[k].max);
            e.nan += job.lane[k].nan;
            e.inf += job.lane[k].inf;
        }
    }
    e.min += 0.0f; /* -0 and +0 are equal: which came first must not show */
    e.max += 0.0f;
    return e;
}
