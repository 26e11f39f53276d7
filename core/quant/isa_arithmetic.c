/* SPDX-License-Identifier: Apache-2.0
 * isa_arithmetic.c - rows of CPUs, sums of pairs and what is proven of them (isa_arithmetic.h).
 *
 * The usual cure for saturating pairs is 7-bit weights for all. Here only what can overflow is limited. Of a pair of
 * codes (a, b) with activations up to (h, i) the sum is largest at h * a + i * b when both have one sign; with unlike
 * signs a single product is, which always fits (255 * 127). So a channel needs scale >= (h |wa| + i |wb|) / 32767 for
 * each pair, before rounding; after it the pairs that still do not fit give up the code that costs least. */
#include "core/quant/isa_arithmetic.h"

#include <math.h>
#include <stdlib.h>

static const struct isa_row rows[ISAS] = {
    [ISA_PORTABLE] = {"portable", true, false, DTYPE_UINT8, "every CPU"},
    [ISA_VNNI] = {"vnni", false, false, DTYPE_UINT8, "x86 with VNNI or AMX, Arm"},
    [ISA_AVX2] = {"avx2", true, true, DTYPE_UINT8, "every CPU"},
    [ISA_ARM] = {"arm", false, false, DTYPE_INT8, "Arm, x86 with VNNI or AMX"},
};
const char *const isa_names[ISAS + 1] = {"portable", "vnni", "avx2", "arm", NULL};

const struct isa_row *isa_row(int isa)
{
    return &rows[isa >= 0 && isa < ISAS ? isa : ISA_PORTABLE];
}

/* ---- reach ---- */
static double width(const struct channel_extent *seen, int64_t c)
{
    return seen->min[c] <= seen->max[c] ? (double)seen->max[c] - (double)seen->min[c] : 0;
}

int code_reach_make(struct code_reach *reach, const struct channel_extent *seen, double scale, int32_t zero,
                    int32_t lowest, struct err *err)
{
    double widest = 0;
    *reach = (struct code_reach){.known = true, .channels = seen->channels};
    reach->channel = calloc((size_t)seen->channels + 1, 1);
    if (!reach->channel)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing a weight");
    for (int64_t c = 0; c < seen->channels; c++)
        widest = width(seen, c) > widest ? width(seen, c) : widest;
    for (int64_t c = 0; c < seen->channels; c++) {
        const double room = width(seen, c) / 2 > widest / 8 ? width(seen, c) / 2 : widest / 8;
        double most = (seen->min[c] <= seen->max[c] ? (double)seen->max[c] : 0) + room;
        most = ceil(most > 0 ? most / scale : 0) + zero - lowest; /* padding is zero, so that is always reached */
        reach->channel[c] = most < 0 ? 0 : most < 255 ? (uint8_t)most : 255;
        reach->most = reach->channel[c] > reach->most ? reach->channel[c] : reach->most;
    }
    return 0;
}

void code_reach_fini(struct code_reach *reach)
{
    free(reach->channel);
    *reach = (struct code_reach){0};
}

/* ---- order of summation ---- */
int sum_order_make(struct sum_order *order, const struct shape *s, int axis, struct err *err)
{
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};
    int axes[SHAPE_MAX_RANK], n = 0; /* outermost first */
    shape_strides(s, false, stride);
    for (int i = axis >= 2 ? 0 : 2; i < s->rank; i++) /* axis 2 and up: a batch of matrices, channels last */
        if (i != axis)
            axes[n++] = i;
    for (int i = 0; axis < 2 && i < s->rank && i < 2; i++)
        if (i != axis)
            axes[n++] = i;
    order->channels = axis >= 0 ? s->dim[axis] : 1;
    order->stride = axis >= 0 ? stride[axis] : 0;
    order->count = order->channels > 0 ? shape_count(s) / order->channels : 0;
    order->inner = n > 0 ? s->dim[axes[n - 1]] : 1;
    order->offset = calloc((size_t)order->count + 1, sizeof *order->offset);
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

void sum_order_fini(struct sum_order *order)
{
    free(order->offset);
    order->offset = NULL;
}

int32_t reach_at(const struct code_reach *reach, const struct sum_order *order, int64_t o, int64_t k)
{
    if (!reach || !reach->known)
        return 255;
    if (!reach->channel || order->inner < 1)
        return reach->most;
    int64_t groups = reach->channels / order->inner, at = k % order->inner;
    if (groups > 1 && order->channels >= groups)
        at += o / (order->channels / groups) * order->inner;
    return at < reach->channels ? reach->channel[at] : reach->most;
}

/* ---- codes ---- */
static double pair_need(double a, double b, int32_t h, int32_t i)
{
    return (a > 0) == (b > 0) ? (fabs(a) * h + fabs(b) * i) / INT16_MAX : 0;
}

double pair_scale(const float *w, const struct sum_order *order, int64_t o, const struct code_reach *reach)
{
    double most = 0;
    for (int64_t k = 0; k + 1 < order->count; k += 2) {
        double need = pair_need((double)w[order->offset[k]], (double)w[order->offset[k + 1]],
                                reach_at(reach, order, o, k), reach_at(reach, order, o, k + 1));
        most = need > most ? need : most;
    }
    return most;
}

static int32_t code_of(double steps, int32_t qmax)
{
    double v = nearbyint(steps);
    return v < -qmax ? -qmax : v > qmax ? qmax : (int32_t)v;
}

/* How much the squared error grows, for each unit the sum shrinks, if this code moves one towards zero. */
static double cost_of_less(double steps, int32_t code, int32_t h)
{
    double error = fabs(steps) - abs(code);
    return h > 0 && code != 0 ? (2 * error + 1) / h : INFINITY;
}

static bool fit_pair(const double *steps, int32_t *code, int32_t h, int32_t i)
{
    bool changed = false;
    while ((code[0] > 0) == (code[1] > 0) && abs(code[0]) * h + abs(code[1]) * i > INT16_MAX) {
        int at = cost_of_less(steps[0], code[0], h) <= cost_of_less(steps[1], code[1], i) ? 0 : 1;
        code[at] += code[at] > 0 ? -1 : 1;
        changed = true;
    }
    return changed;
}

double pair_codes(const float *w, const struct sum_order *order, int64_t o, double scale, const struct pair_opts *opts,
                  int32_t *codes, int64_t *given_up)
{
    double sum = 0;
    for (int64_t k = 0; k < order->count; k += 2) {
        const int n = k + 1 < order->count ? 2 : 1;
        double steps[2] = {0, 0};
        int32_t code[2] = {0, 0};
        for (int i = 0; i < n; i++) {
            steps[i] = (double)w[order->offset[k + i]] / scale;
            code[i] = code_of(steps[i], opts->qmax);
        }
        if (opts->pairs && abs(code[0] + code[1]) > INT16_MAX / 255 && /* else it fits whatever the activations are */
            fit_pair(steps, code, reach_at(opts->reach, order, o, k), reach_at(opts->reach, order, o, k + 1)) &&
            given_up)
            ++*given_up;
        for (int i = 0; i < n; i++) {
            sum += (steps[i] - code[i]) * (steps[i] - code[i]);
            if (codes)
                codes[k + i] = code[i];
        }
    }
    return sum * scale * scale;
}

/* ---- proof ---- */
static int32_t pair_sum(int32_t a, int32_t b, int32_t h, int32_t i)
{
    if ((a > 0) == (b > 0))
        return abs(a) * h + abs(b) * i;
    return abs(a) * h > abs(b) * i ? abs(a) * h : abs(b) * i;
}

void pair_proof_add(struct pair_proof *proof, const int32_t *codes, const struct sum_order *order, int64_t o,
                    const struct code_reach *reach)
{
    int64_t positive = 0, negative = 0;
    bool overflow = false;
    for (int64_t k = 0; k < order->count; k++)
        *(codes[k] > 0 ? &positive : &negative) += 255 * (int64_t)abs(codes[k]);
    if (positive < negative)
        positive = negative;
    proof->accumulator = positive > proof->accumulator ? positive : proof->accumulator;
    for (int64_t k = 0; k < order->count && !proof->adds_in_32; k += 2) {
        const bool alone = k + 1 == order->count;
        int32_t a = codes[k], b = alone ? 0 : codes[k + 1], all = pair_sum(a, b, 255, 255);
        int32_t seen = pair_sum(a, b, reach_at(reach, order, o, k), alone ? 0 : reach_at(reach, order, o, k + 1));
        overflow = overflow || all > INT16_MAX;
        proof->largest = all > proof->largest ? all : proof->largest;
        proof->measured = seen > proof->measured ? seen : proof->measured;
    }
    proof->channels++;
    proof->overflow += overflow;
}

/* As exactly as the codes allow: a layer that happens to fit is exact everywhere, whatever it was made for. */
static json_t *exact_on(const struct pair_proof *proof, int isa)
{
    const struct isa_row *row = isa_row(isa);
    if (proof->adds_in_32)
        return json_string("every CPU: its products are added in 32 bits");
    if (proof->overflow == 0)
        return json_string("every CPU: no sum of two products can overflow 16 bits");
    if (row->pairs && proof->measured <= INT16_MAX)
        return json_sprintf("%s, for activations up to half beyond those measured: no sum of two products can overflow "
                            "16 bits", row->exact_on);
    return json_sprintf("%s; elsewhere sums of two products can overflow 16 bits in %lld of %lld channels", row->exact_on,
                        (long long)proof->overflow, (long long)proof->channels);
}

void pair_proof_report(json_t *facts, const struct pair_proof *proof, int isa)
{
    if (!facts)
        return;
    if (!proof->adds_in_32) {
        json_object_set_new(facts, "pair_sum", json_integer(proof->largest));
        if (isa_row(isa)->measured)
            json_object_set_new(facts, "pair_sum_measured", json_integer(proof->measured));
    }
    if (proof->guarded)
        json_object_set_new(facts, "pair_guarded_channels", json_integer(proof->guarded));
    json_object_set_new(facts, "exact_on", exact_on(proof, isa));
}
