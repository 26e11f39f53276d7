/* SPDX-License-Identifier: Apache-2.0
 * block_round_avx2.c - the loops of block_round.h for AVX2. */
#if defined(__x86_64__)
#define BLOCK_SET block_round_avx2
#include "core/kernels/block_round_loops.h"
#endif
