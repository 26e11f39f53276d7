/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.h - how much a model suffers when one group alone loses channels, as a curve of loss against ratio; and from the
 * curves, how much to take from each group for a target ("prune most where it hurts least").
 * Loss       of a point: the Kullback-Leibler divergence of the pruned model's scores from the original's (nats), or noise over
 *            signal where the model has no scores (core/stats/reference.h). The top-1 of labelled data is reported, the loss is
 *            what decides: it is smooth where accuracy on a few hundred samples is not.
 * Allocation minimises the sum of the losses of the groups under a limit on the cost of what is left (Lagrange: all groups are taken
 *            to the same loss a unit of cost saved), walking down the lower convex hulls of the curves; costs are groups_cost's of all
 *            groups together, so that products of two pruned sides are counted once.
 * Use        score_groups -> reference_new -> sensitivity_measure -> sensitivity_allocate* -> sensitivity_free.
 * Results    do not depend on threads; with budget_s they depend on the machine's speed.
 * Errors     ERR_NOMEM; as of groups_remove, reference_compare. Threads: one caller. */
#ifndef PARED_PRUNE_SENSITIVITY_H
#define PARED_PRUNE_SENSITIVITY_H

#include "core/prune/groups.h"
#include "core/stats/reference.h"

struct sensitivity_point {
    double ratio;       /* of the group's atoms gone, as asked for */
    int64_t kept;       /* atoms left: floor(n (1 - ratio)), at least min_keep */
    bool measured;      /* false: the budget had ended */
    struct closeness c; /* of the model with this group alone pruned */
    double loss;        /* kl or noise; NAN: not measured */
};

struct sensitivity_curve {
    struct sensitivity_point *at; /* by ascending ratio */
    int n;                        /* 0: no curve, see skipped */
    int64_t least;                /* atoms that stay, whatever is asked for */
    const int64_t *order;         /* [group's n] atoms, the first to go first; NULL without a curve */
    const char *skipped;          /* why there is none: "frozen: ..."; NULL */
};

struct sensitivity {
    struct sensitivity_curve *at; /* [n], as the groups */
    int n;
    int64_t missing; /* points the budget did not reach */
    double seconds;  /* spent */
    const struct groups *groups;
    struct arena *arena;
};

struct sensitivity_opts {
    const struct model *model; /* the one the groups were found on; not changed */
    const struct groups *groups;
    double *const *score; /* of score_groups: the least go first, ties by number */
    const double *ratios; /* ascending, in (0, 1) */
    int n_ratios;
    const bool *selected;        /* [groups->n] groups to look at; NULL: all that can be pruned */
    int64_t min_keep;            /* atoms left in a group; 0: 1 */
    struct reference *reference; /* of the model */
    double budget_s;             /* 0: no limit. The middle ratio of every group is measured first */
    int (*repair)(void *arg, struct model *cut,
                  struct err *err); /* before a cut model is measured (recover.h); may be NULL */
    void *repair_arg;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *progress_arg;
};

/* NULL on error. groups must outlive it. */
struct sensitivity *sensitivity_measure(const struct sensitivity_opts *o, struct err *err);
void sensitivity_free(struct sensitivity *s);

/* The usual ratios. */
enum { SENSITIVITY_N_RATIOS = 5 };
extern const double sensitivity_ratios[SENSITIVITY_N_RATIOS];

/* What the limit is on. CHANNELS: atoms of all selected groups together. */
enum sensitivity_figure { SENSITIVITY_MACS, SENSITIVITY_PARAMS, SENSITIVITY_BYTES, SENSITIVITY_CHANNELS };

struct sensitivity_target {
    enum sensitivity_figure figure;
    double kept;          /* fraction of the model's figure that may stay, in (0, 1) */
    const bool *selected; /* [groups->n] groups that may lose atoms; NULL: all with a curve */
    const double *most;   /* [groups->n] largest ratio of each; NULL: the largest that was measured of it */
    int64_t min_keep;     /* 0: 1 */
};
struct sensitivity_plan {
    double predicted; /* sum of the losses the curves say */
    double kept;      /* fraction of the figure left */
    bool met;         /* kept <= target's; else every group is at its most */
};
/* ratio: [groups->n], the fraction of its atoms each group loses: gone / n exactly, so that floor(n (1 - ratio)) stay; 0 for groups
 * without a curve. Points are joined by straight lines. ERR_MODEL: macs are wanted and cannot be counted. */
int sensitivity_allocate(const struct sensitivity *s, const struct sensitivity_target *target, double *ratio,
                         struct sensitivity_plan *plan, struct err *err);
/* Loss of a group at a ratio, by the curve; NAN without one. */
double sensitivity_loss_at(const struct sensitivity *s, int group, double ratio);

#endif
