/* SPDX-License-Identifier: Apache-2.0
 * The slab. Buffers live from the step that writes them to the last step that reads them; two may share bytes unless
 * their lives
 * overlap. Finding the smallest slab is NP-hard; placing the largest buffers first, each into the tightest gap left by
 * those already placed that live at the same time, comes within a few percent on real networks (Pisarchyk and Lee 2020,
 * "greedy by size"). The order depends only on sizes and places, so the plan is the same everywhere. */
#include <stdlib.h>

#include "core/base/size.h"
#include "core/engine/plan.h"

enum { ALIGN = 64 };

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

static bool overlap(const struct plan_interval *a, const struct plan_interval *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The tightest gap between placed buffers (sorted by offset) alive together with `me`; else behind the last of them. */
static int place(struct plan_interval *iv, const int *placed, int n_placed, struct plan_interval *me)
{
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (int i = 0; i < n_placed; i++) {
        const struct plan_interval *other = &iv[placed[i]];
        if (!overlap(me, other))
            continue;
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

/* Largest sum of live bytes: a sweep over the steps. */
static int sweep(const struct plan_interval *iv, int n, size_t *lower, struct err *err)
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
    free(delta);
    return 0;
}

int plan_layout(struct plan_interval *iv, int n, size_t *slab, size_t *lower, struct err *err)
{
    *slab = *lower = 0;
    if (n == 0)
        return 0;
    int rc = -1, n_placed = 0;
    struct order *order = calloc((size_t)n, sizeof *order);
    int *placed = calloc((size_t)n, sizeof *placed);
    if (!order || !placed) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        size_t padded;
        if (!size_add(iv[i].bytes, ALIGN - 1, &padded)) {
            err_set(err, ERR_MODEL_TOO_LARGE, "an activation needs %zu bytes", iv[i].bytes);
            goto out;
        }
        iv[i].bytes = padded & ~(size_t)(ALIGN - 1);
        order[i] = (struct order){iv[i].bytes, i};
    }
    if (sweep(iv, n, lower, err))
        goto out;
    qsort(order, (size_t)n, sizeof *order, larger_first);
    for (int i = 0; i < n; i++) {
        struct plan_interval *me = &iv[order[i].index];
        if (place(iv, placed, n_placed, me)) {
            err_set(err, ERR_MODEL_TOO_LARGE, "activations need more than 2^64 bytes");
            goto out;
        }
        int at = n_placed++; /* insert by offset */
        for (; at > 0 && iv[placed[at - 1]].offset > me->offset; at--)
            placed[at] = placed[at - 1];
        placed[at] = order[i].index;
        if (me->offset + me->bytes > *slab)
            *slab = me->offset + me->bytes;
    }
    rc = 0;
out:
    free(order);
    free(placed);
    return rc;
}
