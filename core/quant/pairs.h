/* SPDX-License-Identifier: Apache-2.0
 * pairs.h - reading what quantized models are made of: codes with their scale and zero point, and the QuantizeLinear /
 * DequantizeLinear nodes around them. Shared by the rewriting to QOperator form, by quantize.dequantize and by the
 * recognition of quantized models. Nothing here changes a model. */
#ifndef PARED_QUANT_PAIRS_H
#define PARED_QUANT_PAIRS_H

#include "core/model/model.h"

/* Codes and what they mean: x = (code - zero) * scale. */
struct coded {
    uint32_t codes, scale, zero; /* value ids; zero VALUE_NONE: 0 */
    enum dtype dtype;            /* of the codes; DTYPE_NONE: not known */
    int64_t axis;                /* as the node says; counts only where scale has more than one element */
    int64_t block;               /* elements along axis that share a scale; 0: no blocks */
};

bool is_quantize(const struct node *n);   /* QuantizeLinear of the default domain or com.microsoft */
bool is_dequantize(const struct node *n); /* DequantizeLinear likewise */
bool node_in(const struct node *n, const char *domain, const char *op); /* domain "": the default one */
/* What a QuantizeLinear or DequantizeLinear node says of the codes it makes or reads. False if its inputs are
 * missing. */
bool coded_of(const struct model *m, uint32_t node, struct coded *out);
/* The same numbers: one scale, zero point and dtype each, constant and equal, or the same values. */
bool coded_alike(const struct model *m, const struct coded *a, const struct coded *b);
/* One float32 scale and one zero point for all codes, both constant, in 8 bits. */
bool coded_is_plain(const struct model *m, const struct coded *c);
/* Of plain codes. */
double coded_scale(const struct model *m, const struct coded *c);
int32_t coded_zero(const struct model *m, const struct coded *c);
int32_t coded_quantize(const struct model *m, const struct coded *c, double x);

/* What operators that only move elements about ask for when they are to move codes instead. */
struct mover {
    const char *op;
    int since; /* opset from which runtimes have it for int8 and uint8 */
    /* NULL: always. Else says why this node cannot work on codes; NULL: it can. */
    const char *(*refuse)(const struct model *m, const struct node *n);
};
const struct mover *mover_of(const struct node *n); /* NULL: it is none */
/* The bounds a Relu or Clip keeps values within. False: it is neither, or a bound is not constant. */
bool node_bounds(const struct model *m, const struct node *n, double *lo, double *hi);

#endif
