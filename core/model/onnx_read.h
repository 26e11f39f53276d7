/* SPDX-License-Identifier: Apache-2.0
 * onnx_read.h - an ONNX file into the IR, without copying its weights.
 * How        The file is mmapped; the wire format is walked once (descriptor-driven, with limits on depth, counts and memory);
 *            raw tensor bytes are cut out and become windows of the mapping (if their address is
 *            aligned, see keep_unaligned); protobuf-c parses the small rest.
 * Hostile    Every length, dim and reference is checked before use. Errors are ERR_MODEL with a sentence that names the place.
 * External   Weights in files beside the model: `location` must be a plain file name (no '/', '\', "..", NUL; a regular file, no
 *            symbolic link) found by `resolve`. Missing files are an error only when `require_external`. */
#ifndef PARED_MODEL_ONNX_READ_H
#define PARED_MODEL_ONNX_READ_H

#include "core/model/model.h"

struct onnx_read_opts {
    const char *external_dir; /* folder of external data files; NULL: the model's own folder (onnx_read_file), or none */
    /* Optional: maps a checked plain location to an open fd (caller of resolve owns it), or -1. Wins over external_dir. */
    int (*resolve)(void *arg, const char *location);
    void *resolve_arg;
    bool allow_missing_external; /* such weights have data NULL; so have weights left out of the file */
    /* protobuf aligns nothing: a weight that does not suit its element type's alignment is copied into memory. With this
     * a large one (64 KiB and more) stays a window that must only be read bytewise: for looking at a model (facts, validation,
     * shapes) in little memory. */
    bool keep_unaligned;
};

/* Parsed, but not validated (validate.h). NULL on error. */
struct model *onnx_read_file(const char *path, const struct onnx_read_opts *opts, struct err *err);
/* `bytes` gains references held by weights; it must hold the whole message. */
struct model *onnx_read_bytes(struct tbuf *bytes, size_t len, const struct onnx_read_opts *opts, struct err *err);
/* A TensorProto file as in the backend tests' input_0.pb. The tensor may keep a reference to the mapping.
 * name (may be NULL) gets the proto's name, cut to its size. */
int onnx_read_tensor_file(struct tensor *t, char *name, size_t name_size, const char *path, struct err *err);
/* The same from the first len bytes of a buffer, which the tensor may keep a reference to. */
int onnx_read_tensor_bytes(struct tensor *t, char *name, size_t name_size, struct tbuf *bytes, size_t len, struct err *err);

#endif
