/* SPDX-License-Identifier: Apache-2.0
 * Reduce_grad.h - what Reduce.c and the gradients of its rows share. */
#ifndef PARED_OPS_REDUCE_GRAD_H
#define PARED_OPS_REDUCE_GRAD_H

#include "core/ops/op.h"

struct reduce_attrs {
    struct op_ints axes;
    bool keepdims, noop_with_empty_axes;
};
/* Which axes are reduced. `list` is the input's value, or NULL to take the attribute. In Reduce.c. */
int reduce_axes(const struct reduce_attrs *attrs, const struct tensor *list, int rank, bool mask[SHAPE_MAX_RANK],
                struct err *err);

int backward_reduce_sum(struct grad_ctx *c, struct err *err);
int backward_reduce_mean(struct grad_ctx *c, struct err *err);
int backward_reduce_prod(struct grad_ctx *c, struct err *err);
int backward_reduce_max(struct grad_ctx *c, struct err *err);
int backward_reduce_min(struct grad_ctx *c, struct err *err);
int backward_reduce_l1(struct grad_ctx *c, struct err *err);
int backward_reduce_l2(struct grad_ctx *c, struct err *err);
int backward_reduce_log_sum(struct grad_ctx *c, struct err *err);
int backward_reduce_log_sum_exp(struct grad_ctx *c, struct err *err);
int backward_reduce_sum_square(struct grad_ctx *c, struct err *err);

/* What they read: x, y, and always the list of axes. */
#define REDUCE_READS_AXES GRAD_READS_IN(1)
#define REDUCE_READS_X (REDUCE_READS_AXES | GRAD_READS_IN(0))
#define REDUCE_READS_Y (REDUCE_READS_AXES | GRAD_READS_OUT(0))
#define REDUCE_READS_sum REDUCE_READS_AXES
#define REDUCE_READS_mean REDUCE_READS_AXES
#define REDUCE_READS_prod REDUCE_READS_X
#define REDUCE_READS_max (REDUCE_READS_X | REDUCE_READS_Y)
#define REDUCE_READS_min (REDUCE_READS_X | REDUCE_READS_Y)
#define REDUCE_READS_l1 REDUCE_READS_X
#define REDUCE_READS_l2 (REDUCE_READS_X | REDUCE_READS_Y)
#define REDUCE_READS_log_sum REDUCE_READS_Y
#define REDUCE_READS_log_sum_exp (REDUCE_READS_X | REDUCE_READS_Y)
#define REDUCE_READS_sum_square REDUCE_READS_X

#endif
