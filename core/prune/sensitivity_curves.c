/* SPDX-License-Identifier: Apache-2.0
 * sensitivity_curves.c - curves of loss against ratio, one group at a time, and shares of a target from them (sensitivity.h).
 *
 * Measuring  A point is a clone with one group cut, run over the reference's samples. The middle ratio comes first for every group, then
 *            those beside it: a budget that ends early leaves every curve coarse instead of some curves empty.
 * Allocating The curve is made to rise (a measured loss that falls again is noise) and its lower convex hull taken: along it, what
 *            the next channel costs only grows. What a channel saves only shrinks while others go. So the group whose next step is
 *            cheapest for what it saves can be taken over and over, and a price that was true before is a lower bound
 *            now: a heap of old prices, of which only the top is ever computed anew. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/prune/score.h"
#include "core/prune/sensitivity.h"

enum { STEPS = 32 }; /* of a whole group, in the walk */

const double sensitivity_ratios[SENSITIVITY_N_RATIOS] = {0.1, 0.3, 0.5, 0.7, 0.9};

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while measuring the sensitivity of channels");
}

/* ---- measuring ---- */
struct ranked {
    double score;
    int64_t atom;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return (x->atom > y->atom) - (x->atom < y->atom);
}

static const int64_t *removal_order(struct arena *arena, const double *score, int64_t n)
{
    struct ranked *list = calloc((size_t)n + 1, sizeof *list);
    int64_t *order = arena_calloc(arena, (size_t)n + 1, sizeof *order);
    if (list && order) {
        for (int64_t i = 0; i < n; i++)
            list[i] = (struct ranked){score[i], i};
        qsort(list, (size_t)n, sizeof *list, by_score);
        for (int64_t i = 0; i < n; i++)
            order[i] = list[i].atom;
    }
    const bool made = list != NULL;
    free(list);
    return made ? order : NULL;
}

/* Small slack: 10 * (1 - 0.9) is 0.99999... */
static int64_t kept_at(int64_t n, double ratio, int64_t min_keep)
{
    int64_t kept = (int64_t)floor((double)n * (1 - ratio) + 1e-9);
    kept = kept < min_keep ? min_keep : kept;
    return kept > n ? n : kept;
}

static int prepare_curve(struct sensitivity *s, const struct sensitivity_opts *o, int i, struct err *err)
{
    const struct group *g = &o->groups->at[i];
    struct sensitivity_curve *c = &s->at[i];
    int64_t min_keep = o->min_keep > 0 ? o->min_keep : 1;
    if (g->n > 0 && o->score[i]) {
        const int64_t least = score_least(g, o->score[i]);
        min_keep = c->least = least > min_keep ? least : min_keep;
    }
    if (g->n == 0 || !o->score[i])
        c->skipped = g->frozen ? g->frozen : "nothing of it can go";
    else if (o->selected && !o->selected[i])
        c->skipped = "not selected";
    else if (g->n <= min_keep)
        c->skipped = "it is as small as it may become";
    if (c->skipped)
        return 0;
    c->order = removal_order(s->arena, o->score[i], g->n);
    c->at = arena_calloc(s->arena, (size_t)o->n_ratios + 1, sizeof *c->at);
    if (!c->order || !c->at)
        return no_memory(err);
    c->n = o->n_ratios;
    for (int k = 0; k < c->n; k++)
        c->at[k] = (struct sensitivity_point){
            .ratio = o->ratios[k], .kept = kept_at(g->n, o->ratios[k], min_keep), .loss = NAN};
    return 0;
}

static int run_without(const struct sensitivity_opts *o, int i, const struct sensitivity_curve *c,
                       struct sensitivity_point *p, struct err *err)
{
    const struct group *g = &o->groups->at[i];
    const bool **gone = calloc((size_t)o->groups->n + 1, sizeof *gone);
    bool *flags = calloc((size_t)g->n + 1, sizeof *flags);
    struct model *m = NULL;
    int rc = -1;
    if (!gone || !flags) {
        no_memory(err);
        goto out;
    }
    for (int64_t k = 0; k < g->n - p->kept; k++)
        flags[c->order[k]] = true;
    gone[i] = flags;
    m = model_clone(o->model, err);
    if (!m || groups_remove(o->groups, m, gone, err) || (o->repair && o->repair(o->repair_arg, m, err)))
        rc = -1;
    else
        rc = reference_compare(o->reference, m, 0, &p->c, err);
    if (rc)
        err_wrap(err, "group '%.200s' with %lld of %lld channels: ", g->name, (long long)p->kept, (long long)g->n);
out:
    model_free(m);
    free(flags);
    free(gone);
    return rc;
}

static int measure_point(const struct sensitivity_opts *o, struct sensitivity *s, int i, int k, struct err *err)
{
    struct sensitivity_curve *c = &s->at[i];
    struct sensitivity_point *p = &c->at[k];
    const struct sensitivity_point *same = NULL;
    for (int j = 0; j < c->n; j++)
        if (c->at[j].measured && c->at[j].kept == p->kept)
            same = &c->at[j];
    if (same)
        p->c = same->c;
    else if (p->kept == o->groups->at[i].n)
        p->c = *reference_own(o->reference);
    else if (run_without(o, i, c, p, err))
        return -1;
    p->measured = true;
    p->loss = p->c.classes ? p->c.kl : p->c.noise;
    return 0;
}

/* The k-th ratio to be measured: the middle one, the one below it, the one above, ... */
static int turn(int k, int n)
{
    const int middle = n / 2, away = (k + 1) / 2;
    const int at = k % 2 ? middle - away : middle + away;
    return at >= 0 && at < n ? at : -1;
}

static int measure_all(struct sensitivity *s, const struct sensitivity_opts *o, struct err *err)
{
    const double started = clock_seconds();
    int64_t done = 0, total = 0;
    for (int i = 0; i < s->n; i++)
        total += s->at[i].n;
    for (int round = 0; round < 2 * o->n_ratios; round++) {
        const int k = turn(round, o->n_ratios);
        for (int i = 0; k >= 0 && i < s->n; i++) {
            if (k >= s->at[i].n)
                continue;
            if (o->progress && o->progress(o->progress_arg, done, total, err))
                return -1;
            done++;
            if (o->budget_s > 0 && clock_seconds() - started >= o->budget_s)
                s->missing++;
            else if (measure_point(o, s, i, k, err))
                return -1;
        }
    }
    s->seconds = clock_seconds() - started;
    return 0;
}

struct sensitivity *sensitivity_measure(const struct sensitivity_opts *o, struct err *err)
{
    struct sensitivity *s = calloc(1, sizeof *s);
    if (!s || !(s->arena = arena_new()) || !(s->at = arena_calloc(s->arena, (size_t)o->groups->n + 1, sizeof *s->at))) {
        no_memory(err);
        sensitivity_free(s);
        return NULL;
    }
    s->n = o->groups->n;
    s->groups = o->groups;
    int rc = 0;
    for (int i = 0; i < s->n && rc == 0; i++)
        rc = prepare_curve(s, o, i, err);
    if (rc || measure_all(s, o, err)) {
        sensitivity_free(s);
        return NULL;
    }
    return s;
}

void sensitivity_free(struct sensitivity *s)
{
    if (!s)
        return;
    arena_free(s->arena);
    free(s);
}

/* ---- reading a curve ---- */

/* A corner of a curve: loss when so many atoms are gone. */
struct corner {
    double gone, loss;
};

/* The measured points from (0, 0) on, made to rise. corner: [n + 1]. Returns how many. */
static int corners_of(const struct sensitivity_curve *c, int64_t n, struct corner *corner)
{
    int count = 1;
    corner[0] = (struct corner){0, 0};
    for (int k = 0; k < c->n; k++) {
        const double gone = (double)(n - c->at[k].kept);
        if (!c->at[k].measured || gone <= corner[count - 1].gone)
            continue;
        const double low = corner[count - 1].loss;
        const double loss = isfinite(c->at[k].loss) ? c->at[k].loss : 1e6;
        corner[count++] = (struct corner){gone, loss > low ? loss : low};
    }
    return count;
}

static double loss_at(const struct corner *corner, int count, double gone)
{
    if (count < 2)
        return NAN;
    int k = 1;
    while (k < count - 1 && corner[k].gone < gone)
        k++;
    const struct corner a = corner[k - 1], b = corner[k];
    return a.loss + (b.loss - a.loss) * (gone - a.gone) / (b.gone - a.gone);
}

double sensitivity_loss_at(const struct sensitivity *s, int group, double ratio)
{
    const struct sensitivity_curve *c = &s->at[group];
    const int64_t n = s->groups->at[group].n;
    struct corner *corner = calloc((size_t)c->n + 2, sizeof *corner);
    const double loss = corner ? loss_at(corner, corners_of(c, n, corner), ratio * (double)n) : NAN;
    free(corner);
    return loss;
}

/* The part of the curve up to `most`, and of that the lower convex hull, in place. */
static int hull_of(struct corner *corner, int count, double most)
{
    const double end = loss_at(corner, count, most);
    int n = 0, hull = 0;
    while (n < count && corner[n].gone < most)
        n++;
    corner[n++] = (struct corner){most, end};
    for (int k = 0; k < n; k++) {
        const struct corner p = corner[k];
        while (hull >= 2) {
            const struct corner a = corner[hull - 2], b = corner[hull - 1];
            if ((b.loss - a.loss) * (p.gone - a.gone) < (p.loss - a.loss) * (b.gone - a.gone))
                break;
            hull--;
        }
        corner[hull++] = p;
    }
    return hull;
}

/* ---- allocating ---- */
struct walker {
    struct corner *hull;
    int n_hull;
    int64_t gone, most;
    double price; /* of its next step; may be old */
};
struct walk {
    const struct sensitivity *s;
    const struct sensitivity_target *target;
    struct walker *at;
    bool **flags; /* [n groups] */
    int *heap, n_heap;
    double whole, left; /* of the figure */
};

static int figure_now(struct walk *w, double *figure, struct err *err)
{
    struct groups_cost cost;
    if (w->target->figure == SENSITIVITY_CHANNELS) {
        *figure = 0;
        for (int i = 0; i < w->s->n; i++)
            *figure += w->at[i].n_hull ? (double)(w->s->groups->at[i].n - w->at[i].gone) : 0;
        return 0;
    }
    if (groups_cost(w->s->groups, (const bool *const *)w->flags, &cost, err))
        return -1;
    const int64_t v = w->target->figure == SENSITIVITY_MACS     ? cost.macs
                      : w->target->figure == SENSITIVITY_PARAMS ? cost.params
                                                                : cost.bytes;
    if (v < 0)
        return err_set(
            err, ERR_MODEL,
            "the model's multiply-accumulates are not known, because shapes in it are not; set the target on "
            "params instead");
    *figure = (double)v;
    return 0;
}

/* Give walker i `gone` atoms gone. */
static void move_to(struct walk *w, int i, int64_t gone)
{
    const int64_t *order = w->s->at[i].order;
    struct walker *x = &w->at[i];
    for (; x->gone < gone; x->gone++)
        w->flags[i][order[x->gone]] = true;
    for (; x->gone > gone; x->gone--)
        w->flags[i][order[x->gone - 1]] = false;
}

/* Atoms gone after the next step: along one edge of the hull. */
static int64_t next_stop(const struct walk *w, int i)
{
    const struct walker *x = &w->at[i];
    const int64_t n = w->s->groups->at[i].n, stride = n > STEPS ? n / STEPS : 1;
    int64_t stop = x->gone + stride;
    int k = 1;
    while (k < x->n_hull - 1 && x->hull[k].gone <= (double)x->gone)
        k++;
    if (x->n_hull > 1 && (double)stop > x->hull[k].gone && (int64_t)x->hull[k].gone > x->gone)
        stop = (int64_t)x->hull[k].gone;
    return stop < x->most ? stop : x->most;
}

/* What the next step loses for a share of the figure that it saves. */
static int price_now(struct walk *w, int i, double *price, struct err *err)
{
    struct walker *x = &w->at[i];
    const int64_t was = x->gone, stop = next_stop(w, i);
    const double loss = loss_at(x->hull, x->n_hull, (double)stop) - loss_at(x->hull, x->n_hull, (double)was);
    double then;
    move_to(w, i, stop);
    const int rc = figure_now(w, &then, err);
    move_to(w, i, was);
    if (rc)
        return -1;
    const double saved = (w->left - then) / w->whole;
    /* a little loss for what costs none, so that the larger saving comes first */
    *price = saved > 0 ? (loss + 1e-9) / saved : INFINITY;
    return 0;
}

static bool before(const struct walk *w, int a, int b)
{
    return w->at[a].price != w->at[b].price ? w->at[a].price < w->at[b].price : a < b;
}

static void sift(struct walk *w, int at)
{
    for (;;) {
        int least = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < w->n_heap; child++)
            if (before(w, w->heap[child], w->heap[least]))
                least = child;
        if (least == at)
            return;
        const int other = w->heap[at];
        w->heap[at] = w->heap[least];
        w->heap[least] = other;
        at = least;
    }
}

/* The last step went beyond what was wanted: its smallest part that still does. */
static int step_back(struct walk *w, int i, int64_t was, double wanted, struct err *err)
{
    int64_t lo = was, hi = w->at[i].gone;
    while (hi - lo > 1) {
        const int64_t middle = lo + (hi - lo) / 2;
        double left;
        move_to(w, i, middle);
        if (figure_now(w, &left, err))
            return -1;
        *(left <= wanted ? &hi : &lo) = middle;
    }
    move_to(w, i, hi);
    return figure_now(w, &w->left, err);
}

static int walk_down(struct walk *w, double wanted, struct err *err)
{
    while (w->n_heap > 0 && w->left > wanted) {
        const int i = w->heap[0];
        double price;
        if (price_now(w, i, &price, err))
            return -1;
        if (price > w->at[i].price) { /* the old price was too low: maybe another is first now */
            w->at[i].price = price;
            sift(w, 0);
            if (w->heap[0] != i)
                continue;
        }
        const int64_t was = w->at[i].gone;
        move_to(w, i, next_stop(w, i));
        if (figure_now(w, &w->left, err) || (w->left <= wanted && step_back(w, i, was, wanted, err)))
            return -1;
        if (w->at[i].gone < w->at[i].most) {
            if (price_now(w, i, &w->at[i].price, err))
                return -1;
        } else {
            w->heap[0] = w->heap[--w->n_heap];
        }
        sift(w, 0);
    }
    return 0;
}

static int start_walker(struct walk *w, int i, struct err *err)
{
    const struct sensitivity_target *t = w->target;
    const struct sensitivity_curve *c = &w->s->at[i];
    const int64_t n = w->s->groups->at[i].n, min_keep = t->min_keep > c->least ? t->min_keep : c->least;
    struct walker *x = &w->at[i];
    if (c->n == 0 || (t->selected && !t->selected[i]))
        return 0;
    x->hull = calloc((size_t)c->n + 2, sizeof *x->hull);
    w->flags[i] = calloc((size_t)n + 1, sizeof **w->flags);
    if (!x->hull || !w->flags[i])
        return no_memory(err);
    const int count = corners_of(c, n, x->hull);
    const double far = x->hull[count - 1].gone, most = t->most ? fmin(t->most[i], 1) * (double)n + 1e-9 : far;
    x->most = (int64_t)most < n - min_keep ? (int64_t)most : n - min_keep;
    if (count < 2 || x->most < 1)
        x->most = 0;
    x->n_hull = x->most > 0 ? hull_of(x->hull, count, (double)x->most) : 0;
    return 0;
}

static int start(struct walk *w, struct err *err)
{
    const size_t n = (size_t)w->s->n + 1;
    w->at = calloc(n, sizeof *w->at);
    w->flags = calloc(n, sizeof *w->flags);
    w->heap = calloc(n, sizeof *w->heap);
    if (!w->at || !w->flags || !w->heap)
        return no_memory(err);
    for (int i = 0; i < w->s->n; i++)
        if (start_walker(w, i, err))
            return -1;
    if (figure_now(w, &w->whole, err))
        return -1;
    w->left = w->whole;
    for (int i = 0; i < w->s->n && w->whole > 0; i++) {
        if (!w->at[i].n_hull)
            continue;
        if (price_now(w, i, &w->at[i].price, err))
            return -1;
        w->heap[w->n_heap++] = i;
    }
    for (int at = w->n_heap / 2; at-- > 0;)
        sift(w, at);
    return 0;
}

int sensitivity_allocate(const struct sensitivity *s, const struct sensitivity_target *target, double *ratio,
                         struct sensitivity_plan *plan, struct err *err)
{
    struct walk w = {.s = s, .target = target};
    int rc = -1;
    *plan = (struct sensitivity_plan){0};
    if (start(&w, err) || walk_down(&w, target->kept * w.whole + 1e-6, err))
        goto out;
    for (int i = 0; i < s->n; i++) {
        const int64_t n = s->groups->at[i].n;
        ratio[i] = n > 0 ? (double)w.at[i].gone / (double)n : 0;
        if (ratio[i] > 0)
            plan->predicted += sensitivity_loss_at(s, i, ratio[i]);
    }
    plan->kept = w.whole > 0 ? w.left / w.whole : 1;
    plan->met = w.whole > 0 && w.left <= target->kept * w.whole + 1e-6;
    rc = 0;
out:
    for (int i = 0; i < s->n; i++) {
        if (w.at)
            free(w.at[i].hull);
        if (w.flags)
            free(w.flags[i]);
    }
    free(w.at);
    free(w.flags);
    free(w.heap);
    return rc;
}
