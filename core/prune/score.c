/* SPDX-License-Identifier: Apache-2.0
 * score.c - the criteria's rows, and what all of them share: a check that scores are numbers, and normalizers.
 *
 * What each scores, before reduction (parts: score_impl.h; sums over an atom's elements, reduced over its parts):
 *   l1, l2          sum |w|, sum w^2 of producing rows and consuming columns; |gamma|, gamma^2 of normalizations
 *                   (Li et al., ICLR 2017, over all of a group as in Torch-Pruning); 0 where all producing rows are
 *                   zero, or all consuming columns.
 *   lamp            l2, then LAMP's normalizer: s_u / sum of s_v over s_v >= s_u (Lee et al., ICLR 2021).
 *   fpgm            sum over j of ||F_i - F_j||_2, F the producing rows (He et al., CVPR 2019): small is replaceable.
 *   bn_scale        |gamma| (Liu et al., ICCV 2017). Groups without normalization: standard deviation of the channel's
 *                   output where there is data (what gamma was before folding), else the norm of the producing row.
 *   random          uniform in (0, 1), seeded: what a criterion has to beat.
 *   activation      mean |a| of what the consumers read, after the activation function (Molchanov et al., ICLR 2017).
 *   rank            mean rank of the feature maps that the consumers read (HRank, Lin et al., CVPR 2020); of maps of
 *                   more than 64 rows and columns: of 64 of their rows.
 *   gradient        mean over samples of sum |dL/dw|, of the same weights as l2.
 *   taylor          mean over samples of t^2, t = sum over all places of a dL/da, a what the consumers read: the first
 *                   order change of the loss when the channel goes (Molchanov et al., CVPR 2019; methods.md B1).
 *   fisher          mean over samples of sum (w dL/dw)^2 / 2, of the same weights as l2 (optimal brain damage with the
 *                   Fisher diagonal).
 *   hessian         d^2 L / dm^2 / 2, m a factor on all that the consumers read of the channel, by Hutchinson's
 *                   estimator: the second order change, whole blocks of the Hessian and not its diagonal.
 *   reconstruction  the consumers' relative squared output error, their weights refitted by least squares, when the
 *                   channel and all before it in the greedy order are gone (ThiNet, Luo et al., ICCV 2017; He et al.,
 *                   ICCV 2017): the scores of a group ascend in the order of removal. */
#include "core/prune/score.h"

#include <math.h>
#include <stdlib.h>

#include "core/prune/score_impl.h"

static const struct score_criterion criteria[] = {
    {.name = "l1", .run = score_l1},
    {.name = "l2", .run = score_l2},
    {.name = "fpgm", .run = score_fpgm},
    {.name = "bn_scale", .run = score_bn_scale},
    {.name = "lamp", .run = score_l2, .lamp = true},
    {.name = "random", .run = score_random},
    {.name = "activation", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_activation},
    {.name = "rank", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_rank},
    {.name = "gradient", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_gradient},
    {.name = "taylor", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_taylor},
    {.name = "fisher", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_fisher},
    {.name = "hessian", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_hessian},
    {.name = "reconstruction", .needs = NEEDS_DATA | NEEDS_RUN, .run = score_reconstruction},
};
enum { N_CRITERIA = sizeof criteria / sizeof *criteria };

/* The names in the order of the rows; the test compares them. */
const char *const score_criteria[N_CRITERIA + 1] = {"l1",     "l2",         "fpgm",          "bn_scale", "lamp",
                                                    "random", "activation", "rank",          "gradient", "taylor",
                                                    "fisher", "hessian",    "reconstruction"};
const char *const score_reductions[] = {"mean", "max", "sum", "first", NULL};
const char *const score_normalizers[] = {"none", "mean", "max", "sum", "standard", "lamp", NULL};

unsigned score_needs(int criterion)
{
    return criterion >= 0 && criterion < N_CRITERIA ? criteria[criterion].needs : NEEDS_NOTHING;
}

/* ---- normalizers ---- */
static int descending(const void *a, const void *b)
{
    const double *p = *(const double *const *)a, *q = *(const double *const *)b;
    if (*p > *q || *p < *q)
        return *p > *q ? -1 : 1;
    return p < q ? -1 : p > q; /* equals in the order of the atoms */
}

static int normalize_lamp(double *s, int64_t n, struct err *err)
{
    double **order = malloc((size_t)n * sizeof *order), sum = 0;
    if (!order)
        return err_set(err, ERR_NOMEM, "out of memory for scores");
    for (int64_t i = 0; i < n; i++)
        order[i] = &s[i];
    qsort(order, (size_t)n, sizeof *order, descending);
    for (int64_t i = 0; i < n; i++) {
        sum += *order[i];
        *order[i] = sum > 0 ? *order[i] / sum : 0;
    }
    free(order);
    return 0;
}

static int normalize(double *s, int64_t n, enum score_normalizer how, struct err *err)
{
    double sum = 0, most = 0, squares = 0, by;
    if (how == SCORE_NORM_LAMP)
        return normalize_lamp(s, n, err);
    for (int64_t i = 0; i < n; i++) {
        sum += s[i];
        most = fmax(most, fabs(s[i]));
    }
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += (s[i] - mean) * (s[i] - mean);
    const double scale[] = {[SCORE_NORM_NONE] = 1,
                            [SCORE_NORM_MEAN] = mean,
                            [SCORE_NORM_MAX] = most,
                            [SCORE_NORM_SUM] = sum,
                            [SCORE_NORM_STANDARD] = sqrt(squares / (double)n)};
    by = scale[how] > 0 ? 1 / scale[how] : 1;
    for (int64_t i = 0; i < n; i++)
        s[i] = (how == SCORE_NORM_STANDARD ? s[i] - mean : s[i]) * by;
    return 0;
}

/* ---- all groups ---- */
static int check_scores(const struct score_ctx *c, struct err *err)
{
    for (int i = 0; i < c->g->n; i++)
        for (int64_t a = 0; c->score[i] && a < c->g->at[i].n; a++)
            if (!isfinite(c->score[i][a]))
                return err_set(err, ERR_MODEL,
                               "the criterion %s gives channel %lld of '%s' the score %s: its weights or activations "
                               "are not finite, or too large; repair them or exclude the layer",
                               c->name, (long long)a, c->g->at[i].name, isnan(c->score[i][a]) ? "NaN" : "infinity");
    return 0;
}

static int run(struct score_ctx *c, const struct score_criterion *row, struct err *err)
{
    if ((row->needs & NEEDS_DATA) && !c->o->data)
        return err_set(err, ERR_INVALID,
                       "the criterion %s needs data; give a dataset, or take a criterion of the weights alone: l1, "
                       "l2, fpgm, bn_scale, lamp",
                       c->name);
    if (row->run(c, err) || check_scores(c, err))
        return -1;
    for (int i = 0; i < c->g->n; i++)
        if (c->score[i] &&
            (normalize(c->score[i], c->g->at[i].n, row->lamp ? SCORE_NORM_LAMP : c->o->normalizer, err) ||
             score_balance(&c->g->at[i], c->score[i], err)))
            return -1;
    return 0;
}

double **score_groups(const struct groups *g, const struct score_opts *o, struct err *err)
{
    struct score_ctx c = {.g = g, .o = o, .score = calloc((size_t)g->n + 1, sizeof *c.score)};
    bool memory = c.score != NULL;
    if (o->criterion < 0 || o->criterion >= N_CRITERIA) {
        free(c.score);
        err_set(err, ERR_INVALID, "there is no criterion number %d", o->criterion);
        return NULL;
    }
    c.name = criteria[o->criterion].name;
    for (int i = 0; memory && i < g->n; i++)
        if (g->at[i].n > 0)
            memory = (c.score[i] = calloc((size_t)g->at[i].n, sizeof **c.score)) != NULL;
    if (!memory)
        err_set(err, ERR_NOMEM, "out of memory for scores");
    if (!memory || run(&c, &criteria[o->criterion], err)) {
        score_free(c.score, g->n);
        return NULL;
    }
    return c.score;
}

void score_free(double **score, int n_groups)
{
    for (int i = 0; score && i < n_groups; i++)
        free(score[i]);
    free(score);
}
