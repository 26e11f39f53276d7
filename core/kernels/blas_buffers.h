/* SPDX-License-Identifier: Apache-2.0
 * blas_buffers.h - OpenBLAS's work buffers, taken before a process limits its memory.
 * Why        OpenBLAS takes a buffer of some hundred MiB of address space (hardly any of it is ever touched) in the
 * first product of each thread, and when it cannot get one it tries for ever: a job at its memory limit would spin
 * instead of failing. */
#ifndef PARED_KERNELS_BLAS_BUFFERS_H
#define PARED_KERNELS_BLAS_BUFFERS_H

/* Have a buffer ready for each of `threads` threads that multiply at once. Call before any limit is set and before
 * threads start. */
void blas_buffers_reserve(int threads);

#endif
