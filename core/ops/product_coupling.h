/* SPDX-License-Identifier: Apache-2.0
 * product_coupling.h - what products of channels say for structured pruning (couple.h), shared by the float, the
 * integer and the fused rows.
 * Convolution  group = 1: the weight's axis 0 makes the output's channels, its axis 1 consumes the input's.
 *              One channel a group on the way in or out (depthwise): whole groups go, and `group` with them.
 *              Else: the same place in every group, so that the groups stay of one size; `group` stays.
 * Matrices     the inner axes of both operands go together; rows of A and columns of B make those of the output;
 *              leading axes pass, or make the output's where the other operand is broadcast. */
#ifndef PARED_OPS_PRODUCT_COUPLING_H
#define PARED_OPS_PRODUCT_COUPLING_H

#include "core/ops/couple.h"

/* Convolution of x [N, C, ...] with w [M, C / group, ...] to OUT(0) [N, M, ...]. */
void couple_conv(struct coupling *k, struct end x, struct end w, int64_t group);
/* Transposed: w [C, M / group, ...]. */
void couple_conv_transpose(struct coupling *k, struct end x, struct end w, int64_t group);
/* The same place in every one of so many equal blocks of an axis. */
void couple_places(struct coupling *k, struct end e, int axis, int64_t blocks);
/* Input `slot`, one value or one for each element of an axis (of any shape), with it: bias, scales, zero points. */
void couple_vector(struct coupling *k, int slot, struct end of, int axis);
/* After the cut, for both: attribute `group` where whole groups went. */
int shrink_conv_group(struct shrink *s, struct end x, int64_t group, struct err *err);

/* An operand of a matrix product. As FusedMatMul says it: trans_batch moves the first axis to the last but one, then
 * trans swaps the last two; vectors stay. */
struct couple_operand {
    struct end end;
    bool trans, trans_batch;
};
/* numpy's product of a and b to OUT(0). */
void couple_matmul(struct coupling *k, struct couple_operand a, struct couple_operand b);

#endif
