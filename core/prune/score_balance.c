/* SPDX-License-Identifier: Apache-2.0
 * score_balance.c - scores of one group whose atoms lie on different axes, made fit for taking the lowest.
 * Why        The atoms of a fused query-key-value weight are of two kinds, those that query and key share and those of
 *            the values; a channel shuffle makes many kinds. Ranked together, one kind may go altogether, and with it
 *            an axis: nothing would be left of a Split's output.
 * How        Atoms on the same axes are a kind. Within a kind the score ranks; kinds then go in step, by the share of
 *            their atoms that is gone already. The best atom of every axis goes last. The scores themselves stay the
 *            same numbers, given to other atoms, so that groups compare as before; a group of one kind is untouched. */
#include <stdlib.h>
#include <string.h>

#include "core/prune/score.h"

enum { KIND_LEAST = 4 }; /* kinds of fewer atoms are taken together */

struct place {
    uint64_t kind;
    double score, share; /* share: of its kind that goes before it; above 1: goes last */
    int64_t atom;
};

static int by_number(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_kind(const void *pa, const void *pb)
{
    const struct place *a = pa, *b = pb;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->score != b->score)
        return a->score < b->score ? -1 : 1;
    return by_number(a->atom, b->atom);
}

static int by_share(const void *pa, const void *pb)
{
    const struct place *a = pa, *b = pb;
    if (a->share != b->share)
        return a->share < b->share ? -1 : 1;
    if (a->score != b->score)
        return a->score < b->score ? -1 : 1;
    return by_number(a->atom, b->atom);
}

static int by_score(const void *pa, const void *pb)
{
    const struct place *a = pa, *b = pb;
    return a->score != b->score ? (a->score < b->score ? -1 : 1) : by_number(a->atom, b->atom);
}

static bool better(const double *score, int a, int b)
{
    const bool later = a > b;
    return later ? score[a] >= score[b] : score[a] > score[b];
}

/* Marks the best atom of every axis that no marked atom lies on yet. */
static void mark_best(const struct group *g, const double *score, bool *best)
{
    for (int k = 0; k < g->n_members; k++) {
        const struct group_member *m = &g->member[k];
        int found = ATOM_NONE;
        for (int64_t e = 0; e < m->size; e++) {
            const int a = m->atom[e];
            if (a == ATOM_NONE)
                continue;
            if (best[a]) {
                found = ATOM_NONE;
                break;
            }
            if (found == ATOM_NONE || better(score, a, found))
                found = a;
        }
        if (found != ATOM_NONE)
            best[found] = true;
    }
}

/* A number for the set of axes each atom lies on. */
static void number_kinds(const struct group *g, struct place *p, int *seen)
{
    for (int k = 0; k < g->n_members; k++) {
        const struct group_member *m = &g->member[k];
        uint64_t h = (uint64_t)(k + 1) * UINT64_C(0x9e3779b97f4a7c15);
        h = (h ^ h >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
        for (int64_t e = 0; e < m->size; e++) {
            const int a = m->atom[e];
            if (a == ATOM_NONE || seen[a] == k + 1)
                continue;
            seen[a] = k + 1;
            p[a].kind += h ^ h >> 32;
        }
    }
}

/* Sorted by kind: each atom's share, small kinds together. True if there is more than one kind. */
static bool set_shares(struct place *p, int64_t n)
{
    for (int64_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && p[to].kind == p[from].kind; to++)
            ;
        for (int64_t i = from; to - from < KIND_LEAST && i < to; i++)
            p[i].share = -1;
    }
    for (int64_t i = 0; i < n; i++)
        if (p[i].share < 0)
            p[i].kind = 0;
    qsort(p, (size_t)n, sizeof *p, by_kind);
    bool several = false;
    for (int64_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && p[to].kind == p[from].kind; to++)
            ;
        several = several || from > 0;
        for (int64_t i = from; i < to; i++)
            p[i].share = (double)(i - from + 1) / (double)(to - from + 1);
    }
    return several;
}

int score_balance(const struct group *g, double *score, struct err *err)
{
    const size_t n = (size_t)g->n;
    struct place *p = calloc(n + 1, sizeof *p);
    double *sorted = calloc(n + 1, sizeof *sorted);
    bool *best = calloc(n + 1, sizeof *best);
    int *seen = calloc(n + 1, sizeof *seen), rc = -1;
    if (!p || !sorted || !best || !seen) {
        err_set(err, ERR_NOMEM, "out of memory for scores");
        goto out;
    }
    rc = 0;
    for (int64_t a = 0; a < g->n; a++)
        p[a] = (struct place){.score = score[a], .atom = a};
    number_kinds(g, p, seen);
    qsort(p, n, sizeof *p, by_kind);
    if (!set_shares(p, g->n))
        goto out;
    mark_best(g, score, best);
    for (int64_t i = 0; i < g->n; i++)
        if (best[p[i].atom])
            p[i].share = 2;
    qsort(p, n, sizeof *p, by_score);
    for (int64_t i = 0; i < g->n; i++)
        sorted[i] = p[i].score;
    qsort(p, n, sizeof *p, by_share);
    for (int64_t i = 0; i < g->n; i++)
        score[p[i].atom] = sorted[i];
out:
    free(p);
    free(sorted);
    free(best);
    free(seen);
    return rc;
}

int64_t score_least(const struct group *g, const double *score)
{
    struct place *p = calloc((size_t)g->n + 1, sizeof *p);
    bool *best = calloc((size_t)g->n + 1, sizeof *best);
    int64_t least = g->n;
    if (p && best) {
        for (int64_t a = 0; a < g->n; a++)
            p[a] = (struct place){.score = score[a], .atom = a};
        qsort(p, (size_t)g->n, sizeof *p, by_score);
        mark_best(g, score, best);
        int64_t first = 0;
        while (first < g->n - 1 && !best[p[first].atom])
            first++;
        least = g->n - first;
    }
    free(p);
    free(best);
    return least;
}
