/* SPDX-License-Identifier: Apache-2.0
 * raise_opset.h - a model's nodes rewritten so that they mean the same at a newer opset of the default domain.
 * A method that needs a newer operator (per-channel DequantizeLinear: 13, MatMulInteger: 10, DynamicQuantizeLinear: 11)
 * raises the opset by the least it needs, so that old runtimes keep loading what they can. Up to RAISE_OPSET_MAX. */
#ifndef PARED_PASSES_RAISE_OPSET_H
#define PARED_PASSES_RAISE_OPSET_H

#include "core/model/model.h"
#include "core/step/layer_report.h"

enum { RAISE_OPSET_MAX = 21 };

/* No-op if the model already imports `to` or newer. The IR version follows (opset 10: 5, 11: 6, 12 to 14: 7, 15 to 18: 8, 19 and 20: 9, 21: 10) if it was
 * lower. On failure (ERR_MODEL: which node cannot be converted, and why) the model may be half converted: try on a
 * clone where that matters. */
int raise_opset(struct model *m, int64_t to, struct err *err);
/* The same, tried on a clone first, so that a refusal leaves the model as it was. A warning says that it was raised,
 * and that `what` needs it. */
int raise_opset_for(struct model *m, int64_t to, const char *what, struct warnings *warnings, struct err *err);

#endif
