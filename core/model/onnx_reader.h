/* SPDX-License-Identifier: Apache-2.0
 * onnx_reader.h - what the parts of the reader share: from parsed protobuf-c messages to the IR. Private to core/model/onnx_read*.c. */
#ifndef PARED_MODEL_ONNX_READER_H
#define PARED_MODEL_ONNX_READER_H

#include "core/model/onnx_read.h"
#include "core/model/onnx_wire.h"
#include "onnx.pb-c.h"

/* A file of external data, mapped once. */
struct external_file {
    const char *location;
    struct tbuf *map; /* borrowed: the model keeps it. NULL: missing, and allowed to be */
    size_t size;
    struct external_file *next;
};

struct reader {
    struct model *m;
    const struct wire *w;
    struct tbuf *file;     /* holds w->bytes; one reference is the model's (NULL without a model) */
    struct arena *scratch; /* lives until the reading ends */
    const struct onnx_read_opts *opts;
    const char *dir; /* folder of external data, or NULL */
    struct external_file *external;
    struct err *err;
};

/* A TensorProto into a weight. Messages do not name the tensor: the caller wraps. */
int read_tensor(struct reader *r, const Onnx__TensorProto *pb, struct weight *w);
/* The elements of a tensor stored outside the model file. w->external and the tensor's dtype and shape are set. */
int read_external(struct reader *r, struct weight *w, size_t need);
/* Point a tensor at `bytes` of a buffer where they are aligned for its dtype (or may stay unaligned), else copy them. */
int read_window(struct reader *r, struct tensor *t, const unsigned char *data, struct tbuf *owner);
int read_type(struct reader *r, Onnx__TypeProto *pb, struct type *type);
int read_attrs(struct reader *r, uint32_t graph, uint32_t node, Onnx__AttributeProto **pb, size_t count, struct attr **out);
/* Fill the (empty) graph `id`. */
int read_graph(struct reader *r, uint32_t id, Onnx__GraphProto *pb);
int read_entries(struct reader *r, Onnx__StringStringEntryProto **pb, size_t count, struct entries *out);
/* The model message; r->m is new. */
int read_model(struct reader *r, Onnx__ModelProto *pb);

/* Copies into the model's arena. *failed is set when memory is out. */
const char *reader_text(struct reader *r, const char *text, bool *failed);
/* Wire bytes of the unknown fields of a message, or of the payloads or whole fields of a repeated `bytes` field. */
struct bytes reader_unknown(struct reader *r, const ProtobufCMessage *message, bool *failed);
struct bytes reader_fields(struct reader *r, const ProtobufCBinaryData *data, size_t count, bool *failed);
struct bytes reader_payload(struct reader *r, ProtobufCBinaryData data);
int reader_nomem(struct reader *r); /* -1 */

#endif
