/* SPDX-License-Identifier: Apache-2.0
 * conv_i8.h - N-d convolution of 8-bit images and weights into exact int32 sums: (x - x_zero) * (w - w_zero), padding
 * counts as x_zero. Shapes and scratch as in conv.h. */
#ifndef PARED_KERNELS_CONV_I8_H
#define PARED_KERNELS_CONV_I8_H

#include "core/kernels/conv.h"

struct conv_i8 {
    struct conv shape;
    bool x_signed, w_signed;
    int32_t x_zero;
    const int32_t *w_zero; /* one, or c_out values */
    bool w_zero_channels;
};

bool conv_i8_scratch(const struct conv_i8 *cv, int lanes, size_t *bytes);
void conv_i8(struct pool *pool, const struct conv_i8 *cv, const void *x, const void *weight, int32_t *y, void *scratch);

#endif
