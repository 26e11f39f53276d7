/* SPDX-License-Identifier: Apache-2.0
 * score.h - how much each atom of each group matters: the criteria of prune.channels, one row each.
 * Scores     larger: more important. A criterion scores single elements of single members ("parts"); score_groups
 *            reduces them over the elements and members of an atom (mean, max, sum, first) and normalizes within the
 *            group, so that all criteria share both. A criterion may instead give atoms directly.
 * Data       criteria with needs NEEDS_DATA run the model over a spread of samples, those with gradients through
 *            grad.h; labels are the dataset's, else drawn from the model's own softmax, seeded (methods.md B1).
 * Errors     a NaN score is ERR_MODEL naming weight or layer; gradients through an operator without backward name it
 *            (ERR_OPERATOR).
 * Threads    one caller; results do not depend on the pool. */
#ifndef PARED_PRUNE_SCORE_H
#define PARED_PRUNE_SCORE_H

#include "core/prune/groups.h"
#include "core/step/method.h"

enum score_reduction { SCORE_MEAN, SCORE_MAX, SCORE_SUM, SCORE_FIRST };
enum score_normalizer {
    SCORE_NORM_NONE,
    SCORE_NORM_MEAN,
    SCORE_NORM_MAX,
    SCORE_NORM_SUM,
    SCORE_NORM_STANDARD,
    SCORE_NORM_LAMP,
};
extern const char *const score_criteria[];    /* "l1", "l2", "fpgm", ..., NULL: indices of enum parameters */
extern const char *const score_reductions[];  /* "mean", "max", "sum", "first", NULL */
extern const char *const score_normalizers[]; /* "none", "mean", "max", "sum", "standard", "lamp", NULL */

struct score_opts {
    int criterion; /* index into score_criteria */
    enum score_reduction reduction;
    enum score_normalizer normalizer;
    const struct model *model; /* prepared; the one the groups were found on */
    struct dataset *data;      /* bound; may be NULL where the criterion needs none */
    int64_t samples;
    struct pool *pool;
    uint64_t seed;
    struct warnings *warnings; /* "bn_scale: 3 groups have no BatchNormalization; scored by ..." */
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err);
    void *progress_arg;
};

/* enum method_needs of a criterion: NEEDS_DATA, NEEDS_RUN. */
unsigned score_needs(int criterion);
/* score[i]: [g->at[i].n], malloc'ed array of malloc'ed arrays (NULL for frozen groups), freed by score_free. NULL on
 * error. */
double **score_groups(const struct groups *g, const struct score_opts *o, struct err *err);
/* The scores of one group with atoms of several kinds, fit for taking the lowest (score_balance.c); score_groups has done it. */
int score_balance(const struct group *g, double *score, struct err *err);
/* Of balanced scores: so many of the highest must stay, else an axis of a member would be left with nothing. At least 1. */
int64_t score_least(const struct group *g, const double *score);
void score_free(double **score, int n_groups);

#endif
