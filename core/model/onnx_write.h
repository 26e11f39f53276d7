/* SPDX-License-Identifier: Apache-2.0
 * onnx_write.h - the IR into an ONNX file. Weights are streamed from where they lie; the message is built once in canonical field
 * order, so an unchanged canonical model gives the same bytes. Deterministic. */
#ifndef PARED_MODEL_ONNX_WRITE_H
#define PARED_MODEL_ONNX_WRITE_H

#include "core/base/buf.h"
#include "core/model/model.h"

struct onnx_write_opts {
    /* Weights of at least this many bytes go to `external_name` beside the model; 0: each weight as it was stored
     * (external weights to files of their own names). Forced to 1024 when the message would exceed 2 GiB - 1. */
    size_t external_threshold;
    const char *external_name; /* default "model.onnx.data" */
};

/* Whole or not at all (temporary file and rename); external data files are written first. */
int onnx_write_file(const struct model *m, const char *path, const struct onnx_write_opts *opts, struct err *err);
/* Into memory, weights inline. */
int onnx_write_buf(const struct model *m, struct buf *out, struct err *err);
/* A TensorProto as in the backend tests' output_0.pb. */
int onnx_write_tensor_file(const struct tensor *t, const char *name, const char *path, struct err *err);
/* The same, appended to a buffer. */
int onnx_write_tensor_buf(const struct tensor *t, const char *name, struct buf *out, struct err *err);

#endif
