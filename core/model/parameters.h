/* SPDX-License-Identifier: Apache-2.0
 * parameters.h - which constants of a model are its parameters, how many they are and where their bytes lie.
 * Why        `params`, `nonzero` and a layer's share must mean the same in a report, in `pared inspect` and over HTTP.
 * Rule       A parameter is an element of an initializer or of a Constant node's tensor, in any graph, in whatever
 *            dtype it is stored, so that quantizing a model does not change the count. None are: scalars, scales and
 *            zero points, bool and string, and integers of 16 bits and more (shapes, indices), except those that a
 *            DequantizeLinear reads (biases of a quantized product).
 * Only looks Works on models the engine cannot run, on unaligned windows and on weights whose bytes are missing. */
#ifndef PARED_MODEL_PARAMETERS_H
#define PARED_MODEL_PARAMETERS_H

#include "core/model/model.h"

/* The tensor stored for a value: its initializer, or that of the Constant node that makes it. NULL: none. Other than
 * value_const also a default that a caller may override. */
const struct tensor *value_stored(const struct model *m, uint32_t value);
/* Are the elements of this value's tensor parameters? false without a tensor. uses: of the same model. */
bool value_is_parameter(const struct model *m, const struct uses *uses, uint32_t value);

/* How many, missing bytes counted by their dims. -1: no memory. */
int64_t model_params(const struct model *m);
/* How many of them stand for something else than 0: -0 is 0, a code equal to its zero point is 0. Reads all weights.
 * -1: some bytes are missing, or no memory. */
int64_t model_nonzero(const struct model *m);
/* The same of one value's tensor. -1: its bytes are missing. */
int64_t value_nonzero(const struct model *m, const struct uses *uses, uint32_t value);
/* Floating-point constants with elements that are not a number: say is called for each, with its name and how many.
 * Reads all of them. Returns how many constants there are. */
typedef void model_nan_fn(void *arg, const char *name, int64_t count);
int64_t model_nan_weights(const struct model *m, model_nan_fn *say, void *arg);
/* Elements and bytes of one tensor; 0 where they cannot be counted. */
int64_t stored_elements(const struct tensor *t);
int64_t stored_bytes(const struct tensor *t);
/* Bytes of all initializers and Constant tensors, of any dtype. */
int64_t model_weight_bytes(const struct model *m);

/* Names of the external data files a model refers to, each once, in order of first use. Strings are the model's; the
 * array is the caller's (free). -1 with ERR_NOMEM. */
int model_external_files(const struct model *m, const char ***names, int *count, struct err *err);

#endif
