/* SPDX-License-Identifier: Apache-2.0
 * qoperator.h - a model of QuantizeLinear / DequantizeLinear pairs rewritten to operators on codes (QLinearConv, QGemm,
 * QLinearAdd, ...), for runtimes and tools that do not fuse the pairs themselves. What has no such form stays as it is,
 * between a DequantizeLinear and a QuantizeLinear, and the report says why. */
#ifndef PARED_QUANT_QOPERATOR_H
#define PARED_QUANT_QOPERATOR_H

#include "core/step/layer_report.h"

/* In place; m is as quantize.static leaves it. Rows for what was rewritten and for what stays. Errors: ERR_NOMEM. */
int qoperator_rewrite(struct model *m, struct layer_report *layers, struct warnings *warnings, struct err *err);

#endif
