/* SPDX-License-Identifier: Apache-2.0
 * matmul_shape.h - the shapes of numpy's matmul, shared by MatMul, MatMulInteger and QLinearMatMul: vectors are
 * promoted, leading axes broadcast. */
#ifndef PARED_OPS_MATMUL_SHAPE_H
#define PARED_OPS_MATMUL_SHAPE_H

#include "core/ops/op_util.h"

/* Output shape; SHAPE_UNKNOWN when a rank is unknown. ERR_SHAPE when the inner sizes or leading axes do not fit. */
int matmul_output(const struct shape *a, const struct shape *b, struct shape *out, struct err *err);

/* For known shapes: `count` products [m, k] x [k, n]; a_at / b_at hold the offset of each matrix in elements (in the
 * run's scratch). When every batch uses the same B, the batches of A are one tall matrix: count is 1. */
struct matmul_plan {
    int64_t m, n, k, count;
    int64_t *a_at, *b_at;
};
/* `flatten`: allow the tall matrix (not when something is per row of A). */
int matmul_plan(struct run_ctx *c, const struct shape *a, const struct shape *b, bool flatten, struct matmul_plan *p,
                struct err *err);
/* Multiply-accumulates, -1 if unknown. */
void matmul_cost(const struct shape *a, const struct shape *out, struct op_cost *cost);

#endif
