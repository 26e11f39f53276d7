/* SPDX-License-Identifier: Apache-2.0
 * qdq_writer.h - private to quantize.static: adding QuantizeLinear and DequantizeLinear nodes with their constants.
 * Names      are short (s1, z2, q3, d4), and equal scalars are one initializer: small networks shrink by their names too.
 * Domain     16-bit codes are com.microsoft's below opset 21, as ONNX Runtime's own quantizer writes them: the opset need not
 *            be raised for them.
 * Errors     memory running out sets q->edit.failed; ids are then VALUE_NONE. */
#ifndef PARED_QUANT_QDQ_WRITER_H
#define PARED_QUANT_QDQ_WRITER_H

#include "core/quant/qdq.h"

/* Scalars already in the model, found again by value. */
struct scalar {
    enum dtype dtype;
    double v;
    uint32_t id;
};
/* A weight that is stored already, for the next product that reads it. */
struct stored {
    uint32_t weight, codes, scale, dequantized; /* value ids */
    enum dtype dtype;
    int axis;
    bool zero; /* it has a zero point of its own */
    double sqnr_db;
    struct pair_proof proof;
};
struct writer {
    struct qdq *q;
    struct scalar *scalars;
    int n_scalars, cap_scalars;
    struct stored *stored; /* [nodes] */
    int n_stored;
    unsigned names;
};

uint32_t writer_scalar(struct writer *w, enum dtype dtype, double v);
/* An initializer under a new short name that begins with `prefix`. */
uint32_t writer_constant(struct writer *w, const char *prefix, const struct tensor *t);
/* DequantizeLinear of codes of this dtype; zero VALUE_NONE: 0. axis -1: one scale. Returns its output. */
uint32_t writer_dequantize(struct writer *w, enum dtype dtype, uint32_t codes, uint32_t scale, uint32_t zero, int axis);
/* v -> QuantizeLinear -> DequantizeLinear -> all that read v. */
void writer_pair(struct writer *w, uint32_t v);
/* The constant at an input, in codes of the type of the node's output, behind a DequantizeLinear. */
void writer_operand(struct writer *w, uint32_t node, int slot);
/* The weight and bias of a product that reads x (its value before pairs came between). */
int writer_product(struct writer *w, uint32_t node, uint32_t x, struct err *err);

#endif
