/* SPDX-License-Identifier: Apache-2.0
 * score_impl.h - private to score*.c: what the criteria share.
 * Part       one member whose elements a criterion scores: an axis of a weight, or of an activation. A criterion fills
 *            element[] of its parts; score_parts_reduce makes atoms of them:
 *            of one part an atom gets the sum of its elements (their mean where `average`); over the parts the chosen
 *            reduction. Sums are divided by group.width, so an atom of two channels competes per channel.
 * Weights    parts of weights are, as in Torch-Pruning, the rows that produce the channels, the columns that consume
 *            them, and the scales of normalizations. Biases, means and variances are no parts. */
#ifndef PARED_PRUNE_SCORE_IMPL_H
#define PARED_PRUNE_SCORE_IMPL_H

#include "core/prune/score.h"

struct score_ctx {
    const struct groups *g;
    const struct score_opts *o;
    const char *name; /* of the criterion */
    double **score;   /* [g->n][atoms], zeroed; NULL: frozen */
};

enum score_kind {
    SCORE_PRODUCES = 1, /* weight rows that make the channels */
    SCORE_CONSUMES = 2, /* weight columns that read them */
    SCORE_SCALE = 4,    /* gamma of a normalization */
    SCORE_BIAS = 8,     /* added by the node that makes the channels */
    SCORE_READ = 16,    /* activations that consuming nodes read */
    SCORE_MADE = 32,    /* activations that producing nodes make */
    SCORE_OTHER = 64,   /* any other floating-point constant */
    SCORE_ANY = 128,    /* any other activation */
};
enum { SCORE_WEIGHTS = SCORE_PRODUCES | SCORE_CONSUMES | SCORE_SCALE };

struct score_part {
    int group;
    enum score_kind kind;
    const struct group_member *member;
    double *element; /* [member->size], zeroed */
};
struct score_parts {
    struct score_part *at;
    int n;
};

/* A criterion. run fills score_ctx.score. */
struct score_criterion {
    const char *name;
    unsigned needs;
    int (*run)(struct score_ctx *c, struct err *err);
    bool lamp; /* brings this normalizer of its own, in place of the chosen one */
};
int score_l1(struct score_ctx *c, struct err *err);
int score_l2(struct score_ctx *c, struct err *err);
int score_fpgm(struct score_ctx *c, struct err *err);
int score_bn_scale(struct score_ctx *c, struct err *err);
int score_random(struct score_ctx *c, struct err *err);
int score_activation(struct score_ctx *c, struct err *err);
int score_rank(struct score_ctx *c, struct err *err);
int score_gradient(struct score_ctx *c, struct err *err);
int score_taylor(struct score_ctx *c, struct err *err);
int score_fisher(struct score_ctx *c, struct err *err);
int score_hessian(struct score_ctx *c, struct err *err);
int score_reconstruction(struct score_ctx *c, struct err *err);

/* ---- parts (score_parts.c) ---- */
/* Adds the parts of these kinds (bits) of every group whose flag in `only` is set (NULL: all that are not frozen). */
int score_parts_find(const struct score_ctx *c, unsigned kinds, const bool *only, struct score_parts *out,
                     struct err *err);
void score_parts_fini(struct score_parts *p);
/* One bool a group: is it alive and lacks parts of these kinds? Returns how many; -1 with ERR_NOMEM. */
int score_parts_lacking(const struct score_ctx *c, const struct score_parts *p, unsigned kinds, bool **lacking,
                        struct err *err);
/* Into the atoms of the groups that have parts; others stay. An element that is not finite: ERR_MODEL naming it. */
int score_parts_reduce(struct score_ctx *c, const struct score_parts *p, bool average, struct err *err);
/* ERR_MODEL unless all elements that belong to atoms are finite. */
int score_part_check(const struct score_ctx *c, const struct score_part *p, struct err *err);

/* ---- sums along an axis (score_axis.c) ---- */
/* |a|, a^2, a b, (a b)^2 */
enum score_term { SCORE_ABS, SCORE_SQUARE, SCORE_PRODUCT, SCORE_PRODUCT_SQUARE };
/* sum[i] += the terms of all elements with index i on the axis, in double. b: of a's shape, or NULL. Streams: a block
 * of each at a time, any numeric dtype. */
void score_axis_sums(struct pool *pool, const struct tensor *a, const struct tensor *b, int axis, enum score_term term,
                     double *sum);
/* a[i, ...] *= factor[i], float32 or float64. */
void score_axis_scale(struct tensor *a, int axis, const double *factor);

/* ---- activations (score_activation.c) ---- */
enum score_statistic { SCORE_MEAN_ABS, SCORE_DEVIATION, SCORE_MAP_RANK };
/* element[i] of parts of activations: the statistic over samples and places. */
int score_observe(struct score_ctx *c, struct score_parts *p, enum score_statistic what, struct err *err);
/* Numerical rank of a [rows, cols] matrix: singular values above max(rows, cols) * 2^-23 times the largest, as numpy
 * and torch count them. work: score_rank_work(rows, cols) doubles. */
int64_t score_rank_work(int64_t rows, int64_t cols);
int64_t score_rank_of(const float *a, int64_t rows, int64_t cols, double *work);

#endif
