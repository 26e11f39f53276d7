/* SPDX-License-Identifier: Apache-2.0
 * split.c - a seeded, stratified split (split.h). Samples are put in order of (class, random key): the first ones of each
 * class are held. Quotas are rounded down, and what is left goes to the classes that lost most (largest remainder), so that the
 * parts have the sizes asked for. */
#include "core/data/split.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"

enum { STREAM_SPLIT = 0x5711 };

struct keyed {
    int64_t label, index;
    uint64_t key;
};
struct group {
    int64_t first, count, held;
    double left; /* of the quota, after rounding down */
};

static int by_key(const void *pa, const void *pb)
{
    const struct keyed *a = pa, *b = pb;
    if (a->label != b->label)
        return a->label < b->label ? -1 : 1;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static int by_remainder(const void *pa, const void *pb)
{
    const struct group *a = pa, *b = pb;
    if (a->left != b->left)
        return a->left > b->left ? -1 : 1;
    return a->first < b->first ? -1 : 1;
}

static int64_t find_groups(const struct keyed *at, int64_t n, struct group *groups)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || at[i].label != at[i - 1].label)
            groups[count++] = (struct group){.first = i};
        groups[count - 1].count++;
    }
    return count;
}

/* groups come back in another order. */
static void set_quotas(struct group *groups, int64_t n_groups, double share, int64_t wanted)
{
    int64_t held = 0;
    for (int64_t g = 0; g < n_groups; g++) {
        double quota = share * (double)groups[g].count;
        groups[g].held = (int64_t)floor(quota);
        groups[g].left = groups[g].count > 1 ? quota - floor(quota) : -1;
        held += groups[g].held;
    }
    qsort(groups, (size_t)n_groups, sizeof *groups, by_remainder);
    for (bool moved = true; moved && held < wanted;) {
        moved = false;
        for (int64_t g = 0; g < n_groups && held < wanted; g++)
            if (groups[g].held + 1 < groups[g].count) {
                groups[g].held++;
                held++;
                moved = true;
            }
    }
}

static void fill(struct split *s, const struct keyed *at, const struct group *groups, int64_t n_groups, bool *is_held,
                 int64_t n)
{
    for (int64_t g = 0; g < n_groups; g++)
        for (int64_t i = 0; i < groups[g].held; i++)
            is_held[at[groups[g].first + i].index] = true;
    for (int64_t i = 0; i < n; i++) {
        if (is_held[i])
            s->held[s->n_held++] = i;
        else
            s->rest[s->n_rest++] = i;
    }
}

int split_make(struct split *s, const int64_t *label, int64_t n, double share, uint64_t seed, struct err *err)
{
    *s = (struct split){0};
    if (n < 2)
        return err_set(err, ERR_DATASET, "%lld sample%s cannot be split into one part to learn from and one to decide by; "
                       "give a validation set, or at least two samples", (long long)n, n == 1 ? "" : "s");
    int64_t wanted = (int64_t)llround(share * (double)n);
    wanted = wanted < 1 ? 1 : wanted > n - 1 ? n - 1 : wanted;
    int rc = -1;
    struct rng rng;
    rng_init(&rng, seed, STREAM_SPLIT);
    struct keyed *at = calloc((size_t)n, sizeof *at);
    struct group *groups = calloc((size_t)n, sizeof *groups);
    bool *is_held = calloc((size_t)n, sizeof *is_held);
    s->rest = calloc((size_t)n, sizeof *s->rest);
    s->held = calloc((size_t)n, sizeof *s->held);
    if (!at || !groups || !is_held || !s->rest || !s->held) {
        err_set(err, ERR_NOMEM, "out of memory while splitting a dataset");
        goto out;
    }
    for (int64_t i = 0; i < n; i++)
        at[i] = (struct keyed){label ? label[i] : 0, i, rng_u64(&rng)};
    qsort(at, (size_t)n, sizeof *at, by_key);
    int64_t n_groups = find_groups(at, n, groups);
    if (n_groups == n) { /* a sample a class: classes say nothing */
        for (int64_t i = 0; i < n; i++)
            at[i].label = 0;
        qsort(at, (size_t)n, sizeof *at, by_key);
        n_groups = find_groups(at, n, groups);
    }
    set_quotas(groups, n_groups, share, wanted);
    fill(s, at, groups, n_groups, is_held, n);
    rc = 0;
out:
    free(at);
    free(groups);
    free(is_held);
    if (rc)
        split_fini(s);
    return rc;
}

int split_dataset(struct split *s, const struct dataset *ds, double share, uint64_t seed, struct err *err)
{
    const int64_t n = dataset_count(ds);
    *s = (struct split){0};
    if (!dataset_labels_are_classes(ds))
        return split_make(s, NULL, n, share, seed, err);
    int64_t *label = calloc((size_t)n + 1, sizeof *label);
    if (!label)
        return err_set(err, ERR_NOMEM, "out of memory while splitting a dataset");
    for (int64_t i = 0; i < n; i++)
        label[i] = dataset_class(ds, i);
    const int rc = split_make(s, label, n, share, seed, err);
    free(label);
    return rc;
}

void split_fini(struct split *s)
{
    free(s->rest);
    free(s->held);
    *s = (struct split){0};
}

int64_t split_spread(const int64_t *index, int64_t n, int64_t wanted, int64_t *out)
{
    const int64_t count = wanted <= 0 || wanted > n ? n : wanted;
    for (int64_t i = 0; i < count; i++)
        out[i] = index[(int64_t)((double)i * (double)n / (double)count)];
    return count;
}
