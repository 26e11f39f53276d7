/* SPDX-License-Identifier: Apache-2.0
 * A buffer that OpenBLAS has taken once stays in its table and is handed out again. So all are taken at once, then
 * given back. The two functions are not in its headers; they are weak here, so that another BLAS links as well (and
 * needs nothing of this). */
#include "core/kernels/blas_buffers.h"

#include <stddef.h>

void *blas_memory_alloc(int unused) __attribute__((weak));
void blas_memory_free(void *buffer) __attribute__((weak));

enum { MAX_BUFFERS = 64 }; /* OpenBLAS in Debian keeps at least as many */

void blas_buffers_reserve(int threads)
{
    void *buffers[MAX_BUFFERS];
    int count = threads < MAX_BUFFERS ? threads : MAX_BUFFERS;
    if (!blas_memory_alloc || !blas_memory_free)
        return;
    for (int i = 0; i < count; i++)
        buffers[i] = blas_memory_alloc(0);
    for (int i = 0; i < count; i++)
        if (buffers[i])
            blas_memory_free(buffers[i]);
}
