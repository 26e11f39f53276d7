/* SPDX-License-Identifier: Apache-2.0
 * qdq.h - private to quantize.static: what is wanted of every node and value (qdq_options.c), which of them are
 * quantized (qdq_plan.c), and the QuantizeLinear / DequantizeLinear pairs put into the model (qdq_rewrite.c with
 * qdq_writer.c, qdq_products.c). */
#ifndef PARED_QUANT_QDQ_H
#define PARED_QUANT_QDQ_H

#include "core/ops/op.h"
#include "core/passes/pass.h"
#include "core/quant/affine.h"
#include "core/quant/overrides.h"
#include "core/quant/static.h"

enum decision {
    QDQ_FLOAT = 0,
    QDQ_PRODUCT,  /* weight, bias and input are quantized */
    QDQ_OUTPUT,   /* an operator with quantized inputs and output */
    QDQ_PASS,     /* output has the scale of the input */
    QDQ_ABSORBED, /* the producer's saturation does its work: removed */
};

/* What the parameters and overrides say. */
struct node_options {
    enum dtype weight;
    bool per_channel, symmetric_weights;
    signed char keep_float; /* -1: the plan decides; 1: by an override; 0: quantized by an override */
};
struct value_options {
    enum dtype dtype;
    bool symmetric;
    signed char keep_float;
    bool ranged; /* lo, hi were given */
    double lo, hi;
};

struct qdq {
    const struct quantize_static_params *opts;
    const struct static_choice *choice; /* may be NULL */
    struct model *m;
    struct edit edit;
    struct infer infer;
    const struct calibration *calibration; /* NULL: not run yet; all values are taken to be finite */
    bool dirty; /* the calibration data itself has NaN or infinities: that values have some says nothing of them */
    uint32_t n_values, n_nodes;  /* sizes of the tables below */
    struct node_options *node;   /* by node id */
    struct value_options *value; /* by value id */
    enum decision *decision;     /* by node id */
    const char **why;       /* by node id: why a product or a quantizable operator stays in float; NULL otherwise */
    bool *wanted;           /* by value: a product reads it quantized, or it was asked for */
    bool *tail;             /* by value: only re-arranged or normalised on its way to an output of the model */
    bool *quantized;        /* by value: gets a pair */
    bool *placed;           /* by value: params is final */
    bool *measured;         /* by value: params come from what was seen of it */
    struct qparams *params; /* by value */
    struct layer_report *layers;
    struct warnings *warnings;
};

/* Fills q->node and q->value from the parameters and overrides. A warning for an override that matches nothing. */
int qdq_options(struct qdq *q, struct err *err);
/* Fills the other tables, which are zero. Without a calibration it is a forecast: `measured` then says which values are worth
 * a histogram, the other tables are not to be used. */
int qdq_plan(struct qdq *q, struct err *err);
int qdq_rewrite(struct qdq *q, struct err *err);

static inline bool dtype_is_8bit(enum dtype d)
{
    return d == DTYPE_INT8 || d == DTYPE_UINT8;
}
/* Input i of an operator is quantized with it: its row says so, and it is float32. */
bool qdq_is_data(const struct qdq *q, const struct node *n, int i);
/* The axis of a product's input that its weight sums over; below zero: from the end. */
static inline int qdq_input_axis(const struct node *n)
{
    return node_is(n, "Conv") || node_is(n, "ConvTranspose") ? 1 : -1;
}
/* The output-channel axis of a product's weight; -1: it has none, or (err set) memory ran out. */
int qdq_channel_axis(const struct qdq *q, const struct node *n, const struct tensor *weight, struct err *err);

#endif
