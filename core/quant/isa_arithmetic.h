/* SPDX-License-Identifier: Apache-2.0
 * isa_arithmetic.h - how CPUs multiply 8-bit activations by 8-bit weights, and which of them compute a quantized layer exactly:
 * the rows behind the parameter `isa`.
 * Problem    x86 without VNNI (SSE4.1, AVX2, AVX-512 before Cascade Lake) multiplies unsigned activations by signed weights with
 *            vpmaddubsw: two neighbouring products are added in int16, and a sum beyond it saturates. 255 * 127 * 2 = 64770 does,
 *            and nobody is told. Everything else here adds in int32: vpdpbusd (VNNI), the Arm dot products, unsigned by
 *            unsigned (vpmaddwd on widened bytes), depthwise kernels. Arm without dot products adds two signed products in int16
 *            (smull, smlal), which fits because a weight is never -128: 2 * 128 * 127 = 32512.
 * Signs      x86 runtimes turn int8 activations into uint8 (code + 128, zero point + 128), so reach is told in unsigned codes.
 * Proof      weights are constant and codes of activations are bounded, so the largest sum a pair can reach is known here.
 * Sources    ONNX Runtime's kernel choice by CPU (MLAS), Intel's and Arm's instruction references. */
#ifndef PARED_QUANT_ISA_ARITHMETIC_H
#define PARED_QUANT_ISA_ARITHMETIC_H

#include <jansson.h>

#include "core/stats/channel_ranges.h"

enum isa { ISA_PORTABLE, ISA_VNNI, ISA_AVX2, ISA_ARM, ISAS };

struct isa_row {
    const char *name;
    bool pairs;             /* CPUs that add pairs in int16 are among those meant: their sums must fit */
    bool measured;          /* activations are taken to reach the codes measured, with some room, instead of all */
    enum dtype activations; /* the type its fastest kernels take */
    const char *exact_on;   /* where a file made for it computes exactly, as far as the row promises: for the report */
};
const struct isa_row *isa_row(int isa);
/* For the parameter table: choices, and its sentence. */
extern const char *const isa_names[];
#define ISA_DOC                                                                                                        \
    "the CPUs that are to run the file. portable: exact on every CPU, also where two neighbouring 8-bit products are " \
    "added in 16 bits: weights of channels whose sums could overflow are made a little smaller; avx2: the same, but "  \
    "only where sums can overflow at the activations measured, with half as much again for room; vnni: full 8-bit "    \
    "weights for x86 with VNNI or AMX; arm: full 8-bit weights, and int8 activations unless told otherwise, which "    \
    "the dot product kernels of Arm prefer"

/* How far the codes of a layer's activations reach, as unsigned bytes (int8: + 128). All zero: to 255. Only the upper end
 * matters: the sum of a pair is largest in absolute value where both codes are. */
struct code_reach {
    bool known;
    uint8_t most;     /* of all */
    uint8_t *channel; /* [channels] of the input, or NULL */
    int64_t channels;
};
/* From the ranges seen of an activation that is quantized to round(x / scale) + zero, of which `lowest` is the lowest code.
 * Room is left beyond the largest number: half of the channel's width, at least an eighth of the widest channel's. What goes
 * further than that saturates by the little it is beyond. */
int code_reach_make(struct code_reach *reach, const struct channel_extent *seen, double scale, int32_t zero,
                    int32_t lowest, struct err *err);
void code_reach_fini(struct code_reach *reach);

/* Where the elements of an output channel stand: base + offset[k], k in the order of summation: kernel positions
 * outermost, input channels innermost (the runtimes' channels-last im2col); a matrix has but one. Pairs are (0, 1), (2,
 * 3), ... */
struct sum_order {
    int64_t channels, count, stride; /* output channel o begins at o * stride */
    int64_t inner;                   /* input channels: k % inner is the place within those of o's group */
    int64_t *offset;
};
/* axis: of the output channels; -1: the weight is one channel. */
int sum_order_make(struct sum_order *order, const struct shape *shape, int axis, struct err *err);
void sum_order_fini(struct sum_order *order);

/* The largest activation code at place k of output channel o. */
int32_t reach_at(const struct code_reach *reach, const struct sum_order *order, int64_t o, int64_t k);

/* Codes of one output channel, within -qmax..qmax. steps: its weights in the order of summation, divided by the scale.
 * pairs: sums are kept within int16 for the reach: the code whose squared error grows least gives way. given_up (counts
 * such pairs) may be NULL. Returns the sum of squared errors in steps. */
struct pair_opts {
    const struct code_reach *reach;
    int32_t qmax;
    bool pairs;
};
double pair_codes(const double *steps, const struct sum_order *order, int64_t o, const struct pair_opts *opts,
                  int32_t *codes, int64_t *given_up);
/* The scale from which on no sum of o's pairs overflows before rounding; 0: it has none of one sign. w: in the order of
 * summation. */
double pair_scale(const float *w, const struct sum_order *order, int64_t o, const struct code_reach *reach);

/* What holds of a layer's codes. */
struct pair_proof {
    bool adds_in_32;           /* unsigned weights or a depthwise convolution: there are no sums of pairs */
    int64_t channels, guarded; /* guarded: channels whose codes are other than without pairs in mind */
    int64_t overflow;          /* channels with a pair that overflows for some activation codes 0..255 */
    int32_t largest;           /* sum of a pair in absolute value, for activation codes 0..255 */
    int32_t measured;          /* the same for the codes within reach */
    int64_t accumulator;       /* largest absolute sum of a whole channel, without its bias */
};
/* Adds one channel; adds what was found of other channels of the same layer. */
void pair_proof_add(struct pair_proof *proof, const int32_t *codes, const struct sum_order *order, int64_t o,
                    const struct code_reach *reach);
void pair_proof_merge(struct pair_proof *proof, const struct pair_proof *other);
/* Adds to a layer's facts: "pair_sum" (and "pair_sum_measured"), "int32_sum" (accumulator) and its share of 2^31,
 * "pair_guarded_channels", "exact_on". */
void pair_proof_report(json_t *facts, const struct pair_proof *proof, int isa);

#endif
