/* SPDX-License-Identifier: Apache-2.0
 * rows_avx2.c - the loops of rows.h in vectors of eight with fused multiply-adds. */
#if defined(__x86_64__)
#define ROW_SET row_set_avx2
#include "core/kernels/rows_loops.h"
#endif
