/* SPDX-License-Identifier: Apache-2.0
 * channel_affine.h - a multiply-add per output channel, folded into the weight and bias of the product before it.
 *
 *   s (W x + b) + t  =  (s W) x + (s b + t)
 *
 * s scales the weight's slices along the output-channel axis: axis 0 of Conv, the groups' blocks of axis 1 of
 * ConvTranspose, the columns (or, transposed, rows) of Gemm and MatMul. BatchNormalization with given statistics is
 * such a multiply-add. In double, so that folding costs no more than one rounding. */
#ifndef PARED_KERNELS_CHANNEL_AFFINE_H
#define PARED_KERNELS_CHANNEL_AFFINE_H

#include "core/tensor/tensor.h"

/* Which output channel an element of a weight belongs to. */
struct channel_layout {
    int64_t channels;              /* output channels of the product */
    int64_t inner;                 /* elements after the channel axis */
    int64_t per_group, group_size; /* ConvTranspose: channels of a group, elements of a group's input rows; else 0 */
};
/* Weights of Conv [M, C / group, ...] and ConvTranspose [C, M / group, ...]. NULL, or what is wrong with the shape. */
const char *channel_layout_conv(const struct shape *w, int64_t group, bool transposed, struct channel_layout *l);
/* Matrices [K, N], channels are the columns; rows: [N, K]. */
const char *channel_layout_matrix(const struct shape *w, bool rows, struct channel_layout *l);

/* BatchNormalization as y = scale x + shift: scale = gamma / sqrt(var + eps), shift = beta - scale mean. All [n]; scale
 * may be gamma, shift may be beta. False: a result is not finite. */
bool channel_affine_norm(int64_t n, double eps, const double *gamma, const double *beta, const double *mean,
                         const double *var, double *scale, double *shift);
/* out (empty) = w with every element times its channel's scale; w is of a floating-point dtype. */
int channel_affine_weight(const struct channel_layout *l, const double *scale, const struct tensor *w,
                          struct tensor *out, struct err *err);

#endif
