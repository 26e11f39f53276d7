/* SPDX-License-Identifier: Apache-2.0
 * mix_models.h - which contexts predict what: symbols of a run of bytes, and indices of a sparse matrix. The same
 * function encodes and decodes: it reads the array, or fills it. The contexts are part of the format (docs/format.md).
 * */
#ifndef PARED_ENCODE_MIX_MODELS_H
#define PARED_ENCODE_MIX_MODELS_H

#include "core/encode/mix.h"

/* Bytes of text or of a graph: predicted by the 1, 2, 3, 4 and 6 bytes before. */
void mix_text(struct mix *m, unsigned char *bytes, size_t n);
/* A plane of numbers: predicted by the symbol before, the one above in a matrix of `cols` columns, and the plane before
 * this one at the same place (NULL: this is the first). */
void mix_plane(struct mix *m, unsigned char *symbols, const unsigned char *before, size_t n, size_t cols);
/* Indices of a matrix with `cols` columns, row by row: 0 is a zero, 1 .. k the values, k <= 255. ERR_NOMEM. */
int mix_matrix(struct mix *m, unsigned char *index, size_t n, size_t cols, unsigned k, struct err *err);

#endif
