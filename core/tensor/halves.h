/* SPDX-License-Identifier: Apache-2.0
 * halves.h - arrays of float16 to and from float32, by the machine's own instructions where it has them. The results
 * are those of dtype_f16_to_f32 and dtype_f32_to_f16, bit by bit, on every machine. dst and src do not overlap. */
#ifndef PARED_TENSOR_HALVES_H
#define PARED_TENSOR_HALVES_H

#include <stdint.h>

void halves_to_floats(float *dst, const uint16_t *src, int64_t n);
void halves_from_floats(uint16_t *dst, const float *src, int64_t n);

#endif
