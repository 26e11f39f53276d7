/* SPDX-License-Identifier: Apache-2.0
 * affine.c - scales, zero points and codes (affine.h).
 *
 * A channel's scale is max|w| / 127, or larger where a bias (scale_floor) or the sums of pairs (isa_arithmetic.h) ask for it.
 * Codes are rounded to the nearest, then moved so that their errors cancel (compensate.h), which wins back more than the
 * larger scale of a channel with pairs costs. */
#include "core/quant/affine.h"

#include "core/quant/compensate.h"

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

/* One channel's codes, or all of them under one scale. */
struct coder {
    const float *w;
    const struct sum_order *order;
    struct pair_opts pairs;
    int64_t first, end; /* channels */
    bool compensate;
};

static double largest_of(const struct coder *c)
{
    double largest = 0;
    for (int64_t o = c->first; o < c->end; o++)
        for (int64_t k = 0; k < c->order->count; k++) {
            double a = fabs((double)c->w[o * c->order->stride + c->order->offset[k]]);
            largest = a > largest ? a : largest;
        }
    return largest;
}

/* The least scale that keeps the sums of all pairs, before rounding. */
static double paired_scale(const struct coder *c)
{
    double most = 0;
    for (int64_t o = c->first; o < c->end; o++) {
        double need = pair_scale(c->w + o * c->order->stride, c->order, o, c->pairs.reach);
        most = need > most ? need : most;
    }
    return most;
}

/* 1: the channels are too small for a normal scale. *raised: larger than it would be without pairs. */
static float scale_of(const struct coder *c, double floor, bool *raised)
{
    double plain = largest_of(c) / c->pairs.qmax;
    plain = plain < floor ? floor : plain;
    const double pairs = c->pairs.pairs ? paired_scale(c) : 0, scale = pairs > plain ? pairs : plain;
    *raised = scale > plain;
    return scale >= (double)FLT_MIN ? (float)scale : 1;
}

/* Codes of one channel into q; adds to *signal and *noise. `codes` has room for them. */
static void make_codes(struct qweight *q, const struct coder *c, int64_t o, bool raised, int32_t *codes,
                       double *scratch, double *signal, double *noise)
{
    const float *w = c->w + o * c->order->stride;
    const int64_t n_scales = tensor_count(&q->scale);
    const double scale = (double)tensor_f32(&q->scale)[n_scales > 1 ? o : 0];
    int64_t given_up = 0;
    double error = pair_codes(w, c->order, o, scale, &c->pairs, codes, &given_up);
    if (c->compensate)
        error = compensate_codes(w, c->order, o, scale, &c->pairs, codes, scratch);
    *noise += error;
    for (int64_t k = 0; k < c->order->count; k++) {
        int64_t at = o * c->order->stride + c->order->offset[k];
        ((unsigned char *)q->codes.data)[at] = (unsigned char)(codes[k] + q->zero);
        *signal += (double)c->w[at] * (double)c->w[at];
    }
    pair_proof_add(&q->proof, codes, c->order, o, c->pairs.reach);
    q->proof.guarded += raised || given_up > 0;
}

static int make_channels(struct qweight *q, struct coder all, const struct qweight_opts *opts, struct err *err)
{
    const int64_t channels = all.order->channels;
    float *scales = tensor_f32(&q->scale);
    double signal = 0, noise = 0;
    bool raised = false;
    int32_t *codes = calloc((size_t)all.order->count + 1, sizeof *codes);
    double *scratch = calloc((size_t)(all.order->count + all.order->inner) + 1, sizeof *scratch);
    int rc = -1;
    if (!codes || !scratch) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing a weight");
        goto out;
    }
    for (int64_t o = 0; o < channels; o++) {
        struct coder c = all;
        c.first = opts->per_channel ? o : 0;
        c.end = opts->per_channel ? o + 1 : channels;
        if (opts->scale)
            scales[c.first] = opts->scale[c.first];
        else if (o == c.first)
            scales[o] = scale_of(&c, opts->scale_floor ? opts->scale_floor[o] : 0, &raised);
        make_codes(q, &c, o, raised, codes, scratch, &signal, &noise);
    }
    if (noise > 0)
        q->sqnr_db = 10 * log10(signal / noise);
    rc = 0;
out:
    free(codes);
    free(scratch);
    return rc;
}

int qweight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, struct err *err)
{
    struct sum_order order = {0};
    const float *x = tensor_f32(w);
    int rc = -1;
    bool u8 = opts->dtype == DTYPE_UINT8;
    *q = (struct qweight){.zero = u8 ? 128 : 0, .sqnr_db = NAN, .proof.adds_in_32 = u8 || opts->adds_in_32};
    for (int64_t i = 0, n = tensor_count(w); i < n; i++)
        if (!isfinite(x[i]))
            return err_set(err, ERR_MODEL, "element %lld is %s, which has no 8-bit code", (long long)i,
                           isnan(x[i]) ? "NaN" : "infinite");
    if (sum_order_make(&order, &w->shape, opts->axis, err))
        goto out;
    const struct shape shape = opts->per_channel ? SHAPE(order.channels) : SHAPE_SCALAR;
    const struct code_reach any = {0};
    const struct coder all = {.w = x,
                              .order = &order,
                              .compensate = !opts->nearest && !opts->scale,
                              .pairs = {.reach = isa_row(opts->isa)->measured ? &opts->reach : &any,
                                        .qmax = 127,
                                        .pairs = isa_row(opts->isa)->pairs && !q->proof.adds_in_32}};
    if (tensor_alloc(&q->codes, opts->dtype, &w->shape, err) || tensor_alloc(&q->scale, DTYPE_FLOAT, &shape, err))
        goto out;
    rc = make_channels(q, all, opts, err);
out:
    sum_order_fini(&order);
    if (rc)
        qweight_fini(q);
    return rc;
}

void qweight_fini(struct qweight *q)
{
    tensor_fini(&q->codes);
    tensor_fini(&q->scale);
}
