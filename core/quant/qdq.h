/* SPDX-License-Identifier: Apache-2.0
 * qdq.h - private to quantize.static: which values and nodes are quantized (qdq_plan.c), and the QuantizeLinear /
 * DequantizeLinear pairs put into the model (qdq_rewrite.c). */
#ifndef PARED_QUANT_QDQ_H
#define PARED_QUANT_QDQ_H

#include "core/passes/pass.h"
#include "core/quant/affine.h"
#include "core/quant/static.h"

enum decision {
    QDQ_FLOAT = 0,
    QDQ_PRODUCT,  /* weight, bias and input are quantized */
    QDQ_OUTPUT,   /* an operator with 8-bit inputs and output */
    QDQ_PASS,     /* output has the scale of the input */
    QDQ_ABSORBED, /* the producer's saturation does its work: removed */
};

struct qdq {
    const struct quantize_static_params *opts;
    const struct static_choice *choice; /* may be NULL */
    struct model *m;
    struct edit edit;
    struct infer infer;
    const struct calibration *calibration; /* NULL: not run yet; all values are taken to be finite */
    enum dtype act, weight;
    int32_t act_min, act_max;
    uint32_t n_values, n_nodes; /* sizes of the tables below */
    enum decision *decision;    /* by node id */
    const char **why;           /* by node id: why a product or an 8-bit operator stays in float; NULL otherwise */
    bool *wanted;               /* by value: a product reads it in 8 bits */
    bool *tail;                 /* by value: only re-arranged or normalised on its way to an output of the model */
    bool *quantized;            /* by value: gets a pair */
    bool *placed;               /* by value: params is final */
    bool *measured;             /* by value: params come from what was seen of it */
    struct qparams *params;     /* by value */
    struct layer_report *layers;
    struct warnings *warnings;
};

/* Fills the tables, which are zero. Without a calibration it is a forecast: `measured` then says which values are worth
 * a histogram, the other tables are not to be used. */
int qdq_plan(struct qdq *q, struct err *err);
int qdq_rewrite(struct qdq *q, struct err *err);

#endif
