/* SPDX-License-Identifier: Apache-2.0
 * rotary.h - rotary position embedding of one head's vector: pairs (a, b) are turned by the position's angles,
 *     a' = a cos - b sin,  b' = a sin + b cos.
 * Pairs      interleaved: elements 2j and 2j + 1; else j and j + dims / 2. Elements from `dims` on are copied.
 * Source     Su et al. 2021 (RoFormer); ONNX RotaryEmbedding. */
#ifndef PARED_KERNELS_ROTARY_H
#define PARED_KERNELS_ROTARY_H

#include <stdbool.h>
#include <stdint.h>

/* x, y: n elements, y not x; dims even and <= n; cosine and sine: dims / 2 values of this position. */
static inline void rotary_f32(const float *x, int64_t n, int64_t dims, bool interleaved, const float *cosine,
                              const float *sine, float *y)
{
    const int64_t half = dims / 2, step = interleaved ? 2 : 1, other = interleaved ? 1 : half;

    for (int64_t j = 0; j < half; j++) {
        const float a = x[j * step], b = x[j * step + other];
        y[j * step] = a * cosine[j] - b * sine[j];
        y[j * step + other] = a * sine[j] + b * cosine[j];
    }
    for (int64_t j = dims; j < n; j++)
        y[j] = x[j];
}

#endif
