/* SPDX-License-Identifier: Apache-2.0
 * conv_rows.h - direct 2-D convolution of float32 in the plain layout, and its gradients: nothing is unfolded.
 * Idea       An image is copied once with its padding, the columns of a row split by their remainder modulo the
 *            stride. Then every output vector (8 neighbours in a row) is a sum over (channel, tap) of weight times
 *            a vector at a fixed offset from the vector's own place: four output channels by three vectors fit the
 *            registers. The copy costs 1 / (taps * channels) of the work and stays in the second-level cache.
 * Image      The gradient of the image is such a convolution of dy by the turned weight; with strides, dy is spread
 *            with zeros between.
 * Weight     For four output channels and three taps, products of dy and shifted image vectors are summed over
 *            places and images lane by lane; lanes are joined at the end of a fixed chunk of images.
 * Where      conv_rows_fits: AVX2 with FMA, 2-D, more than one tap, weights that stay in cache. Elsewhere conv.c
 *            and conv_grad.c unfold.
 * Shapes, scratch, threads, errors as in conv.h and conv_grad.h. */
#ifndef PARED_KERNELS_CONV_ROWS_H
#define PARED_KERNELS_CONV_ROWS_H

#include "core/kernels/conv.h"

enum conv_rows_pass { CONV_ROWS_FORWARD, CONV_ROWS_DATA, CONV_ROWS_WEIGHT };

bool conv_rows_fits(const struct conv *cv, enum conv_rows_pass pass);
bool conv_rows_scratch(const struct conv *cv, enum conv_rows_pass pass, int lanes, size_t *bytes);
void conv_rows_forward(struct pool *pool, const struct conv *cv, const float *x, const float *w, const float *bias,
                       float *y, void *scratch);
void conv_rows_data(struct pool *pool, const struct conv *cv, const float *dy, const float *w, float *dx, bool add,
                    void *scratch);
void conv_rows_weight(struct pool *pool, const struct conv *cv, const float *x, const float *dy, float *dw, bool add,
                      void *scratch);

/* ---- the loops, one file an instruction set ---- */
enum {
    ROWS_CHANNELS = 4,
    ROWS_VECTORS = 3,
    ROWS_TAPS = 3,
    ROWS_WIDTH = 8,
    ROWS_ACC = ROWS_CHANNELS * ROWS_TAPS * ROWS_WIDTH
};

/* y[m][y_at[v]...] = bias[m] + sum over k of w[m / 4][k][m % 4] * x[x_at[v] + off[k]...] for n_vec vectors of
 * count[v] values. */
struct rows_product {
    const float *x, *w, *bias;
    const int32_t *off, *x_at, *y_at, *count;
    int64_t k, m, n_vec, y_plane;
    float *y;
    bool add;
};
/* acc[k / 3][m][k % 3][lane] += dy[m][8 v + lane] * x[x_at[v] + off[k] + lane] over vectors and images; m < 4,
 * missing channels repeat. */
struct rows_sum {
    const float *x, *dy[ROWS_CHANNELS];
    const int32_t *off, *x_at;
    int64_t k, n_vec, images, x_image, dy_image; /* k: a multiple of 3 */
    float *acc;
};
void conv_rows_product_avx2(const struct rows_product *p);
void conv_rows_sum_avx2(const struct rows_sum *s);

#endif
