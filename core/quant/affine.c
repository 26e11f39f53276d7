/* SPDX-License-Identifier: Apache-2.0
 * affine.c - scales, zero points and codes (affine.h).
 *
 * Pair guard. Without VNNI, x86 multiplies uint8 activations with int8 weights by vpmaddubsw, which adds two
 * neighbouring products in int16 and saturates: 255 * 127 * 2 = 64770 does not fit, and a sum that saturates is
 * silently wrong. The usual cure is 7-bit weights for all. Here only what can overflow is limited: codes w1, w2 of
 * neighbours in the runtime's order of summation with |w1 + w2| <= 128 and the same sign are safe (255 * 128 = 32640),
 * so a channel's scale is the larger of max|w| / 127 and max|w1 + w2| / 128. Rounding may still make a sum of 129; then
 * the code that was rounded up more goes down by one. Order of summation: kernel positions outermost, input channels
 * innermost (the runtimes' channels-last im2col); a matrix has but one. */
#include "core/quant/affine.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct qparams affine_params(double lo, double hi, enum dtype dtype, bool symmetric)
{
    double qmin = dtype_min(dtype), qmax = dtype_max(dtype);
    lo = lo < 0 ? lo : 0;
    hi = hi > 0 ? hi : 0;
    if (symmetric) {
        hi = -lo > hi ? -lo : hi;
        lo = -hi;
        qmin += 1; /* as many codes below the zero point as above */
    }
    double scale = (hi - lo) / (qmax - qmin);
    if (!(scale >= (double)FLT_MIN)) {
        scale = 1;
        lo = 0;
    }
    double zero = symmetric ? (qmin + qmax) / 2 : nearbyint(qmin - lo / scale);
    if (zero < dtype_min(dtype))
        zero = dtype_min(dtype);
    if (zero > qmax)
        zero = qmax;
    return (struct qparams){.scale = (float)scale, .zero = (int32_t)zero};
}

int32_t affine_quantize(double x, struct qparams q, int32_t qmin, int32_t qmax)
{
    double v = nearbyint(x / (double)q.scale) + q.zero;
    return v < qmin ? qmin : v > qmax ? qmax : (int32_t)v;
}

/* Where the elements of a channel lie: base + offset[k], in the runtime's order of summation. */
struct order {
    int64_t channels, count, stride; /* channel o begins at o * stride */
    int64_t *offset;
};

/* axis -1: the weight has no output channels, all of it is one. */
static int order_make(struct order *order, const struct shape *s, int axis, struct err *err)
{
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};
    int axes[SHAPE_MAX_RANK], n = 0; /* outermost first */
    shape_strides(s, false, stride);
    for (int i = 2; i < s->rank; i++)
        axes[n++] = i;
    for (int i = 0; i < s->rank && i < 2; i++)
        if (i != axis)
            axes[n++] = i;
    if (axis >= 2) { /* the channel axis is last: a batch of matrices */
        n = 0;
        for (int i = 0; i < s->rank; i++)
            if (i != axis)
                axes[n++] = i;
    }
    order->channels = axis >= 0 ? s->dim[axis] : 1;
    order->stride = axis >= 0 ? stride[axis] : 0;
    order->count = shape_count(s) / order->channels;
    order->offset = calloc((size_t)order->count, sizeof *order->offset);
    if (!order->offset)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing a weight");
    for (int64_t k = 0; k < order->count; k++) {
        for (int i = 0; i < n; i++)
            order->offset[k] += index[i] * stride[axes[i]];
        for (int i = n - 1; i >= 0 && ++index[i] == s->dim[axes[i]]; i--)
            index[i] = 0;
    }
    return 0;
}

static double pair_sum(const float *w, const int64_t *offset, int64_t k)
{
    double a = (double)w[offset[k]], b = (double)w[offset[k + 1]];
    return (a > 0) == (b > 0) ? fabs(a + b) : 0;
}

/* 0: the channel is too small for a normal scale. */
static double channel_scale(const float *w, const struct order *order, double floor, bool guard, bool *guarded)
{
    double largest = 0, pair = 0;
    for (int64_t k = 0; k < order->count; k++) {
        double a = fabs((double)w[order->offset[k]]);
        if (a > largest)
            largest = a;
    }
    for (int64_t k = 0; guard && k + 1 < order->count; k += 2) {
        double s = pair_sum(w, order->offset, k);
        if (s > pair)
            pair = s;
    }
    *guarded = pair / 128 > largest / 127;
    double scale = *guarded ? pair / 128 : largest / 127;
    if (scale < floor)
        scale = floor;
    return scale >= (double)FLT_MIN ? (double)(float)scale : 0;
}

/* Rounding made a pair too large by one: the code that gained more by rounding gives it back. */
static void fix_pairs(const float *w, const struct order *order, double scale, int32_t zero, int8_t *codes)
{
    for (int64_t k = 0; k + 1 < order->count; k += 2) {
        int64_t ia = order->offset[k], ib = order->offset[k + 1];
        int a = codes[ia], b = codes[ib];
        if (zero != 0 || (a > 0) != (b > 0) || abs(a + b) <= 128)
            continue;
        double ga = fabs((double)a) - fabs((double)w[ia] / scale), gb = fabs((double)b) - fabs((double)w[ib] / scale);
        int64_t at = ga >= gb ? ia : ib;
        codes[at] = (int8_t)(codes[at] > 0 ? codes[at] - 1 : codes[at] + 1);
    }
}

/* Scales of all channels into q->scale: each its own, or the largest for all. */
static int make_scales(struct qweight *q, const float *x, const struct order *order, const struct qweight_opts *opts,
                       bool guard, struct err *err)
{
    struct shape shape = opts->per_channel ? SHAPE(order->channels) : SHAPE_SCALAR;
    double largest = 0;
    if (tensor_alloc(&q->scale, DTYPE_FLOAT, &shape, err))
        return -1;
    for (int64_t o = 0; o < order->channels; o++) {
        double floor = opts->scale_floor ? opts->scale_floor[opts->per_channel ? o : 0] : 0;
        bool guarded;
        double scale = channel_scale(x + o * order->stride, order, floor, guard, &guarded);
        if (opts->per_channel)
            tensor_f32(&q->scale)[o] = (float)(scale > 0 ? scale : 1);
        largest = scale > largest ? scale : largest;
        q->guarded += guarded;
    }
    if (!opts->per_channel)
        tensor_f32(&q->scale)[0] = (float)(largest > 0 ? largest : 1);
    return 0;
}

/* Codes of one channel; adds to *signal and *noise. */
static void make_codes(const float *w, const struct order *order, double scale, const struct qweight *q, bool guard,
                       unsigned char *codes, double *signal, double *noise)
{
    bool u8 = q->codes.dtype == DTYPE_UINT8;
    for (int64_t k = 0; k < order->count; k++) {
        int64_t at = order->offset[k];
        int32_t code = affine_quantize((double)w[at], (struct qparams){(float)scale, 0}, -127, 127);
        codes[at] = (unsigned char)(code + q->zero);
    }
    if (guard)
        fix_pairs(w, order, scale, q->zero, (int8_t *)codes);
    for (int64_t k = 0; k < order->count; k++) {
        int64_t at = order->offset[k];
        double back = ((u8 ? (double)codes[at] : (double)(int8_t)codes[at]) - q->zero) * scale,
               d = (double)w[at] - back;
        *signal += (double)w[at] * (double)w[at];
        *noise += d * d;
    }
}

int qweight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, struct err *err)
{
    struct order order = {0};
    const float *x = tensor_f32(w);
    double signal = 0, noise = 0;
    int rc = -1;
    bool u8 = opts->dtype == DTYPE_UINT8, guard = opts->pair_guard && !u8;
    *q = (struct qweight){.zero = u8 ? 128 : 0, .sqnr_db = NAN};
    for (int64_t i = 0, n = tensor_count(w); i < n; i++)
        if (!isfinite(x[i]))
            return err_set(err, ERR_MODEL, "element %lld is %s, which has no 8-bit code", (long long)i,
                           isnan(x[i]) ? "NaN" : "infinite");
    if (order_make(&order, &w->shape, opts->axis, err))
        goto out;
    if (tensor_alloc(&q->codes, opts->dtype, &w->shape, err) || make_scales(q, x, &order, opts, guard, err))
        goto out;
    for (int64_t o = 0; o < order.channels; o++)
        make_codes(x + o * order.stride, &order, (double)tensor_f32(&q->scale)[opts->per_channel ? o : 0], q, guard,
                   (unsigned char *)q->codes.data + o * order.stride, &signal, &noise);
    if (noise > 0)
        q->sqnr_db = 10 * log10(signal / noise);
    rc = 0;
out:
    free(order.offset);
    if (rc)
        qweight_fini(q);
    return rc;
}

void qweight_fini(struct qweight *q)
{
    tensor_fini(&q->codes);
    tensor_fini(&q->scale);
}
