/* SPDX-License-Identifier: Apache-2.0
 * Searches for scale and zero point: never worse than round to nearest, clearly better on the whole, the same bits
 * on every instruction set. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/kernels/isa.h"
#include "core/quant/hqq.h"
#include "core/quant/kquant.h"

enum { ROWS = 40, K = 200, N = ROWS * K };

struct codes {
    uint8_t codes[N], zero[N];
    float scale[N];
};
static struct block_codes of(struct codes *c)
{
    return (struct block_codes){c->codes, c->scale, c->zero};
}

/* Normal by the sum of twelve, with some outliers; one row of zeros, one constant. */
static void fill(float *w)
{
    struct rng rng;
    rng_init(&rng, 11, 2);
    for (int i = 0; i < N; i++) {
        double s = -6;
        for (int j = 0; j < 12; j++)
            s += rng_uniform(&rng);
        w[i] = (float)(s * (i % 97 == 0 ? 0.2 : 0.05));
        if (i / K == 1)
            w[i] = 0;
        if (i / K == 2)
            w[i] = 0.37f;
    }
}

static double error_of(const struct block_form *f, const struct codes *c, const float *w, int64_t row, int64_t block,
                       bool weighted)
{
    double sum = 0, square = 0;
    const int64_t at = row * block_count(f) + block, first = block * f->block,
                  end = first + f->block < K ? first + f->block : K;
    for (int64_t i = first; i < end; i++)
        square += (double)w[row * K + i] * (double)w[row * K + i];
    for (int64_t i = first; i < end; i++) {
        const double x = (double)w[row * K + i], e = x - (c->codes[row * K + i] - c->zero[at]) * (double)c->scale[at];
        sum += e * e * (weighted ? sqrt(square / (double)(end - first)) + fabs(x) : 1);
    }
    return sum;
}

static double signal_of(const float *w, int64_t row, int64_t first, int64_t block)
{
    double sum = 0;
    for (int64_t i = first; i < first + block && i < K; i++)
        sum += (double)w[row * K + i] * (double)w[row * K + i];
    return sum;
}

static void test_better(void **state)
{
    (void)state;
    static float w[N];
    static struct codes rtn, got, other;
    const struct {
        block_algorithm *run;
        bool weighted;
        double gain; /* of the whole error at 4 bits, at least */
    } algorithms[] = {{block_hqq, false, 0.93}, {block_kquant, true, 0.95}};
    fill(w);
    for (size_t a = 0; a < 2; a++)
        for (int bits = 2; bits <= 8; bits++)
            for (int i = 0; i < 6; i++) {
                const struct block_form f = {.bits = bits, .k = K, .block = 32 << i / 2, .symmetric = i % 2};
                struct block_codes q = of(&rtn), best = of(&got), again = of(&other);
                double sum = 0, base = 0;
                block_rtn(&f, w, ROWS, &q);
                isa_limit(ISA_PORTABLE);
                algorithms[a].run(&f, w, ROWS, &best);
                isa_limit(ISA_KINDS);
                algorithms[a].run(&f, w, ROWS, &again);
                assert_memory_equal(got.codes, other.codes, N);
                assert_memory_equal(got.scale, other.scale, (size_t)(ROWS * block_count(&f)) * sizeof(float));
                assert_memory_equal(got.zero, other.zero, (size_t)(ROWS * block_count(&f)));
                for (int64_t r = 0; r < ROWS; r++)
                    for (int64_t b = 0; b < block_count(&f); b++) {
                        const double was = error_of(&f, &rtn, w, r, b, algorithms[a].weighted),
                                     is = error_of(&f, &got, w, r, b, algorithms[a].weighted);
                        assert_true(is <= was + 1e-6 * signal_of(w, r, b * f.block, f.block)); /* sums are float32 */
                        if (f.symmetric)
                            assert_int_equal(got.zero[r * block_count(&f) + b], 1 << (bits - 1));
                        sum += is;
                        base += was;
                    }
                assert_true(sum < base);
                if (bits == 4)
                    assert_true(sum < base * algorithms[a].gain);
                for (int64_t k = 0; k < K; k++) /* the row of zeros */
                    assert_int_equal(got.codes[K + k], got.zero[block_count(&f)]);
            }
}

/* Numbers that already lie on a grid come out as they are. */
static void test_exact(void **state)
{
    (void)state;
    static float w[N];
    static struct codes got;
    struct rng rng;
    rng_init(&rng, 5, 5);
    for (int i = 0; i < N; i++)
        w[i] = 0.25f * (float)((int)(rng_uniform(&rng) * 16) - 8);
    for (int64_t b = 0; b < ROWS * K; b += K)
        for (int64_t i = 0; i < K; i += 32) { /* each block has both ends */
            w[b + i] = -2;
            w[b + i + 1] = 1.75f;
        }
    block_algorithm *const run[] = {block_rtn, block_hqq, block_kquant};
    for (int a = 0; a < 3; a++)
        for (int sym = 0; sym < 2; sym++) {
            const struct block_form f = {.bits = 4, .k = K, .block = 32, .symmetric = sym};
            const struct block_codes q = of(&got);
            double signal = 0, noise = 0;
            run[a](&f, w, ROWS, &q);
            block_error(&f, &q, w, ROWS, &signal, &noise);
            assert_true(noise <= 1e-10 * signal);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_better), cmocka_unit_test(test_exact)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
