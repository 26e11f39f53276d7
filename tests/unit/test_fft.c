/* SPDX-License-Identifier: Apache-2.0
 * The Fourier transform against its definition, for lengths that are powers of two, primes and products. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/kernels/fft.h"

static void naive(int64_t n, bool inverse, const double *x, double *y)
{
    for (int64_t k = 0; k < n; k++) {
        y[2 * k] = y[2 * k + 1] = 0;
        for (int64_t j = 0; j < n; j++) {
            const double angle = (inverse ? 2 : -2) * M_PI * (double)(j * k % n) / (double)n;
            y[2 * k] += x[2 * j] * cos(angle) - x[2 * j + 1] * sin(angle);
            y[2 * k + 1] += x[2 * j] * sin(angle) + x[2 * j + 1] * cos(angle);
        }
    }
}

static void agrees_with_the_definition(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 31, 32, 45, 64, 97, 100, 128, 210, 251, 256};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const int64_t n = lengths[i];
        struct fft_plan plan;
        struct rng rng;
        size_t tables;
        assert_true(fft_plan_doubles(n, &tables));
        double *memory = calloc(tables + 1, sizeof *memory), *x = calloc((size_t)n * 2, sizeof *x);
        double *want = calloc((size_t)n * 2, sizeof *want), *start = calloc((size_t)n * 2, sizeof *start);
        fft_plan_init(&plan, n, memory);
        double *scratch = calloc(fft_scratch_doubles(&plan) + 1, sizeof *scratch);
        rng_init(&rng, (uint64_t)n, 0);
        for (int64_t j = 0; j < 2 * n; j++)
            start[j] = rng_normal(&rng);
        for (int inverse = 0; inverse < 2; inverse++) {
            memcpy(x, start, (size_t)n * 2 * sizeof *x);
            naive(n, inverse, start, want);
            fft_run(&plan, inverse, x, scratch);
            for (int64_t j = 0; j < 2 * n; j++)
                if (!(fabs(x[j] - want[j]) < 1e-11 * sqrt((double)n)))
                    fail_msg("length %d, number %d: %.17g, expected %.17g", (int)n, (int)j, x[j], want[j]);
        }
        free(scratch);
        free(start);
        free(want);
        free(x);
        free(memory);
    }
}

static void impossible_lengths(void **state)
{
    (void)state;
    size_t n;
    assert_false(fft_plan_doubles(0, &n));
    assert_false(fft_plan_doubles(-1, &n));
    assert_false(fft_plan_doubles(INT64_MAX, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_the_definition),
                                       cmocka_unit_test(impossible_lengths)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
