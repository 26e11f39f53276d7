/* SPDX-License-Identifier: Apache-2.0
 * qgemm_avxvnni.c - the panel of qgemm.h for AVX-VNNI: vpdpwssd does the multiplication and the addition. */
#if defined(__x86_64__)
#define QGEMM_PANEL qgemm_panel_avxvnni
#define DOT(sum, a, b) _mm256_dpwssd_avx_epi32(sum, a, b)
#include "core/kernels/qgemm_tile256.h"
#endif
