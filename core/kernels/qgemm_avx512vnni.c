/* SPDX-License-Identifier: Apache-2.0
 * qgemm_avx512vnni.c - the panel of qgemm.h for AVX512-VNNI, in 256-bit vectors: the same registers and the same
 * order, vpdpwssd in its EVEX form. */
#if defined(__x86_64__)
#define QGEMM_PANEL qgemm_panel_avx512vnni
#define DOT(sum, a, b) _mm256_dpwssd_epi32(sum, a, b)
#include "core/kernels/qgemm_tile256.h"
#endif
