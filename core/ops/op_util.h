/* SPDX-License-Identifier: Apache-2.0
 * op_util.h - what many operators share: checks of inputs, output shapes, parallel loops, strided copies.
 * Pattern    An operator says everything it knows about shapes and dtypes in `infer`. At run time every input is known,
 * so `forward` calls op_outputs(c, infer, err) first: the same checks run again with full knowledge, and outputs whose
 * shape was not known while planning get their bytes. What remains in `forward` is values. Threads    Loops are cut
 * into pieces of fixed size, whatever the thread count. */
#ifndef PARED_OPS_OP_UTIL_H
#define PARED_OPS_OP_UTIL_H

#include "core/base/size.h"
#include "core/ops/op.h"

typedef int op_infer_fn(struct infer_ctx *c, struct err *err);

/* ---- inference ---- */
/* The first n inputs are there and are tensors. */
int op_need(const struct infer_ctx *c, int n, struct err *err);
/* Dtype of an input, DTYPE_NONE if absent or unknown. */
enum dtype op_dtype(const struct infer_ctx *c, int i);
/* All known dtypes of the inputs [from, to) agree; *dtype is the agreed one. */
int op_same_dtype(const struct infer_ctx *c, int from, int to, enum dtype *dtype, struct err *err);
/* Input i's dtype is of one of the kinds in `allowed` (letters of DTYPE_MAP: f i u b s c), or unknown. */
int op_dtype_kinds(const struct infer_ctx *c, int i, const char *allowed, struct err *err);
/* Input i is one of the float types that can be computed with (float32, double, float16, bfloat16), or unknown. */
int op_dtype_real(const struct infer_ctx *c, int i, struct err *err);
/* Input i is int32 or int64, or unknown. */
int op_dtype_index(const struct infer_ctx *c, int i, struct err *err);
/* Output 0 as input 0: dtype and shape. */
int op_infer_same(struct infer_ctx *c, struct err *err);
/* Constant contents of input i, or NULL. */
const struct tensor *op_value(const struct infer_ctx *c, int i);
/* What is known of the contents of input i as numbers and symbols (also of a constant, in rules for `propagate`); NULL:
 * nothing. */
const struct sym_list *op_sizes(const struct infer_ctx *c, int i);
/* propagate: output 0 has input 0's elements. */
bool op_sizes_same(const struct infer_ctx *c, struct sym_list *out);
/* Input i as the dims of a shape; false: nothing is known of it. Negative numbers become DIM_UNKNOWN. */
bool op_sizes_shape(const struct infer_ctx *c, int i, struct shape *out);
/* Non-negative axis of a known rank; ERR_MODEL with the range. */
int op_axis(const struct shape *s, int64_t axis, int *out, struct err *err);
/* An integer tensor of rank 0 or 1 into out[max]. */
int op_read_ints(const struct tensor *t, const char *what, int64_t *out, int max, int *count, struct err *err);
/* Number of elements an integer list input has, -1 if unknown. */
int64_t op_list_length(const struct infer_ctx *c, int i);
/* A list attribute of `count` values in [least, 2^31), all `fallback` where it is not given. */
int op_int_list(const struct op_ints *list, const char *name, int count, int64_t fallback, int64_t least, int64_t *out,
                struct err *err);
/* Axes as a mask; repeated ones are refused. */
int op_axes_mask(const int64_t *axes, int count, int rank, bool mask[SHAPE_MAX_RANK], struct err *err);
/* Refuses ranks above SHAPE_MAX_RANK. */
int op_rank_fits(int64_t rank, struct err *err);

/* ---- running ---- */
/* Infer again with everything known, allocate what was not. */
int op_outputs(struct run_ctx *c, op_infer_fn *infer, struct err *err);
/* Only the checks, for operators that allocate their outputs themselves. */
int op_recheck(struct run_ctx *c, op_infer_fn *infer, struct err *err);
/* Bytes of one element; 0 (and err) for the packed types, which have no addressable elements. */
size_t op_elem(enum dtype dtype, struct err *err);
/* An int32 or int64 tensor's element. */
static inline int64_t op_index_at(const struct tensor *t, int64_t i)
{
    return t->dtype == DTYPE_INT32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}
/* Negative indices count from the end; -1 when out of [-n, n). */
static inline int64_t op_wrap_index(int64_t i, int64_t n)
{
    int64_t k = i < 0 ? i + n : i;
    return k >= 0 && k < n ? k : -1;
}

/* Output 0 gets input 0's bytes as they are (another shape, the same elements). */
int op_copy_whole(struct run_ctx *c, op_infer_fn *infer, struct err *err);

/* fn(arg, begin, end) over [0, n) in pieces of `grain`. */
typedef void op_range_fn(void *arg, int64_t begin, int64_t end);
void op_parallel(struct pool *pool, int64_t n, int64_t grain, op_range_fn *fn, void *arg);

/* dst (contiguous, dims[rank]) takes src[sum(index * stride)] ; strides in elements, may be 0 or negative. elem: 1, 2,
 * 4, 8 or 16. */
enum { OP_COPY_RANK = SHAPE_MAX_RANK * 2 };
void op_copy_strided(struct pool *pool, size_t elem, void *dst, const void *src, int rank, const int64_t *dims,
                     const int64_t *strides);
/* n elements of one value. */
void op_fill(void *dst, const void *value, size_t elem, int64_t n);

/* A dtype's values in a type that all its values fit in and that arithmetic is done in: float16 and bfloat16 in
 * float32, integers and bool in int64 (uint64 in itself). *data is the tensor's own bytes if nothing needs converting,
 * else scratch. */
enum dtype op_carrier(enum dtype dtype);
int op_to_carrier(struct run_ctx *c, const struct tensor *t, const void **data, struct err *err);

#endif
