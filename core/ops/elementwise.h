/* SPDX-License-Identifier: Apache-2.0
 * elementwise.h - loops over broadcast operands, and the arithmetic of two operands that several families share.
 * Idea       Kernels exist for a few carrier types only (op_carrier: float32, double, int64, uint64, and bool); other
 * dtypes are converted piece by piece on the stack, so a family is four lines of formulas and every dtype of the
 * standard works. */
#ifndef PARED_OPS_ELEMENTWISE_H
#define PARED_OPS_ELEMENTWISE_H

#include "core/ops/op_util.h"

/* Up to three operands against one output shape, adjacent axes merged: rows of `row` elements, in which each operand
 * has stride 1 or 0, at offsets from op_walk_at. */
enum { OP_WALK_MAX = 3 };
struct op_walk {
    int operands, rank;
    int64_t dim[SHAPE_MAX_RANK], stride[OP_WALK_MAX][SHAPE_MAX_RANK];
    int64_t row, rows;
    int64_t step[OP_WALK_MAX]; /* stride inside a row */
};
void op_walk_init(struct op_walk *w, int operands, const struct shape *const *in, const struct shape *out);
void op_walk_at(const struct op_walk *w, int64_t row, int64_t offset[OP_WALK_MAX]);

/* d[i] = f(a[i * sa], b[i * sb]); sa, sb are 0 or 1; d may be a. */
typedef void binary_fn(void *d, const void *a, const void *b, int64_t n, int64_t sa, int64_t sb);
struct binary {
    binary_fn *f32, *f64, *i64, *u64, *b8; /* NULL: not for this type */
    bool to_bool;                          /* the result is bool, not the operands' type */
    bool divides;                          /* integers: refuse zeros in b */
};

/* d (of shape out) = a op b, computed in `carrier`; d may be a's memory if a's shape is out. */
struct binary_call {
    const struct binary *op;
    enum dtype carrier, dtype_a, dtype_b, dtype_d;
    const void *a, *b;
    void *d;
    const struct shape *shape_a, *shape_b, *shape_d;
};
int binary_apply(struct pool *pool, const struct binary_call *call, struct err *err);

extern const struct binary binary_add, binary_max, binary_min;

/* Shape of two broadcast operands, with a sentence if they do not fit. */
int binary_shape(const struct shape *a, const struct shape *b, struct shape *out, struct err *err);

#endif
