/* SPDX-License-Identifier: Apache-2.0
 * order_keys.h - any numeric dtype as unsigned keys that compare like the values, so that sorting is written once.
 * NaN sorts behind everything, -0 equals +0. */
#ifndef PARED_OPS_ORDER_KEYS_H
#define PARED_OPS_ORDER_KEYS_H

#include "core/ops/op_util.h"

/* Scratch with one key an element; NULL on error. Numbers and bool only. */
uint64_t *order_keys(struct run_ctx *c, const struct tensor *t, struct err *err);

#endif
