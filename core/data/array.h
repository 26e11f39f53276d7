/* SPDX-License-Identifier: Apache-2.0
 * array.h - one named array of samples, [N, ...], in a mapped file: what .npy, IDX and CIFAR-10 files hold. */
#ifndef PARED_DATA_ARRAY_H
#define PARED_DATA_ARRAY_H

#include "core/base/err.h"
#include "core/tensor/tensor.h"

struct array {
    char *name;
    struct tensor t; /* shape [N, ...]; data borrowed from a mapping the dataset keeps */
};

/* NumPy's .npy (versions 1 to 3; little-endian, C order; bool, integers, float16/32/64). ERR_DATASET says what it is instead. */
int array_parse_npy(struct array *out, const char *name, const unsigned char *data, size_t size, struct err *err);
/* IDX as MNIST ships it: 00 00 type rank, big-endian sizes; only unsigned bytes (type 08). */
int array_parse_idx(struct array *out, const char *name, const unsigned char *data, size_t size, struct err *err);
/* CIFAR-10 binary: records of one label byte and 3 planes of 32 x 32 bytes. */
enum { CIFAR_RECORD = 3073 };
/* Do the first bytes (and for CIFAR-10 the size and the labels) look like this format? */
bool array_looks_npy(const unsigned char *data, size_t size);
bool array_looks_idx(const unsigned char *data, size_t size);
bool array_looks_cifar10(const unsigned char *data, size_t size);
void array_fini(struct array *a);

#endif
