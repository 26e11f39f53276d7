/* SPDX-License-Identifier: Apache-2.0
 * half.h - private to quantize.fp16 and quantize.bf16: which nodes and values are in 16 bits (half_sides.c), and
 * the casts and weights put into the model (half_rewrite.c). */
#ifndef PARED_QUANT_HALF_H
#define PARED_QUANT_HALF_H

#include "core/passes/pass.h"
#include "core/quant/half_ranges.h"
#include "core/step/method.h"

struct quantize_half_params {
    bool keep_io, storage;
    int64_t samples;
    double max_overflow, max_underflow;
    struct globs include, exclude, keep_ops;
};

struct half {
    const struct quantize_half_params *opts;
    struct step_ctx *c;
    struct model *m;
    struct edit edit;
    struct infer infer;
    enum dtype dtype;                /* DTYPE_FLOAT16 or DTYPE_BFLOAT16 */
    const struct half_ranges *seen;  /* NULL: no data, or no limits to check (bfloat16) */
    uint32_t n_nodes, n_values;      /* of the tables below */
    bool *half_node, *stored_node;   /* computes in 16 bits; computes in float with weights stored in 16 */
    bool *half_value;                /* is in 16 bits in the result; weights are not marked */
    enum weight_side { WEIGHT_FLOAT, WEIGHT_HALF } * weight_side; /* by value, of float32 constants */
    uint32_t *other, *widened;       /* by value: its cast to the other side,
        or a weight in 16 bits; and that in float again */
    bool *reported;                  /* by value: a row was written for this weight */
    unsigned names;
};

/* Fills the tables, which are zero; rows for nodes that stay. */
int half_choose(struct half *h, struct err *err);
void half_rewrite(struct half *h);

bool half_is_float(const struct half *h, uint32_t value); /* float32, as proven */
/* Inputs that stay float32 in a half node. */
bool half_slot_stays_float(const struct node *n, int slot);
/* How far 16 bits keep a weight: decibels (NAN: exactly), and NULL or the reason against it. */
const char *half_weight_refusal(struct half *h, const struct tensor *t, double *sqnr);

#endif
