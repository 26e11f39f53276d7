/* SPDX-License-Identifier: Apache-2.0
 * qoperator_forms.h - private to the rewriting to QOperator form: the table of forms (qoperator_forms.c) and what the
 * forms are written with (qoperator.c). */
#ifndef PARED_QUANT_QOPERATOR_FORMS_H
#define PARED_QUANT_QOPERATOR_FORMS_H

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/quant/pairs.h"

#define MICROSOFT "com.microsoft"

struct qop {
    struct model *m;
    struct edit edit;
    struct infer infer;
    int64_t opset;
    bool microsoft;      /* an operator of com.microsoft was written */
    bool signed_product; /* a product reads int8 activations */
    const char *written; /* by the form at work, for the report */
};

/* One operator: how a node of it between pairs is written as an operator on codes. Returns NULL when done, or why the
 * node stays; nothing has changed then. */
typedef const char *form_rewrite(struct qop *q, uint32_t node);
struct form {
    const char *op;
    form_rewrite *rewrite;
};
const struct form *form_of(const struct node *n); /* NULL: there is none for this operator */

/* Where a node's result becomes codes: its only reader is a QuantizeLinear, perhaps behind a Relu or Clip, which
 * then is
 * done on the codes. */
struct result {
    struct coded code; /* code.codes: the value that must be made */
    uint32_t remove[6];
    int n_remove;
    int32_t low, high; /* of the codes */
};

/* The codes a node reads at an input: plain ones behind a DequantizeLinear. */
bool read_codes(struct qop *q, uint32_t value, struct coded *out);
bool read_result(struct qop *q, uint32_t value, struct result *out);
/* The value a new node has to make to be this result; the nodes that made it are gone afterwards. */
uint32_t take_result(struct qop *q, struct result *r);
uint32_t fresh(struct qop *q, const char *name);
/* A node with the attributes of `from`. */
uint32_t write_node(struct qop *q, uint32_t from, const char *domain, const char *op, const uint32_t *in, int n_in,
                    uint32_t out);
/* A scalar of the codes' type. */
uint32_t write_code(struct qop *q, enum dtype dtype, int32_t code);

/* Products (qoperator_products.c). */
form_rewrite rewrite_conv, rewrite_gemm, rewrite_matmul;

#endif
