/* SPDX-License-Identifier: Apache-2.0
 * weight_forms.h - private to quantize.weights: which operators take a weight of few bits, in which form, and the
 * rewriting.
 *   nbits       MatMul and Gemm become com.microsoft MatMulNBits; nothing is unpacked ahead.
 *   gather      an embedding's Gather becomes com.microsoft GatherBlockQuantized.
 *   dequantize  the operator stays; a DequantizeLinear makes its weight.
 * Order      forms_plan_node for every node -> forms_settle -> codes are made (weight_codes.h) -> forms_rewrite for
 *            every item. */
#ifndef PARED_QUANT_WEIGHT_FORMS_H
#define PARED_QUANT_WEIGHT_FORMS_H

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/quant/weight_codes.h"
#include "core/step/method.h"

enum { FORM_AUTO, FORM_NBITS, FORM_DEQUANTIZE }; /* the parameter */

struct quantize_weights_params {
    int64_t bits, block, accuracy_level, samples;
    bool has_block, symmetric;
    int algorithm, form;
    struct globs include, exclude;
};

/* How the node is rewritten. */
enum weight_form {
    WEIGHT_NBITS,
    WEIGHT_GATHER,
    WEIGHT_DEQUANTIZE,
    WEIGHT_DEQUANTIZE_TURNED /* codes are [N, K], the operator reads [K, N] */
};

/* A weight to be made once, whoever reads it. */
struct weight_job {
    struct code_plan plan;
    struct weight_codes made;
    uint32_t first;               /* node whose row tells of it */
    const char *algorithm, *note; /* that made the codes; why it is not the one that was asked for, or NULL */
    double error_ratio;           /* gptq, awq: error of the output against that of round to nearest; NAN */
    uint32_t codes, scale, zero;  /* values; VALUE_NONE: not in the model yet */
    uint32_t floats, turned;      /* outputs of DequantizeLinear and of the Transpose behind it; VALUE_NONE */
};
struct weight_item {
    uint32_t node;
    int slot;
    enum weight_form form;
    int64_t job;
    int64_t opset;       /* least this form needs; 0: any */
    bool new_bias;       /* Gemm as MatMulNBits: the bias is made anew (broadcast, times beta) */
    const char *dropped; /* settled otherwise: why */
};

struct weight_forms {
    const struct quantize_weights_params *o;
    struct model *m;
    struct edit *edit;
    const struct infer *infer;
    int64_t opset;         /* forms that need a newer one are not chosen */
    const char *opset_why; /* what to say then */
    bool rounded_inputs;   /* a form was chosen that ONNX Runtime runs with 8-bit inputs */
    struct weight_job *jobs;
    struct weight_item *items;
    int64_t n_jobs, n_items, cap_jobs, cap_items;
};

/* True: an item was added, or *why says why the node is left alone. False: it has no weight of the kind at all. */
bool forms_plan_node(struct weight_forms *f, uint32_t node, const char **why, struct err *err);
/* Weights that someone reads as floats anyway are not stored twice: their items are dropped. */
int forms_settle(struct weight_forms *f, struct err *err);
int forms_rewrite(struct weight_forms *f, struct weight_item *item, struct err *err);
void forms_fini(struct weight_forms *f);
/* "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear" */
const char *forms_name(enum weight_form form);

/* The block that suits rows of k elements (weight_forms.c says why). */
int64_t forms_block(int64_t k, int bits, bool symmetric, enum dtype scale_dtype);

#endif
