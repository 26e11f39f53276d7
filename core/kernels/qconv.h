/* SPDX-License-Identifier: Apache-2.0
 * qconv.h - convolution of 8-bit images that have their channels last, with packed constant weights.
 * Layout     x [batch, in_h, in_w, c_in], y [batch, out_h, out_w, c_out], bytes (or float / int32 out, see qgemm_end).
 * Idea       a band of output rows at a time: the input rows it needs are widened to int16 once, with the zero point
 *            taken off and the padding written as zeros, into a buffer that stays in the cache. Then every kernel row
 *            is one run of kernel_w * c_in neighbouring values in it (qgemm.h), so nothing is unfolded, whatever the
 *            kernel, stride or number of channels. With groups or dilation a run is one kernel cell.
 * Depthwise  (one channel in and out a group): pairs of kernel cells are interleaved in registers instead.
 * Weights    qconv_packed_count elements of int8, or int16 (`wide`), filled by qconv_pack. bias, multiplier and float_bias
 *            hold qconv_padded values: of group g, column j at g * padded columns of a group + j.
 * Threads    split by batch, bands and panels; integers are exact, so any split gives the same bytes. */
#ifndef PARED_KERNELS_QCONV_H
#define PARED_KERNELS_QCONV_H

#include "core/base/pool.h"
#include "core/kernels/qgemm.h"

struct qconv {
    int64_t batch, c_in, c_out, groups;
    int64_t in_h, in_w, out_h, out_w;
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t pad_top, pad_left; /* what lies beyond the image at the other end follows from the sizes */
    bool x_signed, wide;
    int32_t x_zero;
    struct qgemm_out out;
};
bool qconv_is_depthwise(const struct qconv *q);
int64_t qconv_packed_count(const struct qconv *q); /* -1 on overflow */
int64_t qconv_padded(const struct qconv *q);
/* Weight [c_out, c_in / groups, kernel_h, kernel_w] as in the standard; one zero point, or one an output channel. */
struct qconv_weight {
    const void *data;
    bool is_signed, zero_channels;
    const int32_t *zero;
};
bool qconv_fits_bytes(const struct qconv *q, const struct qconv_weight *w);
void qconv_pack(const struct qconv *q, const struct qconv_weight *w, void *packed);
/* Values by output channel to the order and padding of qgemm_out's arrays. */
void qconv_spread(const struct qconv *q, const void *values, void *padded);

/* Scratch for a pool of that many lanes; false on overflow. */
bool qconv_scratch(const struct qconv *q, int lanes, size_t *bytes);
void qconv(struct pool *pool, const struct qconv *q, const uint8_t *x, const void *packed, void *y, void *scratch);
/* The definition in 64-bit integers, loop by loop: sums before the end. The oracle of the tests. */
void qconv_naive(const struct qconv *q, const struct qconv_weight *w, const uint8_t *x, int64_t *sum);

/* One row of depthwise outputs, 16 channels at a time. x: widened image at the row's first window; cell_at[cells]. */
struct qdepthwise_row {
    int64_t channels, pixels, step; /* elements from one output pixel to the next */
    int64_t cells;
    const int64_t *cell_at;
    const int16_t *w; /* blocks of 16 channels: [block][ceil(cells / 2)][16 channels, 0..3 8..11 4..7 12..15][2] */
    struct qgemm_out out;
};
typedef void qdepthwise_fn(const struct qdepthwise_row *k, const int16_t *x, char *y);
qdepthwise_fn qdepthwise_row_portable, qdepthwise_row_avx2;

#endif
