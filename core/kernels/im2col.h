/* SPDX-License-Identifier: Apache-2.0
 * im2col.h - the geometry of a sliding window, and the unfolding of an image into the columns of a matrix, a tile at
 * a time.
 * Shapes     image [channels, in...], columns [channels * product(kernel), width] for the output positions [from,
 *            from + width), positions counted row-major over out; rows of the columns are `ld` apart. Cells outside
 *            the image take the value `pad_value`. */
#ifndef PARED_KERNELS_IM2COL_H
#define PARED_KERNELS_IM2COL_H

#include <stddef.h>
#include <stdint.h>

#include "core/tensor/shape.h"

/* A window over `rank` spatial axes. in[a] + padding, stride, dilation give out[a]; pad is the padding before. All
 * counts are checked by the caller: products of in, out and kernel fit int64. */
struct window {
    int rank;
    int64_t in[SHAPE_MAX_RANK], out[SHAPE_MAX_RANK], kernel[SHAPE_MAX_RANK];
    int64_t stride[SHAPE_MAX_RANK], dilation[SHAPE_MAX_RANK];
    int64_t pad[SHAPE_MAX_RANK], pad_end[SHAPE_MAX_RANK];
};

int64_t window_count(const int64_t *dim, int rank); /* product */
/* First and one-past-last output position along `axis` whose input position for kernel offset `k` lies inside the
 * image. */
void window_valid(const struct window *w, int axis, int64_t k, int64_t *first, int64_t *end);

void im2col_f32(const struct window *w, int64_t channels, const float *image, int64_t from, int64_t width, float *col,
                int64_t ld);
void im2col_f64(const struct window *w, int64_t channels, const double *image, int64_t from, int64_t width, double *col,
                int64_t ld);
void im2col_u8(const struct window *w, int64_t channels, const uint8_t *image, uint8_t pad_value, int64_t from,
               int64_t width, uint8_t *col, int64_t ld);
/* The transpose of im2col over all output positions: image += columns folded back. Used by transposed convolution. */
void col2im_f32(const struct window *w, int64_t channels, const float *col, float *image);
void col2im_f64(const struct window *w, int64_t channels, const double *col, double *image);

#endif
