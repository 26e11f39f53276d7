/* SPDX-License-Identifier: Apache-2.0
 * The slab. Buffers live from the step that writes them to the last step that reads them; two may share bytes unless
 * their lives overlap. Finding the smallest slab is NP-hard; placing the largest buffers first, each into the tightest
 * gap left by those already placed that live at the same time, comes within a few percent on real networks (Pisarchyk
 * and Lee 2020, "greedy by size"). Where that is more than 2 % above the lower bound, a few other orders are tried. The
 * orders depend only on sizes and lives, so the plan is the same everywhere.
 * Speed      Who lives at the same time is asked of a tree over the first steps, so a long chain costs n log n. Where
 *            thousands of buffers live together every one meets every other: once such meetings exceed a budget, the
 *            rest (the small ones) is laid behind, in time order, each taking a freed place of its size class. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/plan.h"

enum { ALIGN = 64, MEETINGS = 2000000, MEETINGS_EACH = 64, PROMOTIONS = 12 };

struct order {
    size_t bytes;
    int index;
};

static int larger_first(const void *pa, const void *pb)
{
    const struct order *a = pa, *b = pb;
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

/* ---- who lives at the same time ---- */
/* Buffers sorted by first step are the leaves of a binary tree; a node knows the latest last step of the placed ones
 * below it (-1: none). */
struct lives {
    const struct plan_interval *iv;
    struct order *at; /* sorted by first step, held in `bytes` */
    int *leaf;        /* [n] place of a buffer in `at` */
    int *latest;      /* [2 * leaves] node 1 is the root, the children of i are 2 i and 2 i + 1 */
    int n, leaves;
    struct order *met; /* what was asked for: placed buffers, their offsets in `bytes` */
    int n_met;
};

static int smaller_first(const void *pa, const void *pb)
{
    const struct order *a = pa, *b = pb;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static int lives_init(struct lives *l, const struct plan_interval *iv, int n, struct err *err)
{
    *l = (struct lives){.iv = iv, .n = n, .leaves = 1};
    while (l->leaves < n)
        l->leaves *= 2;
    l->at = calloc((size_t)n, sizeof *l->at);
    l->met = calloc((size_t)n, sizeof *l->met);
    l->leaf = calloc((size_t)n, sizeof *l->leaf);
    l->latest = calloc((size_t)l->leaves * 2, sizeof *l->latest);
    if (!l->at || !l->met || !l->leaf || !l->latest)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        l->at[i] = (struct order){(size_t)iv[i].first, i};
    qsort(l->at, (size_t)n, sizeof *l->at, smaller_first);
    for (int i = 0; i < n; i++)
        l->leaf[l->at[i].index] = i;
    for (int i = 0; i < l->leaves * 2; i++)
        l->latest[i] = -1;
    return 0;
}

static void lives_fini(struct lives *l)
{
    free(l->at);
    free(l->met);
    free(l->leaf);
    free(l->latest);
}

static void lives_add(struct lives *l, int buffer)
{
    const int last = l->iv[buffer].last;
    for (int node = l->leaves + l->leaf[buffer]; node >= 1 && l->latest[node] < last; node /= 2)
        l->latest[node] = last;
}

static void lives_visit(struct lives *l, int node, int from, int width, const struct plan_interval *me)
{
    if (l->latest[node] < me->first || from >= l->n || l->iv[l->at[from].index].first > me->last)
        return;
    if (width == 1) {
        const int buffer = l->at[from].index;
        l->met[l->n_met++] = (struct order){l->iv[buffer].offset, buffer};
        return;
    }
    lives_visit(l, node * 2, from, width / 2, me);
    lives_visit(l, node * 2 + 1, from + width / 2, width / 2, me);
}

/* Fills met with the placed buffers alive together with `me`, sorted by offset. */
static void lives_meet(struct lives *l, const struct plan_interval *me)
{
    l->n_met = 0;
    lives_visit(l, 1, 0, l->leaves, me);
    qsort(l->met, (size_t)l->n_met, sizeof *l->met, smaller_first);
}

/* The tightest gap between the placed buffers alive together with `me`; else behind the last of them. */
static int place(struct lives *l, struct plan_interval *me)
{
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    lives_meet(l, me);
    for (int i = 0; i < l->n_met; i++) {
        const struct plan_interval *other = &l->iv[l->met[i].index];
        if (other->offset >= end) {
            size_t gap = other->offset - end;
            if (gap >= me->bytes && gap < best_gap) {
                best = end;
                best_gap = gap;
            }
        }
        if (other->offset + other->bytes > end)
            end = other->offset + other->bytes;
    }
    me->offset = best != SIZE_MAX ? best : end;
    size_t last;
    return size_add(me->offset, me->bytes, &last) ? 0 : -1;
}

/* ---- the rest, in time order ---- */
/* Size classes in steps of a quarter of a power of two: bytes rounded up by at most 25 %. */
enum { CLASSES = 64 * 4 };

static int class_of(size_t units, size_t *rounded)
{
    int power = 2;
    while (power < 60 && units >> (power + 1))
        power++;
    const size_t quarter = (size_t)1 << (power - 2), steps = units / quarter + (units % quarter != 0);
    *rounded = steps * quarter;
    return power * 4 + (int)steps - 4; /* steps in [1, 8]; 8 is the next power's 4 */
}

/* Lay out order[0 .. n) (sorted by first step in `bytes`) from byte `base` on; *end grows. */
static int lay_behind(struct plan_interval *iv, const struct order *order, int n, int n_steps, size_t base, size_t *end,
                      struct err *err)
{
    int head[CLASSES], rc = -1, freed = 0;
    int *next_free = calloc((size_t)n + 1, sizeof *next_free); /* stack of freed places, a class each */
    int *dies = calloc((size_t)n_steps + 1, sizeof *dies);     /* first of the buffers whose last step this is */
    int *next_dying = calloc((size_t)n + 1, sizeof *next_dying);
    if (!next_free || !dies || !next_dying) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(head, -1, sizeof head);
    memset(dies, -1, ((size_t)n_steps + 1) * sizeof *dies);
    *end = base;
    for (int i = 0; i < n; i++) {
        struct plan_interval *me = &iv[order[i].index];
        size_t rounded, unused;
        for (; freed < me->first; freed++)
            for (int d = dies[freed]; d >= 0; d = next_dying[d]) {
                const int c = class_of(iv[order[d].index].bytes / ALIGN, &unused);
                next_free[d] = head[c];
                head[c] = d;
            }
        const int class = class_of(me->bytes / ALIGN, &rounded);
        if (head[class] >= 0) {
            me->offset = iv[order[head[class]].index].offset;
            head[class] = next_free[head[class]];
        } else {
            me->offset = *end;
            if (!size_mul(rounded, ALIGN, &rounded) || !size_add(*end, rounded, end)) {
                err_set(err, ERR_MODEL_TOO_LARGE, "activations need more than 2^64 bytes");
                goto out;
            }
        }
        next_dying[i] = dies[me->last];
        dies[me->last] = i;
    }
    rc = 0;
out:
    free(next_free);
    free(dies);
    free(next_dying);
    return rc;
}

/* Largest sum of live bytes: a sweep over the steps. */
static int sweep(const struct plan_interval *iv, int n, size_t *lower, int *last_step, struct err *err)
{
    int n_steps = 1;
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        if (iv[i].last + 2 > n_steps)
            n_steps = iv[i].last + 2;
        if (!size_add(total, iv[i].bytes, &total) || total > INT64_MAX)
            return err_set(err, ERR_MODEL_TOO_LARGE, "activations need more than 2^63 bytes");
    }
    int64_t *delta = calloc((size_t)n_steps, sizeof *delta);
    if (!delta)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        delta[iv[i].first] += (int64_t)iv[i].bytes;
        delta[iv[i].last + 1] -= (int64_t)iv[i].bytes;
    }
    int64_t live = 0, most = 0;
    for (int s = 0; s < n_steps; s++) {
        live += delta[s];
        most = i64_max(most, live);
    }
    *lower = (size_t)most;
    *last_step = n_steps - 1;
    free(delta);
    return 0;
}

static int pad(struct plan_interval *iv, struct order *order, int n, struct err *err)
{
    for (int i = 0; i < n; i++) {
        size_t padded;
        if (!size_add(iv[i].bytes, ALIGN - 1, &padded))
            return err_set(err, ERR_MODEL_TOO_LARGE, "an activation needs %zu bytes", iv[i].bytes);
        iv[i].bytes = padded & ~(size_t)(ALIGN - 1);
        order[i] = (struct order){iv[i].bytes, i};
    }
    return 0;
}

/* ---- orders ---- */
/* Place all in this order. False: it met others too often (*at: the first that is not placed), or an offset
 * overflows. */
static bool place_all(struct lives *lives, struct plan_interval *iv, const struct order *order, int n, int64_t *budget,
                      size_t *slab, int *at)
{
    for (int i = 0; i < lives->leaves * 2; i++)
        lives->latest[i] = -1;
    *slab = 0;
    for (*at = 0; *at < n; (*at)++) {
        struct plan_interval *me = &iv[order[*at].index];
        if (*budget < 0 || place(lives, me))
            return false;
        *budget -= lives->n_met;
        lives_add(lives, order[*at].index);
        if (me->offset + me->bytes > *slab)
            *slab = me->offset + me->bytes;
    }
    return true;
}

/* Whoever ended at the very top comes first next time. */
static void promote(const struct plan_interval *iv, size_t slab, struct order *order, struct order *spare, int n)
{
    int first = 0, rest = 0;
    for (int i = 0; i < n; i++)
        if (iv[order[i].index].offset + iv[order[i].index].bytes < slab)
            spare[rest++] = order[i];
        else
            order[first++] = order[i];
    memcpy(order + first, spare, (size_t)rest * sizeof *order);
}

/* How urgent a buffer is, three ways: its bytes, its bytes times its life, how early it is written. */
static size_t urgency(const struct plan_interval *iv, int way, int last_step)
{
    const size_t life = (size_t)(iv->last - iv->first) + 1;
    if (way == 1)
        return iv->bytes > SIZE_MAX / life ? SIZE_MAX : iv->bytes * life;
    return way == 0 ? iv->bytes : (size_t)(last_step - iv->first);
}

static bool good_enough(size_t slab, size_t lower)
{
    return slab <= lower + lower / 50;
}

/* Other orders, while the slab is more than 2 % above its lower bound: by another urgency, and each of these again with
 * those at the top first. Keeps the best offsets. */
static int improve(struct lives *lives, struct plan_interval *iv, int n, int last_step, int64_t budget, size_t lower,
                   size_t *slab, struct err *err)
{
    struct order *order = calloc((size_t)n * 2, sizeof *order), *spare = order ? order + n : NULL;
    size_t *best = calloc((size_t)n, sizeof *best), now;
    int at, rc = order && best ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n && !rc; i++)
        best[i] = iv[i].offset;
    for (int way = 0; way < 3 && !rc; way++) {
        for (int i = 0; i < n; i++)
            order[i] = (struct order){urgency(&iv[i], way, last_step), i};
        qsort(order, (size_t)n, sizeof *order, larger_first);
        for (int round = 0; round < PROMOTIONS && !good_enough(*slab, lower); round++) {
            if (!place_all(lives, iv, order, n, &budget, &now, &at))
                break;
            for (int i = 0; i < n && now < *slab; i++)
                best[i] = iv[i].offset;
            *slab = now < *slab ? now : *slab;
            promote(iv, now, order, spare, n);
        }
    }
    for (int i = 0; i < n && !rc; i++)
        iv[i].offset = best[i];
    free(order);
    free(best);
    return rc;
}

int plan_layout(struct plan_interval *iv, int n, size_t *slab, size_t *lower, struct err *err)
{
    *slab = *lower = 0;
    if (n == 0)
        return 0;
    int rc = -1, i = 0, last_step = 0;
    int64_t budget = MEETINGS + (int64_t)MEETINGS_EACH * n;
    struct lives lives = {0};
    struct order *order = calloc((size_t)n, sizeof *order);
    if (!order) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (pad(iv, order, n, err) || sweep(iv, n, lower, &last_step, err) || lives_init(&lives, iv, n, err))
        goto out;
    qsort(order, (size_t)n, sizeof *order, larger_first);
    if (place_all(&lives, iv, order, n, &budget, slab, &i)) {
        rc = good_enough(*slab, *lower) ? 0 : improve(&lives, iv, n, last_step, budget, *lower, slab, err);
        goto out;
    }
    if (budget >= 0) {
        err_set(err, ERR_MODEL_TOO_LARGE, "activations need more than 2^64 bytes");
        goto out;
    }
    for (int k = i; k < n; k++)
        order[k].bytes = (size_t)iv[order[k].index].first;
    qsort(order + i, (size_t)(n - i), sizeof *order, smaller_first);
    rc = lay_behind(iv, order + i, n - i, last_step, *slab, slab, err);
out:
    lives_fini(&lives);
    free(order);
    return rc;
}
