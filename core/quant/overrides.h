/* SPDX-License-Identifier: Apache-2.0
 * overrides.h - the parameter `overrides` of quantize.static: other choices for some nodes, operators or tensors.
 * Form       {"conv1": {"activations": "int16"}, "*head*": {"float": true}, "op:Softmax": {"float": false},
 *            "tensor:x": {"range": [0, 1]}}. A key is a glob over node names, "op:" and an operator type, or "tensor:" and a glob
 *            over value names. More special wins: operator, then node, then tensor; among equals the later one.
 * Memory     patterns are borrowed from the JSON, which must outlive the list. Threads: plain data. */
#ifndef PARED_QUANT_OVERRIDES_H
#define PARED_QUANT_OVERRIDES_H

#include <jansson.h>

#include "core/base/err.h"
#include "core/tensor/dtype.h"

enum override_kind { OVERRIDE_OP, OVERRIDE_NODE, OVERRIDE_TENSOR, OVERRIDE_KINDS };

struct override {
    enum override_kind kind;
    const char *pattern;
    /* What was said: -1 or DTYPE_NONE if nothing. */
    int keep_float; /* 1: stays in float; 0: is quantized, also where the plan would rather not */
    int per_channel, symmetric;
    enum dtype activations, weights;
    bool has_range;
    double lo, hi;
};
struct overrides {
    struct override *at; /* malloc'ed */
    int count;
};

/* The dtypes activations and weights may have; end with DTYPE_NONE. The parameters of quantize.static use the same rows. */
extern const enum dtype override_activations[], override_weights[];

/* A fault for everything that is wrong, with its JSON pointer below `pointer`. json NULL: nothing to check. */
void overrides_check(const json_t *json, const char *pointer, struct faults *faults);
/* What has faults is left out. json NULL: an empty list. ERR_NOMEM. */
int overrides_parse(const json_t *json, struct overrides *out, struct err *err);
void overrides_fini(struct overrides *o);
/* True if the override is for a node of this name and operator type, or (both NULL) for the tensor `value`. */
bool override_matches(const struct override *o, const char *node, const char *op_type, const char *value);

#endif
