/* SPDX-License-Identifier: Apache-2.0
 * select.c - one ranking of all atoms, made once: within each group (what goes first there) and within each set of
 * groups (what goes first of all). Every choice is then a walk along a ranking. Ties are broken by group and atom, so
 * that the result is one. */
#include "core/prune/select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A count and a product of a count with a decimal fraction may differ by rounding: 10 * (1 - 0.9) is 0.99999... */
static const double SLACK = 1e-9;

/* How near below the wanted cost a choice must come before no more atoms are put back for it. */
static const double CLOSE = 0.998;

struct ranked {
    double score;
    int set, group;
    int64_t atom;
};

struct select {
    const struct select_group *group;
    int n;
    enum select_scope scope;
    int64_t **order;      /* [n][group's n] atoms, the first to go first */
    struct ranked *rank;  /* of all atoms that are ranked across groups, by set, then score */
    int64_t n_rank;
};

static int64_t total_of(const struct select_group *g)
{
    return g->n + g->gone;
}

/* Atoms for at least `channels` channels. */
static int64_t atoms_for(const struct select_group *g, int64_t channels)
{
    const int64_t width = g->width > 0 ? g->width : 1;
    return channels / width + (channels % width != 0);
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Atoms rounded up so that their channels are a multiple of round_to; all if there are not so many. */
static int64_t round_up(const struct select_group *g, int64_t kept)
{
    const int64_t width = g->width > 0 ? g->width : 1, to = g->round_to > 0 ? g->round_to : 1;
    const int64_t step = to / gcd(to, width), over = kept % step;
    if (over == 0)
        return kept;
    return kept > g->n - (step - over) ? g->n : kept + (step - over);
}

int64_t select_lowest(const struct select_group *g)
{
    if (!g->chosen || g->n <= 0)
        return g->n;
    const double most = g->max_ratio < 1 ? g->max_ratio : 1;
    int64_t least = (int64_t)ceil((double)total_of(g) * (1 - most) - SLACK), by_count = atoms_for(g, g->min_keep);
    if (least < by_count)
        least = by_count;
    if (least < 1)
        least = 1;
    return least >= g->n ? g->n : round_up(g, least);
}

/* What a ratio of the group's own leaves. */
static int64_t kept_at(const struct select_group *g, double ratio)
{
    int64_t kept = (int64_t)floor((double)total_of(g) * (1 - ratio) + SLACK), least = select_lowest(g);
    kept = kept > g->n ? g->n : kept < 0 ? 0 : kept;
    kept = round_up(g, kept);
    return kept < least ? least : kept;
}

/* ---- rankings ---- */
static int by_rank(const void *pa, const void *pb)
{
    const struct ranked *a = pa, *b = pb;
    if (a->set != b->set)
        return a->set < b->set ? -1 : 1;
    if (a->score != b->score)
        return a->score < b->score ? -1 : 1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return (a->atom > b->atom) - (a->atom < b->atom);
}

/* Ranked with those of other groups. */
static bool in_ranking(const struct select *s, int i)
{
    const struct select_group *g = &s->group[i];
    return s->scope != SELECT_LAYER && g->chosen && isnan(g->ratio);
}

static int order_group(struct select *s, int i, struct ranked *scratch, struct err *err)
{
    const struct select_group *g = &s->group[i];
    s->order[i] = calloc((size_t)g->n + 1, sizeof **s->order);
    if (!s->order[i])
        return err_set(err, ERR_NOMEM, "out of memory while ranking channels");
    for (int64_t a = 0; a < g->n; a++)
        scratch[a] = (struct ranked){.score = g->chosen ? g->score[a] : 0, .group = i, .atom = a};
    qsort(scratch, (size_t)g->n, sizeof *scratch, by_rank);
    for (int64_t a = 0; a < g->n; a++)
        s->order[i][a] = scratch[a].atom;
    if (!in_ranking(s, i))
        return 0;
    for (int64_t a = 0; a < g->n; a++) {
        s->rank[s->n_rank] = scratch[a];
        s->rank[s->n_rank++].set = s->scope == SELECT_ISOMORPHIC ? g->set : 0;
    }
    return 0;
}

struct select *select_new(const struct select_group *group, int n, enum select_scope scope, struct err *err)
{
    struct select *s = calloc(1, sizeof *s);
    struct ranked *scratch = NULL;
    size_t all = 0, largest = 0;
    int rc = -1;
    for (int i = 0; i < n; i++) {
        all += (size_t)group[i].n;
        largest = (size_t)group[i].n > largest ? (size_t)group[i].n : largest;
    }
    if (s)
        *s = (struct select){.group = group, .n = n, .scope = scope,
                             .order = calloc((size_t)n + 1, sizeof *s->order),
                             .rank = calloc(all + 1, sizeof *s->rank)};
    scratch = calloc(largest + 1, sizeof *scratch);
    if (!s || !s->order || !s->rank || !scratch) {
        err_set(err, ERR_NOMEM, "out of memory while ranking channels");
        goto out;
    }
    for (int i = 0; i < n; i++)
        if (order_group(s, i, scratch, err))
            goto out;
    qsort(s->rank, (size_t)s->n_rank, sizeof *s->rank, by_rank);
    rc = 0;
out:
    free(scratch);
    if (rc == 0)
        return s;
    select_free(s);
    return NULL;
}

void select_free(struct select *s)
{
    if (!s)
        return;
    for (int i = 0; s->order && i < s->n; i++)
        free(s->order[i]);
    free(s->order);
    free(s->rank);
    free(s);
}

/* ---- from a ratio ---- */

/* One set of the ranking, [from, to): the lowest go until enough channels are gone. kept holds n of its groups. */
static void walk(const struct select *s, int64_t from, int64_t to, double ratio, int64_t *kept)
{
    double channels = 0, gone = 0;
    for (int i = 0; i < s->n; i++) {
        const struct select_group *g = &s->group[i];
        if (!in_ranking(s, i) || (s->scope == SELECT_ISOMORPHIC && from < to && g->set != s->rank[from].set))
            continue;
        channels += (double)(total_of(g) * g->width);
        gone += (double)(g->gone * g->width);
    }
    const double stay = floor(channels * (1 - ratio) + SLACK);
    for (int64_t k = from; k < to && channels - gone > stay; k++) {
        const int i = s->rank[k].group;
        if (kept[i] <= select_lowest(&s->group[i]))
            continue;
        kept[i]--;
        gone += (double)s->group[i].width;
    }
}

void select_ratio(const struct select *s, double ratio, int64_t *kept)
{
    for (int i = 0; i < s->n; i++) {
        const struct select_group *g = &s->group[i];
        if (!g->chosen || g->n == 0 || in_ranking(s, i))
            kept[i] = g->n;
        else
            kept[i] = kept_at(g, isnan(g->ratio) ? ratio : g->ratio);
    }
    for (int64_t from = 0, to; from < s->n_rank; from = to) {
        for (to = from + 1; to < s->n_rank && s->rank[to].set == s->rank[from].set; to++)
            ;
        walk(s, from, to, ratio, kept);
    }
    for (int i = 0; i < s->n; i++)
        if (in_ranking(s, i))
            kept[i] = round_up(&s->group[i], kept[i]);
}

void select_each(const struct select *s, const double *ratio, int64_t *kept)
{
    for (int i = 0; i < s->n; i++) {
        const struct select_group *g = &s->group[i];
        kept[i] = !g->chosen || g->n == 0 ? g->n : kept_at(g, isnan(g->ratio) ? ratio[i] : g->ratio);
    }
}

bool **select_gone(const struct select *s, const int64_t *kept, struct err *err)
{
    bool **gone = calloc((size_t)s->n + 1, sizeof *gone);
    if (!gone)
        goto no_memory;
    for (int i = 0; i < s->n; i++) {
        const int64_t n = s->group[i].n, out = n - kept[i];
        if (out <= 0)
            continue;
        if (!(gone[i] = calloc((size_t)n, sizeof **gone)))
            goto no_memory;
        for (int64_t k = 0; k < out; k++)
            gone[i][s->order[i][k]] = true;
    }
    return gone;
no_memory:
    select_gone_free(gone, s->n);
    err_set(err, ERR_NOMEM, "out of memory while choosing channels");
    return NULL;
}

void select_gone_free(bool **gone, int n)
{
    for (int i = 0; gone && i < n; i++)
        free(gone[i]);
    free(gone);
}

/* ---- to a cost ---- */
struct search {
    const struct select *s;
    const struct select_goal *goal;
    int64_t *lo, *hi, *mid; /* too dear; cheap enough; in between */
    double left;            /* of hi */
    bool *refused;          /* [n] one more atom of the group was too dear: it only gets dearer */
};

static bool same(const struct search *x, const int64_t *a, const int64_t *b)
{
    return memcmp(a, b, (size_t)x->s->n * sizeof *a) == 0;
}

/* Halvings on the way to a ratio; a path of the caller's is dear, and what it leaves is put back atom by atom. */
enum { HALVINGS = 60, HALVINGS_PATH = 12 };

/* One ratio for all: hi becomes the choice of the smallest ratio that is cheap enough, lo one just too dear. */
static int bisect(struct search *x, double *ratio, struct err *err)
{
    double lo = 0, hi = 1, left;
    for (int i = 0; i < (x->goal->path ? HALVINGS_PATH : HALVINGS) && !same(x, x->lo, x->hi); i++) {
        const double mid = 0.5 * (lo + hi);
        if (x->goal->path && x->goal->path(x->goal->arg, mid, x->mid, err))
            return -1;
        if (!x->goal->path)
            select_ratio(x->s, mid, x->mid);
        bool cheap = same(x, x->mid, x->hi);
        if (!cheap && !same(x, x->mid, x->lo)) {
            if (x->goal->cost(x->goal->arg, x->mid, &left, err))
                return -1;
            cheap = left <= x->goal->wanted;
            if (cheap)
                x->left = left;
        }
        *(cheap ? &hi : &lo) = mid;
        memcpy(cheap ? x->hi : x->lo, x->mid, (size_t)x->s->n * sizeof *x->mid);
    }
    *ratio = hi;
    return 0;
}

/* The group whose next atom to come back is the most important; -1: none is left to try. */
static int next_back(const struct search *x, const int64_t *limit)
{
    int best = -1;
    double score = 0;
    for (int i = 0; i < x->s->n; i++) {
        const struct select_group *g = &x->s->group[i];
        if (x->refused[i] || !g->chosen || !isnan(g->ratio) || x->hi[i] >= limit[i])
            continue;
        const double v = g->score[x->s->order[i][g->n - x->hi[i] - 1]];
        if (best < 0 || v > score) {
            best = i;
            score = v;
        }
    }
    return best;
}

/* Put atoms back, at most to `limit`, while the cost allows it. */
static int put_back(struct search *x, const int64_t *limit, struct err *err)
{
    while (x->left < x->goal->wanted * CLOSE) {
        const int i = next_back(x, limit);
        if (i < 0)
            break;
        const int64_t was = x->hi[i];
        double left;
        x->hi[i] = round_up(&x->s->group[i], was + 1);
        if (x->goal->cost(x->goal->arg, x->hi, &left, err))
            return -1;
        if (left <= x->goal->wanted) {
            x->left = left;
        } else {
            x->hi[i] = was;
            x->refused[i] = true;
        }
    }
    return 0;
}

int select_target(const struct select *s, const struct select_goal *goal, int64_t *kept, struct select_found *found,
                  struct err *err)
{
    const size_t n = (size_t)s->n + 1;
    struct search x = {.s = s, .goal = goal};
    int64_t *all = calloc(4 * n, sizeof *all);
    double left, low;
    int rc = -1;
    *found = (struct select_found){0};
    x.refused = calloc(n, sizeof *x.refused);
    if (!all || !x.refused) {
        err_set(err, ERR_NOMEM, "out of memory while choosing channels");
        goto out;
    }
    x.lo = all;
    x.hi = all + n;
    x.mid = all + 2 * n;
    int64_t *const most = all + 3 * n;
    select_ratio(s, 0, x.lo);
    select_ratio(s, 1, x.hi);
    memcpy(most, x.lo, n * sizeof *most);
    if (goal->cost(goal->arg, x.lo, &left, err) || goal->cost(goal->arg, x.hi, &low, err))
        goto out;
    *found = (struct select_found){.left = low, .met = low <= goal->wanted, .ratio = 1};
    x.left = low;
    if (left <= goal->wanted) {
        memcpy(x.hi, x.lo, n * sizeof *x.hi);
        *found = (struct select_found){.left = left, .met = true, .ratio = 0};
    } else if (found->met) {
        if (bisect(&x, &found->ratio, err) || put_back(&x, x.lo, err) || put_back(&x, most, err))
            goto out;
        found->left = x.left;
    }
    memcpy(kept, x.hi, (size_t)s->n * sizeof *kept);
    rc = 0;
out:
    free(x.refused);
    free(all);
    return rc;
}

double select_ramp(enum select_schedule schedule, double ratio, int64_t step, int64_t steps)
{
    return step >= steps ? ratio : select_ramp_at(schedule, ratio, (double)step / (double)steps);
}

double select_ramp_at(enum select_schedule schedule, double ratio, double t)
{
    if (t >= 1)
        return ratio;
    switch (schedule) {
    case SELECT_LINEAR:
        return ratio * t;
    case SELECT_CUBIC:
        return ratio * (1 - (1 - t) * (1 - t) * (1 - t));
    case SELECT_CONSTANT:
        break;
    }
    return 1 - pow(1 - ratio, t);
}
