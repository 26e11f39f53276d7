/* SPDX-License-Identifier: Apache-2.0
 * regularize.h - terms of the loss that depend on weights alone: their values and gradients.
 *   l1           |w|; the subgradient at 0 is 0
 *   l2           w^2 / 2
 *   group_lasso  sum over output channels of sqrt(n) ||w_c||_2, n numbers a channel (Wen et al. 2016)
 * and the norm of all gradients, for clipping. Sums in double, in order: the same bits on every pool. */
#ifndef PARED_TRAIN_REGULARIZE_H
#define PARED_TRAIN_REGULARIZE_H

#include "core/base/pool.h"
#include "core/tensor/tensor.h"

struct regularize {
    double l1, l2, group_lasso;
    int axis; /* of output channels, for group_lasso */
};
/* Adds the gradient to `gradient` and gives the term's value. float32 or float64. */
double regularize_add(struct pool *pool, const struct regularize *r, const struct tensor *w, struct tensor *gradient);
/* Sum of squares. */
double gradient_square(struct pool *pool, const struct tensor *gradient);
void gradient_scale(struct pool *pool, struct tensor *gradient, double by);

#endif
