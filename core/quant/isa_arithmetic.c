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
/* Of two weights of one sign. */
static double pair_need(double a, double b, int32_t h, int32_t i)
{
    return (fabs(a) * h + fabs(b) * i) / INT16_MAX;
}

double pair_scale(const float *w, const struct sum_order *order, int64_t o, const struct code_reach *reach)
{
    double most = 0;
    for (int64_t k = 0; k + 1 < order->count; k += 2) {
        if ((w[k] > 0) != (w[k + 1] > 0))
            continue;
        double need =
            pair_need((double)w[k], (double)w[k + 1], reach_at(reach, order, o, k), reach_at(reach, order, o, k + 1));
        most = need > most ? need : most;
    }
    return most;
}

/* Adding and taking away 1.5 * 2^52 rounds to the nearest, ties to even, without a call for each number. */
static int32_t code_of(double steps, int32_t qmax)
{
    const double whole = 6755399441055744.0, v = steps < -qmax ? -qmax : steps > qmax ? qmax : steps;
    return (int32_t)((v + whole) - whole);
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

double pair_codes(const double *steps, const struct sum_order *order, int64_t o, const struct pair_opts *opts,
                  int32_t *codes, int64_t *given_up)
{
    const int32_t any = INT16_MAX / 255; /* up to here a pair fits whatever the activations are */
    double sum = 0;
    for (int64_t k = 0; k < order->count; k++)
        codes[k] = code_of(steps[k], opts->qmax);
    for (int64_t k = 0; opts->pairs && k + 1 < order->count; k += 2)
        if (abs(codes[k] + codes[k + 1]) > any &&
            fit_pair(steps + k, codes + k, reach_at(opts->reach, order, o, k),
                     reach_at(opts->reach, order, o, k + 1)) &&
            given_up)
            ++*given_up;
    for (int64_t k = 0; k < order->count; k++)
        sum += (steps[k] - codes[k]) * (steps[k] - codes[k]);
    return sum;
}

/* ---- proof ---- */
static int32_t pair_sum(int32_t a, int32_t b, int32_t h, int32_t i)
{
    if ((a > 0) == (b > 0))
        return abs(a) * h + abs(b) * i;
    return abs(a) * h > abs(b) * i ? abs(a) * h : abs(b) * i;
}

/* The largest sum of a pair under activations of 1 each. */
static int32_t largest_pair(const int32_t *codes, int64_t count)
{
    int32_t most = count % 2 ? abs(codes[count - 1]) : 0;
    for (int64_t k = 0; k + 1 < count; k += 2) {
        const int32_t a = abs(codes[k]), b = abs(codes[k + 1]), larger = a > b ? a : b;
        const int32_t sum = (codes[k] > 0) == (codes[k + 1] > 0) ? a + b : larger;
        most = sum > most ? sum : most;
    }
    return most;
}

static int32_t largest_within_reach(const int32_t *codes, const struct sum_order *order, int64_t o,
                                    const struct code_reach *reach)
{
    int32_t most = 0;
    for (int64_t k = 0; k < order->count; k += 2) {
        const bool alone = k + 1 == order->count;
        const int32_t sum = pair_sum(codes[k], alone ? 0 : codes[k + 1], reach_at(reach, order, o, k),
                                     alone ? 0 : reach_at(reach, order, o, k + 1));
        most = sum > most ? sum : most;
    }
    return most;
}

void pair_proof_add(struct pair_proof *proof, const int32_t *codes, const struct sum_order *order, int64_t o,
                    const struct code_reach *reach)
{
    int64_t sum = 0, absolute = 0;
    for (int64_t k = 0; k < order->count; k++) {
        sum += codes[k];
        absolute += abs(codes[k]);
    }
    struct pair_proof one = {.channels = 1, .accumulator = 255 * ((absolute + llabs(sum)) / 2)};
    if (!proof->adds_in_32) {
        one.largest = 255 * largest_pair(codes, order->count);
        one.measured = reach && reach->known ? largest_within_reach(codes, order, o, reach) : one.largest;
        one.overflow = one.largest > INT16_MAX;
    }
    pair_proof_merge(proof, &one);
}

void pair_proof_merge(struct pair_proof *proof, const struct pair_proof *other)
{
    proof->channels += other->channels;
    proof->guarded += other->guarded;
    proof->overflow += other->overflow;
    proof->largest = other->largest > proof->largest ? other->largest : proof->largest;
    proof->measured = other->measured > proof->measured ? other->measured : proof->measured;
    proof->accumulator = other->accumulator > proof->accumulator ? other->accumulator : proof->accumulator;
}

/* As exactly as the codes allow: a layer that happens to fit is exact everywhere, whatever it was made for. */
static json_t *exact_on(const struct pair_proof *proof, int isa)
{
    const struct isa_row *row = isa_row(isa);
    if (proof->accumulator > INT32_MAX)
        return json_string("no CPU for certain: a whole sum of products can overflow 32 bits");
    if (proof->adds_in_32)
        return json_string("every CPU: its products are added in 32 bits");
    if (proof->overflow == 0)
        return json_string("every CPU: no sum of two products can overflow 16 bits");
    if (row->pairs && proof->measured <= INT16_MAX)
        return json_sprintf("%s, for activations up to half beyond those measured: no sum of two products can overflow "
                            "16 bits",
                            row->exact_on);
    return json_sprintf("%s; elsewhere sums of two products can overflow 16 bits in %lld of %lld channels",
                        row->exact_on, (long long)proof->overflow, (long long)proof->channels);
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
    json_object_set_new(facts, "int32_sum", json_integer(proof->accumulator));
    json_object_set_new(facts, "int32_sum_share", json_real((double)proof->accumulator / 0x1p31));
    if (proof->guarded)
        json_object_set_new(facts, "pair_guarded_channels", json_integer(proof->guarded));
    json_object_set_new(facts, "exact_on", exact_on(proof, isa));
}
