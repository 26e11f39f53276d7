/* SPDX-License-Identifier: Apache-2.0
 * shape.h - dimensions, concrete or symbolic.
 * A dim >= 0 is a size. A negative dim is not known yet: DIM_UNKNOWN is "some size", any smaller number is a named symbol
 * (-2 is symbol 0, ...; model.h keeps the names): equal symbols are equal sizes. A rank of SHAPE_UNKNOWN_RANK: not even
 * the rank is known. Everything here is plain data. */
#ifndef PARED_TENSOR_SHAPE_H
#define PARED_TENSOR_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHAPE_MAX_RANK = 16, SHAPE_UNKNOWN_RANK = -1 };
#define DIM_UNKNOWN ((int64_t)-1)
#define DIM_SYMBOL(index) (-2 - (int64_t)(index))
#define DIM_SYMBOL_INDEX(dim) (-2 - (dim))

struct shape {
    int rank;
    int64_t dim[SHAPE_MAX_RANK];
};

/* shape_of(2, 3, 4) builds a rank-3... by compound literal: SHAPE(3, 4) is rank 2. */
#define SHAPE(...)                                                                                 \
    ((struct shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define SHAPE_SCALAR ((struct shape){0, {0}})
#define SHAPE_UNKNOWN ((struct shape){SHAPE_UNKNOWN_RANK, {0}})

bool shape_known(const struct shape *s); /* rank and every dim are sizes */
bool shape_equal(const struct shape *a, const struct shape *b);
/* Product of the dims from axis `from` up to (not including) `to`; -1 if one is unknown or the product overflows int64.
 * Dims of 0 do not hide an overflow of the others: products over some axes of a counted shape never overflow. */
int64_t shape_product(const struct shape *s, int from, int to);
int64_t shape_count(const struct shape *s); /* all dims */
/* Negative axes count from the end; -1 if out of range. */
int shape_axis(const struct shape *s, int64_t axis);
/* Numpy / ONNX multidirectional broadcasting; false when the shapes do not fit. Unknown dims: unknown against 1 or
 * unknown is unknown; unknown against n > 1 is n. */
bool shape_broadcast(const struct shape *a, const struct shape *b, struct shape *out);
/* Row-major strides in elements, 0 for axes of size 1 when `broadcast`. Shape must be known. */
void shape_strides(const struct shape *s, bool broadcast, int64_t stride[SHAPE_MAX_RANK]);
/* "[1,3,?,224]" ("?" for anything unknown, "[...]" for unknown rank), cut at the buffer's end. Returns out. */
enum { SHAPE_TEXT = 128 };
const char *shape_text(const struct shape *s, char out[SHAPE_TEXT]);

/* Arithmetic on dims that may be unknown: unknown in, DIM_UNKNOWN out (dim_mul by 1 and dim_add of 0 keep the symbol).
 * Overflow gives DIM_UNKNOWN. */
int64_t dim_add(int64_t a, int64_t b);
int64_t dim_mul(int64_t a, int64_t b);

#endif
