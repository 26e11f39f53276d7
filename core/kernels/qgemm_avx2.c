/* SPDX-License-Identifier: Apache-2.0
 * qgemm_avx2.c - the panel of qgemm.h for AVX2: vpmaddwd and an addition. */
#if defined(__x86_64__)
#define QGEMM_PANEL qgemm_panel_avx2
#define DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#include "core/kernels/qgemm_tile256.h"
#endif
