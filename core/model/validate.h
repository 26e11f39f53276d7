/* SPDX-License-Identifier: Apache-2.0
 * validate.h - is this a model at all? Structure only: names resolve and are unique, no cycles, every weight's bytes match its
 * shape, dims are sane, the default domain is imported in a version this program knows. Unknown operators are fine here
 * (engine/plan.h refuses to run them).
 * No inputs  A model without inputs is valid ONNX: it computes constants. Steps that only need weights work on it.
 * Left out   Weights whose bytes the reader was allowed to leave out (allow_missing_external) are not complained about. */
#ifndef PARED_MODEL_VALIDATE_H
#define PARED_MODEL_VALIDATE_H

#include "core/model/model.h"

/* Of ONNX 1.23. Newer files are refused rather than half understood. */
enum { ONNX_NEWEST_OPSET = 28, ONNX_NEWEST_IR = 14 };

/* 0, or -1 with ERR_MODEL and a sentence that names the node or value, what was found and what would be right. */
int model_validate(const struct model *m, struct err *err);

#endif
