/* SPDX-License-Identifier: Apache-2.0
 * act_tables.h - the loops of every instruction set, between act_loops.h (which makes them) and act.c (which picks). */
#ifndef PARED_KERNELS_ACT_TABLES_H
#define PARED_KERNELS_ACT_TABLES_H

#include "core/kernels/act.h"
#include "core/kernels/vmath.h"

typedef void act_loop(const struct act *act, const float *x, int64_t n, float *y);
typedef void vmath_loop(const float *x, int64_t n, float *y);

extern act_loop *const act_portable[ACT_KINDS], *const act_avx2[ACT_KINDS];
extern vmath_loop *const vmath_portable[VMATH_KINDS], *const vmath_avx2[VMATH_KINDS];

#endif
