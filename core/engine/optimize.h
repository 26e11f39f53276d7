/* SPDX-License-Identifier: Apache-2.0
 * optimize.h - the engine's private rewriting of a model before it runs: fusions, packed weights, blocked layouts.
 * Idea       The user's model is never touched: a clone (weights shared) is rewritten by an ordered list of passes,
 *            each one file core/engine/fuse_<what>.c, into nodes of the internal domain OP_DOMAIN_ENGINE. Those are
 *            ordinary rows of the registry (internal = true), so inference, memory planning and execution know nothing
 *            special. A packed weight is an initializer of the clone, in the layout its row's header states.
 * Types      optimize.type[v] is what inference found for value v of the original under the declared input shapes
 *            (dims may be symbols or unknown); a pass that adds a value sets its type with optimize_set_type.
 * Between    passes the driver drops nodes and initializers nobody reads, puts the nodes into topological order and
 *            rebuilds `uses`. A pass may leave all that untidy; node_* and model_* calls are all it needs. It keeps the
 *            graph's inputs and outputs (value ids) and leaves nested graphs alone.
 * Order      semantic fusions first (BatchNormalization, quantization patterns), then activations and residual adds,
 *            then layout, last clean-up of what nobody reads any more.
 * Results    equal to the unfused run within rounding; integer results exactly equal to ONNX Runtime's fused form. */
#ifndef PARED_ENGINE_OPTIMIZE_H
#define PARED_ENGINE_OPTIMIZE_H

#include "core/engine/plan.h"

struct optimize {
    struct model *m;   /* the clone, being rewritten */
    struct type *type; /* [cap_type] by value id; DTYPE_NONE / SHAPE_UNKNOWN where nothing is known */
    uint32_t cap_type;
    struct uses uses;    /* of m, rebuilt before every pass */
    uint32_t n_uses;     /* values it knows; later ones are new in this pass */
    size_t packed_bytes; /* of the initializers that passes added */
    /* What inference found constant, by value id of the original: becomes initializers, so that passes see it by
     * value_const. What DequantizeLinear made does so only after fuse_qdq. */
    const struct tensor *known;
    uint32_t n_known;
    /* Values that somebody wants to see (plan_opts.watch), by value id of the original: no single reader takes them in,
     * and they are not dropped. NULL: none. */
    const bool *watch;
    uint32_t n_watch;
    struct plan_stand_in *stand_in; /* of watched values that are made blocked only */
    uint32_t n_stand_in;
};
typedef int optimize_pass(struct optimize *o, struct err *err);

struct optimize_opts {
    const struct type *types;   /* [n_values], as plan_infer gives them for m */
    const struct tensor *known; /* [n_values] constants found with them (dtype NONE: none), or NULL */
    const bool *watch;          /* [n_values] or NULL */
};
struct optimized {
    struct model *m; /* the rewritten clone; NULL: nothing was found to rewrite, or a watched value would be lost */
    size_t packed_bytes;
    struct plan_stand_in *stand_in; /* by rising twin; free() */
    uint32_t n_stand_in;
};
int plan_optimize(const struct model *m, const struct optimize_opts *opts, struct optimized *out, struct err *err);

/* ---- for passes ---- */
int optimize_set_type(struct optimize *o, uint32_t value, const struct type *type, struct err *err);
bool optimize_is_watched(const struct optimize *o, uint32_t value);
/* A watched value is left blocked only. */
int optimize_add_stand_in(struct optimize *o, struct plan_stand_in s, struct err *err);
/* The only node that reads `value`, which is no graph output, not watched, and read once and in the main graph; NODE_NONE. */
uint32_t optimize_single_reader(const struct optimize *o, uint32_t value);
/* A packed weight: an initializer named after `base`; takes over t. VALUE_NONE: out of memory. */
uint32_t optimize_add_weight(struct optimize *o, const char *base, struct tensor *t, struct err *err);

/* ---- the passes, in order ---- */
optimize_pass fuse_batchnorm; /* Conv / ConvTranspose / Gemm + BatchNormalization: into weight and bias */
optimize_pass fuse_qdq;       /* DequantizeLinear - op - QuantizeLinear: one integer operator */
optimize_pass fuse_dynamic;   /* DynamicQuantizeLinear - MatMulInteger - Cast - Mul (- Add): one product */
optimize_pass fuse_qlayout;   /* integer products with constant weights: packed, images with their channels last */
optimize_pass fuse_patterns;  /* GELU, SiLU, hard swish, LayerNormalization written out in small nodes */
optimize_pass fuse_attention; /* scores, scale, mask, softmax, values, and the transposes around them */
optimize_pass fuse_matmul;    /* MatMul / Gemm with a constant right side + bias + residual add + activation */
optimize_pass fuse_conv; /* Conv + residual add + activation: blocked convolutions, layout kept from one to the next */

#endif
