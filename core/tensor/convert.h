/* SPDX-License-Identifier: Apache-2.0
 * convert.h - loops that convert arrays between the common element types, for dtype_convert.
 * Values     as dtype.h says: integers wrap to the width; floats are cut towards zero, held to the range of int64
 *            first, NaN is 0; bool is "not zero". */
#ifndef PARED_TENSOR_CONVERT_H
#define PARED_TENSOR_CONVERT_H

#include "core/tensor/dtype.h"

/* False when there is no loop for this pair. */
bool convert_array(enum dtype to, void *dst, enum dtype from, const void *src, int64_t n);

#endif
