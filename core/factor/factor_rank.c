/* SPDX-License-Identifier: Apache-2.0
 * factor_rank.c - which ranks the layers get (factor.h).
 *
 * A target is met by a greedy walk: from the original on, the step that adds least error for what it saves is taken,
 * along the lower convex hull of each layer's points, so that every step is the steepest the layer has left. The last
 * step saves more than is needed; what is left over is then spent where it takes away most error, on any point that
 * fits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/model/parameters.h"

static const char too_small[] = "it is too small: no rank saves multiply-accumulates and parameters";

bool rank_target_parse(const char *text, struct rank_rule *rule)
{
    static const char *const figures[] = {"macs", "params", "bytes"};
    const char *colon = strchr(text, ':');
    char *end;
    *rule = (struct rank_rule){.by = RANK_TARGET};
    for (size_t i = 0; colon && i < sizeof figures / sizeof *figures; i++)
        if (strlen(figures[i]) == (size_t)(colon - text) && !strncmp(text, figures[i], (size_t)(colon - text)))
            rule->figure = figures[i];
    if (!rule->figure)
        return false;
    rule->amount = strtod(colon + 1, &end);
    return end != colon + 1 && *end == 0 && rule->amount > 0 && rule->amount < 1;
}

/* ---- a layer by itself ---- */
static const char *choose_ratio(struct layer *l, const struct rank_rule *rule)
{
    for (int i = 0; i < l->n_points; i++)
        if ((double)l->at[i].macs <= rule->amount * (double)l->macs &&
            (l->chosen < 0 || l->at[i].error < l->at[l->chosen].error))
            l->chosen = i;
    return l->chosen < 0 ? "even the lowest rank costs more than this ratio" : NULL;
}

static const char *choose_energy(struct layer *l, const struct rank_rule *rule)
{
    for (int i = 0; i < l->n_points; i++)
        if (l->at[i].error <= 1 - rule->amount && (l->chosen < 0 || l->at[i].macs < l->at[l->chosen].macs))
            l->chosen = i;
    return l->chosen < 0 ? "the rank that keeps this energy saves nothing" : NULL;
}

/* The point of these ranks, added if it is not there: its error is then not known, but that of the next lower ranks. */
static int choose_exactly(struct layer *l, const struct scheme *s, const int64_t rank[2], struct err *err)
{
    double error = 1;
    for (int i = 0; i < l->n_points; i++) {
        if (l->at[i].rank[0] == rank[0] && l->at[i].rank[1] == rank[1])
            l->chosen = i;
        if (l->at[i].rank[0] <= rank[0] && l->at[i].rank[1] <= rank[1] && l->at[i].error < error)
            error = l->at[i].error;
    }
    const int before = l->n_points;
    if (l->chosen < 0 && layer_add_point(l, s, rank, error, err))
        return -1;
    if (l->n_points > before)
        l->chosen = before;
    if (l->chosen < 0)
        l->why = "at this rank it saves nothing";
    return 0;
}

static int choose_fixed(struct layer *l, const struct scheme *s, const struct rank_rule *rule, const double *w,
                        struct err *err)
{
    int64_t rank[2] = {rule->rank, rule->rank}, most[2] = {0, 0};
    if (rule->by == RANK_VBMF && s->vbmf(l, w, rank, err))
        return -1;
    for (int i = 0; i < l->n_points; i++)
        for (int k = 0; k < 2; k++)
            most[k] = i64_max(most[k], l->at[i].rank[k]);
    for (int k = 0; k < 2; k++)
        if (most[k] == 0) {
            rank[k] = 0;
        } else if (rank[k] > most[k]) {
            /* a side of two may keep all it has; the only one would save nothing */
            rank[k] = most[k];
            if (most[1] == 0) {
                l->why = "at this rank it saves nothing";
                return 0;
            }
        }
    return choose_exactly(l, s, rank, err);
}

int rank_choose(struct layer *l, const struct scheme *s, const struct rank_rule *rule, const double *w, struct err *err)
{
    if (l->n_points == 0)
        l->why = too_small;
    else if (rule->by == RANK_RATIO)
        l->why = choose_ratio(l, rule);
    else if (rule->by == RANK_ENERGY)
        l->why = choose_energy(l, rule);
    else if (rule->by != RANK_TARGET)
        return choose_fixed(l, s, rule, w, err);
    return 0;
}

/* ---- all layers ---- */
/* A way a layer can be: the original (point -1) or one of its points. */
struct option {
    int point;
    double cost, error;
};
struct ladder {
    struct layer *l;
    struct option *at; /* falling cost, rising error: the lower convex hull */
    int n, now;
};
struct allocation {
    struct ladder *at;
    int n;
};

static double cost_of(const struct layer *l, int point, const struct rank_rule *rule)
{
    const double unit = rule->figure[0] == 'b' ? (double)dtype_bits(l->dtype) / 8 : 1;
    if (rule->figure[0] == 'm')
        return (double)(point < 0 ? l->macs : l->at[point].macs);
    return unit * (double)(point < 0 ? l->params : l->at[point].params);
}

static double error_of(const struct layer *l, int point)
{
    return point < 0 ? 0 : l->importance * l->at[point].error;
}

static int by_cost(const void *a, const void *b)
{
    const struct option *x = a, *y = b;
    if (x->cost < y->cost || x->cost > y->cost)
        return x->cost < y->cost ? 1 : -1;
    if (x->error < y->error || x->error > y->error)
        return x->error < y->error ? -1 : 1;
    return x->point - y->point;
}

static double slope(const struct option *a, const struct option *b)
{
    return (b->error - a->error) / (a->cost - b->cost);
}

static int make_ladder(struct ladder *x, struct layer *l, const struct rank_rule *rule, struct err *err)
{
    struct option *all = calloc((size_t)l->n_points + 1, sizeof *all);
    x->l = l;
    x->at = all;
    if (!all)
        return err_set(err, ERR_NOMEM, "out of memory while choosing ranks");
    for (int i = 0; i <= l->n_points; i++)
        all[i] = (struct option){i - 1, cost_of(l, i - 1, rule), error_of(l, i - 1)};
    qsort(all, (size_t)l->n_points + 1, sizeof *all, by_cost);
    for (int i = 0; i <= l->n_points; i++) {
        const struct option o = all[i];
        if (x->n > 0 && !(o.cost < x->at[x->n - 1].cost)) /* as dear, and no better */
            continue;
        while (x->n > 1 && (o.error <= x->at[x->n - 1].error ||
                            slope(&x->at[x->n - 2], &x->at[x->n - 1]) >= slope(&x->at[x->n - 1], &o)))
            x->n--;
        x->at[x->n++] = o;
    }
    return 0;
}

static double spend(const struct allocation *a, double fixed)
{
    double sum = fixed;
    for (int i = 0; i < a->n; i++)
        sum += a->at[i].at[a->at[i].now].cost;
    return sum;
}

/* Down the flattest steps until the cost is within `most`. */
static void walk_down(struct allocation *a, double fixed, double most)
{
    double now = spend(a, fixed);
    while (now > most) {
        int best = -1;
        double least = INFINITY;
        for (int i = 0; i < a->n; i++) {
            const struct ladder *x = &a->at[i];
            if (x->now + 1 < x->n && slope(&x->at[x->now], &x->at[x->now + 1]) < least) {
                least = slope(&x->at[x->now], &x->at[x->now + 1]);
                best = i;
            }
        }
        if (best < 0)
            return;
        a->at[best].now++;
        now = spend(a, fixed);
    }
}

/* What is left of the budget goes where it takes away most error, on any point. */
static void spend_rest(struct allocation *a, const struct rank_rule *rule, double left)
{
    for (;;) {
        struct layer *best = NULL;
        int point = -1;
        double most = 0, cost = 0;
        for (int i = 0; i < a->n; i++) {
            struct layer *l = a->at[i].l;
            for (int p = -1; p < l->n_points; p++) {
                const double more = cost_of(l, p, rule) - cost_of(l, l->chosen, rule),
                             gain = error_of(l, l->chosen) - error_of(l, p);
                if (p != l->chosen && more <= left && gain > most) {
                    most = gain;
                    best = l;
                    point = p;
                    cost = more;
                }
            }
        }
        if (!best)
            return;
        best->chosen = point;
        left -= cost;
    }
}

static double total_of(const struct layers *x, const struct model *m, const struct rank_rule *rule)
{
    return rule->figure[0] == 'm'   ? (double)x->macs
           : rule->figure[0] == 'p' ? (double)model_params(m)
                                    : (double)model_weight_bytes(m);
}

static void settle(struct layers *x, struct allocation *a, const struct rank_rule *rule, double total, double fixed,
                   double *got)
{
    const double most = rule->amount * total;
    walk_down(a, fixed, most);
    for (int i = 0; i < a->n; i++)
        a->at[i].l->chosen = a->at[i].at[a->at[i].now].point;
    if (spend(a, fixed) <= most)
        spend_rest(a, rule, most - spend(a, fixed));
    *got = fixed / total;
    for (int i = 0; i < a->n; i++)
        *got += cost_of(a->at[i].l, a->at[i].l->chosen, rule) / total;
    for (int i = 0; i < x->n; i++)
        if (!x->at[i].why && x->at[i].chosen < 0)
            x->at[i].why = x->at[i].n_points ? "the target is met at less loss by other layers" : too_small;
}

int rank_allocate(struct layers *x, const struct model *m, const struct rank_rule *rule, double *got, struct err *err)
{
    struct allocation a = {.at = calloc((size_t)x->n + 1, sizeof *a.at)};
    const double total = total_of(x, m, rule);
    double fixed = total;
    int rc = a.at ? 0 : err_set(err, ERR_NOMEM, "out of memory while choosing ranks");
    if (rc == 0 && !(total > 0))
        rc = err_set(err, ERR_MODEL, "the model has no %s that could be counted, so that target '%s:%g' cannot be met",
                     rule->figure, rule->figure, rule->amount);
    for (int i = 0; rc == 0 && i < x->n; i++) {
        struct layer *l = &x->at[i];
        if (l->why || l->n_points == 0)
            continue;
        fixed -= cost_of(l, -1, rule);
        rc = make_ladder(&a.at[a.n++], l, rule, err);
    }
    if (rc == 0)
        settle(x, &a, rule, total, fixed, got);
    for (int i = 0; i < a.n; i++)
        free(a.at[i].at);
    free(a.at);
    return rc;
}
