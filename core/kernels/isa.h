/* SPDX-License-Identifier: Apache-2.0
 * isa.h - which instruction sets a kernel may use. A kernel of a set stands in a file of its own, <kernel>_<set>.c,
 * which the Makefile compiles for that set; the caller asks here once a call and takes the best it has a kernel for.
 * Tests      isa_limit runs the lower paths on a better machine. PARED_ISA=portable|avx2|avxvnni|avx512|avx512vnni in
 *            the environment is the same limit for a whole process. */
#ifndef PARED_KERNELS_ISA_H
#define PARED_KERNELS_ISA_H

#include <stdbool.h>

enum isa {
    ISA_PORTABLE,
    ISA_AVX2,      /* with FMA and F16C */
    ISA_AVXVNNI,   /* AVX2 and the 256-bit dot products */
    ISA_AVX512,    /* F, BW, VL, DQ */
    ISA_AVX512VNNI,
    ISA_KINDS
};

/* This CPU and system run it, and no limit forbids it. Cheap. AVX512 does not imply AVX-VNNI nor the other way round. */
bool isa_has(enum isa isa);
/* Forbid every set but the portable path and those `isa` builds on (itself too). For tests; ISA_KINDS: no limit. */
void isa_limit(enum isa isa);
const char *isa_name(enum isa isa);

#endif
