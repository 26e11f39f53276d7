/* SPDX-License-Identifier: Apache-2.0
 * loss.h - losses on a network's output: value, gradient, value a sample.
 * Shapes     y [N, C, d...] scores (float32 or float64), labels [N, d...]; P = N d... places with C scores each. A
 *            vector [N] has C = 1.
 *   cross entropy   l = -sum over k of q_k log p_k,  p = softmax(y),
 *                   q = (1 - smoothing) onehot(label) + smoothing / C;  dy = p - q. Places whose label is LOSS_IGNORE
 *                   count nothing.
 *   squared error   l = (y - t)^2 a score;  dy = 2 (y - t)
 *   absolute error  l = |y - t|;  dy = sign(y - t), 0 where they are equal
 *   Huber           l = (y - t)^2 / 2 up to |y - t| = delta, then delta (|y - t| - delta / 2);  dy = y - t cut off at delta
 *   binary          l = log(1 + exp(y)) - t y, cross entropy of t in [0, 1] and sigmoid(y), a score;  dy = sigmoid(y) - t.
 *                   Labels are one-hot targets; with C = 1 they are 0 or 1 and the target themselves
 *   KL divergence   l = T^2 sum over k of q_k (log q_k - log p_k),  p = softmax(y / T),  q = softmax(t / T);
 *                   dy = T (p - q). (Hinton et al. 2015: T^2 keeps gradients of one size whatever T is.)
 * Reductions as PyTorch names them: LOSS_SUM; LOSS_MEAN (cross entropy: over the places that count; the others: over
 *            all scores); LOSS_BATCHMEAN (over N).
 * Sums are in double, in order: the same bits on every pool. */
#ifndef PARED_TRAIN_LOSS_H
#define PARED_TRAIN_LOSS_H

#include "core/base/pool.h"
#include "core/tensor/tensor.h"

#define LOSS_IGNORE ((int64_t)-100)

enum loss_kind { LOSS_CROSS_ENTROPY, LOSS_SQUARED, LOSS_KL, LOSS_ABSOLUTE, LOSS_HUBER, LOSS_BINARY, LOSS_KINDS };
enum loss_reduction { LOSS_MEAN, LOSS_SUM, LOSS_BATCHMEAN };

struct loss_opts {
    enum loss_kind kind;
    enum loss_reduction reduction;
    double smoothing;   /* cross entropy, in [0, 1) */
    double temperature; /* KL; 0: 1 */
    double delta;       /* Huber; 0: 1 */
    double scale;       /* value and gradient are multiplied by it; 0: 1. For weighted sums and gradient accumulation */
    bool add;           /* add to gradient instead of writing it */
    /* Mixed samples are two evaluations: the targets with their weights, then (with `add`) those of the other samples with
     * the rest. */
    const float *weight; /* [N] factors of the samples' losses and gradients; NULL: 1. They do not count in a mean */
    bool rest;           /* 1 - weight instead */
    const int32_t *pair; /* [N] the place of each sample's target in `target`; NULL: its own */
};

/* target: int32 or int64 labels for cross entropy, else scores of y's type and shape; binary takes either. gradient (or NULL):
 * of y's type and shape.
 * sample (or NULL): [N] sums of l over a sample times its weight, unreduced and unscaled. ERR_SHAPE, ERR_DATASET (a label that
 * is no class, a binary target outside [0, 1]), ERR_INVALID. */
int loss_evaluate(struct pool *pool, const struct loss_opts *opts, const struct tensor *y, const struct tensor *target,
                  double *value, struct tensor *gradient, double *sample, struct err *err);

#endif
