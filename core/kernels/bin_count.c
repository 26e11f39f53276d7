/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kernels/bin_count.h"

#include <string.h>

#include "core/kernels/isa.h"
#include "core/kernels/simd.h"

enum { FEW = 2048 }; /* numbers for which clearing and adding tables is not worth it */

/* floor(x / width), clamped; what underflows in the product still has its sign in x. */
static int bin_of(float x, float scale, float width)
{
    const float v = x * scale, low = v > (float)-BIN_HALF ? v : (float)-BIN_HALF;
    const int whole = (int)(low < (float)BIN_HALF ? low : (float)BIN_HALF);
    const int bin = BIN_HALF + whole - (x < (float)whole * width);
    return bin < 0 ? 0 : bin < BIN_COUNT ? bin : BIN_COUNT - 1;
}

void bin_count_portable(struct bin_tables *t, const float *x, int n, float width)
{
    for (int i = 0; i < n; i++)
        t->at[i & 3][bin_of(x[i], 1 / width, width)]++;
}

/* One table of 16 bits holds a quarter of BIN_MOST, four together all of it. */
KERNEL_CLONES static void add_tables(const struct bin_tables *t, uint32_t *count)
{
    for (int b = 0; b < BIN_COUNT; b++)
        count[b] += (uint32_t)t->at[0][b] + t->at[1][b] + t->at[2][b] + t->at[3][b];
}

void bin_count_f32(const float *x, int n, float width, uint32_t *count)
{
    struct bin_tables t;
    if (n <= FEW) {
        for (int i = 0; i < n; i++)
            count[bin_of(x[i], 1 / width, width)]++;
        return;
    }
    memset(&t, 0, sizeof t);
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        bin_count_avx2(&t, x, n, width);
    else
#endif
        bin_count_portable(&t, x, n, width);
    add_tables(&t, count);
}
