/* SPDX-License-Identifier: Apache-2.0
 * channels.h - private to prune.channels and prune.heads: one run of either, from groups to report.
 * Order      groups_prepare, then for each step: groups_find, score_groups, choose (channels_choose.c), groups_remove,
 *            recover_run; at the end the rows of the report (channels_report.c). channels.c and heads.c are the rows
 *            of the methods.
 * Calls      of one step of a recipe, again and again with a rising ramp (step_ctx), are one schedule: ratios and targets
 *            stay those of the network at the first call, which notes remember (channels_start.c). */
#ifndef PARED_PRUNE_CHANNELS_H
#define PARED_PRUNE_CHANNELS_H

#include "core/prune/groups.h"
#include "core/prune/latency_table.h"
#include "core/prune/recover.h"
#include "core/prune/score.h"
#include "core/prune/select.h"

struct prune_channels_params {
    int criterion, reduction, normalizer, scope, schedule, recover, allocation;
    double ratio, max_ratio;
    const char *target;
    int64_t keep, steps, round_to, min_keep, samples;
    bool has_ratio, has_target, has_keep, has_schedule, has_samples, has_round_to;
    struct globs include, exclude;
    const json_t *ratios;
};
enum channels_allocation { ALLOCATE_UNIFORM, ALLOCATE_SENSITIVITY };
enum { CHANNELS_SAMPLES = 128 }; /* where `samples` is not given, but for recovery */
extern const char *const channels_scopes[], *const channels_schedules[];
enum { CHANNELS_ROUND_AUTO = 0 }; /* index of the name in round_to's choices */

enum channels_figure { FIGURE_MACS, FIGURE_PARAMS, FIGURE_BYTES, FIGURE_LATENCY };
extern const char *const channels_figures[]; /* "macs", "params", "bytes", "latency", NULL */
extern const char *const channels_no_heads;  /* an origin's `left` */
/* "macs:0.5"; false: it is not of that form, or the fraction is not in (0, 1]. */
bool channels_target(const char *text, enum channels_figure *figure, double *wanted);

/* What both methods check and need; name: of the method. */
void channels_check(const struct prune_channels_params *p, const char *name, const char *pointer, struct faults
                    *faults);
unsigned channels_needs(const void *params);

/* A group as it was before the first step. Strings are the run's. */
struct channels_origin {
    uint32_t node, value; /* of the first producing weight; VALUE_NONE: it has no member */
    int axis;
    const char *name, *frozen, *approximate;
    const char *left; /* why it may lose nothing: not selected, no heads, frozen; NULL: it may */
    double ratio;     /* of its own; NAN */
    int64_t n, width, round_to; /* n: before the first call */
    double macs, params;        /* of all its atoms */
    const uint32_t *coupled; /* [n_coupled] other nodes with producing weights */
    int n_coupled;
    /* now */
    int64_t n_now;
    double macs_now, params_now; /* -1: not known */
    double loss;                 /* predicted by its curve; NAN: none was made */
};

struct channels_run {
    struct step_ctx *c;
    const struct prune_channels_params *p;
    const char *method, *unit; /* "prune.channels", "channels" */
    enum groups_mode mode;
    struct arena *arena;
    struct channels_origin *origin; /* in the order of the first step's groups */
    int n_origins;
    struct groups_cost first; /* of the whole model before the first call */
    double ramp;              /* how far the steps of this call go, in (0, 1] */
    bool again;               /* an earlier call has begun */
    struct model *before;     /* clone of the prepared model, for recovery and latencies; NULL: not needed */
    bool limited;             /* a target was given */
    enum channels_figure figure;
    double wanted;
    /* of the running step */
    int64_t step;
    struct groups *groups;
    int *origin_of; /* [groups->n] */
    double **score;
    struct select_group *choice; /* [groups->n] */
    struct select *select;
    struct latency_table *table;
    double base_left; /* latency before this step, as a fraction of the first */
    /* of the last step, for the report */
    struct select_found found;
    const char *stopped_by; /* where a target is not met: the group with most left of what it could not give */
    double ms_before, ms_after; /* measured; 0: not */
    json_t *table_json;
};

int channels_run(struct step_ctx *c, const char *method, enum groups_mode mode, struct err *err);

/* channels_start.c: what later calls must know of the network at the first. */
struct channels_start {
    int64_t n;
    struct groups_cost model;
    double ratio; /* of the group's own, as the allocation gave it; NAN */
};
/* False: no call of this step of the recipe has left anything there. */
bool channels_start_get(const struct channels_run *r, const struct group *g, struct channels_start *s);
int channels_start_put(const struct channels_run *r, const struct channels_origin *o, struct err *err);
/* How far the running step of this call is on the way to the end; 1: the end. */
static inline double channels_way(const struct channels_run *r)
{
    return r->step >= r->p->steps ? r->ramp : r->ramp * (double)r->step / (double)r->p->steps;
}

/* channels_allocate.c: ratios from what each group's loss costs the outputs. */
struct channels_allocation_run;
struct channels_allocation_run *channels_allocate_new(struct channels_run *r, struct err *err);
void channels_allocate_free(struct channels_allocation_run *a);
/* A select_path: arg is a struct channels_allocation_run. */
int channels_allocate_path(void *arg, double ratio, int64_t *kept, struct err *err);
/* The choice becomes the groups' own ratios, for steps to come; losses go to the origins. */
void channels_allocate_keep(struct channels_allocation_run *a, const int64_t *kept);

/* channels_choose.c: how many atoms each group of the running step keeps, into kept [groups->n]. */
int channels_choose(struct channels_run *r, int64_t *kept, struct err *err);
/* channels_report.c */
void channels_report(struct channels_run *r);

#endif
