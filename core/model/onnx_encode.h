/* SPDX-License-Identifier: Apache-2.0
 * onnx_encode.h - a model as protobuf wire bytes: text of our own, with the bytes of large weights between as references. Private to
 * onnx_write*.c.
 * Lengths    A message's length is put before it once its end is known, which moves the text written since (the graph's
 *            structure, never weights). */
#ifndef PARED_MODEL_ONNX_ENCODE_H
#define PARED_MODEL_ONNX_ENCODE_H

#include "core/base/buf.h"
#include "core/model/model.h"

/* Bytes that stand before text.data[at]. */
struct piece {
    size_t at;
    const void *data; /* borrowed from the model */
    size_t len;
    const struct tensor *tensor; /* whose data it is; NULL: other bytes */
};

/* A weight that goes to a file of its own. */
struct external_part {
    const char *location; /* borrowed from the model or the options */
    uint64_t offset;
    const struct tensor *tensor;
};

enum weights_mode { WEIGHTS_AS_STORED, WEIGHTS_INLINE, WEIGHTS_BY_SIZE };

struct encoder {
    const struct model *m;
    enum weights_mode mode;
    size_t threshold;          /* WEIGHTS_BY_SIZE: from so many bytes on to `external_name` */
    const char *external_name;
    uint64_t external_end;     /* of external_name so far */
    struct buf text;
    struct piece *pieces; /* malloc'ed, sorted by `at` */
    size_t n_pieces, cap_pieces;
    struct external_part *parts; /* malloc'ed */
    size_t n_parts, cap_parts;
    bool failed; /* memory ran out (or text.failed) */
};

/* Fill the encoder (mode, threshold, external_name are set). -1: out of memory. */
int encode_model(struct encoder *e, const struct model *m);
int encode_tensor(struct encoder *e, const struct tensor *t, const char *name);
uint64_t encoder_size(const struct encoder *e);
void encoder_fini(struct encoder *e);

#endif
