/* SPDX-License-Identifier: Apache-2.0
 * act_avx2.c - the loops of act.c in vectors of eight with fused multiply-adds. */
#if defined(__x86_64__)
#define ACT_TABLE act_avx2
#define VMATH_TABLE vmath_avx2
#include "core/kernels/act_loops.h"
#endif
