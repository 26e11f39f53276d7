/* SPDX-License-Identifier: Apache-2.0
 * onnx_regions.h - where in the files of a model the elements of its tensors lie.
 * Scope      raw_data, packed float_data and double_data, and external data, of at least REGION_LEAST bytes, in
 *            initializers and attributes at any depth. Everything else of a file is literal.
 * Hostile    what is no well-formed message is literal; regions never overlap and never leave their file. */
#ifndef PARED_ENCODE_ONNX_REGIONS_H
#define PARED_ENCODE_ONNX_REGIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum { REGION_LEAST = 64 };

struct region {
    int file; /* 0: the model, i + 1: external file i */
    size_t at, bytes;
    unsigned width; /* bytes of an element */
    bool rotate;    /* floating-point */
    size_t cols;    /* elements behind one step of the first axis */
    char *name;     /* owned; "" */
};
struct regions {
    struct region *at; /* by file, then offset */
    size_t count;
};

/* external[i], size[i]: names of the external files and how long they are. */
int regions_find(struct regions *r, const unsigned char *model, size_t len, const char *const *external,
                 const size_t *size, int n_external, struct err *err);
void regions_fini(struct regions *r);

#endif
