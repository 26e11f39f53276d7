/* SPDX-License-Identifier: Apache-2.0
 * gemm_packed_avx2.c - the micro-kernel with six rows of two vectors: twelve sums, two vectors of B, one of A. */
#if defined(__x86_64__)
#define GEMM_SET gemm_set_avx2
#define GEMM_ROWS 6
#include "core/kernels/gemm_packed_loops.h"
#endif
