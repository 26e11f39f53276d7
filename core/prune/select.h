/* SPDX-License-Identifier: Apache-2.0
 * select.h - which atoms go: from scores to a count of atoms kept in every group, for a ratio or for a limit on the
 * cost. Pure arithmetic on numbers, no model.
 * Choice     of a group, the atoms of the lowest score go first, equal scores in order of number. So a choice is a
 *            vector of counts, `kept` [n groups], and everything here computes such vectors.
 * Scope      layer: each group keeps floor(total * (1 - ratio)) of its atoms. global: all atoms are ranked together
 *            and the lowest go until `ratio` of all channels are gone. isomorphic: the same within each set of groups
 *            of equal structure (Fang et al., ECCV 2024). In both, a group that is at its lowest is passed over,
 *            others give instead.
 * Guards     no group falls below its `lowest`: min_keep, max_ratio and round_to together. Counts are rounded up to
 *            round_to.
 * Steps      ratios are of the atoms there were at first (n + gone), so several steps come out where one would.
 * Threads    plain data. Results depend on the arguments alone. Errors: ERR_NOMEM; as of the cost function. */
#ifndef PARED_PRUNE_SELECT_H
#define PARED_PRUNE_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

enum select_scope { SELECT_LAYER, SELECT_GLOBAL, SELECT_ISOMORPHIC };

struct select_group {
    int64_t n, gone;     /* atoms now, and those that earlier steps took */
    const double *score; /* [n], larger: more important; no NaN */
    int64_t width;       /* channels in an atom; min_keep and round_to count channels */
    int64_t min_keep, round_to; /* at least 1 */
    double max_ratio;    /* of n + gone that may go */
    double ratio;        /* of its own, whatever the others do; NAN: as all */
    int set;             /* isomorphic: ranked with the groups of the same number, >= 0 */
    bool chosen;         /* may lose atoms */
};

struct select; /* opaque */

/* group: [n], borrowed with its scores until select_free. */
struct select *select_new(const struct select_group *group, int n, enum select_scope scope, struct err *err);
void select_free(struct select *s);

/* Atoms the group has at least, whatever is asked for. */
int64_t select_lowest(const struct select_group *g);
/* kept: [n]. ratio in [0, 1]: of the channels of all chosen groups, those gone before counted. Falls with the ratio. */
void select_ratio(const struct select *s, double ratio, int64_t *kept);
/* kept: [n], from ratios of the caller, one a group; guards and rounding hold. */
void select_each(const struct select *s, const double *ratio, int64_t *kept);
/* gone: [n] arrays of flags, NULL of groups that lose nothing; malloc'ed, see select_gone_free. NULL: out of memory. */
bool **select_gone(const struct select *s, const int64_t *kept, struct err *err);
void select_gone_free(bool **gone, int n);

/* What is left, as a fraction of what there was at first. */
typedef int select_cost(void *arg, const int64_t *kept, double *left, struct err *err);
struct select_found {
    double left; /* of the cost, by the cost function */
    bool met;    /* left <= wanted */
    double ratio; /* the ratio it started from */
};
/* Another way than select_ratio from one number in (0, 1) to a choice; at 0 nothing goes, at 1 all that may. */
typedef int select_path(void *arg, double ratio, int64_t *kept, struct err *err);
struct select_goal {
    double wanted; /* what may be left of the cost */
    select_cost *cost;
    select_path *path; /* NULL: select_ratio */
    void *arg;         /* of both */
};
/* The largest choice whose cost is at most `wanted`: one ratio for all by bisection, then single atoms are put back,
 * the most important first, while the cost allows it. If even the lowest of all groups costs more, kept is that, and
 * not met. */
int select_target(const struct select *s, const struct select_goal *goal, int64_t *kept, struct select_found *found,
                  struct err *err);

/* How a ratio grows over steps: the part of `ratio` gone after step `step` of `steps` (1 .. steps; at the last:
 * ratio). */
enum select_schedule {
    SELECT_LINEAR,   /* equal numbers each step */
    SELECT_CUBIC,    /* fast at first (Zhu & Gupta, 2017) */
    SELECT_CONSTANT, /* an equal share of what is left each step */
};
double select_ramp(enum select_schedule schedule, double ratio, int64_t step, int64_t steps);
/* The same at a part t in (0, 1] of the way. */
double select_ramp_at(enum select_schedule schedule, double ratio, double t);

#endif
