/* SPDX-License-Identifier: Apache-2.0
 * onnx_value.h - values in files of their own: TensorProto, SequenceProto and OptionalProto (onnx-data.proto), as the
 * inputs and outputs of ONNX's backend tests and of `pared eval --outputs`. A file does not say which of the three
 * it is: the declared type of the input or output does. Sequences and optionals become lists (tensor.h). Sparse
 * tensors and maps are refused. Files are hostile: lengths and nesting are checked. */
#ifndef PARED_MODEL_ONNX_VALUE_H
#define PARED_MODEL_ONNX_VALUE_H

#include "core/model/model.h"

/* type NULL: a tensor. *t is empty on error; ERR_MODEL, ERR_IO, ERR_NOMEM. */
int onnx_read_value_file(struct tensor *t, const struct type *type, const char *path, struct err *err);
/* The message follows from what the value is. Whole or not at all. */
int onnx_write_value_file(const struct tensor *t, const char *name, const char *path, struct err *err);

#endif
