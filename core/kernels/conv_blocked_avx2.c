/* SPDX-License-Identifier: Apache-2.0
 * conv_blocked_avx2.c - the AVX2 and FMA instance of the blocked kernels' loops. */
#include <math.h>

#include "core/kernels/conv_row_loops.h"
#include "core/kernels/conv_tile_loops.h"
#include "core/kernels/conv_winograd_loops.h"

const struct conv_blocked_kernels conv_blocked_avx2 = {
    .pointwise = TILE_TABLE(pointwise),
    .indirect = TILE_TABLE(indirect),
    .first = TILE_TABLE(first),
    .depthwise_row = depthwise_row,
    .winograd_input = winograd_input,
    .winograd_output = winograd_output,
    .pool_row = pool_row,
    .global_average = global_average,
    .to_block = to_block,
    .from_block = from_block,
};
