/* SPDX-License-Identifier: Apache-2.0
 * dequantize_forms.h - private to quantize.dequantize: the table of forms and what they are undone with.
 * Twin       the float value that codes stand for. It is known for codes a QuantizeLinear makes (what it reads),
 * and for
 * those an undone operator made (its float result), together with their scale and zero point: who reads the codes
 * by the
 * same numbers may read the twin instead. */
#ifndef PARED_QUANT_DEQUANTIZE_FORMS_H
#define PARED_QUANT_DEQUANTIZE_FORMS_H

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/quant/pairs.h"
#include "core/step/method.h"

#define MICROSOFT "com.microsoft"
enum { CLIP_ACTIVATIONS, CLIP_ALL, CLIP_NONE };

struct quantize_dequantize_params {
    struct globs include, exclude;
    int clip;
};

struct float_constant; /* a constant in float again */
struct deq {
    const struct quantize_dequantize_params *opts;
    struct model *m;
    struct edit edit;
    struct infer infer;
    int64_t opset;
    uint32_t n_values;     /* size of the tables: values there were at the start */
    uint32_t *twin;        /* by value; VALUE_NONE: none */
    struct coded *meaning; /* by value with a twin */
    bool *clipped;         /* by value: its twin has been held within the codes' range */
    struct float_constant *constants;
    int n_constants, cap_constants;
    const char *written; /* operator an undone node became */
    struct layer_report *layers;
    int pairs;      /* of activations that were taken out */
    struct err err; /* first failure other than memory */
};

/* Undoes a node. NULL when done, else why it stays; nothing has changed then. */
typedef const char *undo_fn(struct deq *d, uint32_t node);
struct undo {
    const char *domain, *op;
    undo_fn *undo;
};
const struct undo *undo_of(const struct node *n); /* NULL: not an operator of quantized models */
/* Operators that work on codes as well as on floats: movers, Clip, Concat, ArgMax. False: it reads no codes with
 * twins. */
bool undo_on_codes(struct deq *d, uint32_t node, const char **why);

/* ---- dequantize.c ---- */
uint32_t deq_value(struct deq *d, uint32_t like, const char *suffix); /* fresh, named after a value, in its graph */
/* Codes at inputs (codes, scale, zero) of a node; axis counts where there are several scales. */
struct coded coded_at(const struct deq *d, uint32_t node, int codes, int scale, int zero, int64_t axis);
/* The float value of codes: a constant is computed (once), a twin is taken; else a DequantizeLinear is left in place.
 * VALUE_NONE: *why says why not. */
uint32_t deq_read(struct deq *d, const struct coded *c, const char **why);
bool deq_has_twin(const struct deq *d, uint32_t codes);
/* The twin of codes, held within their range where saturation did an activation's work. */
uint32_t deq_twin(struct deq *d, uint32_t codes);
void deq_set_twin(struct deq *d, uint32_t codes, uint32_t twin, const struct coded *meaning);
/* The node goes, `out` (or the codes it made, whose twin the new value is) is made by a new one with its attributes. */
uint32_t deq_replace(struct deq *d, uint32_t node, const char *domain, const char *op, const uint32_t *in, int n_in,
                     uint32_t out);
uint32_t deq_replace_codes(struct deq *d, uint32_t node, const char *op, const uint32_t *in, int n_in,
                           const struct coded *y);
uint32_t deq_constant(struct deq *d, const char *name, const struct tensor *t);
/* Constant numbers as doubles; malloc'ed, NULL if not constant. */
double *deq_numbers(const struct deq *d, uint32_t value, int64_t *count);
void deq_report_weight(struct deq *d, uint32_t node, uint32_t codes, uint32_t value);

/* ---- dequantize_weights.c ---- */
/* (code - zero) * scale as floats of the scale's type. Why not; NULL: done. `reader` only gives names. */
const char *codes_to_float(const struct model *m, const struct coded *c, struct tensor *out);
undo_fn undo_matmul_nbits, undo_gather_block, undo_lstm;

/* ---- dequantize_dynamic.c ---- */
undo_fn undo_dynamic_quantize, undo_matmul_integer, undo_conv_integer, undo_dynamic_matmul, undo_to_float,
    undo_attention;

#endif
