/* SPDX-License-Identifier: Apache-2.0
 * simd.h - wide vectors for plain loops. A function marked KERNEL_CLONES is compiled for AVX2 and for the baseline;
 * the loader picks one. No clone may fuse multiplications and additions (-ffp-contract=off and no "fma" here), so
 * every clone gives the same bits. */
#ifndef PARED_KERNELS_SIMD_H
#define PARED_KERNELS_SIMD_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&             \
    !defined(__SANITIZE_THREAD__)
#define KERNEL_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define KERNEL_CLONES
#endif

#endif
