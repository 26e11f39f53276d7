/* SPDX-License-Identifier: Apache-2.0
 * channels_choose.c - from scores and parameters to how many atoms each group keeps in this step. Fractions are always
 * of the network before the first step. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/prune/channels.h"
#include "core/prune/isomorphic.h"

/* Networks made and timed for one latency target, and how near one must come. */
enum { LATENCY_TRIES = 6 };
static const double LATENCY_NEAR = 0.97;

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while choosing channels");
}

/* The groups as select.h sees them. */
static int fill_choice(struct channels_run *r, struct err *err)
{
    const struct prune_channels_params *p = r->p;
    int *set = arena_calloc(r->arena, (size_t)r->groups->n + 1, sizeof *set);
    r->choice = arena_calloc(r->arena, (size_t)r->groups->n + 1, sizeof *r->choice);
    if (!set || !r->choice)
        return no_memory(err);
    if (p->scope == SELECT_ISOMORPHIC && isomorphic_sets(r->groups, r->c->model, set, err))
        return -1;
    for (int i = 0; i < r->groups->n; i++) {
        const struct group *g = &r->groups->at[i];
        const struct channels_origin *o = r->origin_of[i] < 0 ? NULL : &r->origin[r->origin_of[i]];
        r->choice[i] = (struct select_group){.n = g->n,
                                             .score = r->score[i],
                                             .width = o ? o->width : 1,
                                             .min_keep = p->min_keep,
                                             .round_to = o ? o->round_to : 1,
                                             .max_ratio = p->max_ratio,
                                             .ratio = NAN,
                                             .set = set[i],
                                             .chosen = o && !o->left && g->n > 0 && r->score[i]};
        if (!o)
            continue;
        if (r->choice[i].chosen) {
            const int64_t least = score_least(g, r->score[i]) * r->choice[i].width;
            r->choice[i].min_keep = least > p->min_keep ? least : p->min_keep;
        }
        r->choice[i].gone = o->n > g->n ? o->n - g->n : 0;
        if (!isnan(o->ratio))
            r->choice[i].ratio = select_ramp_at((enum select_schedule)p->schedule, o->ratio, channels_way(r));
    }
    return 0;
}

/* ---- what a choice costs ---- */
struct searching {
    struct channels_run *r;
    struct channels_allocation_run *allocation; /* NULL: one ratio for all */
};

static int path_of(void *arg, double ratio, int64_t *kept, struct err *err)
{
    return channels_allocate_path(((struct searching *)arg)->allocation, ratio, kept, err);
}

static int cost_of(void *arg, const int64_t *kept, double *left, struct err *err)
{
    struct channels_run *r = ((struct searching *)arg)->r;
    bool **gone = select_gone(r->select, kept, err);
    struct groups_cost cost;
    int rc = gone ? 0 : -1;
    if (rc == 0 && r->figure == FIGURE_LATENCY) {
        *left = r->base_left * latency_table_left(r->table, (const bool *const *)gone);
    } else if (rc == 0 && (rc = groups_cost(r->groups, (const bool *const *)gone, &cost, err)) == 0) {
        const int64_t now[] = {[FIGURE_MACS] = cost.macs, [FIGURE_PARAMS] = cost.params, [FIGURE_BYTES] = cost.bytes};
        const int64_t first[] = {
            [FIGURE_MACS] = r->first.macs, [FIGURE_PARAMS] = r->first.params, [FIGURE_BYTES] = r->first.bytes};
        if (now[r->figure] < 0 || first[r->figure] <= 0)
            rc = err_set(err, ERR_MODEL,
                         "the model's %s cannot be counted because shapes in it are not known; set a target on params "
                         "or bytes instead, or fix the input's shape",
                         channels_figures[r->figure]);
        else
            *left = (double)now[r->figure] / (double)first[r->figure];
    }
    select_gone_free(gone, r->groups->n);
    return rc;
}

static int search(struct searching *x, double wanted, int64_t *kept, struct select_found *found, struct err *err)
{
    const struct select_goal goal = {
        .wanted = wanted, .cost = cost_of, .path = x->allocation ? path_of : NULL, .arg = x};
    return select_target(x->r->select, &goal, kept, found, err);
}

/* ---- latency ---- */
static int table_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "latencies", done, total, err) : 0;
}

static int make_table(struct channels_run *r, struct err *err)
{
    const struct latency_table_opts opts = {.model = r->c->model,
                                            .groups = r->groups,
                                            .select = r->select,
                                            .pool = r->c->pool,
                                            .seed = r->c->seed,
                                            .progress = table_progress,
                                            .progress_arg = r->c};
    double a, b;
    if (!(r->table = latency_table_new(&opts, err)))
        return -1;
    if (r->step == 1)
        r->table_json = latency_table_json(r->table, r->c->model);
    if (r->step == 1 && !r->again)
        return 0;
    return latency_table_compare(r->before, r->c->model, r->c->pool, r->c->seed, &r->base_left, &a, &b, err);
}

/* The network cut to `kept`, timed beside the one before. */
static int measure(struct channels_run *r, const int64_t *kept, double *left, double *ms_before, double *ms_after,
                   struct err *err)
{
    bool **gone = select_gone(r->select, kept, err);
    struct model *m = gone ? model_clone(r->c->model, err) : NULL;
    int rc = m ? groups_remove(r->groups, m, (const bool *const *)gone, err) : -1;
    if (rc == 0)
        rc = latency_table_compare(r->before, m, r->c->pool, r->c->seed, left, ms_before, ms_after, err);
    model_free(m);
    select_gone_free(gone, r->groups->n);
    return rc;
}

/* True if a latency serves `wanted` better than the best so far (0: none). */
static bool better(double left, double best, double wanted)
{
    if (best <= 0)
        return true;
    if ((left <= wanted) != (best <= wanted))
        return left <= wanted;
    return left <= wanted ? left > best : left < best;
}

/* The table leads to a network, the network is timed, and what the table was wrong by corrects the next search. */
static int choose_latency(struct searching *x, double wanted, bool last, int64_t *kept, struct err *err)
{
    struct channels_run *r = x->r;
    struct select_found found;
    int64_t *trial = calloc((size_t)r->groups->n + 1, sizeof *trial);
    double aim = wanted, best = 0;
    double low = 0, high = 0; /* the largest aim that was met, the smallest that was not; 0: none */
    int rc = trial ? make_table(r, err) : no_memory(err);
    for (int i = 0; i < LATENCY_TRIES && rc == 0; i++) {
        double left, before, after;
        rc = search(x, aim, trial, &found, err);
        if (rc == 0 && !last) { /* on the way: the table will do */
            memcpy(kept, trial, (size_t)r->groups->n * sizeof *kept);
            break;
        }
        if (rc == 0)
            rc = measure(r, trial, &left, &before, &after, err);
        if (rc)
            break;
        if (better(left, best, wanted)) {
            best = left;
            memcpy(kept, trial, (size_t)r->groups->n * sizeof *kept);
            r->found = (struct select_found){.left = left, .met = left <= wanted, .ratio = found.ratio};
            r->ms_before = before;
            r->ms_after = after;
        }
        if ((left <= wanted && left >= LATENCY_NEAR * wanted) || (!found.met && left > wanted) ||
            (found.ratio == 0 && left <= wanted))
            break;
        *(left <= wanted ? &low : &high) = aim;
        const double factor = 0.99 * wanted / left;
        if (low > 0 && high > 0)
            aim = 0.5 * (low + high);
        else
            aim *= factor < 0.5 ? 0.5 : factor > 1.5 ? 1.5 : factor;
        aim = aim > 1 ? 1 : aim;
    }
    free(trial);
    return rc;
}

/* Of a target that is not met: the group that still costs most, which is where it ended. */
static const char *stopped_by(const struct channels_run *r, const int64_t *kept)
{
    const char *name = NULL;
    double most = -1;
    for (int i = 0; i < r->groups->n; i++) {
        const struct group *g = &r->groups->at[i];
        const double each = r->figure == FIGURE_PARAMS ? g->params : r->figure == FIGURE_BYTES ? g->bytes : g->macs;
        if (r->origin_of[i] >= 0 && g->n > 0 && each * (double)kept[i] > most) {
            most = each * (double)kept[i];
            name = r->origin[r->origin_of[i]].name;
        }
    }
    return name;
}

/* For a part of what is wanted in the end; last: it is the end. */
static int choose(struct searching *x, double part, bool last, int64_t *kept, struct err *err)
{
    struct channels_run *r = x->r;
    if (!r->limited && x->allocation)
        return channels_allocate_path(x->allocation, part, kept, err);
    if (!r->limited) {
        select_ratio(r->select, part, kept);
        return 0;
    }
    const int rc = r->figure == FIGURE_LATENCY ? choose_latency(x, 1 - part, last, kept, err)
                                               : search(x, 1 - part, kept, &r->found, err);
    if (rc == 0)
        r->stopped_by = r->found.met ? NULL : stopped_by(r, kept);
    return rc;
}

static int rank(struct channels_run *r, struct err *err)
{
    select_free(r->select);
    r->select = NULL;
    if (fill_choice(r, err))
        return -1;
    r->select = select_new(r->choice, r->groups->n, (enum select_scope)r->p->scope, err);
    return r->select ? 0 : -1;
}

/* Once, in the first step, for the end; the steps then go there. */
static int allocate(struct channels_run *r, double all, int64_t *kept, struct err *err)
{
    struct searching x = {.r = r, .allocation = channels_allocate_new(r, err)};
    const bool last = channels_way(r) >= 1;
    int rc = x.allocation ? choose(&x, all, last, kept, err) : -1;
    if (rc == 0) {
        channels_allocate_keep(x.allocation, kept);
        if (!last)
            rc = rank(r, err);
    }
    channels_allocate_free(x.allocation);
    return rc;
}

/* What is left of a target's figure after the last of several steps to ratios of their own. */
static int look(struct channels_run *r, const int64_t *kept, struct err *err)
{
    struct searching x = {.r = r};
    int rc = r->figure == FIGURE_LATENCY ? measure(r, kept, &r->found.left, &r->ms_before, &r->ms_after, err)
                                         : cost_of(&x, kept, &r->found.left, err);
    r->found.met = rc == 0 && r->found.left <= r->wanted;
    r->stopped_by = rc || r->found.met ? NULL : stopped_by(r, kept);
    return rc;
}

int channels_choose(struct channels_run *r, int64_t *kept, struct err *err)
{
    const struct prune_channels_params *p = r->p;
    struct searching x = {.r = r};
    const double all = r->limited ? 1 - r->wanted : p->has_ratio ? p->ratio : 0;
    const double part = select_ramp_at((enum select_schedule)p->schedule, all, channels_way(r));
    const bool last = channels_way(r) >= 1, begin = r->step == 1 && !r->again;
    if (rank(r, err))
        return -1;
    if (p->allocation == ALLOCATE_UNIFORM)
        return choose(&x, part, last, kept, err);
    if (begin && allocate(r, all, kept, err))
        return -1;
    if (begin && last)
        return 0;
    select_ratio(r->select, 0, kept);
    return last && r->limited ? look(r, kept, err) : 0;
}
