/* SPDX-License-Identifier: Apache-2.0
 * hints.h - losses between intermediate values of two models, value and gradient, and how the values are named.
 * Features   of n samples: [rows, C, inner] with rows = n * places before the channel axis (images: rows = n, inner =
 *            H W; tokens: rows = n T, inner = 1).
 *   hint       (Romero et al. 2015)  0.5 mean (r(s) - t)^2 / power, r(s) = R s + b at every place: a 1x1 convolution
 *              from the student's channels to the teacher's; without R, s itself. power: mean t^2, of a few samples
 *   attention  (Zagoruyko & Komodakis 2017)  0.5 mean over samples and places of (Q_s - Q_t)^2, Q = A / |A|, A = sum
 *   over channels of F^2
 *   relations  (Park et al. 2019)  distance + 2 angle, for points x_i [n, d] of a batch:
 *              distance  mean over all i, j of huber(|s_i - s_j| / mu_s - |t_i - t_j| / mu_t), mu the mean of those
 *              above 0
 *              angle     mean over all i, j, k of huber(cos(s_j - s_i, s_k - s_i) - cos of the teacher's), over the
 *                        first RELATION_ANGLES samples; huber(d) = d^2 / 2 up to |d| = 1, then |d| - 1/2
 * Gradients  are added, times `scale`. Sums in double, in order: the same bits on every pool. Threads: one caller. */
#ifndef PARED_TRAIN_HINTS_H
#define PARED_TRAIN_HINTS_H

#include "core/step/method.h"

enum { RELATION_ANGLES = 128 };

struct feature {
    int64_t rows, channels, inner;
};
/* shape: [n, ...] of rank at least 2, axis not 0. */
struct feature feature_of(const struct shape *shape, int axis);

struct hint_regressor {
    const float *weight, *bias; /* [teacher][student], [teacher]; NULL: none */
    float *dweight, *dbias;     /* gradients, added to; NULL: not wanted */
};
/* x: the student's feature; t: the teacher's, as x but for the channels. dx: of x's size, or NULL: value only.
 * ERR_NOMEM. */
int hint_loss(const struct feature *s, int64_t teacher_channels, const float *x, const float *t,
              const struct hint_regressor *r, double power, double scale, double *value, float *dx, struct err *err);
/* map: [n, places] the teacher's Q; s->rows is a multiple of n. */
int attention_loss(struct pool *pool, const struct feature *s, int64_t n, const float *x, const float *map,
                   double scale, double *value, float *dx, struct err *err);
/* x [n, d], t [n, dt]. */
int relation_loss(struct pool *pool, int64_t n, const float *x, int64_t d, const float *t, int64_t dt, double scale,
                  double *value, float *dx, struct err *err);

/* ---- names ---- */
struct hint_pair {
    uint32_t student, teacher; /* values, in the main graphs, made by nodes */
};
struct hint_pairs {
    struct hint_pair *at; /* owned */
    int count;
};
/* What names say: "a:b", a in the student and b in the teacher; "a": in both. A name is a value's or a node's (its
 * first output), or a glob over values' names, which takes all it matches: both sides must then name equally many.
 * `what`: parameter, for sentences. ERR_INVALID with candidates. */
int hints_named(struct hint_pairs *pairs, const struct globs *names, const char *what, const struct model *student,
                const struct model *teacher, struct err *err);
/* The last value before height and width shrink, for every size above 1x1 that both have under one name. types: as
 * plan_infer gives them, [n_values] of the model. ERR_INVALID: there is none. */
int hints_stage_ends(struct hint_pairs *pairs, const struct model *student, const struct type *student_types,
                     const struct model *teacher, const struct type *teacher_types, struct err *err);
/* What the last product before `value` reads (the embedding of a classifier); VALUE_NONE. */
uint32_t hints_embedding(const struct model *m, uint32_t value);
void hint_pairs_fini(struct hint_pairs *pairs);

#endif
