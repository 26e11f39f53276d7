/* SPDX-License-Identifier: Apache-2.0
 * dynamic.h - private to quantize.dynamic: what its families of operators share. A family is a row (dynamic.c) of
 * an operator, the inputs that are its weights, and two functions: one that only looks, and one that rewrites.
 *   products  MatMul, Gemm, Conv (dynamic_products.c)
 *   recurrent LSTM; GRU, RNN and com.microsoft.Attention keep their operator, with weights behind DequantizeLinear
 *             (dynamic_recurrent.c)
 *   tables    Gather (dynamic_tables.c) */
#ifndef PARED_QUANT_DYNAMIC_H
#define PARED_QUANT_DYNAMIC_H

#include "core/base/size.h"
#include "core/passes/pass.h"
#include "core/quant/affine.h"
#include "core/step/method.h"

struct quantize_dynamic_params {
    struct globs include, exclude;
    bool per_channel, conv;
    int isa, weights;
};
enum { DYNAMIC_INT8, DYNAMIC_UINT8 }; /* weights */

/* Codes of a weight that are in the model already, so that its other readers share them. */
struct made_codes {
    struct made_codes *next; /* of the same weight */
    int form;                /* what was done to it: a number of the family's */
    float alpha;             /* and a factor */
    uint32_t codes, scale;
    uint32_t zero;   /* zero points (LSTM); VALUE_NONE: none yet */
    uint32_t floats; /* what a DequantizeLinear of them makes; VALUE_NONE: none yet */
};

struct dynamic_family;
struct dynamic {
    const struct quantize_dynamic_params *opts;
    struct step_ctx *c;
    struct model *m;
    struct edit edit;
    struct infer infer;
    const struct dynamic_family **family; /* [n_nodes] of a node that will be rewritten; NULL: it stays */
    const char **why;                     /* [n_nodes] why a node that has a family stays in float */
    struct quantized_input {
        bool made;
        uint32_t out[3]; /* quantized, scale, zero point */
        uint32_t graph;  /* where */
    } *inputs;                  /* [n_values] */
    struct made_codes **made;   /* [n_values] by weight */
    uint32_t n_values, n_nodes; /* of the tables */
    uint32_t zero128;           /* scalar uint8 128; VALUE_NONE: not made yet */
    bool per_channel_stored;    /* DequantizeLinear may have a scale for each channel (opset 13) */
    bool slow;                  /* a ConvInteger was written */
    unsigned names;
};

struct dynamic_family {
    const char *op_type, *domain;
    bool (*takes)(const struct node *n); /* NULL: every node of the type */
    unsigned slots; /* bit i: input i is a weight */
    int opset, opset_per_channel; /* of the default domain: what its form needs; 0: nothing */
    /* Why the node stays in float, NULL if it need not. Weights are constant, float32 and not empty. */
    const char *(*refuse)(struct dynamic *d, uint32_t node);
    int (*convert)(struct dynamic *d, uint32_t node, struct err *err);
};

const char *dynamic_refuse_product(struct dynamic *d, uint32_t node);
int dynamic_convert_product(struct dynamic *d, uint32_t node, struct err *err);
const char *dynamic_refuse_lstm(struct dynamic *d, uint32_t node);
int dynamic_convert_lstm(struct dynamic *d, uint32_t node, struct err *err);
const char *dynamic_refuse_stored(struct dynamic *d, uint32_t node);
int dynamic_convert_stored(struct dynamic *d, uint32_t node, struct err *err);
const char *dynamic_refuse_table(struct dynamic *d, uint32_t node);
int dynamic_convert_table(struct dynamic *d, uint32_t node, struct err *err);

/* ---- shared by the families ---- */
/* The constant behind an input as float32: an initializer, or one seen through Cast and Identity. *source is the
 * value that holds the bytes. False: not constant, no float, without data, or memory is out. To be freed by
 * tensor_fini. */
bool dynamic_constant(const struct dynamic *d, uint32_t value, struct tensor *t, uint32_t *source);
/* The type of a constant input without converting it; DTYPE_NONE: not constant. */
const struct tensor *dynamic_peek(const struct dynamic *d, uint32_t value);
/* NULL, or the reason if codes, scales and `overhead` bytes of nodes take no less room than the weight. */
const char *dynamic_size_refusal(struct dynamic *d, uint32_t value, int64_t scales, int64_t overhead);

uint32_t dynamic_fresh(struct dynamic *d, uint32_t graph, const char *prefix);
uint32_t dynamic_constant_add(struct dynamic *d, uint32_t graph, const char *prefix, const struct tensor *t);
/* A node of one output, which is returned. */
uint32_t dynamic_add(struct dynamic *d, uint32_t graph, const char *op, const uint32_t *in, int n_in,
                     const char *prefix);
uint32_t dynamic_zero128(struct dynamic *d);
int dynamic_nomem(struct err *err);

struct made_codes *dynamic_find_codes(const struct dynamic *d, uint32_t source, int form, float alpha);
/* Puts codes and scale into the model under the weight's name, in its graph, and remembers them. NULL: memory is
 * out. */
struct made_codes *dynamic_keep_codes(struct dynamic *d, uint32_t source, int form, float alpha,
                                      const struct qweight *q);

/* Matrices [batch, K, N] from a weight [batch, K, N], or [batch, N, K] when turned; times alpha. Pairs along K are
 * what isa is about. q->codes: [batch, K, N] (rank 3), q->scale: [batch, N], or [batch] (one_scale: [1]) without
 * per_channel. */
struct matrices {
    int64_t batch, k, n;
    bool turned, one_scale, per_channel;
    float alpha;
    enum dtype dtype;
};
int dynamic_matrices(const struct dynamic *d, const struct tensor *w, const struct matrices *s, struct qweight *q,
                     struct err *err);

/* A row for a weight of a node that was rewritten. */
void dynamic_report(struct dynamic *d, uint32_t node, uint32_t weight, const struct qweight *q, const char *form,
                    const char *note, bool proof);

#endif
