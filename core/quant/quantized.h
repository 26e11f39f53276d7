/* SPDX-License-Identifier: Apache-2.0
 * quantized.h - recognising models that are quantized already: quantizing twice loses accuracy silently, so every
 * method of the
 * family refuses them and names what it found; quantize.dequantize undoes them. */
#ifndef PARED_QUANT_QUANTIZED_H
#define PARED_QUANT_QUANTIZED_H

#include "core/model/model.h"

/* A node that makes the model a quantized one (a pair around an activation, a weight behind DequantizeLinear, QLinear*,
 * *Integer, MatMulNBits, ...), NODE_NONE if the model is in floating point. Bytes at an input or output of the
 * model that
 * are only converted there do not count. */
uint32_t quantized_node(const struct model *m);
/* ERR_MODEL with the node's name, and the remedy, if the model is quantized. `method` is the caller's name. */
int quantized_refuse(const struct model *m, const char *method, struct err *err);

#endif
