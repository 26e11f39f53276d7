/* SPDX-License-Identifier: Apache-2.0
 * channels_last.h - bytes of images between [n, c, plane] and [n, plane, c], with and without quantization, and maxima
 * over windows of [n, h, w, c].
 * Threads    split by images and pieces of planes. Errors: none; sizes were checked by the caller. */
#ifndef PARED_KERNELS_CHANNELS_LAST_H
#define PARED_KERNELS_CHANNELS_LAST_H

#include "core/base/pool.h"
#include "core/kernels/im2col.h"
#include "core/kernels/q8.h"

struct channels_image {
    int64_t n, c, plane;
};
void channels_last_bytes(struct pool *pool, const struct channels_image *im, const uint8_t *x, uint8_t *y);
void channels_first_bytes(struct pool *pool, const struct channels_image *im, const uint8_t *x, uint8_t *y);
/* y = saturate(round(x / scale) + zero), and y = (x - zero) * scale. */
void channels_last_quantize(struct pool *pool, const struct channels_image *im, const struct q8 *q, const float *x,
                            uint8_t *y);
void channels_first_dequantize(struct pool *pool, const struct channels_image *im, const struct q8 *q, const uint8_t *x,
                               float *y);
/* Two spatial axes. Cells in the padding do not count. */
void channels_last_max(struct pool *pool, const struct window *w, int64_t n, int64_t c, bool is_signed,
                       const uint8_t *x, uint8_t *y);

#endif
