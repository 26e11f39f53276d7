/* SPDX-License-Identifier: Apache-2.0
 * Pools: MaxPool, AveragePool, LpPool over sliding windows of [N, C, D1...Dn], and their Global forms, whose window is the whole image.
 * Sizes      sliding.c: floor or (ceil_mode) ceil; a window starting in the end padding is dropped.
 * Average    count_include_pad chooses the divisor: cells inside image and padding, or inside the image.
 * MaxPool    a second output holds the flat place of each maximum; storage_order 1 counts columns first. int8 and uint8 since opset 12. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/pooling.h"
#include "core/ops/sliding.h"
#include "core/ops/widen.h"

struct pool_attrs {
    struct sliding_attrs s;
    bool ceil_mode, count_include_pad, storage_order;
    int64_t p;
};
struct global_attrs {
    int64_t p;
    float p_float;
};

#define CEIL {OP_ATTR(pool_attrs, ceil_mode), .kind = OP_BOOL}
#define INCLUDE_PAD {OP_ATTR(pool_attrs, count_include_pad), .kind = OP_BOOL}
#define STORAGE {OP_ATTR(pool_attrs, storage_order), .kind = OP_BOOL}
#define NORM {OP_ATTR(pool_attrs, p), .kind = OP_INT, .def = 2}

static const struct op_attr max_1[] = {SLIDING_ATTRS_PLAIN(pool_attrs), {NULL}};
static const struct op_attr max_8[] = {SLIDING_ATTRS_PLAIN(pool_attrs), STORAGE, {NULL}};
static const struct op_attr max_10[] = {SLIDING_ATTRS(pool_attrs), STORAGE, CEIL, {NULL}};
static const struct op_attr average_7[] = {SLIDING_ATTRS_PLAIN(pool_attrs), INCLUDE_PAD, {NULL}};
static const struct op_attr average_10[] = {SLIDING_ATTRS_PLAIN(pool_attrs), INCLUDE_PAD, CEIL, {NULL}};
static const struct op_attr average_19[] = {SLIDING_ATTRS(pool_attrs), INCLUDE_PAD, CEIL, {NULL}};
static const struct op_attr lp_1[] = {SLIDING_ATTRS_PLAIN(pool_attrs),
                                      {.name = "p", .kind = OP_FLOAT, .offset = offsetof(struct global_attrs, p_float), .def_f = 2},
                                      {NULL}};
static const struct op_attr lp_2[] = {SLIDING_ATTRS_PLAIN(pool_attrs), NORM, {NULL}};
static const struct op_attr lp_18[] = {SLIDING_ATTRS(pool_attrs), NORM, CEIL, {NULL}};
