/* SPDX-License-Identifier: Apache-2.0
 * qat_pairs.c - keeping what int8 weights promise to CPUs that add two neighbouring products in 16 bits (x86 without
 * VNNI): with activations up to 255 a pair of weights of one sign must not exceed 128 together (255 * 128 = 32640).
 * Order      of summation: kernel positions outermost, input channels innermost; pairs are places (0, 1), (2, 3), ...
 * Training   latents are projected after every update: both give way by half of what is too much, the nearest point
 *            where the sum fits. A little below 128, so that rounding both up cannot pass it: two halves up means
 *            their whole parts are at most 126. Nothing is left to be cut after training, and what is exported is
 *            what was trained. */
#include <math.h>

#include "core/train/qat_model.h"

static const double MOST = 127.99;
enum { CODES_MOST = 128 };

struct walk {
    const struct shape *shape;
    int64_t stride[SHAPE_MAX_RANK];
    int axes[SHAPE_MAX_RANK], n; /* outermost first */
    int64_t channels, count;
};

static bool walk_begin(struct walk *w, const struct shape *shape, int out_axis)
{
    *w = (struct walk){.shape = shape};
    if (shape->rank < 2 || out_axis < 0 || out_axis >= shape->rank)
        return false;
    shape_strides(shape, false, w->stride);
    for (int i = out_axis >= 2 ? 0 : 2; i < shape->rank; i++)
        if (i != out_axis)
            w->axes[w->n++] = i;
    for (int i = 0; out_axis < 2 && i < 2; i++)
        if (i != out_axis)
            w->axes[w->n++] = i;
    w->channels = shape->dim[out_axis];
    w->count = w->channels > 0 ? shape_count(shape) / w->channels : 0;
    return w->count > 0;
}

/* Place of element k of a channel's sum. */
static int64_t offset_of(const struct walk *w, int64_t k)
{
    int64_t at = 0;
    for (int i = w->n - 1; i >= 0; i--) {
        const int64_t dim = w->shape->dim[w->axes[i]];
        at += k % dim * w->stride[w->axes[i]];
        k /= dim;
    }
    return at;
}

bool qat_pairs_hold(const struct tensor *codes, int out_axis)
{
    struct walk w;
    if (codes->dtype != DTYPE_INT8 || !walk_begin(&w, &codes->shape, out_axis))
        return false;
    const int8_t *c = codes->data;
    for (int64_t k = 0; k + 1 < w.count; k += 2) {
        const int64_t a = offset_of(&w, k), b = offset_of(&w, k + 1);
        for (int64_t o = 0; o < w.channels; o++) {
            const int x = c[o * w.stride[out_axis] + a], y = c[o * w.stride[out_axis] + b];
            if ((x < 0) == (y < 0) && (x < 0 ? -x - y : x + y) > CODES_MOST)
                return false;
        }
    }
    return true;
}

void qat_pairs_keep(struct tensor *latent, int out_axis, const float *scale, int64_t scales)
{
    struct walk w;
    if (!walk_begin(&w, &latent->shape, out_axis))
        return;
    for (int64_t k = 0; k + 1 < w.count; k += 2) {
        const int64_t a = offset_of(&w, k), b = offset_of(&w, k + 1);
        for (int64_t o = 0; o < w.channels; o++) {
            float *x = tensor_f32(latent) + o * w.stride[out_axis] + a, *y = x - a + b;
            const double s = (double)scale[scales == 1 ? 0 : o], u = fabs((double)*x), v = fabs((double)*y);
            const double much = u + v - MOST * s;
            if (!(much > 0) || (*x < 0) != (*y < 0))
                continue;
            double p = u - much / 2, r = v - much / 2;
            if (p < 0 || r < 0) { /* the other one alone is too large */
                p = p < 0 ? 0 : MOST * s;
                r = r < 0 ? 0 : MOST * s;
            }
            *x = (float)copysign(p, (double)*x);
            *y = (float)copysign(r, (double)*y);
        }
    }
}
