/* SPDX-License-Identifier: Apache-2.0
 * fuse_util.h - questions that fusing passes ask about nodes of the clone.
 * Errors     none; `false` and VALUE_NONE mean that the pattern is not there. */
#ifndef PARED_ENGINE_FUSE_UTIL_H
#define PARED_ENGINE_FUSE_UTIL_H

#include "core/engine/optimize.h"
#include "core/kernels/act.h"

/* The node that makes `value`, if it is of the default domain and this type; NODE_NONE. */
uint32_t fuse_maker(const struct optimize *o, uint32_t value, const char *op_type);
/* Is `value` a float32 constant of one element? */
bool fuse_scalar(const struct optimize *o, uint32_t value, float *number);
/* The input of a node of two inputs that is not `value`; VALUE_NONE if neither or both are. */
uint32_t fuse_other(const struct node *n, uint32_t value);
/* Known to be float32. */
bool fuse_is_f32(const struct optimize *o, uint32_t value);
/* Rank known, and every dim is a size or the same symbol: surely the same shape. */
bool fuse_same_shape(const struct optimize *o, uint32_t a, uint32_t b);
/* Is this node y = f(x) with f one of act.h, on float32? (Relu, Clip with constant bounds, Sigmoid, Gelu, ...) */
bool fuse_read_act(const struct optimize *o, uint32_t node, struct act *act);
/* Attributes `activation`, `alpha` and `beta` of the engine's rows. */
void fuse_set_act(struct model *m, uint32_t node, const struct act *act);
/* The node becomes another one, in place, without attributes: its outputs stay. -1: out of memory. */
int fuse_become(struct model *m, uint32_t node, const char *op_type, const char *domain, const uint32_t *in, int n_in,
                struct err *err);

#endif
