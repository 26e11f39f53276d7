/* SPDX-License-Identifier: Apache-2.0
 * Dot products with weights of 4 and 8 bits against sums in double, on every instruction set this machine has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/kernels/isa.h"
#include "core/kernels/matmul_nbits.h"

enum { MOST_K = 1100, MOST_BLOCKS = 80 };

static void check(int bits, int64_t block, int64_t k, unsigned seed)
{
    static uint8_t codes[2 * MOST_K + 512];
    static float a[MOST_K], scales[MOST_BLOCKS], zeros[MOST_BLOCKS], prepared[4 * MOST_K];
    const int64_t blocks = (k + block - 1) / block, blob = block * bits / 8;
    int64_t count;
    double sum = 0, size = 1;
    assert_true(blocks <= MOST_BLOCKS && nbits_prepared_count(k, block, &count) && count <= 4 * MOST_K);
    srand(seed);
    for (int64_t i = 0; i < blocks * blob; i++)
        codes[i] = (uint8_t)rand();
    for (int64_t i = 0; i < k; i++)
        a[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (int64_t b = 0; b < blocks; b++) {
        scales[b] = 0.01f + (float)rand() / (float)RAND_MAX;
        zeros[b] = (float)(rand() % (1 << bits));
    }
    for (int64_t i = 0; i < k; i++) {
        const int64_t b = i / block, j = i % block;
        const uint8_t byte = codes[b * blob + j * bits / 8];
        const int q = bits == 8 ? byte : j % 2 ? byte >> 4 : byte & 15;
        const double term = (double)a[i] * ((double)q - (double)zeros[b]) * (double)scales[b];
        sum += term;
        size += fabs((double)a[i] * (double)scales[b]) * ((double)q + (double)zeros[b]);
    }
    for (int64_t b = 0; b < blocks; b++) { /* unpacked: the same weights */
        static float w[MOST_K];
        const int64_t n = k - b * block < block ? k - b * block : block;
        nbits_unpack(bits, codes + b * blob, n, zeros[b], scales[b], w);
        for (int64_t j = 0; j < n; j++) {
            const uint8_t byte = codes[b * blob + j * bits / 8];
            const int q = bits == 8 ? byte : j % 2 ? byte >> 4 : byte & 15;
            assert_true(w[j] == ((float)q - zeros[b]) * scales[b]);
        }
    }
    const struct nbits_row row = {bits, blocks, block, codes, scales, zeros};
    nbits_prepare(bits, k, block, a, prepared);
    const double got = (double)nbits_dot(&row, prepared);
    if (!(fabs(got - sum) <= 1e-6 * size))
        fail_msg("%d bits, blocks of %d, %d values: %.9g, exactly %.9g", bits, (int)block, (int)k, got, sum);
}

static void dots_equal_the_sums(void **state)
{
    static const enum isa sets[] = {ISA_PORTABLE, ISA_AVX2};
    static const int64_t blocks[] = {16, 32, 64, 128, 256}, ks[] = {1, 15, 16, 17, 31, 64, 100, 257, 1024, MOST_K};
    (void)state;
    for (size_t s = 0; s < sizeof sets / sizeof sets[0]; s++) {
        isa_limit(sets[s]);
        for (int bits = 4; bits <= 8; bits += 4)
            for (size_t b = 0; b < sizeof blocks / sizeof blocks[0]; b++)
                for (size_t k = 0; k < sizeof ks / sizeof ks[0]; k++)
                    check(bits, blocks[b], ks[k], (unsigned)(b * 100 + k));
    }
    isa_limit(ISA_KINDS);
}

static void counts_do_not_overflow(void **state)
{
    int64_t count;
    (void)state;
    assert_true(nbits_prepared_count(40, 16, &count));
    assert_int_equal(count, 3 * 17);
    assert_false(nbits_prepared_count(INT64_MAX - 100, 16, &count));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dots_equal_the_sums),
        cmocka_unit_test(counts_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
