/* SPDX-License-Identifier: Apache-2.0
 * validate.h - is this a model at all? Structure only: names resolve and are unique, no cycles, every weight's bytes match its
 * shape, dims are sane, the default domain is imported. Unknown operators are fine here (engine/plan.h refuses to run them). */
#ifndef PARED_MODEL_VALIDATE_H
#define PARED_MODEL_VALIDATE_H

#include "core/model/model.h"

/* 0, or -1 with ERR_MODEL and a sentence that names the node or value, what was found and what would be right. */
int model_validate(const struct model *m, struct err *err);

#endif
