/* SPDX-License-Identifier: Apache-2.0
 * onnx_wire.h - one walk over the wire format before anything is parsed. Private to the reader.
 * Why        A model file is hostile and may be larger than memory. The walk checks all that protobuf leaves open (wire types, lengths,
 *            nesting, groups, NULs in text, how much memory the parsed messages would take) and cuts large things out, so that
 *            protobuf-c only ever sees a small, well-formed skeleton.
 * Cuts       Each `bytes` field and each unknown field of the skeleton holds 4 bytes: the little-endian number of a cut, which says where
 *            the field stands in the file. Fields of other types are copied as they are. */
#ifndef PARED_MODEL_ONNX_WIRE_H
#define PARED_MODEL_ONNX_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/err.h"

enum { WIRE_MAX_DEPTH = 64, WIRE_CUT_BYTES = 4 };
enum wire_type { WIRE_VARINT = 0, WIRE_64BIT = 1, WIRE_LEN = 2, WIRE_32BIT = 5 };

/* A field of the file: bytes[at .. end) with its tag, bytes[start .. end) its payload. */
struct wire_cut {
    size_t at, start, end;
    uint32_t field;
    enum wire_type wire;
};

struct wire {
    const unsigned char *bytes; /* borrowed */
    size_t len;
    struct buf skeleton;
    struct wire_cut *cuts; /* malloc'ed */
    size_t n_cuts, cap_cuts;
    size_t cost, budget;   /* bytes that the parsed messages take, and may take */
    bool truncated;        /* the error is: a field of the outermost message is longer than the file */
    bool foreign;          /* the error is in the outermost message, before any part of a model was seen */
};

/* Walk `bytes` as a message of type `root`. 0 or -1; wire_fini in both cases. */
int wire_walk(struct wire *w, const unsigned char *bytes, size_t len, const ProtobufCMessageDescriptor *root, struct err *err);
void wire_fini(struct wire *w);
/* Parse the skeleton into memory of `arena`; NULL with *err. */
ProtobufCMessage *wire_unpack(const struct wire *w, const ProtobufCMessageDescriptor *root, struct arena *arena, struct err *err);

/* The cut that a `bytes` field or unknown field of the parsed skeleton stands for. */
const struct wire_cut *wire_cut_of(const struct wire *w, ProtobufCBinaryData data);
const struct wire_cut *wire_cut_unknown(const struct wire *w, const ProtobufCMessageUnknownField *field);
/* The message as wire bytes in canonical order, with the cuts put back. In `arena`; NULL when memory is out. Cuts must be small. */
void *wire_repack(const struct wire *w, ProtobufCMessage *message, struct arena *arena, size_t *len);

/* A varint at bytes[*at] before `end`; false if it is cut off or longer than 10 bytes. */
bool wire_varint(const unsigned char *bytes, size_t *at, size_t end, uint64_t *value);

#endif
