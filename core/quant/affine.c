/* SPDX-License-Identifier: Apache-2.0
 * affine.c - scales, zero points and codes (affine.h).
 *
 * A channel's scale is max|w| / 127, or larger where a bias (scale_floor) or the sums of pairs (isa_arithmetic.h) ask for it.
 * Codes are rounded to the nearest, then moved so that their errors cancel (compensate.h), which wins back more than the
 * larger scale of a channel with pairs costs. Every channel is made on its own, from a copy in the order of summation; what
 * is summed over channels is summed in their order at the end. */
#include "core/quant/affine.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/quant/compensate.h"

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

/* ---- weights ---- */
enum { TASK_CHANNELS = 32, TASK_BYTES = 1 << 20 };

/* Room of one thread. */
struct lane {
    float *w;       /* [task][count], in the order of summation */
    int32_t *codes; /* [task][count] */
    double *steps;  /* [count + inner] */
    struct pair_proof proof;
};

/* What is known of a channel. */
struct channel {
    double plain, pairs;  /* least scales: for its largest weight; for its pairs */
    double signal, noise; /* sums of squares */
    bool bad;             /* holds NaN or infinity */
    bool raised;          /* its scale is larger than without pairs */
};

struct weight_run {
    struct qweight *q;
    const struct qweight_opts *opts;
    const float *w;
    const struct sum_order *order;
    struct pair_opts pairs;
    bool compensate;
    int64_t task; /* channels of a task */
    struct lane *lane;
    struct channel *channel;
};

/* Channels that lie beside each other are read side by side: that many numbers of a cache line are used. */
static void gather(const struct weight_run *r, int64_t first, int64_t n, float *to)
{
    const int64_t count = r->order->count, stride = r->order->stride, *offset = r->order->offset;
    const float *from = r->w + first * stride;
    for (int64_t i = 0; stride != 1 && i < n; i++)
        for (int64_t k = 0; k < count; k++)
            to[i * count + k] = from[i * stride + offset[k]];
    for (int64_t k = 0; stride == 1 && k < count; k++)
        for (int64_t i = 0; i < n; i++)
            to[i * count + k] = from[i + offset[k]];
}

static void scatter(const struct weight_run *r, int64_t first, int64_t n, const int32_t *codes)
{
    const int64_t count = r->order->count, stride = r->order->stride, *offset = r->order->offset;
    unsigned char *to = (unsigned char *)r->q->codes.data + first * stride;
    for (int64_t i = 0; stride != 1 && i < n; i++)
        for (int64_t k = 0; k < count; k++)
            to[i * stride + offset[k]] = (unsigned char)(codes[i * count + k] + r->q->zero);
    for (int64_t k = 0; stride == 1 && k < count; k++)
        for (int64_t i = 0; i < n; i++)
            to[i + offset[k]] = (unsigned char)(codes[i * count + k] + r->q->zero);
}

static void survey(const struct weight_run *r, int64_t o, const float *w)
{
    struct channel *c = &r->channel[o];
    float largest = 0;
    for (int64_t k = 0; k < r->order->count; k++) {
        const float a = fabsf(w[k]);
        c->bad |= !(a <= FLT_MAX);
        largest = a > largest ? a : largest;
        c->signal += (double)w[k] * (double)w[k];
    }
    c->plain = (double)largest / r->pairs.qmax;
    c->pairs = r->pairs.pairs ? pair_scale(w, r->order, o, r->pairs.reach) : 0;
}

/* The scale of channels that need `least`; 1 when they are too small for a normal one. */
static float scale_of(const struct channel *least, double floor, bool *raised)
{
    const double plain = least->plain < floor ? floor : least->plain;
    const double scale = least->pairs > plain ? least->pairs : plain;
    *raised = scale > plain;
    return scale >= (double)FLT_MIN ? (float)scale : 1;
}

static void make_codes(const struct weight_run *r, int64_t o, const float *w, struct lane *lane, int32_t *codes)
{
    struct channel *c = &r->channel[o];
    const int64_t count = r->order->count;
    const double scale = (double)tensor_f32(&r->q->scale)[r->opts->per_channel ? o : 0];
    int64_t given_up = 0;
    for (int64_t k = 0; k < count; k++)
        lane->steps[k] = (double)w[k] / scale;
    double error = pair_codes(lane->steps, r->order, o, &r->pairs, codes, &given_up);
    if (r->compensate)
        error = compensate_codes(r->order, o, &r->pairs, codes, lane->steps);
    c->noise = error * scale * scale;
    pair_proof_add(&lane->proof, codes, r->order, o, r->pairs.reach);
    lane->proof.guarded += c->raised || given_up > 0;
}

static int64_t task_channels(const struct weight_run *r, int64_t task)
{
    return i64_min(r->task, r->order->channels - task * r->task);
}

/* Channels that share a scale: their largest weights and pairs come first. */
static void survey_task(void *arg, int64_t task, int l)
{
    const struct weight_run *r = arg;
    const int64_t first = task * r->task, n = task_channels(r, task);
    gather(r, first, n, r->lane[l].w);
    for (int64_t i = 0; i < n; i++)
        survey(r, first + i, r->lane[l].w + i * r->order->count);
}

static void codes_task(void *arg, int64_t task, int l)
{
    const struct weight_run *r = arg;
    struct lane *lane = &r->lane[l];
    const int64_t first = task * r->task, n = task_channels(r, task), count = r->order->count;
    float *scale = tensor_f32(&r->q->scale);
    gather(r, first, n, lane->w);
    for (int64_t i = 0; i < n; i++) {
        struct channel *c = &r->channel[first + i];
        if (r->opts->per_channel) {
            survey(r, first + i, lane->w + i * count);
            if (c->bad)
                return;
            if (r->opts->scale)
                scale[first + i] = r->opts->scale[first + i];
            else
                scale[first + i] = scale_of(c, r->opts->scale_floor ? r->opts->scale_floor[first + i] : 0, &c->raised);
        }
        make_codes(r, first + i, lane->w + i * count, lane, lane->codes + i * count);
    }
    scatter(r, first, n, lane->codes);
}

static void shared_scale(const struct weight_run *r)
{
    struct channel all = {0};
    for (int64_t o = 0; o < r->order->channels; o++) {
        all.plain = fmax(all.plain, r->channel[o].plain);
        all.pairs = fmax(all.pairs, r->channel[o].pairs);
    }
    const float scale = scale_of(&all, r->opts->scale_floor ? r->opts->scale_floor[0] : 0, &all.raised);
    tensor_f32(&r->q->scale)[0] = r->opts->scale ? r->opts->scale[0] : scale;
    for (int64_t o = 0; o < r->order->channels; o++)
        r->channel[o].raised = !r->opts->scale && all.raised;
}

static int bad_number(const struct weight_run *r, struct err *err)
{
    bool bad = false;
    for (int64_t o = 0; o < r->order->channels; o++)
        bad = bad || r->channel[o].bad;
    for (int64_t i = 0, n = r->order->channels * r->order->count; bad && i < n; i++)
        if (!isfinite(r->w[i]))
            return err_set(err, ERR_MODEL, "element %lld is %s, which has no 8-bit code", (long long)i,
                           isnan(r->w[i]) ? "NaN" : "infinite");
    return 0;
}

static int run_tasks(const struct weight_run *r, struct err *err)
{
    const int64_t tasks = (r->order->channels + r->task - 1) / r->task;
    struct weight_run run = *r;
    if (!r->opts->per_channel) {
        pool_run(r->opts->pool, tasks, survey_task, &run);
        if (bad_number(r, err))
            return -1;
        shared_scale(r);
    }
    pool_run(r->opts->pool, tasks, codes_task, &run);
    return bad_number(r, err);
}

static int make_lanes(struct weight_run *r, int lanes)
{
    const size_t task = (size_t)r->task, count = (size_t)r->order->count;
    r->channel = calloc((size_t)r->order->channels + 1, sizeof *r->channel);
    r->lane = calloc((size_t)lanes, sizeof *r->lane);
    for (int l = 0; r->lane && l < lanes; l++) {
        struct lane *lane = &r->lane[l];
        *lane = (struct lane){.w = malloc((task * count + 1) * sizeof *lane->w),
                              .codes = malloc((task * count + 1) * sizeof *lane->codes),
                              .steps = malloc((count + (size_t)r->order->inner + 1) * sizeof *lane->steps),
                              .proof.adds_in_32 = r->q->proof.adds_in_32};
        if (!lane->w || !lane->codes || !lane->steps)
            return -1;
    }
    return r->channel && r->lane ? 0 : -1;
}

static int make_channels(struct weight_run *r, struct err *err)
{
    const int64_t channels = r->order->channels, bytes = r->order->count * (int64_t)sizeof(float);
    double signal = 0, noise = 0;
    int rc = -1;
    r->task = i64_min(TASK_CHANNELS, bytes > 0 && TASK_BYTES / bytes > 1 ? TASK_BYTES / bytes : 1);
    const int threads = r->opts->pool ? pool_threads(r->opts->pool) : 1;
    if (make_lanes(r, threads)) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing a weight");
        goto out;
    }
    if (run_tasks(r, err))
        goto out;
    for (int l = 0; l < threads; l++)
        pair_proof_merge(&r->q->proof, &r->lane[l].proof);
    for (int64_t o = 0; o < channels; o++) {
        signal += r->channel[o].signal;
        noise += r->channel[o].noise;
    }
    if (noise > 0)
        r->q->sqnr_db = 10 * log10(signal / noise);
    rc = 0;
out:
    for (int l = 0; r->lane && l < threads; l++) {
        free(r->lane[l].w);
        free(r->lane[l].codes);
        free(r->lane[l].steps);
    }
    free(r->lane);
    free(r->channel);
    return rc;
}

int qweight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, struct err *err)
{
    struct sum_order order = {0};
    int rc = -1;
    bool u8 = opts->dtype == DTYPE_UINT8;
    *q = (struct qweight){.zero = u8 ? 128 : 0, .sqnr_db = NAN, .proof.adds_in_32 = u8 || opts->adds_in_32};
    if (sum_order_make(&order, &w->shape, opts->axis, err))
        goto out;
    const struct shape shape = opts->per_channel ? SHAPE(order.channels) : SHAPE_SCALAR;
    const struct code_reach any = {0};
    struct weight_run run = {.q = q,
                             .opts = opts,
                             .w = tensor_f32(w),
                             .order = &order,
                             .compensate = !opts->nearest && !opts->scale,
                             .pairs = {.reach = isa_row(opts->isa)->measured ? &opts->reach : &any,
                                       .qmax = 127,
                                       .pairs = isa_row(opts->isa)->pairs && !q->proof.adds_in_32}};
    if (tensor_alloc(&q->codes, opts->dtype, &w->shape, err) || tensor_alloc(&q->scale, DTYPE_FLOAT, &shape, err))
        goto out;
    rc = make_channels(&run, err);
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
