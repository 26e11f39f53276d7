/* SPDX-License-Identifier: Apache-2.0
 * block_round.c - block-wise quantization: the portable loops and the choice of the set. */
#define BLOCK_SET block_round_portable
#include "core/kernels/block_round_loops.h"

#include "core/kernels/isa.h"

const struct block_round_set *block_round_best(void)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        return &block_round_avx2;
#endif
    return &block_round_portable;
}
