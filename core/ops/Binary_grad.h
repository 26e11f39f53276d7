/* SPDX-License-Identifier: Apache-2.0
 * Binary_grad.h - gradients of the arithmetic rows of Binary.c. */
#ifndef PARED_OPS_BINARY_GRAD_H
#define PARED_OPS_BINARY_GRAD_H

#include "core/ops/op.h"

/* b's shape so that it aligns to a's right end: its own since opset 7, placed at `axis` before (attrs: the row's). In
 * Binary.c. */
int binary_aligned_shape(const void *attrs, int opset, const struct shape *a, const struct shape *b, struct shape *out,
                         struct err *err);

int backward_add(struct grad_ctx *c, struct err *err);
int backward_sub(struct grad_ctx *c, struct err *err);
int backward_mul(struct grad_ctx *c, struct err *err);
int backward_div(struct grad_ctx *c, struct err *err);
int backward_pow(struct grad_ctx *c, struct err *err);
int backward_mod(struct grad_ctx *c, struct err *err);

/* What the rows say of them. */
#define BINARY_GRAD(name, reads)                                                                                     \
    .backward = backward_##name, .grad_reads = reads, .grad_inputs = 3, .grad_assigns = true
enum { BINARY_READS_BOTH = GRAD_READS_IN(0) | GRAD_READS_IN(1) };

#endif
