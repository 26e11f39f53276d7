/* SPDX-License-Identifier: Apache-2.0
 * infer.h - what is proven about the values of a model, for rewriting it.
 * Types      follow from the declared inputs of the main graph, the weights and the operators' inference; what the file
 * says of other values (value_info) is not believed. An operator nobody knows leaves its outputs unknown. Contents   of
 * small tensors of whole numbers are followed element by element through Shape, Gather, Concat, ...: each is a number, a
 * symbolic dim (the model's, or one made for a formula of them), or unknown. So "Reshape to [batch of x, 640]" is seen for what it is. Life cycle infer_run -> queries
 * -> infer_fini. A snapshot: ids beyond it are unknown. */
#ifndef PARED_PASSES_INFER_H
#define PARED_PASSES_INFER_H

#include "core/model/model.h"
#include "core/ops/symbols.h"

enum { INFER_CONTENT_MAX = SYM_LIST_MAX };

/* Elements in order. */
struct content {
    int count; /* elements; -1: unknown altogether */
    bool scalar;
    bool number[INFER_CONTENT_MAX]; /* v is a number */
    int64_t v[INFER_CONTENT_MAX];   /* a number; else a dim: a symbol (< DIM_UNKNOWN) or DIM_UNKNOWN */
};

struct infer {
    struct arena *arena;
    struct type *types; /* by value id */
    struct content **contents;
    uint32_t n;
    struct symbols *symbols;
};

int infer_run(struct infer *x, const struct model *m, struct err *err);
/* The same with a number for the batch: the first axis of every input that has no number there, and whatever else is called
 * like it. 0: as infer_run. */
int infer_run_batch(struct infer *x, const struct model *m, int64_t batch, struct err *err);
void infer_fini(struct infer *x);

/* SHAPE_UNKNOWN and DTYPE_NONE if not known. Borrowed. */
const struct shape *infer_shape_of(const struct infer *x, uint32_t value);
enum dtype infer_dtype_of(const struct infer *x, uint32_t value);
static inline int infer_rank_of(const struct infer *x, uint32_t value)
{
    return infer_shape_of(x, value)->rank;
}
const struct content *infer_content_of(const struct infer *x, uint32_t value); /* NULL: unknown */

#endif
