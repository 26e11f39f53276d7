/* SPDX-License-Identifier: Apache-2.0
 * widen.h - float16 and bfloat16 by way of float32: compute-heavy operators are written for float32 and float64 only;
 * halves are widened, computed, and the result is rounded once to nearest even, as ONNX Runtime's CPU kernels and the
 * backend tests do. */
#ifndef PARED_OPS_WIDEN_H
#define PARED_OPS_WIDEN_H

#include "core/ops/op_util.h"

typedef int op_compute_fn(struct run_ctx *c, struct err *err);

/* op_outputs(), then `compute` with every float16 / bfloat16 input and output replaced by a float32 one. When no half
 * is involved nothing is copied. The substitutes live in the call's scratch. */
int op_run_widened(struct run_ctx *c, op_infer_fn *infer, op_compute_fn *compute, struct err *err);

#endif
