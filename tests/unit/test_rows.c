/* SPDX-License-Identifier: Apache-2.0
 * Rows of floats against loops in double, for lengths around the vectors' edges, on every instruction set here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/kernels/isa.h"
#include "core/kernels/rows.h"

static const enum isa sets[] = {ISA_PORTABLE, ISA_AVX2};
enum { N_SETS = sizeof sets / sizeof sets[0], MOST = 1100 };
static const int lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 49, 64, 100, 197, 1024, MOST};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

static float x[3 * MOST], y[3 * MOST], scale[MOST], bias[MOST];

static void fill(void)
{
    unsigned seed = 5;
    for (int i = 0; i < 3 * MOST; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 4194304.0f - 1.0f + 3;
        scale[i % MOST] = 0.5f + 0.001f * (float)(i % MOST);
        bias[i % MOST] = 1.0f - 0.002f * (float)(i % MOST);
    }
}

static void near(double got, double want, double tolerance, const char *what, int n)
{
    if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want))))
        fail_msg("%s of %d values: %.9g, exactly %.9g", what, n, got, want);
}

static void sums_and_extremes(int n)
{
    double sum = 0, squares = 0;
    float most = x[0], least = x[0];
    for (int i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        most = x[i] > most ? x[i] : most;
        least = x[i] < least ? x[i] : least;
    }
    near((double)row_sum_f32(x, n), sum, 3e-7, "sum", n);
    near((double)row_square_sum_f32(x, n), squares, 3e-7, "sum of squares", n);
    assert_true(row_max_f32(x, n) == most && row_min_f32(x, n) == least);
    for (int at = 0; at < n; at += 1 + n / 5) { /* NaN is seen wherever it stands */
        const float old = x[at];
        x[at] = NAN;
        assert_true(isnan(row_max_f32(x, n)) && isnan(row_min_f32(x, n)));
        x[at] = old;
    }
}

static void softmaxes(int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - 3);
    y[n] = 77;
    near((double)row_exp_sum_f32(x, n, 3, y), sum, 4e-7, "sum of exponentials", n);
    for (int i = 0; i < n; i++)
        near((double)y[i], exp((double)x[i] - 3), 4e-7, "exponential", n);
    row_softmax_f32(x, n, y);
    for (int i = 0; i < n; i++)
        near((double)y[i], exp((double)x[i] - 3) / sum, 4e-7, "softmax", n);
    row_log_softmax_f32(x, n, y);
    for (int i = 0; i < n; i++)
        near((double)y[i], (double)x[i] - 3 - log(sum), 1e-6, "log softmax", n);
    assert_true(y[n] == 77);
    memcpy(y, x, sizeof y);
    row_softmax_f32(y, n, y);
    for (int i = 0; i < n; i++)
        near((double)y[i], exp((double)x[i] - 3) / sum, 4e-7, "softmax in place", n);
}

static void norms(int n, bool rms, bool with_scale, bool with_bias)
{
    const struct row_norm norm = {with_scale ? scale : NULL, with_bias ? bias : NULL, 1e-5, rms};
    double mean = 0, square = 0;
    float got_mean, got_inverse;
    for (int i = 0; i < n && !rms; i++)
        mean += (double)x[i] / n;
    for (int i = 0; i < n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
    const double inverse = 1 / sqrt(square + 1e-5);
    y[n] = 77;
    row_normalize_f32(&norm, x, n, y, &got_mean, &got_inverse);
    assert_true(y[n] == 77);
    near((double)got_mean, mean, 3e-7, "mean", n);
    if (n > 1 || rms)
        near((double)got_inverse, inverse, 2e-6, "inverse deviation", n);
    for (int i = 0; i < n && (n > 2 || rms); i++)
        near((double)y[i], ((double)x[i] - mean) * inverse * (with_scale ? (double)scale[i] : 1) +
                 (with_bias ? (double)bias[i] : 0), 5e-6, "normalized", n);
}

static void rows_equal_the_loops(void **state)
{
    (void)state;
    fill();
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (int l = 0; l < N_LENGTHS; l++) {
            const int n = lengths[l];
            sums_and_extremes(n);
            softmaxes(n);
            for (int k = 0; k < 8; k++)
                norms(n, k & 1, k & 2, k & 4);
            row_add_rows_f32(x, 3, n, y);
            for (int j = 0; j < n; j++)
                near((double)y[j], (double)x[j] + (double)x[n + j] + (double)x[2 * n + j], 3e-7, "column sum", n);
            row_affine_f32(x, n, 1.5f, -0.25f, y);
            for (int j = 0; j < n; j++)
                near((double)y[j], (double)x[j] * 1.5 - 0.25, 2e-7, "affine", n);
        }
    }
    isa_limit(ISA_KINDS);
}

/* The start of a row in memory does not matter. */
static void alignment_does_not_matter(void **state)
{
    static float at[MOST + 16], a[MOST], b[MOST];
    (void)state;
    fill();
    row_softmax_f32(x, MOST, a);
    for (int shift = 0; shift < 16; shift++) {
        memcpy(at + shift, x, sizeof a);
        row_softmax_f32(at + shift, MOST, b);
        assert_memory_equal(a, b, sizeof a);
        assert_true(row_sum_f32(at + shift, MOST) == row_sum_f32(x, MOST));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_loops),
        cmocka_unit_test(alignment_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
