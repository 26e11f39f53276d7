/* SPDX-License-Identifier: Apache-2.0
 * GPTQ against its definitions: the factor is one of the inverse, the codes of a plain run are those of the textbook
 * loop, and the
 * output error on inputs that were not used falls against round-to-nearest, also with few rows, dead columns, groups
 * and
 * blocks that do not divide the row. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/quant/gptq.h"
#include "core/stats/hessian.h"

#define near(got, want, tolerance)                                                                                     \
    do {                                                                                                               \
        if (!(fabs((got) - (want)) <= (tolerance)))                                                                    \
            fail_msg("%.9g, expected %.9g", (double)(got), (double)(want));                                            \
    } while (0)

/* Inputs with a mean and correlations: x = A z + m, A fixed by the seed, z by the stream. */
struct inputs {
    struct gram_matrix g;
    double *h, *mean;
};

static struct inputs inputs(int64_t groups, int64_t k, int64_t rows, uint64_t stream, int64_t dead)
{
    const int64_t rank = k / 4 + 1;
    double *a = malloc((size_t)(k * rank) * sizeof *a), *x = malloc((size_t)k * sizeof *x),
           *z = malloc((size_t)rank * sizeof *z);
    struct inputs in = {.h = calloc((size_t)(groups * k * k), sizeof *in.h),
                        .mean = calloc((size_t)(groups * k), sizeof *in.mean)};
    for (int64_t group = 0; group < groups; group++) {
        struct rng fixed, r;
        rng_init(&fixed, 99 + (uint64_t)group, 0);
        rng_init(&r, 7, stream * 100 + (uint64_t)group);
        for (int64_t i = 0; i < k * rank; i++)
            a[i] = rng_normal(&fixed) * exp(0.5 * rng_normal(&fixed));
        for (int64_t n = 0; n < rows; n++) {
            for (int64_t j = 0; j < rank; j++)
                z[j] = rng_normal(&r);
            for (int64_t i = 0; i < k; i++) {
                x[i] = 0.3 + 0.5 * rng_normal(&r);
                for (int64_t j = 0; j < rank; j++)
                    x[i] += a[i * rank + j] * z[j] / sqrt((double)rank);
                if (i < dead)
                    x[i] = 0;
            }
            for (int64_t i = 0; i < k; i++)
                for (int64_t j = 0; j < k; j++)
                    in.h[(group * k + i) * k + j] += x[i] * x[j] / (double)rows;
        }
    }
    in.g =
        (struct gram_matrix){.groups = groups, .k = k, .rows = rows, .h = in.h, .mean = in.mean, .mean_abs = in.mean};
    free(a);
    free(x);
    free(z);
    return in;
}

static void inputs_fini(struct inputs *in)
{
    free(in->h);
    free(in->mean);
}

static float *weights(int64_t rows, int64_t k)
{
    struct rng r;
    float *w = malloc((size_t)(rows * k) * sizeof *w);
    rng_init(&r, 5, 0);
    for (int64_t i = 0; i < rows * k; i++)
        w[i] = (float)(0.1 * rng_normal(&r) * exp(0.3 * rng_normal(&r)));
    return w;
}

static struct block_codes codes(const struct block_form *f, int64_t rows)
{
    const size_t blocks = (size_t)(rows * block_count(f));
    return (struct block_codes){malloc((size_t)(rows * f->k)), malloc(blocks * sizeof(float)), malloc(blocks)};
}

static void codes_fini(struct block_codes *c)
{
    free(c->codes);
    free(c->scale);
    free(c->zero);
}

static double error_of(const struct block_form *f, const float *w, int64_t rows, const struct gram_matrix *g,
                       const struct block_codes *c)
{
    float *back = malloc((size_t)(rows * f->k) * sizeof *back);
    block_dequantize(f, c, rows, back);
    const double e = gram_error(NULL, g, w, back, rows);
    free(back);
    return e;
}

static void test_factor(void **state)
{
    (void)state;
    enum { K = 37 };
    struct inputs in = inputs(1, K, 500, 1, 0);
    double u[K * K], damp = 0.01, mean = 0;
    assert_int_equal(hessian_factor(in.h, K, &damp, u, NULL), 0);
    assert_true(damp == 0.01);
    for (int i = 0; i < K; i++)
        mean += in.h[i * K + i] / K;
    for (int i = 0; i < K; i++) /* U^T U (H + damp) = I */
        for (int j = 0; j < K; j++) {
            double sum = 0;
            for (int p = 0; p < K; p++) {
                double utu = 0;
                for (int q = 0; q < K; q++)
                    utu += u[q * K + i] * u[q * K + p];
                sum += utu * (in.h[p * K + j] + (p == j ? damp * mean : 0));
            }
            near(sum, i == j, 1e-9);
            if (j < i)
                assert_true(u[i * K + j] == 0);
        }
    /* a matrix that is not positive definite: damped until it is; one that is not finite: refused */
    in.h[0] = 1e-6;
    in.h[1] = in.h[K] = 1;
    assert_int_equal(hessian_factor(in.h, K, &damp, u, NULL), 0);
    assert_true(damp > 0.01);
    struct err err = {0};
    in.h[5] = NAN;
    in.h[0] = NAN;
    damp = 0.01;
    assert_int_equal(hessian_factor(in.h, K, &damp, u, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    inputs_fini(&in);
}

/* The loop of the paper, with a full update of all columns after each. */
static void textbook(const struct block_form *f, const float *w, const double *h, double damp, uint8_t *out)
{
    const int64_t k = f->k;
    double *u = malloc((size_t)(k * k) * sizeof *u), *x = malloc((size_t)k * sizeof *x);
    float block[64], scale = 1;
    uint8_t zero = 0, byte[64];
    assert_int_equal(hessian_factor(h, k, &damp, u, NULL), 0);
    for (int64_t i = 0; i < k; i++)
        x[i] = (double)w[i];
    for (int64_t i = 0; i < k; i++) {
        if (i % f->block == 0) {
            const int64_t n = k - i < f->block ? k - i : f->block;
            for (int64_t j = 0; j < n; j++)
                block[j] = (float)x[i + j];
            block_rtn(&(struct block_form){.bits = f->bits, .k = n, .block = n, .symmetric = f->symmetric}, block, 1,
                      &(struct block_codes){byte, &scale, &zero});
        }
        double code = nearbyint(x[i] / (double)scale) + zero;
        code = code < 0 ? 0 : code > (1 << f->bits) - 1 ? (1 << f->bits) - 1 : code;
        out[i] = (uint8_t)code;
        const double e = (x[i] - (double)((float)(code - zero) * scale)) / u[i * k + i];
        for (int64_t j = i; j < k; j++)
            x[j] -= e * u[i * k + j];
    }
    free(u);
    free(x);
}

static void test_textbook(void **state)
{
    (void)state;
    const struct block_form forms[] = {{4, 200, 32, false}, {4, 200, 16, true}, {3, 150, 64, false}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const struct block_form *f = &forms[i];
        enum { ROWS = 40 };
        struct inputs in = inputs(1, f->k, 2000, 1, 0);
        float *w = weights(ROWS, f->k);
        struct block_codes got = codes(f, ROWS);
        struct gptq_report report;
        const struct gptq_opts o = {.plain_scale = true, .sweeps = -1, .in_order = true};
        uint8_t want[200];
        int same = 0, kept = 0;
        assert_int_equal(gptq_quantize(f, w, ROWS, &in.g, &o, &got, &report, NULL), 0);
        for (int r = 0; r < ROWS; r++) {
            textbook(f, w + r * f->k, in.h, 0.01, want);
            same += !memcmp(want, got.codes + r * f->k, (size_t)f->k);
        }
        kept = (int)report.kept_rtn;
        assert_in_range(same + kept, ROWS - 1, ROWS + kept); /* a tie of rounding may fall either way once */
        codes_fini(&got);
        free(w);
        inputs_fini(&in);
    }
}

struct gain_case {
    struct block_form f;
    int64_t groups, rows, samples, dead;
    double most; /* error on other inputs, as a share of round-to-nearest's */
};

static void test_gain(void **state)
{
    (void)state;
    const struct gain_case cases[] = {
        {{4, 128, 32, false}, 1, 48, 4000, 0, 0.6},   {{4, 128, 32, true}, 1, 48, 4000, 0, 0.6},
        {{4, 100, 32, false}, 1, 33, 4000, 0, 0.6},   {{2, 128, 32, false}, 1, 48, 4000, 0, 0.6},
        {{8, 128, 128, true}, 1, 48, 4000, 0, 0.8},   {{4, 27, 27, true}, 3, 12, 4000, 0, 0.7},
        {{4, 300, 128, false}, 1, 20, 4000, 30, 0.6}, {{4, 128, 32, false}, 1, 48, 40, 0, 0.98},
        {{4, 128, 32, false}, 1, 48, 1, 0, 1.05},     {{4, 128, 32, false, DTYPE_FLOAT16}, 1, 48, 4000, 0, 0.6},
        {{4, 9, 16, false}, 6, 6, 4000, 0, 0.8},
    };
    const struct gptq_opts opts[] = {{.plain_scale = true, .sweeps = -1, .in_order = true},
                                     {.sweeps = -1, .in_order = true},
                                     {.plain_scale = true},
                                     {.in_order = true},
                                     {0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct gain_case *p = &cases[i];
        struct inputs in = inputs(p->groups, p->f.k, p->samples, 1, p->dead),
                      other = inputs(p->groups, p->f.k, 4000, 2, p->dead);
        float *w = weights(p->rows, p->f.k);
        struct block_codes q = codes(&p->f, p->rows);
        block_rtn(&p->f, w, p->rows, &q);
        const double rtn = error_of(&p->f, w, p->rows, &other.g, &q), rtn_here = error_of(&p->f, w, p->rows, &in.g, &q);
        for (size_t j = 0; j < sizeof opts / sizeof *opts; j++) {
            struct gptq_report report;
            assert_int_equal(gptq_quantize(&p->f, w, p->rows, &in.g, &opts[j], &q, &report, NULL), 0);
            const double got = error_of(&p->f, w, p->rows, &other.g, &q);
            near(report.rtn_error, rtn_here, 1e-9 * rtn_here);
            near(report.error, error_of(&p->f, w, p->rows, &in.g, &q), 1e-9 * rtn_here);
            assert_true(report.error <= report.rtn_error);
            for (int64_t b = 0; b < p->rows * block_count(&p->f); b++)
                assert_true(q.scale[b] == block_scale_stored(&p->f, q.scale[b]));
            assert_int_equal(report.dead, p->dead);
            assert_int_equal(report.few_rows, p->samples < p->f.k);
            if (getenv("V"))
                print_message("case %zu opts %zu: here %.3f, elsewhere %.3f, damp %g\n", i, j, report.error / rtn_here,
                              got / rtn, report.damp);
            if (j >= 3 && got > p->most * rtn)
                fail_msg(
                    "case %zu, options %zu: error %.3f of round-to-nearest's on other inputs, at most %.3f expected", i,
                    j, got / rtn, p->most);
        }
        codes_fini(&q);
        free(w);
        inputs_fini(&in);
        inputs_fini(&other);
    }
}

static void test_threads(void **state)
{
    (void)state;
    const struct block_form f = {4, 100, 32, false};
    struct pool *pool = pool_new(3);
    struct inputs in = inputs(1, f.k, 300, 1, 0);
    float *w = weights(90, f.k);
    struct block_codes a = codes(&f, 90), b = codes(&f, 90);
    assert_int_equal(gptq_quantize(&f, w, 90, &in.g, &(struct gptq_opts){0}, &a, NULL, NULL), 0);
    assert_int_equal(gptq_quantize(&f, w, 90, &in.g, &(struct gptq_opts){.pool = pool}, &b, NULL, NULL), 0);
    assert_memory_equal(a.codes, b.codes, 90 * 100);
    assert_memory_equal(a.scale, b.scale, 90 * 4 * sizeof(float));
    assert_memory_equal(a.zero, b.zero, 90 * 4);
    codes_fini(&a);
    codes_fini(&b);
    free(w);
    inputs_fini(&in);
    pool_free(pool);
}

/* Weights of zero, tiny and equal ones keep finite scales and come back. */
static void test_odd_weights(void **state)
{
    (void)state;
    const struct block_form forms[] = {
        {4, 40, 16, false}, {4, 40, 16, true}, {8, 40, 40, true}, {4, 40, 16, false, DTYPE_FLOAT16}};
    struct inputs in = inputs(1, 40, 300, 1, 0);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        float w[3 * 40] = {0};
        for (int k = 0; k < 40; k++) {
            w[40 + k] = 1e-30f * (float)(k - 20);
            w[80 + k] = 0.5f;
        }
        struct block_codes q = codes(&forms[i], 3);
        float back[3 * 40];
        assert_int_equal(gptq_quantize(&forms[i], w, 3, &in.g, &(struct gptq_opts){0}, &q, NULL, NULL), 0);
        block_dequantize(&forms[i], &q, 3, back);
        for (int k = 0; k < 120; k++) {
            assert_true(isfinite(back[k]));
            near((double)back[k], (double)w[k], k < 40 ? 0 : k < 80 ? 3e-29 : 0.04);
        }
        codes_fini(&q);
    }
    inputs_fini(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_factor), cmocka_unit_test(test_textbook),
                                       cmocka_unit_test(test_gain), cmocka_unit_test(test_threads),
                                       cmocka_unit_test(test_odd_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
