/* SPDX-License-Identifier: Apache-2.0
 * pass.h - a graph rewrite: one function, one row in the ordered table of optimize.c, run until none finds work.
 * Contract   a pass keeps what the model computes (to rounding), the names of its inputs and outputs, and the notes on
 * weights. It looks only at facts that are proven (weights, inferred types), never at what the file's value_info
 * claims. */
#ifndef PARED_PASSES_PASS_H
#define PARED_PASSES_PASS_H

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/step/layer_report.h"

struct pass_ctx {
    struct edit edit;
    struct infer infer; /* types and shape contents at the start of this pass; new values are unknown to it */
    int64_t opset;
    struct layer_report *layers;
    struct warnings *warnings;
    int changes; /* of this run of this pass */
    bool last;   /* nothing changes any more: say why nodes were left alone (rows with `skipped`) */
};

struct pass {
    const char *name, *doc;
    int (*run)(struct pass_ctx *c, struct err *err); /* changes are counted in c->changes */
};

int pass_constant_inputs(struct pass_ctx *c, struct err *err);
int pass_fold_constants(struct pass_ctx *c, struct err *err);
int pass_remove_noops(struct pass_ctx *c, struct err *err);
int pass_fold_batchnorm(struct pass_ctx *c, struct err *err);
int pass_add_bias(struct pass_ctx *c, struct err *err);
int pass_transposes(struct pass_ctx *c, struct err *err);
int pass_reshapes(struct pass_ctx *c, struct err *err);
int pass_merge_common(struct pass_ctx *c, struct err *err);
int pass_dead_code(struct pass_ctx *c, struct err *err);

/* The part of graph.optimize that quantization needs first: constants are initializers, BatchNormalization and added
 * constants are inside the products. Rows for what was folded. */
int passes_prepare(struct model *m, struct layer_report *layers, struct warnings *warnings, struct err *err);

/* Only what is constant is evaluated, and arithmetic on sizes that are fixed; no layer changes. */
int passes_constants(struct model *m, struct warnings *warnings, struct err *err);

/* A row for a node that is about to go into another: {"folded_into": "conv1"}. */
void pass_row_folded(struct pass_ctx *c, uint32_t node, uint32_t into, const char *pass);
void pass_row_skipped(struct pass_ctx *c, uint32_t node, const char *why);

/* Floating-point values of a constant as doubles (malloc'ed, [count]); NULL if it is not constant, not floating-point,
 * or memory is out. */
double *const_doubles(const struct model *m, uint32_t value, int64_t *count);
/* int64 or int32 contents of a small constant (at most `max` elements); -1: not constant, not integer, or more. */
int const_ints(const struct model *m, uint32_t value, int64_t *out, int max);
/* The axes / starts / ... of a node: attribute `name` (older opsets), else constant input `slot`. -1: absent or
 * unknown. */
int node_ints(const struct model *m, const struct node *n, const char *name, int slot, int64_t *out, int max);
/* The weight's own copy for a change: if someone else reads it too (or it is another graph's), a duplicate is made and
 * put at this input. Returns the value id to give new bytes to; notes are copied. */
uint32_t pass_private_weight(struct pass_ctx *c, uint32_t node, int slot);

#endif
